"""A loss for ``fit`` (or any loop) that learns from one teacher, from several, or from outputs computed before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from prunus.errors import InputError
from prunus.plan import Plan
from prunus.running import undisturbed
from prunus.train.averaging import EMA
from prunus.train.distill.taps import Kept, Seen, kept_channels, tapped
from prunus.train.distill.terms import Features, Logits, Term

Task = Callable[[Any, Any], Tensor]
_HINTON = Logits()
CACHED = "teacher_logits"
"""The teacher's outputs in a batch that is a dict."""


class Distill:
    """``task_weight * task + sum weight * term``, the terms averaged over the teachers.

    A batch is ``(inputs, targets)``, ``(inputs, targets, teacher's outputs)``, or a dict of keyword arguments, whose
    ``labels`` are the targets and whose ``teacher_logits``, if there, the teacher's outputs. Of an
    output with ``logits`` (as transformers give), these are used.

    Args:
        teacher: a model in eval mode, several, or None where batches carry its outputs (:func:`with_outputs`). It runs
            without gradients, on the device it is on.
        terms: :class:`Logits`, :class:`Features`, or several with their weights.
        task: ``task(output, targets)`` for the labels; cross entropy by default. Of a dict with labels, the model's own
            ``loss`` is taken.
        task_weight: how much that counts; 0 leaves it out.
        dtype: a copy of the teacher runs in this precision, such as ``torch.bfloat16``.
        student, example: a student that was cut from the teachers, and example inputs: features are compared at the
            channels that its plan keeps.
        plan: the plan of that cut, where it isn't ``student.prunus_plan``.

    Raises:
        InputError: a teacher in training mode, features without a teacher, a module that isn't there.
        PlanError: the plan isn't of the teacher.
    """

    def __init__(
        self,
        teacher: nn.Module | Sequence[nn.Module] | None,
        terms: Term | Sequence[Term] = _HINTON,
        *,
        task: Task = F.cross_entropy,
        task_weight: float = 1.0,
        dtype: torch.dtype | None = None,
        student: nn.Module | None = None,
        example: Any = None,
        plan: Plan | None = None,
    ) -> None:
        self.terms = [terms] if isinstance(terms, Logits | Features) else list(terms)
        self.task, self.task_weight = task, task_weight
        teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher or ())
        if any(each.training for each in teachers):
            raise InputError("a teacher is in training mode: teacher.eval() first.")
        tapping = [term for term in self.terms if isinstance(term, Features)]
        if tapping and not teachers:
            raise InputError(f"Features({tapping[0].path!r}) needs a teacher that runs; outputs alone don't have them.")
        self.teachers = [copy.deepcopy(each).to(dtype) if dtype is not None else each for each in teachers]
        self.dtype = dtype
        self.kept: list[Mapping[str, Kept]] = [{} for _ in teachers]
        plan = plan if plan is not None else student.__dict__.get("prunus_plan") if student is not None else None
        narrow = [term.source for term in tapping if term.narrows]
        if plan is not None and narrow:
            if example is None:
                raise InputError("example= is needed beside student=: inputs to find the kept channels with.")
            for each in teachers:
                plan.check_fits(each)
            self.kept = [kept_channels(each, plan, narrow, example) for each in teachers]

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of one batch."""
        cached: Tensor | None = None
        if isinstance(batch, Mapping):
            cached, batch = batch.get(CACHED), {name: value for name, value in batch.items() if name != CACHED}
        elif len(batch) > 2:
            cached = batch[2]
        tapping = [term for term in self.terms if isinstance(term, Features)]
        with tapped(model, [term.path for term in tapping]) as taps:
            output = _run(model, batch)
        targets = batch.get("labels") if isinstance(batch, Mapping) else batch[1]
        student = Seen(_logits(output), dict(taps))
        total = torch.zeros((), device=student.output.device)
        if self.task_weight:
            own = isinstance(batch, Mapping) and getattr(output, "loss", None) is not None
            total = total + self.task_weight * (output.loss if own else self.task(student.output, targets))
        seen = self._teachers(batch, cached, [term.source for term in tapping], student.output)
        for term in self.terms:
            parts = [term(student, each, targets, kept) for each, kept in seen]
            total = total + term.weight * torch.stack(parts).mean()
        return total

    def state_dict(self) -> dict[str, Any]:
        """The adapters', by the number of their term: what training changes here."""
        return {str(i): adapter.state_dict() for i, adapter in self._adapters.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        for i, adapter in self._adapters.items():
            adapter.load_state_dict(state[str(i)])

    @property
    def _adapters(self) -> dict[int, nn.Module]:
        found = {i: term.adapter for i, term in enumerate(self.terms) if isinstance(term, Features)}
        return {i: adapter for i, adapter in found.items() if adapter is not None}

    @torch.no_grad()
    def _teachers(
        self, batch: Any, cached: Tensor | None, paths: Sequence[str], like: Tensor
    ) -> list[tuple[Seen, Mapping[str, Kept]]]:
        """What each teacher gives, on the student's device and in its precision."""
        if not self.teachers:
            if cached is None:
                raise InputError(
                    "without a teacher, a batch is (inputs, targets, teacher's outputs), or has teacher_logits: "
                    "with_outputs() gives such data."
                )
            return [(Seen(cached.to(like)), {})]
        found = []
        for teacher, kept in zip(self.teachers, self.kept, strict=True):
            with tapped(teacher, paths) as taps:
                output = _logits(_run(teacher, self._for(teacher, batch)))
            found.append((Seen(output.to(like), {p: t.to(like.device) for p, t in taps.items()}), kept))
        return found

    def _for(self, teacher: nn.Module, batch: Any) -> Any:
        """The inputs on the teacher's device and in its precision."""
        home = next(teacher.parameters()).device

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(home, self.dtype if tensor.is_floating_point() else None)

        return pytree.tree_map_only(Tensor, move, dict(batch) if isinstance(batch, Mapping) else batch[0:1])


class SelfTeacher(EMA):
    """A teacher that is the student's own average over time: Tarvainen, Valpola, Mean Teacher (NeurIPS 2017).

    Give ``self_teacher.teacher`` to :class:`Distill`, and the object to ``fit`` as a hook.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        super().__init__(model, decay)
        self.teacher = copy.deepcopy(model).eval()

    def after_step(self) -> None:
        """Take the new weights in, and teach with them."""
        super().after_step()
        self._teach()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        super().load_state_dict(state)
        self._teach()

    @torch.no_grad()
    def _teach(self) -> None:
        for name, average in self.average.items():
            self.teacher.get_parameter(name).copy_(average)
        for name, buffer in self.model.named_buffers():
            self.teacher.get_buffer(name).copy_(buffer)


class _WithOutputs(Dataset[Any]):
    def __init__(self, data: Any, outputs: Tensor) -> None:
        self.data, self.outputs = data, outputs

    def __len__(self) -> int:
        return len(self.outputs)

    def __getitem__(self, index: int) -> Any:
        item, output = self.data[index], self.outputs[index]
        return {**item, CACHED: output} if isinstance(item, Mapping) else (*item, output)


def with_outputs(teacher: nn.Module, data: Dataset[Any], batch_size: int = 64) -> Dataset[Any]:
    """``data``, items ``(input, target)``, with the teacher's output for each as a third: it runs once, not each epoch.

    Items that are dicts of keyword arguments, as for transformers, get it as ``teacher_logits``.
    For data that isn't augmented: the outputs are those of the inputs as they are now. They are kept in main memory.
    """
    home = next(teacher.parameters()).device
    found = []
    with undisturbed(teacher):
        for batch in DataLoader(data, batch_size):
            moved = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(home), batch)
            found.append(_logits(_run(teacher, moved)).cpu())
    return _WithOutputs(data, torch.cat(found))


def _run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, Mapping) else model(batch[0])


def _logits(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise InputError(f"the model gives a {type(output).__name__}: a tensor is needed, or an output with logits.")
    return found
