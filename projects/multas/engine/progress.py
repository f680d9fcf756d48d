"""Shows a person how far a training has come."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack

import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from multas.util.screen import Bar, Screen, clock, find_screen

logger = logging.getLogger(__name__)

PERIOD = 20  # iterations between two lines
_FEW = 6  # terms of the loss that a line names one by one
_ETA_AFTER = 5  # iterations until the end is foretold
_PATHS = "loss_kd_"


class ShowProgress(HookBase):
    """A bar on a terminal, elsewhere a line every 20 iterations; nothing where there is no screen.

    It has to come behind the hooks that log times and learning rates, and before the evaluation.

    Args:
        regularizers: gives the names of the terms of the loss that say nothing of how well the
            model does, and which the loss that is shown leaves out.
    """

    def __init__(self, regularizers: Callable[[], Collection[str]]) -> None:
        self._regularizers = regularizers
        self._open = ExitStack()
        self._screen: Screen | None = None
        self._bar: Bar | None = None

    def before_train(self) -> None:
        self._begin = time.monotonic()
        self._screen = find_screen()
        trainer = self.trainer
        if self._screen is not None and self._screen.is_terminal:
            bar = self._screen.bar("training", trainer.max_iter, trainer.start_iter)
            self._bar = self._open.enter_context(bar)

    def after_step(self) -> None:
        trainer = self.trainer
        done = trainer.iter + 1
        if self._screen is None:
            return
        if done == trainer.start_iter + _ETA_AFTER and trainer.max_iter - done > PERIOD:
            self._foretell()
        if self._bar is not None:
            if self._bar.is_due():
                self._bar.show(done, self._words(few=0), self._left(), trainer.max_iter)
        elif done % PERIOD == 0 or done == trainer.max_iter:
            left = self._left()
            words = [f"iteration {done}/{trainer.max_iter}", self._words(few=_FEW)]
            words += [f"{clock(left)} left"] if left is not None else []
            self._screen.say(", ".join(words))

    def after_train(self) -> None:
        if self._screen is not None:
            trainer = self.trainer
            done, took = trainer.iter - trainer.start_iter, time.monotonic() - self._begin
            if trainer.iter < trainer.max_iter:
                logger.info(f"Training ends in iteration {trainer.iter} of {trainer.max_iter}.")
            elif done:
                logger.info(f"Trained {done} iterations in {clock(took)}.")
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._bar = self._screen = None
        self._open.close()

    def _foretell(self) -> None:
        left, each = self._left(), _seconds_each(self.trainer.storage)
        if left is not None and each is not None:
            end = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            logger.info(f"An iteration takes {each:.3g} s: it ends about {end}, in {clock(left)}.")

    def _left(self) -> float | None:
        """The seconds left without evaluations, as Detectron2 reckons them; None at first."""
        each = _seconds_each(self.trainer.storage)
        return None if each is None else each * (self.trainer.max_iter - self.trainer.iter - 1)

    def _words(self, few: int) -> str:
        storage = self.trainer.storage
        words = [loss_in_words(loss_terms(storage, self._regularizers()), few)]
        if few and "lr" in storage.latest():
            words.append(f"lr {storage.history('lr').latest():.3g}")
        if (each := _seconds_each(storage)) is not None:
            words.append(f"{each:.3g} s each")
        if few and torch.cuda.is_available():
            words.append(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
        return ", ".join(words)


def loss_terms(storage: EventStorage, left_out: Collection[str] = ()) -> dict[str, float]:
    """The terms of the loss in the latest iteration, as medians of up to 20 of their values.

    Args:
        storage: of a training.
        left_out: the names of terms that do not count.
    """
    latest = storage.latest()
    names = [
        name
        for name, (_, iteration) in latest.items()
        if "loss" in name and "/" not in name and iteration == storage.iter
    ]
    terms = [name for name in names if name != "total_loss"] or names  # a single one has no name
    return {name: storage.history(name).median(PERIOD) for name in terms if name not in left_out}


def loss_in_words(terms: Mapping[str, float], few: int) -> str:
    """The sum of the terms of a loss, and up to ``few`` of them or the sums of tasks and paths."""
    total = f"loss {sum(terms.values()):.4g}"
    if 1 < len(terms) <= few:
        parts = {name.removeprefix("loss_"): value for name, value in terms.items()}
    else:
        paths = [value for name, value in terms.items() if name.startswith(_PATHS)]
        tasks = [value for name, value in terms.items() if not name.startswith(_PATHS)]
        parts = {"tasks": sum(tasks), "paths": sum(paths)} if tasks and paths else {}
    inner = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    return f"{total} ({inner})" if inner else total


def _seconds_each(storage: EventStorage) -> float | None:
    """The median time of an iteration; None before Detectron2 has measured any."""
    return storage.history("time").median(1000) if "time" in storage.latest() else None
