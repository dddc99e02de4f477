"""The integers that torch's own layers hold about their sizes, as functions of their tensors' shapes after the cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from prunus.surgery import AttributeChange

Shapes = Callable[[str], tuple[int, ...]]
"""From the name of a tensor of the layer (``"weight"``) to its shape after the cut."""


def layer_changes(
    model: nn.Module, shape_after: Shapes, known: Mapping[tuple[str, str], int]
) -> Iterator[AttributeChange]:
    """The changes that keep ``in_features`` and its like true. ``known`` holds attributes that are set already."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        groups = known.get((path, "groups"), getattr(module, "groups", 1))
        for name, new in _sizes(module, lambda tensor, p=prefix: shape_after(p + tensor), groups).items():  # type: ignore[misc]
            old = module.__dict__.get(name)
            if isinstance(old, int) and old != new and (path, name) not in known:
                yield AttributeChange(path, name, (), old, new)


def _sizes(module: nn.Module, shape: Shapes, groups: int) -> dict[str, int]:
    if isinstance(module, nn.MultiheadAttention):
        return _attention(shape, module)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return _recurrent(shape, module)
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return {"num_features": shape("running_mean")[0]} if _has_statistics(module) else {}
    weight = shape("weight")
    if isinstance(module, _ConvNd):
        a, b = (
            (weight[0], weight[1] * groups) if isinstance(module, _ConvTransposeNd) else (weight[1] * groups, weight[0])
        )
        return {"in_channels": a, "out_channels": b}
    if isinstance(module, nn.Linear):
        return {"in_features": weight[1], "out_features": weight[0]}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": weight[0], "in1_features": weight[1], "in2_features": weight[2]}
    return {"num_features": weight[0]} if isinstance(module, _NormBase) else {}


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module._buffers.get("running_mean") is not None


def _attention(shape: Shapes, module: nn.MultiheadAttention) -> dict[str, int]:
    width = shape("out_proj.weight")[0]
    if module.in_proj_weight is not None:
        return {"embed_dim": width, "kdim": width, "vdim": width}
    return {"embed_dim": width, "kdim": shape("k_proj_weight")[1], "vdim": shape("v_proj_weight")[1]}


def _recurrent(shape: Shapes, module: nn.RNNBase | nn.RNNCellBase) -> dict[str, int]:
    """Gates lie on top of each other, ``[gates * hidden, ...]``; a projected state is narrower than the cell."""
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": shape("weight_ih")[1], "hidden_size": shape("weight_hh")[1]}
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    sizes = {"input_size": shape("weight_ih_l0")[1], "hidden_size": shape("weight_ih_l0")[0] // gates}
    return {**sizes, "proj_size": shape("weight_hr_l0")[0]} if module.proj_size else sizes


def mirrored_changes(model: nn.Module, changes: Iterable[AttributeChange]) -> Iterator[AttributeChange]:
    """einops layers hold the sizes of a pattern twice: copies are made from the one that ``forward`` doesn't read."""
    for change in changes:
        if change.name == "_axes_lengths":
            lengths = model.get_submodule(change.module).__dict__[change.name]
            key = lengths[change.path[0]][0]
            yield AttributeChange(change.module, "axes_lengths", (key,), change.old, change.new)
