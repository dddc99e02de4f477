"""Training and fine-tuning: one loop, on Hugging Face Accelerate."""

from prunus.train.loop import Epoch, History, Hook, Loss, Progress, cross_entropy, fit
from prunus.train.losses import distillation

__all__ = ["Epoch", "History", "Hook", "Loss", "Progress", "cross_entropy", "distillation", "fit"]
