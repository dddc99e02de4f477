"""Judge a case in a process of its own, so that a crash, a leak or an endless analysis stays there."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import signal
from multiprocessing.connection import Connection

import torch

from benchmarks.zoo.case import Case
from benchmarks.zoo.judge import Outcome, check


def check_apart(case: Case, contender: str, onnx: bool, limit: float) -> Outcome:
    """``check`` in a forked process that is stopped after ``limit`` seconds of processor time, or ten times that."""
    context = multiprocessing.get_context("fork")  # what is imported needn't be imported again
    gc.freeze()  # nor looked through by the collector of garbage, in the middle of what is timed
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, case, contender, onnx, limit))
    process.start()
    theirs.close()
    try:
        if ours.poll(10 * limit):
            return ours.recv()
        why = f"did not end within {limit:.0f} s"
    except EOFError:
        process.join()
        why = f"did not end within {limit:.0f} s" if process.exitcode == -signal.SIGXCPU else "the process died"
    finally:
        process.kill()
        process.join()
    return Outcome(case.zoo, case.name, contender, why=why, wanted=case.left)


def _work(pipe: Connection, case: Case, contender: str, onnx: bool, limit: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 10))  # a busy machine takes nothing from anyone
    torch.set_num_threads(1)  # on a shared machine several threads wait for each other
    pipe.send(check(case, contender, onnx))
