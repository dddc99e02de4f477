"""The model as a graph of operators: torch.export, with the batch and, where it can, other sizes left open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from prunus.deploy.detectors import detectors_as_graphs
from prunus.deploy.parity import Batch, Inputs
from prunus.running import tensors_in
from prunus.state import untouched


def capture(small: nn.Module, inputs: Inputs, dynamic: bool, sizes: bool = False) -> Any:
    """The ``torch.export.ExportedProgram`` of a model.

    Args:
        small: in eval mode.
        inputs: the example.
        dynamic: leave the batch open; torch.export raises where the model fixes it.
        sizes: leave every other dimension of the inputs open too that the model doesn't fix.
    """
    batch, shapes = Batch(inputs), None
    if dynamic and batch.size == 1:  # torch.export takes a size of 1 for a constant
        inputs = pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]) if batch.holds(t) else t, inputs)
        batch = Batch(inputs)
    if dynamic or sizes:
        shapes, dim = torch.export.ShapesCollection(), torch.export.Dim("batch")
        for tensor in tensors_in(inputs):
            first = {0: dim} if dynamic and batch.holds(tensor) else {}
            others = {d: torch.export.Dim.AUTO for d in range(tensor.dim()) if d not in first} if sizes else {}
            if first or others:
                shapes[tensor] = {**others, **first}
    args, kwargs = inputs
    with untouched(small), detectors_as_graphs():
        return torch.export.export(small, args, kwargs, dynamic_shapes=shapes, strict=False)


def open_dims(program: Any, inputs: Inputs) -> list[tuple[int, ...]]:
    """For each input tensor the dimensions, but the batch, whose size the program leaves open."""
    user = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in user]
    batch, found = Batch(inputs), []
    for value, tensor in zip((v for v in values if isinstance(v, Tensor)), tensors_in(inputs), strict=True):
        first = 1 if batch.holds(tensor) else 0
        found.append(tuple(d for d in range(first, value.dim()) if _is_open(value.shape[d])))
    return found


def chosen(program: Any) -> tuple[int, ...]:
    """One output for each number of rows that depends on values: the boxes of each image, say; its place among the
    output tensors.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    outputs = [nodes[name].meta["val"] for name in program.graph_signature.user_outputs if name in nodes]
    found: dict[str, int] = {}
    for place, value in enumerate(value for value in outputs if isinstance(value, Tensor)):
        if value.dim() and free_unbacked_symbols(value.shape[0]):
            found.setdefault(str(value.shape[0]), place)
    return tuple(found.values())


def _is_open(size: Any) -> bool:
    """A symbol that torch.export has found to be a number is none."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number
