"""Shapes that prunus tells by itself are those of torch's own kernels."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from prunus.trace.inference import infer

aten = torch.ops.aten
SIZES = st.integers(2, 5)
PLAIN = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # how to convolve: no bias, step 1 ...


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def check(func: Any, *args: Any) -> None:
    """The same shape, strides and dtype, on the meta device and by the kernel of the CPU."""
    real = pytree.tree_map_only(Tensor, lambda t: torch.zeros_like(t, device="cpu"), args)
    want = [t for t in pytree.tree_leaves(func(*real)) if isinstance(t, Tensor)]
    found = [t for t in pytree.tree_leaves(infer(func, args, {})) if isinstance(t, Tensor)]
    assert [(t.shape, t.dtype) for t in found] == [(t.shape, t.dtype) for t in want]
    assert found[0].stride() == want[0].stride() and all(t.is_meta for t in found)


@given(st.integers(1, 3), st.data())
@settings(deadline=None, max_examples=60)
def test_convolutions(rank: int, data: st.DataObject) -> None:
    groups, per = data.draw(st.integers(1, 3)), data.draw(SIZES)
    spatial = [data.draw(st.integers(5, 9)) for _ in range(rank)]
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    stride, padding, dilation = ([data.draw(st.integers(low, 2)) for _ in range(rank)] for low in (1, 0, 1))
    weight = meta(groups * data.draw(SIZES), per, *kernel)
    bias = meta(weight.shape[0]) if data.draw(st.booleans()) else None
    x = meta(data.draw(SIZES), groups * per, *spatial)
    check(aten.convolution.default, x, weight, bias, stride, padding, dilation, False, [0] * rank, groups)


@given(SIZES, SIZES, SIZES)
@settings(deadline=None, max_examples=20)
def test_matrices_and_means(a: int, b: int, c: int) -> None:
    check(aten.addmm.default, meta(c), meta(a, b), meta(c, b).t())
    for dims, keep in (([-1], False), ([0, 2], True), ([1], False)):
        check(aten.mean.dim, meta(a, b, c), dims, keep)
    check(aten._softmax.default, meta(a, b, c), -1, False)
    check(aten.mul.Tensor, meta(a, b, c), 2.0)
    check(aten.add.Tensor, meta(a, 1, c), meta(a, b, c))
    check(aten.mm.default, meta(a, b), meta(c, b).t())
    check(aten.maximum.default, meta(a, b), meta(a, b))
    check(aten.pow.Tensor_Scalar, meta(a, b).t(), 2)
    check(aten.rsub.Scalar, meta(a, b), 1)
    check(aten.clamp_min.default, meta(a, b), 1)
    check(aten.softplus.default, meta(a, b))
    check(aten.cat.default, [meta(a, b, c), meta(a, 1, c), meta(a, c, c)], -2)
    check(aten.upsample_bilinear2d.default, meta(a, b, c, a), [b, 7], False, None, None)
    check(aten.upsample_bilinear2d.default, meta(a, b, c, a).permute(0, 3, 1, 2), [b, 7], False, None, None)
    check(aten.upsample_nearest1d.default, meta(a, b, c), [2 * c], None)
    check(aten.embedding.default, meta(a, b), meta(c, 1, dtype=torch.int64))
    check(aten.gelu.default, meta(a, c, b).transpose(1, 2))
    check(aten.native_layer_norm.default, meta(a, b, c), [c], meta(c), meta(c), 1e-5)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.addmm.default, (meta(3), meta(2, 4), meta(5, 3))),
        (aten.addmm.default, (meta(4), meta(2, 5), meta(5, 3))),
        (aten.mean.dim, (meta(2, 3), [5])),
        (aten.mean.dim, (meta(2, 3), [0, 0])),
        (aten.convolution.default, (meta(2, 3, 8, 8), meta(4, 5, 3, 3), *PLAIN)),
        (aten.convolution.default, (meta(2, 3, 2, 2), meta(4, 3, 3, 3), *PLAIN)),
        (aten.add.Tensor, (meta(2, 3), meta(2, 4))),
        (aten.mm.default, (meta(2, 3), meta(2, 3))),
        (aten.cat.default, ([meta(2, 3), meta(3, 4)], 1)),
        (aten.cat.default, ([meta(2, 3), meta(2, 3)], 2)),
    ],
)
def test_what_torch_refuses_is_refused(func: Any, args: Any) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        func(*args)
    with pytest.raises((RuntimeError, IndexError)):
        infer(func, args, {})


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.upsample_bilinear2d.default, (meta(2, 3, 4, 4), [5], False, None, None)),
        (aten.upsample_nearest1d.default, (meta(2, 3, 4), [5, 5], None)),
        (aten.embedding.default, (meta(4), meta(2, dtype=torch.int64))),
    ],
)
def test_what_torchs_python_kernels_refuse_is_refused(func: Any, args: Any) -> None:
    """Some assert what they are given; the exception is torch's own, whichever it is."""
    with pytest.raises(Exception) as theirs:
        func(*args)
    with pytest.raises(theirs.type):
        infer(func, args, {})


def test_dtypes_are_left_to_torch() -> None:
    assert infer(aten.mean.dim, (meta(2, 3), [0]), {"dtype": torch.float64}).dtype == torch.float64
    assert infer(aten.mul.Tensor, (meta(2, 3), meta(2, 3, dtype=torch.float64)), {}).dtype == torch.float64
    assert infer(aten.mul.Tensor, (meta(2, 3, dtype=torch.int64), 2.5), {}).dtype == torch.float32
    assert infer(aten.exp.default, (meta(2, 3, dtype=torch.int64),), {}).dtype == torch.float32
    assert infer(aten.cat.default, ([meta(2), meta(2, dtype=torch.float64)],), {}).dtype == torch.float64
    assert infer(aten.cat.default, ([meta(0), meta(2, 3)], 1), {}).shape == (2, 3)
    assert infer(aten._softmax.default, (meta(2, 3, dtype=torch.float16), 1, True), {}).dtype == torch.float32
