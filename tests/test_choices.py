"""Models whose shapes depend on values: original and small model find different boxes, and are compared nonetheless."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d, MultiScaleRoIAlign, nms, ps_roi_align

import prunus
from prunus.trace.choices import Choices

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))


def halves(model: nn.Module, *args: object) -> nn.Module:
    """The small model, proven, with about half of its widths."""
    model.eval()
    plan = prunus.plan(model, args, ratio=0.5)
    small = plan.apply(model)
    proof = prunus.prove(model, small, plan, args)
    assert proof.ok, proof
    return small


class Picks(nn.Module):
    """Two layers, a choice by the values that they compute, and two more layers for what is chosen."""

    def __init__(self, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 16), nn.Linear(16, 6), nn.Linear(6, 16), nn.Linear(16, 2)
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        y = self.choose(self.b(self.a(x).relu()))
        return self.d(self.c(y).relu())


def chosen(y: Tensor) -> Tensor:
    return y[:, 0] > y[:, 0].mean()


def by_mask(y: Tensor) -> Tensor:
    return y[chosen(y)]


def by_nonzero(y: Tensor) -> Tensor:
    return y[torch.where(chosen(y))[0]]


def by_nms(y: Tensor) -> Tensor:
    return y[nms(torch.cat([y[:, :2], y[:, :2] + 1], 1), y[:, 2], 0.2)]


def by_item(y: Tensor) -> Tensor:
    return y[: int(chosen(y).sum())]


def by_tolist(y: Tensor) -> Tensor:
    return torch.cat([y[i : i + 1] for i in chosen(y).nonzero()[:, 0].tolist()])


def by_loop(y: Tensor) -> Tensor:
    return torch.stack([row * 2 for row, take in zip(y, chosen(y), strict=True) if take])


def by_assignment(y: Tensor) -> Tensor:
    mask, y = chosen(y), y.clone()
    y[mask] = y[mask] * 2
    return y


def by_masked_select(y: Tensor) -> Tensor:
    return y.masked_select(chosen(y)[:, None]).view(-1, 6)


def by_unique(y: Tensor) -> Tensor:
    return y[y[:, 0].round().unique(return_inverse=True)[1].bincount().clamp(max=39)]


CHOICES = [by_mask, by_nonzero, by_nms, by_item, by_tolist, by_loop, by_assignment, by_masked_select, by_unique]


@pytest.mark.parametrize("choose", CHOICES, ids=lambda f: f.__name__)
def test_what_is_chosen_by_value_differs_and_all_is_proven(choose: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Picks(choose)
    small = halves(model, X)
    assert [layer.out_features for layer in (small.a, small.c, small.d)] == [8, 8, 2]
    with torch.no_grad():
        counts = [int(chosen(m.b(m.a(X).relu())).sum()) for m in (model, small)]
    assert counts[0] != counts[1], "the choices differ, or the test shows nothing"


def test_a_small_model_that_decides_otherwise_is_not_proven() -> None:
    torch.manual_seed(0)
    model = Picks(by_mask).eval()
    plan = prunus.plan(model, X, ratio=0.5)
    small = plan.apply(model)
    with torch.no_grad():
        small.b.bias += 0.3
    assert not prunus.prove(model, small, plan, X).ok


def test_no_box_at_all() -> None:
    """What follows an empty choice is coupled as if there were something."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.bn = nn.Conv2d(3, 8, 3, padding=1), FrozenBatchNorm2d(8)
            self.pool, self.head, self.out = MultiScaleRoIAlign(["0"], 3, 2), TwoMLPHead(8 * 9, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
            y = self.bn(self.body(x)).relu()
            return self.out(self.head(self.pool({"0": y}, [boxes], [(16, 16)]))), y.mean()

    torch.manual_seed(0)
    model, boxes = Heads(), torch.tensor([[1.0, 2.0, 9.0, 8.0], [3.0, 4.0, 12.0, 9.0]])
    small = halves(model, torch.randn(1, 3, 16, 16), boxes[:0])
    assert small.head.fc6.in_features == 4 * 9
    with torch.no_grad():
        assert small(torch.randn(1, 3, 16, 16), boxes)[0].shape == (2, 2)


def test_torchvisions_other_operators() -> None:
    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.offset, self.mask = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 36, 5), nn.Conv2d(3, 18, 5)
            self.b, self.c = DeformConv2d(8, 16, 3, groups=2), nn.Conv2d(16, 4 * 2 * 2, 1)

        def forward(self, x: Tensor, rois: Tensor) -> Tensor:
            y = self.b(self.a(x), self.offset(x), self.mask(x))
            return ps_roi_align(self.c(y), rois, 2, sampling_ratio=2)

    torch.manual_seed(0)
    rois = torch.tensor([[0, 1.0, 2.0, 7.0, 6.0], [1, 3.0, 4.0, 8.0, 7.0], [0, 0.0, 1.0, 5.0, 4.0]])
    small = halves(Deformed(), torch.randn(2, 3, 12, 12), rois)
    assert small.b.weight.shape == (8, 2, 3, 3)
    assert small.c.weight.shape == (16, 8, 1, 1), "frozen: each bin has channels of its own"


def test_embeddings_that_are_replaced_whole() -> None:
    """As multimodal models put images in place of tokens."""

    class Replaces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.image, self.out = nn.Embedding(9, 12), nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
            x = self.words(tokens)
            mask = (tokens == 0)[..., None].expand_as(x)
            return self.out(x.masked_scatter(mask, self.image(image)))

    torch.manual_seed(0)
    small = halves(Replaces(), torch.tensor([[1, 0, 0, 3], [2, 0, 4, 5]]), torch.randn(3, 5))
    assert small.words.embedding_dim == small.image.out_features == small.out.in_features == 6


def test_choices_lead_another_run() -> None:
    aten = torch.ops.aten
    first, x = Choices(), torch.tensor([1.0, 0.0, 2.0])
    mask = x > 0
    assert first.run(aten.nonzero.default, (x,), {}).flatten().tolist() == [0, 2]
    assert first.run(aten.index.Tensor, (x, [mask]), {}).tolist() == [1, 2]
    assert first.run(aten._local_scalar_dense.default, (x.sum(),), {}) == 3
    mask.fill_(False)  # what is noted doesn't change with it
    led, y = Choices(first.made), nn.Parameter(torch.tensor([0.0, 5.0, 7.0]), requires_grad=False)
    assert led.run(aten.nonzero.default, (y,), {}).flatten().tolist() == [0, 2]
    large = led.run(aten.gt.Scalar, (y, 6), {})
    assert led.run(aten.index.Tensor, (y, [large]), {}).tolist() == [0, 7], "its own values at the other's places"
    total = led.run(aten.sum.default, (y,), {})
    assert led.run(aten._local_scalar_dense.default, (total,), {}) == 3
    assert led.run(aten.nonzero.default, (y,), {}).flatten().tolist() == [1, 2], "its own when no more is given"


def test_what_comes_from_constants_alone_is_not_led() -> None:
    """A size that the code put into a tensor: led, the small model would read the original's."""
    scalar = torch.ops.aten._local_scalar_dense.default
    first = Choices()
    assert first.run(scalar, (torch.IntTensor([24])[0],), {}) == 24
    led, small = Choices(first.made), torch.IntTensor([12])
    assert led.run(scalar, (small[0],), {}) == 12
    weight, led = nn.Parameter(torch.tensor(12.0), requires_grad=False), Choices(first.made)
    written = led.run(torch.ops.aten.copy_.default, (torch.zeros(3)[0], weight), {})
    assert led.run(scalar, (written._base[0],), {}) == 24, "written through a view"
