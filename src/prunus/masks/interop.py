"""torch.nn.utils.prune: its masks taken over, and given back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import prune

from prunus.errors import InputError
from prunus.masks.sparsifier import Sparsifier

_ORIG, _MASK = "_orig", "_mask"


def from_torch_prune(model: nn.Module) -> Sparsifier:
    """Take over the masks of torch.nn.utils.prune, in place: the model is then a plain one, with zeros.

    The parameter objects stay the same, so an optimizer made for them goes on. Masked weights become zero (torch keeps
    their old values in ``weight_orig``; they are lost). Parameters that torch didn't mask have no mask here, and aren't
    pruned further.

    Raises:
        InputError: nothing is masked; after ``prune.remove`` only zeros are left, and ``from_zeros`` reads those.
    """
    masks: dict[str, Tensor] = {}
    for path, module in list(model.named_modules()):
        hooks = [h for h in module._forward_pre_hooks.values() if isinstance(h, prune.BasePruningMethod)]
        for hook in hooks:
            own = hook._tensor_name
            masks[f"{path}.{own}" if path else own] = module.get_buffer(own + _MASK).detach() != 0
            order = [name.removesuffix(_ORIG) for name in module._parameters]
            prune.remove(module, own)
            _reorder(module, order)
    if not masks:
        raise InputError(
            f"{type(model).__name__} has no masks of torch.nn.utils.prune. After prune.remove only its zeros are left: "
            "prunus.masks.from_zeros(model)."
        )
    return Sparsifier(model, only=list(masks)).set(masks)


def to_torch_prune(sparse: Sparsifier) -> nn.Module:
    """Give the masks that hide anything to torch.nn.utils.prune (``custom_from_mask``), in place; returns the model."""
    for name, mask in sparse.masks.items():
        if not mask.all():
            path, _, own = name.rpartition(".")
            weight = sparse.model.get_parameter(name)
            prune.custom_from_mask(sparse.model.get_submodule(path), own, mask.to(weight.device, weight.dtype))
    return sparse.model


def plain_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict saved while torch.nn.utils.prune's masks were on -> one that loads into a fresh model.

    ``weight_orig`` and ``weight_mask`` become ``weight``, their product; what has no such pair stays as it is.
    """
    result = {}
    for name, tensor in state.items():
        base = name.removesuffix(_ORIG)
        if name.endswith(_ORIG) and base + _MASK in state:
            result[base] = tensor.masked_fill(state[base + _MASK] == 0, 0)
        elif not (name.endswith(_MASK) and name.removesuffix(_MASK) + _ORIG in state):
            result[name] = tensor
    return result


def _reorder(module: nn.Module, order: list[str]) -> None:
    """``prune.remove`` puts a parameter last; optimizers' state dicts go by position, so put it back."""
    for name in order:
        module._parameters[name] = module._parameters.pop(name)
