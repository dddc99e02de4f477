"""What prune and extract do last: tell what is left, save, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from torch import nn


def shipped(
    dense: nn.Module, small: nn.Module, args: Any, out: Path, overwrite: bool, onnx: Path | None
) -> dict[str, Any]:
    """Save to ``out`` and export to ``onnx``, telling each; the same as values."""
    import prunus

    before, after = (prunus.profile(m, args, latency=False) for m in (dense, small))
    sizes = {"parameters": (before.parameters, after.parameters), "MACs": (before.macs, after.macs)}
    for name, (old, new) in sizes.items():
        typer.echo(f"{name:<11} {old:,} -> {new:,}  ({new / max(old, 1):.1%})")
    folder = prunus.save(small, out, overwrite=overwrite)
    typer.echo(f"saved to {folder}: load it with prunus.load({str(folder)!r}, factory)")
    document = {name.lower(): {"before": old, "after": new} for name, (old, new) in sizes.items()}
    exported = None if onnx is None else prunus.export(small, args, onnx)
    if exported is not None:
        typer.echo(str(exported))
    return {**document, "folder": folder, "onnx": exported}
