"""Sensitivity as a long job: killed and resumed, shared by processes, masked or small, and its table in YAML."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import prunus
from prunus import cli
from prunus.demo.lenet import LeNet
from prunus.errors import InputError
from prunus.sensitivity import PruningTable

FORK = multiprocessing.get_context("fork")


def job(cache, log, die=0, environment=None, told=None):
    """Measure a LeNet; die by SIGKILL in the middle of evaluation number ``die``."""
    accelerator = None
    if environment:
        os.environ.update(environment)
        from accelerate import Accelerator
        from accelerate.state import PartialState

        PartialState._reset_state()
        accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model, images = LeNet().eval(), torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))

    def evaluate(network):
        with open(log, "a") as file:
            file.write("x")
        if Path(log).stat().st_size == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(network(images).detach().double().sum())

    found = prunus.sensitivity(
        *(model, images),
        evaluate=evaluate,
        ratios=[0.25, 0.5, 0.75],
        method="small",
        cache=cache,
        accelerator=accelerator,
    )
    if told is not None:
        told.put(str(found))
    return str(found)


def test_killed_at_any_time_it_goes_on_and_loses_nothing(tmp_path):
    expected = job(None, tmp_path / "whole.log")
    cache, log = tmp_path / "cache", tmp_path / "log"
    process = FORK.Process(target=job, args=(cache, log, 6))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    lines = cache.read_text().splitlines()
    assert len(lines) == 1 + 5
    cache.write_text(cache.read_text() + '{"group": "fc1", "ke')  # a line that a kill cut short
    assert job(cache, log) == expected
    assert log.stat().st_size == 6 + 13 - 5  # nothing but the point at hand twice
    assert cache.read_text().splitlines()[:6] == lines
    assert job(cache, log) == expected
    assert log.stat().st_size == 6 + 13 - 5


def test_two_processes_share_the_groups_and_find_the_same(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told, processes = FORK.Queue(), []
    for rank in range(2):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (tmp_path / "pair", tmp_path / f"log{rank}", 0, environment, told)
        processes.append(FORK.Process(target=job, args=arguments))
        processes[-1].start()
    found = [told.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [job(None, tmp_path / "alone")] * 2
    # six points each; the uncut model too, unless the other's file already had it
    assert all((tmp_path / f"log{rank}").stat().st_size in (6, 1 + 6) for rank in range(2))
    assert (tmp_path / "pair.1").exists()


def test_a_cache_of_other_weights_is_refused(tmp_path):
    x = torch.zeros(1, 1, 28, 28)
    arguments = {"evaluate": lambda m: 1.0, "ratios": [0.5], "groups": ["fc2"], "cache": tmp_path / "cache"}
    model = LeNet()
    prunus.sensitivity(model, x, **arguments)
    prunus.sensitivity(model, x, **{**arguments, "evaluate": None})  # all is known
    with pytest.raises(InputError, match="measurements of another model, of other weights"):
        prunus.sensitivity(LeNet(), x, **arguments)


@pytest.mark.parametrize("make", [LeNet, lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))])
def test_masked_and_small_give_the_same_numbers(make):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(4, 1, 28, 28) if isinstance(model, LeNet) else torch.randn(4, 6)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = []

    def evaluate(network):
        whole.append(sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters()))
        return float(network(x).detach().double().square().sum())

    runs = {}
    for method in ("small", "masked"):
        whole.clear()
        runs[method] = prunus.sensitivity(model, x, evaluate=evaluate, ratios=[0.25, 0.5], method=method)
        assert whole[0] and all(whole[1:]) is (method == "masked" and isinstance(model, LeNet))
    for a, b in zip(runs["small"].rows, runs["masked"].rows, strict=True):
        assert a.metrics["score"] == pytest.approx(b.metrics["score"], rel=1e-5)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_group_that_dropped_too_much_is_left():
    model, x = LeNet().eval(), torch.zeros(1, 1, 28, 28)
    points = []

    def evaluate(network):
        points.append(network.fc1.out_features)
        return 100.0 * network.fc1.out_features / 120

    found = prunus.sensitivity(
        model, x, evaluate=evaluate, ratios=[0.1, 0.3, 0.5, 0.7], groups=["fc*"], stop=20, method="small"
    )
    assert list(found.sizes) == ["fc1", "fc2"]
    assert [row.ratio for row in found.rows if row.group == "fc1"] == [0.1, 0.3]
    assert len(points) == 1 + 2 + 4


def test_a_table_goes_through_yaml_and_a_person(tmp_path):
    x = torch.zeros(1, 1, 28, 28)
    model = LeNet().eval()
    found = prunus.sensitivity(model, x, evaluate=lambda m: 5.0, ratios=[0.25, 0.5], method="small")
    table = found.table(max_drop=1)
    path = tmp_path / "table.yaml"
    table.to_yaml(path)
    text = path.read_text()
    assert "conv2: 0.5  # 16 -> 8, score 5 alone" in text and "model: LeNet" in text
    again = PruningTable.read(path)
    assert again == table and again.goal == table.goal
    path.write_text(text.replace("conv2: 0.5 ", "conv2: 0.75 "))
    arguments = ["prune", "prunus.demo.lenet:LeNet", "-i", "1x1x28x28", "-o", str(tmp_path / "small")]
    done = CliRunner().invoke(cli.app, [*arguments, "--table", str(path)])
    assert done.exit_code == 0, done.output
    small = prunus.load(tmp_path / "small", LeNet)
    assert (small.conv1.out_channels, small.conv2.out_channels, small.fc1.out_features) == (3, 4, 60)
    refused = CliRunner().invoke(cli.app, [*arguments, "--table", str(path), "--ratio", "0.5"])
    assert "give neither --ratio nor --budget" in str(refused.exception)


def test_a_table_for_a_budget_is_the_plan_within_it():
    torch.manual_seed(0)
    x = torch.zeros(1, 1, 28, 28)
    model = LeNet().eval()
    found = prunus.sensitivity(
        model, x, evaluate=lambda m: 90.0 - m.conv2.out_channels / 16 + m.fc1.out_features / 12, ratios=[0.3, 0.6, 0.9]
    )
    graph = prunus.trace(model, x)
    plan, table = found.plan(graph, {"macs": "55%"}), found.budget_table(graph, {"macs": "55%"})
    assert prunus.plan(graph, ratio=table).kept == plan.kept
    assert prunus.profile(plan.apply(model), x, latency=False).macs <= 0.55 * 199_968


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ratios: 3", "is no pruning table: it has no 'ratios:'"),
        ("ratios: {conv1: 1.5}", "ratio must be at least 0 and less than 1"),
        ("ratio:\n  a: 1\nratios: {}", "unknown key 'ratio'. Did you mean 'ratios'"),
        ("ratios: {conv1: 0.5", "isn't YAML"),
    ],
)
def test_what_is_no_table(tmp_path, text, words):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        PruningTable.read(tmp_path / "t.yaml")
    with pytest.raises(InputError, match="there is no pruning table"):
        PruningTable.read(tmp_path / "none.yaml")


def test_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text("def width(net):\n    return {'width': net.fc1.out_features}\n")
    arguments = ["sensitivity", "prunus.demo.lenet:LeNet", "-i", "1x1x28x28", "--ratios", "0.25,0.5"]
    arguments += ["--evaluate", f"{tmp_path / 'mine.py'}:width", "--cache", str(tmp_path / "cache")]
    outputs = ["--csv", str(tmp_path / "c.csv"), "--plot", str(tmp_path / "p.svg"), "--table", str(tmp_path / "t.yaml")]
    done = CliRunner().invoke(cli.app, [*arguments, *outputs, "--max-drop", "40"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("width of the uncut model: 120")
    assert PruningTable.read(tmp_path / "t.yaml")["fc2"] == 0.5
    assert (tmp_path / "p.svg").read_text().startswith("<?xml") and (tmp_path / "c.csv").exists()
    refused = CliRunner().invoke(cli.app, [*arguments, "--table", str(tmp_path / "t.yaml")])
    assert "give --max-drop, or one --budget or more" in str(refused.exception)
