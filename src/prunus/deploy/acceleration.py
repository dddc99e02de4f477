"""Speed from zeros, where there is any: a linear layer gets a sparse kernel only if that is measured to be faster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from prunus.deploy.measure import Latency, eval_runner, measure, speedup
from prunus.errors import InputError, PlanError, TraceError, suggest
from prunus.report.tables import Table, milliseconds
from prunus.running import as_args, call, check_eager, cloned, tensors_in, undisturbed
from prunus.surgery import copy_model

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
"""The sparsities among which the crossover is looked for."""

BACKENDS = ("csr", "bsr", "2:4")
_BLOCKS = (32, 16, 8, 4)
_ALONE = "faster by itself, but not within the whole model"
_FUSED = (nn.TransformerEncoderLayer,)
"""Hand their layers' weights to one fused kernel in eval mode, which takes no sparse ones."""


class SparseLinear(nn.Module):
    """A linear layer whose weight is a sparse CSR or BSR tensor, for inference on the CPU; (..., in) -> (..., out)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight @ x.reshape(-1, x.shape[-1]).T
        if self.bias is not None:
            y = y + self.bias[:, None]
        return y.T.contiguous().view(*x.shape[:-1], -1)

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseLinear:
        """torch can't deep-copy a sparse CSR tensor; it can clone one."""
        return SparseLinear(self.weight.clone(), _own(self.bias))


@dataclass(frozen=True)
class Layer:
    """One linear layer: its zeros, its calls, what was measured, and what was chosen ("dense" or a backend).

    ``crossover`` is the lowest of ``LEVELS`` from which random zeros pay off for this shape with CSR, on the CPU; None
    if none does or it wasn't measured. ``reason`` says why no sparse kernel was measured or taken.
    """

    name: str
    shape: tuple[int, int]
    rows: int
    sparsity: float
    chosen: str
    dense: Latency | None = None
    sparse: Mapping[str, Latency] = field(default_factory=dict)
    crossover: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Accelerated:
    """``model`` computes what was given, with sparse kernels where they are faster; ``layers`` says where and why.

    ``dense`` and ``sparse`` are the whole model's latencies, measured in turns.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    dense: Latency
    sparse: Latency

    def table(self) -> Table:
        """Layer by layer: dense ms, sparse ms, what was chosen, and from which sparsity on it would be."""
        rows = [
            (
                layer.name,
                f"{layer.shape[0]}×{layer.shape[1]}, {layer.rows} rows",
                f"{layer.sparsity:.1%}",
                milliseconds(layer.dense.median_ms) if layer.dense else "–",
                ", ".join(f"{kind} {milliseconds(t.median_ms)}" for kind, t in layer.sparse.items()) or layer.reason,
                layer.chosen,
                f"{layer.crossover:.0%}" if layer.crossover is not None else "–",
            )
            for layer in self.layers
        ]
        taken = sum(layer.chosen != "dense" for layer in self.layers)
        ratio = speedup(self.dense, self.sparse)
        note = f"{taken} of {len(rows)} layers switched; whole model {self.dense} -> {self.sparse}, {ratio} faster."
        columns = ("layer", "shape", "zeros", "dense", "sparse", "chosen", "pays off from")
        return Table("Sparse kernels, measured here", columns, tuple(rows), labels=2, note=note)

    def __str__(self) -> str:
        return self.table().plain()


def accelerate_sparse(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    backend: str = "auto",
    repeats: int = 20,
    crossover: bool = True,
) -> Accelerated:
    """Give linear layers with zeros a sparse kernel, each only if it is faster here, on inputs of these shapes.

    On the CPU the kernels are CSR, and BSR where zeros come in blocks; on CUDA 2:4, for half precision weights of that
    pattern. "Faster" means that the whole 95 % confidence interval of the paired ratio is above 1, and that the outputs
    agree (1e-5 of the largest in float32, 2e-2 in half precision). Where the whole model is slower all the same, all
    layers stay dense. The result is for inference, on this machine.

    Args:
        model: in any mode; it is left as it is.
        args, kwargs: example inputs; as many rows as there will be.
        backend: "auto", or "csr", "bsr" or "2:4" alone.
        repeats: timed calls of each candidate.
        crossover: also find from which sparsity on CSR pays off, per shape, on the CPU.

    Raises:
        InputError: an unknown backend, or no linear layer ran.
        PlanError: the model reads the weight of a layer that was switched by itself, so that it can't be.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}.{suggest(backend, BACKENDS)} Known: auto, csr, bsr, 2:4.")
    check_eager(model)
    args, kwargs = as_args(args), dict(kwargs or {})
    seen = _inputs_of_linears(model, args, kwargs)
    wanted = BACKENDS if backend == "auto" else (backend,)
    found: dict[tuple[object, ...], float | None] = {}
    layers, chosen = [], {}
    for name, inputs in seen.items():
        layer, replacement = _choose(name, model.get_submodule(name), inputs, wanted, repeats)
        if crossover and inputs[0].device.type == "cpu" and layer.dense is not None and "csr" in wanted:
            key = (layer.shape, tuple(x.shape for x in inputs), inputs[0].dtype)
            if key not in found:
                found[key] = _crossover(layer.shape, inputs, repeats)
            layer = Layer(**{**vars(layer), "crossover": found[key]})
        layers.append(layer)
        if replacement is not None:
            chosen[name] = replacement
    fast = _replaced(model, chosen)
    _check_whole(model, fast, args, kwargs)
    runners = {side: eval_runner(m, args, kwargs) for side, m in (("dense", model), ("sparse", fast))}
    times = measure(runners, repeats=repeats)
    if chosen and speedup(times["dense"], times["sparse"]).high < 1:
        layers = [replace(layer, chosen="dense", reason=_ALONE) if layer.name in chosen else layer for layer in layers]
        return Accelerated(_replaced(model, {}), tuple(layers), times["dense"], times["dense"])
    return Accelerated(fast, tuple(layers), times["dense"], times["sparse"])


