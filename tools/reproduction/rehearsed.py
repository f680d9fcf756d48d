"""One run of a rehearsal: train_net.py, interrupted once as a cluster does it, and what it reached.

    python -m reproduction.rehearsed --resume --config-file ... [KEY VALUE ...]

Without a checkpoint to go on from, the training gets SIGTERM in its iteration ``INTERRUPT_AFTER``;
the same command then resumes it. What was reached stands in ``rehearsal.json`` in OUTPUT_DIR.
"""

import os
import signal
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import train_net
from detectron2.config import CfgNode

from multas.engine import Trainer
from multas.util.command_line import run
from multas.util.signals import children_not_orphaned
from reproduction.miniatures import accept, is_miniature
from reproduction.rehearsal_record import INTERRUPT_AFTER, note
from reproduction.runs import images_per_iteration


class RehearsedTrainer(Trainer):
    """A trainer that notes how far it comes."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self._folder = Path(cfg.OUTPUT_DIR)
        note(self._folder, built=True, images=images_per_iteration(cfg))

    def resume_or_load(self, resume: bool = True) -> None:
        super().resume_or_load(resume)
        if self.start_iter:
            note(self._folder, resumed=self.start_iter)

    def run_step(self) -> None:
        start = time.perf_counter()
        super().run_step()
        note(self._folder, trained=self.iter + 1, seconds=time.perf_counter() - start)

    def after_step(self) -> None:
        if self.iter + 1 == INTERRUPT_AFTER:
            os.kill(os.getpid(), signal.SIGTERM)
        super().after_step()


def main(args: Namespace) -> Any:
    """Train as train_net.py does.

    Raises:
        Exception: what went wrong, which the record has in one line, too.
    """
    folder = Path(args.opts[args.opts.index("OUTPUT_DIR") + 1])
    data = Path(os.environ["DETECTRON2_DATASETS"])
    if is_miniature(data):
        accept(data)
    try:
        return train_net.main(args)
    except Exception as error:
        note(folder, error=" ".join(f"{type(error).__name__}: {error}".split()))
        raise


def start() -> None:
    train_net.Trainer = RehearsedTrainer  # type: ignore[misc]
    with children_not_orphaned():
        run(main, train_net.parse_args())


if __name__ == "__main__":
    run(start)
