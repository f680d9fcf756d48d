"""Signals that ask a training to end. It finishes its step first and writes a checkpoint."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.utils import comm

from multas.util.signals import ASKING, handled

logger = logging.getLogger(__name__)

# A second one of these, from an impatient user, ends the process at once.
_ENDING = (signal.SIGTERM, signal.SIGINT)
# Processes agree on whether to end once in so many iterations.
_AGREE_EVERY = 10
_FINISHED = "the training has finished, and --resume evaluates it"


class Interruption:
    """Notes a signal during a training."""

    def __init__(self) -> None:
        self._signal = 0
        self._at_once = False

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Signals are noted inside the block; ignored ones stay ignored."""
        asking = (*_ENDING, *ASKING)
        own = [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]
        with handled(own, self._note):
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = self._signal or number
        if self._at_once:
            self.leave(_FINISHED)

    def is_asked(self, iteration: int = 0) -> bool:
        """Whether any process has noted a signal. All of them have to call it, and get the same.

        Several processes do not ask each other in every ``iteration``.
        """
        if iteration % _AGREE_EVERY and comm.get_world_size() > 1:
            return False
        self._signal = max(comm.all_gather(self._signal))
        return self._signal > 0

    def may_leave(self) -> None:
        """Leave now if a signal was noted, or else whenever one comes: nothing would be lost."""
        self._at_once = True
        if self.is_asked():
            self.leave(_FINISHED)

    def leave(self, how: str) -> None:
        """End the process as shells know it from a signal; ``how`` says how to go on.

        Raises:
            SystemExit: Always, with the status 128 + the number of the signal.
        """
        logger.warning(f"{signal.Signals(self._signal).name}: {how}.")
        raise SystemExit(128 + self._signal)
