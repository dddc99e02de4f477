"""What a saved ResNet-50 weighs and how fast it loads, beside torch's own way. About three minutes.

    python -m benchmarks.saving [rounds]

ResNet-50 is cut to half of its MACs. The folder's size is compared with its parameters' bytes (goal: 1.02 times).
Loading is timed in new processes, in turn, on warm files. In each there is no network at first, and in the end one with
the same weights:

* ``prunus.load(folder, torchvision.models.resnet50)``, hashes checked (goal: within 1.3 times of the next);
* ``model.load_state_dict(load_file(path))`` into the small network, written by hand and built as torch builds it;
* the same where the user knows torch well: built on the meta device, ``assign=True``, nothing copied, nothing checked.

Each is told without the imports and with them (torch, torchvision, and prunus or safetensors); last, what
``load_state_dict`` takes by itself, where the network is there already. What the imports left is taken from the garbage
collector first: whether a collection of it falls into the timed part is chance, and lasts longer than that part.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file

import prunus
from benchmarks.half import half_of
from benchmarks.plain_resnet import write_widths

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 9

SCRIPT = """
import sys, time
begin = time.perf_counter()
import gc
from pathlib import Path
import torch, torchvision
way, folder = sys.argv[1], Path(sys.argv[2])
if way == "prunus":
    import prunus
    load = prunus.load
else:
    from safetensors.torch import load_file
    from benchmarks.plain_resnet import rebuilt
torch.set_num_threads(1)
imported = time.perf_counter()
gc.freeze()
start = middle = time.perf_counter()
if way == "prunus":
    load(folder / "small", torchvision.models.resnet50)
else:
    with torch.device("cpu" if way == "torch" else "meta"):
        model = rebuilt(folder / "widths.json")
    middle = time.perf_counter()
    model.load_state_dict(load_file(folder / "plain.safetensors"), assign=way != "torch")
end = time.perf_counter()
print(end - start, end - start + imported - begin, end - middle)
"""


def timed(way: str, folder: Path) -> list[float]:
    """Seconds in a new process: of loading, with the imports, and without building the network."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, way, str(folder)], capture_output=True, text=True, check=True)
    return [float(text) for text in done.stdout.split()]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = half_of(torchvision.models.resnet50().eval())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prunus.save(small, folder / "small")
        save_file(small.state_dict(), folder / "plain.safetensors")
        write_widths(small, folder / "widths.json")
        size = sum(file.stat().st_size for file in (folder / "small").iterdir())
        parameters = sum(p.numel() * p.element_size() for p in small.parameters())
        rounds = [{way: timed(way, folder) for way in ("prunus", "torch", "assigned")} for _ in range(ROUNDS)]
    weighs = size / parameters
    print(f"folder {size:,} bytes, parameters {parameters:,} bytes: {weighs:.4f} times (goal 1.02)")
    for column, what in enumerate(("without imports", "with imports")):
        times = {way: [each[way][column] for each in rounds] for way in rounds[0]}
        ratio = {
            way: statistics.median(a / b for a, b in zip(times["prunus"], times[way], strict=True)) for way in times
        }
        seconds = {way: statistics.median(values) for way, values in times.items()}
        print(f"{what}: prunus.load {seconds['prunus']:.3f} s")
        print(f"    built, load_state_dict: {seconds['torch']:.3f} s; prunus takes {ratio['torch']:.2f} times as long")
        print(f"    on meta, assign=True:   {seconds['assigned']:.3f} s; {ratio['assigned']:.2f} times")
        if not column:
            reached = ratio["torch"]
    print(f"load_state_dict alone, built already: {statistics.median(each['torch'][2] for each in rounds):.3f} s")
    print(f"prunus.load takes {reached:.2f} times as long as torch's own way (goal 1.3)")
    sys.exit(weighs > 1.02 or reached > 1.3)


if __name__ == "__main__":
    main()
