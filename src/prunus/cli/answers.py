"""What a command answers: text, or with ``--json`` one JSON document alone on stdout and all else on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else; progress goes to stderr.")
]


@dataclass
class Answer:
    """What is printed at the end: ``value`` as JSON if ``as_json``, else ``text`` where there is any."""

    as_json: bool
    value: Any = None
    text: str = ""


@contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """An answer to be filled. Until the block ends, ``--json`` sends whatever is printed, by anyone, to stderr."""
    answer = Answer(as_json)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield answer
    if as_json:
        typer.echo(json.dumps(plain(answer.value), indent=2, allow_nan=False))
    elif answer.text:
        typer.echo(answer.text)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: results as dicts of their fields, paths as text, what isn't finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
