"""Signals that end a process: cleaned up after, and passed on to the processes it has started."""

import gc
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# What a process sends to those that it has started. Unlike SIGTERM and SIGINT, which terminals and
# clusters also send to all of them, it may come twice: a second SIGTERM would cost a training its
# checkpoint. It ends whatever is no training at once.
PASSED_ON = signal.SIGUSR2
# Clusters send these some time before they take a node away.
ASKING = (signal.SIGUSR1, PASSED_ON)
# How long a process that loads data goes on after SIGTERM, in seconds. A training needs it to
# finish its step.
_LOADS_ON = 30


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM raises SystemExit inside the block, so that what is open is closed and cleaned up."""
    with _handled([signal.SIGTERM], _unwind):
        yield


@contextmanager
def _handled(numbers: Iterable[int], handler: Callable | signal.Handlers) -> Iterator[None]:
    """Signals that have no handler yet have this one inside the block, in the main thread."""
    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def not_orphaned(process: subprocess.Popen) -> Iterator[None]:
    """A process that was started is ended, and waited for, if the block ends by an exception.

    A training writes its checkpoint first. A second exception, such as another Ctrl-C, kills it.
    """
    try:
        yield
    except BaseException:
        process.send_signal(PASSED_ON)
        try:
            process.wait()
        finally:
            process.kill()
            process.wait()
        raise


@contextmanager
def children_not_orphaned() -> Iterator[None]:
    """If a signal ends the block, it is passed on to the processes of multiprocessing.

    They are waited for: each finishes its step and writes its checkpoint. Those who send these
    signals take the end of this process for the end of them all.
    """
    try:
        with _handled(ASKING, _unwind):
            yield
    except (KeyboardInterrupt, SystemExit):
        children = [child for child in multiprocessing.active_children() if not child.daemon]
        # A cluster signals all processes, and submitit this one once more.
        with _handled(ASKING, signal.SIG_IGN):
            for child in children:
                if child.pid:
                    os.kill(child.pid, PASSED_ON)
            for child in children:
                child.join()
        raise


def load_on(_worker: int) -> None:
    """Begin a process that loads data.

    Signals to all processes do not end it too early. What it has from the process that started it
    stays shared with that one, which the first collection of garbage would copy as a whole.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(_LOADS_ON)
