"""What several subcommands ask for: the model, its weights, its example inputs."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from prunus.deploy.weights import read_state_dict
from prunus.errors import InputError, suggest
from prunus.masks.interop import plain_state_dict

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="What builds the model: package.module:Name or path/to/file.py:Name, called without arguments; "
        "torchvision:NAME and timm:NAME are those packages' models, without pretrained weights.",
    ),
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="SHAPE",
        help="Shape of an example input, such as 1x3x224x224 or 1x128:int64. Repeat for more.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        help="State dict to load: .safetensors, or .pt/.pth without pickled code; torch's pruning masks apply.",
    ),
]

_SHAPE = re.compile(r"(\d+(?:[x,]\d+)*)(?::(\w+))?")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool")


def build(spec: str, weights: Path | None) -> nn.Module:
    """The model in eval mode, from ``module:name``, ``torchvision:name`` or ``timm:name``, and a file of weights.

    Raises:
        InputError: the module, the name in it, or the file isn't there; the factory raised; the weights don't fit.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(
            f"MODEL must be module:name or file.py:name, such as torchvision:resnet18 or mine.nets:Net, not {spec!r}."
        )
    factory = _zoo(where, name) if where in _ZOOS else _named(where, name)
    if isinstance(factory, nn.Module):
        model = factory
    elif callable(factory):
        model = _called(factory, spec)
    else:
        raise InputError(f"{spec} is a {type(factory).__name__}; name a class or function that builds the model.")
    if weights is not None:
        _load(model, weights)
    return model.eval()


def named(spec: str) -> Any:
    """The object that ``package.module:name`` or ``file.py:name`` names.

    Raises:
        InputError: the module, or the name in it, isn't there.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise InputError(f"write module:name or file.py:name, such as mine.py:accuracy, not {spec!r}.")
    return _named(where, name)


def examples(shapes: list[str]) -> tuple[Tensor, ...]:
    """One tensor per shape: normal values, or zeros where the type is integer or bool.

    Raises:
        InputError: not a shape, or an unknown type.
    """
    if not shapes:
        raise InputError("give the shape of an example input: --input 1x3x224x224.")
    return tuple(_example(text) for text in shapes)


_ZOOS = {
    "torchvision": ("torchvision.models", "get_model", "list_models"),
    "timm": ("timm", "create_model", "list_models"),
}
"""Shorthand -> its module, the function in it that builds a model by name, and the one that lists the names."""


def _zoo(shorthand: str, name: str) -> Any:
    """The factory of a model that torchvision or timm knows by name."""
    where, create, known = _ZOOS[shorthand]
    module = _module(where)
    names = getattr(module, known)()
    if name not in names:
        raise InputError(f"{shorthand} has no model {name!r}.{suggest(name, names)}")
    return partial(getattr(module, create), name)


def _named(where: str, name: str) -> Any:
    """The object ``name`` of the module ``where``."""
    module = _module(where)
    if not hasattr(module, name):
        raise InputError(f"{where} has no {name!r}.{suggest(name, vars(module))}")
    return getattr(module, name)


def _example(text: str) -> Tensor:
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} isn't a shape: write sizes with x between, such as 1x3x224x224, or 1x128:int64.")
    sizes, dtype = [int(size) for size in re.split("[x,]", match[1])], match[2] or "float32"
    if dtype not in _DTYPES:
        raise InputError(f"unknown type {dtype!r} in {text!r}.{suggest(dtype, _DTYPES)} Known: {', '.join(_DTYPES)}.")
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.zeros(sizes, dtype=kind)
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(kind)


def _module(where: str) -> ModuleType:
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise InputError(f"there is no file {where}.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{where} can't be imported as Python.")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    if "" not in sys.path:
        sys.path.insert(0, "")  # the console script leaves the working directory out; python -m has it
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise InputError(
            f"no module {error.name!r} to import {where} from; is it installed, or in this folder?"
        ) from error


def _called(factory: Any, spec: str) -> nn.Module:
    try:
        model = factory()
    except TypeError as error:
        raise InputError(f"{spec}() raised TypeError: {error}; name a function that takes no arguments.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec}() returned a {type(model).__name__}, not a torch.nn.Module.")
    return model


def _load(model: nn.Module, path: Path) -> None:
    state = read_state_dict(path)
    try:
        model.load_state_dict(plain_state_dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{path} doesn't fit {type(model).__name__}: {words}") from error
