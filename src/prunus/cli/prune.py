"""``prunus prune``: from a factory and weights to a proven, small model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.answers import Json, answering
from prunus.cli.budgets import Budgets, Table, budgets, table_of
from prunus.cli.options import WITH_DATA, WITHOUT_DATA, Data, Inputs, Model, Weights, batches, build, examples
from prunus.cli.shipping import shipped
from prunus.compensation.waves import METHODS


def prune(
    model: Model,
    shapes: Inputs,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to save the small model to.")] = None,
    weights: Weights = None,
    ratio: Annotated[float | None, typer.Option(help="Part of every group to remove, in [0, 1); else 0.5.")] = None,
    budget: Budgets = None,
    table: Table = None,
    runtime: Annotated[str | None, typer.Option(help="For a budget of latency: onnx, torch, compile or cuda.")] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help=f"What goes first: {WITHOUT_DATA}; with --data also {WITH_DATA}. By default l2, with --data auto."
        ),
    ] = None,
    data: Data = "",
    compensation: Annotated[
        str,
        typer.Option(help="With --data, how the rest is mended after the proof: refit, scale, bias or none."),
    ] = "refit",
    scope: Annotated[
        str | None,
        typer.Option(help="local: from each group alike; global: from all together; shared: local's MACs, least lost."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Group, module or tensor to leave as it is. Repeat for more.")
    ] = None,
    round_to: Annotated[int | None, typer.Option(help="Round what is left up to a multiple of this.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Also export the small model to this ONNX file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go, what it saves, and what is frozen.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that prunus saved before.")] = False,
    as_json: Json = False,
) -> None:
    """Cut a model, prove that it computes what its masked original does, and save it without pickle."""
    import prunus

    if out is None and not dry_run:
        raise prunus.InputError("say where the small model goes, --out FOLDER, or only look: --dry-run.")
    if compensation not in (*METHODS, "none"):
        raise prunus.InputError(f"--compensation is one of {', '.join(METHODS)} or none, not {compensation!r}.")
    with answering(as_json) as answer:
        dense, args, seen = build(model, weights), examples(shapes), batches(data)
        if seen is not None and compensation == "refit" and importance in (None, "auto"):
            dense = prunus.rotate(dense, seen, args).model
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
            data=seen,
        )
        if dry_run or out is None:
            typer.echo(plan.explain())
            answer.value = {"how": plan.how}
            return
        small = plan.apply(dense)
        proof = prunus.prove(dense, small, plan, args)
        if not proof.ok and not proof.vacuous:
            raise prunus.PlanError(f"{proof}. This is a bug of prunus: nothing was saved; please report the model.")
        typer.echo(str(proof))
        if seen is not None and compensation != "none":
            prunus.compensate(dense, small, plan, seen, args, method=compensation)
            typer.echo(f"mended on the data: {compensation}")
        answer.value = {"proof": proof, "how": plan.how} | shipped(dense, small, args, out, overwrite, onnx)
