"""Trainings and their hashes: what is the same is computed once, what differs is not mistaken."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from multas.data import make_toy, register_card
from reproduction import data_sets
from reproduction.rows import rows_of
from reproduction.run import Run
from reproduction.runs import Planner, in_order, iterations_of
from reproduction.tables import read_tables

TABLE = "configs/limited-data/table1.yaml"
HALF = f"{TABLE}#toy/half"


@pytest.fixture
def planner(tmp_path):
    """``planner(*opts, card="")``: a planner whose runs lie in a temporary folder."""
    return lambda *opts, card="": Planner(tmp_path / "runs", opts, card)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_same_config_has_the_same_hash(planner):
    first, second = (planner().plan(f"{HALF}/supervised", 1) for _ in range(2))
    assert first == second
    assert len(first.digest) == 12 and first.folder.parent.name == "runs"


def test_where_a_recipe_writes_to_does_not_matter(planner, own_configs):
    before = planner().plan(f"{HALF}/supervised", 1).digest
    change(Path(TABLE), "# The teacher", "# A comment, the teacher")
    Path(TABLE).rename("configs/limited-data/other.yaml")
    for file in Path("configs/limited-data").glob("table?.yaml"):
        file.write_text(file.read_text().replace("table1.yaml", "other.yaml"))
    run = planner().plan("configs/limited-data/other.yaml#toy/half/supervised", 1)
    assert run.digest == before


def test_seed_options_and_cards_have_hashes_of_their_own(planner, own_configs):
    def digest(seed=1, *opts):
        return planner(*opts).plan(f"{HALF}/supervised", seed).digest

    found = [digest(), digest(2), digest(1, "SOLVER.MAX_ITER", "7")]
    change(Path("datasets/cards/toy.yaml"), "Half/trainval", "Half/other")
    found.append(digest())
    assert len(set(found)) == 4


@pytest.fixture
def devkit(tmp_path):
    """A small data set."""
    return make_toy(tmp_path / "devkit", train=16, val=2, test=2)


def card_of(root: Path, name: str) -> str:
    content = yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())
    file = root.parent / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**content, "name": name, "root": str(root)}))
    return str(file)


def test_data_are_known_by_their_content_and_not_by_their_place(
    planner, devkit, tmp_path, forget_data
):
    def digest(root: Path) -> str:
        forget_data()
        return planner(card=card_of(root, "same")).plan(f"{HALF}/supervised", 1).digest

    before = digest(devkit)
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.move(devkit, tmp_path / "elsewhere" / "kit"))
    assert digest(moved) == before
    listed = (moved / "ImageSets" / "Half" / "trainval.txt").read_text().split()
    annotation = moved / "Annotations" / f"{listed[0]}.xml"
    change(annotation, "<difficult>0</difficult>", "<difficult>1</difficult>")
    assert digest(moved) != before


def test_masks_are_known_by_their_content(devkit, forget_data):
    content = yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())
    card = {**content, "name": "masked", "root": str(devkit), "annotates": ["det", "seg"]}
    card["splits"] = {"train": "Main/train"}

    def digest() -> str:
        forget_data()
        register_card(card)
        assert not data_sets.fault_of("masked_train")
        return data_sets.content_hash("masked_train")

    before = digest()
    mask = sorted((devkit / "SegmentationClass").glob("*.png"))[0]
    image = Image.open(mask)
    pixels = np.array(image)
    pixels[0, 0] = 255
    changed = Image.fromarray(pixels)
    changed.putpalette(image.getpalette())
    changed.save(mask)
    assert digest() != before


def test_weights_are_known_by_their_content(planner, tmp_path):
    weights = tmp_path / "start.pth"

    def digest() -> str:
        data_sets.file_hash.cache_clear()
        opts = ("MODEL.WEIGHTS", str(weights))
        return planner(*opts).plan(f"{HALF}/supervised", 1).digest

    found = [digest()]
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.append(digest())
    assert len(set(found)) == 3 and digest() == found[-1]


def test_weights_of_one_s_own_are_left_alone(planner):
    own = "/scratch/output/limited-data/table1/toy/half/teacher/student.pth"
    run = planner("MODEL.WEIGHTS", own).plan(f"{HALF}/supervised", 1)
    assert run.needs == () and own in run.opts


def test_small_rows_start_from_the_source_set_and_share_it_with_all_seeds(planner):
    table = "configs/adaptive/table5.yaml"
    plan = planner()
    other = plan.plan(f"{table}#small/adaptive_feats_p", 3)
    taught = [plan.plan(f"{table}#small/{row}", 2) for row in ("adaptive_feats_p", "uw_so_feats_p")]
    start, teacher = taught[0].needs
    assert start.config_file == f"{table}#source/student" and start.needs == ()
    assert teacher.config_file == f"{table}#small/teacher"
    assert [need.config_file for need in teacher.needs] == [f"{table}#source/teacher"]
    assert taught[0].needs == taught[1].needs and taught[0] != taught[1]
    assert [run.seed for run in in_order(taught)] == [1, 1, 2, 2, 2]
    assert [run.seed for run in in_order([*taught, other])] == [1, 1, 2, 2, 2, 3, 3]
    assert other.needs[0] == start and other.needs[1].needs == teacher.needs
    pairs = dict(zip(taught[0].opts[::2], taught[0].opts[1::2], strict=True))
    assert pairs["MODEL.WEIGHTS"] == str(start.weights)
    assert pairs["MODEL.DISTILLATION.TEACHER.WEIGHTS"] == str(teacher.weights)


@pytest.mark.parametrize(
    ("row", "needs"),
    [
        ("table1.yaml#small/half/supervised", ["table1.yaml#source/half/supervised"]),
        ("table2.yaml#small/eighth/teacher", ["table1.yaml#source/half/teacher"]),
        ("table6.yaml#small/multi_task", ["table1.yaml#source/half/supervised"]),
        ("table6.yaml#small/self_trained_all_init",
         ["table6.yaml#small/supervised", "table6.yaml#small/teacher"]),
    ],
)  # fmt: skip
def test_small_rows_of_paper_a_start_from_the_source_set_too(planner, row, needs):
    run = planner().plan(f"configs/limited-data/{row}", 1)
    assert [need.config_file.removeprefix("configs/limited-data/") for need in run.needs] == needs


def test_keys_of_distillation_leave_the_runs_without_as_they_are(planner):
    row = "configs/adaptive/table5.yaml#small/fading_feats_p"
    plain, other = (planner(*opts).plan(row, 1) for opts in ((), ("MODEL.DISTILLATION.ALPHA", "3")))
    assert plain.needs == other.needs and plain.digest != other.digest
    assert "MODEL.DISTILLATION.ALPHA" in other.opts


def test_pretraining_stays_on_its_own_data(planner, devkit):
    card = card_of(devkit, "pretrained")
    content = yaml.safe_load(Path(card).read_text())
    content["splits"]["val"] = content["splits"]["test"]
    Path(card).write_text(yaml.safe_dump(content))
    run = planner(card=card).plan("configs/adaptive/table5.yaml#cityscapes/student", 1)
    assert "DATASETS.CARDS" in run.opts
    (start,) = run.needs
    assert start.config_file == "configs/adaptive/table5.yaml#coco/student"
    assert "DATASETS.CARDS" not in start.opts
    (teacher,) = planner(card=card).plan(f"{HALF}/self_trained", 1).needs
    assert "DATASETS.CARDS" in teacher.opts
    # A teacher of one task is tested otherwise than its students of two, and is no pretraining.
    row = "configs/limited-data/table6.yaml#toy/multi_task_self_trained"
    (teacher,) = planner(card=card).plan(row, 2).needs
    assert "DATASETS.CARDS" in teacher.opts and teacher.seed == 2


def test_who_selects_on_the_test_set_says_so(planner):
    assert planner().plan("configs/limited-data/table1.yaml#voc/half/supervised", 1).selects_on_test
    assert not planner().plan(f"{HALF}/supervised", 1).selects_on_test


def test_another_teacher_makes_another_student(planner, own_configs):
    def digests():
        rows = ("teacher", "supervised", "supervised_mse", "self_trained")
        plan = planner()
        return [plan.plan(f"{HALF}/{row}", 1).digest for row in rows]

    before = digests()
    change(Path(TABLE), "{parts: [teacher],", "{SOLVER: {WARMUP_ITERS: 7}, parts: [teacher],")
    after = digests()
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, False, False]


def test_a_student_listens_to_the_run_of_its_teacher(planner):
    run = planner().plan(f"{HALF}/self_trained_pdf", 3)
    (teacher,) = run.needs
    assert (teacher.config_file, teacher.seed) == (f"{HALF}/teacher", 3)
    pairs = dict(zip(run.opts[::2], run.opts[1::2], strict=True))
    assert pairs == {
        "SEED": "3",
        "MODEL.DISTILLATION.TEACHER.WEIGHTS": str(teacher.folder / "student.pth"),
    }
    assert run.arguments[-2:] == ["OUTPUT_DIR", str(run.folder)]
    assert {"--resume", run.config_file} < set(run.arguments)


def test_a_network_may_start_from_another_row(planner):
    plan = planner()
    student = plan.plan("configs/adaptive/table5.yaml#cityscapes/student", 1)
    assert [need.config_file for need in student.needs] == [
        "configs/adaptive/table5.yaml#coco/student"
    ]
    own = planner("MODEL.WEIGHTS", "mine.pth").plan(student.config_file, 1)
    assert own.needs == ()


def test_iterations_are_counted_where_a_schedule_is_in_epochs(planner, devkit):
    card = card_of(devkit, "counted")
    in_iterations, in_epochs = (
        planner("SOLVER.IMS_PER_BATCH", "4", card=card).plan(f"{HALF}/{row}", 1)
        for row in ("supervised", "self_trained")
    )
    assert iterations_of(in_iterations) == 500
    assert iterations_of(in_epochs) == round(16.6667 * 16 / 4)
    assert iterations_of(planner("SOLVER.MAX_ITER", "7").plan(f"{HALF}/self_trained", 1)) == 7


def test_further_teachers_are_the_runs_of_their_rows(planner):
    other = "output/limited-data/table2/toy/quarter/teacher/student.pth"
    config = "configs/limited-data/table2.yaml#toy/quarter/teacher"
    more = [{"CONFIG_FILE": config, "WEIGHTS": other}]
    run = planner("MODEL.DISTILLATION.MORE_TEACHERS", repr(more)).plan(f"{HALF}/self_trained", 1)
    assert [need.config_file for need in run.needs] == [f"{HALF}/teacher", config]
    assert repr([{**more[0], "WEIGHTS": str(run.needs[1].weights)}]) == run.opts[-1]


def test_teachers_are_told_of_the_network_that_they_were_trained_with(planner):
    opts = ["SOLVER.MAX_ITER", "2", "MODEL.NECK.OUT_CHANNELS", "8", "MODEL.DEVICE", "cpu"]
    opts += ["MODEL.DISTILLATION.ALPHA", "0.5"]
    run = planner(*opts).plan(f"{HALF}/self_trained", 1)
    told = run.opts[run.opts.index("MODEL.DISTILLATION.TEACHER.OPTS") + 1]
    assert told == repr(["MODEL.NECK.OUT_CHANNELS", "8", "MODEL.DEVICE", "cpu"])
    assert "MODEL.DISTILLATION.TEACHER.OPTS" not in run.needs[0].opts


def test_tables_share_teachers_and_supervised_students(planner):
    plan = planner()

    def runs(*tables: str) -> list[Run]:
        rows = [row for name in tables for row in rows_of(read_tables()[name], "tiny")]
        return in_order(plan.plan(row.address, 1) for row in rows)

    assert len(runs("A1")) == 9
    assert len(runs("A1", "A2")) == 27, "the column of half is Table 1"
    # New in Tables 3 and 4 are the students on what their teacher has not seen, one of six sets.
    assert len(runs("A1", "A2", "A3", "A4")) == 27 + 6 * 4
    assert len(runs("B2", "BF2")) == len(runs("B2")) + 10


def test_needs_come_first_and_once(planner):
    plan = planner()
    rows = rows_of(read_tables()["A2"], "tiny")
    runs = in_order(plan.plan(row.address, seed) for row in reversed(rows) for seed in (1, 2))
    assert len({run.digest for run in runs}) == len(runs) == 2 * len(rows)
    place = {run.digest: i for i, run in enumerate(runs)}
    assert all(place[need.digest] < place[run.digest] for run in runs for need in run.needs)


def test_finished_is_what_has_weights_and_final_metrics(planner, fabricate):
    run = planner().plan(f"{HALF}/supervised", 1)
    assert not run.is_finished
    fabricate(run, total_loss=1.0)
    assert not run.is_finished, "it was never evaluated"
    fabricate(run, bbox__AP=20.0)
    assert run.is_finished
    run.weights.unlink()
    assert not run.is_finished
    torch.save({}, run.weights)
    (run.folder / "metrics.json").unlink()
    assert not run.is_finished
