"""What a recipe may say. Every key is here, with its default; anything else is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from prunus.budget import read as read_budget
from prunus.errors import suggest
from prunus.importance import CRITERIA
from prunus.masks.criteria import CRITERIA as WEIGHT_CRITERIA
from prunus.masks.schedules import CURVES
from prunus.masks.units import parse as parse_granularity

Share = float


def _one_of(what: str, known: Mapping[str, Any]) -> AfterValidator:
    """A name that is there: said when the recipe is read, not after hours of training."""

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}.{suggest(name, known)} Known: {', '.join(known)}.")
        return name

    return AfterValidator(check)


def _read_by(read: Callable[[Any], object]) -> AfterValidator:
    """What ``read`` can read; its InputError says what is wrong."""

    def check(value: Any) -> Any:
        read(value)
        return value

    return AfterValidator(check)


Importance = Annotated[str, _one_of("importance", CRITERIA)]
Criterion = Annotated[str, _one_of("criterion", WEIGHT_CRITERIA)]
Curve = Annotated[str, _one_of("curve", CURVES)]
Granularity = Annotated[str, _read_by(parse_granularity)]
Budget = Annotated[Mapping[str, str | int | float], _read_by(read_budget)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gradual(_Strict):
    """Zeros that grow from epoch to epoch (AGP: ``curve: cubic``): :class:`prunus.masks.Gradual`."""

    sparsity: float = Field(gt=0, lt=1)
    from_epoch: int = Field(0, ge=0)
    to_epoch: int = Field(ge=0)
    every: int = Field(1, ge=1)
    curve: Curve = "cubic"
    importance: Criterion = "l1"
    granularity: Granularity = "weight"
    scope: Literal["local", "global", "row"] | None = None


class Regrowing(_Strict):
    """Zeros that move while their count stays: :class:`prunus.masks.RigL` and :class:`prunus.masks.SET`."""

    sparsity: float = Field(gt=0, lt=1)
    fraction: float = Field(0.3, gt=0, lt=1)
    every_steps: int = Field(100, ge=1)
    to_epoch: int = Field(ge=1)


class _During(_Strict):
    """Steps of these epochs, counted from 0; to the end, where no end is given."""

    from_epoch: int = Field(0, ge=0)
    to_epoch: int | None = Field(None, ge=1)


class Slimming(_During):
    """L1 on scales of batch norm, to cut by ``bn_scale``: :class:`prunus.train.regularizers.Slimming`."""

    strength: float = Field(gt=0)


class GroupLasso(_During):
    """Everything of an index to zero together (SSL): :class:`prunus.train.regularizers.GroupLasso`, proximal."""

    strength: float = Field(gt=0)
    keep: tuple[str, ...] = ()


class GroupNorm(_During):
    """The weaker an index the harder it is pulled (DepGraph): :class:`prunus.train.regularizers.GroupNorm`."""

    strength: float = Field(gt=0)
    alpha: float = Field(4.0, gt=0)
    keep: tuple[str, ...] = ()


class Growing(_During):
    """L2 that grows on what a cut of this ratio takes away (GReg): :class:`prunus.train.regularizers.Growing`."""

    ratio: float = Field(gt=0, lt=1)
    delta: float = Field(1e-4, gt=0)
    ceiling: float = Field(1.0, gt=0)
    every_steps: int = Field(10, ge=1)
    importance: Importance = "l1"
    keep: tuple[str, ...] = ()


class L0(_Strict):
    """Gates that learn to close, over the whole stage: :class:`prunus.train.regularizers.L0`."""

    strength: float = Field(gt=0)
    lr: float = Field(1e-2, gt=0)
    keep: tuple[str, ...] = ()


class SoftFilter(_Strict):
    """The weakest filters are zeroed after each epoch and train on: :class:`prunus.masks.SoftFilter`."""

    sparsity: float = Field(gt=0, lt=1)
    importance: Criterion = "l2"
    skip: tuple[str, ...] = ()


class HESSO(_Strict):
    """Forgets to the exact ratio, by ``to_epoch``: :class:`prunus.train.regularizers.HESSO`."""

    ratio: float = Field(gt=0, lt=1)
    from_epoch: int = Field(0, ge=0)
    to_epoch: int = Field(ge=1)
    periods: int = Field(5, ge=1)
    importance: Importance = "l2"
    scope: Literal["local", "global", "isomorphic"] = "local"
    keep: tuple[str, ...] = ()
    round_to: int | None = Field(None, ge=1)


class Policy(_Strict):
    """One method and the epochs in which it is at work; exactly one key."""

    gradual: Gradual | None = None
    rigl: Regrowing | None = None
    set: Regrowing | None = None
    slimming: Slimming | None = None
    group_lasso: GroupLasso | None = None
    group_norm: GroupNorm | None = None
    greg: Growing | None = None
    l0: L0 | None = None
    soft_filter: SoftFilter | None = None
    hesso: HESSO | None = None

    @model_validator(mode="after")
    def _one(self) -> Policy:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a policy is one of {', '.join(type(self).model_fields)}, each under a dash of its own")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))


MASKING = ("gradual", "rigl", "set")
"""Policies that leave masks, which are held from then on."""
ZEROING = ("group_lasso", "l0", "soft_filter", "hesso")
"""Policies that leave whole indices at zero, for ``prune: {ratio: zeros}``."""


class Training(_Strict):
    """The loop of ``prunus.train.fit``, with policies by epoch. Masks made before are held."""

    epochs: int = Field(ge=1)
    lr: float = Field(1e-3, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one_cycle", "cosine", "linear", "constant"] = "one_cycle"
    clip: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    accumulate: int = Field(1, ge=1)
    checkpoint_every: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    precision: Literal["no", "bf16", "fp16"] | None = None
    policies: tuple[Policy, ...] = ()

    @model_validator(mode="after")
    def _in_time(self) -> Training:
        for policy in self.policies:
            how = getattr(policy, policy.kind)
            first, last = getattr(how, "from_epoch", 0), getattr(how, "to_epoch", None)
            if first >= self.epochs or (last is not None and last > self.epochs):
                raise ValueError(f"{policy.kind} goes on to epoch {last or first}, the stage has {self.epochs}.")
            if last is not None and (first > last or (first == last and policy.gradual is None)):
                raise ValueError(f"{policy.kind}: to_epoch {last} must come after from_epoch {first}.")
        if self.patience is not None and self.settled >= self.epochs:
            raise ValueError("patience has no epoch to count: the policies move zeros up to the stage's end.")
        return self

    @property
    def settled(self) -> int:
        """The epoch from which on no policy moves a zero: earlier ones can't be gone back to."""
        ends = [getattr(getattr(p, p.kind), "to_epoch", None) for p in self.policies if p.kind in (*MASKING, *ZEROING)]
        return max((self.epochs if end is None else end for end in ends), default=0)


