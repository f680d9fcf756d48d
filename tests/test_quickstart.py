"""The main job: small and complete in every run, at full size for three seeds when asked for."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

import quickstart
from multas.data import make_toy
from multas.util.errors import UserError
from own_data import job as job_module
from own_data.job import Job
from own_data.tables import figures_in, figures_table

pytestmark = pytest.mark.usefixtures("forget_registered")

STAGES = ("teacher", "supervised", "distilled")
CALL = """
import sys
from pathlib import Path
from own_data import scripts
from multas.util.command_line import run
scripts.REPOSITORY = Path(sys.argv[1])
run(scripts.call, "child.py")
"""
CHILD = """
import os, signal, time
from pathlib import Path
def leave(*_):
    time.sleep(0.5)
    print("checkpoint", flush=True)
    raise SystemExit(140)
signal.signal(signal.SIGUSR2, leave)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def run(repository, *args):
    return subprocess.run(
        [sys.executable, "tools/quickstart.py", *map(str, args)],
        cwd=repository, env=os.environ, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture
def tiny_job(repository, tmp_path, monkeypatch, capfd):
    """``tiny_job()`` runs the quickstart on 16 images for 3 iterations and returns what it says.

    The stages are processes of their own. A head of few layers is quick to write in 8 bits, and
    few candidates are quick to suppress.
    """
    content = yaml.safe_load((repository / "datasets" / "cards" / "toy.yaml").read_text())
    root = make_toy(tmp_path / "toy", train=16, val=4, test=6)
    card = tmp_path / "toy.yaml"
    card.write_text(yaml.safe_dump({**content, "root": str(root)}))
    monkeypatch.chdir(repository)

    def job(seed=1):
        arguments = [
            "--seed", seed, "--output", tmp_path / "out",
            "--configs", repository / "configs" / "quickstart",
            "DATASETS.CARDS", f"['{card}']", "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 1,
            "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "MODEL.DENSE_HEAD.NUM_CONVS", 1,
            "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 50,
        ]  # fmt: skip
        monkeypatch.setattr("sys.argv", ["quickstart.py", *map(str, arguments)])
        quickstart.main()
        return capfd.readouterr().out

    return job


def test_what_was_interrupted_goes_on_and_everything_promised_is_left(tiny_job, tmp_path):
    output = tmp_path / "out"

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "export", interrupted)
        tiny_job()
    assert (output / "pseudo_labels.json").is_file() and not (output / "report.html").exists()
    # As if that had been earlier: what is complete is kept, the rest goes on where it stopped.
    kept = (output / "teacher" / "student.pth").stat().st_mtime_ns
    (output / "distilled" / "student.pth").unlink()
    (output / "distilled" / "model_final.pth").unlink()
    (output / "distilled" / "last_checkpoint").write_text("model_0000001.pth")
    said = tiny_job()
    assert (output / "teacher" / "student.pth").stat().st_mtime_ns == kept
    assert re.search(r"begins +after 2 iterations", said)

    for stage in STAGES:
        files = {f.name for f in (output / stage).iterdir()}
        assert {"config.yaml", "student.pth", "model_final.pth", "metrics.json"} <= files
        assert any(name.startswith("events.out.tfevents") for name in files)
    sentence, chosen = re.search(r"\[choice\] (.* handed out is the (\w+) one: .*)", said).groups()
    assert (output / "student").resolve() == (output / chosen).resolve()
    exported = {f.name for f in (output / "student").iterdir()}
    assert {"student.onnx", "student.xml", "export.json"} <= exported
    page, report = ((output / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert len(page) > 100_000 and f"To run {chosen}<" in page
    assert sentence in page and sentence in report
    assert all(f"| {stage} " in report for stage in STAGES)
    for picture in re.findall(r"\((\S+\.png)\)", report):
        assert (output / picture).stat().st_size > 10_000

    with pytest.raises(UserError, match="holds a job with other settings"):
        tiny_job(seed=2)  # whose models those of seed 1 must not pass for


def test_a_training_is_finished_once_it_is_evaluated(repository, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.chdir(repository)
    monkeypatch.setattr(job_module, "call", lambda script, *_: calls.append(script))
    job = Job(repository / "configs" / "quickstart", tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "student.pth").write_bytes(b"weights")
    job.train("teacher")
    assert calls == ["train_net.py"]
    (tmp_path / "teacher" / "metrics.json").write_text('{"iteration": 2, "bbox/AP": 10.0}\n')
    job.train("teacher")
    assert len(calls) == 1 and "[teacher] already finished" in capsys.readouterr().out


def test_figures_of_several_test_sets_stand_in_one_table(tmp_path):
    values = {"a_test/bbox/AP": 10.0, "a_masks_test/sem_seg/mIoU": 70.0, "teacher/bbox/AP": 99.0}
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 2, **values}) + "\n")
    (header, _, row) = figures_table(
        [("student", "images", str(tmp_path), 10**6)], ["a_test", "a_masks_test"]
    ).splitlines()
    assert [cell.strip() for cell in header.split("|")[3:5]] == ["AP", "mIoU"]
    assert [float(cell) for cell in row.split("|")[3:5]] == [10.0, 70.0]
    both = {"a_test/bbox/AP": 10.0, "b_test/bbox/AP": 20.0}
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 2, **both}) + "\n")
    table = figures_table([("student", "images", str(tmp_path), 10**6)], ["a_test", "b_test"])
    assert all(name in table for name in both)
    assert figures_in(str(tmp_path), ["c_test", "d_test"]) == {}


def test_a_teacher_is_the_network_that_was_trained(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    configs = repository / "configs" / "quickstart"
    norm = ["MODEL.FPN.NORM", "GN"]
    opts = [*norm, "MODEL.DISTILLATION.ALPHA", "2.0", "SOLVER.MAX_ITER", "3"]
    for teacher, wanted in ((None, norm), (("teacher.yaml", "teacher.pth"), [])):
        cfg = Job(configs, tmp_path, opts, teacher).config("distilled")
        assert wanted == cfg.MODEL.DISTILLATION.TEACHER.OPTS


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_stage_that_runs(repository, tmp_path, number, status):
    (tmp_path / "child.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-c", CALL, str(tmp_path)], cwd=repository / "tools",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(process.stdout.readline())
    process.send_signal(number)
    said, errors = process.communicate()
    assert said == "checkpoint\n" and process.returncode == status, errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_distilled_student_beats_the_supervised_one(repository, tmp_path, seed):
    done = run(repository, "--seed", seed, "--output", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    ap = dict(
        re.findall(r"^\| (\w+) +\|[^|]+\| +([\d.]+)", (tmp_path / "report.md").read_text(), re.M)
    )
    # Seeds 1, 2 and 3 had 4.9, 2.5 and 2.3 more.
    assert float(ap["distilled"]) > float(ap["supervised"]) + 1
