"""measure: who runs when, intervals against exact binomial coverage, and runners that leave the model alone."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from prunus.deploy.measure import Latency, measure, median_interval, speedup, torch_runner
from prunus.errors import InputError


def test_candidates_take_turns_and_warm_up_is_not_timed():
    order = []
    found = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=6, warmup=2)
    assert order == ["a", "b"] * 8
    assert list(found) == ["a", "b"]
    assert all(len(latency.samples) == 6 for latency in found.values())
    assert all(x.low_ms <= x.median_ms <= x.high_ms and x.low_ms >= 0 for x in found.values())


def test_threads_and_garbage_collection_are_set_within_and_put_back(monkeypatch):
    before, seen = torch.get_num_threads(), []
    measure({"a": lambda: seen.append((torch.get_num_threads(), gc.isenabled()))}, repeats=6, warmup=0, threads=1)
    assert set(seen) == {(1, False)}
    assert (torch.get_num_threads(), gc.isenabled()) == (before, True)


# The table of order statistics for 95 % intervals of the median, e.g. Conover, Practical Nonparametric Statistics.
@pytest.mark.parametrize("n, k", [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40)])
def test_the_interval_runs_between_the_tabled_order_statistics(n, k):
    samples = [float(i) for i in range(1, n + 1)]
    assert median_interval(samples[::-1]) == ((n + 1) / 2, k, n + 1 - k)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says():
    draws = torch.distributions.Exponential(1.0).sample((4000, 15)).tolist()
    covered = sum(low <= 0.6931 <= high for _, low, high in map(median_interval, draws)) / 4000
    assert 0.95 <= covered <= 0.98  # exact: 0.9648, standard error 0.003


def test_many_samples_do_not_overflow():
    _, low, high = median_interval([float(i) for i in range(3000)])
    assert 1400 < low < 1500 < high < 1600


def test_the_speedup_pairs_rounds_so_that_drift_cancels():
    drift = [1.0, 5.0, 2.0, 9.0, 4.0, 7.0]
    slow, fast = Latency(0, 0, 0, tuple(3 * d for d in drift)), Latency(0, 0, 0, tuple(drift))
    ratio = speedup(slow, fast)
    assert (ratio.median, ratio.low, ratio.high) == (3, 3, 3)
    assert str(ratio) == "3.00x [3.00, 3.00]"
    with pytest.raises(InputError, match="one measure"):
        speedup(slow, Latency(0, 0, 0, (1.0,)))


def test_a_torch_runner_runs_in_eval_without_touching_mode_or_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    run, x = torch_runner(model, torch.ones(3, 4)), torch.ones(3, 4)
    first, again = run(), run()
    assert first.is_inference()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        model[0].weight.mul_(2)  # the runner shares the weights
    assert not torch.equal(run(), first)
    torch.testing.assert_close(run(), model.eval()(x))


def test_bad_input_is_refused_with_the_cure():
    with pytest.raises(InputError, match="at least one named callable"):
        measure({})
    with pytest.raises(InputError, match="at least 6"):
        measure({"a": list}, repeats=5)
    with pytest.raises(InputError, match="args must be"):
        torch_runner(nn.Linear(2, 2), 3)
