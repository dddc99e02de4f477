"""Turn axes between linear maps so that what matters least comes last: the model computes the same, cutting costs less.

Where nothing but linear operators lies between the layer that writes an axis and the one that reads it, any invertible
matrix may be put between them, and its inverse behind it: the values of attention, and queries with keys, head by head.
A cut of single indices becomes the best cut of a subspace. After S. Ashkboos et al., "SliceGPT: Compress Large Language
Models by Deleting Rows and Columns" (ICLR 2024), with the subspace that the reader's outputs need in the place of the
principal components; for queries and keys it is balanced truncation (B. C. Moore, "Principal component analysis in
linear systems", 1981) of the product that the softmax sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import atoms
from prunus.contractions import Contraction, Watch, names, with_rows
from prunus.importance import Context
from prunus.precision import Precise, as_double
from prunus.running import (
    Batches,
    call,
    check_finite,
    cloned,
    each_input,
    mapped,
    no_fast_path,
    on_cpu,
    outputs_in,
    undisturbed,
)
from prunus.surgery import copy_model, named_tensors
from prunus.trace import Graph, Group, Member, trace
from prunus.trace.run import real_copy

_LINEAR = frozenset(
    "linear addmm mm bmm baddbmm matmul view _unsafe_view reshape transpose permute t expand clone contiguous _to_copy "
    "alias detach unsqueeze squeeze slice select split split_with_sizes unbind cat stack mul div add add_".split()
)
_RIDGE = 1e-6
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Rotation:
    """A model that computes what the given one does, and its graph; the groups that were turned, and why others not."""

    model: nn.Module
    graph: Graph
    turned: tuple[str, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.turned)} groups turned", *(f"  {name}" for name in self.turned)]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def rotate(graph_or_model: Graph | nn.Module, data: Iterable[Any], args: Any = None, kwargs: Any = None) -> Rotation:
    """A copy of the model that computes the same, with the axes between linear maps in the order of what they matter.

    Groups that one linear map writes and others read with only linear operators between, as the values of attention,
    are turned so that the first indices span what the readers' outputs need most on ``data``. Of queries and keys,
    which meet in a product, the first indices make most of the product. Each is turned head by head; biases follow.
    Every turn is checked by running a copy on the example in fp64.

    Args:
        graph_or_model: what :func:`prunus.trace` returned, or a model, which is traced on ``args`` and ``kwargs``.
        data: batches of the model's inputs.

    Raises:
        InputError: no data, or data that the model can't take.
    """
    graph = graph_or_model if isinstance(graph_or_model, Graph) else trace(graph_or_model, args, kwargs)
    context = Context(graph, data)
    args, kwargs = each_input(graph.args, graph.kwargs)[0]
    with undisturbed(graph.model), no_fast_path():
        batches = Batches(data, args, kwargs or None)
        skipped: dict[str, str] = {}
        pairs = _pairs(context, batches, skipped)
        if not pairs:
            return Rotation(graph.model, graph, (), skipped)
        _gather(graph.model, batches, pairs)
        model = copy_model(graph.model, {})
        with undisturbed(model):
            turned = _turned(model, graph.model, pairs, (args, kwargs), skipped)
    return Rotation(model, replace(graph, model=model), turned, skipped)


@dataclass
class _Second:
    """Count, sum and second moments of rows (n, heads, d)."""

    n: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    gram: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))

    def add(self, rows: Tensor) -> None:
        rows = rows.double().movedim(1, 0)  # (heads, n, d)
        self.n += rows.shape[1]
        self.total = self.total.to(rows.device) + rows.sum(1)
        self.gram = self.gram.to(rows.device) + rows.mT @ rows

    def factor(self, centred: bool) -> Tensor:
        """``L`` with ``L L^T`` the (central) second moments, made positive by a little of their mean diagonal."""
        gram, mean = self.gram / self.n, self.total / self.n
        if centred:
            gram = gram - mean[..., :, None] * mean[..., None, :]
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        more = (_RIDGE * diagonal.mean(-1, keepdim=True) + 1e-30).expand_as(diagonal)
        factor: Tensor = torch.linalg.cholesky(gram + torch.diag_embed(more))
        return factor


@dataclass
class _Pair:
    """A group that can be turned: who writes it (two, where they meet in a product) and who reads it.

    ``at`` has the positions (d, heads) of every member; ``seen`` the moments of the writers' outputs, or of the
    reader's inputs.
    """

    group: Group
    writers: list[Member]
    readers: list[Member]
    at: dict[str, Tensor]
    biases: dict[str, str]
    seen: dict[str, _Second]
    key: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that a turn changes."""
        return (*(member.name for member in (*self.writers, *self.readers)), *self.biases.values())

    def turns(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weight name -> the matrices (heads, d, d) for its positions: ``new = turn @ old``."""
        return self._ordered(weights) if self.readers else self._balanced()

    def _ordered(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Orthogonal: the first k indices span what the best approximation of rank k of the readers' outputs needs."""
        factor = self.seen[self.readers[0].name].factor(centred=True)
        parts = []
        for member in self.readers:
            rows = weights[member.name].double().movedim(member.dim, 0).flatten(1)[self.at[member.name].T]
            parts.append(rows.mT @ factor)  # (heads, outputs, d)
        *_, directions = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
        wanted = torch.linalg.solve_triangular(factor.mT, directions.mT, upper=True)
        turn = torch.linalg.qr(wanted).Q.mT
        return {member.name: turn for member in (*self.writers, *self.readers)}

    def _balanced(self) -> dict[str, Tensor]:
        """What adds the same to every key's product with a query, the softmax doesn't see: keys are centred."""
        one, other = (member.name for member in self.writers)
        a, b = (self.seen[name].factor(centred=name == self.key) for name in (one, other))
        left, strength, right = torch.linalg.svd(a.mT @ b)
        root = strength.sqrt()[..., None]
        first = root * torch.linalg.solve_triangular(a.mT, left, upper=True).mT
        return {one: first, other: root * torch.linalg.solve_triangular(b.mT, right.mT, upper=True).mT}

    def put(self, model: nn.Module, turns: Mapping[str, Tensor]) -> None:
        """Turn the members' weights and the writers' biases, in place."""
        tensors = named_tensors(model)
        for member in (*self.writers, *self.readers):
            _turn(tensors[member.name], member.dim, self.at[member.name], turns[member.name])
            if member.name in self.biases:
                _turn(tensors[self.biases[member.name]], 0, self.at[member.name], turns[member.name])


def _turn(tensor: Tensor, dim: int, at: Tensor, turn: Tensor) -> None:
    rows = tensor.detach().movedim(dim, 0)
    flat = rows.double().reshape(len(rows), -1)
    new = turn.to(flat.device) @ flat[at.T]  # (heads, d, rest)
    flat[at.T.flatten()] = new.flatten(0, 1)
    rows.copy_(flat.reshape(rows.shape))


# -- which groups -------------------------------------------------------------------------------------------------


def _pairs(context: Context, batches: Batches, skipped: dict[str, str]) -> list[_Pair]:
    """The groups that may be turned, by their members and by the operators that make their axis."""
    calls: dict[str, Contraction] = {}
    known = names(context.model)
    positional, keywords = batches.first()
    with Watch(known, lambda name, found, _: calls.setdefault(name, found)):
        call(context.model, positional, keywords)
    biases = {known[id(c.bias)]: name for name, c in calls.items() if c.bias is not None and id(c.bias) in known}
    found = []
    for group in context.graph.free:
        pair = _pair(context, group, calls, biases)
        if isinstance(pair, _Pair):
            found.append(pair)
        elif pair:
            skipped[group.name] = pair
    return found


def _pair(
    context: Context, group: Group, calls: Mapping[str, Contraction], biases: Mapping[str, str]
) -> _Pair | str | None:
    """The pair, or why the group can't be turned; None where it is nothing that could be (the width of a stream)."""
    members = group.members
    writers = [m for m in members if m.name in calls and m.dim == calls[m.name].out_dim]
    readers = [m for m in members if m.name in calls and m.dim == calls[m.name].in_dim]
    pairs = len(writers) == 1 and len(readers) > 0
    if group.size < 2 or not (pairs or (len(writers) == 2 and not readers)):
        return None
    others = [
        m for m in members if m not in (*writers, *readers) and biases.get(m.name) not in {w.name for w in writers}
    ]
    if others:
        return f"{others[0]} runs over it too"
    if any(calls[m.name].window is not None for m in (*writers, *readers)):
        return "a convolution writes or reads it"
    operator = _bent(context.graph, group)
    if operator is not None:
        return f"{operator} isn't linear along it"
    at = {m.name: context.places(m, group.atom) for m in (*writers, *readers)}
    if len({places.shape for places in at.values()}) > 1:
        return "it occurs more often in one of its layers than in another, as shared keys do"
    own = {weight: bias for bias, weight in biases.items() if weight in {w.name for w in writers}}
    seen = {m.name: _Second() for m in readers or writers}
    return _Pair(group, writers, readers, at, own, seen)


def _bent(graph: Graph, group: Group) -> str | None:
    """An operator that makes a tensor over the group's axis, and isn't known to be linear along it."""
    for run in graph.runs:
        for record in run.records:
            name = record.name.rpartition("::")[2]
            if name in _LINEAR or "scaled_dot_product" in name:
                continue
            if any(group.atom in atoms(graph.space.resolve(axis)) for axes in record.outputs for axis in axes):
                return name
    return None


# -- what they carry ----------------------------------------------------------------------------------------------


class _Look(Watch):
    """Also sees attention, and which of the latest outputs its keys are."""

    def __init__(self, known: dict[int, str], see: Any, outputs: dict[str, Tensor], keys: set[str]) -> None:
        super().__init__(known, see)
        self.outputs, self.keys = outputs, keys

    def call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if getattr(func, "__name__", "") == "scaled_dot_product_attention" and len(args) > 1:
            flat = args[1].transpose(-2, -3).flatten(-2)
            self.keys.update(name for name, y in self.outputs.items() if y.shape == flat.shape and torch.equal(y, flat))
            self.outputs.clear()
        return super().call(func, args, kwargs)


def _gather(model: nn.Module, batches: Batches, pairs: list[_Pair]) -> None:
    """Run the model over the data and take the moments of what every pair carries; find out which side is the keys."""
    by_name: dict[str, list[_Pair]] = {}
    for pair in pairs:
        for name in pair.seen:
            by_name.setdefault(name, []).append(pair)
    meeting = frozenset(m.name for pair in pairs if not pair.readers for m in pair.writers)
    keys: set[str] = set()
    outputs: dict[str, Tensor] = {}
    examples, chosen = with_rows(model, batches)
    for (positional, keywords), rows in zip(examples, chosen, strict=False):
        left = {name: list(calls) for name, calls in rows.items()}

        def see(name: str, found: Contraction, output: Tensor, left: Any = left) -> None:
            at = left[name].pop(0) if left.get(name) else None
            if name in meeting:
                outputs[name] = output
            for pair in by_name.get(name, ()):
                values = found.x if pair.readers else output
                flat = values.detach().flatten(0, -2)
                kept = flat if at is None else flat[at.to(flat.device)]
                pair.seen[name].add(kept[:, pair.at[name].to(flat.device)].transpose(1, 2))

        with _Look(names(model), see, outputs, keys):
            call(model, positional, keywords)
    for pair in pairs:
        for name, seen in pair.seen.items():
            check_finite(f"what {name!r} is given or gives", seen.gram)
        pair.key = next((name for name in pair.seen if not pair.readers and name in keys), None)


# -- the check ----------------------------------------------------------------------------------------------------


def _turned(
    model: nn.Module, original: nn.Module, pairs: list[_Pair], example: Any, skipped: dict[str, str]
) -> tuple[str, ...]:
    """Turn in place what leaves the outputs as they are, tried on a copy in fp64: all together, else one by one."""
    exact = real_copy(original, torch.float64).eval()
    inputs = mapped(lambda t: as_double(t.detach().cpu().clone()), example)
    tensors = named_tensors(exact)
    wanted = _outputs(exact, inputs)
    turns = [pair.turns(named_tensors(original)) for pair in pairs]

    def same(chosen: list[int]) -> bool:
        before = {name: tensors[name].detach().clone() for i in chosen for name in pairs[i].names}
        for i in chosen:
            pairs[i].put(exact, turns[i])
        found = _outputs(exact, inputs)
        for name, tensor in before.items():
            tensors[name].detach().copy_(tensor)
        return _same(found, wanted)

    done = list(range(len(pairs)))
    if not same(done):
        done = [i for i in done if same([i])]
    for i, pair in enumerate(pairs):
        if i in done:
            pair.put(model, turns[i])
        else:
            skipped[pair.group.name] = "the outputs change under a turn: something in between is not the same along it"
    return tuple(pairs[i].group.name for i in done)


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with on_cpu(), Precise():  # what a turn changes isn't lost in rounding
        return [tensor.clone() for tensor in outputs_in(call(model, *cloned(inputs)))]


def _same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(
        bool((a - b).abs().max() <= _TOLERANCE * b.abs().max().clamp(min=1e-300))
        for a, b in zip(found, wanted, strict=True)
        if b.is_floating_point() and b.numel()
    )
