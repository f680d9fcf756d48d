"""Wrong files of pseudo-labels, as training meets them, and wrong requests to write one."""

import copy
import json
import math

import pytest
from detectron2.data import DatasetCatalog

from bad_inputs.entry import cases, check_refusal
from multas.data import register_card
from multas.data.pseudo_label_files import read_pseudo_labels
from multas.data.pseudo_labels import load_pseudo_labels
from multas.engine import pseudo_labeling
from multas.modeling import MultiTaskNetwork

TRAIN = ["DATASETS.TRAIN", "('tiny_half', 'tiny_half2_unlabeled')"]
FILES = "DATASETS.PSEUDO_LABELS.FILES"
AGAIN = "tools/pseudo_label.py"


def train(world, file="pseudo.json", *opts):
    return world.train(*TRAIN, FILES, f"('{file}',)", *opts)


def entry(key, value):
    """Changes the second box of a file."""

    def change(content):
        content["annotations"][1][key] = value

    return change


def header(key, value):
    def change(content):
        content["header"][key] = value

    return change


def without(part, key):
    def change(content):
        del (content["header"] if part == "header" else content["annotations"][1])[key]

    return change


def twice(content):
    content["header"]["image_ids"].append(content["header"]["image_ids"][0])


CONTENTS = [
    (entry("bbox", [math.nan, 1, 2, 3]), "nan", "four finite numbers"),
    (entry("bbox", [1, math.inf, 2, 3]), "[1, inf, 2, 3]", "four finite numbers"),
    (entry("bbox", [1, 2, -math.inf, 3]), "-inf", "four finite numbers"),
    (entry("bbox", [-20, 1, 30, 30]), "begins outside of the image"),
    (entry("bbox", [1, 1, -5, 30]), "has no area", "above 0"),
    (entry("bbox", [1, 1, 5, 0]), "has no area", "above 0"),
    (entry("bbox", [1, 1, 5]), "four finite numbers x, y, width, height"),
    (entry("bbox", "1 1 5 5"), "four finite numbers x, y, width, height"),
    (entry("bbox", {"x": 1}), "four finite numbers x, y, width, height"),
    (entry("bbox", [1, 2, "3", 4]), "four finite numbers"),
    (entry("bbox", [1, 2, 3, 10**400]), "four finite numbers"),
    (entry("bbox", None), "four finite numbers"),
    (entry("score", math.nan), "score is nan, need a number from 0 to 1"),
    (entry("score", math.inf), "score is inf, need a number from 0 to 1"),
    (entry("score", 97), "score is 97, need a number from 0 to 1"),
    (entry("score", -0.5), "score is -0.5, need a number from 0 to 1"),
    (entry("score", "0.9"), "score is '0.9', need a number from 0 to 1"),
    (entry("score", True), "score is True, need a number from 0 to 1"),
    (entry("category_id", 8), "category_id 8 is none of 0 to 7"),
    (entry("category_id", -1), "category_id -1 is none of 0 to 7"),
    (entry("category_id", "cat"), "category_id is 'cat', need a whole number"),
    (entry("category_id", 1.0), "category_id is 1.0, need a whole number"),
    (entry("image_id", "elsewhere"), "(image 'elsewhere')", "header does not list this image"),
    (entry("image_id", ["a"]), "image_id is ['a'], need a whole number or a text"),
    (without("entry", "bbox"), "lacks the key 'bbox'"),
    (without("entry", "score"), "lacks the key 'score'"),
    (without("entry", "category_id"), "lacks the key 'category_id'"),
    (without("entry", "image_id"), "lacks the key 'image_id'"),
    (lambda c: c["annotations"].__setitem__(1, [1, 2]), "must be a table of keys, it is [1, 2]"),
]


@pytest.fixture
def changed(world):
    """``changed(change)``: the message with which training refuses a changed file."""

    def refuse(change):
        content = world.read("pseudo.json")
        change(content)
        world.write("pseudo.json", content)
        return train(world)

    return refuse


