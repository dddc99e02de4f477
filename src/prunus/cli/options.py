"""What several subcommands ask for: the model, its weights, its example inputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from prunus.deploy.weights import read_state_dict
from prunus.errors import InputError, suggest
from prunus.importance import criteria
from prunus.masks.interop import plain_state_dict
from prunus.naming import named

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="What builds the model: package.module:Name or path/to/file.py:Name, called without arguments; "
        "torchvision:NAME and timm:NAME are those packages' models, without weights; hf:FOLDER is a local model.",
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

Data = Annotated[
    str,
    typer.Option(
        metavar="MODULE:NAME",
        help="A function without arguments that returns batches, such as a DataLoader or a list: inputs alone, or "
        "(inputs, targets). package.module:name or file.py:name.",
    ),
]
WITHOUT_DATA = ", ".join(criteria.WITHOUT_DATA)
WITH_DATA = ", ".join(name for name in criteria.CRITERIA if name not in criteria.WITHOUT_DATA)
"""The names that --importance takes, without and with --data."""

_SHAPE = re.compile(r"(\d+(?:[x,]\d+)*)(?::(\w+))?")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "bool")


def build(spec: str, weights: Path | None) -> nn.Module:
    """The model in eval mode, from ``module:name``, ``torchvision:name`` or ``timm:name``, and a file of weights.

    Raises:
        InputError: the module, the name in it, or the file isn't there; the factory raised; the weights don't fit.
    """
    factory = named(spec)
    if isinstance(factory, nn.Module):
        model = factory
    elif callable(factory):
        model = _called(factory, spec)
        if not isinstance(model, nn.Module):
            raise InputError(f"{spec}() returned a {type(model).__name__}, not a torch.nn.Module.")
    else:
        raise InputError(f"{spec} is a {type(factory).__name__}; name a class or function that builds the model.")
    if weights is not None:
        _load(model, weights)
    return model.eval()


def batches(spec: str) -> list[Any] | None:
    """What the function of that name returns, as a list, so that it can be read more than once; None for no name.

    Raises:
        InputError: the function isn't there, raises, or returns no batches.
    """
    if not spec:
        return None
    made = _called(named(spec), spec)
    try:
        found = list(made)
    except TypeError as error:
        raise InputError(f"{spec}() returned a {type(made).__name__}; --data takes a DataLoader or a list.") from error
    if not found:
        raise InputError(f"{spec}() returned no batch.")
    return found


def examples(shapes: list[str]) -> tuple[Tensor, ...]:
    """One tensor per shape: normal values, or zeros where the type is integer or bool.

    Raises:
        InputError: not a shape, or an unknown type.
    """
    if not shapes:
        raise InputError("give the shape of an example input: --input 1x3x224x224.")
    return tuple(_example(text) for text in shapes)


def _example(text: str) -> Tensor:
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} isn't a shape: write sizes with x between, such as 1x3x224x224, or 1x128:int64.")
    sizes, dtype = [int(size) for size in re.split("[x,]", match[1])], match[2] or "float32"
    if dtype not in _DTYPES:
        raise InputError(f"unknown type {dtype!r} in {text!r}.{suggest(dtype, _DTYPES)} Known: {', '.join(_DTYPES)}.")
    kind = getattr(torch, dtype)
    if not kind.is_floating_point:
        return torch.zeros(sizes, dtype=kind, device="cpu")
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0), device="cpu").to(kind)


def _called(factory: Any, spec: str) -> Any:
    try:
        return factory()
    except TypeError as error:
        raise InputError(f"{spec}() raised TypeError: {error}; name a function that takes no arguments.") from error
    except Exception as error:
        raise InputError(f"{spec}() raised {type(error).__name__}: {error}.") from error


def _load(model: nn.Module, path: Path) -> None:
    state = read_state_dict(path)
    try:
        model.load_state_dict(plain_state_dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{path} doesn't fit {type(model).__name__}: {words}") from error
