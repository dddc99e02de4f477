"""Names of models and data: ``package.module:callable``, ``path/to/file.py:callable``, ``torchvision:resnet18``,
``timm:…``, ``hf:local/folder``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from prunus.errors import InputError, suggest

_ZOOS = {
    "torchvision": ("torchvision.models", "get_model", "list_models"),
    "timm": ("timm", "create_model", "list_models"),
}
"""Shorthand -> its module, the function in it that builds a model by name, and the one that lists the names."""


def named(spec: str) -> Any:
    """What a name stands for: a callable for all but a ready object of the user's.

    Raises:
        InputError: the module, the name in it, or the folder isn't there.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(
            f"a model or data is named module:name or file.py:name, such as torchvision:resnet18 or mine.nets:Net, "
            f"not {spec!r}."
        )
    if where == "hf":
        return _pretrained(Path(name))
    if where in _ZOOS:
        return _zoo(where, name)
    module = module_of(where)
    if not hasattr(module, name):
        raise InputError(f"{where} has no {name!r}.{suggest(name, vars(module))}")
    return getattr(module, name)


def callable_named(spec: str) -> Callable[..., Any]:
    """As :func:`named`, for what must be callable."""
    found = named(spec)
    if not callable(found):
        raise InputError(f"{spec} is a {type(found).__name__}; name a class or function.")
    result: Callable[..., Any] = found
    return result


def _zoo(shorthand: str, name: str) -> Any:
    """The factory of a model that torchvision or timm knows by name, without pretrained weights."""
    where, create, known = _ZOOS[shorthand]
    module = module_of(where)
    names = getattr(module, known)()
    if name not in names:
        raise InputError(f"{shorthand} has no model {name!r}.{suggest(name, names)}")
    return partial(getattr(module, create), name)


def _pretrained(folder: Path) -> Any:
    """``from_pretrained`` of the class that a local folder's config names."""
    if not (folder / "config.json").is_file():
        raise InputError(f"hf:{folder} must be a local folder that save_pretrained wrote: it has no config.json.")
    transformers: Any = module_of("transformers")
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:
        raise InputError(f"{folder / 'config.json'} names no architecture that transformers has.")
    return partial(kind.from_pretrained, folder)


def module_of(where: str) -> ModuleType:
    """The module of that dotted name or file.

    Raises:
        InputError: it can't be imported.
    """
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise InputError(f"there is no file {where}.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{where} can't be imported as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{where} can't be imported: it raises {type(error).__name__}: {error}.") from error
        return module
    if "" not in sys.path:
        sys.path.insert(0, "")  # the console script leaves the working directory out; python -m has it
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(
            f"no module {error.name!r} to import {where} from; is it installed, or in this folder?"
        ) from error
