"""The command line of tools/reproduce.py, up to a table that is really computed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import reproduce
from multas.data import make_toy, make_toy_source
from multas.util.errors import UserError
from reproduction import data_check, data_sets, runners
from reproduction.runs import Planner


@pytest.fixture
def call(tmp_path):
    """``call(...)``: reproduce.main with its output in a temporary folder."""
    return lambda *args: reproduce.main([*map(str, args), "--output", str(tmp_path / "out")])


@pytest.fixture
def no_runner(monkeypatch):
    """Fails when anything is trained or made."""

    def refuse(*args):
        raise AssertionError("nothing may start")

    monkeypatch.setattr(reproduce, "execute", refuse)
    monkeypatch.setattr(reproduce, "make_embedded", refuse)


def test_dry_run_prints_every_command_line(call, no_runner, capsys, tmp_path):
    assert call("A1", "--dry-run", "--seeds", 2, "SOLVER.MAX_ITER", 7) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert len(lines) == 2 * 9
    outputs = set()
    for line in lines:
        words = shlex.split(line)
        assert words[:4] == ["python", "train_net.py", "--resume", "--config-file"]
        pairs = dict(zip(words[5::2], words[6::2], strict=True))
        assert pairs["SOLVER.MAX_ITER"] == "7" and pairs["SEED"] in ("1", "2")
        teacher = pairs.get("MODEL.DISTILLATION.TEACHER.WEIGHTS")
        assert ("self_trained" not in words[4]) or Path(teacher).parent in outputs
        outputs.add(Path(pairs["OUTPUT_DIR"]))
    assert len(outputs) == len(lines)
    assert not (tmp_path / "out").exists()


def test_dry_run_shows_what_is_finished(call, no_runner, capsys, tmp_path, fabricate):
    run = Planner(tmp_path / "out" / "runs", ("SOLVER.MAX_ITER", "7")).plan(
        "configs/limited-data/table1.yaml#toy/half/teacher", 1
    )
    fabricate(run, bbox__AP=1.0)
    call("A1", "--rows", "teacher,supervised", "--dry-run", "SOLVER.MAX_ITER", 7)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("# finished: python") and "half/teacher" in first
    assert second.startswith("python") and "half/supervised" in second


def test_kept_results_are_not_computed_again(call, tmp_path, fabricate, monkeypatch, capsys):
    rows = ("A1", "--rows", "half/supervised", "--results", tmp_path / "results.json")
    monkeypatch.setattr(reproduce, "make_embedded", lambda todo: None)
    monkeypatch.setattr(reproduce, "missing", lambda todo: [])
    trained = []

    class Trainer:
        def __init__(self, *args):
            pass

        def train(self, run):
            trained.append(run)
            fabricate(run, bbox__AP=12.5)
            return True

    monkeypatch.setattr(reproduce, "Local", Trainer)
    assert call(*rows, "SOLVER.MAX_ITER", 7) == 0 and len(trained) == 1
    shutil.rmtree(tmp_path / "out")
    assert call(*rows, "SOLVER.MAX_ITER", 7) == 0 and len(trained) == 1
    (report,) = (tmp_path / "out").glob("A1-tiny*/report.md")
    assert "12.50" in report.read_text()
    assert "1 trainings, 1 of them finished before" in capsys.readouterr().out


def test_gpus_share_the_batches_of_the_recipes(call, no_runner, capsys):
    """The command lines differ in the number of GPUs alone, which divides every batch."""

    def lines(*args) -> list[str]:
        call("A6", "--scale", "full", "--dry-run", *args)
        return [x for x in capsys.readouterr().out.splitlines() if x.startswith("python")]

    alone, shared = lines(), lines("--gpus", 4)
    assert [re.sub(r" --num-gpus \d", "", line) for line in shared] == alone
    found = {}
    for line in shared:
        row = re.search(r"/(\w+)' ", line).group(1)
        found[row] = int(re.search(r"--num-gpus (\d)", line + " --num-gpus 1").group(1))
    # Of 5, 10 and 7 images.
    assert (found["teacher"], found["supervised"], found["multi_task_notes"]) == (1, 2, 1)


def test_hours_are_planned_before_the_data_are_there(call, no_runner, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    rows = ("--rows", "multi_task,multi_task_notes", "--scale", "full", "--dry-run")
    call("A6", *rows, "--images-per-second", 100)
    lines = [x for x in capsys.readouterr().out.splitlines() if " h: " in x or " h for " in x]
    assert lines == [
        # 53,620 x 2 tasks x 10 images x 2 copies / 100 / 3600
        "# 6.0 h: 53,620 iterations of 40 images",
        "# 4.3 h: 109,400 iterations of 14 images",
        "# 10.2 h for 2 trainings at 100 images per second. Early stopping may end them sooner; "
        "evaluation comes on top.",
    ]


def test_several_tables_train_once_what_they_share(call, no_runner, capsys):
    def lines(*args) -> list[str]:
        call(*args, "--dry-run", "SOLVER.MAX_ITER", 7)
        return [x for x in capsys.readouterr().out.splitlines() if x.startswith("python")]

    single, together = [lines("A1"), lines("A2")], lines("A1", "A2", "A1")
    assert set(together) == {line for own in single for line in own}
    assert len(together) == len(set(together)) < sum(map(len, single))


def test_rows_bring_what_they_need(call, no_runner, capsys):
    call("A2", "--dry-run", "--rows", "half/self_trained,eighth/supervised")
    lines = capsys.readouterr().out.splitlines()
    files = [shlex.split(line)[4] for line in lines if line.startswith("python")]
    assert [tuple(file.split("/")[-2:]) for file in files] == [
        ("half", "teacher"),
        ("half", "self_trained"),
        ("eighth", "supervised"),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["A7"], "A7 is no table; choose from A1, A2"),
        (["A1", "A7"], "A7: neither tables nor pairs of KEY VALUE"),
        (["A1", "SOLVER.MAX_ITER"], "SOLVER.MAX_ITER: neither tables nor pairs of KEY VALUE"),
        (["A1", "OUTPUT_DIR", "x"], "OUTPUT_DIR is set by --output"),
        (["A1", "SEED", "2"], "SEED is set by --seeds"),
        (["A1", "--jobs", "0"], "1 or more"),
        (["A1", "--gpus", "0"], "1 or more"),
        (["A1", "--images-per-second", "9"], "for --dry-run"),
    ],
)
def test_wrong_arguments_are_refused(call, no_runner, capsys, args, message):
    with pytest.raises(SystemExit):
        call(*args)
    assert message in capsys.readouterr().err


def test_a_row_that_is_not_there_is_refused(call, no_runner):
    with pytest.raises(UserError, match="--rows tutor: fits none of teacher"):
        call("A1", "--rows", "tutor")


def test_full_scale_names_the_data_that_is_missing(call, no_runner, monkeypatch, own_configs):
    # Neither in DETECTRON2_DATASETS nor beside the cards.
    monkeypatch.setenv("DETECTRON2_DATASETS", str(own_configs / "empty"))
    monkeypatch.setattr(reproduce, "REPOSITORY", own_configs)
    monkeypatch.setattr(reproduce, "make_embedded", lambda runs: None)
    with pytest.raises(UserError) as stopped:
        call("A1", "--scale", "full")
    lines = str(stopped.value).splitlines()
    assert lines[0] == "Nothing was started; this is missing:"
    for name in ("VOC2007", "VOC2012", "VEDAI"):
        (line,) = [line for line in lines if f"root '{name}'" in line]
        assert "DETECTRON2_DATASETS" in line and "datasets/README.md" in line
    (line,) = [line for line in lines if "resnet50.pth" in line]
    assert "tools/convert_weights.py resnet50.pth output/weights/resnet50.pth" in line


def test_embedded_data_is_not_missing(call, no_runner, monkeypatch, own_configs, capsys):
    monkeypatch.setattr(reproduce, "REPOSITORY", own_configs)
    assert not (own_configs / "datasets" / "toy").exists()
    call("A1", "--dry-run")
    assert "missing" not in capsys.readouterr().out


def test_missing_lists_and_folders_of_a_card_are_named(own_configs):
    content = yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())
    root = make_toy(own_configs / "devkit", train=8, val=2, test=2)
    card = own_configs / "gaps.yaml"
    card.write_text(yaml.safe_dump({**content, "name": "gaps", "root": str(root)}))
    (root / "ImageSets" / "Half" / "trainval.txt").unlink()
    run = Planner(own_configs / "runs", (), str(card)).plan(
        "configs/limited-data/table1.yaml#toy/half/supervised", 1
    )
    (line,) = data_check.missing([run])
    assert "gaps.yaml" in line and "'half'" in line and "Half/trainval" in line
    (root / "JPEGImages").rename(root / "Pictures")
    data_sets._load.cache_clear()
    lines = data_check.missing([run])
    assert any("no image folder" in line and "JPEGImages" in line for line in lines)


def test_data_sets_of_detectron2_are_checked_too(tmp_path, monkeypatch):
    metadata = data_check.MetadataCatalog.get("coco_2017_val")
    gone = {"json_file": str(tmp_path / "a.json"), "image_root": str(tmp_path / "images")}
    monkeypatch.setattr(type(metadata), "as_dict", lambda self: gone)
    (line,) = data_check._missing_data("coco_2017_val")
    assert line.startswith(f"coco_2017_val: no {gone['json_file']} and no {gone['image_root']}.")
    assert "DETECTRON2_DATASETS" in line


def test_cityscapes_needs_packages_for_polygons_and_label_maps_for_segmentation(
    tmp_path, monkeypatch
):
    folders = {"image_dir": tmp_path / "leftImg8bit", "gt_dir": tmp_path / "gtFine"}
    for folder in folders.values():
        (folder / "ulm").mkdir(parents=True)
    for i in range(3):
        (folders["gt_dir"] / "ulm" / f"ulm_{i}_gtFine_labelIds.png").touch()
    metadata = data_check.MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    monkeypatch.setattr(type(metadata), "as_dict", lambda self: folders)
    monkeypatch.setattr(data_check, "find_spec", lambda package: None)
    (line,) = data_check._missing_data("cityscapes_fine_sem_seg_val")
    assert "3 of the files *_gtFine_labelTrainIds.png" in line and "createTrainIdLabelImgs" in line
    for i in range(3):
        (folders["gt_dir"] / "ulm" / f"ulm_{i}_gtFine_labelTrainIds.png").touch()
    assert not data_check._missing_data("cityscapes_fine_sem_seg_val")
    (line,) = data_check._missing_data("cityscapes_fine_instance_seg_val")
    assert "pip install cityscapesscripts shapely" in line


def test_a_card_without_the_splits_of_the_rows_is_refused(call, no_runner, tmp_path):
    root = make_toy(tmp_path / "devkit", train=8, val=2, test=2)
    card = tmp_path / "few.yaml"
    splits = {"train": "Main/train", "test": "Main/test"}
    card.write_text(
        yaml.safe_dump({"name": "few", "format": "voc", "root": str(root), "splits": splits})
    )
    with pytest.raises(UserError, match=r"A1, --data: card .*few\.yaml: no split 'half'"):
        call("A1", "--data", card)


def test_rows_that_nobody_asks_for_need_not_suit_a_card(call, no_runner, tmp_path, capsys):
    root = make_toy(tmp_path / "devkit", train=16, val=2, test=2)
    card = tmp_path / "onlyhalf.yaml"
    splits = {"half": "Half/trainval", "test": "Main/test"}
    card.write_text(
        yaml.safe_dump({"name": "onlyhalf", "format": "voc", "root": str(root), "splits": splits})
    )
    asked = ("--rows", "half/supervised", "--dry-run")
    call("A1", "--data", card, *asked)
    (line,) = capsys.readouterr().out.splitlines()
    assert "half/supervised" in line and "onlyhalf_half" in line
    with pytest.raises(UserError, match="--data: card"):
        call("A1", "--data", card)
    call("all", "--data", card, "--dry-run")
    said = capsys.readouterr().err
    assert "B2: card" in said and "the recipe trains cls. " in said and "Passed over." in said


@pytest.fixture
def small_repository(tmp_path, repository, monkeypatch) -> Path:
    """The repository with embedded sets of a few scenes."""
    root = tmp_path / "repository"
    # The data lie beside the cards, so that these are copied.
    shutil.copytree(repository / "datasets/cards", root / "datasets/cards")
    for name in ("configs", "train_net.py"):
        (root / name).symlink_to(repository / name)
    makers = {"toy": make_toy, "toy_source": make_toy_source}
    few = {
        f"datasets/cards/{name}.yaml": (
            lambda folder, make=make: make(folder, train=16, val=2, test=4), f"datasets/{name}"
        )
        for name, make in makers.items()
    }  # fmt: skip
    monkeypatch.setattr(data_check, "EMBEDDED", few)
    monkeypatch.setattr(reproduce, "REPOSITORY", root)
    monkeypatch.setattr(runners, "REPOSITORY", root)
    monkeypatch.chdir(root)
    return root


@pytest.mark.slow
@pytest.mark.timeout(1200)  # five trainings
def test_a_small_row_is_computed_with_all_that_it_needs(call, small_repository, tmp_path, capfd):
    """Pretrained teacher and student, fine-tuned teacher, two students; two iterations each."""
    rows = "small/student,small/adaptive_budget_feats_p"
    command = ("B5", "--scale", "small", "--rows", rows, "SOLVER.MAX_ITER", 2)
    assert call(*command, "SOLVER.STEPS", "(1,)", "MODEL.GFL_HEAD.SCORE_THRESH_TEST", 0.0) == 0
    said = capfd.readouterr().out
    assert "[5/5] adaptive/table5/small/adaptive_budget_feats_p, seed 1: finished after" in said
    (folder,) = (tmp_path / "out").glob("B5-small-*")
    text = (folder / "report.md").read_text()
    line = next(x for x in text.splitlines() if x.startswith("| adaptive within a budget, "))
    *_, low_high, probability, verdict = (cell.strip() for cell in line.split("|")[1:-1])
    assert "…" in low_high and 0 <= float(probability) <= 1 and verdict == "not decided"
    kept = [json.loads(file.read_text()) for file in (tmp_path / "out/runs").glob("*/resampled*")]
    assert len(kept) == 5 and all(len(x["bbox/AP"]) == 200 for x in kept)


def test_a_table_is_computed_and_not_repeated(call, tmp_path, repository, capfd, monkeypatch):
    """Teacher and self-trained student, two iterations each, on a few images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    content = yaml.safe_load((repository / "datasets/cards/toy.yaml").read_text())
    root = make_toy(tmp_path / "devkit", train=16, val=2, test=4)
    card = tmp_path / "few.yaml"
    card.write_text(yaml.safe_dump({**content, "name": "fewscenes", "root": str(root)}))
    command = ("A1", "--data", card, "--rows", "teacher,self_trained_pdf", "SOLVER.MAX_ITER", 2)
    command += ("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0)
    command += ("MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 50)

    assert call(*command) == 0
    said = capfd.readouterr().out
    assert "[2/2] limited-data/table1/toy/half/self_trained_pdf, seed 1: finished after" in said
    (folder,) = (tmp_path / "out").glob("A1-tiny-few-*")
    text = (folder / "report.md").read_text()
    teacher, student = (
        next(line for line in text.splitlines() if line.startswith(f"| {label}")).split("|")
        for label in ("teacher, half", "self-trained + PDF")
    )
    for row in (teacher, student):
        assert float(row[3]) >= 0, "our AP"
    assert (folder / "report.html").stat().st_size > 5_000
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    assert len(runs) == 2
    before = [(run / "student.pth").stat().st_mtime_ns for run in runs]

    assert call(*command) == 0
    assert "2 trainings, 2 of them finished before." in capfd.readouterr().out
    assert [(run / "student.pth").stat().st_mtime_ns for run in runs] == before
