"""What can go: the largest set of indices that nothing kept depends on, except for constants that can be carried.

Start with every free index gone. Wherever a kept result reads a position that is gone, and that isn't zero or a
constant that can be carried, the indices through it come back. What is still gone when nothing comes back any more can
be cut exactly: by induction over the run, every kept value is computed from kept values and constants alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.axes import Atom, Axis, Keep, atoms, fold, keep_vector
from prunus.extraction.interpret import Interpretation
from prunus.extraction.sinks import Sink
from prunus.sizes.expression import leaves
from prunus.surgery import named_tensors


class Liveness:
    """The state of the search for what can go.

    Args:
        carried: per sink, "bias" if constants that it reads can be added to a bias, "channel" if another channel of
            the same sink that is constant may take them over, "" if neither.
        drop: constants count as zeros.
    """

    def __init__(self, found: Interpretation, carried: Sequence[str], drop: bool) -> None:
        self.found, self.graph, self.drop = found, found.graph, drop
        self.carried = carried
        self.keep: dict[Atom, Keep] = {g.atom: np.zeros(g.size, dtype=bool) for g in self.graph.free}
        self.weight = self._weights()

    def solve(self) -> dict[Atom, Keep]:
        """The indices that stay, of every atom that loses any."""
        for axis in self.found.held:
            self._restore(axis, np.ones(axis.size, dtype=bool))
        steps = (self._restore_read, self._restore_carriers, self._restore_counts, self._restore_empty)
        while any(step() for step in steps):
            pass
        return {atom: mask for atom, mask in self.keep.items() if not mask.all()}

    def kept(self, axis: Axis) -> Tensor:
        """Which positions of an axis stay."""
        return torch.from_numpy(keep_vector(axis, self.keep))

    def needed(self, sink: Sink, carried: str) -> Tensor:
        """The positions of a sink that a kept result reads, and for which no constant stands."""
        still = sink.same if carried or self.drop else sink.same & (sink.value == 0)
        return self._read(sink) & ~still

    # -- what comes back -----------------------------------------------------------------------------------------

    def _restore(self, axis: Axis, positions: Any) -> bool:
        """Bring back every index that the given positions go through; says whether any was gone."""
        into: dict[Atom, Any] = {}
        fold(axis, np.asarray(positions, dtype=float), into, np.max, np.maximum)
        back = False
        for atom, wanted in into.items():
            if atom in self.keep:
                new = self.keep[atom] | (wanted > 0)
                back |= bool((new != self.keep[atom]).any())
                self.keep[atom] = new
        return back

    def _lost(self, sink: Sink) -> Tensor:
        """The positions of a sink that are gone although a kept result reads them."""
        return ~self.kept(sink.inputs) & self._read(sink)

    def _read(self, sink: Sink) -> Tensor:
        return sink.reads(None if sink.outputs is None else self.kept(sink.outputs))

    def _restore_read(self) -> bool:
        back = False
        for sink, carried in zip(self.found.sinks, self.carried, strict=True):
            lost = ~self.kept(sink.inputs) & self.needed(sink, carried)
            if bool(lost.any()):
                back |= self._restore(sink.inputs, lost.numpy())
        return back

    def _restore_carriers(self) -> bool:
        """Where constants need a channel to carry them, one of them stays in every group: the largest."""
        if self.drop:
            return False
        back = False
        for sink, carried in zip(self.found.sinks, self.carried, strict=True):
            if carried == "channel":
                for positions in self.uncarried(sink):
                    back |= self._restore(sink.inputs, positions.numpy())
        return back

    def uncarried(self, sink: Sink) -> Iterable[Tensor]:
        """One position of each group in which constants are lost and no channel carries them."""
        groups = sink.kernel.shape[0] if sink.kernel is not None else 1
        constant = sink.same & (sink.value != 0)
        lost = (self._lost(sink) & constant).view(groups, -1)
        carrier = (self.kept(sink.inputs) & constant).view(groups, -1)
        size = (sink.value.abs() * constant).view(groups, -1)
        for g in torch.nonzero(lost.any(1) & ~carrier.any(1)).flatten().tolist():
            chosen = torch.zeros_like(lost)
            chosen[g, int(torch.where(lost[g], size[g], 0).argmax())] = True
            yield chosen.flatten()

    def _restore_counts(self) -> bool:
        """Counts that follow others must follow: what has too few left gets some back."""
        counts = {atom: int(mask.sum()) for atom, mask in self.keep.items()}
        followers = self.graph.sizes.followers
        for atom, expr in followers.items():
            if atom not in self.keep:
                continue
            wanted = self.graph.sizes.complete(counts)[atom]
            if counts[atom] < wanted <= atom.size:
                return self._revive(atom, wanted - counts[atom])
            if counts[atom] != wanted:
                sources = [x for x in leaves(expr) if isinstance(x, Atom) and not self._whole(x)]
                if sources:
                    return self._revive(sources[0], 1)
                return self._restore(atom, np.ones(atom.size, dtype=bool))
        return False

    def _whole(self, atom: Atom) -> bool:
        return atom not in self.keep or bool(self.keep[atom].all())

    def _restore_empty(self) -> bool:
        """At least one index of everything stays."""
        empty = [atom for atom, mask in self.keep.items() if not mask.any()]
        for atom in empty:
            self._revive(atom, 1)
        return bool(empty)

    def _revive(self, atom: Atom, n: int) -> bool:
        """Bring back the ``n`` indices that have the fewest weights, and so bring back least with them."""
        gone = np.flatnonzero(~self.keep[atom])
        chosen = gone[np.argsort(self.weight[atom][gone], kind="stable")[:n]]
        mask = np.zeros(atom.size, dtype=bool)
        mask[chosen] = True
        return self._restore(atom, mask)

    def _weights(self) -> dict[Atom, Any]:
        """Per index, how many weights that aren't zero go through it, in all parameters."""
        result: dict[Atom, Any] = {}
        tensors = named_tensors(self.graph.skeleton)
        for name, axes in self.graph.tensors.items():
            for dim, axis in enumerate(axes):
                if any(atom in self.keep for atom in atoms(axis)):
                    others = [d for d in range(len(axes)) if d != dim]
                    number = (tensors[name] != 0).double()
                    line = number.sum(others) if others else number
                    fold(axis, line.numpy(), result)
        return result
