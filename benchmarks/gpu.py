"""What halving every width brings on a GPU: images per second of the dense and the small model, in turns.

    python -m benchmarks.gpu [MODEL ...] [--modes eager compiled] [--rounds 20] [--sparse]

bf16, channels last for convolutions, eager and torch.compile, batch 256. Ratios are medians of paired rounds. With
--sparse, then what 2:4 kernels bring to linear layers of a transformer's shapes, whose masks the Sparsifier made.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import nn

import prunus
from prunus.deploy.acceleration import Accelerated
from prunus.deploy.measure import measure, speedup, torch_runner

MODELS = ("resnet50", "mobilenet_v2", "convnext_tiny", "vit_b_16", "swin_t")
BATCH = 256


def small_of(model: nn.Module, ratio: float, round_to: int) -> nn.Module:
    x = torch.randn(1, 3, 224, 224)
    return prunus.plan(model, x, ratio=ratio, importance="random", round_to=round_to).apply(model)


def row(name: str, compiled: bool, rounds: int) -> str:
    torch.manual_seed(0)
    dense = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(BATCH, 3, 224, 224, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    models = {"dense": dense, "small": small_of(dense, 0.5, 1), "rounded": small_of(dense, 0.5, 8)}
    macs = {k: prunus.profile(m, torch.randn(1, 3, 224, 224), latency=False).macs for k, m in models.items()}
    ready = {}
    for key, model in models.items():
        model = model.cuda().bfloat16().to(memory_format=torch.channels_last)
        ready[key] = _compiled(model, x) if compiled else torch_runner(model, x)
    times = measure(ready, repeats=rounds, warmup=5)
    cells = [f"{times['dense'].median_ms:.2f}"]
    for key in ("small", "rounded"):
        cells += [
            f"{macs['dense'] / macs[key]:.2f}",
            f"{times[key].median_ms:.2f}",
            str(speedup(times["dense"], times[key])),
        ]
    return f"| {name} | {'compiled' if compiled else 'eager'} | " + " | ".join(cells) + " |"


def _compiled(model: nn.Module, x: torch.Tensor):
    fast = torch.compile(model)

    def run() -> None:
        with torch.inference_mode():
            fast(x)
        torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--modes", nargs="*", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sparse", action="store_true")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, batch {BATCH}\n")
    print("| model | mode | dense ms | MACs ÷ | halved ms | speed-up | MACs ÷ | rounded to 8 ms | speed-up |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.models:
        for mode in options.modes:
            print(row(name, mode == "compiled", options.rounds), flush=True)
    for rows in (256, 4096, 32768) if options.sparse else ():
        print(f"\n{two_of_four(rows)}", flush=True)


def two_of_four(rows: int) -> Accelerated:
    """The table of a gated MLP's two shapes and of a square projection, for that many rows of input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4096, 11008), nn.ReLU(), nn.Linear(11008, 4096), nn.ReLU(), nn.Linear(4096, 4096))
    prunus.Sparsifier(model).prune(granularity="2:4")
    model = model.to("cuda", torch.bfloat16).eval()
    return prunus.accelerate_sparse(model, torch.randn(rows, 4096, device="cuda", dtype=torch.bfloat16))


if __name__ == "__main__":
    main()
