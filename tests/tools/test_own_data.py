"""Recipes on a user's card: its splits and classes take the place of their own."""

import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from multas.data import DatasetError, make_toy
from multas.data.suggestions import input_size, measure, pixel_statistics
from reproduction.own_data import opts_on_card
from reproduction.runs import merged


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("devkit"), train=8, val=2, test=2)


@pytest.fixture
def card(root, tmp_path):
    """``card(name, *splits, **keys)``: a card with these splits, annotated for both tasks."""

    def write(name: str, *splits: str, **keys) -> str:
        file = tmp_path / f"{name}.yaml"
        content = {"name": name, "format": "voc", "root": str(root), "annotates": ["det", "seg"]}
        # Masks of classes in another order than the alphabet's, which a card without classes has.
        content |= {"strictness": "skip", "splits": dict.fromkeys(splits, "Main/train"), **keys}
        file.write_text(yaml.safe_dump(content))
        return str(file)

    return write


def opts_of(card: str, recipe: str) -> dict[str, str]:
    opts = opts_on_card(card, merged(f"configs/{recipe}", []))
    return dict(zip(opts[::2], opts[1::2], strict=True))


@pytest.mark.parametrize(
    ("recipe", "splits", "train", "test"),
    [
        ("limited-data/table1.yaml#toy/half/supervised", "half test", ["_half"], ["_test"]),
        ("limited-data/table1.yaml#voc/half/supervised", "half test", ["_half"], ["_test"]),
        (
            "limited-data/table3.yaml#voc/half_to_half2/self_trained",
            "half2 test",
            ["_half2_unlabeled"],
            ["_test"],
        ),
        (
            "limited-data/table1.yaml#toy/half/self_trained",
            "train test",
            ["_train_unlabeled"],
            ["_test"],
        ),
        ("adaptive/table5.yaml#coco/student", "train val", ["_train"], ["_val"]),
        ("limited-data/table5.yaml#toy/teacher_seg", "seg test", ["_seg"], ["_test"]),
        ("adaptive/table4.yaml#toy/student", "train test", ["_train"], ["_test"]),
        ("adaptive/table4.yaml#cityscapes/student", "train val", ["_train"], ["_val"]),
    ],
)
def test_splits_keep_their_names(card, recipe, splits, train, test):
    name = "my" + "".join(filter(str.isalnum, recipe))  # no two cards of one name can be registered
    file = card(name, *splits.split())
    opts = opts_of(file, recipe)
    assert opts["DATASETS.CARDS"] == repr([file])
    assert opts["DATASETS.TRAIN"] == repr([f"{name}{split}" for split in train])
    assert opts["DATASETS.TEST"] == repr([f"{name}{split}" for split in test])
    stop = "voc" in recipe
    assert opts.get("SOLVER.EARLY_STOPPING.DATASET") == (f"{name}_test" if stop else None)


def test_rows_of_the_embedded_set_are_fitted_to_the_data(card):
    file = card("fitted", "half", "train", "test")
    opts = opts_of(file, "limited-data/table1.yaml#toy/half/supervised")
    records = DatasetCatalog.get("fitted_half")
    assert opts["MODEL.PIXEL_MEAN"] == repr(pixel_statistics(records)[0])
    assert len(yaml.safe_load(opts["MODEL.ANCHOR_GENERATOR.SIZES"])) == 3
    assert opts["INPUT.MIN_SIZE_TEST"] == repr(input_size(measure(records))[0])
    pretrained = opts_of(file, "limited-data/table1.yaml#voc/half/supervised")
    assert not {"MODEL.PIXEL_MEAN", "INPUT.MIN_SIZE_TEST"} & pretrained.keys()


def test_batches_of_tasks_are_on_the_card_as_well(card):
    file = card("mytasks", "det2", "seg", "test")
    opts = opts_of(file, "limited-data/table6.yaml#toy/multi_task")
    batches = [
        {"TASK": "det", "TRAIN": ["mytasks_det2"]},
        {"TASK": "seg", "TRAIN": ["mytasks_seg"]},
    ]
    assert opts["DATASETS.TASK_BATCHES"] == repr(batches)
    assert opts["DATASETS.TRAIN"] == "[]" and opts["DATASETS.TEST"] == "['mytasks_test']"


@pytest.fixture
def photographs(tmp_path):
    """Keys of a card for classification: a folder for each of two splits, a class in each."""
    for split in ("train", "test"):
        file = tmp_path / "photographs" / split / "cat" / "1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(file)
    splits = {"train": "train", "test": "test"}
    return {
        "format": "folders", "root": str(tmp_path / "photographs"), "annotates": ["cls"],
        "splits": splits,
    }  # fmt: skip


def test_classes_of_whole_images(card, photographs):
    opts = opts_of(card("myphotographs", **photographs), "adaptive/table2.yaml#toy/student")
    assert opts["DATASETS.TRAIN"] == "['myphotographs_train']"
    assert opts["MODEL.LINEAR_HEAD.NUM_CLASSES"] == "1"


def test_annotations_of_another_task_are_refused(card, photographs):
    with pytest.raises(DatasetError, match="annotated for cls, but the recipe trains det"):
        opts_of(card("mycats", **photographs), "limited-data/table1.yaml#toy/half/supervised")
    boxes = card("myboxes", "train", "test", annotates="det")
    with pytest.raises(DatasetError, match="annotated for det, but the recipe trains cls"):
        opts_of(boxes, "adaptive/table2.yaml#toy/student")


def test_weights_are_selected_on_a_card_s_own_validation_set(card):
    file = card("myval", "half", "val", "test")
    opts = opts_of(file, "limited-data/table1.yaml#voc/half/supervised")
    assert opts["SOLVER.EARLY_STOPPING.DATASET"] == "myval_val"
    assert opts["DATASETS.TEST"] == "['myval_test']"


def test_heads_get_the_classes_of_the_card(card):
    opts = opts_of(
        card("myclasses", "train", "half", "test"), "limited-data/table1.yaml#toy/half/supervised"
    )
    assert opts["MODEL.DENSE_HEAD.NUM_CLASSES"] == opts["MODEL.GFL_HEAD.NUM_CLASSES"]
    count = int(opts["MODEL.DENSE_HEAD.NUM_CLASSES"])
    assert 0 < count <= 8, "found in the annotations: the card does not list them"
    assert opts["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == str(count + 1), "and the background"


def test_a_missing_split_is_named_with_the_recipes(card):
    with pytest.raises(
        DatasetError, match=r"no split 'quarter'.* toy_quarter .*half, test.*split\.py"
    ):
        opts_of(card("mygap", "half", "test"), "limited-data/table2.yaml#toy/quarter/supervised")
