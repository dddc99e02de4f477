"""Run a recipe: each stage from what the one before left on disk, kept under a hash of all that it depends on.

A run folder:

    recipe.yaml          as it was given           environment.json    versions, git state, seeds, machine
    stages/01-train-…/   what each stage left      metrics.json        what each found
    work/                checkpoints of the stage that runs             report.html

A stage starts from the files that the stage before wrote, also when both run in one process; so a run that was killed
at any moment, and is started again, ends with the weights of one that wasn't, to the bit on a CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError, SaveError
from prunus.naming import callable_named
from prunus.recipes.checking import check_arguments, check_names
from prunus.recipes.environment import computing_versions, environment, source_digest
from prunus.recipes.fingerprints import fingerprint
from prunus.recipes.reading import find, line_of, read_recipe
from prunus.recipes.schema import Recipe, Stage
from prunus.recipes.stages import Context, perform
from prunus.recipes.state import Outcome, State, digest_of, put_in_place, read_outcome, read_state, write_outcome
from prunus.recipes.tasks import Data
from prunus.recipes.telling import write_page
from prunus.train.streams import seeded

LOCK = ".lock"


@dataclass(frozen=True)
class Step:
    """One stage in one run: its number from 1, the hash of its inputs, and where what it leaves is kept."""

    number: int
    stage: Stage
    key: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.number:02d}-{self.stage.kind}"


class Run:
    """A recipe and the folder that it runs in.

    Raises:
        InputError: the recipe, or a name in it, is wrong.
        SaveError: the folder holds another recipe's run.
    """

    def __init__(self, path: str | Path, out: str | Path | None = None, *, quick: bool = False) -> None:
        self.recipe: Recipe = read_recipe(path, quick=quick)
        self.where, self.text = str(path), find(path).read_text(encoding="utf-8")
        self.out = Path(out) if out is not None else Path("runs") / (self.recipe.name + ("-quick" if quick else ""))
        _check_folder(self.out, self.recipe.name)

    @cached_property
    def data(self) -> Data:
        """What the recipe's ``data`` returns.

        Raises:
            InputError: it doesn't return a :class:`Data`.
        """
        with seeded(self.recipe.seed):
            found = callable_named(self.recipe.data)(**self.recipe.data_args)
        if not isinstance(found, Data):
            raise InputError(f"{self.recipe.data} must return a prunus.recipes.Data, not a {type(found).__name__}.")
        return found

    def base(self) -> nn.Module:
        """The model of the recipe, as its factory makes it with the recipe's seed."""
        with seeded(self.recipe.seed):
            model = callable_named(self.recipe.model)(**self.recipe.model_args)
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.recipe.model} must give a torch.nn.Module, not a {type(model).__name__}.")
        return model.float().eval()

    def line(self, path: tuple[str | int, ...]) -> str:
        """Where a key stands, for messages."""
        return f"{self.where}:{line_of(self.text, path)}"

    def check(self) -> None:
        """Look up all that the recipe names; InputError if something isn't there."""
        check_arguments(self.recipe.model, self.recipe.model_args, "model_args", self.line)
        check_arguments(self.recipe.data, self.recipe.data_args, "data_args", self.line)
        check_names(self.recipe, self.base, lambda: self.data.example, self.line)

    @cached_property
    def start(self) -> str:
        """A hash of what every stage depends on."""
        recipe = self.recipe
        files = [fingerprint(recipe.model), fingerprint(recipe.data), source_digest()]
        names = [recipe.model, dict(recipe.model_args), recipe.data, dict(recipe.data_args)]
        return digest_of([names, files, recipe.seed, recipe.threads, computing_versions()])

    def step(self, number: int, before: Outcome | None) -> Step:
        """Stage ``number`` (from 1) after the outcome of the one before."""
        stage = self.recipe.stages[number - 1]
        inputs = [self.start, stage.kind, stage.settings.model_dump(mode="json"), number]
        inputs += [before.digest if before is not None else "", self._needs_unpruned(stage)]
        key = digest_of(inputs)
        return Step(number, stage, key, self.out / "stages" / f"{number:02d}-{stage.kind}-{key[:16]}")

    def _needs_unpruned(self, stage: Stage) -> str:
        """The digest of the unpruned model, where the stage looks at it."""
        return self.unpruned.digest if stage.kind in ("distil", "bench") and self.unpruned is not None else ""

    unpruned: Outcome | None = None
    """The outcome before the first cut or mask; None is the base model."""


