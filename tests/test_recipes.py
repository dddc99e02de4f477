"""Recipes: what is wrong is said with its line; stages are kept, and a killed run ends as one that wasn't."""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file

import prunus
from benchmarks.kill import broken_files
from prunus import masks, recipes
from prunus.cli import main
from prunus.deploy.folder import sha256
from prunus.errors import InputError, SaveError
from prunus.naming import callable_named
from prunus.recipes.models import ResNet8
from prunus.recipes.policies import hooks_of
from prunus.recipes.reading import parse
from prunus.recipes.running import alone
from prunus.recipes.schema import Policy
from prunus.train import cross_entropy, fit, regularizers

os.environ["HF_HUB_OFFLINE"] = "1"

TEXT = """\
name: tiny
model: prunus.demo.lenet:LeNet
data: prunus.recipes.tasks:digits
data_args: {examples: 128}
stages:
  - train:
      epochs: 2
      lr: 1e-3
      checkpoint_every: 1
  - prune: {ratio: 0.5}
  - sparsify: {method: l1, granularity: 2:4, only: [fc1]}
  - finetune:
      epochs: 2
      checkpoint_every: 1
"""


GRADUAL = ("epochs: 2", "epochs: 2\n      policies:\n        - gradual: {{sparsity: 0.5, {}}}")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_what_a_recipe_says_is_what_is_read():
    recipe = parse(TEXT, "tiny.yaml")
    assert [stage.kind for stage in recipe.stages] == ["train", "prune", "sparsify", "finetune"]
    assert recipe.stages[0].settings.lr == 1e-3  # a text, by YAML 1.1
    assert recipe.stages[2].settings.granularity == "2:4"  # 124, by YAML 1.1
    assert recipe.stages[3].settings.lr == 1e-3  # the default


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr: 1e-3", "lrr: 1e-3", "tiny.yaml:8: unknown key 'lrr' in 'train'. Did you mean 'lr'?"),
        ("ratio: 0.5", "ratoi: 0.5", "tiny.yaml:10: unknown key 'ratoi' in 'prune'. Did you mean 'ratio'?"),
        ("- prune:", "- prnue:", "tiny.yaml:10: unknown key 'prnue' in a stage. Did you mean 'prune'?"),
        ("data_args:", "data_arg:", "tiny.yaml:4: unknown key 'data_arg' in the recipe. Did you mean 'data_args'"),
        ("epochs: 2", "epochs: -2", "tiny.yaml:7: stages.0.train.epochs: Input should be greater than or equal to 1"),
        ("      epochs: 2\n      lr", "      lr", "tiny.yaml:6: 'train' needs 'epochs'."),
        ("model: prunus.demo.lenet:LeNet\n", "", "tiny.yaml:1: the recipe needs 'model'."),
        ("ratio: 0.5", "ratio: 0.5, ratio: 0.6", "tiny.yaml:10: the key 'ratio' is there twice."),
        ("ratio: 0.5", "keep: [fc1]", "tiny.yaml:10: stages.1.prune: give ratio"),
        ("ratio: 0.5", "ratio: table", "tiny.yaml:10: ratio: table needs a sensitivity stage before it."),
        ("  - train:", "  - prune: {ratio: [}", "tiny.yaml:6: not YAML"),
        (
            "method: l1",
            "method: sparsgpt",
            "tiny.yaml:11: stages.2.sparsify.method: there is no method 'sparsgpt'. Did",
        ),
        ("2:4", "2;4", "tiny.yaml:11: stages.2.sparsify.granularity: there is no granularity '2;4'. Known: weight,"),
        ("ratio: 0.5", "ratio: 0.5, importance: tayler", "there is no importance 'tayler'. Did you mean 'taylor'"),
        ("ratio: 0.5", "budget: {mac: 50%}", "tiny.yaml:10: stages.1.prune.budget: there is no budget unit 'mac'. Did"),
        ("ratio: 0.5", "budget: {latency: 50%}", "tiny.yaml:10: stages.1.prune: a budget of latency needs"),
        (GRADUAL[0], GRADUAL[1].format("to_epoch: 3"), "tiny.yaml:6: stages.0.train: gradual goes on to epoch 3, the"),
        (GRADUAL[0], GRADUAL[1].format("from_epoch: 2, to_epoch: 1"), "gradual goes on to epoch 1"),
        (GRADUAL[0], GRADUAL[1].format("to_epoch: 1, curve: cubik"), "tiny.yaml:9: stages.0.train.policies.0.gradual."),
        (
            GRADUAL[0],
            "epochs: 2\n      patience: 1\n      policies: [l0: {strength: 1}]",
            "patience has no epoch to count",
        ),
        (
            "  - finetune:\n      epochs: 2",
            "  - sparsify: {sparsity: 0.5, only: [fc2]}\n  - finetune:\n      epochs: 2",
            "tiny.yaml:12: only and skip choose what gets masks",
        ),
        (
            "  - finetune:\n      epochs: 2",
            "  - prune: {ratio: 0.5}\n  - finetune:\n      epochs: 2",
            "tiny.yaml:12: cut",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(old, new, words):
    assert old in TEXT
    with pytest.raises(InputError, match=re.escape(words)):
        parse(TEXT.replace(old, new, 1), "tiny.yaml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "{examples: 128}",
            "{exampels: 128}",
            ":4: prunus.recipes.tasks:digits takes no 'exampels'. Did you mean 'examples'",
        ),
        ("data:", "model_args: {classes: 3}\ndata:", ":3: prunus.demo.lenet:LeNet takes no 'classes'. It takes none."),
        (
            "ratio: 0.5",
            "ratio: 0.5, keep: [conf2]",
            ":10: keep names 'conf2', but no group, module or tensor matches. Did",
        ),
        ("ratio: 0.5", "ratio: {conf2: 0.5}", ":10: ratio names 'conf2'"),
        ("only: [fc1]", "only: [fd1]", ":11: 'fd1' matches no parameter. Did you mean"),
        ("epochs: 2", "epochs: 2\n      policies: [l0: {strength: 1, keep: [conf2]}]", ":8: keep names 'conf2'"),
        (
            "- finetune:",
            "- distil:\n      features: [{path: conf2}]",
            ":13: the model has no module 'conf2'. Did you mean",
        ),
    ],
)
def test_a_name_that_is_not_there_is_told_before_anything_runs(file, tmp_path, old, new, words):
    assert old in TEXT
    file.write_text(TEXT.replace(old, new, 1))
    for go_on in (recipes.run, recipes.dry_run):
        with pytest.raises(InputError, match=re.escape(f"{file}{words}")):
            go_on(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_of_models(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\n\n\ndef net():\n    return torch.nn.Linear(2, 3)\n")
    assert callable_named(f"{tmp_path / 'mine.py'}:net")().out_features == 3
    timm = callable_named("timm:resnet10t")(num_classes=3)
    assert timm.num_classes == 3 and sum(p.numel() for p in timm.parameters()) > 1e6
    assert sum(p.numel() for p in callable_named("torchvision:resnet18")().parameters()) == 11_689_512
    for wrong, words in [
        ("resnet18", "module:name"),
        ("torchvision:resnet81", "Did you mean 'resnet18'"),
        ("timm:resnet10f", "Did you mean 'resnet10t'"),
        ("prunus.demo.lenet:LeNte", "Did you mean 'LeNet'"),
        (f"hf:{tmp_path}", "no config.json"),
    ]:
        with pytest.raises(InputError, match=words):
            callable_named(wrong)


def test_a_local_folder_of_transformers_is_a_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt2")
    again = callable_named(f"hf:{tmp_path / 'gpt2'}")()
    assert torch.equal(again.transformer.wte.weight, model.transformer.wte.weight)


def test_a_run_its_folder_and_its_cache(file, tmp_path):
    told: list[str] = []

    def run(text: str = TEXT):
        told.clear()
        file.write_text(text)
        return recipes.run(file, tmp_path / "run", on_stage=lambda step, what: told.append(f"{step.name} {what}"))

    before = torch.get_rng_state()
    out = run()
    assert torch.equal(torch.get_rng_state(), before)
    assert told == [f"{n} {w}" for n in ("01-train", "02-prune", "03-sparsify", "04-finetune") for w in ("run", "done")]
    assert {p.name for p in out.iterdir()} == {
        ".lock",
        "recipe.yaml",
        "environment.json",
        "metrics.json",
        "report.html",
        "stages",
    }
    assert (out / "recipe.yaml").read_text() == TEXT
    about = json.loads((out / "environment.json").read_text())
    assert about["seed"] == 0
    assert about["versions"]["torch"]
    assert "commit" in (about["git"] or {"commit": ""})
    found = json.loads((out / "metrics.json").read_text())
    assert found["02-prune"]["proof"] < 1e-9
    assert found["02-prune"]["parameters"] < 0.4 * found["01-train"]["parameters"]
    weights = load_file(recipes.final_weights(out))
    lines = weights["fc1.weight"].reshape(-1, 4)
    assert ((lines == 0).sum(1) >= 2).all()
    assert "04-finetune" in (out / "report.html").read_text()
    digest = sha256(recipes.final_weights(out))

    run()
    assert told == [f"{n} cached" for n in ("01-train", "02-prune", "03-sparsify", "04-finetune")]
    run(TEXT.replace("2:4", "1:4"))
    assert told[:3] == ["01-train cached", "02-prune cached", "03-sparsify run"]
    rows = recipes.dry_run(file, tmp_path / "run")
    assert [row[2] for row in rows] == ["cached"] * 4
    file.write_text(TEXT)
    rows = recipes.dry_run(file, tmp_path / "other")
    assert [row[2] for row in rows] == ["to run"] * 4
    assert "2 epochs of 2 batches" in rows[0][1] and all(re.match(r"about \d+ (s|min)", row[3]) for row in rows)
    assert not (tmp_path / "other").exists()
    assert sha256(recipes.final_weights(recipes.run(file, tmp_path / "again"))) == digest

    with alone(out), pytest.raises(SaveError, match="another process"):
        run()
    damaged = next((out / "stages").glob("01-*")) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(SaveError, match="was changed after the stage wrote it"):
        run()
    with pytest.raises(SaveError, match="doesn't hold a run of 'lenet-digits'"):
        recipes.run("lenet-digits", out)


def test_patience_and_precision_are_those_of_fit(tmp_path):
    """The epochs while zeros are made don't count; of those after them, the best comes back."""
    how = "epochs: 6\n      lr: 0.5\n      optimizer: sgd\n      precision: bf16\n      patience: 1\n"
    how += "      policies:\n        - gradual: {sparsity: 0.5, to_epoch: 2}\n"
    (tmp_path / "stop.yaml").write_text(TEXT[: TEXT.index("      epochs: 2")] + "      " + how)
    words: list[str] = []
    out = recipes.run(tmp_path / "stop.yaml", tmp_path / "run", on_progress=lambda done, of, text: words.append(text))
    found = json.loads((out / "metrics.json").read_text())["01-train"]
    scores, best = found["epochs"], found["best_epoch"]
    assert best > 2 and scores[best - 1] == max(scores[2:])
    later = scores[best:]
    assert len(later) == 1 or len(scores) == 6
    assert found["validation"] == pytest.approx(scores[best - 1], abs=1)  # in bf16 while it trains
    weights = load_file(recipes.final_weights(out))
    assert (weights["fc1.weight"] == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert f"accuracy (%) {scores[0]:.4g}" in words[2]


def go(file: Path, out: Path) -> None:
    torch.set_num_threads(1)
    recipes.run(file, out)


def test_killed_runs_end_as_one_that_was_not(tmp_path):
    """SIGKILL in each of four stages, in the last one while zeros grow.

    benchmarks/kill.py does twenty at any moment, with whole processes.
    """
    fork = multiprocessing.get_context("forkserver")  # torch refuses autograd in a fork of a process that has used it
    fork.set_forkserver_preload(["prunus.recipes.stages", "prunus.demo.lenet", "accelerate"])
    file = tmp_path / "tiny.yaml"
    last = "epochs: 6\n      policies:\n        - gradual: {sparsity: 0.8, to_epoch: 5}\n        - set: "
    last += "{sparsity: 0.5, every_steps: 2, to_epoch: 6}\n"
    at = TEXT.rindex("epochs: 2\n")
    file.write_text(TEXT[:at] + last + TEXT[at + len("epochs: 2\n") :])
    whole = fork.Process(target=go, args=(file, tmp_path / "whole"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    draw = random.Random(0)
    for behind in ("killed", "killed/stages/01-*", "killed/stages/02-*", "killed/work/04-*/checkpoints/step-*"):
        child = fork.Process(target=go, args=(file, tmp_path / "killed"))
        child.start()
        while child.is_alive() and not any(tmp_path.glob(behind)):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"it ended before it was killed, behind {behind!r}"
        assert broken_files(tmp_path / "killed") == []
    go(file, tmp_path / "killed")
    for name in ("01-", "02-", "03-", "04-"):
        one, other = (next((tmp_path / run / "stages").glob(f"{name}*")) for run in ("whole", "killed"))
        assert one.name == other.name
        assert sha256(one / "model.safetensors") == sha256(other / "model.safetensors"), name


def test_a_broken_file_is_seen(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.safetensors").write_bytes(b"x" * 20)
    (tmp_path / ".draft-c").mkdir()
    (tmp_path / ".draft-c" / "c.json").write_text("{")  # nobody reads it
    assert len(broken_files(tmp_path)) == 2


@pytest.mark.parametrize("name", recipes.ready_recipes())
def test_ready_recipes_run(name, tmp_path):
    out = recipes.run(name, tmp_path / "run", quick=True)
    found = json.loads((out / "metrics.json").read_text())
    last = next(reversed(found.values()))
    cut = last["after"]["macs"] < 0.9 * last["before"]["macs"]
    masked = last.get("zeros", 0) > 0.3
    assert cut != masked
    assert "<svg" in (out / "report.html").read_text()
    assert recipes.read_recipe(name).description


def test_on_the_command_line(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prunus", "run", "--list"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert all(name in capsys.readouterr().out for name in ["rigl"])
    monkeypatch.setattr("sys.argv", ["prunus", "run", str(file), "--dry-run", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert "04-finetune" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["prunus", "run", "lenet-digit"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert "Did you mean 'lenet-digits'" in capsys.readouterr().err


def test_another_version_of_a_library_of_models_is_another_run(file, tmp_path, monkeypatch):
    """A zoo's factory is one function in one file, which says nothing of the models behind it."""
    recipes.run(file, tmp_path / "run")
    assert [row[2] for row in recipes.dry_run(file, tmp_path / "run")] == ["cached"] * 4
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "torchvision" else version(name))
    assert [row[2] for row in recipes.dry_run(file, tmp_path / "run")] == ["to run"] * 4


def test_the_recipe_of_the_documentation_is_right():
    page = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [stage.kind for stage in parse(text, "docs/recipes.md").stages][3:5] == ["distil", "finetune"]


POLICIES = {
    "slimming: {strength: 0.01, from_epoch: 1}": None,
    "group_lasso: {strength: 0.5}": lambda model, graph, plan, sgd: regularizers.GroupLasso(graph, 0.5, sgd),
    "group_norm: {strength: 0.01}": lambda model, graph, plan, sgd: regularizers.GroupNorm(graph, 0.01),
    "greg: {ratio: 0.5, delta: 0.1, every_steps: 1}": lambda model, graph, plan, sgd: regularizers.Growing(
        model, plan(0.5), 0.1, 1.0, 1
    ),
    "l0: {strength: 0.1, lr: 0.1}": lambda model, graph, plan, sgd: regularizers.L0(graph, 0.1, 0.1),
    "soft_filter: {sparsity: 0.5, skip: [head]}": lambda model, graph, plan, sgd: masks.SoftFilter(
        prunus.Sparsifier(model, skip=["head"]), 0.5
    ),
    "hesso: {ratio: 0.5, to_epoch: 2, periods: 2}": lambda model, graph, plan, sgd: regularizers.HESSO(
        graph, 0.5, begin=0, length=3, periods=2
    ),
}


@pytest.mark.parametrize("text", POLICIES)
def test_a_policy_is_the_regularizer_of_its_name(text):
    """Three steps in each of two epochs, with the policy and with the object: the same weights."""
    policy = TypeAdapter(Policy).validate_python(yaml.safe_load(text))
    ends = []
    for by_policy in (True, False):
        torch.manual_seed(0)
        model = ResNet8(width=4)
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        x = torch.randn(12, 1, 28, 28)
        batches = list(zip(x.split(4), torch.arange(12).remainder(10).split(4), strict=True))
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        if by_policy:
            hooks, _ = hooks_of([policy], model, None, sgd, 3, ([], cross_entropy), x[:2])
        elif POLICIES[text] is None:
            hooks = [From(regularizers.Slimming(model, 0.01), 3)]
        else:
            hooks = [
                POLICIES[text](
                    model,
                    prunus.trace(model, x[:2]),
                    lambda ratio, m=model, e=x[:2]: prunus.plan(m, e, ratio=ratio, importance="l1"),
                    sgd,
                )
            ]
        fit(model, batches, epochs=2, optimizer=sgd, schedule=None, hooks=hooks, seed=1)
        ends.append({name: p.detach() for name, p in model.named_parameters()})
    plain = ResNet8(width=4)
    plain.load_state_dict(start, strict=False)
    fit(plain, batches, epochs=2, optimizer=torch.optim.SGD(plain.parameters(), lr=0.05), schedule=None, seed=1)
    for name, weight in ends[0].items():
        assert torch.equal(weight, ends[1][name]), name
    assert any(not torch.equal(p, ends[0][name]) for name, p in plain.named_parameters())  # it did something


class From:
    """Slimming from a step on, written out."""

    def __init__(self, hook, first: int) -> None:
        self.hook, self.left = hook, first

    def before_step(self) -> None:
        if self.left <= 0:
            self.hook.before_step()
        self.left -= 1

    def after_step(self) -> None:
        pass

    epoch_end = after_step


def test_what_training_left_at_zero_is_cut_and_nothing_changes(tmp_path):
    stages = "  - train:\n      epochs: 2\n      policies:\n        - hesso: {ratio: 0.5, to_epoch: 2, periods: 2}\n"
    text = TEXT[: TEXT.index("  - train")] + stages + "  - prune: {ratio: zeros}\n"
    (tmp_path / "zeros.yaml").write_text(text)
    out = recipes.run(tmp_path / "zeros.yaml", tmp_path / "run")
    found = json.loads((out / "metrics.json").read_text())
    assert found["02-prune"]["validation"] == found["01-train"]["validation"]
    assert found["02-prune"]["parameters"] < 0.4 * found["01-train"]["parameters"]
    widths = {k: v.shape[0] for k, v in load_file(recipes.final_weights(out)).items() if k.endswith("weight")}
    assert widths == {"conv1.weight": 3, "conv2.weight": 8, "fc1.weight": 60, "fc2.weight": 42, "fc3.weight": 10}
    with pytest.raises(InputError, match="ratio: zeros needs a policy before it"):
        parse(TEXT.replace("ratio: 0.5", "ratio: zeros"), "tiny.yaml")
