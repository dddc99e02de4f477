"""Integers that remember where they come from, and the solver of what the run asked of them."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.axes import Atom, Space, product, total
from prunus.sizes import Arithmetic, Attribute, Count, Equation, Expression, Ledger, Size, Sizes, evaluate, solve

HEADS, DEPTH, WIDTH = (Attribute("attn", name) for name in ("num_heads", "head_dim", "width"))


def equal(left: Expression, right: Expression, soft: bool = False) -> Equation:
    return Equation(left, right, f"needs {left} == {right}", soft)


def times(left: Expression, right: Expression) -> Arithmetic:
    return Arithmetic("*", left, right)


def chosen(space: Space, found: Sizes, every: list[Atom], seed: int) -> dict[Atom, int]:
    """Random counts of all atoms that are free to choose, with those that follow."""
    rng = random.Random(seed)
    counts = {}
    for axis in every:
        if space.reason(axis) is None and axis not in found.followers:
            counts[axis] = rng.randint(1, axis.size)
    return found.complete(counts)


def check(space: Space, found: Sizes, equations: list[Equation], every: list[Atom]) -> None:
    """Whatever is chosen, every equation holds with the new counts and the new attributes."""
    for seed in range(20):
        counts = chosen(space, found, every, seed)
        assert all(1 <= counts.get(atom, atom.size) <= atom.size for atom in every)
        attributes = {**found.values, **found.attributes(counts)}
        for e in equations:
            if not e.soft:
                assert evaluate(e.left, counts, attributes) == evaluate(e.right, counts, attributes), e.reason


def frozen(space: Space, *every: Atom) -> list[bool]:
    return [space.reason(atom) is not None for atom in every]


def test_an_attribute_is_defined_by_the_axis_that_it_sizes() -> None:
    space = Space()
    heads, depth = space.fresh(8), space.fresh(64)
    equations = [equal(HEADS, Count(heads)), equal(WIDTH, Count(product([heads, depth])))]
    found = solve(space, equations, {HEADS: 8, WIDTH: 512})
    check(space, found, equations, [heads, depth])
    assert found.attributes({heads: 3}) == {HEADS: 3, WIDTH: 3 * 64}
    assert found.attributes({heads: 8}) == {}
    assert not any(frozen(space, heads, depth))


def test_a_width_follows_the_heads() -> None:
    """One layer is as wide as another's heads, times a head_dim written as a literal."""
    space = Space()
    heads, width = space.fresh(4), space.fresh(256)
    equations = [equal(Count(width), times(Count(heads), 64))]
    found = solve(space, equations, {})
    check(space, found, equations, [heads, width])
    assert not any(frozen(space, heads, width))
    assert found.complete({heads: 3}) == {heads: 3, width: 192}
    assert found.complete({heads: 3, width: 7})[width] == 192  # a follower isn't chosen


def test_a_ratio_stays_and_what_it_multiplies_follows() -> None:
    """Of ``hidden == ratio * width`` the ratio could be a quotient, but not for any two counts."""
    space, ratio = Space(), Attribute("", "config", ("mlp_ratio",))
    width, hidden = space.fresh(16), space.fresh(64)
    equations = [equal(WIDTH, Count(width)), equal(times(WIDTH, ratio), Count(hidden))]
    found = solve(space, equations, {WIDTH: 16, ratio: 4})
    check(space, found, equations, [width, hidden])
    assert not any(frozen(space, width, hidden)) and ratio not in found.definitions
    assert found.complete({width: 5}) == {width: 5, hidden: 20}


def test_the_pieces_of_a_chunk_keep_one_count() -> None:
    space = Space()
    a, b, c = (space.fresh(6) for _ in range(3))
    equations = [equal(Count(a), Count(b)), equal(Count(a), Count(c))]
    found = solve(space, equations, {})
    check(space, found, equations, [a, b, c])
    assert len(found.followers) == 2 and not any(frozen(space, a, b, c))


def test_followers_are_in_order_of_evaluation() -> None:
    space = Space()
    a, b, c = space.fresh(4), space.fresh(8), space.fresh(16)
    equations = [equal(Count(c), times(2, Count(b))), equal(Count(b), times(2, Count(a)))]
    found = solve(space, equations, {})
    check(space, found, equations, [a, b, c])
    assert list(found.followers) == [b, c] and found.complete({a: 3}) == {a: 3, b: 6, c: 12}


