"""The model as a graph of operators: torch.export, with the batch and, where it can, other sizes left open."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

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
    with untouched(small), _boxes_in_one_way():
        return torch.export.export(small, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _boxes_in_one_way() -> Iterator[None]:
    """Within, torchvision's ``batched_nms`` doesn't look at how many boxes there are, which a graph can't know.

    It moves the boxes of each class to a place of their own, as torchvision does where there are few.
    """
    boxes: Any = sys.modules.get("torchvision.ops.boxes")
    if boxes is None:
        yield
        return

    def apart(places: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Any:
        largest = torch.cat([places.flatten(), places.new_zeros(1)]).max()
        offsets = classes.to(places) * (largest + 1)
        return boxes.nms(places + offsets[:, None], scores, threshold)

    before, boxes.batched_nms = boxes.batched_nms, apart
    try:
        yield
    finally:
        boxes.batched_nms = before


def open_dims(program: Any, inputs: Inputs) -> list[tuple[int, ...]]:
    """For each input tensor the dimensions, but the batch, whose size the program leaves open."""
    user = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in user]
    batch, found = Batch(inputs), []
    for value, tensor in zip((v for v in values if isinstance(v, Tensor)), tensors_in(inputs), strict=True):
        first = 1 if batch.holds(tensor) else 0
        found.append(tuple(d for d in range(first, value.dim()) if _is_open(value.shape[d])))
    return found


def _is_open(size: Any) -> bool:
    """A symbol that torch.export has found to be a number is none."""
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number