class Feature(_Strict):
    """Activations of a module that are to be the teacher's, at the channels that were kept."""

    path: str
    compare: Literal["fitnet", "attention", "similarity", "relational"] = "fitnet"
    weight: float = Field(1.0, gt=0)


class Distil(Training):
    """Training that also learns from the model as it was before the first cut or mask.

    The loss is ``(1 - weight) * task + weight * logits``, and the features with their own weights.
    """

    method: Literal["hinton", "dkd", "dist"] = "hinton"
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(0.5, ge=0, le=1)
    features: tuple[Feature, ...] = ()


class Sensitivity(_Strict):
    """Each group cut alone; ``max_drop`` in the metric's unit makes the table for ``prune: {ratio: table}``."""

    ratios: tuple[Share, ...] = (0.25, 0.5, 0.75)
    max_drop: float = Field(1.0, ge=0)
    importance: Importance = "l2"


class Prune(_Strict):
    """A structural cut, proven; first whole blocks (``drop_blocks``, a number), then width.

    ``ratio: zeros`` takes away what training left at zero and nothing else: the same function, by ``prunus.extract``.
    """

    ratio: float | Literal["table", "zeros"] | Mapping[str, float] | None = None
    budget: Budget | None = None
    drop_blocks: int | None = Field(None, ge=1)
    importance: Importance = "l2"
    scope: Literal["local", "global", "isomorphic", "shared"] | None = None
    keep: tuple[str, ...] = ()
    round_to: int | None = Field(None, ge=1)
    uniform: bool = False
    compensate: bool = False

    @model_validator(mode="after")
    def _something(self) -> Prune:
        if self.ratio is None and self.budget is None and self.drop_blocks is None:
            raise ValueError("give ratio (a share, 'table', 'zeros'), budget, or drop_blocks (a number)")
        if self.budget is not None and "latency" in self.budget:
            raise ValueError("a budget of latency needs a prunus.Runtime: call prunus.plan(..., runtime=) in Python.")
        return self


class Sparsify(_Strict):
    """Masks at once, by a criterion or SparseGPT; for zeros that grow, give a training stage a policy."""

    sparsity: float | None = Field(None, gt=0, lt=1)
    method: Annotated[str, _one_of("method", {**WEIGHT_CRITERIA, "sparsegpt": None})] = "l1"
    granularity: Granularity = "weight"
    scope: Literal["local", "global", "row"] | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


class Export(_Strict):
    """The model as files: prunus.save, or sparse safetensors where nothing was cut; and ONNX."""

    onnx: bool = True


class Bench(_Strict):
    """Parameters, MACs, latency beside the model at the start, and the test score. Chooses nothing."""

    repeats: int = Field(30, ge=6)


class Stage(_Strict):
    """One key: what is done; its value: how."""

    train: Training | None = None
    sensitivity: Sensitivity | None = None
    prune: Prune | None = None
    sparsify: Sparsify | None = None
    finetune: Training | None = None
    distil: Distil | None = None
    export: Export | None = None
    bench: Bench | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one(self) -> Stage:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a stage is one of {', '.join(type(self).model_fields)}, each under a dash of its own")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def settings(self) -> Any:
        return getattr(self, self.kind)

    @property
    def makes_zeros(self) -> bool:
        """Whether the model has masks after it."""
        policies: tuple[Policy, ...] = getattr(self.settings, "policies", ())
        return self.kind == "sparsify" or any(policy.kind in MASKING for policy in policies)


class Quick(_Strict):
    """What ``--quick`` changes: arguments of the data, and upper limits."""

    data_args: Mapping[str, Any] = {}
    model_args: Mapping[str, Any] = {}
    epochs: int = Field(default=1, ge=1)
    repeats: int = Field(default=6, ge=6)
    onnx: bool = True


class Recipe(_Strict):
    """A whole run. ``model`` and ``data`` are names: see ``prunus.naming``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    model: str
    model_args: Mapping[str, Any] = {}
    data: str
    data_args: Mapping[str, Any] = {}
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    quick: Quick = Quick()
