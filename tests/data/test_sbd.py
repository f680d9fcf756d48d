"""Masks from several folders and SBD's .mat files; splits of images that have every annotation."""

import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from scipy.io import savemat

from multas.data import DatasetError, MultasMapper, read_card, register_card
from multas.data.formats.mask_files import read_mask
from multas.data.image_files import read_ids
from multas.data.issues import DatasetIssues
from multas.evaluation.sem_seg import SemanticSegmentationEvaluator
from multas.evaluation.voc import VOCDetectionEvaluator
from multas.util.errors import UserError

SEG = {"ids": "Main/train", "annotates": ["seg"], "masks": ["SegmentationClass", "SBD/cls"]}


def write_mat(file, mask, struct="GTcls"):
    """As SBD has them: a 1x1 struct, compressed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"Boundaries": np.zeros((20, 1)), "Segmentation": mask, "CategoriesPresent": [[1]]}
    savemat(file, {struct: content}, do_compression=True)


@pytest.fixture
def toy(toy_card, small_toy, tmp_path):
    """A copy of the embedded set that a test may change, and its card as a function of splits."""
    root = tmp_path / "toy"
    shutil.copytree(small_toy, root)

    def register(name="masked_toy", **keys):
        register_card({**toy_card, "name": name, "root": str(root), **keys})

    register.root = root
    return register


@pytest.fixture
def sbd(toy):
    """The embedded set with the masks of the first twelve training images in VOC's folder, and
    those of the last twenty in SBD's: eight images have both."""
    (toy.root / "SBD" / "cls").mkdir(parents=True)
    for number in range(4, 24):
        file = toy.root / "SegmentationClass" / f"{number:06d}.png"
        write_mat(toy.root / "SBD" / "cls" / f"{number:06d}.mat", read_mask(file))
        if number >= 12:
            file.unlink()
    return toy


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (5, 1), (1, 1)])
def test_mat_masks_are_read_back(tmp_path, shape):
    mask = np.random.default_rng(0).integers(0, 21, shape).astype(np.uint8)
    write_mat(tmp_path / "a.mat", mask)
    read = read_mask(tmp_path / "a.mat")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask)


def test_other_mat_files_are_refused(tmp_path):
    mask = np.zeros((5, 7), np.uint8)
    write_mat(tmp_path / "inst.mat", mask, struct="GTinst")
    write_mat(tmp_path / "double.mat", mask.astype(np.float64))
    (tmp_path / "text.mat").write_text("no Matlab")
    (tmp_path / "empty.mat").write_bytes(b"")
    savemat(tmp_path / "plain.mat", {"GTcls": mask})
    whole = tmp_path / "whole.mat"
    write_mat(whole, np.arange(200, dtype=np.uint8).reshape(10, 20))
    (tmp_path / "cut.mat").write_bytes(whole.read_bytes()[:-20])
    for name in ("inst", "text", "empty", "plain"):
        with pytest.raises(ValueError, match=r"no GTcls\.Segmentation"):
            read_mask(tmp_path / f"{name}.mat")
    with pytest.raises(ValueError, match=r"float64 \(5, 7\), need \(H, W\) uint8"):
        read_mask(tmp_path / "double.mat")
    with pytest.raises(UserError, match=r"cut\.mat: not a readable mask .*could not read"):
        read_mask(tmp_path / "cut.mat")
    with pytest.raises(UserError, match=r"none\.mat: not a readable mask \(No such file"):
        read_mask(tmp_path / "none.mat")


def test_the_first_folder_that_has_a_mask_counts(sbd):
    sbd(splits={"seg": SEG})
    kinds = [r["sem_seg_file_name"][-4:] for r in DatasetCatalog.get("masked_toy_seg")]
    assert kinds == [".png"] * 12 + [".mat"] * 12
    sbd(name="other", splits={"seg": {**SEG, "masks": SEG["masks"][::-1]}})
    kinds = [r["sem_seg_file_name"][-4:] for r in DatasetCatalog.get("other_seg")]
    assert kinds == [".png"] * 4 + [".mat"] * 20


