"""What must survive a cut, what a plan is, and what bad input gets."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.errors import InputError, NothingToPrune, PlanError, TraceError
from prunus.surgery import slice_tensor


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, groups=4)
        self.norm = nn.GroupNorm(2, 16)
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv2(self.bn1(self.conv1(x)).relu())).relu().mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    model.bn1.running_mean.normal_()
    model.bn1.running_var.uniform_(0.5, 2)
    return model


X = torch.randn(2, 3, 12, 12)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_the_model_given_is_left_as_it_was(model: nn.Module) -> None:
    model.train()
    model.conv1.eval()
    model.bn1.weight.requires_grad_(False)
    seen: list[int] = []
    model.conv2.register_forward_hook(lambda *_: seen.append(1))
    before, modes = snapshot(model), [m.training for m in model.modules()]
    attributes = {n: {k: v for k, v in m.__dict__.items() if isinstance(v, int)} for n, m in model.named_modules()}
    state = torch.get_rng_state()
    small = prunus.prune(model, X, ratio=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes == [m.training for m in small.modules()]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    found = {n: {k: v for k, v in m.__dict__.items() if isinstance(v, int)} for n, m in model.named_modules()}
    assert found == attributes
    assert all(type(v) in (int, bool) for d in found.values() for v in d.values())
    assert not small.bn1.weight.requires_grad and small.conv1.weight.requires_grad
    assert list(small.state_dict()) == list(before)
    seen.clear()
    small(X)
    assert seen == [1], "hooks come along"


def test_layers_say_their_new_sizes(model: nn.Module) -> None:
    small = prunus.prune(model, X, ratio=0.5)
    assert small.conv1.out_channels == small.conv1.weight.shape[0] == small.bn1.num_features
    assert small.conv2.in_channels == small.conv1.out_channels
    assert small.conv2.weight.shape[1] * small.conv2.groups == small.conv2.in_channels
    assert small.norm.num_channels == small.conv2.out_channels == small.head.in_features
    assert small.head.out_features == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_survives(model: nn.Module, dtype: torch.dtype) -> None:
    small = prunus.prune(model.to(dtype), X.to(dtype), ratio=0.5)
    assert {p.dtype for p in small.parameters()} == {dtype}


@pytest.mark.parametrize("importance", ["l1", "l2", "linf", "random"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_criteria_and_scopes(model: nn.Module, importance: str, scope: str) -> None:
    small = prunus.prune(model, X, ratio=0.3, importance=importance, scope=scope)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert small(X).shape == (2, 7)


def test_magnitude_scores_are_the_norms_of_whole_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    w = torch.cat([model[0].weight, model[0].bias[:, None], model[2].weight.T], 1).detach()
    for importance, norm in (("l1", w.abs().sum(1)), ("l2", w.square().sum(1)), ("linf", w.abs().amax(1))):
        plan = prunus.plan(model, torch.randn(1, 3), ratio=0.5, importance=importance)
        assert sorted(norm.topk(3).indices.tolist()) == list(plan.kept["0.weight"][0])


def test_taylor_takes_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(4, 3)
    with pytest.raises(InputError, match=r"needs gradients, and '0.weight' has none: run loss.backward\(\)"):
        prunus.plan(model, x, importance="taylor")
    model(x).square().sum().backward()
    first, second = model[0], model[2]
    wanted = (first.weight * first.weight.grad).square().sum(1) + (first.bias * first.bias.grad).square()
    wanted = wanted + (second.weight * second.weight.grad).square().sum(0)
    plan = prunus.plan(model, x, importance="taylor", ratio=0.5)
    assert sorted(wanted.topk(3).indices.tolist()) == list(plan.kept["0.weight"][0])


def test_a_criterion_of_ones_own(model: nn.Module) -> None:
    plan = prunus.plan(model, X, importance=lambda name, weight: torch.ones_like(weight), ratio=0.5)
    assert plan.kept["conv1.weight"][0][0] == 0, "equal scores: the first stay"
    with pytest.raises(InputError, match="must return a tensor of the parameter's shape"):
        prunus.plan(model, X, importance=lambda name, weight: weight.sum())


def test_round_to(model: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 21), nn.ReLU(), nn.Linear(21, 3))
    small = prunus.prune(net, torch.randn(2, 4), ratio=0.4, round_to=8)
    assert (small[0].out_features, small[2].out_features) == (24, 16)


def test_keep(model: nn.Module) -> None:
    small = prunus.prune(model, X, ratio=0.5, keep=["conv1"])
    assert small.conv1.weight.shape == model.conv1.weight.shape
    assert small.head.in_features < 16
    with pytest.raises(InputError, match=r"keep names 'covn1', but no .* Did you mean 'conv1'"):
        prunus.prune(model, X, keep=["covn1"])
    with pytest.raises(InputError, match=r"write keep=\['conv1'\]"):
        prunus.prune(model, X, keep="conv1")


def test_ratio_per_group(model: nn.Module) -> None:
    graph = prunus.trace(model, X)
    name = graph.free[0].name
    plan = prunus.plan(graph, ratio={name: 0.5})
    assert plan.how["ratio"] == {name: 0.5}
    with pytest.raises(InputError, match="there is no group 'conv9'. Did you mean 'conv"):
        prunus.plan(graph, ratio={"conv9": 0.5})


@pytest.mark.parametrize("ratio", [1, 1.5, -0.1, float("nan"), "half", True])
def test_bad_ratios(model: nn.Module, ratio: object) -> None:
    with pytest.raises(InputError, match="ratio must be at least 0 and less than 1"):
        prunus.prune(model, X, ratio=ratio)  # type: ignore[arg-type]


def test_bad_choices(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"no importance 'l3'. Did you mean"):
        prunus.prune(model, X, importance="l3")
    with pytest.raises(InputError, match="scope must be 'local', 'global', 'isomorphic' or 'shared', not 'everywhere'"):
        prunus.prune(model, X, scope="everywhere")
    with pytest.raises(InputError, match="round_to must be a positive integer"):
        prunus.prune(model, X, round_to=0)


def test_nothing_to_prune_says_why(model: nn.Module) -> None:
    with pytest.raises(NothingToPrune, match="removes nothing: .* the largest has"):
        prunus.prune(model, X, ratio=0.0)
    with pytest.raises(NothingToPrune, match="every axis is frozen: .*a model output"):
        prunus.prune(nn.Linear(4, 4), torch.randn(2, 4))


def test_forward_that_raises_comes_through(model: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"Small.forward raised RuntimeError on the example inputs") as caught:
        prunus.prune(model, torch.randn(2, 4, 12, 12))
    assert isinstance(caught.value.__cause__, RuntimeError)

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("my own")

    with pytest.raises(TraceError, match="my own") as caught:
        prunus.trace(Picky(), X)
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_is_not_an_eager_module_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="expected a torch.nn.Module, got str"):
        prunus.trace("model", X)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is a TorchScript module; give the eager model"):
        prunus.trace(torch.jit.script(nn.Linear(3, 3)), X)
    with pytest.raises(InputError, match="is wrapped by torch.compile; give the model itself"):
        prunus.trace(torch.compile(model), X)
    with pytest.raises(InputError, match="'0' .LazyLinear. is lazy"):
        prunus.trace(nn.Sequential(nn.LazyLinear(3)), X)
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(InputError, match="is quantized, and can't be cut: prune first, then quantize"):
        prunus.trace(quantized, X)
    torchao = pytest.importorskip("torchao.quantization")
    weights = nn.Sequential(nn.Linear(32, 32))
    torchao.quantize_(weights, torchao.Int8WeightOnlyConfig())
    with pytest.raises(InputError, match="'0' .Linear. holds a .*, not plain weights, and can't be cut: prune first"):
        prunus.trace(weights, torch.zeros(1, 32))
    with pytest.raises(InputError, match="args must be one tensor or a tuple"):
        prunus.trace(model, 3)


def test_a_model_without_values(model: nn.Module) -> None:
    with torch.device("meta"):
        empty = Small()
    with pytest.raises(InputError, match="'conv1.weight' is on the meta device and has no values to score"):
        prunus.plan(empty, X)
    small = prunus.prune(empty, X, importance="random")
    assert small.conv1.weight.is_meta and small.conv1.out_channels < 16
    with pytest.raises(InputError, match="meta device has no values to compare"):
        prunus.prove(empty, small, small.prunus_plan, X)


def test_plan_is_data(model: nn.Module) -> None:
    plan = prunus.plan(model, X, ratio=0.5)
    again = prunus.Plan.from_json(plan.to_json())
    assert again == plan
    with pytest.raises(AttributeError):
        plan.how = {}  # type: ignore[misc]
    with torch.device("meta"):
        skeleton = Small()
    shapes = {k: v.shape for k, v in again.apply(skeleton).state_dict().items()}
    assert shapes == {k: v.shape for k, v in plan.apply(model).state_dict().items()}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 99}', '{"schema": 1, "shapes": 3}', "[" * 100_000])
def test_malformed_plans(text: str) -> None:
    with pytest.raises(PlanError):
        prunus.Plan.from_json(text)


def test_a_plan_fits_only_its_model(model: nn.Module) -> None:
    plan = prunus.plan(model, X, ratio=0.5)
    with pytest.raises(PlanError, match=r"'conv1.weight' of shape \[16, 3, 3, 3\]; this model has \["):
        plan.apply(plan.apply(model))
    with pytest.raises(PlanError, match="made for a model with a tensor 'conv1.weight'; this one has none"):
        plan.apply(nn.Linear(2, 2))


def test_pruned_twice_is_one_plan(model: nn.Module) -> None:
    once = prunus.prune(model, X, ratio=0.3)
    twice = prunus.prune(once, X, ratio=0.5)
    direct = twice.prunus_plan.apply(model)
    torch.testing.assert_close(direct.eval()(X), twice.eval()(X), rtol=0, atol=0)
    assert prunus.prove(model, twice, twice.prunus_plan, X).ok


def test_a_wrong_small_model_is_not_proven(model: nn.Module) -> None:
    plan = prunus.plan(model, X, ratio=0.5)
    small = plan.apply(model)
    assert prunus.prove(model, small, plan, X).ok
    wrong = copy.deepcopy(small)
    wrong.head.weight.data *= 1 + 1e-6
    assert not prunus.prove(model, wrong, plan, X).ok


def test_a_plan_that_cuts_uncoupled_indices_is_not_proven(model: nn.Module) -> None:
    plan = prunus.plan(model, X, ratio=0.5)
    kept = {name: dict(cut) for name, cut in plan.kept.items()}
    rows = kept["conv1.weight"][0]
    kept["conv1.weight"][0] = tuple(i for i in range(16) if i not in rows)[: len(rows)]
    tampered = prunus.Plan(plan.shapes, kept, plan.attributes, plan.how)
    with pytest.raises(PlanError, match="otherwise than the tensors that are coupled to it"):
        prunus.prove(model, tampered.apply(model), tampered, X)


def test_training_mode_heads_are_cut_too() -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            y = self.body(x).relu()
            return (self.head(y), self.aux(y)) if self.training else self.head(y)

    model = Aux().eval()
    small = prunus.prune(model, torch.randn(3, 4), ratio=0.5)
    assert small.aux.in_features == 4
    assert [t.shape for t in small.train()(torch.randn(3, 4))] == [(3, 3), (3, 3)]


def test_values_read_by_python() -> None:
    """Mask code that reads integer values runs on the meta device; code that reads computed ones runs for real."""

    class Reads(nn.Module):
        def __init__(self, computed: bool) -> None:
            super().__init__()
            self.emb, self.fc, self.out, self.computed = nn.Embedding(9, 4), nn.Linear(4, 8), nn.Linear(8, 2), computed

        def forward(self, i: Tensor, mask: Tensor) -> Tensor:
            x = self.fc(self.emb(i))
            if not mask.bool().all():
                x = x * mask[..., None]
            if self.computed and x.sum().item() > 1e9:
                x = -x
            return self.out(x.relu())

    args = (torch.randint(9, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    assert not prunus.trace(Reads(False), args).notes
    assert "run for real on the CPU" in prunus.trace(Reads(True), args).notes[0]
    for computed in (False, True):
        assert prunus.prune(Reads(computed), args, ratio=0.5).fc.out_features == 4


def test_outputs_of_any_shape_and_keyword_inputs() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, *, x: Tensor) -> dict[str, object]:
            y = self.a(x).relu()
            return {"logits": [self.b(y)], "sum": y.sum()}

    small = prunus.prune(Many(), (), {"x": torch.randn(2, 4)}, ratio=0.5)
    assert small.a.out_features == 4


def test_a_closure_that_holds_a_module_is_named() -> None:
    """A deep copy doesn't reach into functions: the copy would compute with the original's weights."""

    class Closure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            a = self.a
            self.first = lambda x: a(x).relu()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.first(x))

    with pytest.raises(InputError, match="still uses the original's 'a.weight': some function, lambda or closure"):
        prunus.prune(Closure(), torch.randn(2, 4))


def test_large_weights_are_cut_piece_by_piece_alike() -> None:
    data = torch.arange(1100 * 1003 * 2, dtype=torch.float64).reshape(1100, 1003, 2)
    rows, columns = tuple(range(1, 1100)), tuple(range(1, 1003, 2))
    expected = data[list(rows)][:, list(columns)]
    assert torch.equal(slice_tensor(data, {0: rows, 1: columns}), expected)
    assert torch.equal(slice_tensor(data.movedim(2, 0), {1: rows, 2: columns}), expected.movedim(2, 0))
    assert torch.equal(slice_tensor(data, {0: rows, 1: columns, 2: (1,)}), expected[..., 1:])


def test_the_default_device_is_left_to_the_users_model() -> None:
    """The default device is the meta device here: what would follow it has no values, and fails."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu()) + torch.arange(2)  # where the copy is that is proven

    torch.manual_seed(0)
    model, data = Own(), [torch.randn(6, 4) for _ in range(4)]
    plain, masked = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), Own()
    wanted = [prunus.prune(model, data[0], ratio=0.5), prunus.prune(plain, data[0], ratio=0.5, data=data)]
    with torch.no_grad():
        masked.a.weight[:4], masked.a.bias[:4] = 0, 0
    torch.set_default_device("meta")
    try:
        small = [prunus.prune(model, data[0], ratio=0.5), prunus.prune(plain, data[0], ratio=0.5, data=data)]
        taken = prunus.extract(masked, data[0])
    finally:
        torch.set_default_device(None)
    for found, expected in zip(small, wanted, strict=True):
        assert torch.equal(found(data[0]), expected(data[0]))
    torch.testing.assert_close(taken(data[0]), masked(data[0]))
