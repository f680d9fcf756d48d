"""Timing of alternatives in rounds, and of the parts of a step."""

import functools
import platform
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

Seconds = list[float]
Call = Callable[[], Any]


def machine() -> str:
    """Processor, threads and versions."""
    return (
        f"{_device()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def machine_name() -> str:
    """Name for a file, e.g. intel-r-xeon-r-processor-2-threads."""
    words = re.findall(r"[a-z0-9]+", f"{_device()} {torch.get_num_threads()} threads".lower())
    return "-".join(words)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def synchronize() -> None:
    """Wait until the GPU, if any, has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Peak memory of this process in bytes: on the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        # For a child process, getrusage would start from the parent's size.
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else 1024 * peak


def take_turns(alternatives: Mapping[str, Call], rounds: int) -> dict[str, Seconds]:
    """Seconds of each alternative in each round, after a first round that does not count."""
    seconds: dict[str, Seconds] = {name: [] for name in alternatives}
    for number in tqdm(range(rounds + 1), "rounds", leave=False, disable=None):
        for name, call in alternatives.items():
            synchronize()
            start = time.perf_counter()
            call()
            synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def attempt(makers: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Make alternatives that depend on optional libraries, and call each once.

    Returns:
        The calls that work, and the error messages of the others.
    """
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except Exception as error:
            # An optional library may fail in any way.
            lines = str(error).strip().splitlines() or ["no message"]
            missing[name] = f"{type(error).__name__}: {lines[0][:100]}"
        else:
            calls[name] = call
    return calls, missing


class Parts:
    """Exclusive time of functions: excludes what they call and is watched under another name.

    Usage: ``with parts.watch(owner, "method", "name"): …`` around the calls.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[tuple[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as ``name``, and pause the part around it."""
        self._charge()
        self._open.append((name, time.perf_counter()))
        try:
            yield
        finally:
            self._charge()
            self._open.pop()
            self._resume()

    @contextmanager
    def watch(self, owner: Any, method: str, name: str) -> Iterator[None]:
        """Time every call of ``owner.method``, of a class or an object, inside the block."""
        original, inherited = getattr(owner, method), method not in vars(owner)

        @functools.wraps(original)
        def timed(*args, **kwargs):
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)
        try:
            yield
        finally:
            if inherited:
                delattr(owner, method)
            else:
                setattr(owner, method, original)

    def _charge(self) -> None:
        synchronize()
        if self._open:
            name, since = self._open[-1]
            self.seconds[name] += time.perf_counter() - since

    def _resume(self) -> None:
        if self._open:
            self._open[-1] = (self._open[-1][0], time.perf_counter())
