"""All ranks of a run take the same checkpoint, and all of them refuse it."""

import os
import sys

import torch

from multas.engine.checkpoint_files import LAST
from multas.engine.checkpointer import find_checkpoint
from multas.util.errors import UserError
from two_ranks import process_group, run_on_two_ranks

NAMES = ("model_0000001.pth", "model_0000003.pth")


def main(folder: str, rank: int) -> None:
    # As if the other rank looked before, or at another disk: it finds a folder of its own.
    own = os.path.join(folder, f"run{rank}")
    with process_group(folder, rank):
        results = [os.path.basename(find_checkpoint(own))]
        if rank == 0:
            for name in NAMES:
                os.truncate(os.path.join(own, name), 10)
        try:
            find_checkpoint(own)
        except UserError as error:
            results.append(str(error))
    torch.save(results, os.path.join(folder, f"rank{rank}.pth"))


def test_the_main_process_decides(tmp_path):
    for rank in range(2):
        (tmp_path / f"run{rank}").mkdir()
        for name, iteration in zip(NAMES, (1, 3), strict=True):
            content = {"model": {}, "trainer": {}, "iteration": iteration}
            torch.save(content, tmp_path / f"run{rank}" / name)
        (tmp_path / f"run{rank}" / LAST).write_text(NAMES[rank])
    first, second = run_on_two_ranks(__file__, tmp_path)
    assert first == second
    assert first[0] == NAMES[0] and "run0 can be continued from" in first[1]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
