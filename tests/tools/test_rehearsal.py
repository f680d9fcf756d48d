"""Rehearsals: what they change, a tenth of the rows on the miniatures, and a whole one."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import train_net

import reproduce
from multas.engine.report import final_values
from multas.util.errors import UserError
from reproduction import rehearsal, rehearsed
from reproduction.execution import State
from reproduction.rehearsal import Rehearsal, changes_for, prepare
from reproduction.rehearsal_record import INTERRUPT_AFTER, ITERATIONS, note, read_record
from reproduction.rehearsal_report import epochs_of, write_rehearsal
from reproduction.rows import rows_of
from reproduction.runs import Planner, merged
from reproduction.tables import read_tables
from shipped import TABLES, rows
from tiny_recipe import TinyRecipes, as_shipped, narrow
from training import train

DATA = ("voc", "vedai", "cifar10", "cifar100", "imagenet200", "imagenet1k", "coco", "cityscapes",
        "ade20k")  # fmt: skip
FULL = [address for table in TABLES for address in rows(table, *DATA)]
has_polygons = bool(find_spec("shapely") and find_spec("cityscapesscripts"))


def share(address: str) -> int:
    """A number from 0 to 19 that depends on the name of a row alone."""
    return int(hashlib.sha256(address.encode()).hexdigest(), 16) % 20


# A tenth of all rows, of which every other one takes its time with the slow tests.
TENTH = [
    pytest.param(address, marks=[pytest.mark.slow] if share(address) == 10 else [])
    for address in FULL
    if share(address) in (0, 10)
]


def needs_polygons(address: str) -> bool:
    return "cityscapes_fine_instance_seg_train" in as_shipped(address).DATASETS.TRAIN


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Narrow networks with the classes of the real data."""
    return TinyRecipes(tmp_path_factory.mktemp("teachers"), narrow)


@pytest.mark.parametrize("address", TENTH)
def test_a_tenth_of_the_rows_trains_on_the_real_layouts(address, miniature_sets, recipes, tmp_path):
    """Narrow networks with all classes, one iteration, evaluation."""
    if needs_polygons(address) and not has_polygons:
        pytest.skip("polygons of Cityscapes need cityscapesscripts and shapely")
    shipped = as_shipped(address)
    opts = [*changes_for(shipped, tmp_path), "DATASETS.CARDS", shipped.DATASETS.CARDS]
    opts += ["SOLVER.MAX_ITER", 1, "SOLVER.STEPS", [], "DATALOADER.NUM_WORKERS", 0]
    cfg = recipes(address, *opts, output=tmp_path / "run")
    trainer = train(cfg)
    assert trainer.iter == 1
    found = final_values(str(tmp_path / "run"))
    assert any(key.partition("/")[0] in ("bbox", "sem_seg", "classification") for key in found)


def test_a_row_keeps_its_network_classes_and_paths(tmp_path):
    for address in [address for address in FULL if share(address) == 1]:
        shipped = merged(address, [])
        changed = merged(address, changes_for(shipped, tmp_path))
        assert changed.MODEL == shipped.MODEL and changed.DATASETS == shipped.DATASETS, address
        assert changed.SOLVER.MAX_ITER == ITERATIONS and not changed.SOLVER.EPOCHS, address
        assert changed.INPUT.CROP == shipped.INPUT.CROP, address
        assert 0 < changed.SOLVER.BASE_LR < shipped.SOLVER.BASE_LR, address


