"""What a saved ResNet-50 weighs and how fast it loads, beside torch's own way. About two minutes.

    python -m benchmarks.saving [rounds]

ResNet-50 is cut to half of its MACs. The folder's size is compared with its parameters' bytes (goal: 1.02 times).
Loading is timed in new processes, in turn, on warm files, after the imports. In each, the clock runs once for
`prunus.load` (hashes checked), or for torch's way: build the small network's layers at their sizes, `torch.load` with
`weights_only=True`, `load_state_dict` (goal: within 1.3 times of it); last, torch without the building.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision

import prunus
from benchmarks.half import half_of, write_widths

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 9

SCRIPT = """
import sys, time
from pathlib import Path
import torch, torchvision, prunus.deploy.saving
from benchmarks.half import rebuilt
torch.set_num_threads(1)
way, folder = sys.argv[1], Path(sys.argv[2])
start = middle = time.perf_counter()
if way == "prunus":
    prunus.load(folder / "small", torchvision.models.resnet50)
else:
    model = rebuilt(folder / "widths.json")
    middle = time.perf_counter()
    model.load_state_dict(torch.load(folder / "plain.pt", weights_only=True))
end = time.perf_counter()
print(end - start, end - middle)
"""


def timed(way: str, folder: Path) -> tuple[float, float]:
    """Seconds in a new process: of all of it, and without building the network."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, way, str(folder)], capture_output=True, text=True, check=True)
    whole, loading = map(float, done.stdout.split())
    return whole, loading


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = half_of(torchvision.models.resnet50().eval())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prunus.save(small, folder / "small")
        torch.save(small.state_dict(), folder / "plain.pt")
        write_widths(small, folder / "widths.json")
        size = sum(file.stat().st_size for file in (folder / "small").iterdir())
        parameters = sum(p.numel() * p.element_size() for p in small.parameters())
        rounds = [(timed("prunus", folder)[0], *timed("torch", folder)) for _ in range(ROUNDS)]
    ratio = size / parameters
    ours, theirs, loading = (statistics.median(column) for column in zip(*rounds, strict=True))
    times = statistics.median(a / b for a, b, _ in rounds)
    print(f"folder {size:,} bytes, parameters {parameters:,} bytes: {ratio:.4f} times (goal 1.02)")
    print(f"prunus.load {ours:.3f} s, torch {theirs:.3f} s: {times:.2f} times (goal 1.3)")
    print(f"torch without building the network {loading:.3f} s: {ours / loading:.2f} times")
    sys.exit(ratio > 1.02 or times > 1.3)


if __name__ == "__main__":
    main()
