"""Images that cannot be read: found before training, and named where they break later."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import COCOEvaluator
from PIL import Image

from bad_inputs.entry import check_refusal, run_script
from multas.data import cards, image_checks, register_card
from multas.data.image_checks import checked_images, find_broken, image_fault
from multas.engine import Trainer, load_config

CURE = "Mend or remove these images"


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def lose_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def png(path: Path, cut: int = 0) -> None:
    """A PNG with the suffix of a JPEG, perhaps cut."""
    stream = io.BytesIO()
    with Image.open(path) as image:
        image.save(stream, "PNG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) - cut])


def cut_png(path: Path) -> None:
    png(path, 2000)


def floats(path: Path) -> None:
    """Numbers with a point, whose white nobody knows."""
    Image.new("F", (8, 8)).save(path, "TIFF")


def remove(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def bomb(path: Path) -> None:
    """A small file that claims to hold 400 million pixels."""
    png(path)
    content = path.read_bytes()
    size = struct.pack(">II", 20_000, 20_000)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + size + content[24:29]))
    path.write_bytes(content[:16] + size + content[24:29] + checksum + content[33:])


@pytest.fixture
def plain(world):
    """``plain(spoil)``: images that are registered without a card, of which one is spoilt."""

    def register(spoil, name="plain", number=1):
        files = sorted((world / "devkit" / "JPEGImages").iterdir())
        records = []
        for file in files[:4]:
            with Image.open(file) as image:
                width, height = image.size
            sizes = {"width": width, "height": height}
            records.append({"file_name": str(file), "image_id": file.stem, **sizes,
                            "annotations": []})  # fmt: skip
        DatasetCatalog.register(name, lambda: records)
        classes = world.read("devkit.yaml")["classes"]
        MetadataCatalog.get(name).set(thing_classes=classes, evaluator_type="coco")
        spoil(files[number])
        return files[number]

    return register


KINDS = [
    (truncate, "not a readable image", "truncated"),
    (lose_the_end, "not a readable image", "truncated"),
    (cut_png, "not a readable image", "truncated"),
    (empty, "is empty"),
    (text, "not a readable image (unknown format)"),
    (bomb, "not a readable image (DecompressionBombError", "pixels"),
    (remove, "No such file"),
    (folder, "Is a directory"),
    (link_to_nothing, "No such file"),
]
ids = [spoil.__name__ for spoil, *_ in KINDS]


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@pytest.mark.parametrize(("spoil", "parts"), [(s, p) for s, *p in KINDS], ids=ids)
def test_broken_images_are_found_before_training(world, plain, split, spoil, parts):
    file = plain(spoil)
    opts = [f"DATASETS.{split}", "('plain',)"]
    if split == "TRAIN":
        opts += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    check_refusal(world.train(*opts), "'plain': 1 issue", str(file), *parts, CURE)


@pytest.mark.parametrize("spoil", [truncate, lose_the_end])
def test_broken_images_of_cards_are_found(world, spoil):
    ids = (world / "devkit" / "ImageSets" / "Half" / "trainval.txt").read_text().split()
    file = world / "devkit" / "JPEGImages" / f"{ids[1]}.jpg"
    spoil(file)
    check_refusal(world.train(), "'tiny_half': 1 issue", file.name, "truncated", CURE, "skip")


def test_a_set_for_early_stopping_is_looked_at(world, plain):
    file = plain(truncate)
    opts = ["SOLVER.EARLY_STOPPING.ENABLED", "True", "SOLVER.EARLY_STOPPING.DATASET", "plain"]
    check_refusal(world.train(*opts), str(file), "truncated", CURE)


def test_a_set_for_bilevel_weights_is_looked_at(world, plain):
    file = plain(truncate)
    key = "MODEL.DISTILLATION.AGGREGATION"
    opts = [f"{key}.NAME", "bilevel", f"{key}.DATA", "['plain']"]
    message = world.train(*opts, config="distilled.yaml")
    check_refusal(message, str(file), "truncated", CURE)


@pytest.mark.parametrize("spoil", [truncate, empty, text])
def test_broken_images_are_found_before_evaluation_alone(world, plain, spoil):
    file = plain(spoil)
    keys = ["MODEL.WEIGHTS", "teacher.pth", "DATASETS.TEST", "('plain',)"]
    argv = ["--config-file", "student.yaml", "--eval-only", *keys]
    message = world.refused("train_net.py", *argv)
    check_refusal(message, str(file), CURE)


@pytest.mark.parametrize("spoil", [truncate, empty, text])
def test_broken_images_are_found_before_labelling(world, plain, spoil):
    file = plain(spoil)
    message = world.refused(
        "tools/pseudo_label.py", "--config-file", "student.yaml", "--weights", "teacher.pth",
        "--dataset", "plain", "--output", "out.json",
    )  # fmt: skip
    check_refusal(message, str(file), CURE)


def class_folders(world, **keys):
    """A card of class folders, whose images are not opened when it is loaded."""
    files = sorted((world / "devkit" / "JPEGImages").iterdir())
    for number, name in enumerate(("a", "b")):
        (world / "classes" / name).mkdir(parents=True)
        for file in files[number::2]:
            shutil.copy(file, world / "classes" / name / file.name)
    card = {"name": "kinds", "format": "folders", "root": str(world / "classes"),
            "splits": {"all": "."}, **keys}  # fmt: skip
    world.write("classes.yaml", card)
    return sorted((world / "classes").glob("*/*.jpg"))


@pytest.mark.parametrize("spoil", [truncate, empty, text, bomb, floats, link_to_nothing])
def test_broken_images_in_class_folders(world, spoil):
    file = class_folders(world)[2]
    spoil(file)
    register_card(str(world / "classes.yaml"))
    with pytest.raises(ValueError, match=file.name), checked_images(["kinds_all"]):
        pass


def test_all_broken_files_are_named_together_and_once(world):
    files = class_folders(world)
    for file in files:
        empty(file)
    register_card(str(world / "classes.yaml"))
    with (
        pytest.raises(ValueError, match=CURE) as caught,
        checked_images(["kinds_all", "kinds_all_unlabeled"]),
    ):
        pass
    assert f"{len(files)} issues" in str(caught.value)
    assert "'kinds_all', 'kinds_all_unlabeled'" in str(caught.value)


def test_skip_leaves_out_broken_images_everywhere_until_they_are_mended(world, caplog):
    file = class_folders(world, strictness="skip")[2]
    content = file.read_bytes()
    truncate(file)
    register_card(str(world / "classes.yaml"))
    count = len(DatasetCatalog.get("kinds_all"))
    with checked_images(["kinds_all"]):
        inside = DatasetCatalog.get("kinds_all")
    assert str(file) in caplog.text and "Left out because of `strictness: skip`" in caplog.text
    kept = DatasetCatalog.get("kinds_all")
    assert kept == inside
    assert len(kept) == count - 1 and str(file) not in [r["file_name"] for r in kept]
    assert MetadataCatalog.get("kinds_all").left_out == {"broken images": 1}
    file.write_bytes(content)
    with checked_images(["kinds_all"]):
        assert len(DatasetCatalog.get("kinds_all")) == count
    assert len(DatasetCatalog.get("kinds_all")) == count


@pytest.mark.parametrize("name", ["tinycoco_train", "tiny_half"])
def test_skipped_images_are_no_misses_for_the_evaluators(world, name):
    for card in ("coco.yaml", "devkit.yaml"):
        content = world.read(card) | {"strictness": "skip"}
        content["root"] = str(world / content["root"])
        register_card(content)
    records = DatasetCatalog.get(name)
    truncate(Path(records[0]["file_name"]))
    metadata = MetadataCatalog.get(name)
    with checked_images([name]):
        assert not any(hasattr(metadata, key) for key in ("json_file", "dirname", "split"))
    DatasetCatalog.get(name)
    assert not any(hasattr(metadata, key) for key in ("json_file", "dirname", "split"))
    # The COCO evaluator writes a file, and loads the data set again and again.
    for _ in range(2):
        evaluator = COCOEvaluator(name, ("bbox",), output_dir=str(world / "inference"))
        assert len(evaluator._coco_api.imgs) == len(DatasetCatalog.get(name)) == len(records) - 1
    with checked_images([name]):
        assert len(DatasetCatalog.get(name)) == len(records) - 1


def test_skip_without_any_intact_image_stops(world):
    for file in class_folders(world, strictness="skip"):
        empty(file)
    register_card(str(world / "classes.yaml"))
    with (
        pytest.raises(ValueError, match="'kinds_all' has no image that can be read"),
        checked_images(["kinds_all"]),
    ):
        pass


def test_a_start_loads_each_data_set_once(world, monkeypatch):
    """Whatever of a start needs it: the check of images, epochs, the loader, the preflight."""
    loaded, whole = [], cards._load
    monkeypatch.setattr(
        cards, "_load", lambda name, *rest: (loaded.append(name), whole(name, *rest))[1]
    )
    monkeypatch.chdir(world.folder)
    Trainer(load_config("student.yaml", ["SOLVER.EPOCHS", "1"]))
    assert sorted(loaded) == ["tiny_half", "tiny_test"]
    register_card("devkit.yaml")
    DatasetCatalog.get("tiny_half")
    assert len(loaded) == 3, "later changes of the files must show"


def test_a_wrong_suffix_is_no_fault(world):
    file = world / "devkit" / "JPEGImages" / "000001.jpg"
    png(file)
    assert image_fault(str(file)) is None


def test_a_pipe_is_not_waited_for(world):
    file = world / "devkit" / "JPEGImages" / "000001.jpg"
    pipe(file)
    assert image_fault(str(file)) == "not a readable image (a pipe, not a file)"


def test_every_cut_of_a_file_is_found(world):
    content = (world / "devkit" / "JPEGImages" / "000001.jpg").read_bytes()
    file = world / "cut.jpg"
    for size in range(0, len(content) - 2, 211):
        file.write_bytes(content[:size])
        assert image_fault(str(file)), f"{size} of {len(content)} bytes"


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """A cache of its own, and the names of the files that are decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, whole = [], image_checks.image_fault
    monkeypatch.setattr(
        image_checks, "image_fault", lambda file: (names.append(file), whole(file))[1]
    )
    return names


