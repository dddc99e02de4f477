"""Sample inputs for every row of the operator table, and, as data, what can't be run here or is refused on purpose.

Sizes are asymmetric: two dimensions have the same size only where an operator asks for it, so that no two axes can be
taken for one by chance. All floating values are fp64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision  # noqa: F401 - it registers its operators
from torch import Tensor

Arguments = tuple[list[Any], dict[str, Any]]
_RNG = torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Sample:
    """One call of one ATen operator.

    Attributes:
        random: its values are random or uninitialized, so only shapes can be compared.
        equal: its pieces must keep equal counts (``chunk``), so that all atoms lose the same number of indices.
        ordered: a statistic that depends on the order of what it is taken over (``cumprod``).
        known: (fragment, reason): complaints that are expected, each of which contains the fragment.
        adapt: given the arguments of the small call, the same with integers fitted that the rule doesn't declare.
    """

    name: str
    args: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    overload: str = "default"
    random: bool = False
    equal: bool = False
    ordered: bool = False
    known: tuple[str, str] | None = None
    adapt: Callable[[list[Any]], list[Any]] | None = None

    @property
    def func(self) -> Any:
        return getattr(packet(self.name), self.overload)


def packet(name: str) -> Any:
    """The operator of that name in the table: torch's own, or another library's with its namespace."""
    namespace, _, short = name.rpartition("::")
    return getattr(getattr(torch.ops, namespace or "aten"), short, None)


SAMPLES: list[Sample] = []


def add(names: str, *args: Any, how: str = "default", **rest: Any) -> None:
    """Add a sample for each of ``names``; options of Sample by name, all else are keyword arguments of the operator."""
    options = {key: rest.pop(key) for key in ("random", "equal", "ordered", "known", "adapt") if key in rest}
    SAMPLES.extend(Sample(name, list(args), rest, how, **options) for name in names.split())


def n(*shape: int) -> Tensor:
    """Normal values of either sign."""
    return torch.randn(shape, generator=_RNG, dtype=torch.float64)


def p(*shape: int) -> Tensor:
    """Values between 0.1 and 0.9, where logarithms, roots and inverse functions are defined."""
    return 0.1 + 0.8 * torch.rand(shape, generator=_RNG, dtype=torch.float64)


def i(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=_RNG)


def b(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_RNG) > 0.5


def windows(args: list[Any], step: int) -> list[Any]:
    """The arguments of ``as_strided`` for windows along dimension 1 of what is given."""
    x, sizes = args[0], args[1]
    outer, inner, last = x.stride()
    first = x.shape[0] if sizes[0] == x.shape[0] or x.shape[0] < 3 else sizes[0]
    return [x, [first, sizes[1], sizes[2], x.shape[2]], [outer, step * inner, inner, last]]


# -- pointwise -----------------------------------------------------------------------------------------------------

UNARY = (
    "abs acos asin atan ceil cos cosh erf exp exp2 expm1 floor frac log log10 log1p log2 logit mish neg reciprocal "
    "relu relu6 round rsqrt sgn sigmoid sign silu sin sinh sqrt square tan tanh trunc gelu elu leaky_relu hardtanh "
    "hardsigmoid hardswish selu celu softplus isnan isfinite isinf nan_to_num positive logical_not deg2rad"
)
add(UNARY, p(5, 3))
add("relu_ sigmoid_ hardswish_ celu_ silu_ hardtanh_ nan_to_num_ neg_ sqrt_", p(5, 3))
add("log_sigmoid_forward", n(4, 5))
add(
    "detach alias lift_fresh lift contiguous zeros_like ones_like zero clone _neg_view resolve_conj resolve_neg "
    "data _to_copy",
    n(4, 5),
)
add("detach_ zero_ requires_grad_", n(4, 5))
add("full_like", n(4, 5), 2.5)
add("fill_ fill", n(4, 5), 2.5, how="Scalar")
add("empty_like rand_like randn_like", n(4, 5), random=True)
add("_conj", torch.complex(n(4, 5), n(4, 5)))
add("normal", n(4, 5), 1.0, how="Tensor_float", random=True)
add("uniform exponential cauchy log_normal uniform_ normal_ exponential_ cauchy_ log_normal_", n(4, 5), random=True)
add("geometric geometric_", n(4, 5), 0.5, random=True)
add("random random_ bernoulli", p(4, 5), random=True)
add("bernoulli_", p(4, 5), 0.5, how="float", random=True)
add("native_dropout dropout dropout_ alpha_dropout alpha_dropout_", n(4, 5), 0.5, True, random=True)
add("feature_dropout feature_dropout_", n(4, 5, 3), 0.5, True, random=True)
add("dropout alpha_dropout native_dropout", n(4, 5), 0.5, False)
add("rrelu_with_noise rrelu_with_noise_", n(4, 5), n(4, 5))
add("fake_quantize_per_tensor_affine_cachemask", n(4, 5), 0.1, 0, -128, 127)
add("masked_fill masked_fill_", n(4, 5), b(4, 5), 1.5, how="Scalar")
add("masked_fill", n(4, 5), b(5), 1.5, how="Scalar")
add("copy_", n(4, 5), n(5))
add("copy", n(4, 5), n(4, 5))
add("rsub", n(4, 5), n(5), how="Tensor")
add("rsub", n(4, 5), 2, how="Scalar")
add("add sub mul div", n(4, 5), p(4, 5), how="Tensor")
add("add mul add_ mul_", n(3, 4, 5), p(4, 1), how="Tensor")
add("add mul", n(4, 1), p(5), how="Tensor")
add("eq ne lt gt bitwise_and", i(3, 4, 5), i(3, 4, 5), how="Tensor")
add("pow", p(4, 5), n(4, 5), how="Tensor_Tensor")
add("maximum minimum atan2 atan2_ logaddexp logical_and hypot", n(4, 5), n(4, 5))
add("fmod", n(4, 5), p(5), how="Tensor")
add("complex polar", n(4, 5), n(4, 1))
add("floor_divide", n(4, 5), p(5))
add("add mul", n(4, 5), 2, how="Scalar")
add("pow", n(4, 5), 2, how="Tensor_Scalar")
add("clamp", n(4, 5), -0.5, 0.5)
add("threshold", n(4, 5), 0.1, 2.0)
add("addcmul addcdiv", n(4, 5), n(4, 1), p(5))
add("where", b(4, 5), n(4, 5), n(5), how="self")
add("where", b(4, 5), n(4, 5), 0.0, how="ScalarOther")
add("lerp", n(4, 5), n(4, 5), 0.3, how="Scalar")
add("glu", n(5, 8), 1)
add("glu", n(10, 3), 0)
add("prelu _prelu_kernel", n(4, 5), n(1))
add("prelu", n(2, 5, 3), n(5))
add("_prelu_kernel", n(2, 5, 3), n(1, 5, 1))

# -- shape ---------------------------------------------------------------------------------------------------------

add("view reshape _unsafe_view", n(4, 15), [4, 3, 5])
add("view reshape _unsafe_view", n(3, 4, 5), [12, 5])
add("view reshape", n(4, 6), [8, 3])
add("view", n(3, 4, 5), [3, 1, 20])
add("view", n(10, 9), [15, 6])
add(
    "view",
    n(5, 3).long(),
    torch.int32,
    how="dtype",
    known=("frozen", "bytes whose count stays while a dimension changes are too rare for a rule"),
)
add("_reshape_alias", n(3, 4, 5), [12, 5], [5, 1], adapt=lambda a: [a[0], a[1], [a[1][1], 1]])
add("unflatten", n(4, 15, 7), 1, [3, 5], how="int")
add("flatten", n(3, 4, 5, 7), 1, 2, how="using_ints")
add("permute", n(3, 4, 5), [2, 0, -2])
add("transpose", n(3, 4, 5), 0, -1, how="int")
add("swapaxes swapdims", n(3, 4, 5), 0, -1)
add("t numpy_T", n(3, 4))
add("numpy_T", n(3, 4, 5))
add("mT adjoint", n(3, 4, 5))
add("unsqueeze", n(3, 4), -1)
add("unsqueeze", n(3, 4), 1)
add("squeeze", n(3, 1, 4, 1))
add("squeeze", n(3, 1, 4, 1), -1, how="dim")
add("squeeze", n(3, 1, 4, 1), [0, 1], how="dims")
add("squeeze", n(3, 1, 4), [], how="dims")
add("expand broadcast_to", n(4, 1, 5), [3, 4, 6, 5])
add("expand", n(4, 1), [-1, 3])
add("repeat", n(4, 5), [3, 1, 7])
add("cat concat concatenate", [n(4, 5), n(4, 3), n(4, 5)], 1)
add("cat", [n(4, 5), n(0), n(6, 5)])
add("stack", [n(4, 5), n(4, 5), n(4, 5)], -1)
add("split unsafe_split", n(4, 13), 5, 1, how="Tensor", equal=True)
add("split_with_sizes unsafe_split_with_sizes", n(4, 12), [3, 5, 4], 1)
add("split", n(4, 12), [3, 5, 4], 1, how="sizes")
add("chunk unsafe_chunk", n(4, 15), 3, 1, equal=True)
add("tensor_split", n(4, 15), 3, 1, how="sections", equal=True)
add("unbind", n(4, 5, 3), 1, how="int")
add("select", n(4, 7, 3), 1, 2, how="int")
add("select", n(4, 7, 3), -2, -3, how="int")
add("select_copy", n(4, 7, 3), 1, 2, how="int")
add("slice", n(4, 9), 1, 2, 6, how="Tensor")
add("slice", n(9, 4), 0, -6, -1, how="Tensor")
add("slice", n(4, 9), 1, 0, 2**63 - 1, how="Tensor")
add("slice", n(4, 12), 1, 1, 2**63 - 1, 3, how="Tensor")
add("slice", n(4, 11), 1, 0, 11, 3, how="Tensor")
add("slice_copy", n(4, 9), 1, 3, how="Tensor")
add("constant_pad_nd", n(4, 5, 6), [1, 2, 3, 0], 7.0)
add("constant_pad_nd", n(4, 5), [-1, 2])
add("flip", n(4, 5), [1])
add("flip", n(4, 5), [])
add("roll", n(4, 5), [2], [1])
add("roll", n(4, 5), [2])
add(
    "rot90",
    n(4, 5, 3),
    1,
    [0, 1],
    known=("frozen", "one of the two dimensions is only transposed; too rare for a rule"),
)
add("rot90", n(4, 5, 3), 2, [0, 2])
add("as_strided", n(4, 5), [4, 5], [5, 1], adapt=lambda a: [a[0], list(a[0].shape), list(a[0].stride())])
add("as_strided", n(4, 5), [3, 5], [5, 1], adapt=lambda a: [a[0], [3, a[0].shape[1]], list(a[0].stride())])
# Overlapping windows of four along the middle dimension; strides follow what lies inside one step.
add("as_strided", n(3, 8, 5), [3, 3, 4, 5], [40, 10, 5, 1], adapt=lambda a: windows(a, 2))
add("as_strided", n(8, 3, 5).transpose(0, 1), [3, 3, 4, 5], [5, 30, 15, 1], adapt=lambda a: windows(a, 2))
add("as_strided", n(3, 8, 5), [2, 4, 4, 5], [40, 10, 5, 1], adapt=lambda a: windows(a, 2))  # into the next row
add("unfold", n(4, 9, 3), 1, 3, 2)
add("pixel_shuffle", n(2, 12, 3, 5), 2)
add("pixel_unshuffle", n(2, 3, 4, 10), 2)
add("channel_shuffle native_channel_shuffle", n(2, 15, 4, 7), 3)
add("view_as_real view_as_real_copy", torch.complex(n(4, 5), n(4, 5)))
add("view_as_complex view_as_complex_copy", n(4, 5, 2))
add("repeat_interleave", n(4, 5), 3, 1, how="self_int")
add("repeat_interleave", n(4, 5), 3, -2, how="self_int")
add("repeat_interleave", n(4, 5), 3, how="self_int")
add(
    "repeat_interleave",
    n(4, 5),
    i(3, 5),
    1,
    how="self_Tensor",
    known=("frozen", "the length of the output depends on the values of the repeats"),
)
add("repeat_interleave", i(3, 5), how="Tensor")
add("meshgrid", [n(4), n(5)])
add("meshgrid", [n(4), n(5), n(3)], how="indexing", indexing="xy")
add("tril triu", n(3, 5, 7))

# -- contraction ---------------------------------------------------------------------------------------------------

add("mm matmul", n(4, 5), n(5, 3))
add("_int_mm", i(5, 24, 16).to(torch.int8), i(5, 16, 32).to(torch.int8))
add("bmm matmul", n(6, 4, 5), n(6, 5, 3))
add("matmul", n(6, 4, 5), n(5, 3))
add("matmul", n(4, 5), n(6, 5, 3))
add("matmul", n(5), n(5, 3))
add("matmul mv", n(4, 5), n(5))
add("dot vdot matmul", n(5), n(5))
add("addmm", n(3), n(4, 5), n(5, 3))
add("addmm", n(4, 3), n(4, 5), n(5, 3))
add("baddbmm", n(6, 4, 3), n(6, 4, 5), n(6, 5, 3))
add("addmv", n(4), n(4, 5), n(5))
add("linear", n(2, 4, 5), n(3, 5), n(3))
add("linear", n(4, 5), n(3, 5))
add("outer ger", n(4), n(5))

# -- convolution ---------------------------------------------------------------------------------------------------


def conv(
    x: Tensor, w: Tensor, bias: int, groups: int = 1, transposed: bool = False, stride: int = 1, pad: int = 1
) -> None:
    dims = w.ndim - 2
    each = [[v] * dims for v in (stride, pad, 1)]
    middle: list[Any] = [x, w, n(bias) if bias else None, *each, transposed, [0] * dims, groups]
    add("convolution", *middle)
    add("_convolution", *middle, False, False, False, True)


conv(n(2, 4, 9), n(5, 4, 3), 5)
conv(n(2, 4, 9, 8), n(5, 4, 3, 2), 5, stride=2)
conv(n(2, 4, 6, 5, 7), n(3, 4, 3, 3, 3), 3)
conv(n(2, 12, 9, 8), n(15, 4, 3, 3), 15, groups=3)
conv(n(2, 4, 9, 8), n(8, 1, 3, 3), 8, groups=4)
conv(n(2, 4, 9, 8), n(5, 4, 1, 1), 5, pad=0)
conv(n(2, 4, 9, 8), n(4, 5, 3, 3), 5, transposed=True, stride=2)
conv(n(2, 12, 9, 8), n(12, 5, 3, 3), 15, groups=3, transposed=True)
add("_convolution", n(2, 4, 9), n(5, 4, 3), n(5), [1], [1], [1], False, [0], 1, False, False, False, how="deprecated")

# -- normalization -------------------------------------------------------------------------------------------------

for _train in (False, True):
    _five = [n(5), n(5), n(5), p(5)]
    add("native_batch_norm _native_batch_norm_legit", n(3, 5, 4), *_five, _train, 0.1, 1e-5)
    add("_native_batch_norm_legit_functional", n(3, 5, 4), *_five, _train, 0.1, 1e-5)
    add("batch_norm", n(3, 5, 4, 2), *_five, _train, 0.1, 1e-5, False)
add("_native_batch_norm_legit", n(3, 5, 4), n(5), n(5), True, 0.1, 1e-5, how="no_stats")
add("_native_batch_norm_legit_no_training _batch_norm_no_update", n(3, 5, 4), *_five, 0.1, 1e-5)
add("_batch_norm_with_update _batch_norm_with_update_functional", n(3, 5, 4), *_five, 0.1, 1e-5)
add("native_layer_norm", n(3, 4, 5), [4, 5], n(4, 5), n(4, 5), 1e-5)
add("native_layer_norm layer_norm", n(3, 4, 5), [5], None, None, 1e-5)
add("layer_norm", n(3, 4, 5), [5], n(5), n(5))
add("rms_norm _fused_rms_norm", n(3, 4, 5), [5], n(5), 1e-5)
add("native_group_norm", n(3, 12, 5, 2), n(12), n(12), 3, 12, 10, 4, 1e-5)
add("group_norm", n(3, 12, 5), 4, n(12), n(12))
add("_weight_norm_interface _weight_norm", n(4, 5, 3), p(4, 1, 1), 0)
add("_weight_norm_interface _weight_norm", n(4, 5, 3), p(1, 1, 3), 2)

# -- reduction -----------------------------------------------------------------------------------------------------

for _names, _how, _order in (
    ("sum", "dim_IntList", []),
    ("mean", "dim", []),
    ("nansum nanmean amax amin logsumexp", "default", []),
    ("var std var_mean std_mean", "correction", []),
    ("norm", "ScalarOpt_dim", [2]),
    ("linalg_vector_norm", "default", [2]),
):
    add(_names, n(4, 5, 3), *_order, [1], how=_how)
    add(_names, n(4, 5, 3), *_order, [0, -1], **({} if _names == "norm" else {"keepdim": True}), how=_how)
add("norm", n(4, 5, 3), 2, [0, -1], True, how="ScalarOpt_dim")
add("sum mean max min all any count_nonzero median nanmedian var std argmax argmin", n(4, 5))
add("prod", p(4, 5))
add("norm", n(4, 5), how="Scalar")
add("count_nonzero", n(4, 5), [0], how="dim_IntList")
add("prod", n(4, 5), 1, how="dim_int")
add("all any", n(4, 5) > 0, 1, how="dim")
add("max min median nanmedian", n(4, 5), 1, True, how="dim")
add("all any", n(4, 5, 3), [0, 2], how="dims")
add("max min", n(4, 5), n(5), how="other")
add("aminmax", n(4, 5), dim=1)
add("argmax argmin", n(4, 5), 1)
add("_softmax _log_softmax", n(4, 5), 1, False)
add("softmax log_softmax", n(4, 5, 3), -2, how="int")
add("_safe_softmax", n(4, 5), -1)
add("cumsum cumprod logcumsumexp cummax cummin", p(4, 5), 1, ordered=True)
add("sort argsort", n(4, 5), 0)
add("mode", n(4, 5))
add("sort", n(4, 5), how="stable", stable=True, dim=1)
add("msort", n(4, 5))
add("topk", n(4, 7), 3, 1)
add("kthvalue", n(4, 7), 2, 1)
add("kthvalue", n(4, 7), 2, 0, True)

# -- pooling and resizing ------------------------------------------------------------------------------------------

add("avg_pool1d max_pool1d", n(2, 3, 8), [2])
add("adaptive_avg_pool1d", n(2, 3, 8), [4])
add("avg_pool2d max_pool2d max_pool2d_with_indices mkldnn_max_pool2d", n(2, 3, 8, 6), [2, 2])
add("max_pool2d_with_indices", n(3, 8, 6), [3, 3], [2, 2], [1, 1])
add("adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mkldnn_adaptive_avg_pool2d", n(2, 3, 8, 6), [4, 2])
add("adaptive_avg_pool2d", n(2, 3, 8, 6), [1, 1])
add(
    "fractional_max_pool2d",
    n(4, 3, 8, 6),
    [2, 2],
    [4, 3],
    p(4, 3, 2),
    known=("coupled", "torch lets more random samples be given than there are images"),
)
add("avg_pool3d max_pool3d_with_indices", n(2, 3, 8, 6, 4), [2, 2, 2])
add("adaptive_avg_pool3d _adaptive_avg_pool3d adaptive_max_pool3d", n(2, 3, 8, 6, 4), [4, 3, 2])
add("upsample_nearest1d _upsample_nearest_exact1d", n(2, 3, 4), [8])
add("upsample_linear1d", n(2, 3, 4), [8], False)
add("upsample_nearest2d _upsample_nearest_exact2d", n(2, 3, 4, 5), [8, 10])
add(
    "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    n(2, 3, 4, 5),
    [8, 9],
    False,
)
add("upsample_bilinear2d", n(2, 3, 4, 5), None, False, [2.0, 2.0], how="vec")
add("upsample_nearest3d _upsample_nearest_exact3d", n(2, 3, 4, 5, 3), [8, 10, 6])
add("upsample_trilinear3d", n(2, 3, 4, 5, 3), [8, 10, 6], False)
add("reflection_pad1d replication_pad1d", n(2, 3, 5), [1, 2])
add("reflection_pad2d replication_pad2d", n(2, 3, 5, 6), [1, 2, 0, 1])
add("reflection_pad3d replication_pad3d", n(2, 3, 5, 6, 4), [1, 2, 0, 1, 1, 1])
add("max_unpool2d", n(2, 3, 2, 3), torch.arange(6).view(2, 3).expand(2, 3, 2, 3) * 4, [4, 6])
add("max_unpool3d", n(3, 2, 1, 3), torch.arange(6).view(2, 1, 3).expand(3, 2, 1, 3) * 8, [4, 2, 6], [2, 2, 2], [0] * 3)
add("affine_grid_generator", n(4, 2, 3), [4, 5, 6, 7], False)
add("affine_grid_generator", n(5, 3, 4), [5, 4, 6, 7, 8], True)
add("grid_sampler_2d grid_sampler", n(3, 4, 5, 6), n(3, 7, 8, 2), 0, 0, False)
add("grid_sampler_3d", n(3, 4, 5, 6, 3), n(3, 7, 8, 4, 3), 0, 0, False)
add("im2col", n(2, 5, 6, 7), [3, 2], [1, 1], [0, 0], [1, 1])
add("im2col", n(5, 6, 7), [3, 2], [1, 1], [0, 0], [1, 1])
add("col2im", n(3, 30, 24), [6, 7], [3, 2], [1, 1], [0, 0], [1, 1])

# -- attention -----------------------------------------------------------------------------------------------------

_q, _k, _v = n(2, 3, 5, 4), n(2, 3, 7, 4), n(2, 3, 7, 4)
_other = n(2, 3, 7, 6)
add("scaled_dot_product_attention", _q, _k, _other, scale=0.5)
add("scaled_dot_product_attention", n(2, 3, 5, 4), _k, _other, n(5, 7), scale=0.5)
add("scaled_dot_product_attention", n(3, 5, 4), n(3, 7, 4), n(3, 7, 6), scale=0.5)
add("_scaled_dot_product_attention_math", _q, _k, _other, n(2, 1, 5, 7), scale=0.5)
add(
    "_scaled_dot_product_attention_math scaled_dot_product_attention",
    n(2, 12, 5, 4),
    n(2, 3, 7, 4),
    n(2, 3, 7, 6),
    scale=0.5,
    enable_gqa=True,
)
add(
    "_scaled_dot_product_flash_attention_for_cpu",
    _q,
    _k,
    _v,
    scale=0.5,
    known=(
        "should have the same head size",
        "torch takes another kernel where the sizes differ",
    ),
)
add(
    "_scaled_dot_product_flash_attention_for_cpu",
    _q,
    _k,
    _v,
    attn_mask=n(2, 1, 5, 7),
    scale=0.5,
    known=("should have the same head size", "as above"),
)
add("scaled_dot_product_attention", n(2, 3, 5, 4), n(2, 3, 5, 4), n(2, 3, 5, 6), None, 0.0, True, scale=0.5)

# -- look-ups ------------------------------------------------------------------------------------------------------

add("embedding", n(9, 4), i(9, 3, 5))
add("embedding_renorm embedding_renorm_", n(9, 4) + 2, torch.tensor([[2, 0, 4], [7, 1, 5]]), 1.0, 2.0)
add("_embedding_bag _embedding_bag_forward_only", n(9, 4), i(9, 7), torch.tensor([0, 2, 5]))
for mode in (1, 2):
    add("_embedding_bag _embedding_bag_forward_only", n(9, 4), i(9, 7), torch.tensor([0, 2, 5]), False, mode)

# -- packed sequences, transforms, diagonals -----------------------------------------------------------------------

add("_pack_padded_sequence", n(6, 3, 4), torch.tensor([6, 4, 2]), False)
add("_pad_packed_sequence", n(12, 4), torch.tensor([3, 3, 2, 2, 1, 1]), False, 0.5, 6)
add("_fft_r2c", n(4, 6, 5), [1], 0, True)
add("_fft_c2c", torch.complex(n(4, 6, 5), n(4, 6, 5)), [0, 2], 1, True)
add("_fft_c2r", torch.complex(n(4, 6), n(4, 6)), [1], 2, 10)
add("diagonal diagonal_copy", n(4, 6, 5), 1, 0, 2)
add("cdist _cdist_forward", n(3, 4, 6), n(3, 5, 6), 2.0, None)
add("cdist _cdist_forward", n(4, 6), n(5, 6), 1.0, None)
add("_euclidean_dist", n(4, 6), n(5, 6))
add("_trilinear", n(4, 6), n(3, 6, 5), n(4, 5), [1, 3], [0], [1, 2], [2, 3])
add("index _unsafe_index", n(4, 5, 3), [None, i(5, 7)], how="Tensor")
add("index", n(4, 5, 3), [i(4, 6), None, i(3, 6)], how="Tensor")
add("index", n(4, 5, 3), [i(4, 6, 1), i(5, 7)], how="Tensor")
add(
    "index",
    n(4, 5, 3),
    [None, torch.tensor([True, False, True, True, False])],
    how="Tensor",
    known=("frozen", "how many are chosen depends on the values of the mask"),
)
add("index_select", n(4, 5, 3), 1, i(5, 7))
add("index_select", n(4, 5, 3), -2, torch.tensor(2))
add("gather", n(4, 5, 3), 1, i(5, 4, 7, 3))
add("gather", n(4, 5, 3), 1, i(5, 3, 7, 3))
add("take_along_dim", n(4, 5, 3), i(5, 4, 7, 3), 1)
add("take_along_dim", n(4, 5, 3), i(5, 1, 7, 3), 1)
add(
    "take_along_dim",
    n(4, 5),
    i(20, 7),
    known=("frozen", "a look-up in the flattened input is too rare for a rule"),
)
add("scatter", n(4, 5), 1, torch.stack([torch.randperm(5)[:3] for _ in range(4)]), n(4, 3), how="src")
add("scatter", n(4, 5), 1, i(5, 4, 3), 2.0, how="value")
add(
    "scatter_add",
    n(4, 5),
    1,
    i(5, 4, 3),
    n(4, 3),
    known=("frozen", "only sums bear the writes of a zeroed index"),
)
add(
    "scatter_add",
    n(4, 5),
    1,
    i(5, 3, 3),
    n(4, 3),
    known=("frozen", "only sums bear the writes of a zeroed index"),
)
add("scatter_reduce", n(4, 5), 1, i(5, 4, 3), n(4, 3), "amax", how="two")
add("index_copy", n(4, 5), 1, torch.tensor([2, 0, 4]), n(4, 3))
add(
    "index_add",
    n(4, 5),
    1,
    torch.tensor([2, 0, 4]),
    n(4, 3),
    known=("frozen", "only sums bear the writes of a zeroed index"),
)
add("index_reduce", n(4, 5), 1, torch.tensor([2, 0, 4]), p(4, 3), "prod")
add("index_fill", n(4, 5), 1, torch.tensor([2, 0, 4]), 2.0, how="int_Scalar")
ROWS = ("dimension 0 of input", "how many are written depends on the values of the mask")
add("index_put _index_put_impl _unsafe_index_put", n(4, 5), [None, torch.tensor([2, 0, 4])], n(4, 3))
add(
    "index_put",
    n(4, 5),
    [None, torch.tensor([2, 0, 4])],
    n(3),
    True,
    known=("frozen", "only sums bear the writes of a zeroed index"),
)
add(
    "index_put",
    n(4, 5),
    [torch.tensor([True, False, True, False])],
    n(5),
    known=("frozen", "how many are written depends on the values of the mask"),
)
add(
    "index_put",
    n(4, 5, 3),
    [torch.tensor([True, False, True, False])],
    n(5, 3),
    known=ROWS,
)
BY_VALUE = ("frozen", "how many come out depends on the values")
add("nonzero", b(4, 5))
add("masked_select", n(4, 5), b(4, 5), known=BY_VALUE)
add("masked_scatter", n(4, 5), b(4, 5), n(4, 5), known=BY_VALUE)
add("masked_scatter", n(4, 5), torch.tensor([[True], [False], [True], [True]]), n(3, 5), known=ROWS)
add("bincount", i(5, 7))
add("_unique2", i(5, 7), True, True, True)
add("unique_dim", n(4, 5), 0, known=BY_VALUE)
add("unique_consecutive", i(3, 7))

# -- torchvision: regions -------------------------------------------------------------------------------------------

ROIS = torch.cat([i(2, 5, 1).double(), 4 * p(5, 2), 5 + 4 * p(5, 2)], 1)
add("torchvision::nms", torch.cat([3 * p(7, 2), 3 + 3 * p(7, 2)], 1), p(7), 0.3)
add("torchvision::roi_align", n(2, 6, 9, 11), ROIS, 1.0, 3, 4, 2, True)
add("torchvision::roi_pool", n(2, 6, 9, 11), ROIS, 1.0, 3, 4)
add("torchvision::ps_roi_align", n(2, 24, 9, 11), ROIS, 1.0, 3, 4, 2)
add("torchvision::ps_roi_pool", n(2, 24, 9, 11), ROIS, 1.0, 3, 4)
DEFORM = (n(2, 6, 9, 11), n(8, 3, 3, 3), n(2, 36, 7, 9), p(2, 18, 7, 9), n(8), 1, 1, 0, 0, 1, 1, 2)
add("torchvision::deform_conv2d", *DEFORM, 2, True)
add("torchvision::deform_conv2d", n(2, 6, 9, 11), n(8, 6, 3, 3), n(2, 18, 7, 9), n(2, 1), *DEFORM[4:11], 1, 1, False)

# -- new tensors ---------------------------------------------------------------------------------------------------

add("zeros ones", [4, 5])
add("full", [4, 5], 2.5)
add("rand randn", [4, 5], random=True)
add("empty", [4, 5], how="memory_format", random=True)
add("new_zeros new_ones", n(3), [4, 5])
add("new_full", n(3), [4, 5], 2.5)
add("new_empty", n(3), [4, 5], random=True)
add("new_empty_strided", n(3), [4, 5], [5, 1], random=True)
add("empty_strided", [4, 5], [5, 1], random=True)
add("empty_permuted", [4, 5], [1, 0], random=True)
add("randint", 7, [4, 5], random=True)
add("arange", 0, 7, how="start")
add("range", 0, 7)
add("arange hann_window hamming_window eye", 7)
add("linspace logspace", 0, 1, 5)
add("tril_indices triu_indices", 4, 5)
add("scalar_tensor", 2.5)
add("randperm", 7, random=True)

# -- in-place forms, which share the rows of the plain ones ---------------------------------------------------------

add("t_", n(3, 4))
add("squeeze_", n(3, 1, 4))
add("unsqueeze_", n(3, 4), 1)
add("transpose_", n(3, 4, 5), 0, 1)
add("as_strided_", n(4, 4), [4, 4], [1, 4])
add("cumsum_ cumprod_", p(4, 5), 1, ordered=True)
add("tril_ triu_", n(3, 5, 7))
add("scatter_add_", n(4, 5), 1, i(5, 4, 3), n(4, 3), known=("frozen", "only sums bear the writes of a zeroed index"))
add("index_add_", n(4, 5), 1, i(5, 3), n(4, 3), known=("frozen", "only sums bear the writes of a zeroed index"))
add("index_copy_", n(4, 5), 1, torch.tensor([2, 0, 4]), n(4, 3))
add("index_fill_", n(4, 5), 1, torch.tensor([2, 0, 4]), 2.0, how="int_Scalar")
add("index_put_", n(4, 5), [None, torch.tensor([2, 0, 4])], n(4, 3))
add("addmm_", n(4, 3), n(4, 5), n(5, 3))
add("baddbmm_", n(6, 4, 3), n(6, 4, 5), n(6, 5, 3))

# -- what isn't run ------------------------------------------------------------------------------------------------
add("histc", n(4, 5), 6)

UNREACHABLE = {
    "_grouped_mm": "multiplies no fp64; the zoo's mixtures of experts are judged by value",
    "cudnn_batch_norm": "needs CUDA; shares the rule of native_batch_norm",
    "cudnn_convolution": "needs CUDA; shares the rule of convolution",
    "cudnn_grid_sampler": "needs CUDA; shares the rule of grid_sampler_2d",
    "convolution_overrideable": "for backends outside torch; shares the rule of convolution",
    "mkldnn_convolution": "needs MKL-DNN tensors in fp64; shares the rule of convolution",
    "mkldnn_max_pool2d": "needs MKL-DNN tensors; shares the rule of max_pool2d",
    "mkldnn_adaptive_avg_pool2d": "needs MKL-DNN tensors; shares the rule of adaptive_avg_pool2d",
    "_fused_dropout": "needs CUDA; shares the rule of every pointwise operator",
    "_scaled_dot_product_flash_attention": "needs CUDA; shares the rule of all attention",
    "_scaled_dot_product_efficient_attention": "needs CUDA; shares the rule of all attention",
    "_scaled_dot_product_cudnn_attention": "needs CUDA; shares the rule of all attention",
    "_scaled_dot_product_fused_attention_overrideable": "for backends outside torch; shares the rule of all attention",
    "_scaled_dot_product_attention_math_for_mps": "needs MPS; shares the rule of all attention",
}

# Operators that don't check the sizes of their inputs and read or write past the end of smaller ones.
UNCHECKED = {
    *"native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional batch_norm".split(),
    *"_batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update".split(),
    *"_native_batch_norm_legit_no_training _weight_norm _weight_norm_interface".split(),
    "_scaled_dot_product_flash_attention_for_cpu",
    *"torchvision::roi_align torchvision::roi_pool torchvision::ps_roi_align torchvision::ps_roi_pool".split(),
    "torchvision::deform_conv2d",  # it checks them, and prints a page of its stack for each
    *"_pack_padded_sequence _pad_packed_sequence".split(),
}

SAMPLES[:] = [sample for sample in SAMPLES if sample.name not in UNREACHABLE]
