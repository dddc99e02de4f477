"""``prunus prune``: from a factory and weights to a proven, small model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.budgets import Budgets, Table, budgets, table_of
from prunus.cli.options import Inputs, Model, Weights, build, examples


def prune(
    model: Model,
    shapes: Inputs,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to save the small model to.")],
    weights: Weights = None,
    ratio: Annotated[float | None, typer.Option(help="Part of every group to remove, in [0, 1); else 0.5.")] = None,
    budget: Budgets = None,
    table: Table = None,
    runtime: Annotated[str | None, typer.Option(help="For a budget of latency: onnx, torch, compile or cuda.")] = None,
    importance: Annotated[str, typer.Option(help="l1, l2, linf or random.")] = "l2",
    scope: Annotated[
        str | None, typer.Option(help="local: from each group alike; global: from all together (with a budget).")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Group, module or tensor to leave as it is. Repeat for more.")
    ] = None,
    round_to: Annotated[int | None, typer.Option(help="Round what is left up to a multiple of this.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Also export the small model to this ONNX file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that prunus saved before.")] = False,
) -> None:
    """Cut a model, prove that it computes what its masked original does, and save it without pickle."""
    import prunus

    dense, args = build(model, weights), examples(shapes)
    plan = prunus.plan(
        dense,
        args,
        ratio=ratio if table is None else table_of(table, ratio, budget),
        budget=budgets(budget),
        runtime=None if runtime is None else prunus.Runtime(runtime),
        importance=importance,
        scope=scope,
        keep=keep or (),
        round_to=round_to,
    )
    small = plan.apply(dense)
    proof = prunus.prove(dense, small, plan, args)
    if not proof.ok and not proof.vacuous:
        raise prunus.PlanError(f"{proof}. This is a bug of prunus: nothing was saved; please report the model.")
    before, after = (prunus.profile(m, args, latency=False) for m in (dense, small))
    typer.echo(
        f"parameters  {before.parameters:,} -> {after.parameters:,}  ({after.parameters / before.parameters:.1%})"
    )
    typer.echo(f"MACs        {before.macs:,} -> {after.macs:,}  ({after.macs / max(before.macs, 1):.1%})")
    typer.echo(str(proof))
    folder = prunus.save(small, out, overwrite=overwrite)
    typer.echo(f"saved to {folder}: load it with prunus.load({str(folder)!r}, factory)")
    if onnx is not None:
        typer.echo(str(prunus.export(small, args, onnx)))
