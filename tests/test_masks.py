"""Granularities, criteria and their errors, on cases worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import prunus
from prunus import masks
from prunus.demo.lenet import LeNet
from prunus.errors import InputError, NothingToPrune
from prunus.masks.bits import zero_outside
from prunus.masks.criteria import Task
from prunus.masks.units import parse


def linear(rows: list[list[float]]) -> nn.Linear:
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def mask_of(model: nn.Module, *args, **kwargs) -> list:
    return prunus.Sparsifier(model).prune(*args, **kwargs).masks["weight"].int().tolist()


def scores(name: str, model: nn.Module, data=None, loss=masks.criteria.cross_entropy) -> dict[str, torch.Tensor]:
    sparse = prunus.Sparsifier(model)
    return dict(masks.CRITERIA[name](Task(model, sparse.weights, sparse.masks, parse("weight"), data, loss)))


# ---------------------------------------------------------------- what is masked as one

ROWS = [[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]]


@pytest.mark.parametrize(
    ("granularity", "sparsity", "expected"),
    [
        ("weight", 0.25, [[0, 0, 1, 1], [1, 1, 1, 1]]),
        ("row", 0.5, [[0, 0, 0, 0], [1, 1, 1, 1]]),
        ("filter", 0.5, [[0, 0, 0, 0], [1, 1, 1, 1]]),
        ("column", 0.25, [[0, 1, 1, 1], [0, 1, 1, 1]]),  # all columns sum to 9: the choice is topk's, one goes
        ("vector:2", 0.25, [[0, 0, 1, 1], [1, 1, 1, 1]]),
        ("block:2x2", 0.5, None),
        ("2:4", None, [[0, 0, 1, 1], [1, 1, 0, 0]]),
        ("1:2@0", None, [[0, 0, 0, 0], [1, 1, 1, 1]]),
        ("1:4", None, [[0, 0, 0, 1], [1, 0, 0, 0]]),
    ],
)
def test_granularities(granularity, sparsity, expected):
    found = mask_of(linear(ROWS), sparsity, "l1", granularity=granularity)
    if granularity in ("column", "block:2x2"):  # equal scores: whole units, the right number of them
        width = 1 if granularity == "column" else 2
        found = torch.tensor(found)
        assert torch.equal(found[0], found[1])
        assert sorted(found[0].view(-1, width).sum(1).tolist()) == ([0, 1, 1, 1] if width == 1 else [0, 2])
    else:
        assert found == expected


def test_kernels_channels_and_matrix_columns_of_a_convolution():
    layer = nn.Conv2d(2, 3, 2, bias=False)
    layer.weight.data = torch.arange(24.0).view(3, 2, 2, 2) + 1
    kernels = torch.tensor(mask_of(copy.deepcopy(layer), 1 / 6, "l2", granularity="kernel"))
    assert kernels[0, 0].sum() == 0 and kernels.sum() == 20
    channels = torch.tensor(mask_of(copy.deepcopy(layer), 0.5, "l2", granularity="channel"))
    assert channels[:, 0].sum() == 0 and channels[:, 1].all()
    columns = torch.tensor(mask_of(copy.deepcopy(layer), 1 / 8, "l2", granularity="column"))
    assert columns[:, 0, 0, 0].sum() == 0 and columns.sum() == 21
    assert mask_of(copy.deepcopy(layer), 1 / 3, "l2", granularity="filter")[0] == torch.zeros(2, 2, 2).int().tolist()


def test_blocks_at_the_edge_are_smaller():
    model = linear([[1.0] * 5, [1.0] * 5, [9.0] * 5])
    found = torch.tensor(mask_of(model, 4 / 15, "l1", granularity="block:2x2"))
    # of a 3x5 matrix; the lowest sum is that of the 2x1 tile at the right, then those of 2x2 tiles: 2 or 6 for 4 asked
    assert int((found == 0).sum()) in (2, 6) and found[2].all() and found[:2, 4].sum() == 0


def test_global_structured_pruning_compares_means_not_sizes():
    model = nn.Sequential(linear([[1.0] * 4, [5.0] * 4]), linear([[3.0] * 2, [2.0] * 2]))
    sparse = prunus.Sparsifier(model).prune(6 / 12, "l1", granularity="filter", scope="global")
    assert [m.any(1).tolist() for m in sparse.masks.values()] == [[False, True], [True, False]]
    model = nn.Sequential(linear([[2.0] * 4, [5.0] * 4]), linear([[3.0] * 2, [1.0] * 2]))  # sums 8, 20 and 6, 2
    sparse = prunus.Sparsifier(model).prune(6 / 12, "l1", granularity="filter", scope="global")
    assert [m.any(1).tolist() for m in sparse.masks.values()] == [[False, True], [True, False]]


def test_a_share_for_each_parameter_and_rounds():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    sparse = prunus.Sparsifier(model).prune({"0.weight": 0.2, "1.weight": 0.7}, rounds=3)
    assert sparse.sparsity_of("0.weight") == pytest.approx(0.2)
    assert sparse.sparsity_of("1.weight") == pytest.approx(0.7)
    calls = []

    def counting(task):
        calls.append(sum(int((~m).sum()) for m in task.masks.values()))
        return {name: w.detach().abs() for name, w in task.weights.items()}

    sparse = prunus.Sparsifier(nn.Linear(100, 10)).prune(0.75, counting, rounds=2)
    assert calls == [0, 500] and sparse.sparsity == 0.75


# ---------------------------------------------------------------- criteria, by hand


def test_lamp_by_hand():
    found = scores("lamp", linear([[3.0, -1.0], [0.0, 2.0]]))["weight"]
    torch.testing.assert_close(found, torch.tensor([[9 / 9, 1 / 14], [0 / 14, 4 / 13]], dtype=torch.float64))


def test_lamp_keeps_a_layer_of_small_weights_alive():
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].weight.data *= 1e-9
    with pytest.warns(UserWarning, match="1.weight lost every weight"):
        prunus.Sparsifier(copy.deepcopy(model)).prune(0.5, "l1", scope="global")
    assert prunus.Sparsifier(model).prune(0.5, "lamp").sparsity_of("1.weight") < 0.7


def test_sensitivity_by_hand():
    model = linear([[1.0, -1.0, 3.0, -3.0]])  # standard deviation 2.582
    assert mask_of(copy.deepcopy(model), importance="sensitivity", below=0.5) == [[0, 0, 1, 1]]
    with pytest.raises(NothingToPrune, match="below=0.3 masks nothing"):
        mask_of(model, importance="sensitivity", below=0.3)


X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


def quadratic(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """L = 1/2 sum of y^2: its gradient is W X^T X, its Hessian for each row X^T X."""
    return 0.5 * model(batch).square().sum()


def test_gradient_snip_movement_and_grasp_on_a_quadratic():
    w = torch.tensor([[0.5, -2.0], [1.0, 0.25]])
    second = X.T @ X
    gradient = w @ second
    torch.testing.assert_close(scores("gradient", linear(w.tolist()), [X], quadratic)["weight"], gradient.abs())
    torch.testing.assert_close(scores("snip", linear(w.tolist()), [X], quadratic)["weight"], (w * gradient).abs())
    torch.testing.assert_close(scores("movement", linear(w.tolist()), [X], quadratic)["weight"], -w * gradient)
    expected = w * (gradient @ second)
    torch.testing.assert_close(scores("grasp", linear(w.tolist()), [X], quadratic)["weight"], expected)
    halves = scores("grasp", linear(w.tolist()), [X[:1], X[1:]], quadratic)["weight"]  # the gradient is of all batches
    torch.testing.assert_close(halves, expected)


def test_synflow_by_hand_and_conserved():
    """R = 1^T |W2| |W1| 1, so every score is the product of the sums of the paths through the weight."""
    model = nn.Sequential(linear([[1.0, -2.0], [0.5, 1.0]]), nn.ReLU(), linear([[-3.0, 1.0]]))
    found = scores("synflow", model, [(torch.randn(4, 2), torch.zeros(4))])
    expected = torch.tensor([[3.0, 6.0], [0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(found["0.weight"], expected)
    torch.testing.assert_close(found["2.weight"], torch.tensor([[9.0, 1.5]], dtype=torch.float64))
    assert float(found["0.weight"].sum()) == float(found["2.weight"].sum())
    assert model[0].weight[0, 1] == -2.0 and model[0].weight.dtype == torch.float32


def test_wanda_is_its_equation_and_compares_in_rows():
    torch.manual_seed(0)
    layer, batches = nn.Linear(6, 4), [torch.randn(5, 3, 6) for _ in range(2)]
    x = torch.cat(batches).reshape(-1, 6)
    expected = layer.weight.detach().abs() * x.norm(dim=0)
    found = scores("wanda", layer, batches, lambda model, batch: model(batch))["weight"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    sparse = prunus.Sparsifier(layer).prune(0.5, "wanda", data=batches, loss=lambda model, batch: model(batch))
    assert sparse.masks["weight"].sum(1).tolist() == [3, 3, 3, 3]
    assert torch.equal(sparse.masks["weight"], expected > expected.median(dim=1).values[:, None])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 7)),
        (nn.Conv2d(3, 4, (2, 3), dilation=(1, 2), padding="same", padding_mode="circular"), (2, 3, 6, 8)),
        (nn.Conv1d(4, 4, 3, padding=2, groups=4), (2, 4, 11)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    ],
)
def test_what_convolutions_see_is_what_their_outputs_are_made_of(layer, shape):
    from prunus.masks.criteria.calibrated import _columns, _seen_squares

    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    columns = _columns(layer, x)
    rows = layer.weight.detach().double().flatten(1).chunk(len(columns))
    made = torch.cat([c @ r.T for c, r in zip(columns, rows, strict=True)], dim=1)
    whole = layer.double()(x.double()).detach() - layer.bias.double().view(1, -1, *[1] * (x.dim() - 2)).detach()
    torch.testing.assert_close(made, whole.movedim(1, -1).reshape(-1, whole.shape[1]))
    squares = torch.cat([c.square().sum(0).expand_as(r) for c, r in zip(columns, rows, strict=True)])
    torch.testing.assert_close(_seen_squares(layer, x.double()), squares.view_as(layer.weight))


def test_data_that_is_not_finite_is_told():
    x = torch.randn(20, 4)
    x[3, 1] = float("nan")
    with pytest.raises(InputError, match="'weight' is given, on this data, holds NaN"):
        scores("obs", nn.Linear(4, 3), [x], lambda model, batch: model(batch))


def test_obs_is_its_equation():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 3), torch.randn(20, 5)
    hessian = 2 * x.double().T @ x.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(5)
    expected = layer.weight.detach().double() ** 2 / (2 * torch.linalg.inv(hessian).diagonal())
    found = scores("obs", layer, [x], lambda model, batch: model(batch))["weight"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_a_criterion_of_ones_own_takes_a_few_lines():
    """The example of prunus.masks.criteria."""
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        model.weight[:, :4] += 1.0

    def drift(task):
        return {name: (weight - start[name]).detach().abs() for name, weight in task.weights.items()}

    sparse = prunus.Sparsifier(model).prune(0.5, drift)
    assert sparse.masks["weight"][:, :4].all() and not sparse.masks["weight"][:, 4:].any()


@pytest.mark.parametrize("name", sorted(masks.CRITERIA))
@pytest.mark.parametrize("granularity", ["weight", "filter", "block:2x3", "2:4"])
def test_every_criterion_at_several_granularities_leaves_the_model_alone(name, granularity):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 16, 4)
    ).train()
    data = [(torch.randn(6, 4, 4, 4), torch.arange(6) % 4) for _ in range(2)]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    sparse = prunus.Sparsifier(model).prune(
        None if granularity == "2:4" else 0.5, name, granularity=granularity, data=data, scope="local"
    )
    assert sparse.sparsity == pytest.approx(0.5, abs=0.02)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert name == "random" or torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        kept = before[key] * sparse.masks[key] if key in sparse.masks else before[key]
        assert torch.equal(value, kept), key


# ---------------------------------------------------------------- choosing weights, errors


def test_which_parameters_get_masks():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.norm, self.fc = nn.Embedding(9, 4), nn.LayerNorm([2, 4]), nn.Linear(4, 4)
            self.lstm, self.position = nn.LSTM(4, 4), nn.Parameter(torch.zeros(1, 9, 4))

    assert list(prunus.Sparsifier(Net()).masks) == ["fc.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert list(prunus.Sparsifier(Net(), skip=["lstm"]).masks) == ["fc.weight"]
    assert list(prunus.Sparsifier(Net(), only=["*_ih_*", "table"]).masks) == ["table.weight", "lstm.weight_ih_l0"]
    assert list(prunus.Sparsifier(Net(), only=["fc", "norm.bias"]).masks) == ["norm.bias", "fc.weight"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.0}, "at least 0 and less than 1"),
        ({}, "give a sparsity"),
        ({"sparsity": 0.5, "below": 0.1}, "one of them"),
        ({"sparsity": 0.5, "importance": "lmap"}, "Did you mean 'lamp'"),
        ({"sparsity": 0.5, "granularity": "filtre"}, "Did you mean 'filter'"),
        ({"granularity": "4:2"}, "N must be at least 1 and less than M"),
        ({"granularity": "2:4", "sparsity": 0.7}, "takes no sparsity"),
        ({"granularity": "2:4"}, "'conv1.weight' of shape .* must be a multiple of 4.*skip="),
        ({"sparsity": 0.5, "scope": "globe"}, "Did you mean 'global'"),
        ({"sparsity": 0.5, "scope": "row", "granularity": "filter"}, "compares single weights"),
        ({"sparsity": 0.5, "granularity": "dim:3"}, "'fc1.weight' .*too few dimensions"),
        ({"sparsity": 0.5, "importance": "snip"}, "pass data=loader"),
        ({"sparsity": 0.5, "importance": lambda task: {}}, "no scores for 'conv1.weight'"),
        ({"sparsity": 0.5, "importance": lambda task: {n: torch.ones(2) for n in task.weights}}, "it returned .2."),
        (
            {"sparsity": 0.5, "importance": lambda task: {n: w * float("nan") for n, w in task.weights.items()}},
            "finite",
        ),
        ({"sparsity": {"fc1.weight": 0.5}}, "give a sparsity for each of"),
        ({"sparsity": 0.5, "rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_errors_say_what_to_do(arguments, words):
    model = LeNet()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=words):
        prunus.Sparsifier(model).prune(**arguments)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_errors_of_names_layers_and_nothing_to_do():
    with pytest.raises(InputError, match=r"'fc9' matches no parameter. Did you mean 'fc"):
        prunus.Sparsifier(LeNet(), only=["fc9"])
    with pytest.raises(InputError, match="'weight' is on the meta device"):
        prunus.Sparsifier(nn.Linear(3, 3, device="meta"))
    with pytest.raises(InputError, match="no weights to mask"):
        prunus.Sparsifier(nn.LayerNorm(4))
    with pytest.raises(NothingToPrune, match="masks nothing more"):
        prunus.Sparsifier(LeNet()).prune(0.5).prune(0.4)
    lstm = nn.LSTM(4, 4)
    with pytest.raises(InputError, match="belongs to a LSTM: leave it out"):
        prunus.Sparsifier(lstm).prune(0.5, "wanda", data=[torch.randn(2, 4)], loss=lambda m, b: m(b)[0].sum())
    attention = nn.MultiheadAttention(4, 2)
    with pytest.raises(InputError, match="never called"):
        prunus.Sparsifier(attention, only=["out_proj.weight"]).prune(
            0.5, "wanda", data=[torch.randn(3, 2, 4)], loss=lambda m, b: m(b, b, b)[0].sum()
        )
    model = LeNet()
    model.fc1.weight.requires_grad_(False)
    batch = (torch.randn(2, 1, 28, 28), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match=r"'fc1.weight' has requires_grad=False"):
        prunus.Sparsifier(model).prune(0.5, "snip", data=[batch])
    with pytest.raises(InputError, match="synflow feeds the model ones"):
        prunus.Sparsifier(model).prune(0.5, "synflow", data=[torch.zeros(2, 5, dtype=torch.long)])
    squashed = nn.Sequential(nn.Linear(99, 99), nn.Linear(99, 9), nn.Sigmoid())
    squashed[0].weight.data *= 100
    with pytest.raises(InputError, match="the output saturates"):
        prunus.Sparsifier(squashed).prune(0.5, "synflow", data=[(torch.randn(2, 99), torch.zeros(2))])
    with pytest.raises(InputError, match="another model"):
        prunus.Sparsifier(model).load_state_dict(prunus.Sparsifier(nn.Linear(3, 3)).state_dict())


def test_row_scope_equals_a_loop():
    torch.manual_seed(3)
    layer = nn.Conv2d(3, 5, 3)
    found = prunus.Sparsifier(layer).prune(0.4, "l1", scope="row").masks["weight"].flatten(1)
    for mask in found:
        assert int((~mask).sum()) == round(0.4 * 27)
    lost, kept = (layer.weight.detach().abs().flatten(1).masked_fill(m, 0) for m in (found, ~found))
    assert not lost.any() and int((kept > 0).sum()) == 5 * 16


@pytest.mark.parametrize("levels", [3, 10**6])
def test_two_of_four_keeps_the_two_highest_of_each_line_also_among_equals(levels):
    draw = torch.Generator().manual_seed(0)
    values = torch.randint(0, levels, (64, 32), generator=draw).float()
    kept = parse("2:4").mask(values, "weight").view(-1, 4)
    lines = values.view(-1, 4)
    assert (kept.sum(1) == 2).all()
    lowest_kept = lines.masked_fill(~kept, float("inf")).amin(1)
    assert (lowest_kept >= lines.masked_fill(kept, -1).amax(1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_zeros_outside_a_mask_are_plus_zero_whatever_was_there(dtype):
    values = torch.tensor([[1.5, -2.0, float("nan"), float("inf"), -0.0, 3.0]], dtype=dtype).repeat(4, 1).t()
    mask = torch.tensor([[True, False, False, False, False, True]]).repeat(4, 1).t()
    expected = values.masked_fill(~mask, 0)
    zero_outside(values, mask)
    assert torch.equal(values, expected) and not values.signbit().any()


@pytest.mark.parametrize("levels", [4, 10**6])
def test_the_lowest_scores_are_chosen_by_count_also_among_equals(levels):
    """Against torch.nn.utils.prune, which takes topk's choice."""
    layer = nn.Linear(40, 30, bias=False)
    draw = torch.Generator().manual_seed(1)
    layer.weight.data = torch.randint(1, levels, (30, 40), generator=draw).float()
    other = copy.deepcopy(layer)
    sparse = prunus.Sparsifier(layer).prune(0.3)
    torch.nn.utils.prune.l1_unstructured(other, "weight", amount=0.3)
    assert torch.equal(sparse.masks["weight"], other.weight_mask.bool())
    assert int((~sparse.masks["weight"]).sum()) == 360