def run(
    path: str | Path,
    out: str | Path | None = None,
    *,
    quick: bool = False,
    on_stage: Callable[[Step, str], None] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Run a recipe, or go on with a run that was stopped; stages whose inputs haven't changed aren't run again.

    Args:
        path: a YAML file, or the name of a ready recipe.
        out: the run folder; by default ``runs/NAME``.
        quick: apply the recipe's ``quick`` section: to try it, not to judge it.
        on_stage: told each stage when it starts ("run"), is found ("cached") and ends ("done").
        on_progress: told steps done, their number, and words, while a stage runs.

    Returns:
        The run folder.

    Raises:
        InputError: the recipe, or a name in it, is wrong.
        SaveError: the folder holds another recipe's run, or a stage's files were changed.
    """
    job = Run(path, out, quick=quick)
    job.check()
    tell = on_stage or (lambda step, what: None)
    job.out.mkdir(parents=True, exist_ok=True)
    with alone(job.out), _threads(job.recipe.threads):
        _prepare(job, quick)
        outcome: Outcome | None = None
        done: list[tuple[Step, Outcome]] = []
        for number in range(1, len(job.recipe.stages) + 1):
            if changes(job.recipe.stages[number - 1]) and not any(changes(s.stage) for s, _ in done):
                job.unpruned = outcome
            step = job.step(number, outcome)
            if step.folder.is_dir():
                tell(step, "cached")
            else:
                tell(step, "run")
                _perform(job, step, outcome, on_progress)
                tell(step, "done")
            outcome = read_outcome(step.folder)
            done.append((step, outcome))
            _replace(job.out / "metrics.json", json.dumps({s.name: o.found for s, o in done}, indent=2) + "\n")
        shutil.rmtree(job.out / "work", ignore_errors=True)
        write_page(job.recipe, job.out, [(s.name, s.stage, o) for s, o in done])
    return job.out


def changes(stage: Stage) -> bool:
    """Whether the model isn't the unpruned one any more after it."""
    return stage.kind == "prune" or stage.makes_zeros


def _perform(job: Run, step: Step, before: Outcome | None, on_progress: Callable[[int, int, str], None] | None) -> None:
    draft, work = step.folder.with_name(f".draft-{step.folder.name}"), job.out / "work" / step.folder.name
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with seeded(job.recipe.seed + step.number):
        state = _state(job, before)
        context = Context(job.data, lambda: _state(job, job.unpruned), draft, work, job.recipe.seed + step.number)
        if on_progress is not None:
            context.on_progress = on_progress
        state = perform(step.stage, state, context)
    context.found["seconds"] = round(time.perf_counter() - started, 1)
    write_outcome(draft, state, context.found)
    put_in_place(draft, step.folder)
    shutil.rmtree(work, ignore_errors=True)


def _state(job: Run, outcome: Outcome | None) -> State:
    return State(job.base()) if outcome is None else read_state(outcome, job.base)


def _prepare(job: Run, quick: bool) -> None:
    _replace(job.out / "recipe.yaml", job.text)
    about = environment(job.recipe.seed, job.recipe.threads)
    _replace(job.out / "environment.json", json.dumps({"quick": quick, **about}, indent=2) + "\n")


def _check_folder(out: Path, name: str) -> None:
    """A run folder is one recipe's; anything else that is there isn't touched."""
    if not out.exists():
        return
    if not out.is_dir():
        raise SaveError(f"{out} is a file; give a folder to run in: --out DIR.")
    inside = {path.name for path in out.iterdir()} - {"work", "stages", LOCK}
    if not inside:
        return
    text = (out / "recipe.yaml").read_text(encoding="utf-8") if (out / "recipe.yaml").is_file() else ""
    if f"name: {name}" not in text.splitlines():
        raise SaveError(f"{out} isn't empty and doesn't hold a run of {name!r}: give another folder, --out DIR.")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Two runs in one folder would take each other's files away. The system lets go of a killed process's lock.

    Raises:
        SaveError: another process runs there.
    """
    try:
        import fcntl
    except ImportError:  # Windows has another way, and no fork to go wrong with
        yield
        return
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SaveError(f"another process runs a recipe in {out}: wait for it, or give another --out.") from error
        yield


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """The order in which floats are added, and so their last bits, depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def final_weights(out: str | Path) -> Path:
    """The weights that the last stage of a finished run left.

    Raises:
        InputError: the run isn't finished.
    """
    found = (
        sorted((Path(out) / "stages").glob("[0-9]*/model.safetensors")) if (Path(out) / "report.html").exists() else []
    )
    if not found:
        raise InputError(f"{out} holds no finished run.")
    last: Any = found[-1]
    return Path(last)
