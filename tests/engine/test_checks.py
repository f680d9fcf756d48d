"""Mistakes that are to be found before they have cost time: each is one clear error."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.engine import Trainer
from multas.engine.checks.classes import check_classes, check_test_sets
from multas.engine.inference import load_model, weights_to_evaluate
from multas.util.errors import UserError

RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip


@pytest.fixture
def more_cards(card, card_file, tmp_path):
    """``more_cards(**changes)``: opts that register a changed copy of the tiny card as well."""

    def build(**changes):
        content = {k: v for k, v in (card | changes).items() if v is not None}
        path = tmp_path / f"{content['name']}.yaml"
        path.write_text(yaml.safe_dump(content))
        return ["DATASETS.CARDS", [str(card_file), str(path)]]

    return build


@pytest.fixture
def photos(devkit, more_cards, tmp_path, card):
    """Opts that register a plain folder of two images, as "<name>_all"."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for image in sorted((devkit / "JPEGImages").iterdir())[:2]:
        shutil.copy(image, folder / f"photo{image.name}")
    name = f"photos{tmp_path.name}"
    opts = more_cards(
        name=name, format="images", root=str(folder), splits=None, classes=None, year=None
    )
    return f"{name}_all", opts


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (["MODEL.DENSE_HEAD.NUM_CLASSES", 7], "MODEL.DENSE_HEAD.NUM_CLASSES is 7"),
        (["MODEL.DENSE_HEAD.NUM_CLASSES", 9], "MODEL.DENSE_HEAD.NUM_CLASSES is 9"),
        ([*RETINANET, "MODEL.RETINANET.NUM_CLASSES", 7], "MODEL.RETINANET.NUM_CLASSES is 7"),
        (
            [*RETINANET, "MODEL.RETINANET.NUM_CLASSES", 80, "MODEL.DISTILLATION.STUDENT",
             "RetinaNet", "MODEL.META_ARCHITECTURE", "Distiller"],
            "MODEL.RETINANET.NUM_CLASSES is 80",
        ),
    ],
)  # fmt: skip
def test_another_number_of_classes_than_the_data_has(tiny_cfg, opts, key):
    with pytest.raises(ValueError, match=f"{key}, but .*_half' has 8 classes: disc, .*hexagon"):
        Trainer(tiny_cfg(*opts))


def test_another_number_of_mask_classes_than_the_data_has(tiny_cfg, card):
    heads = ["MODEL.MULTITASK.TASKS", ["seg"], "MODEL.MULTITASK.HEADS", ["SemanticFPNHead"]]
    cfg = tiny_cfg(*heads, "MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES", 8)
    with pytest.raises(ValueError, match=r"SEMANTIC_FPN_HEAD.NUM_CLASSES is 8, .* 9 classes: back"):
        check_classes(build_model(cfg), [f"{card['name']}_seg"])


def test_another_label_of_pixels_without_annotation_than_the_data_has(
    tiny_cfg, more_cards, devkit, tmp_path
):
    root = shutil.copytree(devkit, tmp_path / "masks")
    for file in (root / "SegmentationClass").iterdir():
        mask = np.array(Image.open(file))
        Image.fromarray(np.where(mask == 255, 0, mask)).save(file)
    name = "masks_with_0_ignored"
    heads = ["MODEL.MULTITASK.TASKS", ["seg"], "MODEL.MULTITASK.HEADS", ["SemanticFPNHead"]]
    key = "MODEL.SEMANTIC_FPN_HEAD"
    cfg = tiny_cfg(
        *more_cards(name=name, ignore_label=0, root=str(root)), *heads, f"{key}.NUM_CLASSES", 9,
        "DATASETS.TRAIN", [f"{name}_seg"], "DATASETS.TEST", [], "INPUT.AUGMENTATION", "single_shot",
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"{key}.IGNORE_VALUE is 255, but 0 .*'{name}_seg'.* 0."):
        Trainer(cfg)
    cfg.merge_from_list([f"{key}.IGNORE_VALUE", 0])
    trainer = Trainer(cfg)
    batches = itertools.islice(trainer.data_loader, 10)
    labels = {value for batch in batches for x in batch for value in x["sem_seg"].unique().tolist()}
    assert labels <= set(range(9)), "what lies outside of an image has the label of the data"


