"""Who cuts: prunus without a hint, and Torch-Pruning with every hint that its README and examples ask for."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import prunus
from benchmarks.zoo.case import Example, cast, cast_model


def prunus_cut(example: Example) -> tuple[nn.Module, float, str]:
    """The small model, the processor seconds that it took, and what held most of what stayed.

    The model is traced in fp32, as users have it: not every model runs in fp64.
    """
    usual = cast_model(copy.deepcopy(example.model), torch.float32)
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: cast(t, torch.float32), (example.args, dict(example.kwargs))
    )
    for _ in range(2):  # the first run imports, as the peer's first does; and its work is timed in fp32 too
        seconds, graph, plan = timed_cut(usual, args, kwargs)
    why = what_stayed(graph)
    del usual, graph  # of the largest models a copy more is one too many
    small = plan.apply(example.model)
    proof = prunus.prove(example.model, small, plan, example.args, example.kwargs)
    if not proof.ok:
        raise ArithmeticError(str(proof))
    return small, seconds, why


def timed_cut(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[float, prunus.Graph, prunus.Plan]:
    """The processor seconds from model to small model, with the graph and the plan."""
    start = time.process_time()
    graph = prunus.trace(model, args, kwargs)
    plan = prunus.plan(graph, ratio=0.5, importance="random")
    plan.apply(model)
    return time.process_time() - start, graph, plan


def what_stayed(graph: prunus.Graph) -> str:
    """The reason why most of what stays whole does so."""
    reasons: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen and not group.frozen.startswith(("a model input", "a convolution's")):
            reasons[group.frozen] = reasons.get(group.frozen, 0) + group.size * len(group.members)
    return max(reasons, key=lambda r: reasons[r]) if reasons else ""


def torch_pruning_cut(example: Example) -> tuple[nn.Module, float, str]:
    """Torch-Pruning's small model (the example's own, cut in place), and the processor seconds that it took."""
    import torch_pruning as tp

    model = example.model
    inputs: Any = example.args if not example.kwargs else {**example.kwargs}
    heads, outputs = _heads(model), _last_layers(example)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MagnitudePruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=outputs,
            num_heads={layer: n for layer, (_, _, n) in heads.items()},
            prune_num_heads=bool(heads),
            head_pruning_ratio=0.5,
            output_transform=_sum,
        )
        pruner.step()
    for layer, (owner, names, _) in heads.items():
        for name in names:
            if layer in pruner.num_heads:
                setattr(owner, name, pruner.num_heads[layer])
    return model, time.process_time() - start, ""


_HEADS = {
    "qkv": ("num_heads",),
    "query": ("num_attention_heads", "num_heads"),
    "key": ("num_attention_heads", "num_heads"),
    "value": ("num_attention_heads", "num_heads"),
    "q_proj": ("num_heads", "num_attention_heads"),
    "k_proj": ("num_key_value_heads", "num_heads"),
    "v_proj": ("num_key_value_heads", "num_heads"),
    "q": ("n_heads", "num_heads"),
    "k": ("n_heads", "num_heads"),
    "v": ("n_heads", "num_heads"),
}


def _heads(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, list[str], int]]:
    """Attention layers with the module, the attributes and the number of heads that they belong to."""
    found: dict[nn.Module, tuple[nn.Module, list[str], int]] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = (module, [], module.num_heads)
            continue
        for name, layer in module.named_children():
            names = [n for n in _HEADS.get(name, ()) if isinstance(getattr(module, n, None), int)]
            if names and isinstance(layer, nn.Linear):
                found[layer] = (module, names, getattr(module, names[0]))
    return found


def _last_layers(example: Example) -> list[nn.Module]:
    """The layers whose outputs are outputs of the model: they keep their width."""
    calls: list[tuple[nn.Module, torch.Tensor]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            calls.append((module, output))

    layers = [m for m in example.model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    handles = [m.register_forward_hook(note) for m in layers]
    with torch.no_grad():
        result = torch.utils._pytree.tree_leaves(example.model(*example.args, **example.kwargs))
    for handle in handles:
        handle.remove()
    same = [m for m, out in calls if any(out is r or _shares(out, r) for r in result)]
    return list(dict.fromkeys([*same, *[m for m, _ in calls[-1:]]]))


def _shares(a: torch.Tensor, b: Any) -> bool:
    return isinstance(b, torch.Tensor) and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _sum(output: Any) -> torch.Tensor:
    leaves = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]
    return torch.stack([t.sum() for t in leaves if t.is_floating_point()]).sum()


CONTENDERS = {"prunus": prunus_cut, "Torch-Pruning": torch_pruning_cut}
