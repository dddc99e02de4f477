"""``prunus inspect``: what can be cut together, and why the rest can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model as a tree of axes, the groups that are cut together, and why the rest is frozen."""
    import prunus
    from prunus.report import write_report
    from prunus.report.terminal import Terminal
    from prunus.report.tree import module_tree

    name, _, dim = why.partition(":")
    if dim and not dim.lstrip("-").isdigit():
        raise prunus.InputError(f"--why takes NAME or NAME:DIM, such as conv1.weight:0, not {why!r}.")
    graph = prunus.trace(build(model, weights), examples(shapes))
    if html is not None:
        from prunus.report.groups import report

        write_report(report(graph), html)
    if svg is not None:
        from prunus.report.charts import groups_figure
        from prunus.report.groups import network

        groups_figure(network(graph)).savefig(svg, format="svg")
    if why:
        typer.echo(graph.explain(name, int(dim) if dim else None))
    elif as_json:
        typer.echo(json.dumps(_as_json(graph), indent=2))
    else:
        Terminal().tree(module_tree(graph, depth))
        typer.echo(f"\n{graph}")


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