@cases("change", CONTENTS)
def test_wrong_entries(changed, change, parts):
    check_refusal(changed(change), "pseudo.json: annotations[1]", *parts, AGAIN)


HEADERS = [
    (header("classes", "cat"), "classes is 'cat', need a list of names"),
    (header("classes", [1, 2]), "classes is [1, 2], need a list of names"),
    (header("image_ids", 3), "image_ids is 3, need a list of ids"),
    (header("image_ids", [{}]), "image_ids is [{}], need a list of ids"),
    (twice, "image_ids lists the image", "twice"),
    (header("score_thresh", 50), "score_thresh is 50, need a number from 0 to 1"),
    (header("topk", -1), "topk is -1, need 0 (all) or more"),
    (header("topk", "all"), "topk is 'all', need 0 (all) or more"),
    (header("dataset", 5), "dataset is 5, need a text"),
    (header("version", 2), "version is 2, need 1, which this multas reads"),
    (without("header", "classes"), "header: lacks the key 'classes'"),
    (without("header", "image_ids"), "header: lacks the key 'image_ids'"),
    (without("header", "topk"), "header: lacks the key 'topk'"),
    (lambda c: c.__setitem__("header", []), "header: must be a table of keys"),
    (lambda c: c.__setitem__("annotations", {}), "annotations must be a list, it is {}"),
]


@cases("change", HEADERS)
def test_wrong_headers(changed, change, parts):
    check_refusal(changed(change), "pseudo.json: ", *parts, AGAIN)


WHOLE = json.dumps({"header": {}, "annotations": []}).encode()
FILE_CONTENTS = [
    (b"", "is not JSON", "cut off"),
    (b" \n", "is not JSON", "cut off"),
    (WHOLE[:20], "is not JSON", "cut off"),
    (b"\x89PNG\r\n\xff\xfe", "line 1 is not UTF-8"),
    ('{"header": "Stra\xdfe"}'.encode("latin-1"), "line 1 is not UTF-8"),
    (b'{"annotations": []}', "must have 'header' and 'annotations'"),
    (b"17", "must have 'header' and 'annotations'"),
    (b'[{"image_id": 1}]', "list of COCO results", '"image_ids"', "category_id from 0"),
    (b"[" * 100_000, "is not JSON"),
]


@cases("content", FILE_CONTENTS)
def test_files_of_another_kind(world, content, parts):
    world.write("pseudo.json", content)
    check_refusal(train(world), "pseudo.json", *parts, AGAIN)


def test_missing_files_and_folders(world):
    check_refusal(train(world, "no.json"), FILES, "'no.json': no such file", AGAIN)
    check_refusal(train(world, "coco"), FILES, "'coco', which is a folder", "name a file")


def test_a_file_in_utf_16_is_read(world):
    content = world.read("pseudo.json")
    world.write("pseudo.json", json.dumps(content).encode("utf-16"))
    assert read_pseudo_labels(str(world / "pseudo.json"))[1] == content["annotations"]


OPTIONS = [
    (("SCORE_THRESH", "1.5"), "a number from 0 to 1"),
    (("SCORE_THRESH", "-0.1"), "a number from 0 to 1"),
    (("CLASS_SCORE_THRESH", str(7 * [0.5] + [2.0])), "each a number from 0 to 1"),
    (("CLASS_SCORE_THRESH", "[0.5]"), "there are 8 classes; give one for each"),
    (("TOPK", "-1"), "0 or more"),
]


@cases("option", OPTIONS)
def test_wrong_options(world, option, parts):
    key = f"DATASETS.PSEUDO_LABELS.{option[0]}"
    check_refusal(train(world, "pseudo.json", key, option[1]), key, *parts)


def test_many_faults_are_counted(world, changed):
    def change(content):
        for box in content["annotations"]:
            box["score"] = 2

    count = len(world.read("pseudo.json")["annotations"])
    check_refusal(changed(change), "annotations[0]", "annotations[4]", f"and {count - 5} more")


