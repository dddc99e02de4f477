"""The main job, read from top to bottom: train, look, decide, cut, prove, recover, ship, report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import prunus
from prunus.demo import story
from prunus.demo.budget import choose
from prunus.demo.data import Digits, accuracy, batches, load_digits
from prunus.demo.lenet import LeNet
from prunus.demo.masks import masked_table
from prunus.demo.outcome import Outcome, Settings, Side, Timing
from prunus.demo.reload import outputs_elsewhere
from prunus.deploy.formats import export
from prunus.deploy.measure import measure, onnx_runner, torch_runner
from prunus.deploy.saving import save
from prunus.errors import InputError
from prunus.plan import Plan
from prunus.prove import Proof
from prunus.report import write_report
from prunus.report.language import translated
from prunus.report.terminal import Terminal
from prunus.sensitivity import Sensitivity
from prunus.train import Loss, cross_entropy, distillation, fit


def run(out: Path, settings: Settings, terminal: Terminal) -> Outcome:
    """Do the whole job on one thread, write its files to ``out``, and return what was found.

    The test digits are used once for each model, at the end; everything is decided on the validation digits.

    Raises:
        InputError: ``out`` is a file.
        PlanError: the proof failed.
    """
    _prepare(out)
    started = time.perf_counter()
    with _one_thread():
        digits = load_digits()
        if settings.examples is not None:
            digits = Digits(digits.train.head(settings.examples), digits.validation, digits.test)
        example = digits.train.images[:1]

        terminal.heading("1  Train a LeNet on real digits, and profile it")
        torch.manual_seed(settings.seed)
        dense = LeNet()
        training = _train(dense, digits, settings, settings.epochs, cross_entropy, terminal)
        dense_profile = prunus.profile(dense, example)
        terminal.table(story.profile_table(dense_profile, "The trained LeNet, layer by layer, one digit"))

        terminal.heading("2  What masks alone do")
        masks = masked_table(dense, digits.validation, digits.train.images[:64], settings.repeats)
        terminal.table(masks)

        terminal.heading("3  Which layers can lose how much?")
        curves = _measure_sensitivity(dense, digits, out, terminal)

        terminal.heading("4  Cut, prove, fine-tune")
        graph = prunus.trace(dense, example)
        choice = choose(graph, curves, dense_profile, settings.max_parameters, settings.max_macs)
        terminal.table(story.pruning_table(curves, choice))
        small = choice.plan.apply(dense)
        proof = _prove(dense, small, choice.plan, digits.train.images[:8], terminal)
        after_cut = accuracy(small, digits.validation)
        terminal.say(f"Validation accuracy after the cut, before any training: {after_cut:.1f} %.")
        teacher = distillation(dense, temperature=2.0, weight=0.2)
        finetuning = _train(small, digits, settings, settings.finetune_epochs, teacher, terminal)

        terminal.heading("5  Save without pickle, load in a new process")
        equal = _save_and_reload(dense, small, digits, out, terminal)

        terminal.heading("6  Export to ONNX, measure")
        sides = _sides({"dense": dense, "small": small}, digits, out, terminal)
        timings = _time(dense, small, digits.train.images, out, settings.repeats)
        terminal.table(story.timing_table(timings))

    outcome = Outcome(
        settings=settings,
        dense=sides["dense"],
        small=sides["small"],
        masks=masks,
        sensitivity=curves,
        choice=choice,
        proof=proof,
        validation_after_cut=after_cut,
        training=training,
        finetuning=finetuning,
        reloaded_equal=equal,
        timings=timings,
        seconds=time.perf_counter() - started,
    )
    _tell(outcome, out, terminal)
    return outcome


def _prepare(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder to write to: --out DIR.")
    out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A LeNet is too small for more; and one seed gives one result, whatever the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    model: nn.Module, digits: Digits, settings: Settings, epochs: int, loss: Loss, terminal: Terminal
) -> tuple[float, ...]:
    """Train in place; the validation accuracy after each epoch."""
    with terminal.progress("training") as tick:
        history = fit(
            model,
            batches(digits.train),
            epochs=epochs,
            lr=settings.lr,
            loss=loss,
            seed=settings.seed,
            validate=lambda trained: accuracy(trained, digits.validation),
            on_progress=lambda at: tick(
                (at.epoch - 1) * at.steps + at.step,
                at.epochs * at.steps,
                f"epoch {at.epoch}/{at.epochs}  loss {at.loss:.3f}",
            ),
        )
    found = tuple(epoch.metrics["score"] for epoch in history.epochs)
    seconds = sum(epoch.seconds for epoch in history.epochs)
    terminal.done(f"{epochs} epochs in {seconds:.0f} s; validation accuracy {found[-1]:.1f} %")
    return found


def _measure_sensitivity(dense: nn.Module, digits: Digits, out: Path, terminal: Terminal) -> Sensitivity:
    with terminal.progress("cutting each layer alone") as tick:
        curves = prunus.sensitivity(
            dense,
            digits.train.images[:1],
            evaluate=lambda small: {"validation accuracy (%)": accuracy(small, digits.validation)},
            on_progress=tick,
        )
    curves.to_csv(out / "sensitivity.csv")
    curves.plot(out / "sensitivity.svg")
    terminal.table(story.sensitivity_table(curves))
    return curves


def _prove(dense: nn.Module, small: nn.Module, plan: Plan, images: Tensor, terminal: Terminal) -> Proof:
    proof = prunus.prove(dense, small, plan, images)
    if not proof.ok:
        raise prunus.PlanError(f"the small LeNet doesn't compute what the masked one does ({proof}): please report it.")
    terminal.done(f"The small network computes what the masked original computes: {proof}")
    return proof


def _save_and_reload(dense: nn.Module, small: nn.Module, digits: Digits, out: Path, terminal: Terminal) -> bool:
    save_file(dense.state_dict(), out / "dense.safetensors")
    save(small, out / "small", metrics={"validation": accuracy(small, digits.validation)}, overwrite=True)
    images = digits.validation.images
    with torch.inference_mode():
        here = small(images)
    equal = torch.equal(here, outputs_elsewhere(out / "small", images))
    if not equal:
        raise prunus.SaveError(f"{out / 'small'} gives other outputs in a new process: please report it.")
    terminal.done(
        f"{out / 'small'} loaded in a new process, from the LeNet class alone: the same outputs to the bit "
        f"for {len(images):,} digits"
    )
    return equal


def _sides(models: dict[str, nn.Module], digits: Digits, out: Path, terminal: Terminal) -> dict[str, Side]:
    weights = {"dense": out / "dense.safetensors", "small": out / "small" / "model.safetensors"}
    sides = {}
    for name, model in models.items():
        exported = export(model, digits.train.images[:2], out / f"{name}.onnx")
        terminal.done(str(exported))
        sides[name] = Side(
            profile=prunus.profile(model, digits.train.images[:1]),
            weights_bytes=weights[name].stat().st_size,
            onnx=exported,
            validation=accuracy(model, digits.validation),
            test=accuracy(model, digits.test),
        )
    return sides


def _time(dense: nn.Module, small: nn.Module, images: Tensor, out: Path, repeats: int) -> tuple[Timing, ...]:
    timings = []
    for size in (1, 64):
        batch = images[:size]
        runs = measure(
            {
                "torch dense": torch_runner(dense, batch),
                "torch small": torch_runner(small, batch),
                "onnx dense": onnx_runner(out / "dense.onnx", batch),
                "onnx small": onnx_runner(out / "small.onnx", batch),
            },
            repeats=repeats,
        )
        timings.append(Timing(f"torch, batch {size}", runs["torch dense"], runs["torch small"]))
        timings.append(Timing(f"ONNX Runtime, batch {size}", runs["onnx dense"], runs["onnx small"]))
    return tuple(timings)


def _tell(outcome: Outcome, out: Path, terminal: Terminal) -> None:
    terminal.heading("7  Before and after")
    terminal.table(story.result_table(outcome))
    (out / "results.json").write_text(json.dumps(outcome.to_dict(), indent=2) + "\n", encoding="utf-8")
    told = story.report(outcome)
    page = write_report(told, out / "report.html")
    write_report(translated(told, "zh-CN"), out / "report.zh-CN.html")
    terminal.done(f"{page} shows all of it; {outcome.seconds:.0f} s in all")
