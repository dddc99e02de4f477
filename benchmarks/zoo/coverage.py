"""docs/coverage.md from the outcomes: counts beside the peer's, and every exception with its reason."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.zoo.judge import CUT, TOLERANCE, Outcome

HEAD = f"""# Coverage

Written by `make zoo`. Every model gets random weights; everything that is free is halved without a hint; the result is
judged by value (`benchmarks/zoo/values.py`): every entry of every parameter is distinct, so what the small model keeps
is found in it, not asked for, and its output is compared in fp64 with that of the original whose other entries are
zero; the few for which zeroed parameters are no reference (`by_proof` in the zoo's cases, each with its reason) are
judged by `prunus.prove`. *Right* is a relative difference of at most {TOLERANCE:.0e}. *Enough* is at least 40 % of the
parameters gone, or what the remark gives a reason for. ONNX: exported and equal to torch in ONNX Runtime, of those
whose uncut original exports; the number behind "of" is how many were tried. Torch-Pruning 1.6.1 runs in the same
harness with head counts and output layers named, 60 s at most. The zoo of libraries is `make zoo-libraries`.
"""


def page(outcomes: Sequence[Outcome], names: str = "", times: str = "") -> str:
    """The whole page in Markdown; ``names`` is the part on timm's registered names, ``times`` that beside the peer."""
    ours = [o for o in outcomes if o.contender == "prunus"]
    peers = {(o.zoo, o.name): o for o in outcomes if o.contender != "prunus"}
    parts = [HEAD, _summary(ours, peers), times, names, _exceptions(ours), _table(ours, peers)]
    return "\n".join(part for part in parts if part)


def _summary(ours: Sequence[Outcome], peers: dict[tuple[str, str], Outcome]) -> str:
    lines = [
        "| zoo | models | right | right and enough | ONNX | Torch-Pruning: right and ≥ 25 % gone | of |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for zoo in dict.fromkeys(o.zoo for o in ours):
        mine = [o for o in ours if o.zoo == zoo]
        theirs = [peers[o.zoo, o.name] for o in mine if (o.zoo, o.name) in peers]
        tried = [o for o in mine if o.onnx and not o.onnx.startswith("not exportable")]
        lines.append(
            f"| {zoo} | {len(mine)} | {sum(o.right for o in mine)} | {sum(o.ok for o in mine)} | "
            f"{sum(o.onnx.startswith('ok') for o in tried)} of {len(tried)} | "
            f"{sum(o.right and o.left <= CUT for o in theirs)} | {len(theirs)} |"
        )
    return "\n".join([*lines, ""])


def _exceptions(ours: Sequence[Outcome]) -> str:
    lines = [f"* {o.zoo} {o.name}: {_reason(o)}" for o in ours if not o.ok]
    lines += [f"* {o.zoo} {o.name}, ONNX: {o.onnx}" for o in ours if o.onnx and not o.onnx.startswith(("ok", "not"))]
    return "\n".join(["## Exceptions", "", *(lines or ["None."]), ""])


def _reason(o: Outcome) -> str:
    if o.right:
        return f"{o.left:.0%} of the parameters stay; {o.why or 'no reason found'}"
    return o.why or f"relative error {o.error:.1e}"


def _table(ours: Sequence[Outcome], peers: dict[tuple[str, str], Outcome]) -> str:
    lines = [
        "## All models",
        "",
        "| zoo | model | left | error | s | ONNX | remark | Torch-Pruning |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for o in ours:
        onnx = o.onnx if len(o.onnx) < 4 else o.onnx.split(":")[0]
        lines.append(
            f"| {o.zoo} | {o.name} | {o.left:.3f} | {o.error:.1e} | {o.seconds:.2f} | {onnx} | {_short(o.why)} | "
            f"{_peer(peers.get((o.zoo, o.name)))} |"
        )
    return "\n".join([*lines, ""])


def _peer(o: Outcome | None) -> str:
    if o is None:
        return ""
    if o.right:
        return f"right, {o.left:.3f} left, {o.seconds:.2f} s"
    return _short(o.why) or f"wrong: {o.error:.1e}"


def _short(text: str) -> str:
    text = text.replace("|", "\\|")
    return text if len(text) <= 100 else text[:97] + "..."
