"""The hooks in the loops of others: the same weights as from ``fit``, step by step."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus import masks
from prunus.errors import SaveError
from prunus.train import fit
from prunus.train.callbacks import Together, attach, lightning_callback, load_hooks, transformers_callback

INPUTS = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS[:, :3].argmax(1)


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Told:
    """Notes what is called, and adds to the gradient, so that the order matters."""

    def __init__(self, model):
        self.model, self.calls = model, []

    def before_step(self):
        self.calls.append("before")
        self.model[0].weight.grad.add_(self.model[0].weight.detach(), alpha=0.1)

    def after_step(self):
        self.calls.append("after")

    def epoch_end(self):
        self.calls.append("end")

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = list(state["calls"])


def hooks(model):
    sparse = prunus.Sparsifier(model)
    return [masks.Gradual(sparse, 0.5, begin=1, end=8, every=2), Told(model)]


def reference(epochs=2):
    model = net()
    used = hooks(model)
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), 8)
    fit(model, loader, epochs=epochs, optimizer=sgd(model), schedule=None, hooks=used)
    return model, used


def assert_as_fit(model, used, epochs=2):
    expected, others = reference(epochs)
    assert used[1].calls == others[1].calls == ["before", "after"] * 6 + ["end"] + ["before", "after"] * 6 + ["end"]
    assert used[0].sparse.sparsity == pytest.approx(0.5, abs=0.01)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_loop_of_ones_own():
    model = net()
    used, optimizer = hooks(model), sgd(model)
    handles = attach(optimizer, *used)
    for _ in range(2):
        for x, y in zip(INPUTS.split(8), TARGETS.split(8), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        for hook in used:
            hook.epoch_end()
    assert_as_fit(model, used)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert used[1].calls[-1] == "end"


def lightning_run(model, used, folder, epochs=2, resume=None):
    lightning = pytest.importorskip("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, _):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return sgd(self.net)

    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=[lightning_callback(*used)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(INPUTS, TARGETS), 8), ckpt_path=resume)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path):
    model = net()
    used = hooks(model)
    lightning_run(model, used, tmp_path)
    assert_as_fit(model, used)


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_from_its_checkpoint(tmp_path):
    model = net()
    used = hooks(model)
    trainer = lightning_run(model, used, tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    model = net()
    used = hooks(model)
    lightning_run(model, used, tmp_path, resume=tmp_path / "one.ckpt")
    assert_as_fit(model, used)


class Wrapped(nn.Module):
    """What Hugging Face's Trainer wants: a loss of its own."""

    def __init__(self, inner):
        super().__init__()
        self.net = inner

    def forward(self, x, labels):
        return {"loss": F.cross_entropy(self.net(x), labels)}


def huggingface_run(model, used, folder, epochs=2, resume=False):
    transformers = pytest.importorskip("transformers")
    data = [{"x": x, "labels": y} for x, y in zip(INPUTS, TARGETS, strict=True)]

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(data)

    arguments = transformers.TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        max_grad_norm=0,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="epoch",
        logging_strategy="no",
        remove_unused_columns=False,
    )
    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    trainer = InOrder(
        Wrapped(model),
        arguments,
        train_dataset=data,
        callbacks=[transformers_callback(*used)],
        optimizers=(optimizer, constant),
    )
    trainer.train(resume_from_checkpoint=resume)


@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_trainer(tmp_path, capsys):
    model = net()
    used = hooks(model)
    huggingface_run(model, used, tmp_path)
    assert_as_fit(model, used)


@pytest.mark.filterwarnings("ignore")
def test_hugging_faces_trainer_goes_on_from_its_checkpoint(tmp_path, capsys):
    model = net()
    huggingface_run(model, hooks(model), tmp_path, epochs=1)
    fresh = net()
    used = hooks(fresh)
    huggingface_run(fresh, used, tmp_path, resume=True)
    assert_as_fit(fresh, used)
    with pytest.raises(SaveError, match="the state of 2 hooks, there are 1 here"):
        load_hooks(Together(used[:1]), tmp_path / "checkpoint-6")
    with pytest.raises(SaveError, match="holds no state"):
        load_hooks(Together(used), tmp_path)
