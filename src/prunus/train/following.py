"""The optimizer follows the cut: its state is sliced like the weights, so that training goes on instead of starting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunus.errors import InputError, PlanError
from prunus.plan import Plan
from prunus.surgery import slice_tensor

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)
Cut = Mapping[int, tuple[int, ...]]


def follow(optimizer: Optimizer, model: nn.Module, small: nn.Module, plan: Plan | None = None) -> Optimizer:
    """Let ``optimizer``, made for ``model``, train ``small`` from now on, as it would have gone on.

    Momentum, Adam's moments and any other state of a parameter's shape are sliced by the Plan; a state with dimensions
    of size 1 (Adafactor's rows and columns) is sliced along the others; counts stay. Parameter groups keep their
    options, and the optimizer stays the same object, so that schedulers still hold it. Parameters that the cut added
    (biases) join the group of the weight beside them, without a state; those of removed blocks leave.

    Args:
        optimizer: changed in place, and returned. Parameters that aren't ``model``'s stay in it as they are.
        model: the model before the cut.
        small: ``plan.apply(model)``, trained or not.
        plan: the one of this cut; ``small.prunus_plan`` by default, which is right for a model that is cut once.

    Raises:
        PlanError: the plan isn't of ``model``, doesn't lead to ``small``, or counts units in another order.
        InputError: the optimizer holds none of ``model``'s parameters, or a state that can't be sliced; nothing has
            changed then.
    """
    plan = plan if plan is not None else small.__dict__.get("prunus_plan")
    if not isinstance(plan, Plan):
        raise PlanError(f"{type(small).__name__} carries no plan: give the one that it was made by.")
    plan.check_fits(model)
    if plan.reordered:
        raise PlanError(
            "extraction put units in another order before this cut, so that the optimizer's state can't be sliced by "
            "the plan: make a new optimizer for the small model."
        )
    new, cuts = _pairs(model, small, plan)
    if not any(id(p) in new for group in optimizer.param_groups for p in group["params"]):
        raise InputError("the optimizer holds none of the model's parameters: was it made for another one?")
    states = {
        p: {name: _sliced(value, p, cuts[id(p)], name) for name, value in state.items()}
        for p, state in optimizer.state.items()
        if id(p) in new
    }
    for p, state in states.items():
        del optimizer.state[p]
        follower = new[id(p)]
        if follower is not None:
            optimizer.state[follower] = state
    for group in optimizer.param_groups:
        group["params"] = _followed(group["params"], new, _beside(model, small, plan))
    return optimizer


def _pairs(model: nn.Module, small: nn.Module, plan: Plan) -> tuple[dict[int, nn.Parameter | None], dict[int, Cut]]:
    """For each of the model's parameters, by ``id``, what follows it (nothing in a removed block), and its cut."""
    found = dict(small.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Parameter | None] = {}
    cuts: dict[int, Cut] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not plan.survives(name):
            new.setdefault(id(parameter), None)
            cuts.setdefault(id(parameter), {})
            continue
        if name not in found or tuple(found[name].shape) != plan.shape_after(name):
            raise PlanError(
                f"the plan doesn't lead to this small model: {name!r} isn't {plan.shape_after(name)} there."
            )
        new[id(parameter)], cuts[id(parameter)] = found[name], plan.kept.get(name, {})
    return new, cuts


def _sliced(value: Any, parameter: Tensor, cut: Cut, name: str) -> Any:
    """One entry of a parameter's state after the cut."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    shape = parameter.shape
    fits = value.dim() == len(shape) and all(have in (want, 1) for have, want in zip(value.shape, shape, strict=True))
    if fits:
        return slice_tensor(value, {d: kept for d, kept in cut.items() if value.shape[d] == shape[d]})
    if value.numel() == 1:
        return value
    raise InputError(
        f"the optimizer's state {name!r} is {list(value.shape)} for a parameter of {list(shape)}, and prunus can't "
        "tell how it follows a cut: make a new optimizer for the small model."
    )


def _beside(model: nn.Module, small: nn.Module, plan: Plan) -> dict[int, list[nn.Parameter]]:
    """For the ``id`` of a weight of the small model, the bias that the cut added beside it."""
    had = dict(model.named_parameters(remove_duplicate=False))
    found = dict(small.named_parameters(remove_duplicate=False))
    added: dict[int, list[nn.Parameter]] = {}
    for name in plan.biases:
        if name not in had and name in found:
            added.setdefault(id(found[name.removesuffix("bias") + "weight"]), []).append(found[name])
    return added


def _followed(
    params: list[Tensor], new: Mapping[int, nn.Parameter | None], added: Mapping[int, list[nn.Parameter]]
) -> list[Tensor]:
    """One group's parameters after the cut."""
    result: list[Tensor] = []
    for p in params:
        follower = new.get(id(p), p)
        if follower is not None:
            result += [follower, *added.get(id(follower), [])]
    return result
