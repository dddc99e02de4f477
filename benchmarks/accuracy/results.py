"""What was measured, one line of JSON for each way and seed, so that a run that was killed goes on; and its table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DENSE, OWN, PEERS = "dense", "prunus", ("Torch-Pruning", "NNI")
BUDGET, RATIO = "prunus, MACs as the budget, with data", "prunus, default with data"
"""Both with nothing else chosen: what is asked for is the MACs, or one ratio for all."""


@dataclass(frozen=True)
class Result:
    """One network: its share of the MACs, its score (percent) after the cut and after fine-tuning; or what went wrong.

    ``way`` is ``"dense"`` for the network before the cut.
    """

    task: str
    part: float
    way: str
    seed: int
    macs: float = 0.0
    cut: float = 0.0
    tuned: float | None = None
    error: str = ""


class Results:
    """Results by way and seed, kept in a file where one is given."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.is_file() else []
        self.known = {_key(result): result for result in (Result(**json.loads(line)) for line in lines)}

    def get(self, task: str, part: float, way: str, seed: int) -> Result | None:
        return self.known.get((task, part, way, seed))

    def add(self, result: Result) -> Result:
        self.known[_key(result)] = result
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(asdict(result)) + "\n")
        return result


def _key(result: Result) -> tuple[str, float, str, int]:
    return result.task, result.part, result.way, result.seed


def row(found: Sequence[Result], tuned: bool) -> str:
    """One way as a line of the table."""
    way, wrong = found[0].way, [result.error for result in found if result.error]
    if wrong:
        return f"| {way} | | {wrong[0]} |" + " |" * tuned
    cells = [f"{statistics.mean(r.macs for r in found):.2f}", told([r.cut for r in found])]
    cells += [told(_tuned(found))] if tuned else []
    return f"| {way} | " + " | ".join(cells) + " |"


def told(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"


def _tuned(found: Iterable[Result]) -> list[float]:
    return [r.tuned for r in found if r.tuned is not None]


def goals(dense: Sequence[Result], ways: Mapping[str, Sequence[Result]]) -> list[str]:
    """What the defaults lose beside the peers' best criterion and beside our own best way, and whether that is enough.

    The best is the one with the highest mean over the seeds, seen afterwards: the peer's user couldn't know it.
    """
    whole = {name: found for name, found in ways.items() if not any(r.error for r in found)}
    peers = {name: found for name, found in whole.items() if name.startswith(PEERS)}
    defaults = {name: whole[name] for name in (BUDGET, RATIO) if name in whole}
    if not defaults or not peers:
        return []
    full = statistics.mean(r.cut for r in dense)
    cut = {name: statistics.mean(r.cut for r in found) for name, found in whole.items()}
    best, own = max(peers, key=cut.__getitem__), max((n for n in cut if n.startswith(OWN)), key=cut.__getitem__)
    theirs = full - cut[best]
    lines = [
        f"* Without training, {name} loses {full - cut[name]:.2f} points, {best} {theirs:.2f}: "
        + _verdict(full - cut[name] <= theirs / 5, f"at most a fifth, {theirs / 5:.2f}, is the goal")
        for name in defaults
    ]
    lines += [
        f"* Of our own ways {own} scores best, {cut[own]:.2f} %; {name} {cut[name]:.2f} %: "
        + _verdict(cut[name] >= 0.9 * cut[own], "within 10 % is the goal")
        for name in defaults
        if name != own
    ]
    return lines + [_fine_tuned(name, found, peers) for name, found in defaults.items() if _tuned(found)]


def _fine_tuned(name: str, found: Sequence[Result], peers: Mapping[str, Sequence[Result]]) -> str:
    mean = {peer: statistics.mean(_tuned(results)) for peer, results in peers.items()}
    best = max(mean, key=mean.__getitem__)
    mine, other = _tuned(found), _tuned(peers[best])
    spread = max(statistics.stdev(v) if len(v) > 1 else 0.0 for v in (mine, other))
    return f"* Fine-tuned, {name} scores {statistics.mean(mine):.2f} %, {best} {mean[best]:.2f} %: " + _verdict(
        statistics.mean(mine) >= mean[best] - spread, f"behind by at most {spread:.2f} is the goal"
    )


def _verdict(reached: bool, goal: str) -> str:
    return f"{goal}, **{'reached' if reached else 'missed'}**."
