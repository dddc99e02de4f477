"""A large model beside the small one made of it: the page that a team reads before it deploys."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.deploy.formats import export
from prunus.deploy.measure import Latency, measure, onnx_runner, speedup, torch_runner
from prunus.errors import InputError, NothingToPrune
from prunus.plan import Plan
from prunus.planning import plan
from prunus.profile import Profile, profile
from prunus.prove import Proof, prove
from prunus.report import Report, Section, Table, Tile
from prunus.report.charts import sensitivity_figure, speedup_figure, tradeoff_figure, widths_figure
from prunus.report.svg import inline_svg
from prunus.report.tables import change, count, kilobytes, milliseconds, short
from prunus.sensitivity import Sensitivity
from prunus.surgery import named_tensors
from prunus.trace import trace

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WIDTHS = 40
"""More bars than this aren't read."""

CURVES = 10
"""More curves than this can't be told apart."""

Timings = Mapping[str, tuple[Latency, Latency]]


def compare(
    dense: nn.Module,
    small: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    onnx: bool = True,
    repeats: int = 20,
    reproduce: str = "",
    curves: Sensitivity | None = None,
) -> Report:
    """Measure both models and tell of it; give the result to :func:`prunus.report.write_report`.

    The page has both profiles, every width, the proof of the plan, latency by runtime (in turns), what other ratios
    would leave and, with ``evaluate``, what they would cost.

    Args:
        dense: the original, with its weights.
        small: what was made of it; it carries its plan (:attr:`prunus_plan`), trained since or not.
        evaluate: a number for a model, higher is better. Called for both, and for each ratio of the trade-off curve.
        onnx: also export both and time them in ONNX Runtime.
        repeats: timed calls of each.
        reproduce: the command that makes the small model, for the page's last section.
        curves: what :func:`prunus.sensitivity` measured of ``dense``, to be drawn too.

    Raises:
        InputError: ``small`` carries no plan.
        PlanError: its plan isn't one of ``dense``.
    """
    made = small.__dict__.get("prunus_plan")
    if not isinstance(made, Plan):
        raise InputError("the small model carries no plan: give one that prunus made, or prunus.load(folder, factory).")
    before, after = (profile(model, args, kwargs, latency=False) for model in (dense, small))
    scores = {name: float(evaluate(model)) for name, model in (("dense", dense), ("small", small)) if evaluate}
    fresh = made.apply(dense)
    timings = _timings(dense, small, args, kwargs, onnx, repeats)
    name = type(dense).__name__
    return Report(
        title=f"{name}, made smaller",
        summary=(
            f"{after.parameters / before.parameters:.1%} of the parameters and {after.macs / max(before.macs, 1):.1%} "
            "of the multiply-accumulates are left."
        ),
        tiles=_tiles(before, after, timings, scores),
        sections=[
            _result(before, after, timings, scores),
            _proof(prove(dense, fresh, made, args, kwargs), _same(fresh, small)),
            _widths(made),
            _speed(timings),
            _tradeoff(dense, args, kwargs, evaluate),
            *([_sensitivity(curves)] if curves is not None else []),
            _profiles(name, before, after),
            Section(title="How it was decided", code=made.explain()),
            _again(reproduce),
        ],
    )


def _tiles(before: Profile, after: Profile, timings: Timings, scores: Mapping[str, float]) -> list[Tile]:
    tiles = [
        Tile(label, write(a), write(b), change(a, b))
        for label, a, b, write in (
            ("parameters", before.parameters, after.parameters, short),
            ("multiply-accumulates", before.macs, after.macs, short),
            ("weights", before.bytes, after.bytes, kilobytes),
        )
    ]
    for name, (dense, small) in timings.items():
        faster = f"{speedup(dense, small).median:.2f}× faster"
        tiles.append(Tile(name, milliseconds(dense.median_ms), milliseconds(small.median_ms), faster))
    if scores:
        tiles.append(Tile("score", f"{scores['dense']:g}", f"{scores['small']:g}", ""))
    return tiles


def _result(before: Profile, after: Profile, timings: Timings, scores: Mapping[str, float]) -> Section:
    rows = [(tile.label, tile.before, tile.after, tile.change) for tile in _tiles(before, after, timings, scores)]
    a, b = before.activation_bytes, after.activation_bytes
    rows.insert(3, ("activations", kilobytes(a), kilobytes(b), change(a, b)))
    table = Table("Before and after", ("", "before", "after", "change"), tuple(rows), strong=3)
    return Section(title="Before and after", tables=[table])


def _same(fresh: nn.Module, small: nn.Module) -> bool:
    mine = named_tensors(small)
    return all(name in mine and torch.equal(t, mine[name].to(t.device)) for name, t in named_tensors(fresh).items())


def _proof(proof: Proof, untouched: bool) -> Section:
    error, allowed = f"{proof.max_rel_error:.1e}", f"{proof.tolerance:.0e}"
    if not proof.ok:
        text = str(proof)
    elif untouched:
        text = (
            f"The small network's outputs differ from the masked original's by at most {error} of their size "
            f"(allowed: {allowed}), in fp64."
        )
    else:
        text = (
            "The weights were changed since the cut (mended or trained), so that the proof is of the plan: the "
            "original, cut by it anew, differs from the masked original by at most "
            f"{error} (allowed: {allowed}), in fp64."
        )
    return Section(title="The proof", text=[text])


