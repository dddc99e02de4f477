"""docs/extract.md, from the outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.extract import habits, models
from benchmarks.extract.judge import DOUBLE, SINGLE, Outcome
from benchmarks.extract.routes import MODELS, OTHER, ROUTES, Route

HEAD = f"""# From masks to a small network

Written by `make bench-extract`. Error is `max|small - masked| / max|masked|` on inputs that the tools haven't seen.

## Exact

{{summary}}

Random weights, random biases, random batch norms. Of torchvision's models the given share of the filters (rows) of
every convolution and linear layer but the last is masked by L1; of the transformers, feed-forward neurons and the
values of whole heads; of the LSTM, units that nothing reads or that stay at zero. "Left" are parameters. The bounds are
{DOUBLE:g} in fp64 and {SINGLE:g} in fp32. "Itself" is what fp32 costs each of the two models, against the masked
one in fp64. "Moves" is how far the outputs of two inputs lie apart, on the same scale: the least that an error
would have to show.
"""

ROUTE_HEAD = f"""## The same masks by other routes

Half of the filters of every convolution, 224², fp32; "elsewhere" is an image of {OTHER}². NNI's own tracer doesn't run
on today's torch, so it is given a graph of `torch.fx`; it is exact only where no dead filter emits anything, which the
rows "no shifts" have (biases, shifts and running means zero). "Dropping" is `mode="drop"`, before any fine-tuning.
"""


def page(found: Sequence[Outcome | Route]) -> str:
    exact = [o for o in found if isinstance(o, Outcome)]
    routes = [r for r in found if isinstance(r, Route)]
    parts = [HEAD.format(summary=_summary(exact)), _exact(exact)]
    if routes:
        parts += [ROUTE_HEAD, _routes(routes)]
    parts += ["## What torch.nn.utils.prune leaves behind\n\nLeNet, half of the weights.\n", _habits()]
    return "\n".join(parts)


def _summary(exact: Sequence[Outcome]) -> str:
    good, run = sum(o.ok for o in exact), {o.name for o in exact}
    words = [f"{good} of {len(exact)} extractions ({len(run)} models, 30, 50 and 80 % masked) are exact and smaller."]
    over = [o for o in exact if o.single > SINGLE]
    words.append(f"In fp32 {len(exact) - len(over)} are within {SINGLE:g}.")
    if over:
        own = sum(o.single <= 2 * o.rounding for o in over)
        words.append(f"Of the other {len(over)}, {own} are within twice what fp32 costs the masked model itself.")
    missing = [name for name in models.names() if name not in run]
    if missing:
        words.append(f"Not run here ({len(missing)} models): {', '.join(missing)}.")
    words += [
        f"{name} has {how}: more don't fit the memory." for name, (how, _) in models.SHALLOW.items() if name in run
    ]
    bad = [str(o) for o in exact if not o.ok]
    return "\n".join([*words, *(f"* {line}" for line in bad)])


def _exact(exact: Sequence[Outcome]) -> str:
    head = (
        "model",
        "parameters",
        *(f"left of {a:.0%} masked" for a in models.AMOUNTS),
        "fp64",
        "fp32",
        "masked fp32 itself",
        "small fp32 itself",
        "moves",
    )
    rows = [head, *_dashes(head)]
    for name in dict.fromkeys(o.name for o in exact):
        mine = {o.amount: o for o in exact if o.name == name}
        size = max(o.before for o in mine.values())
        left = (f"{mine[a].after / size:.1%}" if a in mine and mine[a].after else "–" for a in models.AMOUNTS)
        worst = (f"{max(getattr(o, w) for o in mine.values()):.1e}" for w in ("double", "single", "rounding", "own"))
        moves = f"{min(o.moves for o in mine.values()):.0e}"
        rows.append((name, f"{size:,}", *left, *worst, moves))
    return _lines(rows)


def _routes(routes: Sequence[Route]) -> str:
    head = ("model", "route", "parameters left", "error", "elsewhere", "CPU s")
    rows = [head, *_dashes(head)]
    by = {(r.name, r.route): r for r in routes}
    for name in MODELS:
        for route in ROUTES:
            if (name, route) in by:
                r = by[name, route]
                told = (r.why, "–") if r.why else (f"{r.error:.1e}", r.elsewhere)
                rows.append((name, route, f"{r.after:,}" if r.after else "–", *told, f"{r.seconds:.1f}"))
    missing = [f"{name} by {route}" for name in MODELS for route in ROUTES if (name, route) not in by]
    return _lines(rows) + (f"\nNot run here: {'; '.join(missing)}.\n" if missing else "")


def _habits() -> str:
    head = ("what", "torch.nn.utils.prune", "prunus.Sparsifier")
    return _lines([head, *_dashes(head), *habits.rows()])


def _dashes(head: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple("---" for _ in head)]


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
