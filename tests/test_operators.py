"""Every row of the operator table against execution: neither wrong nor tighter than it must be."""

from __future__ import annotations

import pytest
import torch
from rowcheck import complaints
from samples import SAMPLES, UNREACHABLE, Sample, n, packet

from prunus.operators import TABLE, Call, Row, find
from prunus.operators.pointwise import pointwise

NEWER = {"_fused_rms_norm", "_grouped_mm"}  # not in the oldest torch that prunus runs on
ROWS = frozenset(TABLE)  # before any test makes find() add rows of pointwise operators


def named(sample: Sample) -> str:
    return f"{sample.name}.{sample.overload}"


@pytest.mark.parametrize("sample", SAMPLES, ids=named)
@pytest.mark.filterwarnings("ignore")
def test_row(sample: Sample) -> None:
    if sample.name in NEWER and packet(sample.name) is None:
        pytest.skip(f"torch {torch.__version__} has no {sample.name} yet")
    found = complaints(sample)
    if sample.known is not None:
        fragment, reason = sample.known
        assert found, f"no complaint any more; it was known that {reason}"
        found = [text for text in found if fragment not in text]
    assert not found, "\n".join(found)


def test_every_row_has_samples() -> None:
    sampled = {sample.name for sample in SAMPLES}
    pointwise_by_tag = {name for name in ROWS if TABLE[name].rule is pointwise and find_by_tag(name)}
    assert ROWS - sampled - set(UNREACHABLE) - pointwise_by_tag == set()
    assert set(UNREACHABLE) <= ROWS
    assert not sampled & set(UNREACHABLE)


def find_by_tag(name: str) -> bool:
    found = packet(name)
    return any(torch.Tag.pointwise in getattr(found, overload).tags for overload in found.overloads())


def test_every_row_is_of_an_operator_that_torch_has() -> None:
    assert [name for name in ROWS if packet(name) is None and name not in NEWER] == []


def test_in_place_forms_share_the_row_of_the_plain_form() -> None:
    for name in ("relu_", "add_", "hardswish_", "clamp_", "index_add_", "scatter_", "squeeze_", "cumsum_", "tril_"):
        row = find(name)
        assert row is not None, name
        plain = find(name[:-1])
        assert plain is not None
        assert row.rule is plain.rule


@pytest.mark.parametrize(
    "name", ["fft_fft", "linalg_eigh", "linalg_svd", "_no_such_operator", "grid_sampler_2d_backward"]
)
def test_what_isnt_in_the_table_isnt_guessed(name: str) -> None:
    assert find(name) is None


# -- the check itself can fail ---------------------------------------------------------------------------------------


def judged(monkeypatch: pytest.MonkeyPatch, sample: Sample, rule, preserves_zero: bool = False) -> str:
    monkeypatch.setitem(TABLE, sample.name, Row(sample.name, rule, preserves_zero))
    return "\n".join(complaints(sample))


def passed(call: Call):
    return [call.first()] * len(call.outputs)


def frozen(call: Call):
    for tensor in call.given:
        for axis in call.axes_of(tensor):
            call.freeze(axis, "because")
    return call.frozen_outputs("because")


WRONG = {
    "flip along it passes": (Sample("flip", [n(4, 5), [1]]), passed),
    "roll along it passes": (Sample("roll", [n(4, 5), [1], [1]]), passed),
    "sort along it passes": (Sample("sort", [n(4, 5), 1]), passed),
    "a product without coupling": (
        Sample("mm", [n(4, 5), n(5, 3)]),
        lambda call: (call.first()[0], call.axes_of(call.args[1])[1]),
    ),
    "a view the wrong way round": (
        Sample("view", [n(15), [3, 5]]),
        lambda call: tuple(call.space.regroup([call.first()[0]], [5, 3])[::-1]),
    ),
    "a scale that depends on the width": (Sample("softmax", [n(4, 5), 1], overload="int"), passed),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrong: " in judged(monkeypatch, *WRONG[name])


def test_a_statistic_that_asks_for_the_order_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(call: Call):
        call.reduces(call.first()[1])
        return call.first()

    assert "depends on its order" in judged(monkeypatch, Sample("flip", [n(4, 5), [1]]), rule)


def test_a_row_that_claims_to_preserve_zeros_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "preserves_zero" in judged(monkeypatch, Sample("sigmoid", [n(4, 5)]), passed, preserves_zero=True)


def test_a_row_that_freezes_too_much_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "frozen: dimension 1" in judged(monkeypatch, Sample("relu", [n(4, 5)]), frozen)
    assert "frozen: dimension 0" in judged(monkeypatch, Sample("mm", [n(4, 5), n(5, 3)]), frozen)


def test_a_row_that_couples_too_much_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(call: Call):
        a, b = (call.axes_of(t) for t in call.args)
        call.unify(a[1], b[0])
        call.unify(a[0], b[1])
        return (a[0], b[1])

    assert "coupled: " in judged(monkeypatch, Sample("mm", [n(4, 5), n(5, 4)]), rule)


def test_a_row_that_refines_too_much_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(call: Call):
        call.space.split(call.first()[0], 2)
        return call.first()

    assert "refined: " in judged(monkeypatch, Sample("relu", [n(6, 5)]), rule)
