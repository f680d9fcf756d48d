"""Signals end what they should, and nothing is left behind."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from multas.util.signals import PASSED_ON, load_on, not_orphaned, sigterm_unwinds


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
