"""Runs in the order of their needs, several at a time; one that fails stops only what needs it."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from enum import Enum

from reproduction.run import Run
from reproduction.runners import Runner
from reproduction.runs import iterations_of

_SECONDS = 1.0  # between two looks at the runs in progress


class State(Enum):
    """How a run ended, or WAITING as long as its turn has not come."""

    KEPT = "finished before"
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "its teacher failed"
    WAITING = "not run"

    @property
    def is_good(self) -> bool:
        return self in (State.KEPT, State.FINISHED)


States = dict[str, State]


def states_of(runs: Sequence[Run], todo: Sequence[Run] | None = None) -> States:
    """The states of runs, each behind all that it needs, before anything starts; by their hashes.

    A result without weights counts as long as no run that has to be trained needs the weights.
    Trained are those of ``todo`` (default: all) that are not there.
    """
    states: States = {}
    ours = {run.digest for run in (runs if todo is None else todo)}
    wanted: set[str] = set()
    for run in reversed(runs):
        there = run.is_finished or (run.result is not None and run.digest not in wanted)
        states[run.digest] = State.KEPT if there else State.WAITING
        if not there and run.digest in ours:
            wanted |= {need.digest for need in run.needs}
    return states


def execute(
    runs: Sequence[Run],
    runner: Runner,
    jobs: int,
    states: States,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
    watch: Callable[[Sequence[Run]], None] = lambda running: None,
) -> None:
    """Train what is not finished.

    Args:
        runs: the runs, each behind all that it needs.
        runner: what trains them.
        jobs: how many are trained at a time.
        states: the states of at least these runs. They are kept up to date, so that they are right
            after an interruption, too.
        say: a function that receives a line before and after every run.
        watch: a function that receives the runs in progress, once a second and whenever they
            change.
    """
    kept = sum(states[run.digest] is State.KEPT for run in runs)
    say(f"{len(runs)} trainings, {kept} of them finished before.")
    with ThreadPoolExecutor(jobs) as pool:
        try:
            _work(runs, lambda run: pool.submit(runner.train, run), jobs, states, say, watch)
        except BaseException:
            runner.stop()  # or the pool would wait for them
            raise
        finally:
            watch([])


def _work(
    runs: Sequence[Run],
    start: Callable[[Run], Future[bool]],
    jobs: int,
    states: States,
    say: Callable[[str], None],
    watch: Callable[[Sequence[Run]], None],
) -> None:
    running: dict[Future[bool], tuple[Run, float]] = {}
    while True:
        for run in _block(runs, states):
            say(f"{_count(runs, states)} {run.title}: {State.BLOCKED.value}.")
        started = {run.digest for run, _ in running.values()}
        for run in _ready(runs, states, started)[: jobs - len(running)]:
            say(f"{_count(runs, states)} {run.title}: starts. Its log is {run.console}")
            running[start(run)] = run, time.monotonic()
        if not running:
            return
        watch([run for run, _ in running.values()])
        for done in wait(running, _SECONDS, FIRST_COMPLETED).done:
            run, since = running.pop(done)
            reason = _fault(done, run)
            state = states[run.digest] = State.FAILED if reason else State.FINISHED
            end = reason or _remaining(runs, states, jobs)
            took = duration(time.monotonic() - since)
            say(f"{_count(runs, states)} {run.title}: {state.value} after {took}. {end}")


def _fault(done: Future[bool], run: Run) -> str:
    """A sentence that says where the reason of a failure is; "" where the run did not fail."""
    error = done.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    if error is not None:
        return f"It could not start: {type(error).__name__}: {error}"
    if not done.result():
        return f"{run.console} ends with the reason."
    return "" if run.is_finished else f"It ended well, but {run.folder} has no weights or results."


def duration(seconds: float) -> str:
    """A time in words: 42 s, 7 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _ready(runs: Sequence[Run], states: Mapping[str, State], started: set[str]) -> list[Run]:
    return [
        run
        for run in runs
        if states[run.digest] is State.WAITING
        and run.digest not in started
        and all(states[need.digest].is_good for need in run.needs)
    ]


def _block(runs: Sequence[Run], states: States) -> list[Run]:
    """Give up the runs whose needs cannot be met, and return them."""
    lost = []
    for run in runs:
        needs = {states[need.digest] for need in run.needs}
        if states[run.digest] is State.WAITING and needs & {State.FAILED, State.BLOCKED}:
            states[run.digest] = State.BLOCKED
            lost.append(run)
    return lost


def _count(runs: Sequence[Run], states: Mapping[str, State]) -> str:
    done = sum(states[run.digest] is not State.WAITING for run in runs)
    return f"[{done}/{len(runs)}]"


def _remaining(runs: Sequence[Run], states: Mapping[str, State], jobs: int) -> str:
    """A sentence on the time left, by the time per iteration so far; "" where it is not known."""
    good = [run for run in runs if states[run.digest].is_good]
    waiting = [run for run in runs if states[run.digest] is State.WAITING]
    seconds = sum(run.seconds for run in good)
    if not waiting or not seconds or not all(map(iterations_of, [*good, *waiting])):
        return ""
    iterations = sum(map(iterations_of, good))
    left = sum(map(iterations_of, waiting)) * seconds / iterations / min(jobs, len(waiting))
    return f"About {duration(left)} left."
