"""Pseudo-labels as COCO, through what CVAT, Label Studio and FiftyOne make of it, and back.

The programs are not needed: each function below writes a file as that program's exporter does, by
its documentation and its source (CVAT: datumaro's coco_format/converter.py; Label Studio:
label_studio_sdk/converter/converter.py, convert_to_coco; FiftyOne: fiftyone/utils/coco.py).
"""

import json
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from multas.data.coco_export import export_coco
from multas.data.coco_import import import_coco
from multas.data.pseudo_label_files import Header, read_pseudo_labels, save_pseudo_labels
from multas.data.review import DROP

CLASSES = ["white cell", "red", "plättchen"]
FILES = {"x/1": "x/1.png", "y/1": "y/1.jpg", 12: "Straße 5 (2).png", "empty": "empty.png"}
HEADER = Header("cells_unlabeled", CLASSES, list(FILES), 0.3, 10, teacher_config="t.yaml")
BOXES = [
    {"image_id": "x/1", "category_id": 2, "bbox": [1.25, 2.5, 30.125, 20.0], "score": 0.75},
    {"image_id": "y/1", "category_id": 0, "bbox": [0.0, 0.0, 60.0, 40.0], "score": 0.5},
    {"image_id": "y/1", "category_id": 1, "bbox": [7.0, 8.0, 9.0, 10.0], "score": 0.375},
    {"image_id": 12, "category_id": 2, "bbox": [3.0, 4.0, 5.0, 6.0], "score": 0.3},
]


@pytest.fixture
def images(tmp_path):
    records = []
    for image_id, name in FILES.items():
        file = tmp_path / "data set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(file)
        records.append({"image_id": image_id, "file_name": str(file), "width": 60, "height": 40})
    del records[0]["width"]  # as data sets of Detectron2 may lack it
    return records


@pytest.fixture
def exported(images, tmp_path):
    """The folder of an export, and its content."""
    folder = tmp_path / "exported"
    assert export_coco(folder, HEADER, BOXES, images) == 4
    return folder


def read(file):
    return json.loads(Path(file).read_text())


def test_an_export_is_a_coco_data_set(exported, images):
    content = read(exported / "labels.json")
    names = [entry["file_name"] for entry in content["images"]]
    assert len({Path(name).stem.casefold() for name in names}) == 4, "CVAT goes by stems"
    assert all(name.replace("ß", "").isascii() and " " not in name for name in names)
    for entry, sample in zip(content["images"], images, strict=True):
        assert os.path.samefile(exported / "data" / entry["file_name"], sample["file_name"])
        assert (entry["width"], entry["height"]) == (60, 40)
    assert [c["id"] for c in content["categories"]] == [1, 2, 3]
    assert content["annotations"][0] == {
        "id": 1, "image_id": 1, "category_id": 3, "bbox": [1.25, 2.5, 30.125, 20.0],
        "area": 602.5, "segmentation": [], "iscrowd": 0, "score": 0.75,
    }  # fmt: skip


def test_pycocotools_reads_it(exported):
    from pycocotools.coco import COCO

    coco = COCO(str(exported / "labels.json"))
    assert len(coco.getAnnIds()) == 4
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == CLASSES


def test_names_do_not_depend_on_other_images(exported, images, tmp_path):
    export_coco(tmp_path / "again", HEADER, BOXES, images[::-1])
    assert set(os.listdir(tmp_path / "again/data")) == set(os.listdir(exported / "data"))


def test_an_export_replaces_nothing(exported, images):
    with pytest.raises(ValueError, match="not empty; name a new folder"):
        export_coco(exported, HEADER, BOXES, images)


# What the programs write


def fiftyone(folder, target, scores=True, media=True):
    """``Dataset.from_dir`` and ``Dataset.export`` with COCODetectionDataset."""
    content = read(folder / "labels.json")
    size = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    # Its class 0 is made up where a file counts from 1, and boxes are kept as fractions.
    categories = [{"id": 0, "name": "0", "supercategory": None}, *content["categories"]]
    annotations = []
    for number, a in enumerate(content["annotations"], start=1):
        (w, h), (x, y, bw, bh) = size[a["image_id"]], a["bbox"]
        bbox = [x / w * w, y / h * h, bw / w * w, bh / h * h]
        own = {"id": number, "image_id": a["image_id"], "category_id": a["category_id"],
               "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0,
               "supercategory": ""}  # fmt: skip
        annotations.append(own | ({"score": a["score"]} if scores else {}))
    entries = [{**e, "license": None, "coco_url": None} for e in content["images"]]
    target.mkdir()
    if media:
        (target / "data").mkdir()
    labels = {"info": {"year": "", "version": "", "url": "https://voxel51.com/fiftyone"},
              "licenses": [], "categories": categories, "images": entries}  # fmt: skip
    if annotations:
        labels["annotations"] = annotations
    (target / "labels.json").write_text(json.dumps(labels))
    return str(target)


