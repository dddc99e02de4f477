"""The decision as data: which indices of which tensors stay, and which integers follow."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from prunus import accounts, documents, surgery
from prunus.errors import PlanError, suggest
from prunus.foreign import NONE_FITS, guard
from prunus.heads import free
from prunus.skip import Returns, check_returns
from prunus.spread import INDEX, spread
from prunus.surgery import AttributeChange, lies_in, named_tensors

SCHEMA = 4
"""1: nothing added, removed as a whole or replaced; 2: no removed blocks; 3: no freed heads. Plans are written in the
oldest that holds them."""


@dataclass(frozen=True)
class Plan:
    """What to cut, as an immutable, printable, JSON-serialisable value.

    Attributes:
        shapes: the model's identity: every parameter's, buffer's and tensor attribute's name and shape before the cut.
        kept: tensor name -> dimension -> indices kept, ascending; a dimension that isn't cut is absent.
        attributes: the integers of modules that follow the sizes.
        how: how it was decided (ratio, importance, scope, budget, ...), as JSON values.
        biases: parameters that the cut adds: biases of layers that had none, zero until values are loaded.
        spread: layers that compute only some of their channels and lay them in place (see :mod:`prunus.spread`): their
            weight keeps the rows that count, their ``spread_index`` (added) and bias the channels that stay.
        dropped: modules that are removed as a whole, and what is returned in their place; see :mod:`prunus.skip`.
        freed: attentions whose heads don't fill their width any more, see :mod:`prunus.heads`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: tuple[AttributeChange, ...] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    dropped: Mapping[str, Returns] = field(default_factory=dict)
    freed: tuple[str, ...] = ()

    @property
    def added(self) -> frozenset[str]:
        """The tensors of the small model that have no counterpart in the original."""
        return frozenset(self.biases) | {_within(module, INDEX) for module in self.spread}

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a new, small model; ``model`` (on any device, the meta device too) is left as it is.

        The result carries the plan, composed with the one ``model`` already carried, as ``prunus_plan``.

        Raises:
            PlanError: the model isn't the one the plan was made for; the first tensor that differs is named.
        """
        self.check_fits(model)
        present = {name: cut for name, cut in self.kept.items() if name not in self.added or _has(model, name)}
        small = surgery.apply(model, present, self.attributes, self.dropped)
        self._add(small)
        before = model.__dict__.get("prunus_plan")
        small.__dict__["prunus_plan"] = before.then(self) if isinstance(before, Plan) else self
        changed = self.dropped or self.biases or self.spread or self.freed
        guard(small, f"{NONE_FITS}: layers are added or removed as a whole" if changed else self.config_verdict)
        return small

    @property
    def reordered(self) -> bool:
        """Whether units were put in another order before the cut, as :func:`prunus.extract` does at times: the indices
        kept count the new order, and a state that goes by the old one (an optimizer's) can't be sliced by them.
        """
        return any(bool(step.get("reordered")) for step in _steps(self.how) if isinstance(step, Mapping))

    @property
    def config_verdict(self) -> str | None:
        """What the last step says of the config, if it knows."""
        steps = _steps(self.how)
        verdict = steps[-1].get("config") if steps and isinstance(steps[-1], dict) else None
        return verdict if isinstance(verdict, str) else None

    def _add(self, small: nn.Module) -> None:
        """Make what the original has no counterpart of."""
        for name in self.biases:
            path, _, own = name.rpartition(".")
            module = small.get_submodule(path)
            if module._parameters.get(own) is None:
                weight: Any = module.weight
                if own not in module._parameters:
                    raise PlanError(f"the plan adds {name!r}, but {type(module).__name__} takes no such parameter.")
                module.register_parameter(own, nn.Parameter(weight.new_zeros(self.shape_after(name))))
        for path in self.spread:
            index, weight_name = _within(path, INDEX), _within(path, "weight")
            channels = self.kept.get(index, {}).get(0, tuple(range(self.shapes[index][0])))
            spread(small.get_submodule(path), self.kept[weight_name][0], channels)
        free(small, self.freed)

    def check_fits(self, model: nn.Module) -> None:
        """Raise PlanError unless ``model`` has exactly the tensors, by name and shape, that the plan was made for.

        It may have more plain tensors, neither parameters nor buffers: those that its ``forward`` made since.
        """
        found = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
        for name, shape in self.shapes.items():
            if name not in found and name in self.added:
                continue
            if name not in found:
                hint = suggest(name, found)
                raise PlanError(f"the plan was made for a model with a tensor {name!r}; this one has none.{hint}")
            if found[name] != tuple(shape):
                raise PlanError(
                    f"the plan was made for {name!r} of shape {list(shape)}; this model has {list(found[name])}. "
                    "Build the architecture the plan was made for (the unpruned one)."
                )
        more = [name for name in found if name not in self.shapes]
        if not more:
            return
        own = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        registered = {name for name, _ in itertools.chain(*own)}
        for name in more:
            if name in registered:
                raise PlanError(f"this model has a tensor {name!r} that the plan doesn't know: another architecture?")

    def survives(self, name: str) -> bool:
        """Whether the small model has a tensor or module of that name: it doesn't lie in a removed block."""
        return not lies_in(name, self.dropped)

    def shape_after(self, name: str) -> tuple[int, ...]:
        """The shape of the named tensor after the cut."""
        cut = self.kept.get(name, {})
        return tuple(len(cut[d]) if d in cut else size for d, size in enumerate(self.shapes[name]))

    def then(self, later: Plan) -> Plan:
        """Compose: one plan that does this cut and, on its result, ``later``."""
        shapes, kept = dict(self.shapes), {name: dict(cut) for name, cut in self.kept.items()}
        for name in later.added - shapes.keys():
            source = _within(name.rpartition(".")[0], "weight")
            shapes[name] = self.shapes[source][:1]
            if 0 in kept.get(source, {}):
                kept[name] = {0: kept[source][0]}
        return replace(self, shapes=shapes, kept=kept)._then(later)

    def _then(self, later: Plan) -> Plan:
        for name, shape in later.shapes.items():
            if name not in self.shapes or not self.survives(name) or self.shape_after(name) != tuple(shape):
                raise PlanError(f"the second plan doesn't follow the first: {name!r} has another shape there.")
        dropped = {name: r for name, r in self.dropped.items() if later.survives(name)} | dict(later.dropped)
        kept = {name: dict(cut) for name, cut in self.kept.items()}
        for name, cut in later.kept.items():
            mine = kept.setdefault(name, {})
            for dim, indices in cut.items():
                mine[dim] = tuple(mine[dim][i] for i in indices) if dim in mine else indices
        changes = {(c.module, c.name, c.path): c for c in self.attributes}
        for c in later.attributes:
            key = (c.module, c.name, c.path)
            old = changes[key].old if key in changes else c.old
            changes[key] = AttributeChange(c.module, c.name, c.path, old, c.new)
        how = {"steps": [*_steps(self.how), *_steps(later.how)]}
        return Plan(
            self.shapes,
            {name: cut for name, cut in kept.items() if not lies_in(name, dropped)},
            tuple(change for change in changes.values() if not lies_in(change.module, dropped)),
            how,
            tuple(n for n in dict.fromkeys((*self.biases, *later.biases)) if not lies_in(n, dropped)),
            tuple(n for n in (*self.spread, *later.spread) if not lies_in(n, dropped)),
            dropped,
            tuple(n for n in dict.fromkeys((*self.freed, *later.freed)) if not lies_in(n, dropped)),
        )

    def parts(self) -> tuple[Plan, Plan]:
        """The plan in two: the removal of whole blocks, and the cut of what is left; composed, they are this plan."""
        whole = {name: shape for name, shape in self.shapes.items() if name not in self.added}
        left = {name: shape for name, shape in self.shapes.items() if self.survives(name)}
        width = replace(self, shapes=left, dropped={})
        return Plan(whole, {}, (), self.how, dropped=self.dropped), width

    def explain(self) -> str:
        """For people, before anything is cut: what the plan saves, what goes, and what is frozen and holds how much.

        Of a plan of :func:`prunus.plan`: each unit before and after; for each group what its cut alone saves (together
        they save less than the sum, where one weight runs through two of them); for each reason why groups are frozen
        the share of parameters and multiply-accumulates that runs through them. Then, of every plan, each tensor that
        shrinks and each integer that follows.
        """
        before = sum(math.prod(shape) for shape in self.shapes.values())
        after = sum(math.prod(self.shape_after(name)) for name in self.shapes if self.survives(name))
        lines = [
            f"{before:,} -> {after:,} values in parameters and buffers ({after / max(before, 1):.1%})",
            "",
        ]
        for step in _steps(self.how):
            if isinstance(step, Mapping) and isinstance(step.get("explained"), Mapping):
                lines += [*accounts.told(step["explained"]), ""]
        lines += [f"{name}  removed as a whole" for name in self.dropped]
        width = max((len(name) for name in self.kept), default=0)
        for name in self.kept:
            lines.append(f"{name:<{width}}  {list(self.shapes[name])} -> {list(self.shape_after(name))}")
        lines += ["", self.config_verdict] if self.config_verdict else []
        return "\n".join([*lines, *(["", *map(str, self.attributes)] if self.attributes else [])])

    def __str__(self) -> str:
        return self.explain()

    def to_json(self) -> str:
        """The plan as JSON text. Index lists are stored once and referred to by number."""
        table: dict[tuple[int, ...], int] = {}
        kept = {
            name: {str(dim): table.setdefault(tuple(indices), len(table)) for dim, indices in cut.items()}
            for name, cut in self.kept.items()
        }
        document: dict[str, Any] = {
            "schema": 4 if self.freed else 3 if self.dropped else 2 if self.added else 1,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "indices": [list(indices) for indices in table],
            "kept": kept,
            "attributes": [[c.module, c.name, list(c.path), c.old, c.new] for c in self.attributes],
            "how": dict(self.how),
            **({"dropped": dict(self.dropped)} if self.dropped else {}),
            **({"freed": list(self.freed)} if self.freed else {}),
        }
        if self.added:
            document |= {"biases": list(self.biases), "spread": list(self.spread)}
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            PlanError: the text isn't JSON, is of an unknown schema, or holds anything that can't be a plan.
        """
        try:
            document = documents.parse(text)
        except ValueError as error:
            raise PlanError(f"the plan isn't valid JSON: {error}") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> Plan:
        """Read the parsed text of :meth:`to_json`; raises PlanError as :meth:`from_json` does."""
        if not isinstance(document, dict) or not _is_known(document.get("schema")):
            found = document.get("schema") if isinstance(document, dict) else None
            raise PlanError(f"the plan has schema {found!r}; this version of prunus reads schema 1 to {SCHEMA}.")
        try:
            return _read(document)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise PlanError(f"the plan is malformed: {type(error).__name__}: {error}") from error


def _steps(how: Mapping[str, Any]) -> list[Any]:
    steps = how.get("steps")
    return list(steps) if isinstance(steps, list) else [dict(how)]


def _is_known(schema: Any) -> bool:
    return type(schema) is int and 1 <= schema <= SCHEMA


def _read(document: dict[str, Any]) -> Plan:
    shapes = {str(name): tuple(_natural(n) for n in shape) for name, shape in document["shapes"].items()}
    indices = [_ascending(row) for row in document["indices"]]
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, cut in document["kept"].items():
        kept[name] = {}
        for dim, number in cut.items():
            row = indices[_natural(number)]
            if row[-1] >= shapes[name][int(dim)] or int(dim) < 0:
                raise ValueError(f"index {row[-1]} is outside dimension {dim} of {name!r}")
            kept[name][int(dim)] = row
    changes = []
    for module, name, path, old, new in document["attributes"]:
        if not isinstance(module, str) or not isinstance(name, str) or name.startswith("__"):
            raise TypeError(f"attribute {module!r}.{name!r} can't be set by a plan")
        steps = tuple(step if isinstance(step, str) else _natural(step) for step in path)
        changes.append(AttributeChange(module, name, steps, _natural(old), _natural(new)))
    how = document["how"]
    if not isinstance(how, dict):
        raise TypeError("'how' must be an object")
    biases, wide, freed = (
        _names(document.get(key, []), shapes, own)
        for key, own in (("biases", ""), ("spread", INDEX), ("freed", "out_proj.weight"))
    )
    _check_added(shapes, kept, biases, wide)
    dropped = {str(n): check_returns(r) for n, r in document.get("dropped", {}).items()}
    return Plan(shapes, kept, tuple(changes), how, biases, wide, dropped, freed)


def _check_added(
    shapes: Mapping[str, Any], kept: Mapping[str, Any], biases: Iterable[str], wide: Iterable[str]
) -> None:
    """What is added hangs on a weight of the model, and is no larger than it."""
    for name in biases:
        weight = _within(name.rpartition(".")[0], "weight")
        if len(shapes[name]) != 1 or weight not in shapes or shapes[name][0] > math.prod(shapes[weight]):
            raise ValueError(f"{name!r} can't be added: it doesn't fit a weight beside it")
    for module in wide:
        index, weight = _within(module, INDEX), _within(module, "weight")
        if index not in shapes or shapes[index] != shapes.get(weight, ())[:1] or 0 not in kept.get(weight, {}):
            raise ValueError(f"{module!r} can't be spread: its index doesn't fit a weight that is cut")


def _ascending(row: Any) -> tuple[int, ...]:
    """Kept indices; plans have millions, so they are looked at by what is written in C."""
    if not isinstance(row, list) or set(map(type, row)) != {int} or row[0] < 0:
        raise ValueError("kept indices must be non-empty lists of whole numbers")
    if not all(map(operator.lt, row, itertools.islice(row, 1, None))):
        raise ValueError("kept indices must be ascending")
    return tuple(row)


def _names(value: Any, shapes: Mapping[str, Any], own: str) -> tuple[str, ...]:
    """Names of tensors that are added, or of modules that are changed; the tensor (``own`` of the module) has a shape
    in the plan.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("what is added or changed must be a list of names")
    if not all((_within(name, own) if own else name) in shapes for name in value):
        raise ValueError("something is added or changed whose shape the plan doesn't have")
    return tuple(value)


def _within(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _has(model: nn.Module, name: str) -> bool:
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    return module._parameters.get(own) is not None or module._buffers.get(own) is not None


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"expected a whole number, got {str(value)[:40]!r}")
    return value
