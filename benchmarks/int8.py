"""INT8 on top of a pruned ResNet-50, in ONNX Runtime at batch 8, beside the dense original in fp32. About five minutes.

    python -m benchmarks.int8 [rounds]

ResNet-50 is cut to half of its MACs and quantized (static, QDQ, by channel). Four files take turns: dense and pruned,
fp32 and INT8. The speed depends on the instruction set, which is printed: with VNNI or AMX an INT8 product is as cheap
as a quarter of an fp32 one, without it there is little to gain. Weights and inputs are random: only time is measured.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
import torchvision

import prunus
from benchmarks.half import half_of
from prunus.deploy.machine import processor
from prunus.deploy.measure import measure, onnx_runner, speedup
from prunus.deploy.quantize import quantize

BATCH = 8
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 30


def main() -> None:
    torch.manual_seed(0)
    threads = len(os.sched_getaffinity(0))
    print(processor(), f"{threads} threads", sep=", ", flush=True)
    dense = torchvision.models.resnet50().eval()
    x, data = torch.randn(BATCH, 3, 224, 224), [torch.randn(BATCH, 3, 224, 224) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for name, model in (("dense", dense), ("pruned", half_of(dense))):
            real, integer = Path(folder, f"{name}.onnx"), Path(folder, f"{name}-int8.onnx")
            prunus.export(model, x[:1], real)
            print(quantize(real, integer, data), flush=True)
            runners[f"{name} fp32"] = onnx_runner(real, x, threads=threads)
            runners[f"{name} INT8"] = onnx_runner(integer, x, threads=threads)
        found = measure(runners, repeats=ROUNDS, warmup=2)
    first = found["dense fp32"]
    for name, latency in found.items():
        print(f"{name:<12} {latency}   {speedup(first, latency)} the speed of dense fp32")
    reached = speedup(first, found["pruned INT8"]).median
    print(f"pruned INT8 is {reached:.2f} times as fast as dense fp32 at batch {BATCH} (goal 3)")
    sys.exit(reached < 3)


if __name__ == "__main__":
    main()
