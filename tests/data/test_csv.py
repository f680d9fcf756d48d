"""Boxes and classes in CSV files, found by looking or named by a card."""

import csv
import io
import itertools

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from hypothesis import given
from hypothesis import strategies as st

from image_files import HEIGHT, WIDTH, write_image
from layouts import CSV_HEADER as HEADER
from layouts import CSV_ROWS as ROWS
from layouts import CSV_SIZE as SIZE
from multas.data import DatasetError, register_card
from multas.data.csv_boxes import box_rows
from multas.data.csv_files import label_rows, read_csv
from multas.data.image_names import ImageNames
from multas.util.errors import UserError
from perfect_predictions import perfect_predictions

NUMBERS = itertools.count()
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).filter(
    lambda name: not set(name) & set('/\\.,;"')
)


@pytest.fixture
def table(tmp_path):
    """``table(text, **keys)`` writes the images a, b and the CSV file, and loads the split all."""

    def load(text, suffix="", images=("a", "b"), **keys):
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / f"{name}.png")
        (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
        load.name = f"boxes_{next(NUMBERS)}"
        card = {"name": load.name, "format": "csv", "root": str(tmp_path)}
        register_card({**card, "splits": {"all": "boxes.csv"}, **keys})
        return DatasetCatalog.get(f"{load.name}_all{suffix}")

    return load


def classes_of(table):
    """The classes of what was loaded last."""
    return MetadataCatalog.get(f"{table.name}_all").thing_classes


def boxes(records):
    return {
        record["image_id"]: [(a["category_id"], *a["bbox"]) for a in record["annotations"]]
        for record in records
    }


FOUND = {"a": [(1, 2, 3, 20, 13), (0, 0, 0, 9, 9)], "b": [(0, 1, 1, 5, 6)]}
SPELLINGS = {
    "TensorFlow": HEADER + ROWS,
    "semicolons": (HEADER + ROWS).replace(",", ";"),
    "tabs, spaces": (HEADER + ROWS).replace(",", "\t ").replace("class", "Class Name"),
    "RetinaNet, without a header": (
        "x/a.png,2,3,20,13,dog\nx/a.png,0,0,9,9,cat\nx/b.png,1,1,5,6,cat\n"),
    "COCO's boxes in one column": (
        'image_id,bbox,label\na,"[2, 3, 18, 10]",dog\na,"[0.0, 0.0, 9, 9]",cat\nb,(1 1 4 5),cat\n'),
    "sides": "path,x,y,w,h,label\n/d/a.png,2,3,18,10,dog\na.png,0,0,9,9,cat\nb.png,1,1,4,5,cat\n",
    "width and height of boxes": (
        "image,bbox_x,bbox_y,bbox_width,bbox_height,category\na.png,2,3,18,10,dog\n"
        "a.png,0,0,9,9,cat\nb.png,1,1,4,5,cat\n"),
    "centres": (
        "image,x_center,y_center,width,height,label\na.png,11,8,18,10,dog\na.png,4.5,4.5,9,9,cat\n"
        "b.png,3,3.5,4,5,cat\n"),
    "Open Images, fractions": (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
        f"a,x,dog,1,{2 / WIDTH},{20 / WIDTH},{3 / HEIGHT},{13 / HEIGHT}\n"
        f"a,x,cat,1,0,{9 / WIDTH},0,{9 / HEIGHT}\n"
        f"b,x,cat,1,{1 / WIDTH},{5 / WIDTH},{1 / HEIGHT},{6 / HEIGHT}\n"),
    "of Windows, quoted": (
        'File Name,X1,Y1,X2,Y2,Label\n"C:\\data\\a.png","2","3","20","13","dog"\n'
        "C:\\data\\a.png,0,0,9,9,cat\nC:\\data\\b.png,1,1,5,6,cat\n"),
}  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
def test_boxes_of_all_spellings(table, text):
    found = boxes(table(text))
    assert found.keys() == FOUND.keys()
    for image_id, own in FOUND.items():
        assert np.allclose(found[image_id], own)
    assert classes_of(table) == ["cat", "dog"]


@given(
    rows=st.lists(st.tuples(NAMES, NAMES, *[st.floats(-1e6, 1e6)] * 4), min_size=1),
    delimiter=st.sampled_from(",;\t"),
)
def test_what_is_written_is_read(tmp_path_factory, rows, delimiter):
    file = tmp_path_factory.getbasetemp() / "written.csv"
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["filename", "class", "xmin", "ymin", "xmax", "ymax"])
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8")
    found = box_rows(read_csv(file))
    assert [(row.image, row.label, *row.box) for row in found] == rows


