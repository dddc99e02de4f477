"""What the job found, as data: everything that the terminal, the page and results.json show."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunus.deploy.export import ExportResult
from prunus.deploy.measure import Latency, Ratio, speedup
from prunus.plan import Plan
from prunus.profile import Profile
from prunus.prove import Proof
from prunus.report.tables import Table
from prunus.sensitivity import Sensitivity


@dataclass(frozen=True)
class Settings:
    """What the job can be asked for.

    Attributes:
        seed: of the weights, the order of the digits, and all that is drawn.
        epochs, finetune_epochs: passes over the training digits before and after the cut.
        lr: the peak of the learning rate's cycle, in both.
        max_parameters, max_macs: the budget, as parts of the dense model's.
        examples: use so many training digits only; ``None`` is all 7,000.
        repeats: timed calls in each measurement of latency.
    """

    seed: int = 0
    epochs: int = 10
    finetune_epochs: int = 20
    lr: float = 4e-3
    max_parameters: float = 0.25
    max_macs: float = 0.45
    examples: int | None = None
    repeats: int = 60


@dataclass(frozen=True)
class Choice:
    """The decision: the largest drop tolerated of any one group, the pruning table it gives, and the plan."""

    max_drop: float
    ratios: Mapping[str, float]
    plan: Plan


@dataclass(frozen=True)
class Side:
    """One of the two models; accuracies in percent."""

    profile: Profile
    weights_bytes: int
    onnx: ExportResult
    validation: float
    test: float


@dataclass(frozen=True)
class Timing:
    """Both models in one runtime at one batch size, measured in turns."""

    name: str
    dense: Latency
    small: Latency

    @property
    def speedup(self) -> Ratio:
        """How many times faster the small model is."""
        return speedup(self.dense, self.small)


@dataclass(frozen=True)
class Outcome:
    """The whole job. ``training`` and ``finetuning`` hold the validation accuracy after each epoch."""

    settings: Settings
    dense: Side
    small: Side
    masks: Table
    sensitivity: Sensitivity
    choice: Choice
    proof: Proof
    validation_after_cut: float
    training: tuple[float, ...]
    finetuning: tuple[float, ...]
    reloaded_equal: bool
    timings: tuple[Timing, ...]
    seconds: float

    @property
    def made_with(self) -> str:
        """Versions that the figures belong to."""
        import onnxruntime

        import prunus

        return (
            f"prunus {prunus.__version__}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, "
            f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, one thread"
        )

    @property
    def parameters_left(self) -> float:
        """Part of the parameters that is left."""
        return self.small.profile.parameters / self.dense.profile.parameters

    @property
    def macs_left(self) -> float:
        """Part of the multiply-accumulates that is left."""
        return self.small.profile.macs / self.dense.profile.macs

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "seed": self.settings.seed,
            "made_with": self.made_with,
            "dense": _side(self.dense),
            "small": _side(self.small),
            "parameters_left": self.parameters_left,
            "macs_left": self.macs_left,
            "pruning_table": dict(self.choice.ratios),
            "validation_after_cut": self.validation_after_cut,
            "proof": {"max_rel_error": self.proof.max_rel_error, "ok": self.proof.ok},
            "reloaded_equal": self.reloaded_equal,
            "latency": [
                {
                    "where": t.name,
                    "dense_ms": t.dense.median_ms,
                    "small_ms": t.small.median_ms,
                    "speedup": t.speedup.median,
                    "interval": [t.speedup.low, t.speedup.high],
                }
                for t in self.timings
            ],
            "seconds": self.seconds,
        }


def _side(side: Side) -> dict[str, Any]:
    return {
        "parameters": side.profile.parameters,
        "macs": side.profile.macs,
        "weights_bytes": side.weights_bytes,
        "onnx_bytes": side.onnx.bytes,
        "onnx_max_rel_error": side.onnx.max_rel_error,
        "validation_accuracy": side.validation,
        "test_accuracy": side.test,
    }
