"""Cut one model, and judge the result by value."""

from __future__ import annotations

import copy
import json
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import prunus
from benchmarks.zoo.case import Case, Example, cast, cast_model
from benchmarks.zoo.contenders import CONTENDERS
from benchmarks.zoo.values import NotFoundError, Unroutable, difference, find_kept, make_distinct, reference, run

TOLERANCE = 1e-9
TELLING = 1e-6  # a cut that moves the outputs by less says nothing: an error in it would be as small

CUT = 0.75
"""What of the parameters is left at most where a peer is said to have cut a model."""


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    Attributes:
        seconds: for analysis, plan and cut.
        left: the part of the parameters that stays.
        error: of the small model against the reference, in fp64, relative.
        onnx: "" if it wasn't tried, "ok", "not exportable" (the uncut isn't either), or what went wrong.
        why: what went wrong, or what holds the largest part of what stayed.
        wanted: the part of the parameters that may be left.
    """

    zoo: str
    name: str
    contender: str = "prunus"
    seconds: float = 0.0
    left: float = 1.0
    error: float = float("inf")
    onnx: str = ""
    why: str = ""
    wanted: float = 0.6

    @property
    def right(self) -> bool:
        """The small model computes what the masked original computes."""
        return self.error <= TOLERANCE

    @property
    def ok(self) -> bool:
        """It is right, and enough is gone."""
        return self.right and self.left <= self.wanted

    def __str__(self) -> str:
        figures = f"left {self.left:.3f}  error {self.error:.1e}  {self.seconds:6.2f} s"
        return f"{self.contender:<14} {self.zoo:<12} {self.name:<32} {figures}  {self.onnx}  {self.why}".rstrip()

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def read(path: Path | None) -> dict[tuple[str, str, str], Outcome]:
    """The outcomes that a results file holds, by zoo, name and contender; the last of each."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    return {(o.zoo, o.name, o.contender): o for o in found}


def check(case: Case, contender: str = "prunus", onnx: bool = False) -> Outcome:
    """Halve everything that is free in one model, and judge the result."""
    who = (case.zoo, case.name, contender)
    example = case.make()
    if case.refused:
        return _refused(case, example, contender)
    example = in_precision(example, torch.float64)
    make_distinct(example.model)
    original = copy.deepcopy(example.model)
    try:
        small, seconds, why = CONTENDERS[contender](example)
    except Exception as error:  # noqa: BLE001 - whatever a contender raises is its outcome
        return Outcome(*who, why=_said(error), wanted=case.left)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (original, small))
    left = after / before
    why = (case.why or why) if left > 0.6 else ""
    try:
        if case.by_proof and contender == "prunus":
            error, remark = _proven(original, small.eval(), example), ""
        else:
            error, remark = _error(original, small.eval(), example, case.routers), ""
        if left < 1 and _moved(original, small, example) < TELLING:
            error, remark = float("inf"), "the outputs hardly depend on what was cut: nothing is shown"
    except NotFoundError as problem:
        error, remark = float("inf"), str(problem)
    except Exception as problem:  # noqa: BLE001 - a small model that doesn't run
        error, remark = float("inf"), _said(problem)
    if contender != "prunus" and error <= TOLERANCE:
        _, seconds, *_ = CONTENDERS[contender](in_precision(case.make(), torch.float32))  # its work depends on that
    exported = _exported(original, small, example) if onnx else ""
    return Outcome(*who, seconds, left, error, exported, remark or why, case.left)


def in_precision(example: Example, dtype: torch.dtype) -> Example:
    """A copy of the example in that precision."""

    args, kwargs = pytree.tree_map_only(Tensor, lambda t: cast(t, dtype).clone(), (example.args, dict(example.kwargs)))
    model = cast_model(copy.deepcopy(example.model), dtype)
    return Example(model.train().eval(), args, kwargs)  # some keep caches till train()


def _error(original: nn.Module, small: nn.Module, example: Example, routers: tuple[str, ...]) -> float:
    kept = find_kept(original, small)
    masked = reference(original, small, kept)
    with Unroutable(masked, kept, routers):
        expected = run(masked, example.args, example.kwargs)
    return difference(expected, run(small, example.args, example.kwargs))


def _moved(original: nn.Module, small: nn.Module, example: Example) -> float:
    """How far the outputs move by the cut; infinitely where they have other shapes."""
    return difference(*(run(model, example.args, example.kwargs) for model in (original, small)))


def _proven(original: nn.Module, small: nn.Module, example: Example) -> float:
    """For the few that can't be judged by value."""
    proof = prunus.prove(original, small, small.prunus_plan, example.args, example.kwargs)
    return proof.max_rel_error if proof.ok else float("inf")


def _refused(case: Case, example: Example, contender: str) -> Outcome:
    """A model that can't be cut: prunus must say so, in these words."""
    try:
        CONTENDERS[contender](example)
    except prunus.PrunusError as error:
        if case.refused in str(error):
            return Outcome(case.zoo, case.name, contender, error=0.0, why=f"refused: {error}", wanted=1.0)
        return Outcome(case.zoo, case.name, contender, why=f"refused for another reason: {error}", wanted=1.0)
    except Exception as error:  # noqa: BLE001 - a crash is no refusal
        return Outcome(case.zoo, case.name, contender, why=_said(error), wanted=1.0)
    return Outcome(case.zoo, case.name, contender, why="not refused", wanted=1.0)


def _exported(original: nn.Module, small: nn.Module, example: Example) -> str:
    """Export the small model in fp32, with the parity check of prunus.export; the uncut one only where that fails."""
    verdict = _export(small, example)
    if verdict == "ok":
        return verdict
    uncut = _export(original, example)
    return verdict if uncut == "ok" else f"not exportable uncut: {uncut}"


def _export(model: nn.Module, example: Example) -> str:
    single = in_precision(Example(model, example.args, example.kwargs), torch.float32)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prunus.export(single.model, single.args, Path(folder) / "model.onnx", kwargs=single.kwargs)
    except Exception as error:  # noqa: BLE001 - exporters raise all kinds
        return _said(error)
    return "ok"


def _said(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
