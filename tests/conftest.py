"""Tests run side by side: one thread each, or the threads of one test wait for those of another. None has a network."""

import socket
import sys

import pytest
import torch

torch.set_num_threads(1)

LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "", None)
asked: list[object] = []
"""Addresses elsewhere that something wanted, whether or not it hid that it was refused."""


def _here(function, place):
    def checked(*args, **kwargs):
        address = args[place]
        host = address[0] if isinstance(address, tuple) else address
        if not isinstance(host, bytes | str | None) or (host not in LOCAL and not str(host).startswith(("/", "b'"))):
            asked.append(address)
            raise OSError(f"tests have no network, but {address} was asked for")
        return function(*args, **kwargs)

    return checked


socket.socket.connect = _here(socket.socket.connect, 1)
socket.socket.connect_ex = _here(socket.socket.connect_ex, 1)
socket.getaddrinfo = _here(socket.getaddrinfo, 0)


@pytest.fixture(autouse=True)
def no_network():
    """Fails a test that asked for an address elsewhere, be it in a library and caught there."""
    asked.clear()
    yield asked
    assert not asked, f"the network was asked for: {asked}"


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate's state is the process's: what Hugging Face's Trainer sets in one test would hold in all others."""
    yield
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
