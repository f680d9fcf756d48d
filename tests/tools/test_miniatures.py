"""The miniatures of the papers' data sets, as the loaders of the real ones read them."""

import json
import math
import pickle
import re
from importlib.util import find_spec

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from multas.data import register_card
from multas.data.formats.mask_files import read_mask
from multas.data.image_files import read_image
from multas.util.voc_xml import read_voc_xml
from reproduction.miniatures import is_miniature, make_miniatures, vedai, voc

CARDS = ("voc2007", "voc2012", "vedai", "cifar10", "cifar100", "imagenet200", "imagenet1k")
CLASSES = {"voc2007": 20, "voc2012": 20, "vedai": 8, "cifar10": 10, "cifar100": 100,
           "imagenet200": 200, "imagenet1k": 1000}  # fmt: skip


def values(records) -> set[int]:
    masks = (read_mask(record["sem_seg_file_name"]) for record in records)
    return {int(value) for mask in masks for value in np.unique(mask)}


@pytest.mark.parametrize("card", CARDS)
def test_the_shipped_cards_read_every_split(card, miniature_sets):
    for name in register_card(f"datasets/cards/{card}.yaml"):
        records = DatasetCatalog.get(name)
        assert records, name
        metadata = MetadataCatalog.get(name)
        kinds = [metadata.get(kind, None) for kind in ("thing_classes", "label_classes")]
        if any(kinds):
            assert len(next(filter(None, kinds))) == CLASSES[card], name


def test_lists_of_voc_have_the_quirks_of_the_authors(miniature_sets):
    lists = miniature_sets / "VOC2007/ImageSets"
    half, test = ((lists / f"{n}.txt").read_text() for n in ("Half/trainval", "Main/test"))
    assert not half.endswith("\n") and set(half.split()) & set(test.split())
    nested = [set((lists / f"{n}/trainval.txt").read_text().split()) for n in ("Half", "Quarter")]
    assert nested[1] < nested[0]
    twins = [miniature_sets / file for file in ("VOC2007/JPEGImages/000032.jpg",
                                                "VOC2012/JPEGImages/2007_000032.jpg")]  # fmt: skip
    assert twins[0].read_bytes() == twins[1].read_bytes()


def test_annotations_of_voc_have_parts_fractions_and_encodings(miniature_sets):
    files = sorted((miniature_sets / "VOC2012/Annotations").iterdir())
    texts = [file.read_bytes() for file in files]
    for mark in (b"<part>", b"</part>", b"<xmax>", b"<point>", b"\xef\xbb\xbf"):
        assert any(mark in text for text in texts), mark
    assert any(re.search(rb"<ymin>\d+\.700000762\d+</ymin>", text) for text in texts)
    starts = {text[:6] for text in texts}
    assert b"<annot" in starts and b"<?xml " in starts
    assert any(b"ISO-8859-1" in text and b"Ren\xe9" in text for text in texts)
    assert all(len(read_voc_xml(file).objects) < 7 for file in files), "parts are no objects"


def test_masks_of_sbd_take_the_place_of_those_that_voc_lacks(miniature_sets):
    register_card("datasets/cards/voc2012.yaml")
    records = DatasetCatalog.get("voc2012_seg")
    assert {record["sem_seg_file_name"].rpartition(".")[2] for record in records} == {"mat"}
    assert 255 not in values(records), "SBD has no void"
    valid = DatasetCatalog.get("voc2012_both_val")
    assert len(valid) == len(voc.VALIDATED) and 255 in values(valid)


def test_orientations_of_vedai_are_radians_and_an_image_lacks_corners(miniature_sets):
    folder = miniature_sets / "VEDAI/Annotations512"
    whole = (folder / "annotation512.txt").read_text().splitlines()
    angles = [float(line.split()[3]) for line in whole]
    assert max(map(abs, angles)) <= math.pi and any(angles)
    lines = (folder / f"{vedai.WITHOUT_CORNERS}.txt").read_text().splitlines()
    assert lines and {len(line.split()) for line in lines} == {5}
    register_card("datasets/cards/vedai.yaml")
    ids = {record["image_id"] for record in DatasetCatalog.get("vedai_trainval")}
    assert ids == {*vedai.LEARNED} - {vedai.WITHOUT_CORNERS}, "such an image is left out"


