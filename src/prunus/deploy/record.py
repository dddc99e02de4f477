"""plan.json: what a saved folder says about its weights, read with every type checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunus import documents
from prunus.errors import InputError, PlanError, SaveError
from prunus.plan import Plan

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """The document beside the weights.

    Attributes:
        plan: leads from what the factory builds to the small model.
        files: file name -> (size in bytes, hexadecimal SHA-256).
        aliases: tensor name -> the name under which the same memory is stored (tied weights).
        orders: tensor name -> its dimensions from the widest stride to the narrowest, where that isn't 0, 1, 2, ...
        training: the model's mode.
        other_mode: modules whose mode differs from the model's.
        frozen: parameters with ``requires_grad=False``.
        module_versions: modules whose state-dict version isn't 1.
        written_by: versions of prunus and torch.
        metrics: the user's own JSON values.
    """

    plan: Plan
    files: Mapping[str, tuple[int, str]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    training: bool = False
    other_mode: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    module_versions: Mapping[str, int] = field(default_factory=dict)
    written_by: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON text; raises InputError if ``metrics`` or the plan's ``how`` hold what JSON can't."""
        try:
            return json.dumps(self._document(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"metrics must be JSON values (finite numbers, text, lists, dicts): {error}") from error

    def _document(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "written_by": dict(self.written_by),
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in self.files.items()},
            "plan": json.loads(self.plan.to_json()),
            "aliases": dict(self.aliases),
            "orders": {name: list(order) for name, order in self.orders.items()},
            "training": self.training,
            "other_mode": sorted(self.other_mode),
            "frozen": sorted(self.frozen),
            "module_versions": dict(self.module_versions),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_json(cls, text: str, where: str) -> Record:
        """Read what :meth:`to_json` wrote; ``where`` names the file in errors.

        Raises:
            SaveError: not JSON, another schema, or anything of the wrong type.
        """
        try:
            document = documents.parse(text, constants=False)
        except ValueError as error:
            raise SaveError(f"{where} isn't valid JSON ({error}): it is damaged; save the model again.") from error
        if not isinstance(document, dict):
            raise SaveError(f"{where} isn't a JSON object: it is damaged; save the model again.")
        schema = document.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):
            raise SaveError(
                f"{where} has schema version {str(schema)[:40]!r}; this prunus reads version {SCHEMA}. If a newer "
                "prunus wrote it, upgrade: pip install -U prunus."
            )
        try:
            return cls(**_fields(document))
        except KeyError as error:
            raise SaveError(f"{where} has no entry {error}: it is damaged; save the model again.") from error
        except (TypeError, ValueError) as error:
            raise SaveError(f"{where} is malformed: {error}. It is damaged; save the model again.") from error


def _fields(document: dict[str, Any]) -> dict[str, Any]:
    try:
        plan = Plan.from_document(document["plan"])
    except (PlanError, RecursionError) as error:
        raise ValueError(error) from error
    return {
        "plan": plan,
        "files": {name: _file(name, entry) for name, entry in _as(dict, document, "files").items()},
        "aliases": _values(str, document, "aliases"),
        "orders": {name: _order(name, order) for name, order in _as(dict, document, "orders").items()},
        "training": _as(bool, document, "training"),
        "other_mode": _names(document, "other_mode"),
        "frozen": _names(document, "frozen"),
        "module_versions": _values(int, document, "module_versions"),
        "written_by": _values(str, document, "written_by"),
        "metrics": _as(dict, document, "metrics"),
    }


def _as(kind: type, document: dict[str, Any], key: str) -> Any:
    value = document[key]
    if type(value) is not kind:
        raise TypeError(f"{key!r} must be of type {kind.__name__}, got {type(value).__name__}")
    return value


def _values(kind: type, document: dict[str, Any], key: str) -> dict[str, Any]:
    values: dict[str, Any] = _as(dict, document, key)
    return {name: _as(kind, values, name) for name in values}


def _names(document: dict[str, Any], key: str) -> frozenset[str]:
    names = _as(list, document, key)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{key!r} must be a list of names")
    return frozenset(names)


def _file(name: str, entry: Any) -> tuple[int, str]:
    if not isinstance(entry, dict):
        raise TypeError(f"the entry of file {name!r} must be an object")
    return _as(int, entry, "bytes"), _as(str, entry, "sha256")


def _order(name: str, order: Any) -> tuple[int, ...]:
    if not isinstance(order, list) or any(type(dim) is not int for dim in order):
        raise TypeError(f"the dimension order of {name!r} must be a list of whole numbers")
    if sorted(order) != list(range(len(order))):
        raise ValueError(f"the dimension order of {name!r} isn't a permutation")
    return tuple(order)
