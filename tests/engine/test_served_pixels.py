"""Evaluation, DefaultPredictor, drawing and pseudo-labelling show the network the same pixels."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch.nn.modules.module import register_module_forward_pre_hook

import pseudo_label
import visualize
from multas.data import build_test_loader
from multas.data.transforms.augmentation import ResizeToSquare
from multas.data.transforms.crops import CenterCrop
from multas.distillation import Teacher
from multas.engine.ensemble import FlipScaleEnsemble
from multas.engine.inference import load_model
from multas.engine.weights.evaluated_models import TeacherModel
from multas.modeling.network_input import NetworkInput
from multas.util.errors import UserError

STOCK = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.NUM_CLASSES", 8,
    "MODEL.RETINANET.NUM_CONVS", 1,
    "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip
MEAN_AND_STD = "PIXEL_MEAN", "PIXEL_STD"
DISTILLER = ["MODEL.META_ARCHITECTURE", "Distiller"]
WAYS = {
    "stretched": (["INPUT.SQUARE_SIZE", 96], [ResizeToSquare(96)]),
    "stretched, distilled": (["INPUT.SQUARE_SIZE", 96, *DISTILLER], [ResizeToSquare(96)]),
    "cropped": (
        ["INPUT.CENTER_CROP_TEST", 64, "INPUT.MIN_SIZE_TEST", 96],
        [T.ResizeShortestEdge(96, 200), CenterCrop(64)],
    ),
    "cropped and stretched": (
        ["INPUT.CENTER_CROP_TEST", 100, "INPUT.SQUARE_SIZE", 64],
        [CenterCrop(100), ResizeToSquare(64)],
    ),
    "a student of Detectron2": (
        [*STOCK, *DISTILLER, "MODEL.DISTILLATION.STUDENT", "RetinaNet", "INPUT.SQUARE_SIZE", 96],
        [ResizeToSquare(96)],
    ),
    "resized": (["INPUT.MIN_SIZE_TEST", 112], [T.ResizeShortestEdge(112, 200)]),
    "RGB": (["INPUT.SQUARE_SIZE", 96, "INPUT.FORMAT", "RGB"], [ResizeToSquare(96)]),
}


@pytest.fixture
def seen():
    """What backbones get, in order."""
    tensors = []

    def record(module, args):
        if hasattr(module, "bottom_up"):
            tensors.append(args[0].clone())

    handle = register_module_forward_pre_hook(record)
    yield tensors
    handle.remove()


@pytest.fixture
def trained(tiny_cfg, tmp_path):
    """``trained(KEY, VALUE, ...)``: config, its file, and a file of weights."""

    def make(*opts):
        cfg = tiny_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, *opts)
        torch.manual_seed(3)
        weights = tmp_path / "weights.pth"
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        cfg.MODEL.WEIGHTS = str(weights)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        return cfg, tmp_path / "config.yaml", weights

    return make


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_show_the_network_the_same_pixels(way, trained, seen, card, tmp_path, monkeypatch):
    opts, steps = WAYS[way]
    cfg, config, weights = trained(*opts)
    dataset = cfg.DATASETS.TEST[0]
    model = load_model(cfg, str(weights))
    batches = list(build_test_loader(cfg, dataset))
    seen.clear()
    results = [model(batch) for batch in batches]
    evaluated = list(seen)
    files = [d["file_name"] for d in DatasetCatalog.get(dataset)]
    for file, pixels in zip(files, evaluated, strict=True):
        wanted = T.AugInput(utils.read_image(file, cfg.INPUT.FORMAT))
        T.AugmentationList(steps)(wanted)
        image = torch.as_tensor(wanted.image.transpose(2, 0, 1).copy())
        mean, std = (torch.tensor(cfg.MODEL[key]).view(3, 1, 1) for key in MEAN_AND_STD)
        height, width = image.shape[1:]
        assert torch.equal(pixels[0, :, :height, :width], (image - mean) / std)

    def same_as_evaluated():
        assert len(seen) == len(evaluated)
        assert all(torch.equal(a, b) for a, b in zip(seen, evaluated, strict=True))
        seen.clear()

    predict = DefaultPredictor(cfg)
    seen.clear()
    for file, result in zip(files, results, strict=True):
        found = predict(utils.read_image(file, "BGR"))["instances"]
        boxes = result[0]["instances"].pred_boxes.tensor
        torch.testing.assert_close(found.pred_boxes.tensor, boxes)
        assert found.image_size == utils.read_image(file, "BGR").shape[:2]
    same_as_evaluated()
    arguments = ["--config-file", config, "--weights", weights, "--output", tmp_path / "drawn"]
    monkeypatch.setattr("sys.argv", ["visualize.py", *map(str, [*arguments, *files])])
    visualize.main()
    same_as_evaluated()
    arguments = ["--config-file", config, "--weights", weights, "--dataset", dataset,
                 "--output", tmp_path / "pseudo.json"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["pseudo_label.py", *map(str, arguments)])
    pseudo_label.main()
    same_as_evaluated()
    assert json.loads((tmp_path / "pseudo.json").read_text())


def test_a_teacher_sees_what_its_student_sees(distilled_cfg, seen):
    cfg = distilled_cfg("INPUT.SQUARE_SIZE", 96)
    cfg.MODEL.DISTILLATION.TEACHER.OPTS = ["INPUT.SQUARE_SIZE", 64]
    model = build_model(cfg).prepare()
    (teacher,) = model.distillation.teachers
    shapes = [tuple(x.shape) for x in seen]
    assert shapes == [(1, 3, 128, 128)] * 2, "the networks are probed at one size"
    seen.clear()
    image = torch.randint(256, (3, 80, 112), dtype=torch.uint8)
    teacher.record(teacher.inputs([{"image": image}], "BGR"))
    assert seen.pop().shape == (1, 3, 80, 112), "a training image is not stretched"
    evaluated = TeacherModel(teacher, "BGR", NetworkInput.from_config(cfg))
    with torch.no_grad():
        evaluated([{"image": image}])
        model.eval()([{"image": image}])
    assert torch.equal(*seen) and seen[0].shape == (1, 3, 96, 96)


def test_training_images_are_not_stretched_again(trained, seen):
    cfg, _, _ = trained("INPUT.SQUARE_SIZE", 96)
    model = build_model(cfg).train()
    model.raw_outputs([{"image": torch.zeros(3, 64, 64)}])
    assert seen.pop().shape == (1, 3, 64, 64)


def test_the_scales_of_an_ensemble_are_of_what_the_network_sees(trained, seen):
    cfg, _, weights = trained("INPUT.SQUARE_SIZE", 128)
    model = FlipScaleEnsemble(load_model(cfg, str(weights)), [1.0, 0.5], flip=False)
    found = model([{"image": torch.randint(256, (3, 200, 300), dtype=torch.uint8)}])
    assert [x.shape[-1] for x in seen] == [128, 64]
    assert found[0]["instances"].image_size == (200, 300)


@pytest.mark.parametrize("key", ["SQUARE_SIZE", "CENTER_CROP_TEST"])
def test_a_model_of_detectron2_must_be_the_student_of_a_distiller(tiny_cfg, key):
    opts = [*STOCK, f"INPUT.{key}", 96]
    with pytest.raises(UserError, match=rf"INPUT\.{key} is 96, but RetinaNet .* Distiller and"):
        tiny_cfg(*opts)
    tiny_cfg(*opts, *DISTILLER, "MODEL.DISTILLATION.STUDENT", "RetinaNet")
    with pytest.raises(UserError, match=rf"INPUT\.{key} is -1"):
        tiny_cfg(f"INPUT.{key}", -1)


def test_the_whole_image_reaches_a_model_that_stretches_it(tiny_cfg, teacher_files):
    assert tiny_cfg("INPUT.SQUARE_SIZE", 96, "INPUT.MIN_SIZE_TEST", 80).INPUT.MIN_SIZE_TEST == 0
    assert tiny_cfg("INPUT.MIN_SIZE_TEST", 80).INPUT.MIN_SIZE_TEST == 80
    config = teacher_files()[1]
    assert Teacher.load_config(config, ["INPUT.SQUARE_SIZE", 96]).INPUT.MIN_SIZE_TEST == 0


WRONG = {
    "no list": (torch.zeros(3, 8, 8), "a list of dicts"),
    "none": (None, "a list of dicts"),
    "empty list": ([], "a list of dicts"),
    "no dict": ([torch.zeros(3, 8, 8)], "in no dict"),
    "no image": ([{"height": 8}], "NoneType"),
    "an array": ([{"image": np.zeros((3, 8, 8), np.uint8)}], "ndarray"),
    "a path": ([{"image": "a.jpg"}], "str"),
    "grey": ([{"image": torch.zeros(8, 8)}], r"shape is \(8, 8\)"),
    "one channel": ([{"image": torch.zeros(1, 8, 8)}], r"shape is \(1, 8, 8\)"),
    "RGBA": ([{"image": torch.zeros(4, 8, 8)}], r"shape is \(4, 8, 8\)"),
    "channels last": ([{"image": torch.zeros(8, 8, 3)}], r"shape is \(8, 8, 3\)"),
    "a batch": ([{"image": torch.zeros(1, 3, 8, 8)}], r"shape is \(1, 3, 8, 8\)"),
    "no pixels": ([{"image": torch.zeros(3, 0, 8)}], "no pixels"),
    "bool": ([{"image": torch.ones(3, 8, 8, dtype=torch.bool)}], "values are bool"),
    "double": ([{"image": torch.ones(3, 8, 8, dtype=torch.double)}], "values are float64"),
    "0 to 1": ([{"image": torch.rand(3, 8, 8)}], "as if white were 1"),
    "normalised": ([{"image": torch.randn(3, 8, 8)}], "values reach from -"),
    "16 bits": ([{"image": torch.full((3, 8, 8), 6e4)}], "to 60000"),
    "NaN": ([{"image": torch.full((3, 8, 8), torch.nan)}], "values reach from nan"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("opts", [[], DISTILLER])
def test_what_is_no_image_is_said(case, opts, tiny_cfg):
    model = build_model(tiny_cfg(*opts)).eval()
    inputs, fault = WRONG[case]
    with pytest.raises(UserError, match=fault) as caught, torch.no_grad():
        model(inputs)
    assert "Give" in str(caught.value)


def test_the_file_of_a_wrong_image_is_named(tiny_cfg):
    model = build_model(tiny_cfg()).eval()
    right, wrong = torch.zeros(3, 8, 8), torch.zeros(4, 8, 8)
    with pytest.raises(UserError, match=r"Image some/file\.png is no input .*\(3, H, W\)"):
        model([{"image": right}, {"image": wrong, "file_name": "some/file.png"}])


def test_numbers_that_are_no_bytes_are_stretched_as_they_are():
    image = torch.full((3, 4, 8), 9.5)
    (seen,) = NetworkInput(6)([{"image": image}])
    assert torch.equal(seen["image"], torch.full((3, 6, 6), 9.5))
    assert (seen["height"], seen["width"]) == (4, 8)


def test_a_config_by_hand_that_would_be_served_with_other_pixels_is_told(tiny_cfg, caplog):
    cfg = tiny_cfg("INPUT.SQUARE_SIZE", 96)
    with caplog.at_level("WARNING", "multas"):
        build_model(cfg)
        assert not caplog.text
        cfg.INPUT.MIN_SIZE_TEST = 80
        build_model(cfg)
    assert "Set INPUT.MIN_SIZE_TEST 0" in caplog.text
