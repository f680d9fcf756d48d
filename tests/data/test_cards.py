"""Data cards: what is registered, where roots are found, what is refused, which evaluators work."""

import json
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from multas.data import DatasetError, read_card, register_card, register_cards
from multas.data.formats.masks import read_mask
from multas.data.toy.scene import CLASSES


@pytest.fixture
def toy_card(repository, small_toy):
    """The repository's toy card, with the small copy as root."""
    content = yaml.safe_load((repository / "datasets/cards/toy.yaml").read_text())
    return {**content, "root": str(small_toy)}


@pytest.fixture
def real_card(repository, shared_data, monkeypatch):
    """Path of a card of the repository, its data found in the folder of real data sets."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))

    def find(name):
        if not (shared_data / name).is_dir():
            pytest.skip(f"no {name}")
        return repository / "datasets" / "cards" / f"{name}.yaml"

    return find


def perfect_predictions(evaluator, name):
    """Scores of an evaluator that is given the ground truth as detections."""
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        boxes = [
            BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
            for entry in record["annotations"]
        ]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor(
            [entry["category_id"] for entry in record["annotations"]], dtype=torch.int64
        )
        instances.scores = torch.linspace(1, 0.5, len(boxes))
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_toy_registers_every_split_twice(toy_card):
    names = register_card(toy_card)
    assert len(names) == 2 * len(toy_card["splits"]) == len(set(names))
    assert set(names) <= set(DatasetCatalog.list())
    sizes = {name: len(DatasetCatalog.get(name)) for name in names}
    assert sizes["toy_train"] == sizes["toy_train_unlabeled"] == 24
    assert (sizes["toy_half"], sizes["toy_3quarter"], sizes["toy_7eighth"]) == (12, 18, 21)
    assert (sizes["toy_val"], sizes["toy_test"]) == (6, 8)


def test_voc_dicts_are_those_of_detectron2(toy_card, small_toy):
    register_card(toy_card)
    own = DatasetCatalog.get("toy_train")
    for record in own:
        for entry in record["annotations"]:
            assert {entry.pop("difficult"), entry.pop("truncated")} <= {0, 1}
    assert own == load_voc_instances(str(small_toy), "train", CLASSES)


def test_splits_hand_out_what_they_declare(toy_card):
    register_card(toy_card)
    expected = {
        "toy_det": {"annotations"},
        "toy_seg": {"sem_seg_file_name"},
        "toy_both_val": {"annotations", "sem_seg_file_name"},
        "toy_seg_unlabeled": set(),
    }
    for name, keys in expected.items():
        for record in DatasetCatalog.get(name):
            assert record.keys() == {"file_name", "image_id", "height", "width"} | keys


def test_unlabeled_splits_open_no_annotation(toy_card, small_toy, tmp_path):
    root = tmp_path / "withheld"
    shutil.copytree(small_toy, root)
    shutil.rmtree(root / "Annotations")
    shutil.rmtree(root / "SegmentationClass")
    register_card({**toy_card, "root": str(root), "strictness": "stop"})
    records = DatasetCatalog.get("toy_both_train_unlabeled")
    assert len(records) == 24 and not any("annotations" in record for record in records)
    with pytest.raises(DatasetError, match="Annotations"):
        DatasetCatalog.get("toy_train")


def test_a_split_without_boxes_opens_no_xml(toy_card, small_toy, tmp_path):
    root = tmp_path / "withheld"
    shutil.copytree(small_toy, root)
    shutil.rmtree(root / "Annotations")
    register_card({**toy_card, "root": str(root)})
    assert len(DatasetCatalog.get("toy_seg")) == 12


@pytest.mark.parametrize("split", ["test", "half"])
def test_detectron2_voc_evaluator_scores_the_ground_truth_100(toy_card, split):
    register_card(toy_card)
    scores = perfect_predictions(PascalVOCDetectionEvaluator(f"toy_{split}"), f"toy_{split}")
    assert scores["AP50"] == pytest.approx(100) and scores["AP"] == pytest.approx(100)


def test_detectron2_coco_evaluator_scores_the_ground_truth_100(toy_card, tmp_path):
    register_card(toy_card)
    evaluator = COCOEvaluator("toy_test", output_dir=str(tmp_path), use_fast_impl=False)
    scores = perfect_predictions(evaluator, "toy_test")
    assert scores["AP"] == pytest.approx(100)


def test_detectron2_mask_evaluator_scores_the_ground_truth_100(toy_card):
    register_card(toy_card)
    evaluator = SemSegEvaluator("toy_seg", distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get("toy_seg"):
        mask = read_mask(record["sem_seg_file_name"]).astype(np.int64)
        scores = torch.nn.functional.one_hot(torch.as_tensor(mask).clamp(max=8), 9)
        evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_metadata_tell_the_evaluators_what_they_need(toy_card, small_toy):
    register_card({**toy_card, "year": 2007})
    half = MetadataCatalog.get("toy_half")
    assert half.thing_classes == list(CLASSES)
    assert (half.dirname, half.split, half.year) == (str(small_toy), "../Half/trainval", 2007)
    assert (half.evaluator_type, half.annotates) == ("pascal_voc", ("det",))
    assert MetadataCatalog.get("toy_train").split == "train"
    seg = MetadataCatalog.get("toy_seg")
    assert seg.stuff_classes == ["background", *CLASSES]
    assert (seg.evaluator_type, seg.ignore_label) == ("sem_seg", 255)
    assert MetadataCatalog.get("toy_both_val").evaluator_type == ["pascal_voc", "sem_seg"]
    assert MetadataCatalog.get("toy_half_unlabeled").get("evaluator_type") is None


def test_nothing_is_opened_before_loading(toy_card):
    register_card({**toy_card, "root": "no/such/folder"})
    with pytest.raises(DatasetError, match="DETECTRON2_DATASETS"):
        DatasetCatalog.get("toy_train")


def test_data_that_appears_after_registering_is_found(toy_card, small_toy, tmp_path):
    root = tmp_path / "later"
    register_card({**toy_card, "root": str(root)})
    assert MetadataCatalog.get("toy_test").get("dirname") is None
    shutil.copytree(small_toy, root)
    assert len(DatasetCatalog.get("toy_test")) == 8
    assert MetadataCatalog.get("toy_test").dirname == str(root)


def test_root_is_looked_for_beside_the_card_then_in_the_environment(
    toy_card, small_toy, tmp_path, monkeypatch
):
    shutil.copytree(small_toy, tmp_path / "store" / "here")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "store"))
    card = tmp_path / "cards" / "mine.yaml"
    card.parent.mkdir()
    card.write_text(yaml.safe_dump({**toy_card, "root": "here"}))
    parsed = read_card(card)
    assert parsed.find_root() == tmp_path / "store" / "here"
    shutil.copytree(small_toy, tmp_path / "cards" / "here")
    assert parsed.find_root() == tmp_path / "cards" / "here"
    card.write_text(yaml.safe_dump({**toy_card, "root": "gone"}))
    with pytest.raises(DatasetError) as error:
        read_card(card).find_root()
    assert str(tmp_path / "cards" / "gone") in str(error.value)
    assert str(tmp_path / "store" / "gone") in str(error.value)


def test_missing_list_names_every_place_that_was_tried(toy_card, small_toy):
    register_card({**toy_card, "splits": {"train": "Main/trian"}})
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("toy_train")
    assert str(small_toy / "ImageSets" / "Main" / "trian.txt") in str(error.value)


def test_missing_image_folder_is_named(toy_card, small_toy):
    register_card({**toy_card, "images": "JPGImages"})
    with pytest.raises(DatasetError, match=r"no image folder .*JPGImages"):
        DatasetCatalog.get("toy_train")


def test_lists_that_are_made_later_do_not_hinder_registering(toy_card):
    register_card({**toy_card, "splits": {"train": "Main/train", "tenth": "10pct/trainval"}})
    assert len(DatasetCatalog.get("toy_train")) == 24
    with pytest.raises(DatasetError, match="10pct"):
        DatasetCatalog.get("toy_tenth")


def test_lists_outside_the_devkit_can_be_evaluated(toy_card, small_toy, tmp_path):
    card = tmp_path / "mine.yaml"
    shutil.copy(small_toy / "ImageSets/Main/val.txt", tmp_path / "few.txt")
    card.write_text(yaml.safe_dump({**toy_card, "splits": {"few": "few.txt"}}))
    register_card(card)
    scores = perfect_predictions(PascalVOCDetectionEvaluator("toy_few"), "toy_few")
    assert scores["AP50"] > 0


def test_registering_again_changes_nothing_but_another_card_may_not_take_the_name(toy_card):
    assert register_card(toy_card) == register_cards([toy_card])
    with pytest.raises(DatasetError, match="toy_train' is registered already"):
        register_card({**toy_card, "classes": list(reversed(CLASSES))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formt": "voc"}, "unknown key 'formt'. Did you mean 'format'"),
        (
            {"format": "yolo"},
            "format is 'yolo'; choose from ",
        ),
        ({"strictness": "lenient"}, "strictness is 'lenient'; choose from stop, skip"),
        ({"year": 2010}, "choose 2007"),
        ({"classes": ["a", "b", "a"]}, "lists a twice"),
        ({"classes": "cat"}, "classes must be a list of names"),
        ({"splits": {"x_unlabeled": "a"}}, "names ending in _unlabeled"),
        ({"splits": {}}, "`splits` must be a table"),
        ({"splits": ["train"]}, "`splits` must be a table"),
        ({"ids": "Main/train"}, "unknown key 'ids'"),
        ({"splits": {"x": {"ids": "a", "annotates": ["boxes"]}}}, "split 'x': annotates"),
        ({"splits": {"x": {"id": "a"}}}, "split 'x': unknown key 'id'. Did you mean 'ids'"),
        ({"splits": {"x": None}}, "needs a list of ids"),
        ({"root": None}, "key 'root' is missing"),
        ({"format": "masks", "classes": None}, "format masks needs `classes`"),
        ({"format": "coco", "splits": {"x": {"ids": "a"}}}, "key 'json' is missing"),
    ],
)
def test_wrong_cards_are_refused_with_a_cure(toy_card, change, message):
    with pytest.raises(DatasetError) as error:
        register_card({**toy_card, **change})
    assert message in str(error.value)


def test_names_may_be_numbers(toy_card):
    names = register_card({**toy_card, "name": 7, "splits": {2007: "Main/train"}})
    assert names == ["7_2007", "7_2007_unlabeled"]


def test_unreadable_cards_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.yaml cannot be read"):
        register_card(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(DatasetError, match=r"bad\.yaml, line 1: while parsing"):
        register_card(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- name")
    with pytest.raises(DatasetError, match="not a table"):
        register_card(tmp_path / "list.yaml")


def test_every_card_of_the_repository_can_be_registered(repository):
    cards = sorted((repository / "datasets" / "cards").glob("*.yaml"))
    assert {card.stem for card in cards} >= {"toy", "bccd", "coco128", "voc2007", "voc2012"}
    for card in cards:
        names = register_card(card)
        assert all(name.startswith(f"{card.stem}_") for name in names)


def test_voc_cards_have_detectron2_class_order(repository):
    for year in (2007, 2012):
        register_card(repository / "datasets" / "cards" / f"voc{year}.yaml")
        own = MetadataCatalog.get(f"voc{year}_trainval").thing_classes
        assert own == list(MetadataCatalog.get(f"voc_{year}_trainval").thing_classes)


def test_a_plain_folder_needs_no_splits(small_toy, tmp_path):
    register_card({"name": "wild", "format": "images", "root": str(small_toy / "JPEGImages")})
    records = DatasetCatalog.get("wild_all")
    assert records == DatasetCatalog.get("wild_all_unlabeled")
    assert [record["image_id"] for record in records] == [f"{i:06d}" for i in range(38)]
    (tmp_path / "some.txt").write_text("000003\n000001\n")
    content = {"name": "few", "format": "images", "root": str(small_toy)}
    register_card({**content, "images": "JPEGImages", "splits": {"x": str(tmp_path / "some.txt")}})
    assert [r["image_id"] for r in DatasetCatalog.get("few_x")] == ["000003", "000001"]


def test_masks_format(small_toy):
    register_card(
        {
            "name": "roads",
            "format": "masks",
            "root": str(small_toy),
            "images": "JPEGImages",
            "masks": "SegmentationClass",
            "classes": ["nothing", *CLASSES],
            "splits": {"val": "Segmentation/val", "all": {}},
        }
    )
    assert len(DatasetCatalog.get("roads_all")) == 38
    records = DatasetCatalog.get("roads_val")
    assert records[0]["sem_seg_file_name"].endswith("SegmentationClass/000024.png")
    metadata = MetadataCatalog.get("roads_val")
    assert metadata.stuff_classes == ["nothing", *CLASSES]
    assert metadata.evaluator_type == "sem_seg"


def test_blood_cells_without_area_are_reported_by_name_or_left_out(real_card, caplog):
    card = real_card("bccd")
    content = yaml.safe_load(card.read_text())
    register_card(card)
    records = DatasetCatalog.get("bccd_trainval")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (292, 3943 - 2)
    warnings = [record for record in caplog.records if record.name.startswith("multas")]
    assert len(warnings) == 1 and "BloodImage_00338" in warnings[0].getMessage()
    register_card({**content, "name": "strict", "strictness": "stop"})
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("strict_trainval")
    message = str(error.value)
    assert "2 issues" in message
    assert "BloodImage_00338.xml: object 12 (RBC): box 504,337,504,337 has no area" in message
    assert "BloodImage_00343.xml: object 3 (RBC): box 181,329,181,329 has no area" in message
    assert len(DatasetCatalog.get("strict_test")) == 72


def test_blood_cells_are_evaluated_by_detectron2(real_card):
    register_card(real_card("bccd"))
    scores = perfect_predictions(PascalVOCDetectionEvaluator("bccd_test"), "bccd_test")
    assert scores["AP50"] == pytest.approx(100)


def test_coco_slice_has_images_annotated_as_empty(real_card, tmp_path):
    register_card(real_card("coco128"))
    records = DatasetCatalog.get("coco128_train")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (41, 305)
    empty = [record["image_id"] for record in records if record["annotations"] == []]
    assert empty == [250, 508]
    unlabeled = DatasetCatalog.get("coco128_train_unlabeled")
    assert [record["image_id"] for record in unlabeled] == [r["image_id"] for r in records]
    assert not any("annotations" in record for record in unlabeled)


def test_coco_slice_is_evaluated_by_detectron2(real_card, tmp_path):
    register_card(real_card("coco128"))
    name = "coco128_val"
    DatasetCatalog.get(name)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path), use_fast_impl=False, tasks=("bbox",))
    assert perfect_predictions(evaluator, name)["AP"] > 99.9
    assert not list(tmp_path.glob("*coco_format*"))  # the file itself serves as ground truth


def test_a_long_report_ends_after_a_screenful(toy_card, small_toy, tmp_path):
    root = tmp_path / "bad"
    shutil.copytree(small_toy, root)
    for file in (root / "JPEGImages").iterdir():
        file.write_bytes(b"no image")
    register_card({**toy_card, "root": str(root)})
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("toy_train")
    lines = str(error.value).splitlines()
    assert "24 issues" in lines[0] and "  and 4 more" in lines and len(lines) < 25
    assert lines[1].endswith("000000.jpg: not a readable image (unknown format)")


def test_image_sizes_are_those_detectron2_reads(tmp_path):
    pixels = np.zeros((6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.jpg")
    register_card({"name": "wild", "format": "images", "root": str(tmp_path)})
    sizes = [(r["width"], r["height"]) for r in DatasetCatalog.get("wild_all")]
    assert sizes == [(6, 9), (9, 6)]


def test_splits_do_not_depend_on_each_other(toy_card):
    """Loading one split leaves the records of another as they were."""
    register_card(toy_card)
    first = json.dumps(DatasetCatalog.get("toy_train"))
    for earlier, later in pairwise(["toy_det", "toy_seg", "toy_train"]):
        DatasetCatalog.get(earlier)
        DatasetCatalog.get(later)
    assert json.dumps(DatasetCatalog.get("toy_train")) == first


def test_the_format_of_the_documentation_works(repository, tmp_path):
    text = (repository / "datasets" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {"__name__": "own_format_of_the_documentation"})
    for name in ("owl_1", "cat_2", "owl_3"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "train.txt").write_text("owl_1\ncat_2\n")
    card = {"name": "named", "format": "namedfiles", "root": str(tmp_path)}
    register_card({**card, "splits": {"train": "train.txt"}})
    labels = {r["image_id"]: r["label"] for r in DatasetCatalog.get("named_train")}
    assert labels == {"owl_1": 1, "cat_2": 0}
    metadata = MetadataCatalog.get("named_train")
    assert (metadata.label_classes, metadata.evaluator_type) == (["cat", "owl"], "classification")
    register_card({**card, "name": "cats", "classes": ["cat"], "splits": {"all": {}}})
    with pytest.raises(DatasetError, match=r"2 issues\n.*unknown class owl"):
        DatasetCatalog.get("cats_all")