def test_an_equation_that_others_imply_freezes_nothing() -> None:
    """``C == heads * d`` and ``num_heads == heads`` imply ``C // num_heads == d``."""
    space = Space()
    heads, depth = space.fresh(12), space.fresh(64)
    width = Count(product([heads, depth]))
    equations = [
        equal(HEADS, Count(heads)),
        equal(Arithmetic("//", width, HEADS), Count(depth)),
        equal(Arithmetic("//", WIDTH, HEADS), Count(depth)),
        equal(WIDTH, width),
    ]
    found = solve(space, equations, {HEADS: 12, WIDTH: 768})
    check(space, found, equations, [heads, depth])
    assert not any(frozen(space, heads, depth)) and not found.followers
    assert found.attributes({heads: 5, depth: 32}) == {HEADS: 5, WIDTH: 160}


def test_several_attributes_at_once() -> None:
    space = Space()
    heads, depth = space.fresh(4), space.fresh(16)
    equations = [
        equal(HEADS, Count(heads)),
        equal(DEPTH, Count(depth)),
        equal(times(HEADS, DEPTH), Count(product([heads, depth]))),
    ]
    found = solve(space, equations, {HEADS: 4, DEPTH: 16})
    check(space, found, equations, [heads, depth])
    assert found.attributes({heads: 2, depth: 8}) == {HEADS: 2, DEPTH: 8}


def test_a_literal_freezes_with_its_reason() -> None:
    space = Space()
    a, b = space.fresh(64), space.fresh(64)
    found = solve(space, [Equation(64, Count(a), "is reshaped by the literal 64 at vit.py:88")], {})
    assert space.reason(a) == "is reshaped by the literal 64 at vit.py:88"
    assert space.reason(b) is None and not found.followers


def test_a_literal_factor_freezes_only_what_it_fixes() -> None:
    """``width // heads`` is a literal 64: the depth can't go, the heads can."""
    space = Space()
    heads, depth = space.fresh(12), space.fresh(64)
    equations = [equal(HEADS, Count(heads)), equal(64, Arithmetic("//", Count(product([heads, depth])), HEADS))]
    found = solve(space, equations, {HEADS: 12})
    check(space, found, equations, [heads, depth])
    assert frozen(space, heads, depth) == [False, True]


def test_what_follows_a_frozen_atom_is_frozen_too() -> None:
    space = Space()
    heads, width = space.fresh(4), space.fresh(256)
    equations = [equal(Count(width), times(Count(heads), 64)), equal(256, Count(width))]
    found = solve(space, equations, {})
    check(space, found, equations, [heads, width])
    assert frozen(space, heads, width) == [True, True]


def test_a_size_used_as_a_number_freezes() -> None:
    space = Space()
    a, b = space.fresh(8), space.fresh(8)
    ledger = Ledger(space)
    ledger.number(Count(a), 8)
    solve(space, ledger.equations.values(), {})
    assert "its size 8 is used as a number at test_sizes.py:" in str(space.reason(a))
    assert space.reason(b) is None


def test_an_attribute_used_as_a_number_and_as_a_size_freezes() -> None:
    space = Space()
    a = space.fresh(8)
    ledger = Ledger(space)
    ledger.require(WIDTH, Count(a))
    ledger.number(WIDTH, 8)
    solve(space, ledger.equations.values(), {WIDTH: 8})
    assert frozen(space, a) == [True]


def test_one_attribute_shared_by_two_layers_pairs_their_factors() -> None:
    """Two attention layers with heads and depths of their own that read one width and one num_heads."""
    space = Space()
    h1, d1, h2, d2 = (space.fresh(n) for n in (4, 16, 4, 16))
    equations = [
        equal(HEADS, Count(h1)),
        equal(HEADS, Count(h2)),
        equal(WIDTH, Count(product([h1, d1]))),
        equal(WIDTH, Count(product([h2, d2]))),
    ]
    found = solve(space, equations, {HEADS: 4, WIDTH: 64})
    check(space, found, equations, [h1, d1, h2, d2])
    assert not any(frozen(space, h1, d1, h2, d2)) and len(found.followers) == 2


