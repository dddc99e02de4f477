"""One script in one process and in two: the same weights at the same global batch, with DDP and with FSDP2, on gloo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.train.guards import prepare
from prunus.train.sharding import check_alone
from tests import several


def launch(folder: Path, batch: int, how: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", several.__file__, str(folder), str(batch), how]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def gap(a: Path, b: Path) -> float:
    """The largest difference of weights."""
    first, second = (torch.load(path, weights_only=True) for path in (a, b))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_two_processes_give_the_weights_of_one(tmp_path):
    """The last training, sharded, ends abruptly once in both processes, and goes on from its checkpoint."""
    one, two = tmp_path / "one", tmp_path / "two"
    several.main(one, 16)
    assert launch(two, 8, "cut").returncode != 0
    assert (two / "hooks" / "end-0.pt").exists()
    assert not (two / "plain" / "end-0.pt").exists()
    done = launch(two, 8)
    assert done.returncode == 0, done.stderr
    for kind in ("hooks", "L0", "SET", "plain"):
        assert gap(two / kind / "end-0.pt", one / kind / "end-0.pt") < 1e-12, kind
        assert gap(two / kind / "end-1.pt", two / kind / "end-0.pt") == 0, kind
        told = [
            json.loads((folder / kind / f"told-{rank}.json").read_text())
            for folder, rank in ((one, 0), (two, 0), (two, 1))
        ]
        assert told[1] == told[2], kind  # what each process's loss is and says itself doesn't count
        assert np.array(told[1]) == pytest.approx(np.array(told[0]), rel=1e-6), kind
    for rank in range(2):
        assert "the processes no longer have the same weights" in (two / f"apart-{rank}").read_text()
    assert gap(one / "hooks" / "end-0.pt", one / "plain" / "end-0.pt") > 1e-3  # what the hooks do: it can fail


def run_script(folder: Path, *launcher: str) -> dict[str, torch.Tensor]:
    """What docs/training.md's train.py ends with."""
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(# train\.py\n.*?)```", page, re.DOTALL)
    (folder / "train.py").write_text(script, encoding="utf-8")
    command = [sys.executable, *launcher, "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "trained.safetensors")


ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def test_the_script_of_the_docs_under_accelerate_launch_gives_what_it_gives_alone(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone, together = run_script(tmp_path / "one"), run_script(tmp_path / "two", "-m", *ACCELERATE)
    states = sorted(path.name for path in (tmp_path / "two" / "checkpoints").glob("step-*/random-*.json"))
    assert states == ["random-0.json", "random-1.json"]  # there were two
    torch.manual_seed(0)
    start = LeNet().state_dict()
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=0, atol=1e-5)
        assert (value - start[key]).abs().max() > 1e-4  # it learned: the weights could differ


def test_a_list_of_batches_isnt_shared_out():
    model = nn.Linear(2, 2)
    two = SimpleNamespace(num_processes=2, distributed_type="MULTI_CPU")
    with pytest.raises(InputError, match="there are 2 processes, and a list can't be shared out"):
        prepare(two, model, torch.optim.SGD(model.parameters(), lr=0.1), [1, 2])
    more = torch.optim.SGD([*model.parameters(), *nn.Linear(2, 2).parameters()], lr=0.1)
    with pytest.raises(InputError, match="the optimizer has 2 parameters that aren't the model's"):
        prepare(two, model, more, DataLoader([1, 2]))


@pytest.mark.parametrize(("kind", "second"), [("DEEPSPEED", False), ("FSDP", False), ("MEGATRON_LM", False)])
def test_what_keeps_weights_elsewhere_is_refused(kind, second):
    model = nn.Linear(2, 2)
    accelerator = SimpleNamespace(num_processes=2, distributed_type=DistributedType[kind], is_fsdp2=second)
    with pytest.raises(InputError, match=f"Accelerate is set up for {kind}.*, which keeps the weights"):
        prepare(accelerator, model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader([1, 2]))


def test_what_looks_at_whole_weights_isnt_for_shards():
    check_alone((), None, None)
    with pytest.raises(InputError, match="object, ema can't be used with a model that FSDP2 has sharded"):
        check_alone([object()], 0.9, None)
