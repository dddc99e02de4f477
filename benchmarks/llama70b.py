"""A 70-billion-parameter Llama, from its config and without its weights: traced, planned and cut on the meta device.

``python -m benchmarks.llama70b [--write docs/llama70b.md]`` gives a row for 10, 20, 40 and 80 layers, each from
a process of its own, so that the peak of one doesn't hide that of another. Times are processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

LAYERS = (10, 20, 40, 80)
TITLES = ("layers", "parameters", "left after", "operators", "trace s", "plan s", "cut s", "plan.json MB", "peak GB")
PAGE = """# A large model, from its config alone

Written by `python -m benchmarks.llama70b --write docs/llama70b.md`: Llamas of hidden size 8192 with 64 query and 8
key heads, from their configs, on the meta device: no weights are read, and none are made. Everything that is free is
halved. Times are processor seconds of one thread; the peak is that of the whole process, Python, torch and
transformers included.

{table}

The plan is a list of kept indices: it is applied to weights wherever they are (`docs/large-models.md`). What is
computed here is shapes; that the small model computes what the masked one does is proven where there are values, on
tiny models of the same code (`docs/coverage.md`).
"""


def measure(layers: int) -> list[str]:
    """One row of the table. ``peak`` is the process's largest resident set, Python, torch and transformers included."""
    import torch
    import transformers

    import prunus

    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    times = [time.process_time()]
    graph = prunus.trace(model, {"input_ids": torch.arange(16)[None]})
    times.append(time.process_time())
    plan = prunus.plan(graph, ratio=0.5, importance="random")
    times.append(time.process_time())
    small = plan.apply(model)
    times.append(time.process_time())
    trace, decide, cut = (b - a for a, b in itertools.pairwise(times))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    operators = sum(len(run.records) for run in graph.runs)
    figures = [
        f"{layers}",
        f"{before:,}",
        f"{after:,}",
        f"{operators:,}",
        f"{trace:.2f}",
        f"{decide:.2f}",
        f"{cut:.2f}",
    ]
    return [*figures, f"{len(plan.to_json()) / 1e6:.2f}", f"{peak:.2f}"]


def row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="one row alone, in this process")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    if options.layers:
        print(row(measure(options.layers)))
        return
    lines = [row(TITLES), row(["---:"] * len(TITLES))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for layers in LAYERS:
        command = [sys.executable, "-m", "benchmarks.llama70b", "--layers", str(layers)]
        found = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        lines.append(found.stdout.strip().splitlines()[-1])
        print(lines[-1], flush=True)
    if options.write:
        options.write.write_text(PAGE.format(table="\n".join(lines)))


if __name__ == "__main__":
    main()