def test_a_shared_width_alone_pairs_factors_of_like_sizes() -> None:
    space = Space()
    a, b, c, d = (space.fresh(n) for n in (4, 16, 16, 4))
    equations = [equal(WIDTH, Count(product([a, b]))), equal(WIDTH, Count(product([c, d])))]
    found = solve(space, equations, {WIDTH: 64})
    check(space, found, equations, [a, b, c, d])
    assert not any(frozen(space, a, b, c, d)) and len(found.followers) == 2


def test_sizes_that_nothing_can_tie_freeze() -> None:
    space = Space()
    a, b, c, d = (space.fresh(n) for n in (4, 16, 8, 8))
    equations = [equal(Count(product([a, b])), Count(product([c, d])))]
    found = solve(space, equations, {})
    check(space, found, equations, [a, b, c, d])


def test_of_products_that_share_nothing_one_factor_follows_one() -> None:
    """Eight groups of six channels are as wide as four heads of twelve: twice as many depths go as channels."""
    space = Space()
    groups, channels, heads, depth = (space.fresh(n) for n in (8, 6, 4, 12))
    equations = [equal(Count(product([groups, channels])), Count(product([heads, depth])))]
    found = solve(space, equations, {})
    check(space, found, equations, [groups, channels, heads, depth])
    assert frozen(space, groups, channels, heads, depth) == [True, False, True, False]
    assert found.complete({channels: 3}) == {channels: 3, depth: 6}


def test_what_no_tensor_holds_follows_what_one_does() -> None:
    """Only the counts of tensors' axes are chosen: nothing could go if they followed an axis that has none."""
    for swapped in (False, True):
        space = Space()
        heads, copies, width = space.fresh(4), space.fresh(4), space.fresh(48)
        sides = (Count(copies), Count(heads)) if swapped else (Count(heads), Count(copies))
        equations = [equal(*sides), equal(Count(width), times(Count(copies), 12))]
        found = solve(space, equations, {}, held=[heads, width])
        check(space, found, equations, [heads, copies, width])
        assert found.complete({heads: 2}) == {heads: 2, copies: 2, width: 24}


def test_a_comparison_that_came_out_true_may_define_but_not_freeze() -> None:
    space = Space()
    a = space.fresh(8)
    found = solve(space, [equal(WIDTH, Count(a), soft=True), equal(8, Count(a), soft=True)], {WIDTH: 8})
    assert not any(frozen(space, a))
    assert found.attributes({a: 3}) == {WIDTH: 3}


def test_the_check_can_fail() -> None:
    space = Space()
    a, b = space.fresh(8), space.fresh(8)
    with pytest.raises(AssertionError, match="needs"):
        check(space, Sizes({}), [equal(Count(a), Count(b))], [a, b])


def drawn(rng: random.Random, sizes: list[int]) -> tuple[Space, list[Equation], list[Atom], dict[Attribute, int]]:
    """Random equations between axes, literals, attributes and their arithmetic, true at full size."""
    space = Space()
    every = [space.fresh(rng.choice(sizes)) for _ in range(rng.randint(2, 6))]
    attributes = {Attribute(f"m{i}", "n"): rng.choice(sizes) * rng.choice([1, 1, 2]) for i in range(3)}
    values: dict[int, list[Expression]] = {}

    def leaf() -> Expression:
        some = rng.sample(every, min(len(every), rng.randint(1, 3)))
        return rng.choice([Count(product(some)), Count(total(some)), rng.choice(list(attributes)), rng.randint(1, 24)])

    exprs = [leaf() for _ in range(8)]
    exprs += [Arithmetic(rng.choice("+*"), leaf(), leaf()) for _ in range(6)]
    for some in (rng.sample(every, 2) for _ in range(2)):  # a width over its heads
        exprs.append(Arithmetic("//", Count(product(some)), Count(rng.choice(some))))
    for expr in [*exprs, *(Count(a) for a in every), *attributes]:
        values.setdefault(evaluate(expr, {}, attributes), []).append(expr)
    equations = []
    for value, same in values.items():
        same = [*same, value] if rng.random() < 0.2 else same
        equations += [equal(a, b) for a, b in itertools.pairwise(same)]
    rng.shuffle(equations)
    return space, equations, every, attributes


