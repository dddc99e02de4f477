"""Scores, refits, extraction and search on a CUDA device are what they are on the CPU, to rounding of fp64.

`pytest -m gpu`; deselected by `make test`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as torch_prune
import torchvision
from torch import Tensor, nn

import prunus
from prunus.importance import CRITERIA

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"


class Convolutions(nn.Module):
    """Plain, in groups, transposed, with a residual stream and batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deep, self.up = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ConvTranspose2d(16, 8, 2, 2)
        self.back = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = x + self.back(F.relu(self.up(self.deep(x))))
        return self.out(x.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 12, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.inner, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x).mean(1))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.inner = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(input_ids=ids, use_cache=False).logits[:, -1, :4]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (Convolutions, (8, 3, 8, 8)),
    "lstm": (Recurrent, (8, 5, 6)),
    "encoder": (Encoder, (8, 5, 16)),
    "llama": (Llama, (8, 7)),
}


def drawn(name: str, batches: int = 8) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    make, shape = NETS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    draws = [torch.randint(64, shape) if name == "llama" else torch.randn(shape).double() for _ in range(batches)]
    return model, [(x, torch.arange(len(x)) % 4) for x in draws]


def there(data: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(x.to(DEVICE), y.to(DEVICE)) for x, y in data]


@pytest.mark.parametrize("loader_on_cpu", [True, False], ids=["batches-on-cpu", "batches-there"])
@pytest.mark.parametrize("name", NETS)
def test_the_default_with_data_is_that_of_the_cpu(name: str, loader_on_cpu: bool) -> None:
    model, data = drawn(name)
    twin = copy.deepcopy(model).to(DEVICE)
    x = data[0][0]
    here = prunus.prune(model, x, ratio=0.4, data=data)
    small = prunus.prune(twin, x.to(DEVICE), ratio=0.4, data=data if loader_on_cpu else there(data))
    assert {p.device.type for p in small.parameters()} == {DEVICE}
    assert small.prunus_plan.kept == here.prunus_plan.kept
    torch.testing.assert_close(small(x.to(DEVICE)).cpu(), here(x), rtol=1e-5, atol=1e-7)


SCORED = [("convolutions", kind) for kind in sorted(CRITERIA)] + [
    ("encoder", kind) for kind in ("auto", "obs", "wanda")
]


@pytest.mark.parametrize(("name", "importance"), SCORED)
def test_scores_are_those_of_the_cpu(name: str, importance: str) -> None:
    model, data = drawn(name, 3)
    twin = copy.deepcopy(model).to(DEVICE)
    options = {"ratio": 0.5, "importance": importance}
    here = prunus.plan(model, data[0][0], data=data, **options)
    assert prunus.plan(twin, data[0][0].to(DEVICE), data=there(data), **options).kept == here.kept


def test_a_refit_of_singular_inputs_takes_the_least_weights_there_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    data = [torch.randn(1, 4).double().expand(6, 4).clone() for _ in range(3)]  # three different rows in all
    twin = copy.deepcopy(model).to(DEVICE)
    found = []
    for original in (model, twin):
        x = data[0].to(original[0].weight)
        plan = prunus.plan(original, x, ratio=0.5)
        small = plan.apply(original)
        prunus.compensate(original, small, plan, data, x, ridge=0.0)
        found.append([parameter.cpu() for parameter in small.parameters()])
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(its, mine, rtol=1e-6, atol=1e-8)


def masked() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.ln_structured(module, "weight", 0.5, 2, 0)
    return model


def test_masks_are_taken_out_there() -> None:
    model, twin = masked(), masked().to(DEVICE)
    x = torch.randn(2, 3, 64, 64)
    here, small = prunus.extract(model, x), prunus.extract(twin, x.to(DEVICE))
    assert [p.shape for p in small.parameters()] == [p.shape for p in here.parameters()]
    torch.testing.assert_close(small.double()(x.double().to(DEVICE)).cpu(), model.double()(x.double()))


def test_blocks_are_dropped_by_what_they_do() -> None:
    model, data = drawn("llama")
    twin = copy.deepcopy(model).to(DEVICE)
    here = prunus.drop_blocks(model, data[0][0], number=1, data=[x for x, _ in data])
    plan = prunus.drop_blocks(twin, data[0][0].to(DEVICE), number=1, data=[x for x, _ in there(data)])
    assert [*plan.dropped] == [*here.dropped] != []
    small = plan.apply(twin)
    assert {p.device.type for p in small.parameters()} == {DEVICE}


def test_every_group_is_tried_there(tmp_path: Path) -> None:
    model, data = drawn("convolutions", 2)
    twin = copy.deepcopy(model).to(DEVICE)

    def loss(batches: list[tuple[Tensor, Tensor]]) -> Callable[[nn.Module], float]:
        return lambda m: -sum(float(F.cross_entropy(m(x), y).detach()) for x, y in batches)

    pairs = ((model, data), (twin, there(data)))
    found = [prunus.sensitivity(m, d[0][0], evaluate=loss(d), ratios=(0.25, 0.5)).curves() for m, d in pairs]
    assert {*found[0]} == {*found[1]}
    for name, points in found[0].items():
        assert found[1][name] == [pytest.approx(point, rel=1e-8, abs=1e-10) for point in points]


def test_a_latency_budget_holds_on_the_device() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    x = torch.randn(512, 3, 224, 224)  # where the time isn't that of launching kernels
    plan = prunus.plan(model, x, budget={"latency": "80%"}, runtime=prunus.Runtime("cuda"), importance="random")
    print(plan.explain())
    assert plan.kept


def test_a_small_llama_generates_there_with_its_cache() -> None:
    torch.manual_seed(0)
    model = Llama().eval().inner
    ids = torch.randint(64, (2, 6))
    here = prunus.prune(model, (), {"input_ids": ids}, ratio=0.5)
    small = prunus.prune(copy.deepcopy(model).to(DEVICE), (), {"input_ids": ids.to(DEVICE)}, ratio=0.5)
    options = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8, "pad_token_id": 0}
    wanted = here.double().generate(ids, **options)
    assert torch.equal(small.double().generate(ids.to(DEVICE), **options).cpu(), wanted)