def test_faulty_mat_masks_are_reported_by_name(sbd):
    cls = sbd.root / "SBD" / "cls"
    write_mat(cls / "000020.mat", np.zeros((3, 4), np.uint8))
    write_mat(cls / "000021.mat", np.full_like(read_mask(cls / "000021.mat"), 9))
    (cls / "000022.mat").write_text("?")
    (cls / "000023.mat").unlink()
    sbd(splits={"seg": SEG}, strictness="stop")
    with pytest.raises(DatasetError) as error:
        DatasetCatalog.get("masked_toy_seg")
    for expected in (
        "000020.mat: is 4x3, but the image is",
        "000021.mat: values [9] are beyond the 9 classes",
        "000022.mat: has no GTcls.Segmentation",
        f"000023: no mask of this id in {sbd.root / 'SegmentationClass'} or {cls}",
    ):
        assert expected in str(error.value), expected


def test_a_missing_folder_of_masks_is_an_error_that_names_the_split(toy):
    toy(splits={"seg": SEG}, strictness="skip")
    with pytest.raises(DatasetError, match=r"split 'seg': no mask folder .*SBD/cls; put the masks"):
        DatasetCatalog.get("masked_toy_seg")


def test_a_folder_beside_a_linked_root_is_found(sbd, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "links").mkdir()
    (sbd.root / "SBD").rename(tmp_path / "links" / "SBD")
    sbd.root.rename(tmp_path / "store" / "toy")
    (tmp_path / "links" / "toy").symlink_to(tmp_path / "store" / "toy")
    masks = ["SegmentationClass", "../SBD/cls"]
    sbd(root=str(tmp_path / "links" / "toy"), splits={"seg": {**SEG, "masks": masks}})
    assert len(DatasetCatalog.get("masked_toy_seg")) == 24


def test_training_and_evaluation_read_mat_masks(sbd):
    sbd(splits={"seg": SEG})
    records = DatasetCatalog.get("masked_toy_seg")
    mapper = MultasMapper(is_train=True, augmentations=[], image_format="BGR")
    evaluator = SemanticSegmentationEvaluator("masked_toy_seg", distributed=False)
    for record in records:
        sample = mapper(record)
        assert sample["sem_seg"].shape == sample["image"].shape[1:]
        scores = torch.nn.functional.one_hot(sample["sem_seg"].clamp(max=8), 9)
        evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_six_images_with_masks_alone_are_left_out_with_one_message(toy, caplog):
    """Three have no file of boxes, three one without an object."""
    ids = [f"{number:06d}" for number in range(10, 16)]
    for number, image_id in enumerate(ids):
        file = toy.root / "Annotations" / f"{image_id}.xml"
        if number % 2:
            file.unlink()
        else:
            file.write_text("<annotation></annotation>")
    both = {"ids": "Main/train", "annotates": ["det", "seg"]}
    toy(splits={"val": {**both, "only_complete": True}}, strictness="stop", year=2007)
    records = DatasetCatalog.get("masked_toy_val")
    assert len(records) == 24 - 6 and not set(ids) & {r["image_id"] for r in records}
    assert all({"annotations", "sem_seg_file_name"} <= record.keys() for record in records)
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("multas")]
    assert len(messages) == 1
    assert "'masked_toy_val'" in messages[0]
    assert "6 images left out because of `only_complete`" in messages[0]
    assert f"6 with no boxes: {', '.join(ids)}" in messages[0]

    evaluator = VOCDetectionEvaluator("masked_toy_val", distributed=False)
    evaluator.process([records[0]], [{"instances": boxes_of(records[0])}])
    assert evaluator.evaluate()["bbox"]["AP"] > 0  # does not look for the missing files
    assert MetadataCatalog.get("masked_toy_val").evaluator_type == ["pascal_voc", "sem_seg"]
    assert MetadataCatalog.get("masked_toy_val").year == 2007


def boxes_of(record):
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in record["annotations"]]))
    instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
    instances.scores = torch.ones(len(instances))
    return instances