@given(
    ids=st.sets(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1),
    folders=st.lists(NAMES, max_size=2),
    suffix=st.sampled_from(["", ".jpg", ".JPEG"]),
)
def test_images_are_found_by_longer_names(ids, folders, suffix):
    names = ImageNames(ids)
    whole = {f"{image_id}{suffix}": image_id for image_id in ids}
    assert names.find_all(whole) == whole
    windows = {name.replace("/", "\\"): image_id for name, image_id in whole.items()}
    assert names.find_all(windows) == windows
    for image_id in ids:
        longer = "/".join([*folders, image_id]) + suffix
        # Folders before a name may make it that of another image, which has all of it.
        found = names.find_all([longer])[longer]
        assert found == image_id or (found in ids and f"/{found}".endswith(f"/{image_id}"))


def test_a_short_name_is_that_of_one_image_alone():
    names = ImageNames(["day 1/a", "day 2/a", "day 2/b", "c.x", "1", "1.5"])
    short = {"b.jpg": "day 2/b", "day 1/a.jpg": "day 1/a", "c.x": "c.x", "1.5": "1.5", "1": "1"}
    assert names.find_all([*short, "a.jpg", "2.5"]) == short


def test_several_paths_are_not_taken_for_one_image():
    names = ImageNames(["1", "day 2/a"])
    assert names.find_all(["2019/1.jpg", "2020/1.jpg"]) == {}
    assert names.find_all(["2019/1.jpg", "1.jpg"]) == {"2019/1.jpg": "1", "1.jpg": "1"}
    assert names.find_all(["day 1/a.jpg", "day 2/a.jpg"]) == {"day 2/a.jpg": "day 2/a"}


def test_an_image_without_object_and_one_without_rows(table):
    records = table(HEADER + ROWS + f"c.png,{SIZE},,,,,\n", images="abcd")
    assert boxes(records) == FOUND | {"c": []}
    assert [r["image_id"] for r in table(HEADER + ROWS, "_unlabeled")] == ["a", "b"]


def test_lists_choose_images_and_the_others_do_not_matter(table, tmp_path):
    (tmp_path / "train.txt").write_text("b\n")
    splits = {"all": {"csv": "boxes.csv", "ids": "train"}}
    assert boxes(table(HEADER + ROWS, splits=splits)) == {"b": FOUND["b"]}
    (tmp_path / "train.txt").write_text("b\nc\n")
    with pytest.raises(DatasetError, match=r"c: has no row in .*boxes.csv"):
        table(HEADER + ROWS, splits=splits)


def test_columns_of_unusual_names_are_named_by_the_card(table):
    text = (HEADER + ROWS).replace("filename", "photo").replace("class", "kind")
    text = text.replace(".png", "")
    keys = {"image_column": "photo", "class_column": "kind"}
    splits = {"all": {"csv": "boxes.csv", **keys}}
    assert boxes(table(text, splits=splits)) == FOUND
    with pytest.raises(DatasetError, match=r"no column of images \(filename\), but photo, width"):
        table(text)
    with pytest.raises(DatasetError, match=r"no column photos, but photo, width"):
        table(text, splits={"all": {"csv": "boxes.csv", "image_column": "photos"}})


def test_a_part_of_the_rows(table):
    text = (HEADER + ROWS).replace("filename", "filename,set").replace(".png,", ".png,day,")
    text = text.replace("b.png,day", "b.png,night")
    splits = {"all": {"csv": "boxes.csv", "part": "night"}}
    assert boxes(table(text, splits=splits)) == {"b": FOUND["b"]}
    splits["all"]["split_column"] = "set"
    assert boxes(table(text, splits=splits)) == {"b": FOUND["b"]}
    with pytest.raises(DatasetError, match=r"no row has dusk in the column set, but day, night"):
        table(text, splits={"all": {"csv": "boxes.csv", "part": "dusk"}})
    with pytest.raises(DatasetError, match=r"no column of splits \(split\), but filename, width"):
        table(HEADER + ROWS, splits={"all": {"csv": "boxes.csv", "part": "night"}})