def cvat(folder, target, scores=True):
    """``COCO 1.0`` of a task: a ZIP archive. Scores come back if the labels have an attribute
    ``score``."""
    content = read(folder / "labels.json")
    entries = [
        {"id": n, "width": e["width"], "height": e["height"], "file_name": e["file_name"],
         "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        for n, e in enumerate(sorted(content["images"], key=lambda e: e["file_name"]), start=1)
    ]  # fmt: skip
    number = {e["file_name"]: e["id"] for e in entries}
    name = {e["id"]: e["file_name"] for e in content["images"]}
    annotations = [
        {"id": n, "image_id": number[name[a["image_id"]]], "category_id": a["category_id"],
         "segmentation": [], "area": a["area"], "bbox": [round(v, 2) for v in a["bbox"]],
         "iscrowd": 0, "attributes": {"occluded": False, "rotation": 0.0}}
        | ({"score": a["score"]} if scores else {})
        for n, a in enumerate(content["annotations"], start=1)
    ]  # fmt: skip
    labels = {"licenses": [{"name": "", "id": 0, "url": ""}],
              "info": {"contributor": "", "date_created": "", "description": ""},
              "categories": content["categories"], "images": entries,
              "annotations": annotations}  # fmt: skip
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(labels))
    return str(target)


def label_studio(folder, target, place="images/{hash}-{name}", sizes=True):
    """The COCO export after ``label-studio-sdk converter import coco``: categories from 0, sorted
    by name, no scores, and the names of uploaded or downloaded files."""
    content = read(folder / "labels.json")
    classes = sorted(c["name"] for c in content["categories"])
    names = {c["id"]: c["name"] for c in content["categories"]}
    entries = [
        {"width": e["width"] if sizes else None, "height": e["height"] if sizes else None,
         "id": n, "file_name": place.format(hash=f"{n:02x}b0618f", name=e["file_name"])}
        for n, e in enumerate(content["images"])
    ]  # fmt: skip
    annotations = []
    for n, a in enumerate(content["annotations"]):
        x, y, w, h = (v / s * 100 * s / 100 for v, s in zip(a["bbox"], (60, 40) * 2, strict=True))
        category = classes.index(names[a["category_id"]])
        annotations.append({"id": n, "image_id": a["image_id"] - 1, "category_id": category,
                            "segmentation": [], "bbox": [x, y, w, h], "ignore": 0, "iscrowd": 0,
                            "area": w * h})  # fmt: skip
    target.mkdir()
    categories = [{"id": k, "name": c} for k, c in enumerate(classes)]
    labels = {"images": entries, "categories": categories, "annotations": annotations,
              "info": {"year": 2026, "version": "1.0", "contributor": "Label Studio"}}  # fmt: skip
    (target / "result.json").write_text(json.dumps(labels, indent=2))
    return str(target)


PLACES = {
    "uploaded": "images/{hash}-{name}",
    "downloaded": "images/{hash}__{name}",
    "of both": "images/0123abcd__{hash}-{name}",
    "with the project": "images\\1/{hash}-{name}",
    "of Windows": "..\\..\\label-studio\\media\\upload\\4\\{hash}-{name}",
    "not found": "/data/local-files/?d=cells/data/{name}",
}


def same(found, scores=True, digits=1e-9):
    """Whether what came back is what went out."""
    assert [(b["image_id"], b["category_id"]) for b in found] == [
        (b["image_id"], b["category_id"]) for b in BOXES
    ]
    for own, before in zip(found, BOXES, strict=True):
        assert own["bbox"] == pytest.approx(before["bbox"], abs=digits)
        assert own["score"] == (before["score"] if scores else 1.0)


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize(("program", "digits"), [(fiftyone, 1e-9), (cvat, 0.005)])
def test_a_round_trip_keeps_everything(exported, images, tmp_path, program, digits, scores):
    source = program(exported, tmp_path / "edited", scores=scores)
    header, found, counts = import_coco(source, HEADER, BOXES, images)
    same(found, scores, digits)
    assert header.image_ids == HEADER.image_ids, "also the one without a box"
    assert counts == {"images of the file": 4, "boxes of the file": 4}
    output = str(tmp_path / "reviewed.json")
    save_pseudo_labels(output, header, found)
    assert read_pseudo_labels(output) == (header, found)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_label_studio_renames_files_and_drops_scores(exported, images, tmp_path, place):
    source = label_studio(exported, tmp_path / "edited", place, sizes="found" not in place)
    header, found, _ = import_coco(source, HEADER, BOXES, images)
    same(found, scores=False)
    assert header.image_ids == HEADER.image_ids


