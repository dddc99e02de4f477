"""Refits of modules that stand in a row, one after another, against the same refits of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from benchmarks.accuracy.tasks import ResNet20
from prunus.compensation import solving
from prunus.errors import InputError
from prunus.residual import find_chain
from prunus.residual.row import Stream
from tests.test_compensation import draw

Batches = list[tuple[torch.Tensor, ...]]


class Residual(nn.Module):
    """Attention and a gated product, each added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.gate, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 2, -1)).movedim(-3, 0).transpose(2, 3)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(self.up(y) * self.gate(y).sigmoid())


class Row(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(Residual(16) for _ in range(blocks))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h, mask)
        return self.last(h)


def row_of_blocks(blocks: int) -> tuple[nn.Module, prunus.Plan, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = Row(blocks).double().eval()
    mask = torch.ones(5, 5).tril().bool()
    data = [(draw(20, 5, 6, seed=i), mask) for i in range(4)]
    return model, prunus.plan(model, data[0], ratio=0.5), data


def test_blocks_in_a_row_are_solved_as_the_whole_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """What streams between them is kept, or, where it is too large, made again for each wave; the fits are the same."""
    model, plan, data = row_of_blocks(3)
    found = {}
    for held in (2 << 30, 0):
        monkeypatch.setattr(solving, "HELD", held)
        small = plan.apply(model)
        runs: list[nn.Module] = []
        small.register_forward_pre_hook(lambda module, _, runs=runs: runs.append(module))
        result = prunus.compensate(model, small, plan, data, data[0])
        found[held] = result, small.state_dict(), len(runs)
    one, other = found.values()
    assert [m.weight for m in one[0].layers] == [m.weight for m in other[0].layers]
    assert len(one[0].layers) == 2 + 3 * 5
    assert any(m.after < 0.9 * m.before for m in one[0].layers)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=1e-9, atol=1e-9)
    assert other[2] - one[2] > 3 * 3 * 4, "four waves a block, four batches each, less what starts the stream"


def test_a_longer_row_takes_no_more_runs_of_the_whole() -> None:
    counts = []
    for blocks in (2, 5):
        model, plan, data = row_of_blocks(blocks)
        small = plan.apply(model)
        runs: list[nn.Module] = []
        small.register_forward_pre_hook(lambda module, _, runs=runs: runs.append(module))
        prunus.compensate(model, small, plan, data, data[0])
        counts.append(len(runs))
    assert counts[0] == counts[1]


class Offloaded(Residual):
    """Its weights come with the forward that a library puts on it."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the weights aren't here")


def test_a_forward_that_a_library_put_on_a_block_stays_and_runs() -> None:
    model, plan, data = row_of_blocks(2)
    small = plan.apply(model)
    for network in (model, small):
        block = network.blocks[1]
        block.__class__ = Offloaded
        block.forward = kept = partial(Residual.forward, block)
    result = prunus.compensate(model, small, plan, data, data[0])
    assert len(result.layers) == 2 + 2 * 5
    assert network.blocks[1].__dict__["forward"] is kept


class Skipping(Row):
    """Leaves its last block out for longer inputs."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for block in self.blocks[: 2 if x.shape[1] > 5 else 3]:
            h = block(h, mask)
        return self.last(h)


def test_blocks_that_a_batch_leaves_out_are_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Skipping(3).double().eval()
    data = [(draw(20, n, 6, seed=n), torch.ones(n, n).tril().bool()) for n in (5, 6, 5, 5)]
    plan = prunus.plan(model, data[0], ratio=0.5)
    found = []
    for held in (2 << 30, 0):
        monkeypatch.setattr(solving, "HELD", held)
        small = plan.apply(model)
        prunus.compensate(model, small, plan, data, data[0])
        found.append(small.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-12, atol=1e-12)


class Encoder(nn.Module):
    """Norms behind what is added, as in BERT: one of its parts gets what came into the layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out, self.norm = nn.Linear(8, 8), Joined(), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.norm(self.out(self.mix(x), x, scale)), None


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, y: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(y * scale).relu()) + x


class Encoders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Encoder() for _ in range(3)), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.new_ones(1) / 2
        for layer in self.layers:
            x = layer(x, scale)[0]
        return self.head(x)


class Between(nn.Module):
    """Of eight layers the second's output is changed in place, the fifth runs twice, and the last's output is added."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth, fifth, sixth, seventh, last = self.layers
        y = second(first(x))
        y.relu_()
        y = fifth(fourth(third(y)))
        y = fifth(y)
        return x + last(seventh(sixth(y)))


