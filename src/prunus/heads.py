"""``nn.MultiheadAttention`` whose heads needn't fill its width: heads go, and the residual stream stays as it is.

torch's own asserts ``num_heads * head_dim == embed_dim`` in its ``forward``, so that its heads go only as the width
does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.errors import PlanError
from prunus.surgery import copy_model


class FreeHeads(nn.MultiheadAttention):
    """Computes what ``nn.MultiheadAttention`` does, with any number of heads.

    ``in_proj_weight`` is ``[3 * num_heads * head_dim, embed_dim]`` and ``out_proj.weight`` ``[embed_dim, num_heads *
    head_dim]``. The names of all tensors and the arguments and results of ``forward`` are torch's.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says of what kind attn_mask is: give the mask too.")
        batched, dropout = query.dim() == 3, self.dropout if self.training else 0.0
        q, k, v = map(self._split, self._with_more_keys(*self._projected(query, key, value)))
        is_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if is_causal else self._mask(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q * math.sqrt(1 / q.shape[-1]) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout, self.training)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if not batched:
            return y[0], None if weights is None else weights[0]
        return y if self.batch_first else y.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[batch, length, num_heads * head_dim]``."""
        if query is key and key is value and self.in_proj_weight is not None:
            packed = F.linear(self._with_batch(query), self.in_proj_weight, self.in_proj_bias)
            q, k, v = packed.unflatten(-1, (3, -1)).unbind(-2)
            return q, k, v
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = weights if self.in_proj_weight is None else self.in_proj_weight.unflatten(0, (3, -1)).unbind()
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.unflatten(0, (3, -1)).unbind()
        q, k, v = (self._with_batch(x) for x in (query, key, value))
        return (
            F.linear(q, weights[0], biases[0]),
            F.linear(k, weights[1], biases[1]),
            F.linear(v, weights[2], biases[2]),
        )

    def _with_batch(self, x: Tensor) -> Tensor:
        """``[batch, length, width]``."""
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _with_more_keys(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With the keys, and their values, that no input has."""
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, bias.expand(len(x), -1, -1)], 1) for x, bias in ((k, self.bias_k), (v, self.bias_v)))
        return (q, F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))) if self.add_zero_attn else (q, k, v)

    def _split(self, x: Tensor) -> Tensor:
        """``[batch, num_heads, length, head_dim]``."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores ``[batch, num_heads, queries, keys]``; keys that no input has are seen by all."""
        masks = []
        if attn_mask is not None:
            masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (len(q), self.num_heads)))
        if key_padding_mask is not None:
            masks.append(key_padding_mask[..., None, None, :])
        added = [
            m if m.is_floating_point() else torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -math.inf) for m in masks
        ]
        more = (self.bias_k is not None) + self.add_zero_attn
        return F.pad(sum(added[1:], added[0]), (0, more)) if added else None


def attentions(model: nn.Module) -> list[str]:
    """The names of the modules that :func:`free` can change."""
    return [name for name, module in model.named_modules() if type(module) is nn.MultiheadAttention]


def free(model: nn.Module, names: Iterable[str]) -> None:
    """Make the named attentions of a model of ours :class:`FreeHeads`; their tensors stay as they are.

    Raises:
        PlanError: one of them is no ``nn.MultiheadAttention``.
    """
    for name in names:
        module: Any = model.get_submodule(name)
        if type(module) not in (nn.MultiheadAttention, FreeHeads):
            kind = type(module).__name__
            raise PlanError(f"the plan frees the heads of {name!r}, a {kind}: only an nn.MultiheadAttention has such.")
        module.__class__ = FreeHeads
        module._qkv_same_embed_dim = False  # nn.TransformerEncoderLayer then calls forward
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, FreeHeads) for m in module.modules()):
            vars(module)["use_nested_tensor"] = False


def needed(model: nn.Module, shape_after: Callable[[str], tuple[int, ...]]) -> tuple[str, ...]:
    """The :class:`FreeHeads` of a model whose heads don't fill the width after a cut."""
    names = [(name, f"{name}." if name else "") for name, m in model.named_modules() if isinstance(m, FreeHeads)]
    return tuple(name for name, prefix in names if len(set(shape_after(f"{prefix}out_proj.weight"))) > 1)


def free_heads(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that computes the same, and from which heads of attention can be cut alone.

    In the place of every ``nn.MultiheadAttention`` is a :class:`prunus.heads.FreeHeads`, whose heads needn't fill its
    width. A plan made for the copy fits ``model`` too, and says which layers to replace::

        small = prunus.prune(prunus.free_heads(model), args, ratio={"*attn": 0.5})

    Such a layer doesn't take torch's fast path for inference. Positions that ``src_key_padding_mask`` hides from an
    ``nn.TransformerEncoder`` come out as zeros on that path alone; here they have the values that training gives them.

    Raises:
        InputError: the model can't be copied.
    """
    copy = copy_model(model, {})
    free(copy, attentions(copy))
    return copy
