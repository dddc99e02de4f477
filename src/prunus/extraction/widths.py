"""Layers with dead channels on an axis that others keep alive: have them compute only the channels that count."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from prunus.plan import Plan
from prunus.spread import INDEX, SPREAD
from prunus.surgery import AttributeChange, named_tensors

_LEAST = 0.125  # of the channels must be dead: laying the others in place takes time too


def spread_out(plan: Plan, model: nn.Module, own: Collection[str]) -> Plan:
    """``plan``, with the layers of ``model`` (values changed, not yet cut) spread where that pays.

    Args:
        own: the modules whose ``forward`` is what reads their weight.
    """
    shapes, kept = dict(plan.shapes), {name: dict(cut) for name, cut in plan.kept.items()}
    attributes, spread = list(plan.attributes), []
    counts: dict[int, int] = {}
    for tensor in named_tensors(model).values():
        counts[id(tensor)] = counts.get(id(tensor), 0) + 1
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if path not in own or not _can(model, path, module) or counts[id(module.weight)] > 1:
            continue
        rows = kept.get(name, {}).get(0, tuple(range(shapes[name][0])))
        live = _live(module, rows, kept.get(name, {}).get(1))
        if not 0 < len(live) <= len(rows) * (1 - _LEAST):
            continue
        index = f"{path}.{INDEX}" if path else INDEX
        shapes[index] = shapes[name][:1]
        if len(rows) < shapes[name][0]:
            kept[index] = {0: rows}
        kept.setdefault(name, {})[0] = live
        width = "out_features" if isinstance(module, nn.Linear) else "out_channels"
        attributes = [c for c in attributes if (c.module, c.name) != (path, width)]
        attributes.append(AttributeChange(path, width, (), getattr(module, width), len(live)))
        spread.append(path)
    return replace(plan, shapes=shapes, kept=kept, attributes=tuple(attributes), spread=tuple(spread))


def _can(model: nn.Module, path: str, module: nn.Module) -> bool:
    """A plain layer, not in groups. torch's encoder layers read the weights of theirs on a path that isn't traced."""
    if type(module) not in SPREAD or getattr(module, "groups", 1) != 1:
        return False
    parent = model.get_submodule(path.rpartition(".")[0])
    return not isinstance(parent, nn.TransformerEncoderLayer)


def _live(module: Any, rows: tuple[int, ...], columns: tuple[int, ...] | None) -> tuple[int, ...]:
    weight = module.weight.detach()
    if columns is not None:
        weight = weight.index_select(1, torch.tensor(columns, device="cpu"))
    alive = (weight != 0).flatten(1).any(1).tolist()
    return tuple(i for i in rows if alive[i])
