"""The loop against the same steps written out by hand, and the losses against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.train import CSV, JSONL, EarlyStopping, TensorBoard, cosine, distillation, fit, linear, read_jsonl


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))


def data(count: int = 5) -> list[list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    inputs = [torch.randn(8, 4, generator=draw) for _ in range(count)]
    return [[x, x[:, :3].argmax(1)] for x in inputs]


def test_the_loop_takes_the_steps_it_says():
    model, by_hand, batches = net(), net(), data()
    fit(model, batches, epochs=3, lr=0.01)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=15)
    for _ in range(3):
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(by_hand(inputs), targets).backward()
            optimizer.step()
            schedule.step()
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_model_bears_no_mark_of_it():
    """Accelerate marks what it has prepared; a copy of a marked model would stay where it is, off the GPU."""
    model = net()
    before = set(vars(model))
    fit(model, data(), epochs=1)
    assert set(vars(model)) == before


def test_it_learns_and_tells():
    model, seen, modes = net(), [], []

    def validate(trained):
        modes.append(trained.training)
        home = next(trained.parameters()).device
        losses = [F.cross_entropy(trained(x.to(home)), y.to(home)) for x, y in data()]
        return {"loss": float(sum(losses).detach())}

    history = fit(model, data(), epochs=20, lr=0.05, validate=validate, on_progress=seen.append)
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].metrics["loss"] < history.epochs[0].metrics["loss"]
    assert [epoch.epoch for epoch in history.epochs] == list(range(1, 21))
    assert modes == [False] * 20
    assert not model.training
    assert (seen[0].epoch, seen[0].step, seen[-1].epoch, seen[-1].step, len(seen)) == (1, 1, 20, 5, 100)
    assert seen[4].loss == pytest.approx(history.epochs[0].loss)


def test_a_pruned_model_learns_again():
    model = net()
    small = prunus.prune(model, torch.randn(2, 4), ratio=0.5)
    history = fit(small, data(), epochs=15, lr=0.05)
    assert small[0].weight.shape == (8, 4)
    assert history.epochs[-1].loss < 0.7 * history.epochs[0].loss


def test_a_seed_repeats_the_run_and_leaves_the_callers_random_numbers():
    def run(seed):
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        model.load_state_dict(nn.Sequential(*(m for m in [net()[0], nn.Dropout(), net()[3]])).state_dict())
        state = torch.get_rng_state()
        fit(model, data(), epochs=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return model[0].weight.detach()

    first = run(1)
    torch.rand(7)
    torch.testing.assert_close(run(1), first, rtol=0, atol=0)
    assert not torch.allclose(run(2), first)


def test_an_optimizer_keeps_its_own_rates():
    model = net()
    fixed = model[0].weight.detach().clone()
    moved = model[3].weight.detach().clone()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[3].parameters()}], lr=0.1
    )
    fit(model, data(), epochs=1, optimizer=optimizer)
    torch.testing.assert_close(model[0].weight.detach(), fixed, rtol=0, atol=0)
    assert not torch.allclose(model[3].weight.detach(), moved)


def by_hand(model, optimizer, groups, clip=None, after=lambda: None):
    """One step for each group of batches, written out."""
    for group in groups:
        optimizer.zero_grad()
        inputs, targets = (torch.cat(parts) for parts in zip(*group, strict=True))
        F.cross_entropy(model(inputs), targets).backward()
        if clip is not None:
            norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
            for p in model.parameters():
                p.grad *= min(1.0, clip / float(norm))
        optimizer.step()
        after()


def assert_same(model, other, **tolerance):
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, **tolerance)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_accumulated_batches_make_the_step_of_one_large_batch():
    """Seven batches by three: the last group has one, and counts in full."""
    model, other, batches = net().double(), net().double(), [[x.double(), y] for x, y in data(7)]
    fit(model, batches, epochs=1, optimizer=sgd(model), schedule=None, accumulate=3)
    by_hand(other, sgd(other), [batches[:3], batches[3:6], batches[6:]])
    assert_same(model, other)


def test_the_gradients_norm_is_clipped():
    model, other, batches = net(), net(), data()
    fit(model, batches, epochs=1, optimizer=sgd(model), schedule=None, clip=0.05)
    by_hand(other, sgd(other), [[b] for b in batches], clip=0.05)
    assert_same(model, other)


def test_the_average_is_its_formula_and_keeps_zeros():
    model, other, batches, validated = net(), net(), data(), []
    for each in (model, other):
        with torch.no_grad():
            each[0].weight[:8] = 0.5
    sparse = prunus.Sparsifier(model, only=["0"]).set({"0.weight": other[0].weight != 0.5})
    with torch.no_grad():
        other[0].weight[:8] = 0
    average = [p.detach().clone() for p in other.parameters()]

    def after():
        with torch.no_grad():
            other[0].weight[:8] = 0
        after.t += 1
        d = min(0.8, (1 + after.t) / (10 + after.t))
        for i, p in enumerate(other.parameters()):
            average[i] = d * average[i] + (1 - d) * p.detach()

    after.t = 0
    fit(
        model,
        batches,
        epochs=1,
        optimizer=sgd(model),
        schedule=None,
        ema=0.8,
        hooks=[sparse],
        validate=lambda m: validated.append(m[3].weight.detach().clone()) or 0.0,
    )
    by_hand(other, sgd(other), [[b] for b in batches], after=after)
    for found, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(found.detach(), expected)
    torch.testing.assert_close(validated[0], average[2])
    assert not model[0].weight[:8].any()


def test_it_stops_early_with_the_best_weights():
    model, told, seen = net(), iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def validate(trained):
        seen.append(trained[0].weight.detach().clone())
        return next(told)

    stop = EarlyStopping(patience=2)
    history = fit(model, data(), epochs=5, lr=0.01, validate=validate, stop=stop)
    assert (len(history.epochs), history.best) == (4, 2)
    assert torch.equal(model[0].weight.detach(), seen[1])
    told = iter([4.0, 3.0, 3.5])
    history = fit(net(), data(), epochs=3, validate=validate, stop=EarlyStopping(patience=3, mode="min"))
    assert history.best == 2
    assert stop.best is None  # a run doesn't change what it is given
    told = iter([9.0, 8.0, 1.0, 3.0, 2.0, 5.0])
    history = fit(net(), data(), epochs=6, validate=validate, stop=EarlyStopping(patience=1, begin=2))
    assert (len(history.epochs), history.best) == (5, 4)


@pytest.mark.parametrize("schedule", [cosine, linear, lambda o, n: torch.optim.lr_scheduler.StepLR(o, 4, 0.5)])
def test_any_scheduler_of_torch_is_stepped_after_each_step(schedule):
    model, other, batches, rates = net(), net(), data(), []
    optimizer = sgd(model)
    fit(model, batches, epochs=2, optimizer=optimizer, schedule=schedule, on_progress=lambda p: rates.append(p.lr))
    plain = sgd(other)
    scheduler = schedule(plain, 10)
    by_hand(other, plain, [[b] for b in [*batches, *batches]], after=scheduler.step)
    assert_same(model, other)
    assert rates[-1] == pytest.approx(plain.param_groups[0]["lr"])


def test_a_plateau_lowers_the_rate():
    model = net()
    optimizer = sgd(model)
    fit(
        model,
        data(),
        epochs=4,
        optimizer=optimizer,
        schedule=lambda o, _: torch.optim.lr_scheduler.ReduceLROnPlateau(o, "max", factor=0.1, patience=0),
        validate=lambda _: 1.0,
        stop=EarlyStopping(patience=9),
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**3)


def test_half_precision_runs_and_leaves_no_mark():
    model, dtypes = net(), []

    def loss(trained, batch):
        out = trained(batch[0])
        dtypes.append(trained[0](batch[0]).dtype)
        return F.cross_entropy(out.float(), batch[1])

    model[0].register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    before = set(vars(model))
    fit(model, data(), epochs=1, precision="bf16", loss=loss)
    assert torch.bfloat16 in dtypes
    assert set(vars(model)) == before
    assert model(data()[0][0]).dtype == torch.float32
    fit(model, data(), epochs=1)  # another precision than before is no trouble


def test_trackers_are_told(tmp_path):
    trackers = [JSONL(tmp_path / "a.jsonl"), CSV(tmp_path / "a.csv"), TensorBoard(tmp_path / "board")]
    history = fit(net(), data(), epochs=2, validate=lambda _: {"accuracy": 0.5}, trackers=trackers)
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert rows[5]["accuracy"] == 0.5
    assert rows[5]["epoch_loss"] == rows[4]["loss"] == history.epochs[0].loss
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 13
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [point.step for point in board.Scalars("accuracy")] == [5, 10]


def test_progress_has_an_end_in_sight():
    seen = []
    fit(net(), data(), epochs=2, validate=lambda _: {"accuracy": 0.5}, on_progress=seen.append)
    assert seen[-1].eta == 0
    assert seen[0].eta == pytest.approx(9 * seen[0].seconds)
    assert str(seen[-1]).startswith("epoch 2/2  step 5/5  loss ")
    assert "accuracy 0.5" in str(seen[-1])
    assert "accuracy" not in str(seen[0])


def test_distillation_is_its_formula():
    student, teacher = net(0), net(1).eval()
    with torch.no_grad():
        teacher[3].weight.mul_(20)  # far enough apart that the two directions of the divergence differ
    inputs, targets = data()[0]
    found = distillation(teacher, temperature=3.0, weight=0.25)(student, [inputs, targets])
    p, q = ((m(inputs) / 3).softmax(1) for m in (teacher, student))
    divergence = (p * (p / q).log()).sum(1).mean()
    wrong_way = (q * (q / p).log()).sum(1).mean()
    expected = 0.75 * F.nll_loss(student(inputs).log_softmax(1), targets) + 0.25 * 9 * divergence
    torch.testing.assert_close(found, expected)
    assert abs(float((divergence - wrong_way).detach())) > 1e-2
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student[0].weight.grad is not None


def test_distillation_pulls_towards_the_teacher():
    teacher, student = net(1).eval(), net(0)
    apart = [F.mse_loss(student(x), teacher(x)).item() for x, _ in data()]
    fit(student, data(), epochs=25, lr=0.05, loss=distillation(teacher, weight=1.0))
    closer = [F.mse_loss(student(x).softmax(1), teacher(x).softmax(1)).item() for x, _ in data()]
    assert sum(closer) < 0.05 * sum(apart)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "epochs is 0; give at least 1"),
        ({"loader": []}, "the loader is empty"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"ema": 1.0}, "must lie between 0 and 1, got 1.0"),
        ({"stop": EarlyStopping(2)}, "'score' is to be watched, but validate gave nothing"),
        ({"stop": EarlyStopping(2, "acuracy"), "validate": lambda _: {"accuracy": 1.0}}, "Did you mean 'accuracy'"),
        ({"loader": iter(data())}, "wrap the data in a DataLoader"),
        ({"optimizer": torch.optim.SGD(net(5).parameters(), lr=1.0)}, "Was it made for the model before pruning"),
    ],
)
def test_bad_arguments(arguments, words):
    arguments = {"loader": data(), "epochs": 1, **arguments}
    with pytest.raises(InputError, match=words):
        fit(net(), **arguments)