def test_without_classes_there_is_one(table):
    text = 'image_id,bbox\na,"[2, 3, 18, 10]"\n'
    assert boxes(table(text)) == {"a": [(0, 2, 3, 20, 13)]}
    assert classes_of(table) == ["object"]
    assert boxes(table(text, classes=["wheat"])) == {"a": [(0, 2, 3, 20, 13)]}


def test_fractions_may_be_rounded_to_more_than_one(table):
    text = "image,x_center,y_center,width,height,label\na,0.666667,0.5,0.666667,0.5,cat\n"
    ((_, *box),) = boxes(table(text + "b,0.5,0.5,0.5,0.5,cat\n"))["a"]
    assert np.allclose(box, (WIDTH / 3, HEIGHT / 4, WIDTH, 3 * HEIGHT / 4), atol=1e-3)
    assert box[2] == WIDTH


def test_sides_of_the_image_are_not_those_of_the_box(table):
    text = f"image,width,height,x,y,w,h,label\na,{SIZE},2,3,18,10,dog\n"
    assert boxes(table(text)) == {"a": [(0, 2, 3, 20, 13)]}
    text = f"image,width,height,bbox_x,bbox_y,bbox_width,bbox_height\na,{SIZE},2,3,18,10\n"
    assert boxes(table(text)) == {"a": [(0, 2, 3, 20, 13)]}


def test_files_of_images_count_more_than_numbers(table):
    text = "id,picture,xmin,ymin,xmax,ymax,label\n1,b.png,2,3,20,13,dog\n2,a.png,0,0,9,9,cat\n"
    records = table(text, images=("1", "2", "a", "b"))
    assert boxes(records) == {"a": [(0, 0, 0, 9, 9)], "b": [(1, 2, 3, 20, 13)]}


