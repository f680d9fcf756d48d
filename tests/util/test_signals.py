"""Signals end what they should, and nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from multas.engine.interruption import Interruption
from multas.util.signals import ASKING, PASSED_ON, load_on, not_orphaned, sigterm_unwinds


def test_sigterm_unwinds_the_stack():
    before, cleaned = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as end, sigterm_unwinds():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)
    assert end.value.code == 143 and cleaned
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_is_ended_with_the_one_that_started_it():
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(KeyboardInterrupt), not_orphaned(process):
        raise KeyboardInterrupt
    assert process.returncode == -PASSED_ON
    with subprocess.Popen(["true"]) as process, not_orphaned(process):
        process.wait()
    assert process.returncode == 0


def _load(ready) -> None:
    load_on(0)
    ready.set()
    while True:
        time.sleep(0.1)


def test_a_process_that_loads_data_outlives_one_signal():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_load, args=[ready])
    process.start()
    ready.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
        process.join(0.3)
        assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM


# Detectron2's launch starts processes like these; ranks write their checkpoints after a signal.
RANKS = """
import os, signal, sys, time
import torch.multiprocessing
from multas.util.command_line import run
from multas.util.signals import ASKING, children_not_orphaned

def rank(number, folder):
    told = []
    for asking in ASKING:
        signal.signal(asking, lambda *_: told.append(True))
    open(os.path.join(folder, f"ready{number}"), "w").close()
    while not told:
        time.sleep(0.01)
    time.sleep(1)  # the end of the step
    open(os.path.join(folder, f"checkpoint{number}"), "w").close()
    raise SystemExit(140)

def start():
    with children_not_orphaned():
        torch.multiprocessing.spawn(rank, args=[sys.argv[1]], nprocs=2)

if __name__ == "__main__":
    run(start)
"""


def test_whoever_starts_processes_passes_signals_on_and_waits(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("ready*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(2):  # by a cluster, and once more by submitit
            os.kill(process.pid, PASSED_ON)
            time.sleep(0.2)
        assert process.wait(60) == 128 + PASSED_ON
        assert len(list(tmp_path.glob("checkpoint*"))) == 2
    finally:
        process.kill()


def _wait_for(lock, ready) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ready.set()
    time.sleep(0.5)  # SIGTERM comes meanwhile, as just before the process waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    lock.acquire()


@pytest.mark.parametrize("around", [sigterm_unwinds, lambda: Interruption().noting()])
def test_a_forked_process_ends_by_sigterm_whatever_it_waits_for(around):
    """A handler in Python would run once the lock is there, which a pool has in its hands."""
    context = multiprocessing.get_context("fork")
    lock, ready = context.Lock(), context.Event()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, *ASKING)]
    with lock, around():
        process = context.Process(target=_wait_for, args=[lock, ready])
        process.start()
        ready.wait()
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGTERM, *ASKING)] == before


def test_a_forked_process_leaves_what_is_asked_to_the_one_that_started_it():
    context = multiprocessing.get_context("fork")
    with Interruption().noting():
        process = context.Process(target=time.sleep, args=[60])
        process.start()
        for number in (signal.SIGINT, *ASKING):
            os.kill(process.pid, number)
            process.join(0.2)
            assert process.is_alive()
        process.kill()
        process.join()
