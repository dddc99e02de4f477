"""Files from others: whatever is in them, loading succeeds or raises an error of ours. And no network, ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import prunus
from benchmarks import fuzz_loading
from prunus import documents
from prunus.deploy.weights import read_state_dict
from prunus.errors import PlanError, SaveError


def test_a_sample_of_hostile_files_loads_or_is_refused():
    """`python -m benchmarks.fuzz_loading` tries 100,000."""
    counts, findings = fuzz_loading.run(250)
    assert findings == []
    outcomes = {outcome: sum(n for (_, o), n in counts.items() if o == outcome) for _, outcome in counts}
    assert sum(outcomes.values()) == 250
    assert outcomes["refused"] > 150 and outcomes["loaded"] > 5


@pytest.mark.parametrize("wrong", ["exception", "code", "slow", "memory", "crash"])
def test_the_fuzzer_notices(tmp_path, monkeypatch, wrong):
    def load(folder):
        if wrong == "exception":
            raise KeyError("not ours")
        if wrong == "code":
            os.mkdir(fuzz_loading.MARK)
        if wrong == "slow":
            while True:
                pass
        if wrong == "memory":
            return bytearray(2**31)
        if wrong == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    monkeypatch.setattr(fuzz_loading, "ON_THE_CLOCK", 0.2)
    monkeypatch.setattr(
        fuzz_loading, "SUBJECTS", {"plan alone": fuzz_loading.SUBJECTS["plan alone"]._replace(load=load)}
    )
    _, findings = fuzz_loading.run(1)
    words = {"exception": "KeyError", "code": "code from", "slow": "TooSlow", "memory": "MemoryError", "crash": "ended"}
    assert len(findings) == 1 and words[wrong] in findings[0][3]


def test_a_plan_that_would_take_too_much_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(json, "loads", None)
    for text, words in (
        ("[" + "0," * documents.MAX_VALUES + "0,0]", "4,000,001 values, more than any plan needs"),
        ("[" * (documents.MAX_CONTAINERS + 1), "lists and objects, more than any plan needs"),
        ('"' + "x" * documents.MAX_BYTES + '"', "characters are more than any plan needs"),
    ):
        with pytest.raises(PlanError, match=words):
            prunus.Plan.from_json(text)


def test_what_load_would_refuse_is_not_saved(tmp_path, monkeypatch):
    small = prunus.prune(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).eval(), torch.ones(1, 4), ratio=0.5)
    monkeypatch.setattr(documents, "MAX_VALUES", 10)
    with pytest.raises(SaveError, match="load wouldn't read this plan back"):
        prunus.save(small, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_file_does_not_inflate_without_end(tmp_path):
    path = prunus.save_sparse({"w": torch.zeros(2**16)}, tmp_path / "zeros.safetensors")
    with pytest.raises(SaveError, match=r"would take 262,144 bytes, more than the 1,000.*max_bytes"):
        prunus.load_sparse(path, max_bytes=1000)
    assert prunus.load_sparse(path)["w"].numel() == 2**16
    parts = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()["prunus_sparse"]
    save_file(parts, path, {"prunus_sparse": about.replace("[65536]", "[1099511627776]")})
    with pytest.raises(SaveError, match=r"would take 4,398,046,511,104 bytes"):
        prunus.load_sparse(path)


@pytest.mark.parametrize("held", [[torch.ones(1)], {"w": [1]}, {1: torch.ones(1)}, {"step": 3}])
def test_a_state_dict_holds_named_tensors_alone(tmp_path, held):
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(SaveError, match=r"save model\.state_dict\(\)"):
        read_state_dict(tmp_path / "w.pt")


NO_NETWORK = """
    import socket, sys
    def refused(*_, **__):
        raise SystemExit("the network was asked for")
    for name in ("connect", "connect_ex", "sendto", "bind"):
        setattr(socket.socket, name, refused)
    socket.create_connection = socket.getaddrinfo = refused
    import torch, prunus
    from torch import nn
    def factory():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 7))
    model, x = factory().eval(), torch.ones(2, 3, 8, 8)
    small = prunus.prune(model, x, ratio=0.5)
    prunus.profile(small, x)
    prunus.save(small, "small")
    prunus.load("small", factory)
    import prunus.cli
    try:
        socket.create_connection(("localhost", 1))
    except SystemExit:
        print("none")
"""


def test_nothing_asks_for_the_network(tmp_path):
    """From import to load in a process of its own, its sockets closed; conftest.py closes them for every other test."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NO_NETWORK)], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.strip() == "none", found.stdout + found.stderr


def test_the_tests_have_no_network(no_network):
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert no_network == ["192.0.2.1"]
    no_network.clear()
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_connection(server.getsockname()).close()
    server.close()
