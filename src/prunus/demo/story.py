"""The outcome told: the tables of the terminal, and the sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunus.demo.outcome import Choice, Outcome, Timing
from prunus.profile import Profile
from prunus.report.charts import sensitivity_figure, speedup_figure, training_figure, widths_figure
from prunus.report.page import Report, Section, Tile
from prunus.report.svg import inline_svg
from prunus.report.tables import Table, change, count, kilobytes, milliseconds
from prunus.sensitivity import Sensitivity


def profile_table(profile: Profile, title: str) -> Table:
    """Parameters, multiply-accumulates, bytes and latency, layer by layer."""
    rows = [
        (
            row.name,
            row.type,
            "×".join(map(str, (row.output_shape or ())[1:])),
            count(row.parameters),
            count(row.macs),
            kilobytes(row.parameter_bytes),
            milliseconds(row.latency_ms or 0.0),
        )
        for row in profile.rows
    ]
    total = ("all", "", "", count(profile.parameters), count(profile.macs), kilobytes(profile.bytes))
    rows.append((*total, milliseconds(profile.latency_ms or 0.0)))
    columns = ("layer", "type", "output", "parameters", "MACs", "weights", "latency")
    return Table(title, columns, tuple(rows), labels=3)


def sensitivity_table(curves: Sensitivity) -> Table:
    """The metric where a layer alone loses so much; "–" where the share removes nothing."""
    metric = next(iter(curves.baseline))
    ratios = sorted({row.ratio for row in curves.rows})
    found = {(row.group, row.ratio): f"{row.metrics[metric]:.1f}" for row in curves.rows}
    rows = [
        (f"{group} ({size})", *(found.get((group, ratio), "–") for ratio in ratios))
        for group, size in curves.sizes.items()
    ]
    note = f"The uncut model: {curves.baseline[metric]:.1f}. Each layer was cut alone, without retraining."
    columns = ("layer (width)", *(f"−{ratio:.0%}" for ratio in ratios))
    return Table(f"Sensitivity: {metric}", columns, tuple(rows), note=note)


def pruning_table(curves: Sensitivity, choice: Choice) -> Table:
    """What was decided: the ratio and the width of every group."""
    rows = []
    for group, size in curves.sizes.items():
        ratio = choice.ratios.get(group, 0.0)
        rows.append((group, f"{ratio:.0%}", str(size), str(size - int(ratio * size))))
    note = (
        f"The smallest drop that meets the budget: no layer alone may cost more than {choice.max_drop:.1f} points "
        "of validation accuracy before retraining."
    )
    return Table("Pruning table", ("layer", "removed", "width before", "width after"), tuple(rows), note=note)


def timing_table(timings: Sequence[Timing]) -> Table:
    """Medians with their 95 % confidence intervals."""
    rows = [
        (t.name, *(f"{milliseconds(x.median_ms)} [{x.low_ms:.3f}, {x.high_ms:.3f}]" for x in (t.dense, t.small)),
         f"{t.speedup.median:.2f}× [{t.speedup.low:.2f}, {t.speedup.high:.2f}]")
        for t in timings
    ]  # fmt: skip
    note = "Median of the calls [95 % confidence interval], dense and small in turns, on one thread of this machine."
    return Table("Latency", ("where", "dense", "small", "faster"), tuple(rows), strong=3, note=note)


def result_table(outcome: Outcome) -> Table:
    """Before and after, in one table."""
    dense, small = outcome.dense, outcome.small
    rows = [
        _row("parameters", dense.profile.parameters, small.profile.parameters, count),
        _row("multiply-accumulates, one digit", dense.profile.macs, small.profile.macs, count),
        _row("weights file (safetensors)", dense.weights_bytes, small.weights_bytes, kilobytes),
        _row("ONNX file", dense.onnx.bytes, small.onnx.bytes, kilobytes),
        _row("activations, one digit", dense.profile.activation_bytes, small.profile.activation_bytes, kilobytes),
        *(
            (f"latency: {t.name}", milliseconds(t.dense.median_ms), milliseconds(t.small.median_ms),
             f"{t.speedup.median:.2f}× faster")
            for t in outcome.timings
        ),
        _points("validation accuracy", dense.validation, small.validation),
        _points("test accuracy", dense.test, small.test, digits=2),
    ]  # fmt: skip
    return Table("Before and after", ("", "LeNet", "pruned LeNet", "change"), tuple(rows), strong=3)


def report(outcome: Outcome) -> Report:
    """The page."""
    dense, small = outcome.dense, outcome.small
    return Report(
        title="A LeNet, made really smaller",
        summary=(
            f"{outcome.parameters_left:.1%} of the parameters and {outcome.macs_left:.1%} of the multiply-accumulates "
            f"are left. Test accuracy is {small.test:.2f} % (before: {dense.test:.2f} %), on 2,000 real digits that "
            f"decided nothing. Seed {outcome.settings.seed}; {outcome.seconds:.0f} s on one thread."
        ),
        tiles=(
            _tile("parameters", dense.profile.parameters, small.profile.parameters, count),
            _tile("multiply-accumulates", dense.profile.macs, small.profile.macs, count),
            _tile("weights file", dense.weights_bytes, small.weights_bytes, kilobytes),
            *(Tile(t.name, milliseconds(t.dense.median_ms), milliseconds(t.small.median_ms),
                   f"{t.speedup.median:.2f}× faster") for t in outcome.timings if t.name.startswith("ONNX")),
            Tile("test accuracy", f"{dense.test:.2f} %", f"{small.test:.2f} %", f"{_signed(small.test - dense.test)}"),
        ),
        sections=(_result(outcome), _masks(outcome), _sensitivity(outcome), _cut(outcome), _recovery(outcome),
                  _speed(outcome), _use(), _again(outcome)),
    )  # fmt: skip


def _result(outcome: Outcome) -> Section:
    return Section(title="Before and after", tables=(result_table(outcome),))


def _masks(outcome: Outcome) -> Section:
    text = (
        "torch.nn.utils.prune writes zeros. The shapes and the arithmetic stay, and the file grows; "
        "the times were measured in turns."
    )
    return Section(title="What masks alone do", text=(text,), tables=(outcome.masks,))


def _sensitivity(outcome: Outcome) -> Section:
    metric = next(iter(outcome.sensitivity.baseline))
    figure = sensitivity_figure(outcome.sensitivity.curves(), ylabel=metric)
    text = "Each layer was cut alone, without retraining, and the small network was run on the validation digits."
    names = ", ".join(outcome.sensitivity.sizes)
    return Section(
        title="Which layers can lose how much?",
        text=(text,),
        figures=(inline_svg(figure, "sensitivity", f"{metric} against the share removed, for {names}"),),
        tables=(sensitivity_table(outcome.sensitivity), pruning_table(outcome.sensitivity, outcome.choice)),
    )


def _cut(outcome: Outcome) -> Section:
    ratios = outcome.choice.ratios
    sizes = outcome.sensitivity.sizes
    widths = {group: (size, size - int(ratios.get(group, 0.0) * size)) for group, size in sizes.items()}
    told = "; ".join(f"{name} {before} to {after}" for name, (before, after) in widths.items())
    text = (
        f"Proof, on real digits in fp64, before any retraining: the small network's outputs differ from the masked "
        f"original's by at most {outcome.proof.max_rel_error:.1e} of their size (allowed: "
        f"{outcome.proof.tolerance:.0e})."
    )
    figure = inline_svg(widths_figure(widths), "widths", f"Widths: {told}")
    profiles = (
        profile_table(outcome.dense.profile, "LeNet, layer by layer"),
        profile_table(outcome.small.profile, "Pruned LeNet, layer by layer"),
    )
    return Section(title="The cut", text=(text,), figures=(figure,), tables=profiles)


def _recovery(outcome: Outcome) -> Section:
    text = (
        f"Right after the cut, validation accuracy was {outcome.validation_after_cut:.1f} %. "
        f"{len(outcome.finetuning)} epochs of fine-tuning followed, from the labels and the unpruned LeNet's outputs "
        f"(distillation); the LeNet itself had {len(outcome.training)} epochs."
    )
    runs = {"LeNet": outcome.training, "pruned LeNet": outcome.finetuning}
    figure = training_figure(runs, ylabel="validation accuracy (%)")
    told = f"Validation accuracy by epoch; at the end {outcome.training[-1]:.1f} and {outcome.finetuning[-1]:.1f} %"
    return Section(title="Recovery", text=(text,), figures=(inline_svg(figure, "training", told),))


def _speed(outcome: Outcome) -> Section:
    ratios = {t.name: t.speedup.median for t in outcome.timings}
    told = "; ".join(f"{name}: {value:.2f} times faster" for name, value in ratios.items())
    figure = inline_svg(speedup_figure(ratios), "speed", told)
    return Section(title="Speed", figures=(figure,), tables=(timing_table(outcome.timings),))


def _use() -> Section:
    code = "import prunus\nfrom prunus.demo.lenet import LeNet\n\nsmall = prunus.load('small', LeNet)"
    text = "The folder small holds weights and a plan, no pickle; small.onnx takes any batch size."
    return Section(title="Use it", text=(text,), code=code)


def _again(outcome: Outcome) -> Section:
    code = f"prunus demo --seed {outcome.settings.seed}"
    text = (
        f"Made with {outcome.made_with}. On the same versions and machine a seed gives the same models; "
        "times vary. results.json has every figure, sensitivity.csv every measurement of the curves."
    )
    return Section(title="Do it again", text=(text,), code=code)


def _row(label: str, before: float, after: float, write: Callable[[float], str]) -> tuple[str, str, str, str]:
    return label, write(before), write(after), change(before, after)


def _points(label: str, before: float, after: float, digits: int = 1) -> tuple[str, str, str, str]:
    return label, f"{before:.{digits}f} %", f"{after:.{digits}f} %", _signed(after - before)


def _signed(points: float) -> str:
    return f"{points:+.2f} points".replace("-", "\N{MINUS SIGN}")


def _tile(label: str, before: float, after: float, write: Callable[[float], str]) -> Tile:
    return Tile(label, write(before), write(after), change(before, after))
