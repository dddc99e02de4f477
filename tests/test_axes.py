"""The axis algebra against an oracle that knows nothing of it: tensors of distinct numbers, moved about by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.axes import (
    EMPTY,
    UNIT,
    Atom,
    Axes,
    Axis,
    Product,
    Space,
    Sum,
    atoms,
    count,
    fold,
    keep_vector,
    places,
    product,
    total,
)

# -- a chain of real operators, and the axes carried along --------------------------------------------------------


@dataclass
class Chain:
    """Real tensors and their axes, side by side. Every step is remembered, so that it can be run on other sources."""

    space: Space = field(default_factory=Space)
    full: list[Tensor] = field(default_factory=list)
    axes: list[Axes] = field(default_factory=list)
    steps: list[tuple[str, tuple[int, ...], object, range]] = field(default_factory=list)
    sources: int = 0

    def source(self, shape: Sequence[int]) -> None:
        start = 1 + sum(t.numel() for t in self.full)
        self.full.append(torch.arange(start, start + int(np.prod(shape))).reshape(shape))
        self.axes.append(tuple(self.space.fresh(size) for size in shape))
        self.sources += 1

    def step(self, kind: str, inputs: tuple[int, ...], how: object) -> None:
        results = apply(kind, [self.full[i] for i in inputs], how)
        learned = self.learn(kind, [self.axes[i] for i in inputs], how)
        assert [tuple(a.size for a in axes) for axes in learned] == [tuple(t.shape) for t in results]
        self.steps.append((kind, inputs, how, range(len(self.full), len(self.full) + len(results))))
        self.full += results
        self.axes += learned

    def learn(self, kind: str, given_: list[Axes], how) -> list[Axes]:
        first = given_[0]
        if kind == "reshape":
            return [tuple(self.space.regroup(first, how))]
        if kind == "permute":
            return [tuple(first[d] for d in how)]
        if kind == "split":
            dim, sizes = how
            return [(*first[:dim], piece, *first[dim + 1 :]) for piece in self.space.cut(first[dim], sizes)]
        joined = how if kind == "cat" else None
        for d, meeting in enumerate(zip(*given_, strict=True)):
            if d != joined:
                self.space.unify_all(meeting)
        if kind == "cat":
            return [(*first[:how], total(axes[how] for axes in given_), *first[how + 1 :])]
        return [first]

    def resolved(self, i: int) -> Axes:
        return tuple(self.space.resolve(axis) for axis in self.axes[i])

    def free(self) -> list[Atom]:
        found = [a for i in range(len(self.full)) for axis in self.resolved(i) for a in atoms(axis)]
        return [a for a in dict.fromkeys(found) if self.space.reason(a) is None]

    def kept(self, i: int, keep: dict[Atom, np.ndarray]) -> Tensor:
        tensor = self.full[i]
        for d, axis in enumerate(self.resolved(i)):
            tensor = tensor.index_select(d, torch.from_numpy(np.flatnonzero(keep_vector(axis, keep))))
        return tensor

    def rerun(self, keep: dict[Atom, np.ndarray]) -> list[Tensor]:
        """The same steps on the kept part of the sources, with the sizes that the algebra predicts."""
        counts = {atom: int(mask.sum()) for atom, mask in keep.items()}
        done = [self.kept(i, keep) for i in range(self.sources)]
        for kind, inputs, how, outputs in self.steps:
            if kind == "reshape":
                how = [count(axis, counts) for axis in self.resolved(outputs[0])]
            elif kind == "split":
                dim = how[0]
                how = (dim, [count(self.resolved(o)[dim], counts) for o in outputs])
            done += apply(kind, [done[i] for i in inputs], how)
        return done


def apply(kind: str, tensors: list[Tensor], how) -> list[Tensor]:
    first = tensors[0]
    if kind == "reshape":
        return [first.reshape(how)]
    if kind == "permute":
        return [first.permute(how)]
    if kind == "split":
        return list(first.split(how[1], how[0]))
    if kind == "cat":
        return [torch.cat(tensors, how)]
    return [first * 1_000_003 + tensors[1]]  # position by position: which two numbers met


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    chain = Chain()
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3))
    for _ in range(draw(st.integers(1, 3))):
        chain.source(draw(st.permutations(shape)))
    for _ in range(draw(st.integers(1, 7))):
        i = draw(st.integers(0, len(chain.full) - 1))
        kind = draw(st.sampled_from(["reshape", "permute", "split", "cat", "meet"]))
        inputs, how = draw(STEPS[kind](chain, i))
        if sum(chain.full[j].numel() for j in inputs) <= 2000:
            chain.step(kind, inputs, how)
    return chain


@st.composite
def reshape(draw: st.DrawFn, chain: Chain, i: int):
    rest, sizes = chain.full[i].numel(), []
    while rest > 1 and len(sizes) < 4:
        sizes.append(draw(st.sampled_from(divisors(rest))))
        rest //= sizes[-1]
    return (i,), [*sizes, rest]


@st.composite
def permute(draw: st.DrawFn, chain: Chain, i: int):
    return (i,), draw(st.permutations(range(chain.full[i].ndim)))


@st.composite
def split(draw: st.DrawFn, chain: Chain, i: int):
    dim = draw(st.integers(0, chain.full[i].ndim - 1))
    size = chain.full[i].shape[dim]
    at = sorted(draw(st.sets(st.integers(1, size - 1), max_size=2))) if size > 1 else []
    return (i,), (dim, np.diff([0, *at, size]).tolist())


@st.composite
def cat(draw: st.DrawFn, chain: Chain, i: int):
    dim = draw(st.integers(0, chain.full[i].ndim - 1))

    def fits(t: Tensor) -> bool:
        a, b = list(t.shape), list(chain.full[i].shape)
        return len(a) == len(b) and a[:dim] + a[dim + 1 :] == b[:dim] + b[dim + 1 :]

    others = [j for j, t in enumerate(chain.full) if fits(t)]
    return (i, *draw(st.lists(st.sampled_from(others), min_size=1, max_size=2))), dim


@st.composite
def meet(draw: st.DrawFn, chain: Chain, i: int):
    return (i, draw(st.sampled_from([j for j, t in enumerate(chain.full) if t.shape == chain.full[i].shape]))), None


STEPS = {"reshape": reshape, "permute": permute, "split": split, "cat": cat, "meet": meet}


@settings(max_examples=400, deadline=None)
@given(chains(), st.data())
def test_what_goes_together_goes_everywhere_and_alone(chain: Chain, data: st.DataObject) -> None:
    free = chain.free()
    if not free:
        return
    atom = data.draw(st.sampled_from(free))
    gone = data.draw(st.sets(st.integers(0, atom.size - 1), min_size=1, max_size=atom.size - 1))
    keep = {atom: np.array([i not in gone for i in range(atom.size)])}
    for i, small in enumerate(chain.rerun(keep)):
        assert torch.equal(small, chain.kept(i, keep)), (i, chain.steps, keep)


@settings(max_examples=200, deadline=None)
@given(chains(), st.data())
def test_all_atoms_at_once(chain: Chain, data: st.DataObject) -> None:
    keep = {}
    for atom in chain.free():
        kept = data.draw(st.sets(st.integers(0, atom.size - 1), min_size=1))
        keep[atom] = np.array([i in kept for i in range(atom.size)])
    for i, small in enumerate(chain.rerun(keep)):
        assert torch.equal(small, chain.kept(i, keep)), (i, chain.steps, keep)


@settings(max_examples=200, deadline=None)
@given(chains(), st.data())
def test_exactly_the_removed_elements_vanish(chain: Chain, data: st.DataObject) -> None:
    """In a chain that only moves numbers: gone downstream is what is gone at the sources, no more and no less."""
    free = chain.free()
    moved = all(kind != "meet" for kind, *_ in chain.steps)
    if not free or not moved:
        return
    atom = data.draw(st.sampled_from(free))
    index = data.draw(st.integers(0, atom.size - 1))
    keep = {atom: np.arange(atom.size) != index}
    left = {x for i in range(chain.sources) for x in chain.kept(i, keep).flatten().tolist()}
    for i, tensor in enumerate(chain.full):
        expected = [x for x in tensor.flatten().tolist() if x in left]
        assert chain.kept(i, keep).flatten().tolist() == expected


@settings(max_examples=200, deadline=None)
@given(chains(), st.data())
def test_counts_and_folds_agree_with_keep_vectors(chain: Chain, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(chain.full) - 1))
    for axis in chain.resolved(i):
        mine = list(dict.fromkeys(atoms(axis)))
        keep = {a: np.array(data.draw(st.lists(st.booleans(), min_size=a.size, max_size=a.size))) for a in mine}
        vector = keep_vector(axis, keep)
        assert len(vector) == axis.size
        assert count(axis, {a: int(mask.sum()) for a, mask in keep.items()}) == vector.sum()
        sums: dict[Atom, np.ndarray] = {}
        values = np.random.default_rng(0).random(axis.size)
        fold(axis, values, sums)
        for a in mine:  # the sum over positions through index k: what the axis loses without index k
            for k in range(a.size):
                without = keep_vector(axis, {a: np.arange(a.size) != k})
                if list(atoms(axis)).count(a) == 1:
                    assert np.isclose(sums[a][k], values[~without].sum())


@settings(max_examples=60, deadline=None)
@given(chains(), st.data())
def test_places_are_what_vanishes_with_an_index(chain: Chain, data: st.DataObject) -> None:
    axis = chain.space.resolve(data.draw(st.sampled_from([axis for axes in chain.axes for axis in axes])))
    for atom in dict.fromkeys(atoms(axis)):
        found = places(axis, atom)
        for i in range(atom.size):
            keep = np.arange(atom.size) != i
            gone = np.flatnonzero(~keep_vector(axis, {atom: keep}))
            assert sorted(set(found[i].tolist())) == gone.tolist()


def test_the_oracle_notices_wrong_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(chain: Chain) -> bool:
        keep = {chain.free()[0]: np.array([True, False, True])}
        return any(not torch.equal(small, chain.kept(i, keep)) for i, small in enumerate(chain.rerun(keep)))

    chain = Chain()
    chain.source([3, 3])
    chain.step("permute", (0,), [1, 0])
    assert not disagree(chain)
    chain.axes[1] = chain.axes[1][::-1]
    assert disagree(chain)

    chain = Chain()
    chain.source([6])
    right = Space.regroup
    monkeypatch.setattr(Space, "regroup", lambda self, axes, sizes: right(self, axes, [3, 2])[::-1])
    chain.step("reshape", (0,), [2, 3])
    assert disagree(chain)


# -- small cases, written out ----------------------------------------------------------------------------------------


def sizes(axis: Axis) -> list[int]:
    return [a.size for a in atoms(axis)]


def test_normal_form() -> None:
    space = Space()
    a, b = space.fresh(2), space.fresh(3)
    assert product([]) is UNIT and total([]) is EMPTY
    assert product([a]) is a and total([a]) is a
    assert product([a, UNIT, product([b, a])]) == Product((a, b, a), 12)
    assert total([a, EMPTY, total([b, a])]) == Sum((a, b, a), 7)
    assert space.fresh(1) is UNIT and space.fresh(0) is EMPTY


def test_heads_times_depth_against_a_width() -> None:
    space = Space()
    heads, depth, width = space.fresh(12), space.fresh(64), space.fresh(768)
    space.unify(width, product([heads, depth]))
    assert space.resolve(width) == product([heads, depth])


def test_four_by_six_against_eight_by_three() -> None:
    space = Space()
    parts = [space.fresh(n) for n in (4, 6, 8, 3)]
    space.unify(product(parts[:2]), product(parts[2:]))
    left, right = (space.resolve(product(p)) for p in (parts[:2], parts[2:]))
    assert left == right
    assert sizes(left) == [4, 2, 3]
    assert sizes(space.resolve(parts[2])) == [4, 2]


def test_rotary_halves_are_tied() -> None:
    """``cat(-x[half:], x[:half]) * sin + x * cos``: the halves rotate together."""
    space = Space()
    width = space.fresh(8 * 16)
    heads, depth = space.regroup([width], [8, 16])
    first, second = space.cut(depth, [8, 8])
    space.unify(depth, total([second, first]))
    half = space.resolve(first)
    assert space.resolve(width) == product([heads, total([half, half])])
    assert isinstance(half, Atom) and half.size == 8 and space.reason(half) is None


def test_fused_qkv_of_gpt2() -> None:
    """``split(c_attn(x), width)``, each a ``heads * depth``; q and k are contracted, v has a depth of its own."""
    space = Space()
    fused = space.fresh(3 * 12)
    q, k, v = space.cut(fused, [12, 12, 12])
    split_up = [space.regroup([piece], [3, 4]) for piece in (q, k, v)]
    for heads, _ in split_up[1:]:
        space.unify(split_up[0][0], heads)
    space.unify(split_up[0][1], split_up[1][1])
    heads, depth = (space.resolve(axis) for axis in split_up[0])
    own = space.resolve(split_up[2][1])
    assert own is not depth
    assert space.resolve(fused) == total([product([heads, depth])] * 2 + [product([heads, own])])
    assert count(space.resolve(fused), {heads: 2, own: 1}) == 2 * 4 * 2 + 2 * 1


def test_a_sum_of_like_terms_against_a_product() -> None:
    space = Space()
    a, b = space.fresh(6), space.fresh(6)
    two, six = space.fresh(2), space.fresh(6)
    space.unify(total([a, b]), product([two, six]))
    assert space.resolve(a) == space.resolve(b) == space.resolve(six)
    assert space.is_frozen(two)  # each of the two is a term of its own, and there is no atom that counts them


def test_an_outer_factor_of_a_sum() -> None:
    """Terms of 4 and 6 against ``5 * 2``: the outer five is the two and the three of them."""
    space = Space()
    a, b, five, two = (space.fresh(n) for n in (4, 6, 5, 2))
    space.unify(total([a, b]), product([five, two]))
    assert sizes(space.resolve(five)) == [2, 3]
    inner = space.resolve(two)
    assert space.resolve(a) == product([space.resolve(five).parts[0], inner])
    assert space.resolve(b) == product([space.resolve(five).parts[1], inner])


def test_sums_align_their_boundaries() -> None:
    space = Space()
    a, b, c, d = (space.fresh(n) for n in (3, 5, 6, 2))
    space.unify(total([a, b]), total([c, d]))
    assert sizes(space.resolve(total([a, b]))) == [3, 3, 2]
    assert space.resolve(total([a, b])) == space.resolve(total([c, d]))


@pytest.mark.parametrize(("left", "right"), [([4, 9], [6, 6]), ([10, 9], [15, 6])])
def test_factors_that_dont_divide_freeze_both_sides(left: list[int], right: list[int]) -> None:
    space = Space()
    a, b = [space.fresh(n) for n in left], [space.fresh(n) for n in right]
    space.unify(product(a), product(b))
    for axis in (*a, *b):
        assert space.is_frozen(axis)
    assert "divide" in str(space.reason(next(atoms(space.resolve(a[0])))))


def test_sizes_that_differ_freeze_both_sides() -> None:
    space = Space()
    a, b = space.fresh(4), space.fresh(5)
    space.unify(a, b)
    assert space.reason(a) == space.reason(b) == "axes of sizes 4 and 5 meet"


def test_reasons_go_down_into_later_refinements_and_the_first_stays() -> None:
    space = Space()
    axis, other = space.fresh(12), space.fresh(12)
    space.freeze(axis, "first")
    space.freeze(axis, "second")
    outer, inner = space.regroup([axis], [3, 4])
    head, _ = space.cut(inner, [1, 3])
    assert head is UNIT
    assert {space.reason(a) for a in atoms(space.resolve(axis))} == {"first"}
    space.unify(other, axis)
    assert space.is_frozen(other) and space.is_frozen(outer)


def test_a_regroup_without_a_boundary_freezes() -> None:
    space = Space()
    a, b = space.fresh(10), space.fresh(9)
    space.fresh(1)
    result = space.regroup([a, b], [15, 6])
    assert [axis.size for axis in result] == [15, 6]
    assert all(space.is_frozen(axis) for axis in (a, b, *result))


def test_equal_sizes_mean_nothing() -> None:
    space = Space()
    batch, channels = space.fresh(64), space.fresh(64)
    space.regroup([batch, channels], [64 * 64])
    assert space.resolve(batch) is not space.resolve(channels)


def test_keep_vectors_are_outer_products_and_concatenations() -> None:
    space = Space()
    a, b = space.fresh(2), space.fresh(3)
    keep = {a: np.array([True, False]), b: np.array([False, True, True])}
    assert keep_vector(product([a, b]), keep).tolist() == [False, True, True, False, False, False]
    assert keep_vector(total([b, a, b]), keep).tolist() == [False, True, True, True, False, False, True, True]
    assert keep_vector(product([b, space.fresh(2)]), {}).all()


def test_fold_adds_up_every_occurrence() -> None:
    space = Space()
    half, heads = space.fresh(2), space.fresh(2)
    sums: dict[Atom, np.ndarray] = {}
    fold(product([heads, total([half, half])]), np.arange(8.0), sums)
    assert sums[half].tolist() == [0 + 2 + 4 + 6, 1 + 3 + 5 + 7]
    assert sums[heads].tolist() == [0 + 1 + 2 + 3, 4 + 5 + 6 + 7]


def test_what_lies_between_empty_dimensions_is_regrouped() -> None:
    """No box was found: the couplings behind it are learned all the same."""
    space = Space()
    channels, height, width = (space.fresh(n) for n in (8, 3, 5))
    empty, flat = space.regroup([EMPTY, channels, height, width], [0, 120])
    assert (empty, flat) == (EMPTY, product([channels, height, width]))
    assert space.regroup([flat, EMPTY, UNIT, UNIT], [4, 30, 0, 1]) == [
        *space.regroup([channels, height, width], [4, 30]),
        EMPTY,
        UNIT,
    ]


@pytest.mark.parametrize("sizes", [[0, 4, 2], [0, 4], [8, 0, 0], [1, 0]])
def test_regrouping_nothing_into_another_shape_freezes(sizes: list[int]) -> None:
    space = Space()
    axis = space.fresh(6)
    result = space.regroup([EMPTY, axis], sizes)
    assert [a.size for a in result] == sizes
    assert all(space.is_frozen(a) for a in (axis, *result))