def _inputs_of_linears(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, list[Tensor]]:
    """Random inputs of the shapes that each linear layer saw in one run, call by call."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, given: seen.setdefault(name, []).append(torch.randn_like(given[0]))

    fused = {id(m) for layer in model.modules() if isinstance(layer, _FUSED) for m in layer.children()}
    linears = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and id(m) not in fused}
    handles = [module.register_forward_pre_hook(note(name)) for name, module in linears.items()]
    try:
        with undisturbed(model):
            call(model, *cloned((args, kwargs)))
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise InputError(f"no torch.nn.Linear of {type(model).__name__} ran; sparse kernels are for linear layers.")
    return seen


def _choose(
    name: str, linear: nn.Module, inputs: list[Tensor], wanted: tuple[str, ...], repeats: int
) -> tuple[Layer, nn.Module | None]:
    """What was measured for one layer, and the module to put in its place, if any."""
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach()
    rows = sum(x.numel() // x.shape[-1] for x in inputs)
    about = Layer(name, (weight.shape[0], weight.shape[1]), rows, float((weight == 0).float().mean()), "dense")
    candidates, reason = _candidates(linear, inputs, wanted)
    if not candidates:
        return Layer(**{**vars(about), "reason": reason}), None
    runners = {"dense": _runner(linear, inputs), **{k: _runner(m, inputs) for k, m in candidates.items()}}
    times = measure(runners, repeats=repeats)
    dense = times.pop("dense")
    best = min(times, key=lambda kind: times[kind].median_ms)
    faster = speedup(dense, times[best]).low > 1
    measured = {**vars(about), "dense": dense, "sparse": times}
    if not faster:
        return Layer(**{**measured, "reason": "not faster"}), None
    return Layer(**{**measured, "chosen": best}), candidates[best]


def _candidates(linear: nn.Linear, inputs: list[Tensor], wanted: tuple[str, ...]) -> tuple[dict[str, nn.Module], str]:
    """The sparse modules that compute the same, and why others don't."""
    makers: dict[str, Callable[[nn.Linear], nn.Module | None]] = {"csr": _csr, "bsr": _bsr, "2:4": _semi_structured}
    found, reasons = {}, []
    if not bool((linear.weight == 0).any()):
        return {}, "no zeros"
    with undisturbed(linear), _quiet():
        expected = [linear(x) for x in inputs]
        for kind in wanted:
            try:
                module = makers[kind](linear)
                outputs = [module(x) for x in inputs] if module is not None else []
            except (RuntimeError, ValueError, NotImplementedError) as error:  # what torch raises where it has no kernel
                reasons.append(f"{kind}: {' '.join(str(error).split())[:80]}")
                continue
            if module is not None and all(map(_agree, outputs, expected)):
                found[kind] = module
            elif module is not None:
                reasons.append(f"{kind}: other outputs")
    return found, "; ".join(reasons) or "no kernel fits"


