"""Solve what remains of each layer against the original's outputs, from the first layer to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from torch import Tensor, nn

from prunus.compensation.solving import Solver
from prunus.compensation.waves import METHODS, Mended, stream_writers
from prunus.contractions import Contraction, Watch, names, positions, with_rows
from prunus.errors import InputError, suggest
from prunus.plan import Plan
from prunus.running import Batches, call, no_fast_path, undisturbed
from prunus.surgery import named_tensors


@dataclass(frozen=True)
class Compensation:
    """What was mended, in the order of the run, and what could not be, with the reason."""

    method: str
    layers: tuple[Mended, ...]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.method}: {len(self.layers)} layers solved against the original's outputs"]
        lines += [f"  {m.weight}: error {m.before:.3f} -> {m.after:.3f} ({m.rows} rows)" for m in self.layers]
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.skipped.items())])


def compensate(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    data: Iterable[Any],
    args: Any,
    kwargs: Any = None,
    *,
    method: str = "refit",
    ridge: float | None = None,
    rows: int = 4096,
    passes: int | None = None,
) -> Compensation:
    """Change the weights of ``small``, in place, so that it computes again what ``model`` computed. No training.

    Every linear map and convolution with weights of its own, those within recurrent layers too, is solved in closed
    form, in the order in which they run: its outputs are to be those of the original at the kept channels, its inputs
    are what the small model, mended so far, gives it (Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very
    Deep Neural Networks", 2017, with all that remains solved at once, the bias too). Layers that write to a residual
    stream, be it through a batch norm, make up for what it has lost before them, too (section 3.3 there). Of padded
    inputs only the rows count that the model's outputs depend on. Eval mode; modes and random state are left as they
    were. What the original gives is held for as many layers as fit in 2 GiB, or for those that are solved together, a
    batch at a time. Where modules run one on what the other returned (blocks of transformers, stages of convolutional
    networks), what goes into each is kept within the same 2 GiB, so that the time is linear in their number.

    Args:
        model: the original.
        small: ``plan.apply(model)``.
        data: batches of inputs, iterated several times; 1,000 to 2,000 examples are plenty.
        args, kwargs: an example input; it shows what of each batch the model takes.
        method: ``"refit"`` solves weights and bias, ``"scale"`` one factor per output and the bias, ``"bias"`` that.
        ridge: how strongly the solution is drawn to the weights that it finds, over the mean of the Gram diagonal. By
            default each layer takes that of 1e-4 to 1 whose fit to three batches of four has the least error on the
            fourth, if that is less than before; the fourth batches are in no layer's fit. 1e-4 with fewer batches.
        rows: at most so many output positions of each batch are used, drawn at random (always the same).
        passes: at most so many passes over the data, all from the models' start. Layers that read the same tensor are
            solved together; where these are more than ``passes``, neighbours are, too, each on what the other gave
            before.

    Raises:
        InputError: an unknown method, no data, or data that the model can't take.
        PlanError: the plan isn't for this model.
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}.{suggest(method, METHODS)} Known: {', '.join(METHODS)}.")
    plan.check_fits(model)
    batches = Batches(data, args, kwargs)
    with undisturbed(model), undisturbed(small), no_fast_path():
        together, sizes, skipped = _order(small, batches, rows)
        residual = stream_writers(model, small, batches.first(), batches.first())
        examples, chosen = with_rows(model, batches)
        skipped |= _unknown(small, plan, {*chain(*together), *skipped})
        solver = Solver(model, small, plan, residual, sizes, method, ridge, rows, skipped)
        if passes is None:
            solver.along(together, examples, chosen)
        else:
            solver.whole(_joined(together, passes), examples, chosen)
    return Compensation(method, tuple(solver.done), skipped)


def _order(small: nn.Module, batches: Batches, rows: int) -> tuple[list[list[str]], Mapping[str, int], dict[str, str]]:
    """The weights in the order of their first use, those that read one tensor in a row together; the bytes of their
    targets in a batch; and the weights that can't be solved, with the reason.
    """
    seen: dict[str, Contraction] = {}
    sizes = Counter[str]()

    def see(name: str, found: Contraction, output: Tensor) -> None:
        seen.setdefault(name, found)
        used = min(rows, positions(output, found.channel))
        sizes[name] += used * output.shape[found.channel] * output.element_size()

    with Watch(names(small), see):
        positional, keywords = batches.first()
        call(small, positional, keywords)
    count = Counter(id(tensor) for tensor in named_tensors(small).values())
    tied = {name for name, found in seen.items() if count[id(found.weight)] > 1}
    free = [name for name in seen if name not in tied]
    together = [list(group) for _, group in groupby(free, lambda name: id(seen[name].x))]
    return together, sizes, dict.fromkeys(tied, "its weights are shared")


def _joined(together: Sequence[list[str]], passes: int) -> list[list[str]]:
    """What is solved together, in order: neighbours, too, so that there are at most so many waves."""
    size = max(1, -(-len(together) // max(1, passes)))
    return [[*chain(*together[i : i + size])] for i in range(0, len(together), size)]


def _unknown(small: nn.Module, plan: Plan, known: Collection[str]) -> dict[str, str]:
    """The matrices that were cut and that no fit knows, such as those of embeddings."""
    cut = [name for name, tensor in small.named_parameters() if tensor.dim() > 1 and name in plan.kept]
    return {name: "it is no weight of a linear map or convolution" for name in cut if name not in known}