def test_the_export_itself_and_any_file_of_it_come_back(exported, images):
    for source in (exported, exported / "labels.json"):
        same(import_coco(str(source), HEADER, BOXES, images)[1])


def test_an_empty_table_may_be_missing(exported, images, tmp_path):
    content = read(exported / "labels.json")
    (exported / "labels.json").write_text(json.dumps({**content, "annotations": []}))
    source = fiftyone(exported, tmp_path / "edited")
    header, found, _ = import_coco(source, HEADER, BOXES, images)
    assert (header.image_ids, found) == (HEADER.image_ids, [])


@pytest.fixture
def edited(exported):
    """``edited(change)``: the export after ``change(content)``."""

    def change(function):
        content = read(exported / "labels.json")
        function(content)
        (exported / "labels.json").write_text(json.dumps(content))
        return str(exported)

    return change


def test_edits_count_and_images_that_were_not_handed_back_are_kept_or_dropped(edited, images):
    def change(content):
        del content["images"][2:], content["annotations"][3]
        content["annotations"][0]["bbox"] = [5, 5, 10, 10]
        content["annotations"][1]["category_id"] = 2
        del content["annotations"][2]["score"]

    source = edited(change)
    header, found, counts = import_coco(source, HEADER, BOXES, images)
    assert [(b["bbox"][0], b["category_id"], b["score"]) for b in found] == [
        (5, 2, 0.75), (0, 1, 0.5), (7, 1, 1.0), (3, 2, 0.3)
    ]  # fmt: skip
    assert header.image_ids == HEADER.image_ids
    assert counts["images that it lacks, kept"] == 2
    header, found, _ = import_coco(source, HEADER, BOXES, images, DROP)
    assert (header.image_ids, len(found)) == (["x/1", "y/1"], 3)


def test_turned_boxes_groups_and_what_leaves_the_image(edited, images):
    def change(content):
        first, second, third, fourth = content["annotations"]
        first |= {"bbox": [10, 10, 20, 10], "attributes": {"rotation": 90.0}}
        second |= {"bbox": [-2.0, -3.0, 70.0, 50.0]}
        third |= {"iscrowd": 1}
        fourth |= {"bbox": [70.0, 4.0, 5.0, 5.0]}

    _, found, counts = import_coco(edited(change), HEADER, BOXES, images)
    assert found[0]["bbox"] == pytest.approx([15, 5, 10, 20])
    assert found[1]["bbox"] == [0, 0, 60, 40]
    assert len(found) == 2
    assert counts["masks of groups, left out"] == 1
    assert counts["boxes outside of their image, left out"] == 1


def test_a_score_may_be_an_attribute(edited, images):
    def change(content):
        for a in content["annotations"]:
            a["attributes"] = {"score": str(a.pop("score"))}

    same(import_coco(edited(change), HEADER, BOXES, images)[1])


WRONG = {
    "class": (lambda c: c["categories"][0].update(name="rad"), "'rad'.*Did you mean 'red'"),
    "category": (lambda c: c["annotations"][0].update(category_id=9), "unknown category"),
    "size": (lambda c: c["images"][0].update(width=30), "listed as 30x40, but the image is 60x40"),
    "twice": (lambda c: c["images"][1].update(c["images"][0], id=99), "twice"),
    "score": (lambda c: c["annotations"][0].update(score=97), r"annotations\[0\]: score is 97"),
    "bbox": (lambda c: c["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]: bbox"),
    "table": (lambda c: c.pop("categories"), "is no COCO file"),
    "list": (lambda c: c.update(annotations={"a": 1}), "`annotations` must be a list"),
    "fractions": (lambda c: [a.update(bbox=[0, 0, 0.5, 0.5]) for a in c["annotations"]], "pixels"),
    "names": (lambda c: [e.update(file_name="other.jpg") for e in c["images"]], "none of the 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_fit_are_refused(edited, images, case):
    change, match = WRONG[case]
    with pytest.raises(ValueError, match=match):
        import_coco(edited(change), HEADER, BOXES, images)


def test_a_folder_with_several_files_is_refused(exported, images, tmp_path):
    (exported / "annotations").mkdir()
    (exported / "annotations" / "instances_Train.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has annotations/instances_Train.json, labels.json"):
        import_coco(str(exported), HEADER, BOXES, images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no COCO file"):
        import_coco(str(tmp_path / "empty"), HEADER, BOXES, images)
    with pytest.raises(FileNotFoundError):
        import_coco(str(tmp_path / "gone.json"), HEADER, BOXES, images)
    list_of_results = tmp_path / "results.json"
    list_of_results.write_text("[]")
    with pytest.raises(ValueError, match="list of results"):
        import_coco(str(list_of_results), HEADER, BOXES, images)
