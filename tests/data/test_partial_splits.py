"""Lists for partly annotated data: disjoint, complete, nested, balanced; cards that use them."""

import json
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import split as split_tool
from multas.data import register_card, register_cards
from multas.data.splits.check import read_lists
from multas.data.splits.make import class_counts, make_partial_splits, mask_counts
from multas.util.errors import UserError

images = st.dictionaries(
    st.integers(0, 9999).map(lambda i: f"{i:04d}"),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6)),
    min_size=16,
    max_size=60,
)


@given(counts=images, seed=st.integers(0, 2**31), number=st.integers(1, 3))
def test_lists_are_disjoint_complete_and_nested(counts, seed, number):
    tasks = ["det", "seg", "cls"][:number]
    splits = make_partial_splits(counts, tasks, [4, 2], seed)
    assert sorted(splits) == sorted(f"{task}{part}" for task in tasks for part in ("", 2, 4))
    assert sorted(chain(*(splits[task] for task in tasks))) == sorted(counts)
    sizes = [len(splits[task]) for task in tasks]
    assert max(sizes) - min(sizes) <= 1
    for task in tasks:
        assert set(splits[f"{task}4"]) < set(splits[f"{task}2"]) < set(splits[task])
        for part in (2, 4):
            assert abs(len(splits[f"{task}{part}"]) - len(splits[task]) / part) <= 0.5
    for ids in splits.values():
        assert ids == sorted(set(ids))


@given(counts=images, seed=st.integers(0, 2**31), order=st.randoms(use_true_random=False))
def test_the_seed_alone_decides(counts, seed, order):
    shuffled = list(counts.items())
    order.shuffle(shuffled)
    tasks = ["det", "seg"]
    expected = make_partial_splits(counts, tasks, seed=seed)
    assert make_partial_splits(dict(shuffled), tasks, seed=seed) == expected


def test_other_seeds_give_other_lists():
    counts = {f"{i:03d}": {"a": 1} for i in range(64)}
    made = {tuple(make_partial_splits(counts, ["a", "b"], seed=seed)["a"]) for seed in range(5)}
    assert len(made) == 5


def test_each_class_gets_its_share():
    rng = np.random.default_rng(5)
    counts = {f"empty{i}": {} for i in range(40)}
    for i in range(560):
        rare = {"b": rng.random() < 0.4, "c": rng.random() < 0.15, "d": i % 20 == 0}
        own = {"a": int(rng.integers(1, 10))}
        counts[f"{i:04d}"] = own | {
            n: int(rng.integers(1, 4)) for n, shown in rare.items() if shown
        }
    totals = sum((Counter(own) for own in counts.values()), Counter())
    splits = make_partial_splits(counts, ["det", "seg"], seed=3)
    for name, share in {"det": 1 / 2, "seg": 1 / 2, "det2": 1 / 4, "seg2": 1 / 4}.items():
        own = sum((Counter(counts[image_id]) for image_id in splits[name]), Counter())
        for class_name, total in totals.items():
            assert abs(own[class_name] - share * total) <= max(2, 0.02 * total), (name, class_name)
        assert abs(sum(not counts[image_id] for image_id in splits[name]) - 40 * share) <= 2


@pytest.mark.parametrize(
    ("tasks", "nested"),
    [
        ([], [2]),
        (["det", "det"], [2]),
        (["det", "det2"], [2]),
        (["det"], [1]),
        (["det"], [2, 2]),
        (["det"], [64]),
        (["a", "b", "c", "d", "e", "f", "g", "h", "i"], []),
    ],
)
def test_impossible_lists_are_refused(tasks, nested):
    with pytest.raises(ValueError, match=r"names of their own|too few"):
        make_partial_splits({f"{i}": {} for i in range(8)}, tasks, nested)


