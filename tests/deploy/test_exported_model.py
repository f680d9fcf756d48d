"""An exported network as a model of Detectron2: the same results, wherever a model is used."""

import pytest
import torch
from detectron2.engine import DefaultPredictor

from deploy.conftest import picture
from multas.engine import load_config


def served(pair, *opts):
    """DefaultPredictor of a pair's file, with the config of its network."""
    config = pair.file.with_suffix(".config.yaml")
    config.write_text(pair.cfg.dump())
    keys = ["MODEL.META_ARCHITECTURE", "ExportedModel", "MODEL.WEIGHTS", str(pair.file)]
    return DefaultPredictor(
        load_config(str(config), [*keys, "MODEL.EXPORTED.PRECISION", "f32", *opts])
    )


def predicted(pair, image):
    """What DefaultPredictor gives with the network in PyTorch."""
    torch.save({"model": pair.model.state_dict()}, pair.file.with_suffix(".pth"))
    cfg = pair.cfg.clone()
    cfg.MODEL.WEIGHTS = str(pair.file.with_suffix(".pth"))
    return DefaultPredictor(cfg)(image)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key in {"sem_seg", "scores"} & wanted.keys():
        error = (found[key] - wanted[key]).abs().max() / wanted[key].abs().max()
        assert error < 1e-4, key
    if "instances" in wanted:
        a, b = found["instances"], wanted["instances"]
        assert a.image_size == b.image_size and len(a) == len(b) > 10
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert torch.allclose(a.scores, b.scores, atol=1e-4)
        assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-2)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["two_tasks", "any_size", "classifier"])
def test_default_predictor_gives_the_same_results(name, library, request):
    pytest.importorskip(library)
    pair = request.getfixturevalue(name)
    predictor = served(pair, "MODEL.EXPORTED.LIBRARY", library)
    for size in [(50, 70), (90, 61), (64, 64)]:
        assert_same(predictor(picture(*size)), predicted(pair, picture(*size)))
