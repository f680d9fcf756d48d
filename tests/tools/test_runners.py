"""What trains a run: processes with their share of the cores, jobs of a cluster."""

import sys
import threading
import time
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from multas.util.errors import UserError
from reproduction import runners
from reproduction.run import Run

SCRIPT = """
import os, sys, time
print("arguments", sys.argv[1:], "threads", os.environ.get("OMP_NUM_THREADS"))
if "fail" in sys.argv[2:]:
    raise RuntimeError("out of luck")
if "sleep" in sys.argv[2:]:
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(*opts)``: a run of a script in place of train_net.py."""
    (tmp_path / "train_net.py").write_text(SCRIPT)
    monkeypatch.setattr(runners, "REPOSITORY", tmp_path)
    return lambda *opts: Run("configs/a.yaml", 1, opts, tmp_path / "runs" / "abc", (), 10)


def test_a_run_has_its_share_of_the_cores_and_leaves_what_it_says(run, monkeypatch):
    monkeypatch.setattr(runners, "usable_cores", lambda: 7)
    assert runners.Local(jobs=2).train(run("KEY", "x"))
    told = run("KEY", "x").console.read_text()
    assert told.startswith("# 3 threads, 0.00 GPUs\n$ OMP_NUM_THREADS=3 python train_net.py ")
    assert runners.read_resources(told) == (3, 0.0)
    assert "'KEY', 'x', 'OUTPUT_DIR'" in told and "threads 3" in told
    assert runners.Local(jobs=9).threads == 1


def test_a_failure_is_told_and_the_next_try_is_added(run):
    local = runners.Local(jobs=1)
    assert not local.train(run("fail", ""))
    assert "RuntimeError: out of luck" in run().console.read_text()
    assert local.train(run())
    assert run().console.read_text().count("$ OMP_NUM_THREADS") == 2


def test_what_another_call_has_finished_is_not_repeated(run, fabricate):
    fabricate(run(), bbox__AP=1.0)
    before = run().console.read_text()
    assert runners.Local(jobs=1).train(run("fail", ""))
    assert run().console.read_text() == before


def test_a_run_is_waited_for_while_another_call_is_at_it(run):
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(runners.Local(1).train(run())))
    with runners.claimed(run(), threading.Event()):
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join(30)
    assert done == [True]


def test_stopping_ends_the_processes(run):
    local, done = runners.Local(jobs=1), []
    thread = threading.Thread(target=lambda: done.append(local.train(run("sleep", ""))))
    thread.start()
    while not (run().console.is_file() and "arguments" in run().console.read_text()):
        time.sleep(0.05)
    local.stop()
    thread.join(30)
    assert done == [False]


def test_whoever_waits_can_be_stopped_and_starts_nothing(run, capsys):
    local, ended = runners.Local(1), []

    def train() -> None:
        with pytest.raises(runners.Stopped):
            local.train(run())
        ended.append(True)

    thread = threading.Thread(target=train)
    with runners.claimed(run(), threading.Event()):
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
        local.stop()
        thread.join(30)
    assert ended == [True] and not run().console.exists()
    assert "another call is at it" in capsys.readouterr().out
    with pytest.raises(runners.Stopped):
        local.train(run())


