"""Data cards: what is registered, where roots are found, and what is refused."""

import json
import shutil
from itertools import pairwise

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data import DatasetError, read_card, register_card, register_cards
from multas.data.toy.scene import CLASSES


def test_toy_registers_every_split_twice(toy_card):
    names = register_card(toy_card)
    assert len(names) == 2 * len(toy_card["splits"]) == len(set(names))
    assert set(names) <= set(DatasetCatalog.list())
    sizes = {name: len(DatasetCatalog.get(name)) for name in names}
    assert sizes["toy_train"] == sizes["toy_train_unlabeled"] == 24
    assert (sizes["toy_half"], sizes["toy_3quarter"], sizes["toy_7eighth"]) == (12, 18, 21)
    assert (sizes["toy_val"], sizes["toy_test"]) == (6, 8)


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


def test_registering_again_changes_nothing_but_another_card_may_not_take_the_name(toy_card):
    assert register_card(toy_card) == register_cards([toy_card])
    with pytest.raises(DatasetError, match="toy_train' is registered already"):
        register_card({**toy_card, "classes": list(reversed(CLASSES))})


def test_cards_with_the_same_data_may_lie_in_two_folders(toy_card, small_toy, tmp_path):
    """As those of two jobs of tools/distill.py, with lists of their own."""
    for job, half in (("a", "a b"), ("b", "a b"), ("c", "b c")):
        (tmp_path / job).mkdir()
        (tmp_path / job / "half.txt").write_text("\n".join(half.split()))
        splits = {"test": "Main/test", "half": str(tmp_path / job / "half.txt")}
        content = {**toy_card, "root": str(small_toy), "splits": splits}
        (tmp_path / job / "toy.yaml").write_text(yaml.safe_dump(content))
    names = register_card(tmp_path / "a" / "toy.yaml")
    assert register_card(tmp_path / "b" / "toy.yaml") == names
    with pytest.raises(DatasetError, match=r"c/toy.yaml: another data set 'toy_half' is regist"):
        register_card(tmp_path / "c" / "toy.yaml")
    others = {"name": "toy", "splits": {"test": "Main/test", "more": "Main/train"}}
    assert "toy_more" in register_card({**toy_card, **others})
    with pytest.raises(DatasetError, match="'toy_more' is registered already"):
        register_card({**toy_card, "name": "toy", "splits": {"more": "Main/val"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formt": "voc"}, "unknown key 'formt'. Did you mean 'format'"),
        ({"format": "jolo"}, "format is 'jolo'; choose from "),
        ({"format": "yolo", "classes": None}, "format yolo needs `classes`"),
        ({"splits": {"x": {"without": ["y"]}, "z": "a"}}, "split 'x': `without` names 'y'."),
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
        ({"root": None}, "key 'root' is missing"),
        ({"format": "masks", "classes": None}, "format masks needs `classes`"),
        ({"format": "coco", "year": None, "splits": {"x": {"ids": "a"}}}, "key 'json' is missing"),
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


def test_splits_do_not_depend_on_each_other(toy_card):
    """Loading one split leaves the records of another as they were."""
    register_card(toy_card)
    first = json.dumps(DatasetCatalog.get("toy_train"))
    for earlier, later in pairwise(["toy_det", "toy_seg", "toy_train"]):
        DatasetCatalog.get(earlier)
        DatasetCatalog.get(later)
    assert json.dumps(DatasetCatalog.get("toy_train")) == first