def test_without_the_key_they_are_faults(toy):
    (toy.root / "Annotations" / "000010.xml").unlink()
    both = {"ids": "Main/train", "annotates": ["det", "seg"]}
    toy(splits={"val": both}, strictness="stop")
    with pytest.raises(DatasetError, match=r"1 issue\n.*000010\.xml: missing"):
        DatasetCatalog.get("masked_toy_val")


def test_complete_images_lack_neither_masks_nor_what_is_faulty(toy, caplog):
    (toy.root / "SegmentationClass" / "000003.png").unlink()
    (toy.root / "SegmentationClass" / "000004.png").write_text("no image")
    (toy.root / "Annotations" / "000005.xml").write_text("no XML")
    both = {"ids": "Main/train", "annotates": ["det", "seg"], "only_complete": True}
    seg = {**both, "annotates": ["seg"]}
    toy(splits={"val": both, "seg": seg}, strictness="skip")
    assert len(DatasetCatalog.get("masked_toy_val")) == 24 - 3
    left_out, faults = [r.getMessage() for r in caplog.records if r.name.startswith("multas")]
    assert "1 image left out" in left_out and "1 with no mask: 000003" in left_out
    assert "2 issues" in faults
    assert len(DatasetCatalog.get("masked_toy_seg")) == 24 - 2
    assert len(DatasetCatalog.get("masked_toy_seg_unlabeled")) == 24


def test_masks_format_leaves_images_without_a_mask_out(small_toy, tmp_path, caplog):
    shutil.copytree(small_toy, tmp_path / "toy")
    for number in range(8):
        (tmp_path / "toy" / "SegmentationClass" / f"{number:06d}.png").unlink()
    keys = {"images": "JPEGImages", "masks": "SegmentationClass", "only_complete": True}
    card = {"name": "roads", "format": "masks", "root": str(tmp_path / "toy"), **keys}
    register_card({**card, "classes": [str(i) for i in range(9)], "splits": {"all": {}}})
    assert len(DatasetCatalog.get("roads_all")) == 38 - 8
    assert "8 with no mask: 000000, 000001" in caplog.text
    assert "000005, and 2 more" in caplog.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"only_complete": "yes"}, "only_complete 'yes', choose true or false"),
        ({"mask_suffix": "_a"}, "format voc has no use for `mask_suffix`"),
        ({"classes": {1: "a"}}, "classes must be a list of names"),
        (
            {"format": "masks", "masks": "m", "classes": {1: "a", 256: "b"}},
            "a table of pixel values 0 … 255 and names, got [256]",
        ),
        ({"format": "coco", "json": "a", "only_complete": True}, "no use for `only_complete`"),
    ],
)
def test_wrong_keys_are_refused(keys, message):
    card = {"name": "x", "format": "voc", "root": ".", "splits": {"a": {"ids": "a"}}}
    with pytest.raises(DatasetError) as error:
        register_card({**card, **keys})
    assert message in str(error.value)


def test_the_reference_lists_have_the_sizes_of_the_paper(repository, shared_data):
    """By id lists alone: no image of VOC is needed."""
    folder = shared_data / "voc_splits"
    if not folder.is_dir():
        pytest.skip("no reference lists")
    sizes, lists = {}, {}
    for year in (2007, 2012):
        card = read_card(repository / "datasets" / "cards" / f"voc{year}.yaml")
        for split in card.splits:
            if split.name in ("det", "det2", "seg", "seg2", "all_seg", "both_val"):
                issues = DatasetIssues(split.name)
                ids = read_ids(card.find_ids(split, folder / f"VOC{year}"), issues)
                assert not issues.lines
                lists[split.name, year] = set(ids)
                sizes[split.name] = sizes.get(split.name, 0) + len(ids)
    assert sizes == {
        **{"det": 7558, "det2": 3778, "seg": 7656, "seg2": 3827},
        **{"all_seg": 15214, "both_val": 1443},
    }
    for year in (2007, 2012):
        det, seg = lists["det", year], lists["seg", year]
        assert not det & seg and det | seg == lists["all_seg", year]
        assert lists["det2", year] < det and lists["seg2", year] < seg
        assert not (det | seg) & lists["both_val", 2012]