@pytest.mark.parametrize("network", ["SemanticSegmentor", "PanopticFPN"])
def test_mask_classes_of_detectron2s_own_networks(tiny_cfg, card, network):
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", network,
        "MODEL.ROI_HEADS.NUM_CLASSES", 8,
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4"],
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM", 8,
        "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4"],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9,
    )  # fmt: skip
    check_classes(build_model(cfg), [f"{card['name']}_seg"])
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD.NUM_CLASSES is 54, .* 9 classes: back"):
        check_classes(build_model(cfg), [f"{card['name']}_seg"])


def test_test_data_with_the_classes_in_another_order(tiny_cfg, more_cards, card):
    cards = more_cards(name="reversed", classes=card["classes"][::-1])
    cfg = tiny_cfg(*cards, "DATASETS.TEST", ["reversed_test"])
    with pytest.raises(ValueError, match=r"Class 'hexagon' is number 7 in .*_half', but number 0"):
        Trainer(cfg)


def test_test_data_that_nobody_registered(tiny_cfg, card):
    name = card["name"]
    with pytest.raises(ValueError, match=f"DATASETS.TEST names '{name}_tset'.*{name}_test"):
        Trainer(tiny_cfg("DATASETS.TEST", [f"{name}_tset"]))


def test_test_data_that_is_not_there(tiny_cfg, more_cards):
    cfg = tiny_cfg(*more_cards(name="moved", root="/none"), "DATASETS.TEST", ["moved_test"])
    with pytest.raises(ValueError, match=r"root '/none' is not a folder"):
        Trainer(cfg)


def test_test_data_that_cannot_be_evaluated(tiny_cfg, photos):
    name, cards = photos
    with pytest.raises(UserError, match=f"'{name}' has no evaluator_type"):
        Trainer(tiny_cfg(*cards, "DATASETS.TEST", [name]))


def test_the_data_of_early_stopping_is_looked_at_too(tiny_cfg):
    opts = ["SOLVER.EARLY_STOPPING.ENABLED", True, "SOLVER.EARLY_STOPPING.DATASET", "none"]
    with pytest.raises(ValueError, match=r"SOLVER.EARLY_STOPPING.DATASET names 'none'"):
        check_test_sets(tiny_cfg(*opts))


def test_nothing_to_learn_from(tiny_cfg, photos, card):
    name, cards = photos
    for train in (name, f"{card['name']}_half2_unlabeled"):
        with pytest.raises(ValueError, match=r"images are not annotated .* nothing is distilled"):
            Trainer(tiny_cfg(*cards, "DATASETS.TRAIN", [train]))


