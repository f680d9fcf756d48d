"""Metrics and logs: whole lines, and one message where the disk is full."""

import errno
import json
import logging
import os

import pytest
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter

from multas.engine.run_log import keep_log, open_log
from multas.engine.writers import LateWriters
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
    with pytest.raises(UserError, match=r"metrics.json could not be written: .* MB of its disk"):
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


def test_a_log_on_a_full_disk_is_told_once(tmp_path, own_log, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    keep_log()
    open_log(str(tmp_path))
    for name in ("detectron2", "multas", "multas.engine"):
        logging.getLogger(name).warning("a line")
    told = capsys.readouterr().err
    assert told.count(f"warning: {tmp_path}/log.txt could not be written") == 1
    assert "Traceback" not in told


def test_the_log_has_what_came_before_its_folder_and_ends_with_its_run(tmp_path, own_log):
    logger = logging.getLogger("multas.engine")
    for run in ("first", "second"):
        keep_log()
        logger.warning(f"{run} begins")
        open_log(str(tmp_path / run))
        logger.warning(f"{run} goes on")
        open_log(str(tmp_path / "third"))
    for run in ("first", "second"):
        lines = (tmp_path / run / "log.txt").read_text().splitlines()
        assert [line.rpartition(": ")[2] for line in lines] == [f"{run} begins", f"{run} goes on"]
    assert not (tmp_path / "third").exists()


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
