"""What this machine is and can do: its processor, peak arithmetic and bandwidth, energy counters, memory."""

from __future__ import annotations

import math
import os
import platform
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "sve", "i8mm")
"""Instruction sets that decide how fast fp32 and INT8 products are."""


@dataclass(frozen=True)
class Peak:
    """What the processor reaches with torch's threads as they are set.

    Attributes:
        macs: fp32 multiply-accumulates a second, in a large matrix product.
        bandwidth: bytes a second that a copy of 256 MB reads and writes.
        call_ms: the least time one torch operator takes, on a tensor of one value.
    """

    macs: float
    bandwidth: float
    call_ms: float


def processor() -> str:
    """The processor's name, and which of the instruction sets that matter it has."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    has = [flag for flag in FLAGS if flag in fields.get("flags", fields.get("Features", "")).split()]
    return f"{name} ({' '.join(has) or 'instruction sets unknown'})"


def peak() -> Peak:
    """Measure the machine, in about a second: the best of several runs of each, since what is asked is the most."""
    a = torch.randn(1024, 1024, device="cpu")
    source, one = torch.zeros(32 * 2**20, device="cpu"), torch.zeros(1, device="cpu")
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = _best(lambda: a @ a, 12)
        copy = _best(lambda: target.copy_(source), 6)
        call = _best(lambda: [one.add_(1) for _ in range(100)], 20) / 100
    return Peak(1024**3 / product, 2 * source.numel() * 4 / copy, 1e3 * call)


def _best(work: Callable[[], Any], times: int) -> float:
    found = math.inf
    for _ in range(times):
        start = time.perf_counter()
        work()
        found = min(found, time.perf_counter() - start)
    return found


def energy_counter() -> Callable[[], float] | str:
    """A function that reads joules used so far by all processor packages (RAPL), or why there is none."""
    zones = sorted(zone for zone in POWERCAP.glob("*rapl*:*") if zone.name.count(":") == 1)
    files = [zone / "energy_uj" for zone in zones]
    if not files:
        return "this machine has no energy counter (RAPL)"
    try:
        for file in files:
            int(file.read_text())
    except (OSError, ValueError) as error:
        return f"the energy counter can't be read ({error}); it often needs root"
    return lambda: sum(int(file.read_text()) for file in files) / 1e6


def peak_memory(work: Callable[[], Any], timeout: float = 120) -> int | str:
    """Bytes that ``work`` takes at most beyond what is there, seen in a fork of this process; or why it isn't known."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not (clear.exists() and hasattr(os, "fork")):
        return "peak memory is told on Linux alone"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _in_fork(work, clear, status, writing, timeout)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return struct.unpack("<q", told)[0] if len(told) == 8 else "it didn't run in a process of its own"


def _in_fork(work: Callable[[], Any], clear: Path, status: Path, writing: int, timeout: float) -> None:
    """Never returns. One thread: those of the parent don't come along."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(math.ceil(timeout))
        torch.set_num_threads(1)
        clear.write_text("5")  # the high-water mark begins here
        before = _kilobytes(status, "VmRSS")
        kept = work()
        os.write(writing, struct.pack("<q", max(0, _kilobytes(status, "VmHWM") - before) * 1024))
        del kept
    finally:
        os._exit(0)


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name + ":"))
