"""YAML to a checked :class:`Recipe`: what is wrong is said with its line, and with the key that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from prunus.errors import InputError, suggest
from prunus.recipes.schema import ZEROING, Quick, Recipe, Stage, Training

_MAX_BYTES = 2**20


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Numbers as in YAML 1.2: ``2:4`` is a text, not 124, ``1e-3`` a number; a key that comes twice is an error."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":int", ":float", ":timestamp"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


def read_recipe(path: str | Path, *, quick: bool = False) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file, or the name of one that comes with prunus: ``prunus run --list``.
        quick: apply its ``quick`` section.

    Raises:
        InputError: it isn't there, or isn't right; the message names the line and close keys.
    """
    file = find(path)
    recipe = parse(file.read_text(encoding="utf-8"), str(path))
    return quickened(recipe) if quick else recipe


def find(path: str | Path) -> Path:
    """The file of a path, or of the name of a ready recipe."""
    ready = ready_recipes()
    file = ready.get(str(path), Path(path))
    if not file.is_file():
        raise InputError(
            f"there is no recipe {str(path)!r}.{suggest(str(path), ready)} Ready ones: {', '.join(ready)}."
        )
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} has more than {_MAX_BYTES:,} bytes: it isn't a recipe.")
    return file


def ready_recipes() -> dict[str, Path]:
    """The recipes that come with prunus, by name."""
    folder = Path(__file__).parent / "ready"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def parse(text: str, where: str) -> Recipe:
    """A recipe from its text; ``where`` stands in messages."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise InputError(f"{where} is empty: a recipe has name, model, data and stages.")
        _check_keys(node, where)
        recipe = Recipe.model_validate(_Loader(text).get_single_data())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}.") from error
    except ValidationError as error:
        found = [_told(each, node, where) for each in error.errors()]
        raise InputError(" ".join(found)) from error
    for number, words in misplaced(recipe):
        raise InputError(f"{where}:{_line(node, ('stages', number, recipe.stages[number].kind))}: {words}")
    return recipe


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line, from 1, of the deepest part of ``path`` that a recipe's text has."""
    node = yaml.compose(text, Loader=_Loader)
    return 1 if node is None else _line(node, path)


def misplaced(recipe: Recipe) -> Iterator[tuple[int, str]]:
    """Stages that can't stand where they do, by their place from 0, and why."""
    seen: list[Stage] = []
    for number, stage in enumerate(recipe.stages):
        kinds = [each.kind for each in seen]
        if stage.kind == "prune" and stage.settings.ratio == "table" and "sensitivity" not in kinds:
            yield number, "ratio: table needs a sensitivity stage before it."
        if stage.kind == "prune" and stage.settings.ratio == "zeros" and not any(map(_zeroes, seen)):
            yield number, f"ratio: zeros needs a policy before it that leaves some: {', '.join(ZEROING)}."
        if stage.kind == "prune" and any(each.makes_zeros for each in seen):
            yield number, "cut before zeros are made: a cut takes whole channels, and masks don't follow it."
        if (
            stage.kind == "sparsify"
            and (stage.settings.only or stage.settings.skip)
            and any(s.makes_zeros for s in seen)
        ):
            yield number, "only and skip choose what gets masks; there are masks already, and they are taken on."
        if stage.kind == "distil" and not any(each.kind == "prune" or each.makes_zeros for each in seen):
            yield number, "distil learns from the model before the first cut or mask; there is none before it."
        seen.append(stage)


def _zeroes(stage: Stage) -> bool:
    return any(policy.kind in ZEROING for policy in getattr(stage.settings, "policies", ()))


def quickened(recipe: Recipe) -> Recipe:
    """The recipe as ``--quick`` runs it."""
    quick = recipe.quick
    return recipe.model_copy(
        update={
            "data_args": {**recipe.data_args, **quick.data_args},
            "model_args": {**recipe.model_args, **quick.model_args},
            "stages": tuple(_quick_stage(stage, quick) for stage in recipe.stages),
        }
    )


def _quick_stage(stage: Stage, quick: Quick) -> Stage:
    settings = stage.settings
    if isinstance(settings, Training):
        epochs = min(settings.epochs, quick.epochs)
        policies = tuple(_quick_policy(policy, epochs) for policy in settings.policies)
        return stage.model_copy(
            update={stage.kind: settings.model_copy(update={"epochs": epochs, "policies": policies})}
        )
    limits = {"repeats": quick.repeats, "onnx": quick.onnx}
    update = {
        name: min(getattr(settings, name), v) for name, v in limits.items() if name in type(settings).model_fields
    }
    return stage.model_copy(update={stage.kind: settings.model_copy(update=update)}) if update else stage


def _quick_policy(policy: Any, epochs: int) -> Any:
    (kind,) = policy.model_fields_set
    inner = getattr(policy, kind)
    limits = {
        name: min(v, epochs) for name in ("from_epoch", "to_epoch") if (v := getattr(inner, name, None)) is not None
    }
    if kind == "gradual":
        limits["from_epoch"] = min(limits["from_epoch"], limits["to_epoch"])
    if kind == "hesso":
        limits["from_epoch"] = min(limits["from_epoch"], limits["to_epoch"] - 1)
    return policy.model_copy(update={kind: inner.model_copy(update=limits)})


# -- errors ------------------------------------------------------------------------------------------------------


def _told(error: Mapping[str, Any], node: yaml.Node, where: str) -> str:
    path: Sequence[str | int] = error["loc"]
    line, place = _line(node, path), ".".join(str(part) for part in path)
    if error["type"] == "extra_forbidden":
        known = _fields(path[:-1])
        hint = f"{suggest(str(path[-1]), known)} Known: {', '.join(known)}."
        return f"{where}:{line}: unknown key {path[-1]!r} in {_name(path[:-1])}.{hint}"
    if error["type"] == "missing":
        return f"{where}:{line}: {_name(path[:-1])} needs {path[-1]!r}."
    words = error["msg"].removeprefix("Value error, ")
    return f"{where}:{line}: {place}: {words}" + ("" if words[-1] == "." else f", got {str(error['input'])[:80]!r}.")


def _name(path: Sequence[str | int]) -> str:
    words = [part for part in path if isinstance(part, str) and part not in ("stages", "policies")]
    return repr(words[-1]) if words else ("a stage" if path else "the recipe")


def _fields(path: Sequence[str | int]) -> list[str]:
    """The keys that are known at a place of a recipe."""
    at: Any = Recipe
    for part in path:
        if isinstance(part, str):
            at = _model_in(at.model_fields[part].annotation)
    return list(at.model_fields)


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = [_model_in(each) for each in getattr(annotation, "__args__", ())]
    return next((each for each in inside if each is not None), None)


def _line(node: yaml.Node, path: Sequence[str | int]) -> int:
    """The line, from 1, of the deepest part of ``path`` that is there."""
    line: int = node.start_mark.line
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _check_keys(node: yaml.Node, where: str) -> None:
    """No key twice: YAML would keep the last one without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise InputError(f"{where}:{key.start_mark.line + 1}: the key {key.value!r} is there twice.")
            seen.add(key.value)
            _check_keys(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value, where)