def test_start_weights_that_are_not_there_have_stand_ins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = as_shipped(f"{Path(__file__).parents[2]}/configs/adaptive/table5.yaml#coco/teacher")
    assert "MODEL.WEIGHTS" not in changes_for(shipped, tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/resnet101.pth").touch()
    words = changes_for(shipped, tmp_path / "weights")
    assert words[-2:] == ["MODEL.WEIGHTS", str(tmp_path / "weights/resnet101.pth")]
    (tmp_path / shipped.MODEL.WEIGHTS).parent.mkdir(parents=True)
    (tmp_path / shipped.MODEL.WEIGHTS).touch()
    assert "MODEL.WEIGHTS" not in changes_for(shipped, tmp_path / "weights"), "one's own count"


@pytest.mark.parametrize(
    ("row", "epochs"),
    [
        ("limited-data/table1.yaml#voc/half/teacher", 70),
        ("adaptive/table2.yaml#cifar10/student", 200),
        ("adaptive/table4.yaml#cityscapes/student", 80_000 * 8 / 2975),
        ("adaptive/table4.yaml#ade20k/adaptive", 80_000 * 8 / 20_210),
    ],
)
def test_the_report_has_the_epochs_of_the_recipe(row, epochs):
    assert epochs_of(f"configs/{row}") == pytest.approx(epochs)


def plan_of(folder: Path, pattern: str, *opts) -> list:
    """The rows of Table 2 of paper B whose names end like this, with their runs."""
    planner = Planner(folder, list(map(str, opts)), changes_for=lambda c: changes_for(c, folder))
    members = [row for row in rows_of(read_tables()["B2"], "full") if row.address.endswith(pattern)]
    return [(row, (planner.plan(row.address, 1),)) for row in members]


def test_a_run_is_interrupted_resumed_and_reported(miniature_sets, tmp_path, monkeypatch):
    address = "configs/adaptive/table2.yaml#cifar100/student"
    opts = [*narrow(address), "DATALOADER.NUM_WORKERS", 0]
    ((row, (run,)),) = plan = plan_of(tmp_path / "runs", "cifar100/student", *opts)
    monkeypatch.setattr(train_net, "Trainer", rehearsed.RehearsedTrainer)
    args = train_net.parse_args(run.arguments[1:])
    with pytest.raises(SystemExit) as interrupted:
        rehearsed.main(args)
    assert interrupted.value.code == 128 + 15 and not run.is_finished
    assert read_record(run.folder)["trained"] == INTERRUPT_AFTER
    rehearsed.main(args)
    assert run.is_finished
    record = read_record(run.folder)
    assert (record["resumed"], record["trained"]) == (INTERRUPT_AFTER, ITERATIONS)
    report = write_rehearsal(
        {"B2": plan}, [run], {run.digest: State.FINISHED}, "", tmp_path / "out"
    ).read_text()
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {row.label} ")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:5] == ["yes"] * 4 + ["200.0"] and float(cells[5]) > 0
    assert "1 of 1 trainings came to their end" in report and "What failed" not in report


def test_a_row_that_fails_has_its_error_in_the_report(miniature_sets, tmp_path):
    plan = plan_of(tmp_path / "runs", "cifar10/student", "DATASETS.TRAIN", "('cifar10_trian',)")
    ((_, (run,)),) = plan
    with pytest.raises(Exception, match="cifar10_trian"):
        rehearsed.main(train_net.parse_args(run.arguments[1:]))
    report = write_rehearsal(
        {"B2": plan}, [run], {run.digest: State.FAILED}, "", tmp_path / "out"
    ).read_text()
    assert "0 of 1 trainings" in report and "cifar10_trian" in report.partition("What failed")[2]


def test_the_command_ends_with_1_where_a_row_fails(tmp_path, monkeypatch, capsys, fabricate):
    def execute(todo, runner, jobs, states, *args):
        for run in todo[:1]:
            states[run.digest] = State.FINISHED
            fabricate(run, classification__top1_error=90.0)
        for run in todo[1:]:
            states[run.digest] = State.FAILED
            note(run.folder, built=True, images=8, seconds=2.0, error="no room")

    monkeypatch.setattr(reproduce, "execute", execute)
    monkeypatch.setattr(reproduce, "prepare", lambda data, output: None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    command = ["B2", "--scale", "full", "--rehearse", "--rows", "cifar10/student,cifar10/equal"]
    assert reproduce.main([*command, "--output", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text()
    assert "1 of 3 trainings" in text and "no room" in text.partition("What failed")[2]
    assert "ImageNet" not in text, "rows that nobody asked for are left out"
    for wrong in (["B2", "--rehearse"], [*command, "--submit", "slurm"]):
        with pytest.raises(SystemExit):
            reproduce.main(wrong)
        assert "--rehearse needs --scale full" in capsys.readouterr().err


def test_real_data_are_used_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    monkeypatch.setattr(rehearsal, "make_weights", lambda folder: None)
    (tmp_path / "real").mkdir()
    assert prepare(str(tmp_path / "real"), tmp_path / "out") == tmp_path / "real"
    assert os.environ["DETECTRON2_DATASETS"] == str(tmp_path / "real")
    with pytest.raises(UserError, match=r"--data .*nothing: no such folder"):
        prepare(str(tmp_path / "nothing"), tmp_path / "out")


@pytest.mark.parametrize("needed", [None, "itself", "others"])
def test_weights_on_which_no_run_builds_are_emptied(needed, tmp_path, fabricate):
    ((_, (run,)),) = plan_of(tmp_path / "runs", "cifar10/student")
    fabricate(run, classification__top1_error=90.0)
    for name in ("model_0000001.pth", "model_final.pth", "student_raw.pth"):
        (run.folder / name).touch()
    known = {None: None, "itself": {run.digest}, "others": set()}
    Rehearsal(1, known[needed])._remove_weights(run)
    assert [file.name for file in run.folder.glob("*.pth")] == ["student.pth"]
    assert (run.weights.stat().st_size == 0) == (needed == "others")
    assert run.is_finished


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_every_row_is_rehearsed(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")  # set by the command
    jobs = str(len(os.sched_getaffinity(0)))
    command = ["all", "--scale", "full", "--rehearse", "--jobs", jobs, "--output", str(tmp_path)]
    status = reproduce.main(command)
    failed = (tmp_path / "report.md").read_text().partition("What failed")[2]
    if has_polygons:
        assert status == 0, failed
    else:
        lines = [line for line in failed.splitlines() if "seed 1" in line]
        assert lines and all("adaptive/table5/cityscapes" in line for line in lines), failed