def test_a_stock_model_without_distillation_meets_unlabelled_images(tiny_cfg, card):
    names = [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"]
    opts = [*RETINANET, "MODEL.RETINANET.NUM_CLASSES", 8]
    with pytest.raises(ValueError, match=r"8 of 16 images .* RetinaNet cannot take"):
        Trainer(tiny_cfg(*opts, "DATASETS.TRAIN", names))
    assert Trainer(tiny_cfg(*opts)), "annotated images alone are fine"
    assert Trainer(tiny_cfg("DATASETS.TRAIN", names)), "and so is a network that passes them over"


def labels(path, image_ids, dataset, bbox=(1, 2, 3, 4), classes=()):
    header = Header(dataset, list(classes), list(image_ids), 0.0, 0)
    box = {"image_id": image_ids[0], "category_id": 0, "bbox": list(bbox), "score": 0.9}
    save_pseudo_labels(str(path), header, [box])
    return ["DATASETS.PSEUDO_LABELS.FILES", [str(path)]]


def test_pseudo_labels_of_other_images(tiny_cfg, card, tmp_path):
    opts = labels(tmp_path / "labels.json", ["x"], "other_unlabeled", classes=card["classes"])
    names = [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"]
    with pytest.raises(ValueError, match=r"labels.json labels none .*made for 'other_unlabeled'"):
        Trainer(tiny_cfg(*opts, "DATASETS.TRAIN", names))


def test_a_plain_folder_may_come_first_and_take_pseudo_labels(tiny_cfg, card, photos, tmp_path):
    name, cards = photos
    ids = ["photo000000", "photo000001"]
    opts = labels(tmp_path / "labels.json", ids, name, classes=card["classes"])
    cfg = tiny_cfg(*cards, *opts, "DATASETS.TRAIN", [name, f"{card['name']}_half"])
    dataset = Trainer(cfg)._trainer.data_loader.dataset
    assert len(dataset.mapper(dataset.dicts[0])["instances"]) == 1
    assert len(dataset.mapper(dataset.dicts[1])["instances"]) == 0


# Evaluation


@pytest.fixture
def trained(tiny_cfg, tmp_path):
    """A config and a file of weights that fits it."""
    cfg = tiny_cfg()
    path = tmp_path / "weights.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return cfg, str(path)


@pytest.mark.parametrize("weights", ["", "none.pth"])
def test_no_weights_to_evaluate(tiny_cfg, weights):
    with pytest.raises(FileNotFoundError, match=f"MODEL.WEIGHTS.*'{weights}': no such file"):
        load_model(tiny_cfg(), weights)


def test_weights_of_another_network(tiny_cfg, trained):
    other = tiny_cfg("MODEL.FPN.OUT_CHANNELS", 16)
    with pytest.raises(ValueError, match=r"do not fit the config: \d+ parameters .*fpn"):
        load_model(other, trained[1])


def test_weights_that_lack_a_part(trained):
    cfg, path = trained
    content = torch.load(path, weights_only=True)["model"]
    torch.save({"model": {k: v for k, v in content.items() if "heads" not in k}}, path)
    with pytest.raises(ValueError, match=r"do not fit the config: .*missing.*heads\.det"):
        load_model(cfg, path)


def test_the_last_checkpoint_is_evaluated_when_asked_for(trained):
    cfg, path = trained
    cfg.MODEL.WEIGHTS = path
    assert weights_to_evaluate(cfg, resume=True) == path, "there is none yet"
    os.makedirs(cfg.OUTPUT_DIR)
    with open(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"), "w") as file:
        file.write("model_0000001.pth")
    content = torch.load(path, weights_only=True) | {"trainer": {}, "iteration": 1}
    torch.save(content, os.path.join(cfg.OUTPUT_DIR, "model_0000001.pth"))
    expected = os.path.join(cfg.OUTPUT_DIR, "model_0000001.pth")
    assert weights_to_evaluate(cfg, resume=True) == expected
    assert weights_to_evaluate(cfg, resume=False) == path


@pytest.fixture
def evaluate(train_net):
    """``evaluate(cfg, KEY, VALUE, ...)``: what train_net.py --eval-only does."""
    return lambda cfg, *opts: train_net(cfg, *opts, eval_only=True)


def test_evaluating_alone_needs_weights_and_the_right_classes(trained, evaluate):
    cfg, path = trained
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS"):
        evaluate(cfg)
    with pytest.raises(ValueError, match=r"DATASETS.TEST names 'none'"):
        evaluate(cfg, "MODEL.WEIGHTS", path, "DATASETS.TEST", "['none']")
    assert "AP" in evaluate(cfg, "MODEL.WEIGHTS", path)["bbox"]


def test_a_plain_folder_is_labelled_with_the_classes_of_the_teacher(
    trained, photos, tmp_path, monkeypatch, card, own_log
):
    import pseudo_label

    cfg, weights = trained
    name, cards = photos
    config, output = tmp_path / "teacher.yaml", tmp_path / "labels.json"
    config.write_text(cfg.dump())
    arguments = ["--config-file", str(config), "--weights", weights, "--dataset", name]
    arguments += ["--output", str(output), cards[0], str(cards[1])]
    monkeypatch.setattr("sys.argv", ["pseudo_label.py", *arguments])
    pseudo_label.main()
    header = json.loads(output.read_text())["header"]
    assert header["classes"] == card["classes"]
    assert header["image_ids"] == ["photo000000", "photo000001"]


def test_a_teacher_of_other_classes_labels_nothing(trained, tmp_path, monkeypatch, card, own_log):
    import pseudo_label

    cfg, _ = trained
    cfg.MODEL.DENSE_HEAD.NUM_CLASSES = 20
    config, weights = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    arguments = ["--config-file", str(config), "--weights", str(weights)]
    arguments += ["--dataset", f"{card['name']}_half2_unlabeled", "--output", str(tmp_path / "x")]
    monkeypatch.setattr("sys.argv", ["pseudo_label.py", *arguments])
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 20, .* has 8 classes"):
        pseudo_label.main()