def test_files_are_decoded_again_only_when_they_change(world, opened):
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    empty(Path(files[1]))
    assert list(find_broken(files)) == [files[1]]
    assert sorted(opened) == files
    opened.clear()
    truncate(Path(files[2]))
    assert set(find_broken(files)) == {files[1], files[2]}
    assert sorted(opened) == [files[1], files[2]]


@pytest.mark.parametrize("content", [b"", b"\0", b"abc" * 99])
def test_a_damaged_cache_is_an_empty_one(world, opened, tmp_path, content):
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    find_broken(files)
    (cache,) = (tmp_path / "cache" / "multas").iterdir()
    cache.write_bytes(content)
    opened.clear()
    assert find_broken(files) == {}
    assert sorted(opened) == files


def test_without_a_place_for_the_cache_all_is_decoded(world, opened, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    files = [str(f) for f in sorted((world / "devkit" / "JPEGImages").iterdir())]
    for _ in range(2):
        assert find_broken(files) == {}
    assert len(opened) == 2 * len(files)


LATE = ["DATASETS.CHECK_IMAGES", "False"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_what_breaks_later_names_its_file(world, plain, split, workers):
    for number in range(4):
        file = plain(truncate, f"plain{number}", number)
    keys = ["DATASETS.TRAIN", "('plain0',)", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    keys = keys if split == "TRAIN" else ["DATASETS.TEST", "('plain0',)"]
    keys += ["DATALOADER.NUM_WORKERS", str(workers), *LATE]
    argv = ["--config-file", "student.yaml", *keys]
    status, errors = run_script("train_net.py", *argv, folder=world.folder)
    message = errors[errors.index("error: ") :]
    assert status == 2 and "Traceback" not in errors and "worker" not in message
    assert str(file.parent) in message and ".jpg" in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_and_masks_that_do_not_fit_are_named(world, workers):
    (world / "devkit" / "JPEGImages" / "x.jpg").write_bytes(
        (world / "devkit" / "JPEGImages" / "000001.jpg").read_bytes()
    )
    image = str(world / "devkit" / "JPEGImages" / "x.jpg")
    with Image.open(image) as opened:
        width, height = opened.size
    small = world / "small.png"
    Image.new("L", (5, 7)).save(small)
    text(world / "text.png")
    keys = ["DATASETS.TRAIN", "('odd',)", "DATALOADER.NUM_WORKERS", workers, *LATE]
    cases = [
        ({"width": width + 1, "height": height}, "Mismatched image shape", image, "changed"),
        ({"sem_seg_file_name": str(small)}, "small.png is 5x7, but its image is", "Mend"),
        ({"sem_seg_file_name": str(world / "text.png")}, "text.png: not a readable mask", "mend"),
        ({"sem_seg_file_name": str(world / "no.png")}, "no.png: not a readable mask (No", "mend"),
    ]
    for entries, *parts in cases:
        record = {"file_name": image, "image_id": "x", "annotations": [box()], **entries}
        DatasetCatalog.register("odd", lambda record=record: [record, record])
        MetadataCatalog.get("odd").thing_classes = world.read("devkit.yaml")["classes"]
        argv = ["--config-file", "student.yaml", *map(str, keys)]
        status, errors = run_script("train_net.py", *argv, folder=world.folder)
        assert status == 2 and "Traceback" not in errors, errors
        check_refusal(errors[errors.index("error: ") :], *parts)
        DatasetCatalog.remove("odd")


def box():
    return {"bbox": [1, 1, 20, 20], "bbox_mode": 0, "category_id": 0}


class _Lose(HookBase):
    """Deletes the images after the first checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            for file in self.folder.iterdir():
                file.unlink()


def test_a_file_lost_during_training_leaves_the_last_checkpoint(world, monkeypatch):
    whole = Trainer.build_hooks
    monkeypatch.setattr(
        Trainer, "build_hooks",
        lambda self: [*whole(self), _Lose(world / "devkit" / "JPEGImages")],
    )  # fmt: skip
    argv = ["SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "2"]
    status, errors = run_script("train_net.py", "--config-file", "student.yaml", *argv,
                                folder=world.folder)  # fmt: skip
    message = errors[errors.index("error: ") :]
    assert status == 2 and len(message.strip().splitlines()) == 1
    check_refusal(message, ".jpg: not a readable image", "No such file")
    assert (world / "run" / "last_checkpoint").read_text().strip() == "model_0000001.pth"
    assert not (world / "run" / "student.pth").exists()
