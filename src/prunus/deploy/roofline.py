"""Why half the arithmetic isn't half the time: what binds each layer on this machine (Williams et al., CACM 2009)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from prunus.columns import aligned
from prunus.deploy.machine import Peak, peak, processor
from prunus.errors import InputError
from prunus.profile import Profile, Row

BOUNDS = ("compute", "memory", "overhead")


@dataclass(frozen=True)
class Layer:
    """One module's place under the roof.

    Attributes:
        name, type: as in its row of the profile.
        macs: multiply-accumulates of one run.
        bytes: that it must read and write at least: inputs, parameters, outputs, each once.
        intensity: multiply-accumulates per byte.
        ms: measured; ``floor_ms`` is the least this machine could take.
        bound: which of the three makes the floor: ``"compute"``, ``"memory"``, or ``"overhead"``, the cost of calling
            an operator at all.
    """

    name: str
    type: str
    macs: int
    bytes: int
    intensity: float
    ms: float
    floor_ms: float
    bound: str

    @property
    def attained(self) -> float:
        """The floor over the time measured: 1 where the layer can't be faster."""
        return self.floor_ms / self.ms if self.ms else 0.0


@dataclass(frozen=True)
class Roofline:
    """Layers in the order of the profile, the machine's peaks, and each bound's part of the time."""

    layers: tuple[Layer, ...]
    peak: Peak
    machine: str

    @property
    def shares(self) -> dict[str, float]:
        """Part of the measured time in layers of each bound."""
        whole = sum(layer.ms for layer in self.layers) or 1.0
        return {bound: sum(x.ms for x in self.layers if x.bound == bound) / whole for bound in BOUNDS}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        layers = [{**asdict(layer), "attained": layer.attained} for layer in self.layers]
        return {"machine": self.machine, "peak": asdict(self.peak), "shares": self.shares, "layers": layers}

    def __str__(self) -> str:
        lines = aligned([_HEADER, *map(_cells, self.layers)])
        shares = ", ".join(f"{share:.0%} by {bound}" for bound, share in self.shares.items())
        return "\n".join([*lines, "", *_machine(self), f"Of the time, {shares}. {_advice(self.shares)}"])


def roofline(profile: Profile, machine_peak: Peak | None = None) -> Roofline:
    """Tell for each module what binds it: arithmetic, memory traffic, or the overhead of being called.

    Args:
        profile: of :func:`prunus.profile`, with latency, of an fp32 model on the CPU.
        machine_peak: what the machine reaches; by default it is measured now, with torch's threads as they are.

    Raises:
        InputError: a profile without latency.
    """
    if profile.latency_ms is None:
        raise InputError("a roofline needs times: profile with latency=True.")
    limits = machine_peak or peak()
    return Roofline(tuple(_layers(profile, limits)), limits, processor())


def _layers(profile: Profile, limits: Peak) -> Iterator[Layer]:
    for row in profile.rows:
        if row.calls:
            moved = row.input_bytes + row.parameter_bytes + row.activation_bytes
            floors = {
                "compute": 1e3 * row.macs / limits.macs,
                "memory": 1e3 * moved / limits.bandwidth,
                "overhead": row.calls * limits.call_ms,
            }
            bound = max(floors, key=lambda name: floors[name])
            intensity = row.macs / max(moved, 1)
            yield Layer(row.name or "(model)", row.type, row.macs, moved, intensity, _ms(row), floors[bound], bound)


def _ms(row: Row) -> float:
    return row.latency_ms or 0.0


_HEADER = ("module", "type", "MACs", "bytes", "MACs/byte", "ms", "floor ms", "attained", "bound by")


def _cells(layer: Layer) -> tuple[str, ...]:
    numbers = (f"{layer.macs:,}", f"{layer.bytes:,}", f"{layer.intensity:.1f}", f"{layer.ms:.3f}")
    return (layer.name, layer.type, *numbers, f"{layer.floor_ms:.3f}", f"{layer.attained:.0%}", layer.bound)


def _machine(found: Roofline) -> Iterator[str]:
    limits = found.peak
    yield found.machine
    yield (
        f"{limits.macs / 1e9:.1f} G multiply-accumulates/s, {limits.bandwidth / 1e9:.1f} GB/s, "
        f"{1e3 * limits.call_ms:.2f} us a call: below {limits.macs / limits.bandwidth:.1f} MACs a byte memory binds."
    )


def _advice(shares: dict[str, float]) -> str:
    bound = max(shares, key=lambda name: shares[name])
    return {
        "compute": "Fewer MACs make it faster.",
        "memory": "Fewer MACs alone won't help; narrower activations, fusion (onnx, compile) or INT8 will.",
        "overhead": "Most layers are too small to matter: larger batches, fewer layers, or another runtime will help.",
    }[bound]