def test_coco_has_crowds_grey_images_and_images_without_objects(miniature_sets):
    records = DatasetCatalog.get("coco_2017_train")
    entries = [entry for record in records for entry in record["annotations"]]
    crowds = [entry for entry in entries if entry["iscrowd"]]
    assert crowds and all("counts" in entry["segmentation"] for entry in crowds)
    assert any(isinstance(entry["segmentation"], list) for entry in entries)
    assert [record for record in records if not record["annotations"]]
    assert "L" in {Image.open(record["file_name"]).mode for record in records}
    file = miniature_sets / "coco/annotations/instances_train2017.json"
    numbers = [entry["id"] for entry in json.loads(file.read_text())["categories"]]
    assert len(numbers) == 80 and max(numbers) == 90


@pytest.mark.skipif(not (find_spec("shapely") and find_spec("cityscapesscripts")),
                    reason="polygons of Cityscapes need cityscapesscripts and shapely")  # fmt: skip
def test_polygons_of_cityscapes_are_read(miniature_sets):
    records = DatasetCatalog.get("cityscapes_fine_instance_seg_train")
    entries = [entry for record in records for entry in record["annotations"]]
    assert {entry["category_id"] for entry in entries} <= set(range(8))
    assert {bool(entry["iscrowd"]) for entry in entries} == {True, False}


def test_label_maps_of_cityscapes_have_nineteen_classes_and_the_rest(miniature_sets):
    records = DatasetCatalog.get("cityscapes_fine_sem_seg_train")
    records += DatasetCatalog.get("cityscapes_fine_sem_seg_val")
    found = values(records)
    assert found <= {*range(19), 255} and {*range(11), 255} <= found
    maps = miniature_sets.glob("cityscapes/gtFine/*/*/*_instanceIds.png")
    numbers = {int(v) for file in maps for v in np.unique(np.array(Image.open(file)))}
    assert any(v >= 24_000 for v in numbers) and max(v for v in numbers if v < 1000) <= 33
    colours = next(miniature_sets.glob("cityscapes/gtFine/*/*/*_color.png"))
    assert Image.open(colours).getextrema()[3] == (255, 255), "opaque, of four channels"


def test_label_maps_of_ade20k_have_150_classes(miniature_sets):
    assert values(DatasetCatalog.get("ade20k_sem_seg_train")) == {*range(150), 255}


def test_batches_of_cifar_are_named_as_the_original_ones(miniatures):
    files = {"data_batch_1": "training batch 1 of 5", "test_batch": "testing batch 1 of 1"}
    for file, name in files.items():
        content = pickle.loads((miniatures / "cifar-10-batches-py" / file).read_bytes())
        assert content["batch_label"] == name


def test_images_of_imagenet_are_not_what_their_names_say(miniature_sets):
    register_card("datasets/cards/imagenet1k.yaml")
    records = DatasetCatalog.get("imagenet1k_train")
    kinds: dict[tuple[str, str], str] = {}
    for record in records[:120]:
        with Image.open(record["file_name"]) as image:
            kinds[image.format, image.mode] = record["file_name"]
    assert kinds.keys() == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")}
    for file in kinds.values():
        assert read_image(file, "RGB").shape[2] == 3
    # The same picture in four channels and in three.
    pictures = [np.asarray(read_image(records[i]["file_name"], "RGB"), float) for i in (2, 42)]
    assert np.abs(pictures[0] - pictures[1][: len(pictures[0])]).mean() < 12


def test_what_is_made_is_made_once(miniatures):
    file = miniatures / "coco/annotations/instances_val2017.json"
    before = file.stat().st_mtime_ns
    assert is_miniature(miniatures) and not is_miniature(miniatures / "coco")
    make_miniatures(miniatures)
    assert file.stat().st_mtime_ns == before
