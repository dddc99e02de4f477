"""Checkpoints: a run that is cut short, by an exception or by SIGKILL, ends as one that wasn't, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError, SaveError
from prunus.train import CSV, JSONL, Checkpoints, cosine, fit, read_jsonl
from prunus.train.packing import pack, unpack
from tests import resumed

KINDS = ("gradual", "rigl", "set", "movement", "srste", "soft")
STEPS = resumed.EPOCHS * resumed.BATCHES // 2


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "end.pt", weights_only=True)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [5, None])
def test_an_interrupted_run_ends_as_if_it_wasnt(tmp_path, kind, every):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    history = resumed.run(whole, kind, every=every)
    with pytest.raises(KeyboardInterrupt):
        resumed.run(cut, kind, kill_after=7, every=every)
    with pytest.raises(KeyboardInterrupt):
        resumed.run(cut, kind, kill_after=12, every=every)
    again = resumed.run(cut, kind, every=every)
    assert equal(weights(whole), weights(cut))
    assert [(e.loss, e.metrics) for e in again.epochs] == [(e.loss, e.metrics) for e in history.epochs]
    assert again.best == history.best
    assert (whole / "log.csv").read_text() == (cut / "log.csv").read_text()
    assert read_jsonl(whole / "log.jsonl") == read_jsonl(cut / "log.jsonl")
    assert len(read_jsonl(cut / "log.jsonl")) == STEPS + resumed.EPOCHS


def test_the_comparison_can_fail(tmp_path):
    """Another seed of the data gives other weights: the run depends on what is drawn."""
    resumed.run(tmp_path / "a")
    loader = resumed.loader
    try:
        resumed.loader = lambda: _reseeded(loader())
        resumed.run(tmp_path / "b")
    finally:
        resumed.loader = loader
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def _reseeded(loader):
    loader.generator.manual_seed(77)
    return loader


def test_killed_at_random_moments(tmp_path):
    """SIGKILL, at 20 moments that only the clock chooses; no folder with a checkpoint's name is ever broken."""
    resumed.run(tmp_path / "whole")
    done = subprocess.run([sys.executable, "-m", "tests.resumed", tmp_path / "cut"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] == 20
    for number in range(1, told["runs"] + 1):
        cut = tmp_path / "cut" / str(number)
        assert equal(weights(tmp_path / "whole"), weights(cut))
        assert read_jsonl(tmp_path / "whole" / "log.jsonl") == read_jsonl(cut / "log.jsonl")


def test_a_finished_run_is_loaded(tmp_path):
    resumed.run(tmp_path)
    first = weights(tmp_path)
    (tmp_path / "end.pt").unlink()
    resumed.run(tmp_path, kill_after=1)  # no step is made
    assert equal(weights(tmp_path), first)


def test_what_a_checkpoint_holds(tmp_path):
    resumed.run(tmp_path)
    folders = sorted((tmp_path / "run").iterdir())
    assert [f.name for f in folders] == ["step-00000025", "step-00000030"]
    names = sorted(path.name for path in folders[-1].iterdir())
    assert names == [
        *("model.safetensors", "plan.json", "random-0.json", "random-0.safetensors"),
        *("training.json", "training.safetensors"),
    ]
    plan = prunus.Plan.from_json((folders[-1] / "plan.json").read_text())
    assert plan == resumed.network().prunus_plan


def linear_run(folder, **changes):
    model = changes.pop("model", None) or nn.Linear(4, 3)
    if "optimizer" in changes:
        changes["optimizer"] = changes["optimizer"](model.parameters(), lr=1e-3)
    data = [[torch.randn(8, 4), torch.zeros(8, dtype=torch.long)]] * 3
    fit(model, data, **{"epochs": 2, "checkpoints": folder, **changes})


class Forgetful:
    def before_step(self): ...
    def after_step(self): ...
    def epoch_end(self): ...


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"epochs": 3}, SaveError, "there epochs is 2, here 3"),
        ({"accumulate": 2}, SaveError, "there accumulate is 1, here 2"),
        ({"lr": 0.5}, SaveError, r"there lr is 0\.001, here 0\.5"),
        ({"clip": 1.0}, SaveError, r"there clip is None, here 1\.0"),
        ({"seed": 3}, SaveError, "there seed is None, here 3"),
        ({"schedule": cosine}, SaveError, "there schedule is 'OneCycleLR', here 'CosineAnnealingLR'"),
        ({"optimizer": torch.optim.SGD}, SaveError, "there optimizer is 'AdamW', here 'SGD'"),
        ({"model": nn.Linear(4, 3).double()}, SaveError, "doesn't fit this model: 'weight' is .* torch.float32 there"),
        ({"model": nn.Sequential(nn.Linear(4, 3))}, SaveError, "only the model has '0.weight'"),
        ({"ema": 0.9}, SaveError, r"there ema is None, here 0\.9"),
        ({"hooks": [prunus.Sparsifier(nn.Linear(4, 3))]}, SaveError, "another run: it has .* this one"),
        ({"checkpoints": None, "accumulate": 0}, InputError, "accumulate is 0"),
        ({"hooks": [Forgetful()]}, InputError, "Forgetful has no state_dict"),
    ],
)
def test_another_run_isnt_continued(tmp_path, changes, error, words):
    linear_run(tmp_path)
    with pytest.raises(error, match=words):
        linear_run(changes.pop("checkpoints", tmp_path), **changes)


def test_resume_false_refuses(tmp_path):
    linear_run(Checkpoints(tmp_path, resume=False))
    with pytest.raises(SaveError, match="holds step-00000006 already"):
        linear_run(Checkpoints(tmp_path, resume=False))


@pytest.mark.parametrize("name", ["training.json", "model.safetensors", "random-0.safetensors"])
def test_damage_is_named(tmp_path, name):
    linear_run(tmp_path)
    path = tmp_path / "step-00000006" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SaveError, match=f"{name} can't be read"):
        linear_run(tmp_path)


def test_states_come_back_as_they_were():
    state = {"a": [1, (2.5, None), {3: torch.arange(3), "x": float("inf")}], "b": True}
    tensors: dict[str, torch.Tensor] = {}
    back = unpack(json.loads(json.dumps(pack(state, tensors))), tensors)
    assert str(back) == str(state)
    with pytest.raises(SaveError, match="state/a is of type function"):
        pack({"a": lambda: 0}, {}, "state")
    with pytest.raises(SaveError, match="malformed"):
        unpack({"run": "this"}, {})


def test_trackers_forget_what_is_trained_again(tmp_path):
    for tracker in (JSONL(tmp_path / "a.jsonl"), CSV(tmp_path / "a.csv")):
        tracker.start(0)
        for step in range(1, 5):
            tracker.log(step, {"loss": step / 7, **({"late": 1.0} if step > 2 else {})})
        tracker.start(3)
        tracker.log(4, {"loss": 9.0})
    assert read_jsonl(tmp_path / "a.jsonl")[2:] == [{"step": 3, "loss": 3 / 7, "late": 1.0}, {"step": 4, "loss": 9.0}]
    assert (tmp_path / "a.csv").read_text().split()[-2:] == [f"3,{3 / 7},1.0", "4,9.0,"]
