"""What masks alone do: ``torch.nn.utils.prune`` on conv1, and what stays the same."""

from __future__ import annotations

from copy import deepcopy

from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune

from prunus.demo.data import Part, accuracy
from prunus.demo.lenet import LeNet
from prunus.deploy.measure import measure, torch_runner
from prunus.profile import profile
from prunus.report.tables import Table, count, kilobytes, milliseconds


def masked_table(dense: LeNet, digits: Part, example: Tensor, repeats: int) -> Table:
    """The classic tutorial's two masks, measured: zeros appear, and nothing gets smaller or faster.

    Args:
        dense: the trained model; it is left as it is.
        digits: to measure the accuracy on.
        example: a batch to time.
    """
    models = {
        "no mask": dense,
        "random_unstructured 0.3": _masked(dense, "random"),
        "ln_structured 0.5": _masked(dense, "filters"),
        "ln_structured 0.5, then remove": _masked(dense, "filters", remove=True),
    }
    times = measure({name: torch_runner(model, example) for name, model in models.items()}, repeats=repeats)
    rows = []
    for name, model in models.items():
        weight = model.conv1.weight
        zeros = int((weight == 0).sum())
        rows.append(
            (
                name,
                f"{zeros}/{weight.numel()}",
                "×".join(map(str, weight.shape)),
                count(profile(model, example[:1], latency=False).macs),
                kilobytes(file_bytes(model)),
                milliseconds(times[name].median_ms),
                f"{accuracy(model, digits):.1f} %",
            )
        )
    columns = ("conv1 with", "zeros", "shape", "MACs", "weights file", f"batch {len(example)}", "validation")
    spread = max((time.high_ms - time.low_ms) / time.median_ms for time in times.values())
    note = (
        "A mask is one more tensor to store and one more product to compute; the zeros are still multiplied. "
        f"Times are medians, their 95 % confidence intervals up to {spread:.0%} wide; no arithmetic is saved."
    )
    return Table("What masks alone do", columns, tuple(rows), note=note)


def file_bytes(model: nn.Module) -> int:
    """Size of the model's state dict as a safetensors file."""
    return len(save({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}))


def _masked(dense: LeNet, what: str, remove: bool = False) -> LeNet:
    model = deepcopy(dense)
    if what == "random":
        prune.random_unstructured(model.conv1, "weight", amount=0.3)
    else:
        prune.ln_structured(model.conv1, "weight", amount=0.5, n=2, dim=0)
    if remove:
        prune.remove(model.conv1, "weight")
    return model
