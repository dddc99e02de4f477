"""The hooks of ``fit`` in other loops: as callbacks of Lightning and of Hugging Face, or tied to an optimizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunus.errors import InputError, SaveError
from prunus.train.guards import check_resumable
from prunus.train.packing import pack, unpack
from prunus.train.records import Hook

_NAME = "prunus_hooks"


class Together:
    """Several hooks as one, called in their order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def before_step(self, *_: Any) -> None:
        """Call each."""
        for hook in self.hooks:
            hook.before_step()

    def after_step(self, *_: Any) -> None:
        """Call each."""
        for hook in self.hooks:
            hook.after_step()

    def epoch_end(self, *_: Any) -> None:
        """Call each."""
        for hook in self.hooks:
            hook.epoch_end()

    def state_dict(self) -> dict[str, Any]:
        """The state of each, by number; InputError if one has none."""
        check_resumable(self.hooks)
        return {str(i): hook.state_dict() for i, hook in enumerate(self._any)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave; SaveError if it is of another number of hooks."""
        if len(state) != len(self.hooks):
            raise SaveError(f"the checkpoint has the state of {len(state)} hooks, there are {len(self.hooks)} here.")
        for i, hook in enumerate(self._any):
            hook.load_state_dict(state[str(i)])

    @property
    def _any(self) -> Sequence[Any]:
        return self.hooks


def attach(optimizer: torch.optim.Optimizer, *hooks: Hook) -> list[torch.utils.hooks.RemovableHandle]:
    """Call ``before_step`` and ``after_step`` around each step of this optimizer, until the handles are removed.

    For a loop of one's own, as it is; ``epoch_end`` is left to the loop.
    """
    together = Together(hooks)
    return [
        optimizer.register_step_pre_hook(together.before_step),
        optimizer.register_step_post_hook(together.after_step),
    ]


def lightning_callback(*hooks: Hook) -> Any:
    """A callback for Lightning's ``Trainer(callbacks=[...])``; the hooks' states go in its checkpoints.

    With several optimizers, the first is the one whose steps count.

    Raises:
        InputError: lightning isn't installed.
    """
    return _lightning_class()(Together(hooks))


def transformers_callback(*hooks: Hook) -> Any:
    """A callback for Hugging Face's ``Trainer(callbacks=[...])``; the hooks' states go in its checkpoints.

    Raises:
        InputError: transformers isn't installed.
    """
    return _transformers_class()(Together(hooks))


def _lightning_class() -> Any:
    try:
        from lightning.pytorch import Callback
    except ImportError as error:
        raise InputError("lightning_callback needs Lightning: pip install lightning.") from error

    class HooksCallback(Callback):
        """Calls prunus' hooks around Lightning's steps."""

        def __init__(self, hooks: Together) -> None:
            self.hooks = hooks
            self.handle: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.handle = trainer.optimizers[0].register_step_post_hook(self.hooks.after_step)

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if optimizer is trainer.optimizers[0]:
                self.hooks.before_step()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.hooks.epoch_end()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.handle.remove()

        def state_dict(self) -> dict[str, Any]:
            return self.hooks.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.hooks.load_state_dict(state_dict)

    return HooksCallback


def _transformers_class() -> Any:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise InputError("transformers_callback needs transformers: pip install transformers.") from error

    class HooksCallback(TrainerCallback):
        """Calls prunus' hooks around the steps of Hugging Face's Trainer."""

        def __init__(self, hooks: Together) -> None:
            self.hooks = hooks

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.hooks.before_step()

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.hooks.after_step()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            self.hooks.epoch_end()

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:
                load_hooks(self.hooks, Path(args.output_dir) / f"checkpoint-{state.global_step}")

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            save_hooks(self.hooks, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return HooksCallback


def save_hooks(hooks: Together, folder: Path) -> None:
    """Write the hooks' states, as safetensors and JSON, in a folder that is there.

    Raises:
        InputError: a hook has no state to save.
    """
    tensors: dict[str, Tensor] = {}
    packed = pack(hooks.state_dict(), tensors, _NAME)
    save_file({name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}, folder / f"{_NAME}.safetensors")
    (folder / f"{_NAME}.json").write_text(json.dumps(packed), encoding="utf-8")


def load_hooks(hooks: Together, folder: Path) -> None:
    """Give the hooks what ``save_hooks`` wrote.

    Raises:
        SaveError: the folder has none of it, or that of other hooks.
    """
    try:
        packed = json.loads((folder / f"{_NAME}.json").read_text(encoding="utf-8"))
        state = unpack(packed, load_file(folder / f"{_NAME}.safetensors"))
    except OSError as error:
        raise SaveError(f"{folder} holds no state of prunus' hooks: {error}") from error
    hooks.load_state_dict(state)
