"""Search and iteration: every candidate within the budget, better than where it began, and resumable."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest
import torch
from torch import nn

import prunus
from prunus.budget import Request, read
from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.importance import score
from prunus.limits import Limits
from prunus.searching import _Space

X = torch.zeros(1, 1, 28, 28)
WIDE = {"parameters": "40%"}  # most of which are those of fc1 and fc2, so that plans differ in them
FORK = multiprocessing.get_context("fork")


def lenet():
    torch.manual_seed(0)
    return LeNet().eval()


def likes_fc1(network):
    """A made-up score that the solver knows nothing of."""
    return network.fc1.out_features / 120 - network.fc2.out_features / 84


def macs(model):
    return prunus.profile(model, X, latency=False).macs


@pytest.mark.parametrize(("method", "trials"), [("evolution", 40), ("optuna", 25)])
def test_it_finds_better_than_the_solver_and_never_leaves_the_budget(method, trials):
    if method == "optuna":
        pytest.importorskip("optuna")
    model, costs = lenet(), []

    def evaluate(network):
        costs.append(macs(network))
        return likes_fc1(network)

    found = prunus.search(model, X, evaluate=evaluate, budget={"macs": "50%"}, trials=trials, method=method)
    assert len(found.trials) == len(costs) == trials
    assert max(costs) <= 0.5 * macs(model)
    assert found.trials[0].emphasis == dict.fromkeys(found.trials[0].emphasis, 0.0)
    start = prunus.plan(model, X, budget={"macs": "50%"}).apply(model)
    assert found.trials[0].score == likes_fc1(start)
    assert found.score > found.trials[0].score + 0.2
    assert likes_fc1(found.plan.apply(model)) == found.score == max(t.score for t in found.trials)


def evolve(storage, log, die=0):
    def evaluate(network):
        with open(log, "a") as file:
            file.write("x")
        if log.stat().st_size == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return likes_fc1(network)

    return prunus.search(lenet(), X, evaluate=evaluate, budget={"parameters": "40%"}, trials=12, storage=storage)


def killed(work, *args):
    """Run ``work`` in a process of its own, which must kill itself."""
    process = FORK.Process(target=work, args=args)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_evolution_goes_on_after_a_kill_as_if_nothing_had_been(tmp_path):
    expected = evolve(None, tmp_path / "whole")
    killed(evolve, tmp_path / "journal", tmp_path / "log", 8)
    found = evolve(tmp_path / "journal", tmp_path / "log")
    assert found.trials == expected.trials and found.plan.kept == expected.plan.kept
    assert (tmp_path / "log").stat().st_size == 8 + 12 - 7


def test_optuna_resumes_from_sqlite_and_its_pruner_is_asked(tmp_path):
    pytest.importorskip("optuna")
    arguments = {"budget": WIDE, "method": "optuna", "storage": tmp_path / "study.db"}
    seen, ended = [], []

    def evaluate(network, report):
        value = likes_fc1(network) - len(seen)  # each worse than all before it: once there is a median, it's pruned
        seen.append(value)
        ended.append(False)
        for step in range(3):
            report(step, value)
        ended[-1] = True
        return value

    first = prunus.search(lenet(), X, evaluate=evaluate, trials=3, **arguments)
    second = prunus.search(lenet(), X, evaluate=evaluate, trials=12, **arguments)
    assert len(seen) == 12 and second.trials[:3] == first.trials
    assert not all(ended) and [trial.score is not None for trial in second.trials] == ended
    again = prunus.search(lenet(), X, evaluate=evaluate, trials=12, **arguments)
    assert len(seen) == 12 and again.score == second.score


def share_a_study(storage, log, gate):
    def evaluate(network):
        with log.open("a") as file:
            file.write("x")
        time.sleep(0.3)  # so that the other has its turn, too
        return likes_fc1(network)

    gate.wait(60)
    return prunus.search(lenet(), X, evaluate=evaluate, budget=WIDE, trials=10, method="optuna", storage=storage)


def test_two_processes_share_one_study_from_its_first_moment(tmp_path):
    """Both begin at once on a file that isn't there yet; each trial is evaluated once, by one of them, and its score is
    what this process finds for the same emphasis."""
    pytest.importorskip("optuna")
    gate, logs = FORK.Barrier(2), [tmp_path / "one", tmp_path / "two"]
    processes = [FORK.Process(target=share_a_study, args=(tmp_path / "study.db", log, gate)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    evaluated = [log.stat().st_size for log in logs]
    assert min(evaluated) >= 1
    never = prunus.search(
        lenet(), X, evaluate=likes_fc1, budget=WIDE, trials=10, method="optuna", storage=tmp_path / "study.db"
    )
    assert len(never.trials) == sum(evaluated) and 10 <= sum(evaluated) <= 11
    assert sum(all(value == 0.0 for value in trial.emphasis.values()) for trial in never.trials) in (1, 2)
    assert never.score == max(trial.score for trial in never.trials)
    graph = prunus.trace(lenet(), X)
    request = Request(read(WIDE), "global", (), Limits(1, None, None), None)
    space = _Space(graph, score(graph, "l2"), request, WIDE)
    assert [likes_fc1(space.small(trial.emphasis)) for trial in never.trials] == [t.score for t in never.trials]
    assert len({trial.score for trial in never.trials}) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "evolve"}, "no method 'evolve'. Did you mean 'evolution'"),
        ({"trials": 0}, "trials must be a whole number from 1"),
        ({"budget": {"latency": "50%"}}, "needs to know where the model runs"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        prunus.search(lenet(), X, **{"evaluate": likes_fc1, "budget": {"macs": "50%"}, "trials": 2, **arguments})


def stepwise(folder, log, die=0):
    """Three cuts of a LeNet, with weights moved in place of training."""

    def recover(network):
        with open(log, "a") as file:
            file.write("x")
        if log.stat().st_size == die:
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * torch.sin(torch.arange(float(parameter.numel())).reshape(parameter.shape)))

    return prunus.iterate(
        lenet(),
        X,
        budget={"macs": "40%", "parameters": "50%"},
        steps=3,
        recover=recover,
        evaluate=lambda network: float(macs(network)),
        folder=folder,
    )


def test_steps_meet_their_shares_and_the_last_the_budget(tmp_path):
    found = stepwise(None, tmp_path / "log")
    dense = macs(lenet())
    for step, share in zip(found.steps, (0.4 ** (1 / 3), 0.4 ** (2 / 3), 0.4), strict=True):
        assert step.shares["macs"] == pytest.approx(share)
        assert 0.8 * share * dense < step.score <= share * dense
    plan = found.model.prunus_plan
    assert plan.shape_after("fc1.weight") == tuple(found.model.fc1.weight.shape)
    assert plan.apply(lenet()).fc1.weight.shape == found.model.fc1.weight.shape


def test_iteration_goes_on_after_a_kill(tmp_path):
    expected = stepwise(None, tmp_path / "whole")
    killed(stepwise, tmp_path / "steps", tmp_path / "log", 2)
    found = stepwise(tmp_path / "steps", tmp_path / "log")
    assert (tmp_path / "log").stat().st_size == 2 + 2
    assert found.steps == expected.steps
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=0, atol=0)
    with pytest.raises(InputError, match="holds steps of another model, budget or number"):
        prunus.iterate(lenet(), X, budget={"macs": "40%"}, steps=3, recover=lambda m: None, folder=tmp_path / "steps")


def test_what_iterate_refuses():
    with pytest.raises(InputError, match="steps must be a whole number"):
        prunus.iterate(nn.Linear(2, 2), torch.ones(1, 2), budget={"macs": "50%"}, steps=0, recover=print)
    with pytest.raises(InputError, match="takes no budget of latency"):
        prunus.iterate(nn.Linear(2, 2), torch.ones(1, 2), budget={"latency": "50%"}, steps=2, recover=print)
