"""Mend a cut without training: what remains of each layer is solved against what the original computed."""

from prunus.compensation.mending import Compensation, Mended, compensate
from prunus.compensation.normalization import recalibrate

__all__ = ["Compensation", "Mended", "compensate", "recalibrate"]