def stages() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3))
    return nn.Sequential(inner, nn.Sequential(nn.ReLU(inplace=True)), nn.Flatten(), nn.Linear(8 * 16, 4))


def test_rows_of_any_modules_are_found() -> None:
    def names(model: nn.Module, *shape: int) -> tuple[str, ...]:
        model = model.double().eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with torch.no_grad():
            found = find_chain(model, ((draw(*shape),), {}))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        return found.names

    assert names(stages(), 2, 1, 8, 8) == ("0.0", "0.1", "0.2", "1", "2", "3")
    assert names(Encoders(), 2, 3, 8) == ("layers.0", "layers.1", "layers.2", "head")
    assert names(ResNet20(), 2, 1, 28, 28) == (*(f"stem.{i}" for i in range(3)), *(f"blocks.{i}" for i in range(9)))
    assert names(Between(), 2, 5) == ("layers.5", "layers.6", "layers.7")
    with pytest.raises(InputError, match="no modules that run one on what another returns"):
        names(Row(1).blocks[0].norms[0], 2, 16)


def resnet() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    model = ResNet20().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model, [(draw(2, 1, 28, 28, seed=i),) for i in range(4)]


def plain(make: Callable[[], nn.Module], *shape: int) -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    return make().double().eval(), [(draw(*shape, seed=i),) for i in range(8)]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(resnet, id="resnet"),
        pytest.param(partial(plain, stages, 20, 1, 8, 8), id="convolutions"),
        pytest.param(partial(plain, Encoders, 20, 3, 8), id="norms behind"),
        pytest.param(partial(plain, Between, 60, 5), id="written outside"),
    ],
)
def test_any_row_is_solved_as_the_whole_would_be(
    make: Callable[[], tuple[nn.Module, Batches]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all streams kept, with those of the later, smaller ones alone, and with none."""
    model, data = make()
    plan = prunus.plan(model, data[0], ratio=0.5)
    rows = [find_chain(each, (data[0], {})) for each in (model, plan.apply(model))]
    sizes = sorted(a + b for a, b in zip(*(row.sizes for row in rows), strict=True))
    some = sum(x.nbytes for (x,) in data) + len(data) * sizes[len(sizes) // 4]
    found, lengths = [], []
    monkeypatch.setattr(
        solving, "Stream", lambda model, row, *more: lengths.append(len(row.names)) or Stream(model, row, *more)
    )
    for held in (2 << 30, some, 0):
        monkeypatch.setattr(solving, "HELD", held)
        small = plan.apply(model)
        result = prunus.compensate(model, small, plan, data, data[0])
        found.append((small.state_dict(), [m.weight for m in result.layers]))
    assert len(rows[0].names) in lengths and len(set(lengths)) > (make is resnet)
    for state, layers in found[:2]:
        assert layers == found[2][1]
        for name, value in state.items():
            torch.testing.assert_close(value, found[2][0][name], rtol=1e-9, atol=1e-9)


class Scaled(Row):
    """Changes what streams between its blocks, for some inputs."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h, mask)
            h = h / 2 if x.shape[1] > 5 else h
        return self.last(h)


def test_a_stream_that_is_changed_between_blocks_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Scaled(3).double().eval()
    data = [(draw(20, n, 6, seed=n), torch.ones(n, n).tril().bool()) for n in (5, 6, 5, 5)]
    with torch.no_grad(), pytest.raises(InputError, match="'blocks.0' returns is changed before 'blocks.1' gets it"):
        Stream(model, find_chain(model, (data[0], {})), [(each, {}) for each in data], torch.device("cpu"))
    plan = prunus.plan(model, data[0], ratio=0.5)
    found = []
    for held in (2 << 30, 0):
        monkeypatch.setattr(solving, "HELD", held)
        prunus.compensate(model, small := plan.apply(model), plan, data, data[0])
        found.append(small.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-12, atol=1e-12)
