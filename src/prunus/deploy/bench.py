"""Several models, or files, in several runtimes, side by side: every candidate takes its turn in the same rounds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.columns import aligned
from prunus.deploy.machine import energy_counter, peak_memory, processor
from prunus.deploy.measure import Latency, Ratio, measure, speedup
from prunus.deploy.parity import Batch
from prunus.deploy.runtimes import Saved, Source, as_onnx, check_runtime, runner, seconds_to_open
from prunus.deploy.saving import load
from prunus.errors import InputError, PrunusError
from prunus.running import as_args


@dataclass(frozen=True)
class Entry:
    """One candidate in one runtime, at one batch size and one number of threads.

    Attributes:
        name, runtime, batch, threads: which.
        latency: of one run; None if it can't run there, and ``reason`` says why.
        speedup: how many times as fast as the first candidate in the same runtime and setting; None for itself.
        file_bytes: of the ONNX file or the saved folder; of the weights, for a model in memory.
        load_seconds: from file to ready to run, in this process; None for a model in memory.
        peak_bytes: the most that loading and one run take, on one thread, beyond a torch model's weights.
        joules: of one run, by the processor packages; None where the machine doesn't tell.
    """

    name: str
    runtime: str
    batch: int
    threads: int
    latency: Latency | None = None
    speedup: Ratio | None = None
    file_bytes: int | None = None
    load_seconds: float | None = None
    peak_bytes: int | None = None
    joules: float | None = None
    reason: str | None = None

    @property
    def throughput(self) -> float | None:
        """Examples a second."""
        return 1e3 * self.batch / self.latency.median_ms if self.latency else None


@dataclass(frozen=True)
class Bench:
    """All entries, the processor they ran on, and what it doesn't tell."""

    entries: tuple[Entry, ...]
    machine: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the single samples."""
        rows = []
        for entry in self.entries:
            row = asdict(entry)
            if entry.latency:
                row["latency"] = {k: getattr(entry.latency, k) for k in ("median_ms", "low_ms", "high_ms")}
            rows.append({**row, "throughput": entry.throughput})
        return {"machine": self.machine, "notes": list(self.notes), "entries": rows}

    def rows(self) -> list[tuple[str, ...]]:
        """Header and cells of a table for people."""
        return [_HEADER, *map(_cells, self.entries)]

    def __str__(self) -> str:
        return "\n".join([self.machine, *aligned(self.rows()), *self.notes])


def bench(
    candidates: Mapping[str, Source],
    args: Any,
    *,
    runtimes: Sequence[str] = ("eager", "onnx"),
    batch_sizes: Sequence[int] = (),
    threads: Sequence[int] = (),
    repeats: int = 30,
    warmup: int = 5,
    memory: bool = True,
) -> Bench:
    """Measure latency, load time, file size, peak memory and, where the machine tells, energy.

    All candidates in all runtimes take turns within each setting of batch size and threads, so that the machine's moods
    fall on all alike; each median comes with its 95 % confidence interval, and speed-ups are paired.

    Args:
        candidates: name -> a model, an ONNX file, or :class:`Saved`. Speed-ups are against the first.
        args: one tensor, or a tuple: example inputs whose first dimension is the batch.
        runtimes: of ``"eager"``, ``"compile"``, ``"onnx"``, ``"openvino"``. Models are exported for the last two.
        batch_sizes: by default the example's.
        threads: by default torch's.
        repeats, warmup: timed and untimed runs of each.
        memory: also measure peak memory, in forks of this process.

    Raises:
        InputError: no candidates, an unknown runtime, counts out of range. What only one candidate can't do is its
            entry's ``reason``.
    """
    if not candidates:
        raise InputError("bench needs at least one candidate: bench({'small': small}, x).")
    for name in runtimes:
        check_runtime(name)
    if any(n < 1 for n in (*batch_sizes, *threads)):
        raise InputError("batch sizes and threads must be at least 1.")
    args = as_args(args)
    counter = energy_counter() if runtimes else "nothing was run"
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory(prefix="prunus-bench-") as folder:
        opened = {name: _Opened(name, source, args, Path(folder)) for name, source in candidates.items()}
        costs = _costs(opened, runtimes, args, memory)
        for size in batch_sizes or (Batch((args, {})).size,):
            drawn, _ = Batch((args, {})).random((args, {}), size, seed=0)
            for count in threads or (torch.get_num_threads(),):
                rows = [replace(costs[n, r], batch=size, threads=count) for n in candidates for r in runtimes]
                entries += _setting(rows, opened, drawn, repeats, warmup, counter)
    notes = [counter] if isinstance(counter, str) else []
    return Bench(tuple(entries), processor(), tuple(notes))


class _Opened:
    """A candidate's model, if it is one, and its ONNX file, made when it is first asked for."""

    def __init__(self, name: str, source: Source, args: Any, folder: Path) -> None:
        self.model: nn.Module | None = None
        self.seconds: float | None = None
        self._args, self._folder, self._name = args, folder, name
        self._refused: PrunusError | None = None
        if isinstance(source, Saved):
            start = time.perf_counter()
            self.model = load(source.folder, source.factory)
            self.seconds = time.perf_counter() - start
            self.bytes = sum(file.stat().st_size for file in source.folder.iterdir())
        elif isinstance(source, nn.Module):
            self.model = source
            self.bytes = sum(p.numel() * p.element_size() for p in source.parameters())
        else:
            self.file = Path(source)
            if not self.file.is_file():
                raise InputError(f"there is no file {source}.")
            self.bytes = self.file.stat().st_size

    def source(self, runtime: str) -> nn.Module | Path:
        """What a runtime runs: the model for torch's, the ONNX file for the others."""
        of_torch = runtime in ("eager", "compile")
        if self.model is None:
            if of_torch:
                raise InputError("torch doesn't run ONNX files")
            return self.file
        if of_torch:
            return self.model
        if self._refused:
            raise self._refused
        try:
            return as_onnx(self.model, self._args, self._folder, str(abs(hash(self._name))))
        except PrunusError as error:
            self._refused = error
            raise