def _csr(linear: nn.Linear) -> nn.Module | None:
    weight = linear.weight.detach()
    return SparseLinear(weight.to_sparse_csr(), _own(linear.bias)) if weight.device.type == "cpu" else None


def _bsr(linear: nn.Linear) -> nn.Module | None:
    """In the largest blocks that hold nearly all of the zeros; None if they come in no blocks."""
    weight = linear.weight.detach()
    if weight.device.type != "cpu":
        return None
    zeros = float((weight == 0).float().mean())
    for block in _BLOCKS:
        if weight.shape[0] % block == 0 and weight.shape[1] % block == 0:
            tiles = weight.view(weight.shape[0] // block, block, -1, block).abs().amax((1, 3))
            if float((tiles == 0).float().mean()) > 0.9 * zeros:
                return SparseLinear(weight.to_sparse_bsr((block, block)), _own(linear.bias))
    return None


def _semi_structured(linear: nn.Linear) -> nn.Module | None:
    """The same layer with its weight in torch's 2:4 format; None where the weight doesn't have the pattern."""
    weight = linear.weight.detach()
    half = weight.dtype in (torch.float16, torch.bfloat16)
    if weight.device.type != "cuda" or not half or weight.shape[1] % 4:
        return None
    if int((weight.view(weight.shape[0], -1, 4) != 0).sum(-1).max()) > 2:
        return None
    fast = nn.Linear(1, 1, bias=False, device="meta")
    fast.in_features, fast.out_features = linear.in_features, linear.out_features
    fast.weight = nn.Parameter(to_sparse_semi_structured(weight.contiguous()), requires_grad=False)
    if linear.bias is not None:
        fast.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return fast


def _own(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


def _agree(found: Tensor, expected: Tensor, slack: float = 1.0) -> bool:
    tolerance = slack * 1e-5 if expected.dtype in (torch.float32, torch.float64) else 2e-2
    off = (found - expected).abs().max() if found.numel() else torch.zeros((), device="cpu")
    return found.shape == expected.shape and float(off) <= tolerance * float(expected.abs().max())


def _runner(module: nn.Module, inputs: list[Tensor]) -> Callable[[], None]:
    cuda = inputs[0].is_cuda

    def run() -> None:
        with torch.inference_mode():
            for x in inputs:
                module(x)
        if cuda:
            torch.cuda.synchronize()

    return run


def _crossover(shape: tuple[int, int], inputs: list[Tensor], repeats: int) -> float | None:
    """The lowest of LEVELS at which CSR is faster than dense, taking it that more zeros are never slower."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw, device="cpu").to(inputs[0].dtype)
    chance = torch.rand(shape, generator=draw, device="cpu")

    def faster(level: float) -> bool:
        zeroed = weight.masked_fill(chance < level, 0)
        with _quiet():
            sparse = SparseLinear(zeroed.to_sparse_csr(), None)
        dense = nn.Linear(1, 1, bias=False, device="meta")
        dense.weight = nn.Parameter(zeroed, requires_grad=False)
        times = measure({"dense": _runner(dense, inputs), "sparse": _runner(sparse, inputs)}, repeats=repeats)
        return speedup(times["dense"], times["sparse"]).low > 1

    low, high = 0, len(LEVELS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if faster(LEVELS[middle]) else (middle + 1, high)
    return LEVELS[low] if low < len(LEVELS) else None


def _replaced(model: nn.Module, chosen: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model, for inference, with the chosen modules in the places of those that they replace."""
    by_id = {id(model.get_submodule(name)): module.eval() for name, module in chosen.items()}
    if id(model) in by_id:
        return by_id[id(model)]
    memo: dict[int, Any] = dict(by_id)
    return copy_model(model, memo).eval()


def _check_whole(model: nn.Module, fast: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with undisturbed(model), torch.inference_mode():
        expected = tensors_in(call(model, *cloned((args, kwargs))))
        try:
            found = tensors_in(call(fast, *cloned((args, kwargs))))
        except TraceError as error:
            raise PlanError(f"{_READS} Its own words: {error.__cause__}") from error
    for a, b in zip(found, expected, strict=True):
        if b.is_floating_point() and b.numel() and not _agree(a, b, slack=100):
            raise PlanError(f"{_READS} The outputs differ.")


_READS = (
    "with sparse kernels the model doesn't run as before: it uses the weight of a linear layer by itself, not through "
    "the layer. Leave that model dense."
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes that sparse CSR and 2:4 tensors are in beta or a prototype."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse|.*SparseSemiStructured", category=UserWarning)
        yield