@pytest.mark.parametrize("sizes", [[32, 48, 64, 96, 128], [2, 3, 4, 6, 8]], ids=["wide", "narrow"])
def test_whatever_is_chosen_every_equation_holds(sizes: list[int]) -> None:
    for seed in range(400):
        space, equations, every, attributes = drawn(random.Random(seed), sizes)
        check(space, solve(space, equations, attributes), equations, every)


# -- integers that remember ------------------------------------------------------------------------------------------

BINARY = [
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv, operator.pow),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift, divmod, min, max),
]
UNARY = [
    *(operator.neg, operator.pos, operator.invert, operator.index, abs, int, float, complex, bool, str, repr, hash),
    *(round, math.sqrt, math.log2, math.floor, range, bin, copy.copy, copy.deepcopy),
]
KEPT = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}


def outcome(function, *values):
    try:
        return function(*values)
    except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
        return type(error)


def sized(value: int, ledger: Ledger) -> Size:
    return Size.of(value, Attribute("m", f"n{value}"), ledger)


@settings(max_examples=300)
@given(st.sampled_from(BINARY), st.integers(-12, 40), st.integers(-12, 12), st.sampled_from(["left", "right", "both"]))
def test_a_size_computes_as_an_int_and_remembers(function, a: int, b: int, which: str) -> None:
    ledger = Ledger(Space())
    x = sized(a, ledger) if which != "right" else a
    y = sized(b, ledger) if which != "left" else b
    expected, found = outcome(function, a, b), outcome(function, x, y)
    assert found == expected and isinstance(found, type(expected))
    if function.__name__ in KEPT and not isinstance(expected, type):
        assert isinstance(found, Size)
        known = {Attribute("m", f"n{value}"): value for value in (a, b)}
        assert evaluate(found.expr, {}, known) == expected


@settings(max_examples=200)
@given(st.sampled_from(UNARY), st.integers(-12, 40))
def test_a_size_is_an_int_in_every_other_way(function, a: int) -> None:
    expected, found = outcome(function, a), outcome(function, sized(a, Ledger(Space())))
    assert found == expected and isinstance(found, type(expected))


@given(st.integers(-12, 40), st.sampled_from([2.5, "ab", [1], 3.0 + 1j, True, None]))
def test_with_other_types_too(a: int, other) -> None:
    for function in (operator.add, operator.mul, operator.eq, operator.floordiv):
        for values in ((a, other), (other, a)):
            traced = [sized(v, Ledger(Space())) if type(v) is int else v for v in values]
            expected, found = outcome(function, *values), outcome(function, *traced)
            assert found == expected and isinstance(found, type(expected))


def test_a_size_leaves_no_trace_in_copies() -> None:
    size = sized(8, Ledger(Space()))
    assert type(pickle.loads(pickle.dumps(size))) is int
    assert [0] * size == [0] * 8 and list(range(9))[size] == 8


@pytest.mark.parametrize("use", [lambda n: n**-0.5, lambda n: 1 / n, lambda n: n * 0.5, float, math.sqrt])
def test_a_use_as_a_number_is_noted(use) -> None:
    space = Space()
    axis, ledger = space.fresh(8), Ledger(space)
    use(Size.of(8, Count(axis), ledger))
    solve(space, ledger.equations.values(), {})
    assert "used as a number" in str(space.reason(axis))


@pytest.mark.parametrize("use", [abs, lambda n: n >> 1, lambda n: n << 1, lambda n: n & 7, lambda n: divmod(n, 2)])
def test_a_use_by_other_integer_operators_is_noted(use) -> None:
    test_a_use_as_a_number_is_noted(use)


def test_integer_arithmetic_and_true_comparisons_dont_freeze() -> None:
    space = Space()
    axis, other, ledger = space.fresh(8), space.fresh(8), Ledger(space)
    size, second = (Size.of(8, Count(a), ledger) for a in (axis, other))
    assert size == second and size * 2 // 4 == 4 and size != 9
    solve(space, ledger.equations.values(), {})
    assert space.reason(axis) is None and space.reason(other) is None
