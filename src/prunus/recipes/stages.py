"""The stages: thin adapters from a recipe's settings to prunus. Each gives a new State, and tells its figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import prunus
from prunus import masks
from prunus.deploy.formats import export
from prunus.deploy.measure import measure, torch_runner
from prunus.deploy.saving import save
from prunus.deploy.sparse import save_sparse
from prunus.errors import InputError, PlanError
from prunus.masks.sparsegpt import sparsegpt
from prunus.plan import Plan
from prunus.recipes.policies import hooks_of
from prunus.recipes.schema import Bench, Distil, Export, Prune, Sensitivity, Sparsify, Stage, Training
from prunus.recipes.state import State
from prunus.recipes.tasks import Data
from prunus.running import Batches, each_input
from prunus.train import JSONL, Checkpoints, EarlyStopping, Progress, cosine, fit, linear, one_cycle
from prunus.train.checkpoints import model_tensors
from prunus.train.distill import Distill, Features, Logits, Term

CALIBRATION = 8
"""Batches of the training data that criteria, SparseGPT and compensation look at."""

_SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "linear": linear, "constant": None}


@dataclass
class Context:
    """What a stage may use.

    Attributes:
        data: the recipe's.
        before: loads the model as it was before the first cut or mask.
        folder: takes the files that the stage writes.
        work: keeps checkpoints while it trains.
        seed: for its random numbers.
        on_progress: told the steps done, their number, and words.
    """

    data: Data
    before: Callable[[], State]
    folder: Path
    work: Path
    seed: int
    on_progress: Callable[[int, int, str], None] = lambda done, of, words: None
    found: dict[str, Any] = field(default_factory=dict)

    def score(self, model: nn.Module, data: Iterable[Any] | None = None) -> float:
        """On the validation data, or others."""
        with torch.no_grad():
            return float(self.data.score(model.eval(), self.data.validation if data is None else data))

    def calibration(self) -> list[Any]:
        """The first batches of the training data."""
        return list(itertools.islice(iter(self.data.train), CALIBRATION))


def perform(stage: Stage, state: State, context: Context) -> State:
    """Do a stage; ``context.found`` gets its figures."""
    state = _STAGES[stage.kind](stage.settings, state, context)
    context.found["validation"] = context.score(state.model)
    context.found["parameters"] = sum(p.numel() for p in state.model.parameters())
    sparse = state.sparsifier()
    if sparse is not None:
        context.found["zeros"] = sparse.sparsity
    return state


# -- training ----------------------------------------------------------------------------------------------------


def learn(how: Training, state: State, context: Context) -> State:
    """train, finetune."""
    return _fit(how, state, context, context.data.loss)


def distil(how: Distil, state: State, context: Context) -> State:
    """From the model as it was before the first cut or mask, at the channels that were kept."""
    terms: list[Term] = [Logits(how.method, how.weight, {"temperature": how.temperature})]
    terms += [Features(each.path, compare=each.compare, weight=each.weight) for each in how.features]
    loss = Distill(
        context.before().model.eval(),
        terms,
        task=context.data.task,
        task_weight=1 - how.weight,
        student=state.model if how.features and state.plan is not None else None,
        example=context.data.example,
    )
    return _fit(how, state, context, loss)


def _fit(how: Training, state: State, context: Context, loss: Any) -> State:
    data, model = context.data, state.model
    optimizer = _optimizer(how, model)
    batches = len(data.train)  # type: ignore[arg-type]
    steps = -(-batches // how.accumulate)
    calibration = context.calibration() if how.policies else []
    sparse = state.sparsifier()
    hooks, sparse = hooks_of(
        how.policies, model, sparse, optimizer, steps, (calibration, data.loss), context.data.example
    )
    history = fit(
        model,
        data.train,
        epochs=how.epochs,
        optimizer=optimizer,
        loss=loss,
        schedule=_SCHEDULES[how.schedule],
        hooks=hooks,
        validate=lambda trained: {data.metric: context.score(trained)},
        stop=EarlyStopping(how.patience, data.metric, begin=how.settled) if how.patience is not None else None,
        precision=how.precision,
        ema=how.ema,
        clip=how.clip,
        accumulate=how.accumulate,
        seed=context.seed,
        checkpoints=Checkpoints(context.work / "checkpoints", every=how.checkpoint_every),
        trackers=[JSONL(context.work / "metrics.jsonl")],
        on_progress=lambda at: context.on_progress(
            (at.epoch - 1) * at.steps + at.step, at.epochs * at.steps, _words(at)
        ),
    )
    (context.folder / "metrics.jsonl").write_bytes((context.work / "metrics.jsonl").read_bytes())
    context.found["epochs"] = [epoch.metrics[data.metric] for epoch in history.epochs]
    context.found["loss"] = history.epochs[-1].loss
    if history.best is not None:
        context.found["best_epoch"] = history.best
    return State(model, sparse.state_dict() if sparse is not None else {}, state.table)


def _words(at: Progress) -> str:
    told = "".join(f"  {name} {value:.4g}" for name, value in at.metrics.items())
    return f"epoch {at.epoch}/{at.epochs}  loss {at.loss:.3f}{told}"


def _optimizer(how: Training, model: nn.Module) -> torch.optim.Optimizer:
    if how.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
    return torch.optim.AdamW(model.parameters(), how.lr, weight_decay=how.weight_decay)


# -- looking and cutting -----------------------------------------------------------------------------------------


def look(how: Sensitivity, state: State, context: Context) -> State:
    """sensitivity: the curves as files, the table for what follows."""
    metric = context.data.metric
    curves = prunus.sensitivity(
        state.model,
        context.data.example,
        evaluate=lambda small: {metric: context.score(small)},
        ratios=how.ratios,
        importance=how.importance,
        cache=context.work / "measurements",
        on_progress=context.on_progress,
    )
    curves.to_csv(context.folder / "sensitivity.csv")
    table = dict(curves.table(how.max_drop))
    context.found["table"] = table
    context.found["curves"] = curves.curves()
    return State(state.model, state.masks, table)


def cut(how: Prune, state: State, context: Context) -> State:
    """prune: depth, then width; each proven."""
    model = state.model
    if how.drop_blocks is not None:
        examples = [args for args, _ in Batches(context.data.validation, context.data.example)]
        plan = prunus.drop_blocks(model, context.data.example, number=how.drop_blocks, data=examples)
        model = _applied(model, plan, context)
        context.found["dropped"] = list(plan.dropped)
    if how.ratio == "zeros":
        model = prunus.extract(model, context.data.example)
        context.found["extracted"] = str(model.__dict__["prunus_extraction"])
    elif how.ratio is not None or how.budget is not None:
        plan = prunus.plan(
            model,
            context.data.example,
            ratio=_ratio(how, state),
            budget=how.budget,
            importance=how.importance,
            data=context.calibration(),
            loss=context.data.loss,
            scope=how.scope,
            keep=how.keep,
            round_to=how.round_to,
            uniform=how.uniform,
        )
        small = _applied(model, plan, context)
        if how.compensate:
            args, kwargs = each_input(context.data.example)[0]
            mended = prunus.compensate(model, small, plan, context.calibration(), args, kwargs or None)
            context.found["mended"] = len(mended.layers)
        model = small
    return State(model.eval())


def _applied(model: nn.Module, plan: Plan, context: Context) -> nn.Module:
    small = plan.apply(model)
    proof = prunus.prove(model, small, plan, context.data.example)
    if not proof.ok and not proof.vacuous:
        raise PlanError(f"{proof}. This is a bug of prunus: the run stops here; please report the model.")
    context.found["proof"] = max(float(context.found.get("proof", 0.0)), proof.max_rel_error)
    return small


def _ratio(how: Prune, state: State) -> Any:
    if how.ratio != "table":
        return how.ratio
    if not state.table:
        raise InputError("ratio: table, but no group bears a cut by sensitivity's max_drop: allow a larger one.")
    return state.table


def mask(how: Sparsify, state: State, context: Context) -> State:
    """sparsify: masks at once, on top of those that are there."""
    sparse = state.sparsifier() or masks.Sparsifier(state.model, how.only, how.skip)
    data, loss = context.calibration(), context.data.loss
    if how.method == "sparsegpt":
        sparsegpt(sparse, how.sparsity, granularity=how.granularity, data=data, loss=loss)
    else:
        sparse.prune(how.sparsity, how.method, granularity=how.granularity, scope=how.scope, data=data, loss=loss)
    return State(state.model, sparse.state_dict(), state.table)


# -- shipping ----------------------------------------------------------------------------------------------------


def ship(how: Export, state: State, context: Context) -> State:
    """export: files to be used elsewhere."""
    written = []
    if state.plan is not None:
        save(state.model, context.folder / "small")
        written.append("small")
    if state.masks:
        save_sparse(state.model, context.folder / "sparse.safetensors")
        written.append("sparse.safetensors")
    if not written:
        save_file(
            {n: t.detach().contiguous() for n, t in model_tensors(state.model).items()},
            context.folder / "dense.safetensors",
        )
        written.append("dense.safetensors")
    if how.onnx:
        exported = export(state.model, context.data.example, context.folder / "model.onnx")
        context.found["onnx"] = str(exported)
        written.append("model.onnx")
    context.found["files"] = written
    return state


def compare(how: Bench, state: State, context: Context) -> State:
    """bench: beside the model before the first cut or mask."""
    models = {"before": context.before().model, "after": state.model}
    example = context.data.example
    profiles = {name: prunus.profile(model, example, latency=False) for name, model in models.items()}
    args, kwargs = each_input(example)[0]
    if kwargs:
        raise InputError("bench times models with positional inputs; this example has named ones.")
    latencies = measure({name: torch_runner(model, args) for name, model in models.items()}, repeats=how.repeats)
    for name, model in models.items():
        context.found[name] = {
            "parameters": profiles[name].parameters,
            "macs": profiles[name].macs,
            "latency_ms": latencies[name].median_ms,
            "validation": context.score(model),
            "test": context.score(model, context.data.test),
        }
    return state


_STAGES: Mapping[str, Callable[[Any, State, Context], State]] = {
    "train": learn,
    "sensitivity": look,
    "prune": cut,
    "sparsify": mask,
    "finetune": learn,
    "distil": distil,
    "export": ship,
    "bench": compare,
}
