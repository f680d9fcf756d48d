"""A data format from a user's own file is used by a card and trained, without any change here."""

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from multas.data import DatasetError, register_card
from training import train


@pytest.fixture
def table_card(card, card_file, devkit, tmp_path):
    """A card of the tiny set's training images, whose boxes are written to a table."""
    register_card(card_file)
    rows = [
        ";".join(map(str, [record["image_id"], card["classes"][a["category_id"]], *a["bbox"]]))
        for record in DatasetCatalog.get(f"{card['name']}_train")
        for a in record["annotations"]
        if a["bbox_mode"] == BoxMode.XYXY_ABS
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    return {
        "name": f"table{tmp_path.name}", "format": "boxtable", "root": str(devkit),
        "images": "JPEGImages", "delimiter": ";",
        "splits": {"train": {"table": str(tmp_path / "boxes.csv"), "ids": "Main/train"}},
    }  # fmt: skip


@pytest.fixture
def table_cfg(tiny_cfg, table_card, tmp_path):
    """``table_cfg(**changes)``: a run on the card, with these changes."""

    def build(**changes):
        content = table_card | changes
        (tmp_path / "table.yaml").write_text(yaml.safe_dump(content))
        return tiny_cfg(
            "IMPORT_MODULES", ["own_format"], "DATASETS.CARDS", [str(tmp_path / "table.yaml")],
            "DATASETS.TRAIN", [f"{content['name']}_train"],
            "DATASETS.TEST", [f"{content['name']}_train"],
            "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0,
        )  # fmt: skip

    return build


def test_it_trains_and_is_evaluated(table_cfg, table_card, card):
    results = train(table_cfg())._last_eval_results["bbox"]
    assert {"AP", "AP-disc"} <= results.keys()
    name = f"{table_card['name']}_train"
    own, voc = (DatasetCatalog.get(n) for n in (name, f"{card['name']}_train"))
    for a, b in zip(own, voc, strict=True):
        assert a["image_id"] == b["image_id"]
        assert [x["bbox"] for x in a["annotations"]] == [x["bbox"] for x in b["annotations"]]
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == sorted(card["classes"])
    assert (metadata.evaluator_type, metadata.annotates) == ("coco", ("det",))
    assert not any("annotations" in record for record in DatasetCatalog.get(f"{name}_unlabeled"))


def test_its_keys_are_checked(table_cfg, table_card):
    split = {"tabel": "boxes.csv"}
    with pytest.raises(DatasetError, match=r"split 'train': unknown key 'tabel'. .* 'table'"):
        table_cfg(splits={"train": split})
    with pytest.raises(DatasetError, match="split 'train': key 'table' is missing"):
        table_cfg(splits={"train": {"ids": "Main/train"}})
    with pytest.raises(DatasetError, match="format boxtable has no use for `mask_suffix`"):
        table_cfg(mask_suffix="_x")


def test_its_issues_are_reported(table_cfg, table_card):
    table_cfg(classes=["disc"], name=f"few{table_card['name']}")
    with pytest.raises(DatasetError, match=r"boxes.csv: unknown class 'square'"):
        DatasetCatalog.get(f"few{table_card['name']}_train")
