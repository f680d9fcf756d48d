"""A signal ends a training with a checkpoint, from which it goes on to the same bits."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from detectron2.engine import HookBase

from multas.engine import Trainer
from multas.engine.report import final_values
from training import different, start, train, train_on_two_ranks, weights_in
from two_ranks import process_group, run_on_two_ranks

TWICE = """
import os, signal, time
from multas.engine.interruption import Interruption
with Interruption().noting():
    os.kill(os.getpid(), signal.SIGTERM)
    print("first", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


class SendSignal(HookBase):
    def __init__(self, number: int, iteration: int) -> None:
        self._number, self._iteration = number, iteration

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            os.kill(os.getpid(), self._number)


class Counting(HookBase):
    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def after_step(self) -> None:
        self._counts.append(len(multiprocessing.active_children()))


def left(trainer, number, status) -> None:
    """Train, and make sure that the signal ends it and means afterwards what it did before."""
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == status
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)]
)
def test_it_ends_after_its_step_and_goes_on_to_the_same_bits(tiny_cfg, number, status, caplog):
    opts = ["SOLVER.MAX_ITER", 5, "DATASETS.TEST", [], "SOLVER.EMA.ENABLED", True]
    whole, cfg = tiny_cfg(*opts, folder="whole"), tiny_cfg(*opts)
    train(whole)
    trainer = start(cfg)
    trainer.register_hooks([SendSignal(number, 2)])
    left(trainer, number, status)
    assert trainer.iter == 2
    assert "model_0000002.pth is written, and --resume goes on from it" in caplog.text
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))
    assert train(cfg, resume=True).start_iter == 3
    for name in ("student.pth", "student_raw.pth"):
        assert different(weights_in(cfg, name), weights_in(whole, name)) == []


def test_in_the_last_step_it_leaves_the_student_and_evaluates_later(tiny_cfg):
    cfg = tiny_cfg()
    trainer = start(cfg)
    trainer.register_hooks([SendSignal(signal.SIGTERM, 2)])
    left(trainer, signal.SIGTERM, 143)
    student = weights_in(cfg)
    assert "bbox/AP" not in final_values(cfg.OUTPUT_DIR)
    train(cfg, resume=True)
    assert "bbox/AP" in final_values(cfg.OUTPUT_DIR)
    assert different(weights_in(cfg), student) == []


def test_an_evaluation_ends_first_and_the_last_one_is_left_at_once(tiny_cfg, monkeypatch):
    cfg, test, ended = tiny_cfg("TEST.EVAL_PERIOD", 2), Trainer.test, []

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        results = test(*args)
        ended.append(True)
        return results

    monkeypatch.setattr(Trainer, "test", staticmethod(interrupted))
    left(start(cfg), signal.SIGTERM, 143)
    assert ended == [True]
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_0000001.pth"))
    left(start(cfg, resume=True), signal.SIGTERM, 143)
    assert ended == [True]
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_no_loading_process_is_left(tiny_cfg):
    trainer = start(tiny_cfg("DATASETS.TEST", [], "DATALOADER.NUM_WORKERS", 2))
    workers = []
    trainer.register_hooks([Counting(workers), SendSignal(signal.SIGTERM, 1)])
    left(trainer, signal.SIGTERM, 143)
    assert workers == [2, 2]
    assert not multiprocessing.active_children()


def test_it_trains_in_a_thread_that_receives_no_signals(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", [])
    thread = threading.Thread(target=train, args=[cfg])
    thread.start()
    thread.join()
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_a_second_signal_ends_it_at_once():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert done.stdout == "first\n"


def main(folder: str, rank: int) -> None:
    """Only one rank receives a signal."""
    original = Trainer.build_hooks
    hooks = [SendSignal(signal.SIGTERM, 3)] if rank else []
    Trainer.build_hooks = lambda self: original(self) + hooks
    with process_group(folder, rank):
        try:
            train_on_two_ranks(os.path.join(folder, "job.yaml"), rank)
            status = 0
        except SystemExit as end:
            status = end.code
    torch.save(status, os.path.join(folder, f"rank{rank}.pth"))


def test_processes_leave_together(tiny_cfg, tmp_path):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 20, "DATASETS.TEST", [])
    (tmp_path / "job.yaml").write_text(cfg.dump())
    assert run_on_two_ranks(__file__, tmp_path) == [143, 143]
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_0000010.pth"))


def test_a_signal_to_all_processes_of_a_training(distilled_cfg, repository, tmp_path):
    opts = ["SOLVER.MAX_ITER", 40, "DATASETS.TEST", [], "DATALOADER.NUM_WORKERS", 2]
    whole = distilled_cfg(*opts, folder="whole")
    train(whole)
    cfg = distilled_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 3)
    (tmp_path / "job.yaml").write_text(cfg.dump())
    process = subprocess.Popen(
        [sys.executable, "train_net.py", "--config-file", str(tmp_path / "job.yaml")],
        cwd=repository, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    last = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    deadline = time.monotonic() + 120
    while not os.path.exists(last) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143 and "Traceback" not in errors, errors
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))
    train(cfg, resume=True)
    assert different(weights_in(cfg), weights_in(whole)) == []


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
