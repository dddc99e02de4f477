"""Integers that modules hold: given a provenance for a run, and told apart from those that can't be sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from prunus.settings import PER_LAYER, class_integers, is_record, of_layers, setting
from prunus.sizes import Attribute, Ledger, Size

# Of torch's own layers only these are read as sizes of axes; the rest are windows, strides and the like.
_OF_TORCH = {
    *"groups num_groups normalized_shape embed_dim num_heads unflattened_size".split(),
    *"hidden_size input_size proj_size d_model".split(),
}
# Never sizes of an axis, in subclasses of torch's layers either.
_NEVER = {
    *"kernel_size stride padding dilation output_padding _reversed_padding_repeated_twice padding_idx training".split(),
}

_OF_CLASS = object()  # what the holder's own class, not the holder, has


@contextmanager
def traced_attributes(model: nn.Module, ledger: Ledger) -> Iterator[dict[Attribute, int]]:
    """Within the context every integer attribute of ``model``'s modules is a :class:`Size`; yields their values.

    A record (a ``config``) that many modules hold is one place: that of the first module that holds it.
    """
    tracer = Tracer(ledger)
    for path, module in model.named_modules():
        own = module.__class__.__module__.startswith("torch.nn.modules")
        for name in [*module.__dict__, *class_integers(module)]:
            if name not in _NEVER and not (own and name not in _OF_TORCH):
                tracer.enter(module, name, Attribute(path, name))
    try:
        yield tracer.values
    finally:
        tracer.restore()


class Tracer:
    """Puts a :class:`Size` in the place of every integer it is shown, and remembers what was there.

    Attributes:
        values: the integers found, by their places.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.values: dict[Attribute, int] = {}
        self._seen: set[int] = set()
        self._saved: list[tuple[dict[str, Any], str, Any]] = []

    def enter(self, holder: Any, name: str, place: Attribute) -> None:
        """Trace the attribute ``name`` of a module or a record, known as ``place``; a record field by field."""
        value = setting(holder, name)
        if is_record(value):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                for field in [*vars(value), *class_integers(value)]:
                    if not field.startswith("_") and field not in _NEVER:
                        self.enter(value, field, Attribute(place.module, place.name, (*place.path, field)))
                self._enter_layers(value, place)
            return
        traced = _traced(value, place, self.ledger, self.values)
        if traced is not value:
            self._set(vars(holder), name, traced)

    def _enter_layers(self, record: Any, place: Attribute) -> None:
        """Where a config says something of single layers, let each layer have every integer of it as its own."""
        spec = of_layers(record)
        if spec is None:
            return
        common = {name: int(value) for name, value in vars(record).items() if isinstance(value, Size)}
        layers = {}
        for i in range(int(record.num_hidden_layers)):
            own = spec.per_layer_overrides.get(i, {})
            integers = {**common, **{name: value for name, value in own.items() if type(value) is int}}
            of_layer = Attribute(place.module, place.name, (*place.path, PER_LAYER, i))
            layers[i] = {**own, **_traced(integers, of_layer, self.ledger, self.values)}
        self._set(vars(spec), "per_layer_overrides", layers)

    def _set(self, store: dict[str, Any], name: str, value: Any) -> None:
        self._saved.append((store, name, store.get(name, _OF_CLASS)))
        store[name] = value

    def restore(self) -> None:
        """Put the plain integers back."""
        for store, name, value in self._saved:
            if value is _OF_CLASS:
                store.pop(name, None)
            else:
                store[name] = value


def _traced(value: Any, place: Attribute, ledger: Ledger, values: dict[Attribute, int]) -> Any:
    """``value`` with each integer above one made a Size; the very same object where there is none."""
    if isinstance(value, int):
        if isinstance(value, bool) or type(value) is not int or value <= 1:
            return value
        values[place] = value
        return Size.of(value, place, ledger)
    if type(value) in (list, tuple):
        items = [
            _traced(item, Attribute(place.module, place.name, (*place.path, i)), ledger, values)
            for i, item in enumerate(value)
        ]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items)
    if type(value) is dict and not place.name.startswith("_"):
        new = {
            key: _traced(item, Attribute(place.module, place.name, (*place.path, key)), ledger, values)
            for key, item in value.items()
            if isinstance(key, str | int)
        }
        changed = len(new) == len(value) and any(new[key] is not value[key] for key in new)
        return new if changed else value
    return value