def test_gpus_are_shared_out(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    local = runners.Local(jobs=3)
    assert [local._gpus.get() for _ in range(3)] == [[0], [1], [0]]
    assert local.share == pytest.approx(2 / 3) and runners.Local(jobs=1).share == 1
    assert local._environment([1])["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert local._environment([1])["CUDA_VISIBLE_DEVICES"] == "6"


SAYS_GPUS = """
import os, sys
print("visible", os.environ["CUDA_VISIBLE_DEVICES"], "asked", sys.argv[1:][-2:])
"""


def test_a_training_has_several_gpus(run, monkeypatch, tmp_path):
    (tmp_path / "train_net.py").write_text(SAYS_GPUS)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr(runners, "usable_cores", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    local = runners.Local(jobs=2, gpus=4)
    assert (local.threads, local.share) == (2, 1)
    assert [local._gpus.get() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    local._gpus.put([4, 5, 6, 7])
    assert local.train(replace(run(), gpus=2))
    told = run().console.read_text()
    # One of whose batches two GPUs can share.
    assert "--num-gpus 2" in told and "visible 4,5" in told
    assert runners.read_resources(told) == (2, 2.0)
    with pytest.raises(UserError, match="--gpus is 9, but this machine has 8"):
        runners.Local(jobs=1, gpus=9)


@pytest.fixture
def submitit(monkeypatch):
    """Stands for submitit: `jobs` are the commands that came in; those with "fail" fail."""
    fake = ModuleType("submitit")

    class Job(SimpleNamespace):
        __hash__ = object.__hash__

    fake.jobs, fake.parameters, fake.cancelled = [], {}, []

    class Executor:
        def __init__(self, folder, cluster, slurm_max_num_timeout):
            assert slurm_max_num_timeout > 365, "a training may take so many days"
            fake.parameters |= {"folder": folder, "cluster": cluster}

        def update_parameters(self, **parameters):
            fake.parameters |= parameters

        def submit(self, function):
            fake.jobs.append(function.command)
            error = RuntimeError("node lost") if "fail" in function.command else None
            return Job(
                exception=lambda: error,
                stdout=lambda: "it said\n",
                stderr=lambda: None,
                cancel=lambda: fake.cancelled.append(function.command),
            )

    fake.AutoExecutor = Executor
    monkeypatch.setitem(sys.modules, "submitit", fake)
    return fake


def test_jobs_go_to_the_cluster(run, submitit, tmp_path):
    options = ["slurm_partition=gpu", "timeout_min=90"]
    cluster = runners.Cluster("slurm", tmp_path / "jobs", options)
    assert cluster.train(run("KEY", "x"))
    assert submitit.parameters == {
        "folder": str(tmp_path / "jobs"),
        "cluster": "slurm",
        "name": "reproduce",
        "slurm_partition": "gpu",
        "timeout_min": 90,
        "cpus_per_task": 8,
        "gpus_per_node": 1,
    }
    lock = str(runners.lock_of(run()))
    assert submitit.jobs == [
        ["flock", "--no-fork", lock, sys.executable, *run("KEY", "x").arguments]
    ]
    assert runners.read_resources(run().console.read_text()) == (8, 1.0)
    assert "it said" in run().console.read_text()
    assert not cluster.train(run("fail", ""))
    assert "node lost" in run().console.read_text()
    assert cluster.train(replace(run(), gpus=4))
    assert (submitit.parameters["gpus_per_node"], submitit.parameters["cpus_per_task"]) == (4, 32)
    assert "--num-gpus" in submitit.jobs[-1]


def test_wrong_options_and_a_missing_submitit_say_what_to_do(submitit, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--submit-option gpu: give KEY=VALUE"):
        runners.Cluster("slurm", tmp_path, ["gpu"])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'multas\[cluster\]'"):
        runners.Cluster("slurm", tmp_path)


def test_there_is_no_cluster(submitit, tmp_path, monkeypatch):
    def refuse(**options):
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.setattr(submitit, "AutoExecutor", refuse)
    with pytest.raises(UserError, match=r'--submit slurm: Could not detect "srun"'):
        runners.Cluster("slurm", tmp_path)


def test_a_job_of_submitit_itself(run, tmp_path):
    pytest.importorskip("submitit")
    cluster = runners.Cluster("local", tmp_path / "jobs")
    assert cluster.train(run("OMP", "x"))
    assert "'OMP', 'x', 'OUTPUT_DIR'" in run().console.read_text()
    assert not cluster.train(run("fail", ""))
    assert "RuntimeError: out of luck" in run().console.read_text()


CONTINUES = """
import os, signal, sys, time
from pathlib import Path

state = Path(__file__).with_name("state")
if not state.exists():
    def leave(*_):
        time.sleep(0.3)  # it takes a while
        state.write_text("checkpoint")
        sys.exit(140)

    signal.signal(signal.SIGUSR2, leave)
    os.kill(os.getppid(), signal.SIGUSR2)  # the job's time is up
    time.sleep(60)
print("went on from the", state.read_text())
"""


def test_a_job_whose_time_is_up_is_queued_again_and_continues(run, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "train_net.py").write_text(CONTINUES)
    cluster = runners.Cluster("local", tmp_path / "jobs")
    assert cluster.train(run()), run().console.read_text()
    assert "went on from the checkpoint" in run().console.read_text()
