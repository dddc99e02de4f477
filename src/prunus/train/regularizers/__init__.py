"""Sparse training: objects with ``before_step``, ``after_step`` and ``epoch_end`` that make structures go to zero.

They fit ``fit(hooks=[...])``, Lightning, Hugging Face's Trainer (``prunus.train.callbacks``) and any loop. Soft filter
pruning is ``prunus.masks.SoftFilter``.
"""

from prunus.train.regularizers.gates import L0
from prunus.train.regularizers.growing import Growing
from prunus.train.regularizers.hesso import HESSO
from prunus.train.regularizers.lasso import GroupLasso
from prunus.train.regularizers.norm import GroupNorm
from prunus.train.regularizers.slimming import Slimming

__all__ = ["HESSO", "L0", "GroupLasso", "GroupNorm", "Growing", "Slimming"]