def _costs(
    opened: Mapping[str, _Opened], runtimes: Iterable[str], args: Any, memory: bool
) -> dict[tuple[str, str], Entry]:
    """What doesn't depend on the setting; where a candidate can't run, the reason."""
    found = {}
    for name, candidate in opened.items():
        for runtime in runtimes:
            entry = Entry(name, runtime, 0, 0, file_bytes=candidate.bytes)
            try:
                source = candidate.source(runtime)
                found[name, runtime] = replace(entry, **_cost(candidate, source, runtime, args, memory))
            except PrunusError as error:
                found[name, runtime] = replace(entry, reason=str(error))
    return found


def _cost(candidate: _Opened, source: nn.Module | Path, runtime: str, args: Any, memory: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"load_seconds": candidate.seconds}
    if isinstance(source, Path):
        told = {"load_seconds": seconds_to_open(source, runtime, args), "file_bytes": source.stat().st_size}
    if memory and runtime != "compile":  # its compiler would be measured
        most = peak_memory(lambda: runner(source, runtime, args, 1)())
        told["peak_bytes"] = most if isinstance(most, int) else None
    return told


def _setting(
    rows: Sequence[Entry],
    opened: Mapping[str, _Opened],
    args: Any,
    repeats: int,
    warmup: int,
    counter: Callable[[], float] | str,
) -> Iterator[Entry]:
    """The entries of one batch size and one number of threads, measured together."""
    runners: dict[int, Callable[[], Any]] = {}
    reasons = {index: row.reason for index, row in enumerate(rows)}
    count = rows[0].threads
    for index, row in enumerate(rows):
        if row.reason is None:
            try:
                runners[index] = runner(opened[row.name].source(row.runtime), row.runtime, args, count)
                runners[index]()
            except (PrunusError, RuntimeError) as error:
                reasons[index] = f"batch {row.batch}: {' '.join(str(error).split())[:200]}"
                runners.pop(index, None)
    names = {str(index): run for index, run in runners.items()}
    found = measure(names, repeats=repeats, warmup=warmup, threads=count) if names else {}
    for index, row in enumerate(rows):
        latency = found.get(str(index))
        first = next((i for i, other in enumerate(rows) if other.runtime == row.runtime), index)
        base = found.get(str(first))
        yield replace(
            row,
            latency=latency,
            reason=reasons[index],
            speedup=speedup(base, latency) if latency and base and first != index else None,
            joules=_joules(runners[index], counter, repeats) if latency and callable(counter) else None,
        )


def _joules(run: Callable[[], Any], counter: Callable[[], float], repeats: int) -> float | None:
    """Energy of one run, from a block of them; None when the counter has wrapped."""
    before = counter()
    for _ in range(repeats):
        run()
    spent = counter() - before
    return spent / repeats if spent > 0 else None


_HEADER = ("model", "runtime", "batch", "threads", "ms [95 %]", "speed-up", "per s", "file", "load", "peak", "energy")


def _cells(entry: Entry) -> tuple[str, ...]:
    head = (entry.name, entry.runtime, str(entry.batch), str(entry.threads))
    if entry.latency is None:
        return (*head, f"can't: {entry.reason}", *[""] * 6)
    return (
        *head,
        str(entry.latency).replace(" ms", ""),
        "" if entry.speedup is None else str(entry.speedup),
        f"{entry.throughput:.1f}",
        _told(entry.file_bytes, lambda n: f"{n / 1e6:.2f} MB"),
        _told(entry.load_seconds, lambda s: f"{s:.3f} s"),
        _told(entry.peak_bytes, lambda n: f"{n / 1e6:.1f} MB"),
        _told(entry.joules, lambda j: f"{j:.3f} J"),
    )


def _told(value: Any, form: Callable[[Any], str]) -> str:
    return "-" if value is None else form(value)
