"""A plain copy of a masked model: the masks are in the weights, and nothing else is left of them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import prune

from prunus.surgery import copy_model, like, named_tensors


def clean(model: nn.Module) -> nn.Module:
    """Copy ``model``, with every mask of torch.nn.utils.prune made permanent in the copy.

    ``copy.deepcopy`` fails on a masked model, because the masked weight is the result of a computation: here each
    tensor is copied by itself.
    """
    replace: dict[int, Tensor] = {}
    for tensor in named_tensors(model).values():
        replace.setdefault(id(tensor), like(tensor, tensor.detach().clone()))
    plain = copy_model(model, replace)
    for module in list(plain.modules()):
        for hook in [h for h in module._forward_pre_hooks.values() if isinstance(h, prune.BasePruningMethod)]:
            order = [name.removesuffix("_orig") for name in module._parameters]
            prune.remove(module, hook._tensor_name)
            for name in order:  # remove() puts the parameter last; optimizers go by position
                module._parameters[name] = module._parameters.pop(name)
    return plain
