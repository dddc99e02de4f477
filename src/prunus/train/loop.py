"""The training loop. There is one; methods plug in through ``loss``, ``hooks``, ``validate`` and ``on_progress``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import SaveError
from prunus.plan import Plan
from prunus.train.averaging import EMA
from prunus.train.checkpoints import Checkpoints, model_tensors, read_model, read_state
from prunus.train.guards import accelerating, check, check_resumable, check_together, described, prepare, unmarked
from prunus.train.records import Epoch, History, Hook, Loss, Progress, as_metrics, cross_entropy
from prunus.train.schedules import Schedule, one_cycle
from prunus.train.sharding import check_alone, is_sharded, shard_state, whole
from prunus.train.stopping import EarlyStopping, watched
from prunus.train.streams import Feed, capture, from_plain, restore, seeded, to_plain
from prunus.train.trackers import Tracker

Validate = Callable[[nn.Module], float | Mapping[str, float]]


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 1e-3,
    loss: Loss = cross_entropy,
    schedule: Schedule | None = one_cycle,
    hooks: Sequence[Hook] = (),
    validate: Validate | None = None,
    stop: EarlyStopping | None = None,
    ema: float | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    precision: str | None = None,
    seed: int | None = None,
    checkpoints: Checkpoints | str | Path | None = None,
    trackers: Sequence[Tracker] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> History:
    """Train ``model`` in place on every batch of ``loader``, ``epochs`` times; it ends in eval mode, on its device.

    Accelerate chooses the device and takes care of several processes: the same script runs under ``accelerate launch``
    and ``torchrun``. Data are drawn with random numbers of their own, see :class:`prunus.train.streams.Feed`.

    Args:
        loader: batches; anything with a length, usually a ``DataLoader``.
        optimizer: made for ``model.parameters()``; ``None`` is AdamW. After pruning, :func:`prunus.train.follow` takes
            an old one along.
        lr: the peak rate, where no optimizer is given.
        loss: ``loss(model, batch) -> scalar``. One with ``state_dict`` and ``load_state_dict`` (a ``Distill`` with
            adapters, a module) is in the checkpoints too.
        schedule: ``schedule(optimizer, steps) -> scheduler of torch``, stepped after each step of the optimizer; or
            None, constant rates. The default goes through one cycle that peaks at the optimizer's own rates (L. Smith,
            N. Topin, "Super-Convergence", 2018). A ``ReduceLROnPlateau`` is stepped after each epoch, with the metric
            that ``stop`` watches, else with the training loss.
        hooks: objects with ``before_step``, ``after_step`` and ``epoch_end``, called in their order.
        validate: ``validate(model) -> float or {name: float}``, called after each epoch in eval mode, with the model on
            the device that it trains on. With several processes each calls it, and what the main one finds counts.
        stop: when to stop early; the best epoch's weights come back.
        ema: decay of an average of the weights, to validate with and to end with; see :class:`EMA`.
        clip: largest norm of all gradients together, before hooks add to them.
        accumulate: batches whose mean gradient makes one step; the last of an epoch may have fewer.
        precision: "no", "fp16" or "bf16", for autocast; None is what the launcher says.
        seed: seeds torch's, NumPy's and Python's random numbers for the run alone; the caller's are left as they were.
        checkpoints: where to save and to go on from; a folder's name stands for ``Checkpoints(folder)``.
        trackers: take loss and rate after each step, and the metrics after each epoch.
        on_progress: called after each step of the optimizer.

    Raises:
        InputError: an argument is wrong: no epochs, an empty loader, an optimizer that trains none of the model's
            parameters, a hook that can't be resumed where checkpoints are wanted.
        SaveError: a checkpoint is of another run.
    """
    if isinstance(checkpoints, str | Path):
        checkpoints = Checkpoints(checkpoints)
    check(model, loader, epochs, optimizer, accumulate)
    check_resumable(hooks if checkpoints is not None else ())
    with accelerating(precision) as accelerator, unmarked(model), seeded(seed):
        plain = optimizer or torch.optim.AdamW(model.parameters(), lr=lr)
        stop = replace(stop) if stop is not None else None  # what it saw in another run isn't this one's
        setting = _Setting(loss, hooks, validate, stop, clip, accumulate, checkpoints, trackers, on_progress)
        told = {**described(plain), "clip": clip, "ema": ema, "seed": seed, "precision": precision}
        run = _Run(model, loader, plain, schedule, epochs, ema, setting, accelerator, told)
        run.resume()
        while not run.over:
            run.one_epoch()
        run.finish()
    return run.history


@dataclass(frozen=True)
class _Setting:
    """What plugs into the loop."""

    loss: Loss
    hooks: Sequence[Hook]
    validate: Validate | None
    stop: EarlyStopping | None
    clip: float | None
    accumulate: int
    checkpoints: Checkpoints | None
    trackers: Sequence[Tracker]
    on_progress: Callable[[Progress], None] | None


class _Run:
    """One run: what it is made of, where it is, and its steps in the order they are taken."""

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        plain: torch.optim.Optimizer,
        schedule: Schedule | None,
        epochs: int,
        ema: float | None,
        setting: _Setting,
        accelerator: Any,
        told: Mapping[str, Any],
    ) -> None:
        self.model, self.plain, self.epochs, self.setting, self.accelerator = model, plain, epochs, setting, accelerator
        self.told = told  # what else must be the same to go on from a checkpoint
        self.trained, self.optimizer, prepared = prepare(accelerator, model, plain, loader)
        if is_sharded(model):
            check_alone(setting.hooks, ema, setting.stop)
        self.feed = Feed(prepared, resumable=setting.checkpoints is not None)
        self.batches = len(prepared)
        self.steps = -(-self.batches // setting.accumulate)  # of an epoch
        self.schedule = schedule(plain, epochs * self.steps) if schedule is not None else None
        self.ema = EMA(model, ema) if ema is not None else None
        self.hooks = [*setting.hooks, *([self.ema] if self.ema is not None else [])]
        self.epoch, self.batch, self.step = 1, 0, 0  # the epoch that runs, its batches done, all steps done
        self.total = torch.zeros((), device=accelerator.device)  # of the epoch's losses
        self.history, self.begun, self.done_before = History(), time.perf_counter(), 0

    @property
    def over(self) -> bool:
        stop = self.setting.stop
        return self.epoch > self.epochs or (stop is not None and stop.over)

    def one_epoch(self) -> None:
        """Train on the batches that are left of it, look at the result, remember."""
        started = time.perf_counter()
        self.trained.train()
        for batch in self.feed.epoch(self.epoch, skip=self.batch):
            self._learn(batch)
            if self.batch % self.setting.accumulate == 0 or self.batch == self.batches:
                self._step()
        for hook in self.hooks:
            hook.epoch_end()
        check_together(self.accelerator, self.model)
        seconds = time.perf_counter() - started
        loss = float(self.accelerator.reduce(self.total, "mean")) / self.batches
        metrics = self._validate(loss)
        self.history.epochs.append(Epoch(self.epoch, loss, metrics, seconds))
        self._log({**metrics, "epoch": self.epoch, "epoch_loss": loss})
        self.epoch, self.batch, self.total = self.epoch + 1, 0, torch.zeros_like(self.total)
        self._save(self.feed.next_epoch())

    def _learn(self, batch: Any) -> None:
        """Add one batch's share to the gradients."""
        from accelerate.utils import send_to_device

        first = self.batch - self.batch % self.setting.accumulate
        together = min(self.setting.accumulate, self.batches - first)
        self.batch += 1
        if self.batch - 1 == first:
            self.optimizer.zero_grad()
        last = self.batch == first + together
        with nullcontext() if last else self.accelerator.no_sync(self.trained):
            value = self.setting.loss(self.trained, send_to_device(batch, self.accelerator.device))
            self.accelerator.backward(value / together if together > 1 else value)
        self.total += value.detach()

    def _step(self) -> None:
        """One step of the optimizer, and what belongs to it."""
        if self.setting.clip is not None:
            self.accelerator.clip_grad_norm_(self.trained.parameters(), self.setting.clip)
        elif self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        for hook in self.hooks:
            hook.before_step()
        self.optimizer.step()
        for hook in self.hooks:
            hook.after_step()
        if self.schedule is not None and not self._waits() and not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.step += 1
        self._tell()
        every = self.setting.checkpoints.every if self.setting.checkpoints is not None else None
        if every is not None and self.step % every == 0 and self.batch < self.batches:
            self._save(self.feed.state_dict())

    def _validate(self, loss: float) -> dict[str, float]:
        """The epoch's metrics, those of the main process; they may choose the rate, the best epoch and the end."""
        from accelerate.utils import broadcast_object_list

        self.trained.eval()
        stop, metrics = self.setting.stop, {}
        with self.ema.swapped() if self.ema is not None else nullcontext():
            if self.setting.validate is not None:
                (metrics,) = broadcast_object_list([as_metrics(self.setting.validate(self.model))])
            if stop is not None and stop.look(metrics, model_tensors(self.model)):
                self.history.best = self.epoch
        if self.schedule is not None and self._waits():
            self.schedule.step(watched(metrics, stop.metric) if stop is not None else loss)
        return metrics

    def _waits(self) -> bool:
        return isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def _tell(self) -> None:
        """Progress and figures of a step."""
        told = self.setting.on_progress
        if (told is None and not self.setting.trackers) or not self.accelerator.is_main_process:
            return
        mean, lr = float(self.total) / self.batch, self.plain.param_groups[0]["lr"]
        self._log({"loss": mean, "lr": float(lr)})
        if told is not None:
            seconds = time.perf_counter() - self.begun
            left = self.epochs * self.steps - self.step
            eta = seconds / (self.step - self.done_before) * left
            metrics = self.history.epochs[-1].metrics if self.history.epochs else {}
            at = self.step - (self.epoch - 1) * self.steps
            told(Progress(self.epoch, self.epochs, at, self.steps, mean, float(lr), seconds, eta, metrics))

    def _log(self, values: Mapping[str, float]) -> None:
        for tracker in self.setting.trackers if self.accelerator.is_main_process else ():
            tracker.log(self.step, values)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = self.setting.checkpoints.newest() if self.setting.checkpoints is not None else None
        if found is not None:
            state, own = read_state(found, self.accelerator.process_index)
            self._check_same(found, state["run"])
            self._load(state)
            read_model(found, model_tensors(self.model))
            self.feed.load_state_dict(own["data"])
            restore(from_plain(own["model"]))
            self.total = own["total"].to(self.accelerator.device)
            if own["cuda"]:
                torch.cuda.set_rng_state_all(own["cuda"])
        self.done_before = self.step
        for tracker in self.setting.trackers if self.accelerator.is_main_process else ():
            tracker.start(self.step)

    def finish(self) -> None:
        """The weights to end with."""
        self.trained.eval()
        if self.setting.stop is not None and self.setting.stop.weights:
            self.setting.stop.copy_to(model_tensors(self.model))
        elif self.ema is not None:
            self.ema.copy_to_model()
        for tracker in self.setting.trackers if self.accelerator.is_main_process else ():
            tracker.close()

    def _save(self, data: Mapping[str, Any]) -> None:
        """A checkpoint, if checkpoints are wanted."""
        if self.setting.checkpoints is None:
            return
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        own = {"data": data, "model": to_plain(capture()), "cuda": cuda, "total": self.total}
        plan = self.model.__dict__.get("prunus_plan")
        self.setting.checkpoints.save(
            self.step,
            whole(model_tensors(self.model)),
            {"run": self._identity(), **whole(self._state())},
            plan if isinstance(plan, Plan) else None,
            own,
            self.accelerator.process_index,
            self.accelerator.wait_for_everyone,
        )

    def _parts(self) -> dict[str, Any]:
        """Everything with a state of its own, by name."""
        named = {"optimizer": self.plain, "schedule": self.schedule, "history": self.history, "ema": self.ema}
        named |= {f"hook {i} {type(hook).__name__}": hook for i, hook in enumerate(self.setting.hooks)}
        named |= {"stop": self.setting.stop, "scaler": self.accelerator.scaler}
        named |= {"loss": self.setting.loss if hasattr(self.setting.loss, "state_dict") else None}
        return {name: part for name, part in named.items() if part is not None}

    def _state(self) -> dict[str, Any]:
        at = {"epoch": self.epoch, "batch": self.batch, "step": self.step}
        return {"at": at, "parts": {name: part.state_dict() for name, part in self._parts().items()}}

    def _load(self, state: Mapping[str, Any]) -> None:
        at, parts = state["at"], self._parts()
        if parts.keys() != state["parts"].keys():
            raise SaveError(f"the checkpoint is of another run: it has {list(state['parts'])}, this one {list(parts)}.")
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        shard_state(self.plain)
        self.epoch, self.batch, self.step = at["epoch"], at["batch"], at["step"]

    def _identity(self) -> dict[str, Any]:
        schedule = type(self.schedule).__name__ if self.schedule is not None else None
        return {
            "epochs": self.epochs,
            "batches": self.batches,
            "accumulate": self.setting.accumulate,
            "processes": self.accelerator.num_processes,
            "schedule": schedule,
            **self.told,
        }

    def _check_same(self, found: Path, run: Mapping[str, Any]) -> None:
        mine = self._identity()
        for name in {**mine, **run}:
            if run.get(name) != mine.get(name):
                raise SaveError(
                    f"{found} is of another run: there {name} is {run.get(name)!r}, here {mine.get(name)!r}. Give the "
                    "same arguments, or another folder."
                )
