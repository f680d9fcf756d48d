"""Metrics and logs: whole lines, and one message where the disk is full."""

import errno
import json
import logging
import os

import pytest
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter

from multas.engine.writers import LateWriters, keep_quiet_on_full_disk
from multas.util.errors import UserError
from training import interrupt, start, train


class FullDisk(EventWriter):
    """A writer whose disk becomes full."""

    def __init__(self):
        self.closed = 0

    def write(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        self.closed += 1


def test_nothing_is_opened_before_the_first_line(tmp_path):
    file = tmp_path / "metrics.json"
    writers = LateWriters(lambda: [JSONWriter(str(file))], str(tmp_path))
    assert not file.exists()
    with EventStorage(0) as storage:
        storage.put_scalar("loss", 1.0)
        writers.write()
    writers.close()
    assert json.loads(file.read_text())["loss"] == 1.0


def test_a_half_line_of_a_killed_run_is_dropped(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 1}\n{"iterat')
    writers = LateWriters(lambda: [JSONWriter(str(file))], str(tmp_path))
    with EventStorage(2) as storage:
        storage.put_scalar("loss", 1.0)
        writers.write()
    assert [json.loads(line)["iteration"] for line in file.read_text().splitlines()] == [1, 2]


def test_a_full_disk_ends_the_run_with_one_message(tmp_path):
    full = FullDisk()
    writers = LateWriters(lambda: [full], str(tmp_path))
    with pytest.raises(UserError, match=r"events.out.* could not be written: .* MB of its disk"):
        writers.write()
    writers.write()
    writers.close()
    assert full.closed == 1

    def build():
        raise OSError(errno.ENOSPC, "No space left on device")

    writers = LateWriters(build, str(tmp_path))
    with pytest.raises(UserError, match="could not be written"):
        writers.write()
    writers.write()


def test_a_log_on_a_full_disk_is_told_once(capsys):
    logger = logging.getLogger("full")
    logger.propagate = False
    stream = open("/dev/full", "a")  # noqa: SIM115
    for _ in range(2):  # Detectron2's loggers share a stream
        logger.addHandler(logging.StreamHandler(stream))
    keep_quiet_on_full_disk("full")
    for _ in range(3):
        logger.warning("a line")
    told = capsys.readouterr().err
    assert told.count("warning: /dev/full could not be written") == 1 and "Traceback" not in told
    assert logger.handlers == [] and stream.closed


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of one megabyte."""
    import subprocess

    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_whose_disk_fills_up_goes_on_when_there_is_room(distilled_cfg, small_disk):
    opts = ["SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 1, "DATASETS.TEST", []]
    cfg = distilled_cfg(*opts, "OUTPUT_DIR", str(small_disk))
    with pytest.raises(UserError, match=r"model_\d+.pth could not be written: No space left"):
        train(cfg)
    files = sorted(name for name in os.listdir(small_disk) if name.endswith(".pth"))
    assert files and not [n for n in os.listdir(small_disk) if n.endswith(".partial")]
    for name in files[:-1]:
        os.remove(small_disk / name)
    trainer = start(cfg, resume=True)
    assert trainer.start_iter == len(files)
    interrupt(trainer, trainer.start_iter)