FAULTS = {
    "no class": (f"b.png,{SIZE},,1,1,5,6\n", "boxes.csv: line 5: has a box, but no class"),
    "no such image": (f"c.png,{SIZE},cat,1,1,5,6\n", "boxes.csv: line 5: no image 'c.png' in"),
    "another size": (f"b.png,9,{HEIGHT},cat,1,1,5,6\n", "line 5: says 9x30, but the image is 40x"),
    "another class": (f"b.png,{SIZE},cats,1,1,5,6\n",
                      "line 5 (cats): class not among the card's, did you mean cat?"),
    "no number": (f"b.png,{SIZE},cat,1,1,x,6\n", "line 5 (cat): 1 1 x 6 are not four numbers"),
    "not a number": (f"b.png,{SIZE},cat,1,1,nan,6\n", "1 1 nan 6 are not four numbers"),
    "half a box": (f"b.png,{SIZE},cat,1,1,,\n", "are not four numbers"),
    "no area": (f"b.png,{SIZE},cat,5,1,5,6\n", "line 5 (cat): box 5,1,5,6 has no area"),
    "wrong order": (f"b.png,{SIZE},cat,5,1,1,6\n", "box 5,1,1,6 has no area"),
    "beyond": (f"b.png,{SIZE},cat,30,1,42,6\n", "box 30,1,42,6 leaves the image of 40x30"),
    "too few fields": ("b.png,cat\n", "boxes.csv: line 5 has 2 fields, but there are 8 columns"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_name_the_line(table, row, message):
    with pytest.raises(DatasetError) as error:
        table(HEADER + ROWS + row, classes=["cat", "dog"])
    assert message in str(error.value)


def test_files_of_something_else_are_refused(table, tmp_path):
    for text, message in (
        ("", "boxes.csv is empty"),
        ("image,x1,y1,x2,y2,x3,y3,x4,y4\na.png,1,1,5,1,5,6,1,6\n", "no column of boxes"),
        ("filename,class\na.png,cat\n", r"no column of boxes \(xmin, ymin, xmax, ymax\)"),
        ('filename,class\na.png,"cat\n' + "x" * 200000, "cannot be read"),
    ):
        with pytest.raises(DatasetError, match=message):
            table(text)
    with pytest.raises(DatasetError, match=r"nowhere.csv: missing or unreadable"):
        table(HEADER + ROWS, splits={"all": "nowhere.csv"})
    with pytest.raises(DatasetError, match="key 'csv' is missing"):
        table(HEADER + ROWS, splits={"all": {}})


def test_classes_that_are_not_wanted_are_left_out(table):
    records = table(HEADER + ROWS + f"b.png,{SIZE},cat,5,1,5,6\n", only=["dog"])
    assert boxes(records) == {"a": [(0, 2, 3, 20, 13)], "b": []}


def test_copies_of_an_object_are_remarked(table, caplog):
    table(HEADER + ROWS + f"b.png,{SIZE},cat,1,1,5,6\n")
    assert "objects that are annotated twice" in caplog.text and "boxes.csv: b.png" in caplog.text


def test_classes_are_those_of_all_splits_with_boxes(table, tmp_path):
    (tmp_path / "other.csv").write_text(HEADER + f"a.png,{SIZE},ant,2,3,20,13\n")
    (tmp_path / "broken.csv").write_text("x")
    splits = {"all": "boxes.csv", "other": "other.csv", "broken": "broken.csv"}
    table(HEADER + ROWS, splits=splits)
    assert classes_of(table) == ["ant", "cat", "dog"]
    splits["other"] = {"csv": "other.csv", "annotates": []}
    table(HEADER + ROWS, splits=splits)
    assert classes_of(table) == ["cat", "dog"]


def test_an_image_of_faulty_boxes_alone_is_no_background(table):
    text = (
        HEADER + f"a.png,{SIZE},cat,5,1,5,6\nb.png,{SIZE},cat,5,1,5,6\nb.png,{SIZE},cat,1,1,5,6\n"
    )
    assert boxes(table(text, strictness="skip")) == {"b": FOUND["b"]}


def test_boxes_end_at_the_border(table):
    text = HEADER + f"a.png,{SIZE},cat,-0.5,1,{WIDTH + 1},6\n"
    assert boxes(table(text)) == {"a": [(0, 0, 1, WIDTH, 6)]}


def test_the_coco_evaluator_scores_the_ground_truth_100(table, tmp_path):
    table(HEADER + ROWS)
    evaluator = COCOEvaluator(f"{table.name}_all", ("bbox",), output_dir=str(tmp_path))
    assert perfect_predictions(evaluator, f"{table.name}_all")["AP"] == pytest.approx(100)


# Classes of images

CLASSES = {
    "two columns": "id,breed\na,cat\nb,dog\n",
    "more columns": "size,label,image\n3,cat,a.png\n4,dog,b.png\n",
    "without a header": "x/a.png,cat\nx/b.png,dog\n",
    "the image behind the class": "cat,a.png\ndog,b.png\n",
    "a column for each class": "filename, cat, dog\na.png, 1, 0\nb.png, 0, 1.0\n",
}


@pytest.mark.parametrize("text", CLASSES.values(), ids=CLASSES)
def test_classes_of_images(tmp_path, text):
    file = tmp_path / "labels.csv"
    file.write_text(text)
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png")
    splits = {"all": {"images": "images", "labels": "labels.csv"}}
    card = {"name": "kinds", "format": "folders", "root": str(tmp_path)}
    register_card({**card, "splits": splits})
    found = {r["image_id"]: r["label"] for r in DatasetCatalog.get("kinds_all")}
    assert found == {"a": 0, "b": 1}
    assert MetadataCatalog.get("kinds_all").label_classes == ["cat", "dog"]
    # Other splits may have the other images of the folder.
    assert [r["image_id"] for r in DatasetCatalog.get("kinds_all_unlabeled")] == ["a", "b"]


def test_images_without_a_class_are_passed_over(tmp_path, caplog):
    (tmp_path / "labels.csv").write_text("id,label\na,cat\nb,\nc,dog\n")
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
    card = {"name": "some", "format": "folders", "root": str(tmp_path)}
    register_card({**card, "splits": {"all": {"labels": "labels.csv"}}})
    assert [r["image_id"] for r in DatasetCatalog.get("some_all")] == ["a", "c"]
    assert "images without a class are passed over (1 place)" in caplog.text


def test_images_of_several_classes_are_refused(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("filename,cat,dog\na.png,1,0\nb.png,1,1\n")
    with pytest.raises(UserError, match="line 3 has 2 classes, but an image needs one"):
        label_rows(read_csv(file))
    file.write_text("filename,age,weight\na.png,1,7\nb.png,1,1\n")
    with pytest.raises(UserError, match=r"no column of classes \(class\), but filename, age"):
        label_rows(read_csv(file))
