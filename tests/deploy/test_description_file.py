"""A detector of another program, which a YAML file describes."""

import json

import numpy as np
import pytest
import torch
import yaml

import pseudo_label
from deploy.conftest import CLASSES, picture
from multas.deploy.description_file import read_description
from multas.deploy.exported_model import open_detector
from multas.engine import load_config
from multas.engine.inference import load_model
from multas.util.errors import UserError

GOOD = {
    "file": "other.onnx",
    "outputs": {"boxes": "bx", "scores": "sc", "classes": "cl"},
    "box_format": "cxcywh",
    "box_unit": "fraction",
    "format": "RGB",
    "resize": "fit",
    "padding": "centre",
    "pad_value": 114,
    "mean": [0, 0, 0],
    "std": [255, 255, 255],
    "classes": CLASSES["classes"],
    "labels": {0: "ring", 7: "cell"},
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A file that finds three fixed boxes, whose scores are the mean of each channel."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, values):
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))

    box = np.array([[[0.5, 0.5, 0.25, 0.5]] * 3], np.float32)
    nodes = [
        constant("bx", box),
        constant("cl", np.array([[7, 0, 3]], np.int64)),
        helper.make_node("ReduceMean", ["images"], ["sc"], axes=[2, 3], keepdims=0),
    ]
    kinds = {"bx": TensorProto.FLOAT, "sc": TensorProto.FLOAT, "cl": TensorProto.INT64}
    shapes = {"bx": [1, 3, 4], "sc": [1, 3], "cl": [1, 3]}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "other", [value("images", TensorProto.FLOAT, [1, 3, 64, 128])],
        [value(name, kind, shapes[name]) for name, kind in kinds.items()],
    )  # fmt: skip
    file = tmp_path_factory.mktemp("network") / "other.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)
    return file


@pytest.fixture
def described(network, tmp_path):
    """``described(changes)``: the YAML file, a key with None is left out."""

    def write(changes=()):
        (tmp_path / "other.onnx").write_bytes(network.read_bytes())
        content = {k: v for k, v in (GOOD | dict(changes)).items() if v is not None}
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
        return str(tmp_path / "other.yaml")

    return write


def test_it_is_a_model(described):
    cfg = load_config("", ["MODEL.META_ARCHITECTURE", "ExportedModel", "MODEL.DEVICE", "cpu"])
    model = load_model(cfg, described())
    image = torch.full((3, 40, 40), 51, dtype=torch.uint8)  # BGR
    image[2] = 204
    found = model([{"image": image, "height": 80, "width": 80}])[0]["instances"]
    assert found.pred_classes.tolist() == [0, 2], "by names; label 3 is no class of ours"
    # Half of the input is padding; the network takes red first.
    assert torch.allclose(found.scores, (torch.tensor([204, 51]) + 114) / 2 / 255)
    box = torch.tensor([20.0, 20, 60, 60])
    assert torch.allclose(found.pred_boxes.tensor, box.expand(2, 4))


def test_it_labels_images(described, cells, tmp_path, monkeypatch):
    output = tmp_path / "pseudo.json"
    (tmp_path / "teacher.yaml").write_text("MODEL: {META_ARCHITECTURE: ExportedModel}")
    arguments = ["--config-file", tmp_path / "teacher.yaml", "--weights", described(),
                 "--dataset", cells, "--score-thresh", "0.01", "--output", output,
                 "DATALOADER.NUM_WORKERS", "0"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["pseudo_label.py", *map(str, arguments)])
    pseudo_label.main()
    annotations = json.loads(output.read_text())["annotations"]
    assert {a["category_id"] for a in annotations} == {0, 2} and len(annotations) == 6


BAD = {
    "a key of none": (
        {"box_fromat": "xyxy"},
        "unknown key 'box_fromat'. Did you mean 'box_format'",
    ),
    "no file": ({"file": None}, "the key 'file' is missing; give the name of a file"),
    "no classes": ({"classes": None}, "the key 'classes' is missing"),
    "a class twice": ({"classes": ["a", "a"]}, "classes is ['a', 'a']; it must be the list"),
    "a class by number": ({"classes": [1, 2]}, "it must be the list of the names"),
    "outputs in part": ({"outputs": {"boxes": "bx"}}, "outputs is {'boxes': 'bx'}; it must be"),
    "an output of none": (
        {"outputs": {"boxes": "bx", "scores": "sc", "classes": "labels"}},
        "has the outputs bx, sc, cl, but its description names labels",
    ),
    "box format": ({"box_format": "yxyx"}, "'yxyx'; it must be one of 'xyxy', 'xywh', 'cxcywh'"),
    "size": ({"size": 64}, "size is 64; it must be a list of 2 items"),
    "another size": ({"size": [32, 64]}, "has `size` [32, 64]"),
    "layout": ({"layout": "NHWC"}, "`layout` NHWC"),
    "mean alone": ({"std": None}, "`mean` and `std` belong together"),
    "std of 0": ({"std": [1, 1, 0]}, "std is [1, 1, 0]; it must be a list of 3 items"),
    "labels by name": ({"labels": {"ring": 0}}, "labels is {'ring': 0}; it must be a mapping from"),
    "a label of none": ({"labels": {0: "rong"}}, "'rong' is not in `classes`. Did you mean 'ring'"),
    "pad value": ({"pad_value": 300}, "pad_value is 300; it must be a number from 0 to 255"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told(case, described):
    changes, message = BAD[case]
    with pytest.raises(UserError) as error:
        open_detector(described(changes))
    assert message in str(error.value)


def test_a_missing_network_is_told(described, tmp_path):
    file = described({"file": "otter.onnx"})
    with pytest.raises(FileNotFoundError, match=r"other\.yaml: file .*you mean .*other\.onnx"):
        open_detector(file)
    (tmp_path / "other.yaml").write_text("- file: other.onnx")
    with pytest.raises(UserError, match="has to be a mapping"):
        open_detector(file)


def test_the_size_is_that_of_the_file(described):
    assert open_detector(described()).description.size == (64, 128)
    assert read_description(described({"size": [64, 128]}))[1].size == (64, 128)
    assert open_detector(described())(picture(30, 30)).names[0] in ("ring", "cell")
