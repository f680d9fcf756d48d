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
# Signals that have a handler of :func:`handled` now.
_held: list[int] = []
# How long a process that loads data goes on after SIGTERM, in seconds. A training needs it to
# finish its step.
_LOADS_ON = 30


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM raises SystemExit inside the block, so that what is open is closed and cleaned up."""
    with handled(without_handler(signal.SIGTERM), _unwind):
        yield


@contextmanager
def handled(numbers: Iterable[int], handler: Callable | signal.Handlers) -> Iterator[None]:
    """Signals have this handler inside the block, and the former one after it.

    Threads other than the main one cannot receive signals. A process that is forked inside the
    block ends by SIGTERM at once: a pool relies on that when it ends its processes, and a handler
    in Python would not run as long as one waits for a lock. It ignores the other signals, which the
    process that has started it acts upon.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, handler)
        _held.append(number)
    try:
        yield
    finally:
        for number, former in before.items():
            _held.remove(number)
            signal.signal(number, former or signal.SIG_DFL)


def _after_fork() -> None:
    for number in _held:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


os.register_at_fork(after_in_child=_after_fork)


def without_handler(*numbers: int) -> list[int]:
    """Those of the signals that do what they do by default."""
    return [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]


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
        with handled(without_handler(*ASKING), _unwind):
            yield
    except (KeyboardInterrupt, SystemExit):
        children = [child for child in multiprocessing.active_children() if not child.daemon]
        # A cluster signals all processes, and submitit this one once more.
        with handled(without_handler(*ASKING), signal.SIG_IGN):
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
