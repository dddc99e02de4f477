"""Training and fine-tuning: one loop, on Hugging Face Accelerate."""

from prunus.train.averaging import EMA
from prunus.train.checkpoints import Checkpoints
from prunus.train.following import follow
from prunus.train.loop import fit
from prunus.train.losses import distillation
from prunus.train.records import Batch, Epoch, History, Hook, Loss, Progress, cross_entropy
from prunus.train.schedules import Schedule, cosine, linear, one_cycle
from prunus.train.stopping import EarlyStopping
from prunus.train.trackers import CSV, JSONL, TensorBoard, Tracker, read_jsonl

__all__ = [
    "CSV",
    "EMA",
    "JSONL",
    "Batch",
    "Checkpoints",
    "EarlyStopping",
    "Epoch",
    "History",
    "Hook",
    "Loss",
    "Progress",
    "Schedule",
    "TensorBoard",
    "Tracker",
    "cosine",
    "cross_entropy",
    "distillation",
    "fit",
    "follow",
    "linear",
    "one_cycle",
    "read_jsonl",
]
