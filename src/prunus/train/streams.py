"""Random numbers: one stream for the data, one for the model, both of which a checkpoint can bring back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from prunus.errors import InputError

State = Mapping[str, Any]


def capture() -> State:
    """The state of the random numbers of torch (on the CPU), NumPy and Python."""
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(legacy=True), "python": random.getstate()}


def restore(state: State) -> None:
    """Set what ``capture`` saw."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def to_plain(state: State) -> State:
    """What ``capture`` saw, as values that a checkpoint holds."""
    kind, keys, *rest = state["numpy"]
    version, words, following = state["python"]
    return {
        "torch": state["torch"],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, torch.tensor(words, device="cpu"), following],
    }


def from_plain(state: State) -> State:
    """The way back from ``to_plain``."""
    kind, keys, *rest = state["numpy"]
    version, words, following = state["python"]
    return {
        "torch": state["torch"],
        "numpy": (kind, keys.numpy().astype(np.uint32), *rest),
        "python": (version, tuple(words.tolist()), following),
    }


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch, NumPy and Python inside, restore them after; without a seed, nothing."""
    if seed is None:
        yield
        return
    before = capture()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            restore(before)


class Feed:
    """The batches of a loader, drawn with random numbers of their own.

    Dropout and augmentation would else take turns at one generator, and nobody could say later which number was whose:
    Accelerate fetches a batch ahead. With two streams, the batches of an epoch follow from how the data's stream stood
    at its start, and a run is resumed in mid-epoch by drawing them again.

    Raises:
        InputError: workers that outlive an epoch, and so keep random numbers that nobody can save.
    """

    def __init__(self, loader: Iterable[Any], resumable: bool) -> None:
        if resumable and getattr(loader, "persistent_workers", False):
            raise InputError("a loader with persistent_workers=True can't be resumed to the bit: leave that out.")
        self.loader = loader
        self.stream = capture()
        self.start = self._look()
        # The model's stream goes another way from here, and two runs in a row differ.
        torch.manual_seed(int(torch.empty((), dtype=torch.int64, device="cpu").random_()))

    def epoch(self, number: int, skip: int = 0) -> Iterator[Any]:
        """The batches of epoch ``number`` (from 1), without the first ``skip``, which are drawn all the same."""
        self.start = self._look()
        if hasattr(self.loader, "iteration"):  # what Accelerate hands to set_epoch
            self.loader.iteration = number - 1
        with self._own():
            batches = iter(self.loader)
            for _ in range(skip):
                next(batches)
        while True:
            with self._own():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def state_dict(self) -> State:
        """How the data's stream stood when this epoch began."""
        return self.start

    def next_epoch(self) -> State:
        """The same for the epoch to come."""
        return self._look()

    def load_state_dict(self, state: State) -> None:
        """Go back to where ``state_dict`` was."""
        self.stream = from_plain(state["stream"])
        for generator, saved in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(saved)

    @contextmanager
    def _own(self) -> Iterator[None]:
        others = capture()
        restore(self.stream)
        try:
            yield
        finally:
            self.stream = capture()
            restore(others)

    def _look(self) -> State:
        return {"stream": to_plain(self.stream), "generators": [g.get_state() for g in self._generators()]}

    def _generators(self) -> list[torch.Generator]:
        """Those that the loader and its samplers have of their own."""
        found: dict[int, torch.Generator] = {}
        todo: list[Any] = [self.loader]
        seen: set[int] = set()
        while todo:
            at = todo.pop(0)
            if at is None or id(at) in seen:
                continue
            seen.add(id(at))
            if isinstance(at, torch.Generator):
                found[id(at)] = at
                continue
            names = ("generator", "synchronized_generator", "sampler", "batch_sampler", "base_dataloader")
            todo += [vars(at).get(name) for name in names] if hasattr(at, "__dict__") else []
        return list(found.values())
