"""``--dry-run``: what a run would do, stage by stage, and about what it costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import prunus
from prunus.errors import InputError
from prunus.recipes.running import Run, changes
from prunus.recipes.schema import Stage, Training
from prunus.recipes.state import Outcome, read_outcome


@dataclass(frozen=True)
class Speed:
    """Seconds of the uncut model: a step of training, one look at the validation data, one at the test data."""

    step: float
    validation: float
    test: float
    steps: int


def dry_run(path: str | Path, out: str | Path | None = None, *, quick: bool = False) -> list[tuple[str, str, str, str]]:
    """A row for each stage: its name, what it does, "cached" or "to run", and its cost.

    Costs are those of the uncut model on this machine, from one step and one look at one batch: an upper bound after a
    cut. Nothing is written.

    Raises:
        InputError: the recipe, or a name in it, is wrong.
    """
    job = Run(path, out, quick=quick)
    job.check()
    speed = _speed(job)
    groups = len([g for g in prunus.trace(job.base(), job.data.example).free if g.size > 1])
    rows = []
    outcome: Outcome | None = None
    known, changed = True, False
    for number, stage in enumerate(job.recipe.stages, start=1):
        if changes(stage) and not changed:
            job.unpruned, changed = outcome, True
        step = job.step(number, outcome) if known else None
        cached = step is not None and step.folder.is_dir()
        if cached and step is not None:
            outcome = read_outcome(step.folder)
        known = known and cached
        cost = "nothing" if cached else _told(_seconds(stage, speed, groups))
        rows.append((f"{number:02d}-{stage.kind}", _what(stage, speed, groups), "cached" if cached else "to run", cost))
    return rows


def _speed(job: Run) -> Speed:
    model = copy.deepcopy(job.base()).train()
    loader: Any = job.data.train
    batch = next(iter(loader))
    started = time.perf_counter()
    job.data.loss(model, batch).backward()
    step = time.perf_counter() - started
    model.eval()
    return Speed(1.2 * step, _look(job, model, job.data.validation), _look(job, model, job.data.test), len(loader))


def _look(job: Run, model: torch.nn.Module, data: Iterable[Any]) -> float:
    """One batch is timed, and counted as often as there are batches."""
    try:
        batches = len(data)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError("validation and test data must have a length: a list or a DataLoader.") from error
    first = next(iter(data))
    started = time.perf_counter()
    with torch.no_grad():
        job.data.score(model, [first])
    return (time.perf_counter() - started) * batches


def _seconds(stage: Stage, speed: Speed, groups: int) -> float:
    how = stage.settings
    if isinstance(how, Training):
        extra = 1.4 if stage.kind == "distil" else 1.0
        return float(how.epochs * (speed.steps * speed.step * extra + speed.validation))
    if stage.kind == "sensitivity":
        ratios: int = len(how.ratios)
        return groups * ratios * speed.validation
    if stage.kind == "bench":
        return 2 * (speed.validation + speed.test)
    return speed.validation


def _what(stage: Stage, speed: Speed, groups: int) -> str:
    how = stage.settings
    if isinstance(how, Training):
        names = [policy.kind for policy in how.policies]
        return f"{how.epochs} epochs of {speed.steps} batches" + (f", {', '.join(names)}" if names else "")
    if stage.kind == "sensitivity":
        return f"at most {groups} groups at {len(how.ratios)} ratios"
    given = {name: getattr(how, name) for name in type(how).model_fields if name in how.model_fields_set}
    return ", ".join(f"{name}={value}" for name, value in given.items()) or "as by default"


def _told(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes} min {rest} s" if minutes else f"about {max(rest, 1)} s"
