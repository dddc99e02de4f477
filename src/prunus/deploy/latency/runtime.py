"""A runtime as a budget's place: its cost table, kept on disk, and the whole model timed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from prunus.deploy.latency.backends import Backend, Compiled, Cuda, Onnx, Torch
from prunus.deploy.latency.layers import Layer
from prunus.deploy.latency.table import LatencyTable
from prunus.deploy.measure import measure, speedup
from prunus.errors import InputError, suggest
from prunus.trace import Graph

BACKENDS: Mapping[str, type[Backend]] = {"onnx": Onnx, "torch": Torch, "compile": Compiled, "cuda": Cuda}


class Runtime:
    """Where latency is meant: ``prunus.plan(..., budget={"latency": "4 ms"}, runtime=prunus.Runtime("onnx"))``.

    Every layer is timed alone on a grid of its sizes, once; the times are kept on disk by machine, runtime and
    threads. The estimate is scaled to the whole model's time. A plan that is found is timed whole, the table corrected
    by what that shows, and the plan made again, until it holds.

    Args:
        name: ``"onnx"`` (ONNX Runtime on the CPU), ``"torch"``, ``"compile"`` (torch.compile), ``"cuda"``, or a
            :class:`Backend` of your own.
        cache: folder of the times; by default ``prunus/latency`` in the user's cache folder. None keeps none.
        repeats: timed runs of a whole model.
        layer_ms: milliseconds spent on timing each layer at each size.

    Raises:
        InputError: there is no such runtime, or not here.
    """

    def __init__(
        self,
        name: str | Backend = "onnx",
        *,
        cache: str | os.PathLike[str] | None = "",
        repeats: int = 15,
        layer_ms: float = 30.0,
    ) -> None:
        if isinstance(name, str) and name not in BACKENDS:
            raise InputError(f"there is no runtime {name!r}.{suggest(name, BACKENDS)} Known: {', '.join(BACKENDS)}.")
        self.backend = BACKENDS[name]() if isinstance(name, str) else name
        self.repeats, self.layer_ms = repeats, layer_ms
        self._file = None if cache is None else _folder(cache) / f"{self._identity()}.json"
        self._times: dict[str, float] = _read(self._file)
        self._dense: WeakKeyDictionary[nn.Module, tuple[Any, Callable[[], Any]]] = WeakKeyDictionary()
        self._whole: WeakKeyDictionary[Graph, float] = WeakKeyDictionary()

    def cost(self, graph: Graph) -> LatencyTable:
        """Milliseconds of any candidate of ``graph``, for :func:`prunus.plan`."""
        if graph not in self._whole:
            run = self._kept(graph.model, graph.args, graph.kwargs)
            self._whole[graph] = min(measure({"model": run}, repeats=self.repeats, warmup=3)["model"].samples)
        table = LatencyTable(graph, self._layer, self._whole[graph], self.backend.step)
        self._write()
        return table

    def time(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None) -> float:
        """Median milliseconds of one run of the whole model."""
        run = self.backend.runner(model, args, kwargs or {})
        return measure({"model": run}, repeats=self.repeats, warmup=3)["model"].median_ms

    def compare(
        self, dense: nn.Module, small: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None
    ) -> tuple[float, float]:
        """Median milliseconds of ``dense``, and what is that of ``small`` by the median of paired ratios."""
        runners = {"dense": self._kept(dense, args, kwargs), "small": self.backend.runner(small, args, kwargs or {})}
        found = measure(runners, repeats=self.repeats, warmup=3)
        return found["dense"].median_ms, found["dense"].median_ms / speedup(found["dense"], found["small"]).median

    def _kept(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None) -> Callable[[], Any]:
        """What runs the dense model, made once: exporting it may take a minute."""
        known = self._dense.get(model)
        if known is None or known[0] is not args:
            known = (args, self.backend.runner(model, args, kwargs or {}))
            self._dense[model] = known
        return known[1]

    def _layer(self, layer: Layer) -> float:
        """The shortest of its runs: what disturbs a run only makes it longer."""
        if layer.key not in self._times:
            run = self.backend.layer(layer)
            run()
            best, spent, runs = float("inf"), 0.0, 0
            while runs < 3 or spent < self.layer_ms:
                start = time.perf_counter()
                run()
                took = 1e3 * (time.perf_counter() - start)
                best, spent, runs = min(best, took), spent + took, runs + 1
            self._times[layer.key] = best
            if len(self._times) % 50 == 0:
                self._write()
        return self._times[layer.key]

    def _identity(self) -> str:
        text = f"{self.backend.name} {self.backend.version()} on {self.backend.machine()}"
        return f"{self.backend.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _write(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({**_read(self._file), **self._times}, indent=0), encoding="utf-8")
        os.replace(new, self._file)


def _folder(cache: str | os.PathLike[str]) -> Path:
    if os.fspath(cache):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prunus" / "latency"


def _read(file: Path | None) -> dict[str, float]:
    """The times on disk; a file that can't be read is measured anew."""
    if file is None or not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}
