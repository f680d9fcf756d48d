"""A person's decisions on pseudo-labels, and the page that they are taken on."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multas.data import review_page
from multas.data.class_colours import class_colour
from multas.data.pseudo_label_files import (
    Header,
    file_sha256,
    read_pseudo_labels,
    save_pseudo_labels,
)
from multas.data.pseudo_mask_files import MaskHeader, writing_masks
from multas.data.review import DROP, KEEP, Review, apply_review, read_review
from multas.data.review_page import write_review_page

CLASSES = ["cat", "dog", "</script><b>cow"]
ODD = 'Straße <img src=x onerror="alert(1)"> 5.png'


def box(image_id, score, category_id=0, bbox=(10.0, 20.0, 30.0, 40.0)):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


BOXES = [box("a", 0.4), box("a", 0.9, 1), box("b", 0.6), box("b", 0.3, 1), box(7, 0.5, 2)]
HEADER = Header("pets_unlabeled", CLASSES, ["a", "b", 7, "none"], 0.2, 0)


@pytest.fixture
def labels(tmp_path):
    path = str(tmp_path / "labels.json")
    save_pseudo_labels(path, HEADER, BOXES)
    return path


def decisions(labels, boxes=(), complete=(), **more):
    return {"version": 1, "sha256": file_sha256(labels), "boxes": list(boxes),
            "complete": list(complete), **more}  # fmt: skip


def test_accepted_boxes_are_certain_and_rejected_ones_gone(labels, tmp_path):
    file = tmp_path / "decisions.json"
    file.write_text(json.dumps(decisions(labels, [
        {"box": 0, "decision": "accept"},
        {"box": 1, "decision": "reject"},
        {"box": 2, "decision": "relabel", "category_id": 1},
    ])))  # fmt: skip
    header, kept, counts = apply_review(*read_review(str(file), labels)[1:], _of(file, labels))
    assert kept == [box("a", 1.0), box("b", 1.0, 1), BOXES[3], BOXES[4]]
    assert counts == {"accepted": 1, "rejected": 1, "relabelled": 1, "not looked at, kept": 2}
    assert header == replace(HEADER, reviewed=file_sha256(labels))
    output = str(tmp_path / "reviewed.json")
    save_pseudo_labels(output, header, kept)
    assert read_pseudo_labels(output) == (header, kept)


def _of(file, labels):
    return read_review(str(file), labels)[0]


def test_what_nobody_has_looked_at_is_dropped_on_request():
    review = Review({0: None, 2: 0}, complete=frozenset([7, "none"]))
    header, kept, _ = apply_review(HEADER, BOXES, review, DROP)
    assert kept == [box("b", 1.0), box(7, 1.0, 2)]
    # Of "a" nothing is left, but a person has seen it: it is background.
    assert header.image_ids == ["a", "b", 7, "none"]
    header, kept, _ = apply_review(HEADER, BOXES, Review({4: 2}), DROP)
    assert (header.image_ids, kept) == ([7], [box(7, 1.0, 2)])


def test_thresholds_drop_undecided_boxes_alone_also_of_complete_images():
    review = Review({0: 0}, frozenset(["b"]), {0: 0.5, 1: 0.4, 2: 0.2})
    header, kept, counts = apply_review(HEADER, BOXES, review)
    assert kept == [box("a", 1.0), BOXES[1], box("b", 1.0), BOXES[4]]
    assert counts["below the threshold"] == 1
    assert header.score_thresh == 0.2


@given(
    st.dictionaries(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 2))),
    st.frozensets(st.sampled_from(HEADER.image_ids)),
    st.dictionaries(st.integers(0, 2), st.floats(0, 1)),
)
def test_every_box_has_one_fate_and_none_is_new(boxes, complete, thresholds):
    review = Review(boxes, complete, thresholds)
    kept = {way: apply_review(HEADER, BOXES, review, way) for way in (KEEP, DROP)}
    for header, annotations, counts in kept.values():
        assert counts.total() == len(BOXES)
        assert {a["image_id"] for a in annotations} <= set(header.image_ids)
        places = [tuple(a["bbox"]) for a in annotations]
        assert len(places) == len(BOXES) - sum(
            n for what, n in counts.items() if what.startswith(("rej", "below", "not looked at, d"))
        )
    assert all(a in kept[KEEP][1] for a in kept[DROP][1])
    certain = [a for a in kept[KEEP][1] if a["score"] == 1]
    assert kept[DROP][1] == certain


# The page


@pytest.fixture
def images(tmp_path):
    """Dataset dicts of images in a folder with an odd name, of other sizes and modes."""
    folder = tmp_path / "odd & <folder>"
    folder.mkdir()
    sizes = {"a": ("RGB", (300, 900)), "b": ("L", (60, 80)), 7: ("RGB", (100, 100)),
             "none": ("RGB", (40, 70))}  # fmt: skip
    names = {"a": "a.png", "b": ODD, 7: "000007.jpg", "none": "none.png"}
    records = []
    for image_id, (mode, size) in sizes.items():
        pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        file = folder / names[image_id]
        Image.fromarray(pixels).convert(mode).save(file)
        records.append({"image_id": image_id, "file_name": str(file)})
    return records


def content_of(page):
    text = page.read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


def test_the_page_has_every_box_most_doubtful_images_first(labels, images, tmp_path):
    page = tmp_path / "review.html"
    verdicts, objects = [True, False, None, True, True], [3, 2, 0]
    count = write_review_page(
        page, labels, HEADER, BOXES, images, verdicts=verdicts, objects=objects
    )
    content = content_of(page)
    assert count == 4
    assert [image["place"] for image in content["images"]] == [1, 0, 2, 3]
    assert content["images"][1]["boxes"] == [
        [0, 0, 0.4, 10, 20, 30, 40, True], [1, 1, 0.9, 10, 20, 30, 40, False]
    ]  # fmt: skip
    assert (content["objects"], content["sha256"]) == (objects, file_sha256(labels))
    assert (content["images"][1]["width"], content["images"][1]["height"]) == (300, 900)
    for image in content["images"]:
        assert image["src"].startswith("data:image/jpeg;base64,")
        assert (tmp_path / unquote(image["full"])).is_file()


def test_names_cannot_become_markup(labels, images, tmp_path):
    page = tmp_path / "review.html"
    write_review_page(page, labels, HEADER, BOXES, images)
    text = page.read_text()
    assert content_of(page)["classes"] == CLASSES
    assert content_of(page)["images"][0]["name"] == ODD
    assert "<b>cow" not in text and "<img" not in text
    assert not re.search(r"https?:|<link|@import|url\(", text.replace("http://www.w3.org/", ""))
    script = text.partition('<script type="application/json"')[2].partition("</script>")[2]
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script


def test_images_beyond_the_most_count_in_the_numbers(labels, images, tmp_path):
    page = tmp_path / "review.html"
    assert write_review_page(page, labels, HEADER, BOXES, images, most=1) == 1
    content = content_of(page)
    assert [image["place"] for image in content["images"]] == [1]
    assert content["total"] == 4
    assert content["others"] == [[0, 0.4, None], [1, 0.9, None], [2, 0.5, None]]


def test_pictures_of_a_large_page_lie_beside_it(labels, images, tmp_path, monkeypatch):
    monkeypatch.setattr(review_page, "_MOST_BYTES", 1000)
    page = tmp_path / "my page.html"
    write_review_page(page, labels, HEADER, BOXES, images)
    for image in content_of(page)["images"]:
        with Image.open(tmp_path / unquote(image["src"])) as picture:
            assert max(picture.size) <= 400
    assert page.stat().st_size < 60_000


def test_images_that_are_gone_are_not_shown(labels, images, tmp_path):
    page = tmp_path / "review.html"
    write_review_page(page, labels, HEADER, BOXES, images[1:])
    assert [image["place"] for image in content_of(page)["images"]] == [1, 2, 3]
    with pytest.raises(ValueError, match="none of its images is in the data set"):
        write_review_page(page, labels, HEADER, BOXES, [{"image_id": "x", "file_name": "x"}])
    shutil.rmtree(tmp_path / "odd & <folder>")
    with pytest.raises(ValueError, match="not a readable image"):
        write_review_page(page, labels, HEADER, BOXES, images)


@pytest.fixture
def masks(images, tmp_path):
    """A folder of masks of two images; of the third, no pixel is certain."""
    classes = ["Background", "sky", "dog"]
    header = MaskHeader("pets_unlabeled", classes, prob_thresh=0.9, ignore_label=255)
    folder = tmp_path / "masks"
    with writing_masks(folder, header, ["a", "b", 7]) as write:
        for record, value in zip(images, [2, 0], strict=False):
            with Image.open(record["file_name"]) as image:
                width, height = image.size
            logits = torch.zeros(3, height, width)
            logits[value] = 9.0
            logits[:, : height // 2, : width // 2] = 0.0  # a quarter is not certain
            write(record["image_id"], logits)
        write(7, torch.zeros(3, 100, 100))
    return str(folder)


def test_masks_lie_over_the_images_in_the_colours_of_the_boxes(labels, images, masks, tmp_path):
    page = tmp_path / "review.html"
    write_review_page(page, labels, HEADER, BOXES, images, masks=masks)
    content = content_of(page)
    dog = class_colour(CLASSES.index("dog"))
    assert content["masks"]["2"] == ["dog", dog + "66"]
    assert content["masks"]["1"][1][:7] == class_colour(len(CLASSES)), "no box has this class"
    assert set(content["masks"]) == {"1", "2", "255"}, "background is not painted"
    found = {image["place"]: image for image in content["images"]}
    assert {place for place, image in found.items() if "mask" in image} == {0, 1}
    assert found[0]["values"] == [2, 255] and found[1]["values"] == [255]
    kind, _, code = found[0]["mask"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
        assert kind == "data:image/png;base64" and picture.size == (133, 400)
        pixels = np.asarray(picture)
    assert pixels[300, 100].tolist() == list(bytes.fromhex(dog[1:] + "66"))
    assert pixels[200, 20, 3] == pixels[100, 60:72, 3].max() == 255, "outlines"
    assert pixels[10, 10].tolist() == list(bytes.fromhex(content["masks"]["255"][1][1:]))
    with Image.open(io.BytesIO(base64.b64decode(found[1]["mask"].partition(",")[2]))) as picture:
        alpha = np.asarray(picture)[..., 3]
        assert alpha[70, 50] == alpha[40, 10] == 0, "background is clear, also beside a class"


def test_masks_of_a_large_page_lie_beside_it(labels, images, masks, tmp_path, monkeypatch):
    monkeypatch.setattr(review_page, "_MOST_BYTES", 1000)
    page = tmp_path / "my page.html"
    write_review_page(page, labels, HEADER, BOXES, images, masks=masks)
    files = [image["mask"] for image in content_of(page)["images"] if "mask" in image]
    assert len(files) == 2 and all((tmp_path / unquote(file)).is_file() for file in files)


def test_masks_of_other_images_are_refused(labels, images, masks, tmp_path):
    page = tmp_path / "review.html"
    with pytest.raises(ValueError, match="none of an image of 'pets_unlabeled' that has boxes"):
        other = replace(HEADER, image_ids=["x"])
        write_review_page(page, labels, other, [], [{"image_id": "x"}], masks=masks)
    Image.new("RGB", (5, 5)).save(images[0]["file_name"])
    with pytest.raises(ValueError, match=r"a\.png is 300x900, but its image is 5x5"):
        write_review_page(page, labels, HEADER, BOXES, images, masks=masks)
    assert not page.exists()
