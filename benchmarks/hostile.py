"""What prunus saves, and the ways to make it hostile: the material of :mod:`benchmarks.fuzz_loading`."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import prunus
from prunus.deploy.weights import read_state_dict

MARK = "CODE-FROM-THE-FILE-WAS-RUN"

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**70, 1e308, -0.0, "", "x" * 1000, "../..", "/etc/passwd", "\0"),
    *("__class__", "__dict__", "conv.weight", "é😀", [], {}, [[]], {"a": None}, [0, 0], [2**40], [-1], {"0": 0}),
    *({"bytes": 2**62, "sha256": "0" * 64}, ["__class__", "x", [], 1, 2], {"value": 1}, {"tuple": [{"tuple": []}]}),
)
NAMES = ("", "x", "__class__", "conv.weight", "../model.safetensors", "fc.spread_index", "0", "-1", "9" * 30)


class Residual(nn.Sequential):
    """A block that adds to what it is given, so that it can be dropped."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input + super().forward(input)


class Net(nn.Module):
    """A convolution, batch norm and a linear layer; a buffer and a tensor that no state dict has; a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.block = Residual(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.fc = nn.Linear(4, 5)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 4), persistent=False)
        self.shift = torch.linspace(-1, 1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.norm(self.conv(x)))
        return self.fc(x.mean((2, 3)) * self.gain) + self.shift


class ReadsValues(Net):
    """Can't be built on the meta device, so that it is loaded through the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [value.item() for value in torch.linspace(0, 1, 3)]


X = torch.zeros(1, 3, 8, 8)


def pruned() -> nn.Module:
    return prunus.prune(Net().eval(), X, ratio=0.5)


def shortened() -> nn.Module:
    return prunus.drop_blocks(Net().eval(), X, blocks="block").apply(Net().eval())


def extracted() -> nn.Module:
    """Its plan adds biases, and layers that compute some of their channels."""
    masked = Net().eval()
    for layer, dead in ((masked.conv, [1]), (masked.block[0], [0, 2]), (masked.block[2], [1, 3])):
        layer.weight.data[dead] = 0
        layer.bias.data[dead] = 0
    return prunus.extract(masked, X)


class Subject(NamedTuple):
    """Files that were saved, and what loads them."""

    save: Callable[[Path], Any]
    load: Callable[[Path], Any]


def _saved(make: Callable[[], nn.Module], factory: Callable[[], nn.Module] = Net) -> Subject:
    return Subject(lambda folder: prunus.save(make(), folder), lambda folder: prunus.load(folder, factory))


SUBJECTS = {
    "pruned": _saved(pruned),
    "extracted": _saved(extracted),
    "without a block": _saved(shortened),
    "loaded on the CPU": _saved(lambda: prunus.prune(ReadsValues().eval(), X, ratio=0.5), ReadsValues),
    "plan alone": Subject(
        lambda folder: _text(folder / "plan.json", extracted().prunus_plan.to_json()),
        lambda folder: prunus.Plan.from_json((folder / "plan.json").read_text("utf-8", "replace")).apply(Net()),
    ),
    "sparse": Subject(
        lambda folder: prunus.save_sparse(extracted(), folder / "model.safetensors"),
        lambda folder: prunus.load_sparse(folder / "model.safetensors"),
    ),
    "state dict": Subject(
        lambda folder: save_file(Net().state_dict(), folder / "model.safetensors"),
        lambda folder: read_state_dict(folder / "model.safetensors"),
    ),
    "torch.save": Subject(
        lambda folder: torch.save(Net().state_dict(), folder / "model.pt"),
        lambda folder: read_state_dict(folder / "model.pt"),
    ),
}


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def prepare(root: Path) -> None:
    """Save every subject, once."""
    torch.manual_seed(0)
    for name, subject in SUBJECTS.items():
        if not name.startswith(("plan", "sparse", "state", "torch")):
            subject.save(root / name)
        else:
            (root / name).mkdir(parents=True)
            subject.save(root / name)


# Attacks: each changes the files of one folder.