def test_masks_count_each_class_once(tmp_path):
    mask = np.array([[0, 1, 1, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "x.png")
    record = {"file_name": "photos/x.jpg", "sem_seg_file_name": str(tmp_path / "x.png")}
    assert mask_counts([record], ["no", "yes"]) == {"x": {"no": 1, "yes": 1}}
    assert mask_counts([record], ["no", "yes"], ignore_label=255, image_root=".").keys() == {
        "photos/x"
    }
    with pytest.raises(ValueError, match=r"x\.png: value 255 is beyond the 2 classes"):
        mask_counts([record], ["no", "yes"], ignore_label=0)
    with pytest.raises(ValueError, match="not annotated"):
        mask_counts([{"file_name": "x.jpg"}], ["no"])


def test_ids_that_are_file_names_become_ids_of_cards():
    record = {"image_id": "b_1.png", "file_name": "root/b/b_1.png", "annotations": []}
    assert set(class_counts([record], [], "root")) == {"b/b_1"}


def test_tool_divides_a_voc_card_which_then_uses_the_lists(small_toy, tmp_path, capsys):
    root = tmp_path / "mine"
    shutil.copytree(small_toy, root)
    shutil.rmtree(root / "ImageSets" / "det")
    card = tmp_path / "mine.yaml"
    card.write_text(
        "name: mine\nformat: voc\nroot: mine\nsplits:\n  train: Main/train\n"
        "  det: {ids: det/train, annotates: [det]}\n  seg2: {ids: seg2/train, annotates: [seg]}\n"
        "classes: [disc, square, triangle, star, ring, cross, crescent, hexagon]\n"
    )
    arguments = ["partial", "--card", str(card), "--split", "train"]
    arguments += ["--out", str(root / "ImageSets"), "--force"]
    assert split_tool.main(arguments) == 0
    assert "seg2" in capsys.readouterr().out
    lists = read_lists(root)
    assert [len(lists[f"{n}/train"]) for n in ("det", "seg", "det2", "seg2")] == [12, 12, 6, 6]
    register_card(card)
    det, seg = DatasetCatalog.get("mine_det"), DatasetCatalog.get("mine_seg2")
    assert (len(det), len(seg)) == (12, 6)
    assert "annotations" in det[0] and "sem_seg_file_name" in seg[0]
    with pytest.raises(UserError, match="other ids"):
        split_tool.main([*arguments[:-1], "--seed", "1"])


@pytest.fixture
def cityscapes(tmp_path):
    """A tree of the layout of Cityscapes: 8 + 4 images in two cities, of two classes."""
    rng = np.random.default_rng(0)
    for city, count in (("aachen", 8), ("bochum", 4)):
        for number in range(count):
            name = f"{city}_000000_{number:06d}"
            image = tmp_path / "cityscapes/leftImg8bit/train" / city / f"{name}_leftImg8bit.png"
            gt = tmp_path / "cityscapes/gtFine/train" / city
            for folder in (image.parent, gt):
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(image)
            labels = rng.choice(np.array([0, 13, 255], np.uint8), (6, 8))
            for kind in ("instanceIds", "labelIds", "labelTrainIds"):
                Image.fromarray(labels).save(gt / f"{name}_gtFine_{kind}.png")
            text = '{"imgHeight": 6, "imgWidth": 8, "objects": []}'
            (gt / f"{name}_gtFine_polygons.json").write_text(text)
    return tmp_path / "cityscapes"


def test_tool_divides_cityscapes_as_detectron2_has_it_and_a_card_reads_the_lists(cityscapes):
    images, masks = (cityscapes / folder / "train" for folder in ("leftImg8bit", "gtFine"))
    DatasetCatalog.register("city_train", lambda: load_cityscapes_semantic(str(images), str(masks)))
    classes = MetadataCatalog.get("cityscapes_fine_sem_seg_train").stuff_classes
    MetadataCatalog.get("city_train").set(image_dir=f"{images}/", stuff_classes=classes)
    out = cityscapes / "lists"
    assert split_tool.main(["partial", "--split", "city_train", "--out", str(out)]) == 0
    content = {"name": "city", "format": "masks", "root": str(cityscapes), "classes": classes}
    content |= {"images": "leftImg8bit/train", "masks": "gtFine/train"}
    content |= {"suffix": "_leftImg8bit", "mask_suffix": "_gtFine_labelTrainIds"}
    register_card({**content, "splits": {"all": {}, "seg": "lists/seg/train"}})
    everything, seg = DatasetCatalog.get("city_all"), DatasetCatalog.get("city_seg")
    assert [len(everything), len(seg)] == [12, 6]
    assert everything[0]["image_id"] == "aachen/aachen_000000_000000"
    for record in seg:
        assert record["sem_seg_file_name"].endswith(
            f"gtFine/train/{record['image_id']}_gtFine_labelTrainIds.png"
        )
    # From the card's own split the tool makes lists of ids without the suffix.
    content["name"] = "again"
    register_card({**content, "splits": {"all": {}, "seg": "lists2/seg/train"}})
    out = cityscapes / "lists2"
    assert split_tool.main(["partial", "--split", "again_all", "--out", str(out)]) == 0
    assert DatasetCatalog.get("again_seg")[0].keys() == seg[0].keys()


def test_coco_slice_is_divided_between_its_two_cards(
    repository, shared_data, tmp_path, monkeypatch
):
    if not (shared_data / "coco128").is_dir():
        pytest.skip("no coco128")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    cards = [tmp_path / "cards" / f"{name}.yaml" for name in ("coco128", "coco128_masks")]
    cards[0].parent.mkdir()
    for card in cards:
        shutil.copy(repository / "datasets" / "cards" / card.name, card)
    out = tmp_path / "cards" / "coco128_lists"
    arguments = ["partial", "--card", str(cards[0]), "--split", "train", "--out", str(out)]
    assert split_tool.main(arguments) == 0
    register_cards(cards)
    names = ("coco128_det", "coco128_det2", "coco128_masks_seg", "coco128_masks_seg2")
    files = {n: {r["file_name"] for r in DatasetCatalog.get(n)} for n in names}
    assert [len(files[name]) for name in names] == [20, 10, 21, 11]
    det, det2, seg, seg2 = files.values()
    everything = DatasetCatalog.get("coco128_masks_train")
    assert not det & seg and det | seg == {record["file_name"] for record in everything}
    assert det2 < det and seg2 < seg
    assert len(DatasetCatalog.get("coco128_masks_val")) == 100

    things = MetadataCatalog.get("coco128_det").thing_classes
    classes = MetadataCatalog.get("coco128_masks_seg").stuff_classes
    named = {
        entry["value"]: entry["name"]
        for entry in json.loads((shared_data / "coco128/semantic/categories.json").read_text())
    }
    assert {value: classes[value] for value in named} == named
    assert [name for name in classes if name in things] == things
    shown = {name for own in mask_counts(everything, classes, None, 0).values() for name in own}
    assert shown <= set(named.values())
