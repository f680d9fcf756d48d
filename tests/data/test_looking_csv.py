"""CSV files that are found by looking, and those that are something else."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog

from layouts import CSV_HEADER as HEADER
from layouts import CSV_ROWS as ROWS
from layouts import CSV_SIZE as SIZE
from layouts import PHOTO, mask, photos, sizes
from multas.data import register_card
from multas.data.looking.find import find_cards
from multas.data.looking.roles import roles
from multas.util.errors import UserError

OTHERS = ROWS.replace("a.png", "c.png").replace("b.png", "d.png")
MANY = "a.png,cat\nb.png,dog\nc.png,cat\nd.png,dog\n"
HAM = "L1,a,cat,histo,80,f,ear\nL1,b,dog,x,8,f,ear\nL1,c,cat,x,8,f,ear\nL2,d,dog,x,8,m,ear\n"
REST = {"annotates": [], "without": ["all"]}
LAYOUTS = {
    "one file": (
        {**photos("{}.png", "a", "b"), "labels.csv": HEADER + ROWS},
        "csv", {"all": "labels.csv"}, {"all": (2, 2)}),
    "Roboflow": (
        {**photos("train/{}.png", "a", "b"), "train/_annotations.csv": HEADER + ROWS,
         **photos("valid/{}.png", "a", "b"), "valid/_annotations.csv": HEADER + ROWS},
        "csv", {"train": {"csv": "train/_annotations.csv", "images": "train"},
                "val": {"csv": "valid/_annotations.csv", "images": "valid"}},
        {"train": (2, 2), "val": (2, 2)}),
    "files of one folder": (
        {**photos("images/{}.png", *"abcd"), "data/train_labels.csv": HEADER + ROWS,
         "data/test_labels.csv": HEADER + OTHERS, "data/all_labels.csv": HEADER + ROWS + OTHERS},
        "csv", {"train": {"csv": "data/train_labels.csv", "ids": "data/train_labels.csv"},
                "test": {"csv": "data/test_labels.csv", "ids": "data/test_labels.csv"}},
        {"train": (2, 2), "test": (2, 2)}),
    "images without rows": (
        {**photos("images/{}.png", *"abcd"), "labels.csv": HEADER + ROWS},
        "csv", {"all": "labels.csv", "unlabeled": REST}, {"all": (2, 2), "unlabeled": (2, 0)}),
    "a part of another, and what was found": (
        {**photos("{}.png", *"abcd"), "labels.csv": HEADER + ROWS + ROWS.replace("a.png", "c.png"),
         "val.csv": HEADER + ROWS.replace("a.png", "c.png"),
         "found.csv": "image,label,x1,y1,x2,y2,score\n" + "".join(
             f"{name}.png,dog,1,1,5,6,0.3\n" for name in "abcd")},
        "csv", {"all": "labels.csv", "unlabeled": REST}, {"all": (3, 3), "unlabeled": (1, 0)}),
    "a column of an unusual name": (
        {**photos("{}.png", "a", "b"), "x.csv": (HEADER + ROWS).replace("filename", "photo")},
        "csv", {"all": "x.csv"}, {"all": (2, 2)}),
    "folders in names": (
        {**photos("data/train/{}.png", "a"), **photos("data/val/{}.png", "a"),
         "all.csv": HEADER + ROWS.replace("a.png", "train/a.png").replace("b.png", "val/a.png")},
        "csv", {"all": "all.csv"}, {"all": (2, 2)}),
    "beside images of equal names": (
        {**photos("train/{}.png", "a", "b"), **photos("test/{}.png", "a", "b"),
         "labels.csv": HEADER + ROWS},
        "csv", {"train": "labels.csv"}, {"train": (2, 2)}),
    "many images, of several folders": (
        {**photos("train/{}.png", *map(str, range(100, 300))),
         **photos("val/{}.png", *map(str, range(300, 330))), "x.csv": "file,x1,y1,x2,y2,label\n"
         + "".join(f"{'train' if i < 300 else 'val'}/{i}.png,1,1,5,6,{['cat', 'dog'][i % 2]}\n"
                   for i in range(100, 330))},
        "csv", {"all": "x.csv"}, {"all": (230, 230)}),
    "many images, named without their folders": (
        {**photos("x/{}.png", *map(str, range(100, 250))),
         **photos("y/{}.png", *map(str, range(250, 330))), "x.csv": "file,x1,y1,x2,y2,label\n"
         + "".join(f"{i}.png,1,1,5,6,{['cat', 'dog'][i % 2]}\n" for i in range(100, 330))},
        "csv", {"all": "x.csv"}, {"all": (230, 230)}),
    "an example of an answer": (
        {**photos("train/{}.png", *"abcd"), **photos("test/{}.png", "x", "y"),
         "labels.csv": "id,breed\n" + MANY, "sample_submission.csv": "id,breed\nx,cat\ny,cat\n"},
        "folders", {"train": {"labels": "labels.csv"}}, {"train": (4, 4)}),
    "classes of splits": (
        {**photos("train/{}.png", *"abcd"), **photos("test/{}.png", *"abcd"),
         "train.csv": "filename,class\n" + MANY, "test.csv": "filename,class\n" + MANY},
        "folders", {"train": {"labels": "train.csv", "images": "train"},
                    "test": {"labels": "test.csv", "images": "test"}},
        {"train": (4, 4), "test": (4, 4)}),
    "folders of parts": (
        {**photos("part_1/{}.png", "a", "b"), **photos("part_2/{}.png", "c", "d"),
         "metadata.csv": "lesion_id,image_id,dx,dx_type,age,sex,localization\n" + HAM},
        "folders", {"all": {"labels": "metadata.csv"}}, {"all": (4, 4)}),
    "classes of a few images": (
        {**photos("{}.png", *"abcdefghij"), "labels.csv": "filename,class\n" + MANY},
        "folders", {"all": {"labels": "labels.csv"}, "unlabeled": REST},
        {"all": (4, 4), "unlabeled": (6, 0)}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "card_format", "splits", "numbers"), LAYOUTS.values(), ids=LAYOUTS
)
def test_looking(lay, files, card_format, splits, numbers):
    (card,), _ = find_cards(lay(files))
    assert card["format"] == card_format
    assert card["splits"] == splits
    assert card["classes"] == ["cat", "dog"]
    assert sizes(card) == numbers


def test_files_of_equal_names_tell_about_the_images_beside_them(lay):
    files = {**photos("x/{}.png", "a", "b"), "x/boxes.csv": HEADER + ROWS,
             **photos("y/{}.png", "a", "b"), "y/boxes.csv": HEADER + ROWS}  # fmt: skip
    (card,), notes = find_cards(lay(files))
    assert {(split["csv"], split["images"]) for split in card["splits"].values()} == {
        ("x/boxes.csv", "x"), ("y/boxes.csv", "y")
    }  # fmt: skip
    assert any("x/boxes.csv has the boxes of 2 images in x: split" in note for note in notes)


def test_the_folder_that_names_tell_counts_more_than_one_to_train_on(lay):
    rows = ROWS.replace("a.png", "other/a.png").replace("b.png", "other/b.png")
    files = photos("train/{}.png", "a", "b") | photos("other/{}.png", "a", "b")
    (card,), _ = find_cards(lay({**files, "labels.csv": HEADER + rows}))
    register_card(card)
    records = DatasetCatalog.get(f"{card['name']}_{next(iter(card['splits']))}")
    assert {Path(record["file_name"]).parent.name for record in records} == {"other"}


def test_a_file_by_its_name(lay):
    files = {**photos("images/{}.png", "a", "b"), "boxes.csv": HEADER + ROWS,
             "kinds.csv": "image,label\na,cat\nb,dog\n" * 2}  # fmt: skip
    folder = lay(files | photos("images/{}.png", *"cd") | {"kinds.csv": "image,label\n" + MANY})
    (card,), _ = find_cards(folder / "boxes.csv")
    assert (card["format"], card["splits"]["all"]) == ("csv", "boxes.csv")
    (card,), _ = find_cards(folder / "kinds.csv")
    assert (card["format"], card["splits"]) == ("folders", {"all": {"labels": "kinds.csv"}})


def test_a_file_beside_the_folder_of_its_images(lay):
    files = {**photos("images/{}.png", "a", "b"), "data/boxes.csv": HEADER + ROWS}
    (card,), _ = find_cards(lay(files) / "data" / "boxes.csv")
    assert card["splits"] == {"all": "data/boxes.csv"} and card["images"] == "images"


def test_numbers_of_a_few_images_may_be_something_else(lay):
    numbers = {f"{i}.png": PHOTO for i in range(10)}
    rows = "0,cat\n1,dog\n2,cat\n3,dog\n"
    (card,), _ = find_cards(lay({**numbers, "rooms.csv": "id,label\n" + rows}))
    assert card["format"] == "images"
    rows = rows.replace(",", ".png,")
    (card,), _ = find_cards(lay({**numbers, "rooms.csv": "id,label\n" + rows}))
    assert sizes(card) == {"all": (4, 4), "unlabeled": (6, 0)}


def test_a_file_of_which_few_images_are_there_is_passed_over(lay):
    rows = "".join(f"{name}.png,{SIZE},cat,1,1,5,6\n" for name in "avwxyz")
    (card,), notes = find_cards(lay({**photos("{}.png", "a", "b"), "boxes.csv": HEADER + rows}))
    assert card["format"] == "images"
    assert any("boxes.csv is passed over: its images" in note for note in notes)


BROKEN = {
    "ragged": (HEADER + "a.png,cat\n", "boxes.csv: line 2 has 2 fields, but there are 8 columns"),
    "empty": ("", "boxes.csv is empty"),
    "elsewhere": (HEADER + ROWS.replace("a.", "x.").replace("b.", "y."),
                  "boxes.csv is passed over: its images, such as x.png, are not there"),
    "of something else": ("filename,size\na.png,3\nb.png,4\n", "has neither boxes nor classes"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_named_tells_what_is_wrong(lay, text, message):
    folder = lay({**photos("{}.png", "a", "b"), "boxes.csv": text})
    with pytest.raises(UserError, match=message):
        find_cards(folder / "boxes.csv")
    (card,), notes = find_cards(folder)  # it does not stop who has images without labels
    assert card["format"] == "images"
    assert text.startswith("filename,size") or any(message in note for note in notes)


def test_masks_of_the_splits_of_files(lay):
    folder = lay({**photos("images/{}.png", *"abcd"), "train.csv": HEADER + ROWS,
                  "test.csv": HEADER + OTHERS, "classes.txt": "background\ncell\n",
                  **{f"masks/{name}.png": mask(1, 1) for name in "abcd"}})  # fmt: skip
    cards, _ = find_cards(folder)
    assert [card["format"] for card in cards] == ["csv", "masks"]
    for card in cards:
        register_card(card)
        for split, ids in (("train", ["a", "b"]), ("test", ["c", "d"])):
            for suffix in ("", "_unlabeled"):
                records = DatasetCatalog.get(f"{card['name']}_{split}{suffix}")
                assert [record["image_id"] for record in records] == ids


@pytest.mark.parametrize("of_boxes", [True, False])
@pytest.mark.parametrize(("one", "two"), [("train", "test"), ("TRAIN", "validation")])
def test_a_column_of_splits(lay, one, two, of_boxes):
    rows = f"a.png,cat,{one}\nb.png,cat,{one}\nc.png,dog,{two}\nd.png,dog,{two}\n"
    boxes = (HEADER + ROWS + OTHERS).replace("filename", "partition,filename")
    boxes = boxes.replace("\na.png", f"\n{one},a.png").replace("\nb.png", f"\n{one},b.png")
    boxes = boxes.replace("\nc.png", f"\n{two},c.png").replace("\nd.png", f"\n{two},d.png")
    text = boxes if of_boxes else "file,label,split\n" + rows
    (card,), notes = find_cards(lay({**photos("{}.png", *"abcde"), "test_set.csv": text}))
    split = "test" if two == "test" else "val"
    assert sizes(card) == {"train": (2, 2), split: (2, 2), "unlabeled": (1, 0)}
    assert any(f"its rows of {two} have the" in note for note in notes)
    for role, ids in (("train", ["a", "b"]), (split, ["c", "d"])):
        for suffix in ("", "_unlabeled"):
            records = DatasetCatalog.get(f"{card['name']}_{role}{suffix}")
            assert [record["image_id"] for record in records] == ids


@pytest.mark.parametrize("of_boxes", [True, False])
def test_a_split_without_labels_is_unlabelled(lay, of_boxes):
    head = "image,x1,y1,x2,y2,class,split\n" if of_boxes else "image,class,split\n"
    box, none = (",1,1,5,5", ",,,,") if of_boxes else ("", "")
    rows = [f"{n}.png{box},{kind},train\n" for n, kind in zip("abcd", "ccdd", strict=True)]
    rows += [f"{n}.png{none},,test\n" for n in "ef"]
    (card,), notes = find_cards(lay({**photos("{}.png", *"abcdef"), "t.csv": head + "".join(rows)}))
    assert sizes(card) == {"train": (4, 4), "test": (2, 0)}
    assert roles(card)["unlabeled"] == ["test"]
    assert any("its rows of test have no" in note for note in notes)


def test_splits_of_a_table_count_beside_class_folders(lay):
    table = "path,label,split\n" + "".join(
        f"{kind}/{n}.png,{kind},{split}\n" for kind in ("cat", "dog")
        for n, split in (("a", "train"), ("b", "train"), ("c", "test")))  # fmt: skip
    images = {
        k: v for kind in ("cat", "dog") for k, v in photos(f"{kind}/{{}}.png", *"abc").items()
    }
    (card,), _ = find_cards(lay({**images, "meta.csv": table}))
    assert sizes(card) == {"train": (4, 4), "test": (2, 2)}


@pytest.mark.parametrize("words", ["0011", "train,train,train,", "train,unlabeled,val,val"])
def test_a_column_of_other_words_is_told(lay, words):
    own = words.split(",") if "," in words else words
    table = "".join(
        f"{n},{kind},{word}\n" for n, kind, word in zip("abcd", "ccdd", own, strict=True)
    )
    card, notes = _card(lay, "file,label,split\n" + table)
    assert list(card["splits"]) == ["all"]
    assert any("its column split is not read" in note for note in notes)


def test_an_image_of_two_splits_is_told(lay):
    text = "image,x1,y1,x2,y2,class,split\na,1,1,5,5,cat,train\na,2,1,5,5,cat,test\n"
    card, notes = _card(lay, text + "b,2,1,5,5,cat,test\n")
    assert list(card["splits"]) == ["all", "unlabeled"]
    assert any("or an image has two of them" in note for note in notes)


def test_masks_of_images_that_a_column_divides_are_passed_over(lay):
    """They cannot be divided in the same way; whole, they would have all images in each split."""
    text = "image,x1,y1,x2,y2,class,split\na,1,1,5,5,cat,train\nb,2,1,5,5,cat,test\n"
    folder = lay({**photos("images/{}.png", "a", "b"), "boxes.csv": text,
                  "masks/a.png": mask(1, 1), "masks/b.png": mask(1, 1)})  # fmt: skip
    (card,), notes = find_cards(folder)
    assert sizes(card) == {"train": (1, 1), "test": (1, 1)}
    assert any("masks is passed over for train: no list" in note for note in notes)


def _card(lay, text):
    (card,), notes = find_cards(lay({**photos("{}.png", *"abcd"), "labels.csv": text}))
    return card, notes


KINDS = {f"{kind}/{name}.png": kind for kind in ("cat", "dog") for name in "ab"}
SAME = "".join(f"{path},{kind}\n" for path, kind in KINDS.items())
XY = "cat/a.png,x\ncat/b.png,y\ndog/a.png,x\ndog/b.png,y\n"
TABLES = {
    "the same": ("path,label\n" + SAME, False, {}),
    "of parts of the data": ("path,label\n" + XY, True, {}),
    "of more images": (
        "path,label\n" + SAME + "test/c.png,cat\n", True, photos("test/{}.png", "c")),
    "of fewer images": ("path,label\n" + XY[: XY.rindex("dog")], False, {}),
    "a value for each image": (
        "path,label\n" + "".join(f"{path},{i}\n" for i, path in enumerate(KINDS)), False, {}),
    "several rows for each image": (
        "path,label\n" + "".join(f"{path},{x}\n" for path in KINDS for x in "xyz"), False, {}),
    "of other images": (
        "path,label\ncat/a.png,x\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(9)),
        False, {}),
    "of splits": ("path,split\n" + XY, False, {}),
    "of something about them": ("path,kind of light\n" + XY, False, {}),
    "names of classes": ("id,name\n0,cat\n1,dog\n", False, photos("cat/{}.png", "0", "1")),
    "100 sports": (
        "class id,filepaths,labels,data set\n"
        + "".join(f"{'cd'.index(k[0])},{p},{k},train\n" for p, k in KINDS.items()), False, {}),
    "noisy Imagenette": (
        "path,noisy_labels_0,noisy_labels_1,is_valid\n"
        + "".join(f"{path},{kind},dog,False\n" for path, kind in KINDS.items()), False, {}),
    "boxes of other images": (HEADER + ROWS.replace("a.", "x.").replace("b.", "y."), False, {}),
    "boxes of images of one class": (HEADER + ROWS, False, {f"cow/{x}.png": PHOTO for x in "ab"}),
    "a log": ("epoch,phase\n0,train\n1,val\n", False, photos("cat/{}.png", "0", "1")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "is_read", "more"), TABLES.values(), ids=TABLES)
def test_class_folders_with_a_table(lay, text, is_read, more):
    photographs = dict.fromkeys(KINDS, PHOTO) | more
    (card,), _ = find_cards(lay({**photographs, "table.csv": text}))
    assert card["format"] == "folders"
    has_labels = [isinstance(s, dict) and "labels" in s for s in card["splits"].values()]
    assert any(has_labels) == is_read
    assert sum(annotated for _, annotated in sizes(card).values()) == len(photographs)


NUMBERED = {
    "what was found": "image,x1,y1,x2,y2,score\nfoo.png,1,2,3,4,.5\n",
    "a log": "epoch,loss\n0,3\n1,2\n2,1\n",
    "names of classes": "id,name\n0,background\n1,cell\n",
    "outlines": "ImageId,EncodedPixels\n" + "".join(f"{i}.png,1 {i % 2}\n" for i in range(6)),
    "pixels": "label," + ",".join(f"p{i}" for i in range(784)) + "\n1" + ",0" * 784 + "\n",
}


@pytest.mark.parametrize("text", NUMBERED.values(), ids=NUMBERED)
@pytest.mark.parametrize("has_masks", [True, False])
def test_numbered_images_and_a_table(lay, text, has_masks):
    files = {f"images/{i}.png": PHOTO for i in range(6)}
    masks = {f"masks/{i}.png": mask(1, 1) for i in range(6)} if has_masks else {}
    (card,), _ = find_cards(lay({**files, **masks, "table.csv": text}))
    assert card["format"] == ("masks" if has_masks else "images")