def json_values(rng: random.Random, folder: Path) -> None:
    """Replace, remove, rename or add values anywhere in the plan."""
    path = folder / "plan.json"
    if path.exists():
        document = json.loads(path.read_text())
        for _ in range(rng.randint(1, 3)):
            mutate(document, rng)
        path.write_text(json.dumps(document))
    else:
        weights_header(rng, folder)


def mutate(document: Any, rng: random.Random) -> None:
    """One change somewhere in a JSON document."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    action = rng.random()
    if action < 0.6:
        place[key] = json.loads(json.dumps(rng.choice(HOSTILE)))
    elif action < 0.8:
        del place[key]
    elif isinstance(place, dict):
        place[rng.choice(NAMES)] = place[key] if rng.random() < 0.5 else place.pop(key)
    else:
        place.append(json.loads(json.dumps(rng.choice(HOSTILE))))


def json_text(rng: random.Random, folder: Path) -> None:
    """Text that is no plan: cut off, doubled, deeply nested, NaN, long numbers, other encodings."""
    path = folder / "plan.json"
    if not path.exists():
        return file_bytes(rng, folder)
    text = path.read_text()
    at = rng.randrange(len(text))
    makers = (
        lambda: text[:at],
        lambda: text[:at] + text,
        lambda: text[:at] + chr(rng.randrange(0x110000 - 0x2000)).encode("utf-8", "replace").decode() + text[at + 1 :],
        lambda: "[" * rng.choice([10, 10_000, 1_000_000]),
        lambda: '{"a":' * 100_000,
        lambda: text.replace("[", "[NaN,", 1).replace("{}", '{"a": Infinity}'),
        lambda: text.replace("1", "1" * 5000, 1),
        lambda: "",
        lambda: "null",
    )
    path.write_bytes(rng.choice(makers)().encode(rng.choice(["utf-8", "utf-8", "utf-16"]), "replace"))
    return None


def huge(rng: random.Random, folder: Path) -> None:
    """Files and numbers far too large; only now and then, for they take long."""
    path = folder / "plan.json"
    if rng.random() < 0.97 or not path.exists():
        return json_sizes(rng, folder)
    size = 2 ** rng.randint(20, 27)
    text = rng.choice(['"{}"', "[{}]", '{{"schema": 1, "metrics": [{}]}}', '{{"a": {{}}, "b": [{}]}}'])
    unit = rng.choice(["0,", "[],", "{},", "12345,", '"a",', "[[]],", "é"])
    path.write_text(text.format((unit * (size // len(unit))).rstrip(",")), encoding="utf-8")
    return None


def json_sizes(rng: random.Random, folder: Path) -> None:
    """Enormous whole numbers in place of some: shapes, sizes and positions."""
    path = folder / "plan.json"
    if not path.exists():
        return weights_header(rng, folder)
    chance, large = rng.random(), rng.choice([2**20, 2**31, 2**40, 2**62, 2**63, 10**30])

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        return large if type(value) is int and rng.random() < chance / 5 else value

    document = json.loads(path.read_text())
    path.write_text(json.dumps({**walk(document), "schema": document["schema"]}))
    return None


def weights_header(rng: random.Random, folder: Path) -> None:
    """The JSON head of a safetensors file: names, types, shapes, positions, and how long it says it is."""
    path = _weights(rng, folder)
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return file_bytes(rng, folder)
    (length,) = struct.unpack("<Q", data[:8])
    head, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(rng.randint(1, 3)):
        entry = head[rng.choice(list(head))] if head else {}
        entry = entry if isinstance(entry, dict) else {}
        change = rng.random()
        if change < 0.3 and "dtype" in entry:
            entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "F4", "U8", "X"])
        elif change < 0.5 and "shape" in entry:
            entry["shape"] = rng.choice([[], [0], [2**40], [2**63], [-1], [2**32, 2**32], [4, 3, 3, 3]])
        elif change < 0.7 and "data_offsets" in entry:
            entry["data_offsets"] = rng.choice([[0, 0], [0, len(body)], [8, 4], [2**60, 2**61], [0, 2**64]])
        else:
            mutate(head, rng)
    text = json.dumps(head).encode()
    said = len(text) if rng.random() < 0.9 else rng.choice([0, 1, len(data), 2**31, 2**63, 2**64 - 1])
    path.write_bytes(struct.pack("<Q", said) + text + body)
    return _agree(rng, folder)


def file_bytes(rng: random.Random, folder: Path) -> None:
    """Bits flipped in the head and anywhere else, the file cut off or continued."""
    path = _weights(rng, folder)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 5)):
        data[rng.randrange(min(len(data), rng.choice([16, 900, len(data)])))] = rng.randrange(256)
    end = rng.choice([len(data), len(data), rng.randrange(len(data))])
    path.write_bytes(data[:end] + bytes(rng.choice([0, 0, 0, 1000])))
    _agree(rng, folder)


def values(rng: random.Random, folder: Path) -> None:
    """Other values under the right names: NaN, other types, other shapes; names that are missing or new."""
    path = _weights(rng, folder)
    if path.suffix != ".safetensors":
        torch.save(rng.choice([[1], {"a": 1}, {1: torch.ones(1)}, torch.ones(2), {"w": [1]}, Net().conv.weight]), path)
        return
    tensors = load_file(path)
    name = rng.choice(list(tensors))
    old = tensors.pop(name)
    made = rng.choice(
        (
            lambda: {name: torch.full_like(old, float("nan")) if old.is_floating_point() else old.bool()},
            lambda: {name: torch.zeros(old.shape, dtype=rng.choice([torch.int8, torch.float64, torch.bool]))},
            lambda: {name: old[..., None]},
            lambda: {name: old.reshape(-1)[:0]},
            lambda: {name + "x": old},
            dict,
            lambda: {name: old, rng.choice(NAMES): torch.zeros(3)},
        )
    )()
    path.write_bytes(save({**tensors, **made}))
    _agree(rng, folder)


def links(rng: random.Random, folder: Path) -> None:
    """A link, a pipe, a folder, a device or nothing in the place of a file; or a path that leads elsewhere."""
    path = rng.choice(sorted(folder.iterdir()))
    kept = folder.parent / "elsewhere"
    path.rename(kept)
    places: tuple[Callable[[], Any], ...] = (
        lambda: path.symlink_to(kept),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(path),
        lambda: os.mkfifo(path),
        lambda: path.mkdir(),
        lambda: None,
        lambda: kept.rename(path),
    )
    rng.choice(places)()
    plan = folder / "plan.json"
    if plan.is_file() and rng.random() < 0.5:
        document = json.loads(plan.read_text())
        if document.get("files"):
            name = rng.choice(["../elsewhere", "/etc/passwd", "/dev/zero", "plan.json", "a\0b", "x" * 5000, "."])
            document["files"][name] = document["files"].pop(rng.choice(list(document["files"])))
            plan.write_text(json.dumps(document))


class _Bomb:
    """What pickle would call when it loads: a file that tells on it."""

    def __reduce__(self) -> Any:
        return os.mkdir, (MARK,)


def pickles(rng: random.Random, folder: Path) -> None:
    """Python objects, code among them, in the place of weights."""
    path = _weights(rng, folder)
    what = rng.choice([_Bomb(), {"conv.weight": _Bomb()}, Net(), [1] * 1000, {"a": "b"}])
    if rng.random() < 0.5:
        path.write_bytes(pickle.dumps(what, protocol=rng.randint(0, 5)))
    else:
        torch.save(what, path)
    _agree(rng, folder)


ATTACKS = (json_values, json_values, json_text, huge, weights_header, file_bytes, values, links, pickles)


def _weights(rng: random.Random, folder: Path) -> Path:
    found = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".pt")]
    return rng.choice(found) if found else folder / "plan.json"


def _agree(rng: random.Random, folder: Path) -> None:
    """Mostly, let the plan's sizes and hashes agree with the changed files, so that what comes after is reached."""
    plan = folder / "plan.json"
    if rng.random() < 0.1 or not plan.is_file():
        return
    try:
        document = json.loads(plan.read_text())
    except ValueError:
        return
    for name, entry in document.get("files", {}).items():
        data = (folder / name).read_bytes()
        entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    plan.write_text(json.dumps(document))
