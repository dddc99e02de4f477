"""Judge one row of the operator table by running its operator: what is wrong, what is coupled or frozen too much."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from samples import UNCHECKED, Sample
from torch import Tensor
from torch.utils import _pytree as pytree

from prunus.axes import Atom, Axes, Axis, Product, Space, atoms, count, keep_vector
from prunus.operators import Call, find
from prunus.trace.modes import AxisMode
from prunus.trace.standins import AXES, set_mark

Keep = Mapping[Atom, np.ndarray]


@dataclass
class Learned:
    """A full run of a sample, and what its row says of it."""

    sample: Sample
    space: Space
    inputs: list[Axes]
    outputs: list[Axes]
    full: list[Tensor]
    call: Call

    @property
    def free(self) -> list[Atom]:
        every = [a for axes in (*self.inputs, *self.outputs) for axis in axes for a in atoms(axis)]
        return [a for a in dict.fromkeys(every) if self.space.reason(a) is None]


def complaints(sample: Sample) -> list[str]:
    """Everything that is wrong with the sample's row, as sentences; none if it is right."""
    learned = learn(sample)
    tried = not sample.random and sample.name not in UNCHECKED
    return list(dict.fromkeys([*wrong(learned), *(loose(learned) if tried else [])]))


def learn(sample: Sample) -> Learned:
    space, (args, kwargs) = Space(), fresh_arguments(sample)
    mode, calls = AxisMode(space, real=True), []
    mode.on_call = calls.append
    inputs = []
    for tensor in tensors_in((args, kwargs)):
        inputs.append(tuple(space.fresh(size) for size in tensor.shape))
        set_mark(tensor, AXES, inputs[-1])
    with torch.no_grad():
        outputs = tensors_in(sample.func(*args, **kwargs))
        learned = mode.learn(sample.func, args, kwargs, outputs)

    def resolved(many: Any) -> list[Axes]:
        return [tuple(space.resolve(axis) for axis in axes) for axes in many]

    return Learned(sample, space, resolved(inputs), resolved(learned), [t.clone() for t in outputs], calls[0])


# -- wrong: removing what the row says goes together doesn't give the kept part of the result -----------------------


def wrong(learned: Learned) -> Iterator[str]:
    for keep in removals(learned):
        yield from wrong_removal(learned, keep)
    if not learned.sample.ordered and not learned.sample.random:
        for axis in learned.call.statistics:
            yield from wrong_order(learned, axis)


