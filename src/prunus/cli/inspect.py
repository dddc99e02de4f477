"""``prunus inspect``: what can be cut together, and why the rest can't."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.options import Inputs, Model, Weights, build, examples

if TYPE_CHECKING:
    from prunus.trace import Graph


def inspect(
    model: Model,
    shapes: Inputs,
    weights: Weights = None,
    why: Annotated[
        str,
        typer.Option(metavar="NAME[:DIM]", help="Tell of one tensor (and dimension), group or module: conv1.weight:0."),
    ] = "",
    depth: Annotated[int | None, typer.Option(min=0, help="Levels of modules in the tree; all by default.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with a drawing of the groups.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the drawing of the groups alone.")] = None,
    as_json: Json = False,
) -> None:
    """Show a model as a tree of axes, the groups that are cut together, and why the rest is frozen."""
    import prunus
    from prunus.report.terminal import Terminal
    from prunus.report.tree import module_tree

    name, _, dim = why.partition(":")
    if dim and not dim.lstrip("-").isdigit():
        raise prunus.InputError(f"--why takes NAME or NAME:DIM, such as conv1.weight:0, not {why!r}.")
    with answering(as_json) as answer:
        graph = prunus.trace(build(model, weights), examples(shapes))
        _draw(graph, html, svg)
        if why:
            answer.text = graph.explain(name, int(dim) if dim else None)
            answer.value = {"name": why, "why": answer.text}
        elif as_json:
            answer.value = _as_json(graph)
        else:
            Terminal().tree(module_tree(graph, depth))
            answer.text = f"\n{graph}"


def _draw(graph: Graph, html: Path | None, svg: Path | None) -> None:
    from prunus.report import write_report

    if html is not None:
        from prunus.report.groups import report

        write_report(report(graph), html)
    if svg is not None:
        from prunus.report.charts import groups_figure
        from prunus.report.groups import network

        groups_figure(network(graph)).savefig(svg, format="svg")


def _as_json(graph: Graph) -> dict[str, Any]:
    return {
        "groups": [
            {"name": g.name, "size": g.size, "state": graph.state(g), "members": [str(m) for m in g.members]}
            for g in graph.groups
        ],
        "tensors": {name: [graph.format(axis) for axis in axes] for name, axes in graph.tensors.items()},
        "unsupported": dict(graph.unsupported),
        "notes": list(graph.notes),
    }