def test_thresholds_below_that_of_the_file_are_warned_of(world, caplog):
    path = str(world / "pseudo.json")
    classes = world.read("pseudo.json")["header"]["classes"]
    load_pseudo_labels([path], classes)
    assert not caplog.records, "without a threshold all boxes of the file are wanted"
    load_pseudo_labels([path], classes, score_thresh=0.3)
    assert "no boxes with scores below 0.5" in caplog.text
    assert "--score-thresh 0.3" in caplog.text


ARGUMENTS = [
    (("--score-thresh", "1.5"), "--score-thresh is 1.5", "from 0 to 1"),
    (("--score-thresh", "nan"), "--score-thresh is nan", "from 0 to 1"),
    (("--score-thresh", "-1"), "--score-thresh is -1", "from 0 to 1"),
    (("--topk", "-1"), "--topk is -1", "0 or more"),
    (("--scales", "0"), "--scales is [0.0]", "greater than 0"),
    (("--scales", "1", "-2"), "--scales is [1.0, -2.0]", "greater than 0"),
    (("--scales", "nan"), "--scales is [nan]", "greater than 0"),
    (("--scales", "inf"), "--scales is [inf]", "greater than 0"),
    (("--weights", "none.pth"), "none.pth': no such file", "weights of a trained model"),
    (("--report-against", "tiny_test"), "--report-against tiny_test", "has no image"),
    (("--report-against", "tiny_half2_unlabeled"), "are not annotated", "without _unlabeled"),
    (("--report-against", "tiny_hafl2"), "tiny_hafl2", "not registered", "tiny_half2"),
]


@cases("argv", ARGUMENTS)
def test_wrong_arguments_are_found_before_the_model_runs(world, argv, parts, no_labelling):
    check_refusal(world.label(*argv), *parts)


@pytest.fixture
def no_labelling(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the model ran")

    monkeypatch.setattr(pseudo_labeling, "label_images", refuse)


OUTPUTS = [
    ("coco", "'coco' is a folder", "name a file"),
    ("student.yaml/labels.json", "cannot be written", "Name another file"),
    ("teacher.pth/deeper/labels.json", "cannot be written", "Name another file"),
    ("", "is a folder", "name a file"),
    ("/proc/labels.json", "cannot be written", "Name another file"),
]


@cases("output", OUTPUTS)
def test_outputs_that_cannot_be_written(world, output, parts, no_labelling):
    check_refusal(world.label(output=output), "--output", *parts)


def test_truth_of_other_images_with_the_same_ids(world, no_labelling):
    card = copy.deepcopy(world.read("devkit.yaml"))
    register_card({**card, "name": "other", "root": str(world / "devkit")})
    records = [{**r, "width": 7} for r in DatasetCatalog.get("other_half2")]
    DatasetCatalog.register("swapped", lambda: records)
    message = world.label("--report-against", "swapped")
    check_refusal(message, "--report-against swapped", "has width 7", "of the same images")


def test_images_that_share_an_id_cannot_be_labelled(world, no_labelling):
    image = str(next((world / "devkit" / "JPEGImages").iterdir()))
    DatasetCatalog.register("shared", lambda: [{"image_id": 1, "file_name": image}] * 2)
    DatasetCatalog.register("nameless", lambda: [{"file_name": image}])
    check_refusal(world.label(dataset="shared"), "'shared'", "each image its own")
    check_refusal(world.label(dataset="nameless"), "'nameless'", "a text or an integer")


def test_detections_that_are_not_finite_are_refused(world, monkeypatch):
    whole = MultiTaskNetwork.forward

    def broken(self, batch):
        found = whole(self, batch)
        for output in found:
            output["instances"].scores.fill_(math.nan)
        return found

    monkeypatch.setattr(MultiTaskNetwork, "forward", broken)
    message = world.label("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", "0.0")
    check_refusal(message, "are not finite", ".jpg", "another checkpoint")
