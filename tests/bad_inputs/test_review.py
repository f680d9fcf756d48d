"""Wrong decisions of a review, wrong requests for one, and wrong files of other programs."""

import json

import pytest

from bad_inputs.entry import cases, check_refusal
from multas.data.pseudo_label_files import file_sha256, read_pseudo_labels

TOOL, EXCHANGE = "tools/pseudo_label.py", "tools/exchange.py"


def apply(world, content=None, *argv, labels="pseudo.json", output="new.json"):
    """The message with which decisions are refused; ``content`` changes sound ones."""
    decisions = {"version": 1, "sha256": file_sha256(str(world / "pseudo.json")),
                 "boxes": [{"box": 0, "decision": "accept"}], "complete": []}  # fmt: skip
    if callable(content):
        content(decisions)
        content = decisions
    world.write("decisions.json", decisions if content is None else content)
    options = ["--input", labels, "--apply-review", "decisions.json", "--output", output]
    return world.refused(TOOL, *options, *argv)


def add(**entry):
    return lambda content: content["boxes"].append(entry)


DECISIONS = [
    (lambda c: c.update(sha256="0" * 64), "about another file than pseudo.json", "hash"),
    (lambda c: c.update(version=2), "version is 2, need 1"),
    (lambda c: c.pop("boxes"), "lacks the key 'boxes'"),
    (lambda c: c.update(complete=[99]), "complete has 99, but there are 8 images"),
    (lambda c: c.update(complete=["a"]), "complete is ['a'], need a list of whole numbers"),
    (lambda c: c.update(thresholds={"cow": 0.5}), "thresholds has 'cow', no class of pseudo.json"),
    (lambda c: c.update(thresholds={"disc": 5}), "numbers from 0 to 1"),
    (add(box=99, decision="accept"), "boxes[1]: box is 99, but the file has 8"),
    (add(box=-1, decision="accept"), "boxes[1]: box is -1"),
    (add(box=0, decision="reject"), "boxes[1]: box 0 is decided on twice"),
    (add(box=1, decision="maybe"), "decision is 'maybe', need accept or reject or relabel"),
    (add(box=1, decision="relabel"), "category_id is None, need a class from 0 to 7"),
    (add(box=1, decision="relabel", category_id=8), "category_id is 8"),
    (add(box=1), "lacks the key 'decision'"),
]


@cases("change", DECISIONS)
def test_wrong_decisions(world, change, parts):
    check_refusal(apply(world, change), "decisions.json", *parts)


FILES = [
    (b"", "is not JSON"),
    (b"[]", "has no decisions of a review"),
    (b'{"header": {}, "annotations": []}', "has no decisions of a review", "lacks the key"),
]


@cases("content", FILES)
def test_files_that_hold_no_decisions(world, content, parts):
    check_refusal(apply(world, content), "decisions.json", *parts)


def test_outputs_that_would_be_lost(world):
    check_refusal(apply(world, output="student.yaml"), "no file of pseudo-labels; it would be lost")
    check_refusal(apply(world, output="coco"), "is a folder")
    check_refusal(apply(world, labels="gone.json"), "gone.json", "no such file")


ARGUMENTS = [
    (["--apply-review", "d.json"], "required: --input, --output"),
    (["--input", "pseudo.json"], "required: --review or --apply-review"),
    (["--config-file", "student.yaml"], "required: --weights, --dataset, --output (boxes) or"),
    (["--weights", "teacher.pth", "--review"], "--config-file, --dataset, --output"),
    (["--input", "pseudo.json", "--review"], "needs", "tiny_half2_unlabeled", "not registered"),
    (["--input", "pseudo.json", "--review", "--review-images", "-1"], "--review-images is -1"),
    (["--input", "pseudo.json", "--apply-review", "d.json", "--output", "n.json", "--unreviewed",
      "lose"], "invalid choice: 'lose'"),
]  # fmt: skip


@cases("argv", ARGUMENTS)
def test_wrong_requests(world, argv, parts):
    check_refusal(world.refused(TOOL, *argv), *(p for p in parts if p != "needs"))


def test_a_folder_that_is_no_place_for_masks(world):
    message = world.label("--masks", "coco")
    check_refusal(message, "--masks 'coco' has files that are no pseudo-masks", "another folder")
    check_refusal(world.label("--masks", "student.yaml"), "--masks 'student.yaml' is no folder")
    check_refusal(world.label("--mask-thresh", "2"), "--mask-thresh is 2.0", "from 0 to 1")
    check_refusal(world.label("--masks", "new"), "segments no images", "leave out --masks")


def test_masks_that_are_no_masks(world):
    key = "DATASETS.PSEUDO_LABELS.MASKS"
    check_refusal(world.train(key, "('coco',)"), f"{key} names 'coco'", "has no masks.json")


@pytest.fixture
def exchange(world):
    """``exchange(command, ...)``: the message with which tools/exchange.py refuses something."""
    cards = ["DATASETS.CARDS", "('devkit.yaml',)"]

    def refuse(command, *argv):
        return world.refused(EXCHANGE, command, "--input", "pseudo.json", *argv, *cards)

    return refuse


def test_wrong_exchanges(world, exchange):
    check_refusal(exchange("export", "--output", "coco"), "'coco' is there and not empty")
    check_refusal(
        exchange("export", "--output", "new", "--dataset", "tiny_test"), "none of their images"
    )
    back = ["import", "--output", "new.json", "--coco"]
    check_refusal(exchange(*back, "gone.zip"), "gone.zip", "No such file")
    check_refusal(
        exchange(*back, "coco/train.json"), "has the class 'cat', which the pseudo-labels do not"
    )
    check_refusal(exchange(*back, "masks"), "masks has no COCO file")
    check_refusal(exchange(*back, "pseudo.json"), "pseudo.json is no COCO file")
    world.write("edited.json", json.dumps({"images": 5, "categories": []}))
    check_refusal(exchange(*back, "edited.json"), "`images` must be a list")


def test_an_export_comes_back_as_it_was(world):
    cards = ["DATASETS.CARDS", "('devkit.yaml',)"]
    world.run(EXCHANGE, "export", "--input", "pseudo.json", "--output", "exported", *cards)
    world.run(
        EXCHANGE, "import", "--input", "pseudo.json", "--coco", "exported", "--output", "new.json",
        *cards,
    )  # fmt: skip
    before, after = (read_pseudo_labels(str(world / f"{n}.json")) for n in ("pseudo", "new"))
    assert after[1] == before[1]
    assert after[0].image_ids == before[0].image_ids
    assert after[0].reviewed == file_sha256(str(world / "pseudo.json"))
    world.run(TOOL, "--input", "new.json", "--review", *cards)
    assert (world / "review.html").stat().st_size > 20_000
