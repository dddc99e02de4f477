"""What INT8 costs in accuracy on top of pruning: digits, LeNet and a ResNet-20, in ONNX Runtime. About three minutes.

    python -m benchmarks.int8_accuracy [seeds]

Each network is trained, cut to half of its MACs on training digits (refit by them), fine-tuned for one epoch, exported,
and quantized: static, calibrated on 2,000 training digits, and dynamic. The score is the accuracy of the exported file
on the 2,000 test digits, which nothing is chosen with; its standard error is about 0.3 points.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import prunus
from benchmarks.accuracy.tasks import TASKS
from prunus.deploy.measure import onnx_feed, onnx_session
from prunus.errors import InputError

SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3


class File(nn.Module):
    """An ONNX file as a module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = onnx_session(path)
        self.device = nn.Parameter(torch.zeros(0))  # scores ask a model where it is

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, onnx_feed(self.session, [x]))[0])


def scores(name: str, seed: int, folder: Path) -> dict[str, tuple[float, int] | None]:
    """Variant -> accuracy in percent and bytes of the file; None where ONNX Runtime quantizes nothing."""
    task = TASKS[name](seed)
    small = prunus.prune(task.model, task.example, budget={"macs": "50%"}, data=task.data)
    task.finetune(small)
    files = {"dense fp32": folder / "dense.onnx", "pruned fp32": folder / "pruned.onnx"}
    for model, path in zip((task.model, small.eval()), files.values(), strict=True):
        prunus.export(model, task.example, path)
    inputs = [batch[0] for batch in task.data]
    found: dict[str, tuple[float, int] | None] = {}
    for source, data, scheme in (
        ("dense fp32", inputs, "static"),
        ("pruned fp32", inputs, "static"),
        ("pruned fp32", None, "dynamic"),
    ):
        variant = source.replace("fp32", f"INT8 {scheme}")
        try:
            files[variant] = prunus.quantize(files[source], folder / f"{len(files)}.onnx", data, scheme=scheme).path
        except InputError:
            found[variant] = None
    return {v: (task.score(File(path)), path.stat().st_size) for v, path in files.items()} | found


def main() -> None:
    torch.set_num_threads(1)
    for name in ("lenet", "resnet20"):
        runs = []
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(scores(name, seed, Path(folder)))
        for variant in runs[0]:
            each = [run[variant] for run in runs]
            told = ", ".join("nothing to quantize" if e is None else f"{e[0]:.2f} %" for e in each)
            size = "" if each[0] is None else f"{each[0][1]:,} bytes"
            print(f"{name:<9} {variant:<20} {told}   {size}", flush=True)


if __name__ == "__main__":
    main()