def removals(learned: Learned) -> Iterator[Keep]:
    """One index of one atom, for each atom; and a random part of all. Each atom keeps one index at least."""
    rng = np.random.default_rng(0)
    movable = [a for a in learned.free if within_reach(learned, a)]
    if not learned.sample.equal:
        for atom in movable:
            for index in {0, atom.size // 2, atom.size - 1}:
                yield {atom: np.arange(atom.size) != index}
    for gone in (1, 2) if movable else ():
        chosen = {a: rng.permutation(a.size) >= gone for a in movable if a.size > gone + 1}
        if chosen:
            yield chosen


def within_reach(learned: Learned, atom: Atom) -> bool:
    """An atom that only the output has can be cut where an integer argument is its size."""
    places = [*itertools.chain(*learned.inputs), *(axis for _, _, axis in learned.call.sizes)]
    return any(atom in atoms(learned.space.resolve(axis)) for axis in places)


def wrong_removal(learned: Learned, keep: Keep) -> Iterator[str]:
    sample = learned.sample
    what = " and ".join(f"{np.flatnonzero(~mask).tolist()} of {atom}" for atom, mask in keep.items())
    try:
        small = run_small(learned, keep)
    except (RuntimeError, IndexError, ValueError) as error:
        yield f"wrong: without {what} the operator raises {error}"
        return
    statistics = [a for axis in learned.call.statistics for a in atoms(learned.space.resolve(axis))]
    expected = learned.full if any(a in keep for a in statistics) else run_masked(learned, keep)
    compare_values = not sample.random and expected is not learned.full
    for which, (axes, full, found) in enumerate(zip(learned.outputs, expected, small, strict=True)):
        kept = gather(full, axes, keep)
        if kept.shape != found.shape:
            yield f"wrong: without {what} output {which} is {tuple(found.shape)}, not {tuple(kept.shape)}"
        elif compare_values and not same(kept, found):
            yield f"wrong: without {what} output {which} isn't the kept part of the whole"
    if compare_values and leaks(learned, expected, keep):
        yield f"wrong: preserves_zero, but without {what} there are values in removed positions"


def run_small(learned: Learned, keep: Keep) -> list[Tensor]:
    waiting = iter(learned.inputs)
    args, kwargs = fresh_arguments(learned.sample, lambda t: gather(t, next(waiting), keep))
    counts = {atom: int(mask.sum()) for atom, mask in keep.items()}
    for name, at, axis in learned.call.sizes:
        set_size(learned.sample.func, args, kwargs, name, at, count(learned.space.resolve(axis), counts))
    if learned.sample.adapt is not None:
        args = learned.sample.adapt(args)
    return run(learned.sample, args, kwargs)


def run_masked(learned: Learned, keep: Keep) -> list[Tensor]:
    waiting = iter(learned.inputs)
    args, kwargs = fresh_arguments(learned.sample, lambda t: masked(t, next(waiting), keep))
    return run(learned.sample, args, kwargs)


def leaks(learned: Learned, outputs: list[Tensor], keep: Keep) -> bool:
    row = find(learned.sample.name)
    if row is None or not row.preserves_zero or row.name in ("expand", "repeat"):
        return False
    pairs = zip(outputs, learned.outputs, strict=True)
    return any(not torch.equal(masked(t.clone(), axes, keep), t) for t, axes in pairs)


def wrong_order(learned: Learned, axis: Axis) -> Iterator[str]:
    """A statistic over an axis doesn't ask in which order its indices are, so a permutation passes through."""
    rng = np.random.default_rng(0)
    for atom in dict.fromkeys(atoms(learned.space.resolve(axis))):
        order = {atom: rng.permutation(atom.size)}
        waiting = iter(learned.inputs)
        args, kwargs = fresh_arguments(learned.sample, lambda t, w=waiting, o=order: permuted(t, next(w), o))
        found = run(learned.sample, args, kwargs)
        for which, (full, axes, out) in enumerate(zip(learned.full, learned.outputs, found, strict=True)):
            if which in learned.call.positions:  # the same ones are chosen, under other numbers
                along = learned.space.resolve(learned.call.positions[which])
                out = torch.from_numpy(positions(along, order))[out]
            if not same(permuted(full, axes, order), out):
                yield f"wrong: a statistic over {atom}, but output {which} depends on its order"


def permuted(tensor: Tensor, axes: Axes, order: Mapping[Atom, np.ndarray]) -> Tensor:
    for dim, axis in enumerate(axes):
        tensor = tensor.index_select(dim, torch.from_numpy(positions(axis, order)))
    return tensor


def positions(axis: Axis, order: Mapping[Atom, np.ndarray]) -> np.ndarray:
    if isinstance(axis, Atom):
        return order.get(axis, np.arange(axis.size))
    result = np.zeros(1 if isinstance(axis, Product) else 0, dtype=np.int64)
    for part in axis.parts:
        mine = positions(part, order)
        if isinstance(axis, Product):
            result = np.add.outer(result * part.size, mine).reshape(-1)
        else:
            result = np.concatenate([result, len(result) + mine])
    return result


# -- too much: a dimension that could be cut alone, or with fewer others -------------------------------------------


def loose(learned: Learned) -> Iterator[str]:
    """Try every dimension alone, then with others of its size, without looking at the row; compare with the row."""
    shapes = [(t, d, axis) for t, axes in enumerate(learned.inputs) for d, axis in enumerate(axes)]
    for t, d, axis in shapes:
        if axis.size < 3:
            continue
        mine = {a for a in atoms(axis) if learned.space.reason(a) is None}
        coupled = {(u, e) for u, e, other in shapes if mine & set(atoms(other))}
        likes = [(u, e) for u, e, other in shapes if (u, e) != (t, d) and other.size == axis.size]
        smallest = next((s for s in subsets((t, d), likes) if works(learned, s, axis.size)), None)
        if smallest is None:
            continue
        if not mine:
            reasons = {learned.space.reason(a) for a in atoms(axis)}
            yield f"frozen: dimension {d} of input {t} could be cut with {smallest}, but is frozen: {reasons}"
        elif len(coupled) > len(smallest):
            yield f"coupled: dimension {d} of input {t} could be cut with {smallest}, not {sorted(coupled)}"
        elif not isinstance(axis, Atom):
            yield f"refined: dimension {d} of input {t} could be cut at any position, but is {axis}"


def subsets(first: tuple[int, int], others: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for many in range(min(len(others), 4) + 1):
        for chosen in itertools.combinations(others, many):
            yield sorted([first, *chosen])


def works(learned: Learned, dims: list[tuple[int, int]], size: int) -> bool:
    return all(works_without(learned, dims, size, index) for index in (0, size // 2, size - 1))


def works_without(learned: Learned, dims: list[tuple[int, int]], size: int, index: int) -> bool:
    rest, gone = torch.tensor([i for i in range(size) if i != index]), torch.tensor([index])
    try:
        small = run(learned.sample, *changed(learned.sample, dims, lambda t, d: t.index_select(d, rest)))
    except (RuntimeError, IndexError, ValueError):
        return False
    full = run(learned.sample, *changed(learned.sample, dims, lambda t, d: t.index_fill(d, gone, 0)))
    return len(full) == len(small) and all(is_part(a, b, size, index) for a, b in zip(full, small, strict=True))


def changed(sample: Sample, dims: list[tuple[int, int]], change: Any) -> Any:
    """The sample's arguments with ``change(tensor, dim)`` done to the given (tensor, dimension) pairs."""
    numbers = itertools.count()

    def each(tensor: Tensor) -> Tensor:
        number = next(numbers)
        for d in (d for t, d in dims if t == number):
            tensor = change(tensor, d)
        return tensor

    return fresh_arguments(sample, each)


def is_part(full: Tensor, small: Tensor, size: int, index: int) -> bool:
    """Whether ``small`` is ``full`` without the positions that go through one index of a factor of its dimensions."""
    if full.ndim != small.ndim:
        return False
    choices = [
        [None] if a == b else list(patterns(a, b, size, index)) for a, b in zip(full.shape, small.shape, strict=True)
    ]
    return any(same(picked(full, choice), small) for choice in itertools.product(*choices))


def patterns(full: int, small: int, size: int, index: int) -> Iterator[Tensor]:
    if full % size == 0 and full - small == full // size:
        for inner in range(1, full // size + 1):
            if (full // size) % inner == 0:
                yield torch.tensor([j for j in range(full) if (j // inner) % size != index])


def picked(tensor: Tensor, choice: tuple[Tensor | None, ...]) -> Tensor:
    for dim, rest in enumerate(choice):
        if rest is not None:
            tensor = tensor.index_select(dim, rest)
    return tensor


# -- helpers -------------------------------------------------------------------------------------------------------


def tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def fresh_arguments(sample: Sample, change: Any = torch.clone) -> tuple[list[Any], dict[str, Any]]:
    """The sample's arguments, tensors copied and changed; in the order in which a call lists them."""
    args = pytree.tree_map_only(Tensor, lambda t: change(t.clone()), sample.args)
    return args, pytree.tree_map_only(Tensor, lambda t: change(t.clone()), sample.kwargs)


def run(sample: Sample, args: list[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return [t.clone() for t in tensors_in(sample.func(*args, **kwargs))]


def gather(tensor: Tensor, axes: Axes, keep: Keep) -> Tensor:
    for dim, axis in enumerate(axes):
        tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(keep_vector(axis, keep))))
    return tensor


def masked(tensor: Tensor, axes: Axes, keep: Keep) -> Tensor:
    for dim, axis in enumerate(axes):
        tensor = tensor.index_fill(dim, torch.from_numpy(np.flatnonzero(~keep_vector(axis, keep))), 0)
    return tensor


def set_size(func: Any, args: list[Any], kwargs: dict[str, Any], name: str, at: int | None, size: int) -> None:
    """Put ``size`` where the integer argument ``name`` stands in a call."""
    names = [parameter.name for parameter in func._schema.arguments]
    place = names.index(name)
    store: Any = args if place < len(args) else kwargs
    key: Any = place if place < len(args) else name
    if at is None:
        store[key] = size
    else:
        store[key] = [size if i == at else old for i, old in enumerate(store[key])]


def same(a: Tensor, b: Tensor) -> bool:
    """Equal shapes and dtypes, and values within the rounding of fp64 sums of a few terms."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.allclose(a, b, rtol=1e-9, atol=1e-11, equal_nan=True) if a.numel() else True
