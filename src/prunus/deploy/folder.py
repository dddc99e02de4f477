"""The saved folder on disk: written beside and renamed, read with every file checked before its content is used."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunus import documents
from prunus.disk import sync
from prunus.errors import SaveError

PLAN = "plan.json"
WEIGHTS = "model.safetensors"
EXTRAS = "extras.safetensors"
FILES = (PLAN, WEIGHTS, EXTRAS)


@contextmanager
def replacing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a new empty folder beside ``folder``; at the end it takes that name, or, after an exception, is removed.

    Raises:
        SaveError: something is there already and ``overwrite`` is false, or it isn't a folder that prunus saved.
    """
    folder = folder.resolve()
    _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new, old = (folder.parent / f".{folder.name}.{kind}-{mark}" for kind in ("new", "old"))
    new.mkdir()
    try:
        yield new
        for path in (*new.iterdir(), new):
            sync(path)
        _swap(new, folder, old)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SaveError(f"{folder} is a file; prunus saves into a folder: give another name.")
    names = {path.name for path in folder.iterdir()}
    if names - set(FILES):
        raise SaveError(
            f"{folder} holds {min(names - set(FILES))!r}, which prunus didn't save, so it isn't replaced: "
            "give a folder of its own."
        )
    if names and not overwrite:
        raise SaveError(f"{folder} already holds a saved model: pass overwrite=True to replace it, or another folder.")


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Rename ``new`` to ``folder``; what was there waits as ``old``, and comes back if the second rename fails."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise


def check_file(path: Path) -> int:
    """The size in bytes of a regular file; a link, a pipe or nothing at all raises SaveError."""
    try:
        found = path.lstat()
    except OSError as error:
        raise SaveError(
            f"{path} can't be read ({error.strerror}): is {path.parent} a folder prunus.save wrote?"
        ) from error
    if stat.S_ISLNK(found.st_mode):
        raise SaveError(f"{path} is a symbolic link; prunus reads only regular files: put the file itself there.")
    if not stat.S_ISREG(found.st_mode):
        raise SaveError(f"{path} isn't a regular file: save the model again.")
    return found.st_size


def read_text(path: Path) -> str:
    """The text of a JSON file of at most documents.MAX_BYTES."""
    size, most = check_file(path), documents.MAX_BYTES
    if size > most:
        raise SaveError(f"{path} has {size:,} bytes, more than any plan needs ({most:,}): it isn't one.")
    with path.open("rb") as file:
        data = file.read(most)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaveError(f"{path} isn't UTF-8 text ({error.reason}): it is damaged; save the model again.") from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
