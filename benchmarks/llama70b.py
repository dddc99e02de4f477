"""A 70-billion-parameter Llama, from its config and without its weights: traced, planned and cut on the meta device.

``python -m benchmarks.llama70b`` prints a row for 10, 20, 40 and 80 layers, each from a process of its own, so that the
peak of one doesn't hide that of another. Times are processor seconds of one thread.
"""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import time

LAYERS = (10, 20, 40, 80)
HEADER = "layers   parameters    left after   operators  trace s  plan s  cut s  plan.json MB  peak GB"


def measure(layers: int) -> str:
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
    return (
        f"{layers:>6}  {before:>14,}  {after:>14,}  {operators:>6,}  {trace:>7.2f}  {decide:>6.2f}  {cut:>5.2f}  "
        f"{len(plan.to_json()) / 1e6:>12.2f}  {peak:>7.2f}"
    )


def main() -> None:
    if len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
        return
    print(HEADER)
    for layers in LAYERS:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-m", "benchmarks.llama70b", str(layers)], check=True, env=environment)


if __name__ == "__main__":
    main()