def _widths(made: Plan) -> Section:
    """The first dimension of every weight that lost some of it."""
    found = {
        name.removesuffix(".weight"): (made.shapes[name][0], made.shape_after(name)[0])
        for name in made.shapes
        if name.endswith("weight") and len(made.shapes[name]) > 1 and 0 in made.kept.get(name, {})
    }
    shown = dict(list(found.items())[:WIDTHS])
    if not shown:
        return Section(title="The widths", text=[])
    told = "; ".join(f"{name} {before} to {after}" for name, (before, after) in shown.items())
    text = [f"Only the first {len(shown)} of {len(found)} widths are drawn; the plan has all."]
    return Section(
        title="The widths",
        text=text if len(shown) < len(found) else [],
        figures=[inline_svg(widths_figure(shown), "widths", f"Widths: {told}")],
    )


def _timings(
    dense: nn.Module, small: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, onnx: bool, repeats: int
) -> Timings:
    with tempfile.TemporaryDirectory() as folder:
        runners = {f"torch {side}": torch_runner(m, args, kwargs) for side, m in (("dense", dense), ("small", small))}
        for side, model in (("dense", dense), ("small", small)) if onnx else ():
            path = Path(folder) / f"{side}.onnx"
            export(model, args, path, kwargs=kwargs)
            runners[f"ONNX Runtime {side}"] = onnx_runner(path, args, kwargs)
        found = measure(runners, repeats=repeats)
    return {
        runtime: (found[f"{runtime} dense"], found[f"{runtime} small"])
        for runtime in ("torch", "ONNX Runtime")
        if f"{runtime} dense" in found
    }


def _speed(timings: Timings) -> Section:
    rows = []
    for name, (dense, small) in timings.items():
        ratio = speedup(dense, small)
        sides = (f"{milliseconds(x.median_ms)} [{x.low_ms:.3f}, {x.high_ms:.3f}]" for x in (dense, small))
        rows.append((name, *sides, f"{ratio.median:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"))
    note = (
        "Median of the calls [95 % confidence interval], dense and small in turns, on this machine, "
        f"{torch.get_num_threads()} threads."
    )
    table = Table("Latency", ("where", "dense", "small", "faster"), tuple(rows), strong=3, note=note)
    ratios = {name: speedup(*pair).median for name, pair in timings.items()}
    told = "; ".join(f"{name}: {value:.2f} times faster" for name, value in ratios.items())
    return Section(title="Speed", figures=[inline_svg(speedup_figure(ratios), "speed", told)], tables=[table])


def _tradeoff(
    dense: nn.Module, args: Any, kwargs: Mapping[str, Any] | None, evaluate: Callable[[nn.Module], float] | None
) -> Section:
    """What each ratio leaves, and what it costs."""
    graph, whole = trace(dense, args, kwargs), profile(dense, args, kwargs, latency=False)
    points: list[tuple[float, float, float | None]] = [(1.0, 1.0, float(evaluate(dense)) if evaluate else None)]
    rows = []
    for ratio in RATIOS:
        try:
            small = plan(graph, ratio=ratio).apply(dense)
        except NothingToPrune:
            continue
        cost = profile(small, args, kwargs, latency=False)
        left, macs = cost.parameters / whole.parameters, cost.macs / max(whole.macs, 1)
        points.append((left, macs, float(evaluate(small)) if evaluate else None))
        cells = (f"{ratio:.0%}", f"{left:.1%}", f"{macs:.1%}")
        rows.append((*cells, *([f"{points[-1][2]:g}"] if evaluate else [])))
    columns = ("ratio", "parameters left", "MACs left", *(["score"] if evaluate else []))
    figure = tradeoff_figure(points)
    return Section(
        title="What a cut would cost",
        text=["Every group cut by the same ratio, without any mending or training."],
        figures=[inline_svg(figure, "tradeoff", "What a cut would cost")],
        tables=[Table("", columns, tuple(rows))],
    )


def _sensitivity(measured: Sensitivity) -> Section:
    """The curves of the groups that lost most at their deepest cut; a figure of all of a large model can't be read."""
    metric, curves = next(iter(measured.baseline)), measured.curves()
    steepest = sorted(curves, key=lambda group: curves[group][-1][1])[:CURVES]
    figure = sensitivity_figure({group: curves[group] for group in curves if group in steepest}, ylabel=metric)
    rows = [(group, *(f"{points[-1][i]:.4g}" for i in (0, 1))) for group, points in curves.items()]
    return Section(
        title="Which layers can lose how much?",
        text=[
            f"Each group was cut alone, without any mending or training; drawn are the {len(steepest)} that lost most."
        ],
        figures=[inline_svg(figure, "sensitivity", "Which layers can lose how much?")],
        tables=[Table("The deepest cut of each", ("group", "share removed", metric), tuple(rows))],
    )


def _profiles(name: str, before: Profile, after: Profile) -> Section:
    kept = {row.name: row for row in after.rows}
    rows = []
    for row in before.rows:
        left = kept.get(row.name)
        if row.parameters or row.macs:
            rows.append((row.name, row.type, count(row.parameters), count(left.parameters if left else 0),
                         count(row.macs), count(left.macs if left else 0)))  # fmt: skip
    columns = ("layer", "type", "parameters", "after", "MACs", "after")
    table = Table(f"{name}, layer by layer", columns, tuple(rows), labels=2)
    return Section(title="Where the parameters and the work are", tables=[table])


def _again(reproduce: str) -> Section:
    versions = f"prunus {_version()}, torch {torch.__version__}, Python {platform.python_version()}"
    return Section(title="Do it again", text=[f"Made with {versions}."], code=reproduce)


def _version() -> str:
    import prunus

    return prunus.__version__
