"""Mend a cut without training: what remains of each layer is solved against what the original computed."""

from prunus.compensation.mending import Compensation, compensate
from prunus.compensation.normalization import recalibrate
from prunus.compensation.rotation import Rotation, rotate
from prunus.compensation.waves import Mended

__all__ = ["Compensation", "Mended", "Rotation", "compensate", "recalibrate", "rotate"]
