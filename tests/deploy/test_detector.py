"""The detector that stands alone: without torch, and what it makes of images and outputs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from deploy.conftest import CLASSES, picture
from multas.data.transforms.crops import CenterCrop
from multas.deploy import Description, Detector, detector
from multas.deploy.detector import Seen, finish_boxes, prepare, resize_image, resize_maps, resized

ALONE = """
import json, sys

REFUSED = {"torch", "torchvision", "detectron2", "multas", "cv2", "fvcore"}

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ImportError(f"{name} is refused")

sys.meta_path.insert(0, Refusing())
import numpy as np
from detector import Detector

network, image = sys.argv[1:3]
found = {}
for library in sys.argv[3:]:
    seen = Detector(network, library, precision="f32")(np.load(image))
    found[library] = [seen.boxes.tolist(), seen.scores.tolist(), seen.names, seen.masks.tolist()]
assert not REFUSED & sys.modules.keys()
print(json.dumps(found))
"""


def test_it_needs_neither_torch_nor_detectron2(two_tasks, tmp_path):
    libraries = ["onnxruntime"]
    if find_spec("openvino"):
        libraries.append("openvino")
    shutil.copy(detector.__file__, tmp_path / "detector.py")
    (tmp_path / "alone.py").write_text(ALONE)
    image = picture(50, 70)
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "alone.py", str(two_tasks.file), "image.npy", *libraries]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    whole = torch.from_numpy(image.transpose(2, 0, 1).copy())
    with torch.no_grad():
        wanted = two_tasks.model([{"image": whole}])[0]
    instances, names = wanted["instances"], CLASSES["classes"]
    for boxes, scores, found, masks in json.loads(ended.stdout).values():
        assert np.abs(np.array(boxes) - instances.pred_boxes.tensor.numpy()).max() < 1e-2
        assert np.abs(np.array(scores) - instances.scores.numpy()).max() < 1e-4
        assert found == [names[k] for k in instances.pred_classes]
        assert (np.array(masks) == wanted["sem_seg"].argmax(0).numpy()).mean() > 0.999


@pytest.mark.parametrize("size", [(37, 300), (64, 64), (10, 7), (200, 100)])
def test_images_are_resized_as_opencv_does_it(size, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR)
    assert (resize_image(image, (64, 96), antialias=False) == wanted).all()
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert (resize_image(image, (64, 96), antialias=False) == wanted).all()


@pytest.mark.parametrize("size", [(50, 70), (90, 61), (20, 400)])
def test_images_are_resized_as_detectron2_does_it(size):
    image = picture(*size)
    rule = Description("shortest_edge", min_size=56, max_size=96, center_crop=40)
    wanted = T.AugInput(image)
    T.AugmentationList([T.ResizeShortestEdge([56], 96, "choice"), CenterCrop(40)])(wanted)
    assert (prepare(image, rule).pixels == wanted.image.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(("smaller", "larger"), [(800, 1333), (128, 200), (320, 320)])
def test_sizes_are_those_of_detectron2(smaller, larger):
    # Of some of them rounding decides.
    rule = Description("shortest_edge", min_size=smaller, max_size=larger)
    sizes = [(h, w) for h in range(20, 1400, 21) for w in range(12, 1400, 17)]
    sizes += [(90, 372), (153, 1054), (258, 75), (300, 1032), (391, 1054)]
    rounded = T.ResizeShortestEdge.get_output_shape
    assert [s for s in sizes if resized(*s, rule) != rounded(*s, smaller, larger)] == []


def test_maps_are_resized_as_torch_does_it():
    maps = np.random.default_rng(0).random((3, 12, 9), np.float32)
    for size in [(31, 40), (5, 9), (12, 4)]:
        wanted = torch.nn.functional.interpolate(
            torch.from_numpy(maps)[None], size, mode="bilinear"
        )
        assert np.abs(resize_maps(maps, size) - wanted[0].numpy()).max() < 1e-5


LETTERBOX = Description("fit", (64, 128), padding="centre", pad_value=114, divisor=32)


def test_an_image_in_the_middle_of_the_input():
    seen = prepare(picture(40, 40), LETTERBOX)
    assert seen.size == (64, 64) and seen.offset == (0, 32) and seen.pixels.shape == (3, 64, 128)
    assert (seen.pixels[:, :, :32] == 114).all() and (seen.pixels[:, :, 96:] == 114).all()
    values = prepare(picture(40, 40), replace(LETTERBOX, mean=(0, 0, 0), std=(255, 255, 255)))
    assert np.allclose(values.pixels, seen.pixels / 255) and values.pixels.dtype == np.float32
    assert prepare(picture(40, 40), replace(LETTERBOX, layout="NHWC")).pixels.shape == (64, 128, 3)


FORMS = {
    "corners": ("xyxy", "pixel", [48, 16, 80, 48]),
    "corner and size": ("xywh", "pixel", [48, 16, 32, 32]),
    "centre and size": ("cxcywh", "pixel", [64, 32, 32, 32]),
    "fractions": ("cxcywh", "fraction", [0.5, 0.5, 0.25, 0.5]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", ["three", "scores of all classes", "one"])
def test_boxes_of_all_forms(form, outputs):
    box_format, box_unit, box = FORMS[form]
    how = replace(LETTERBOX, box_format=box_format, box_unit=box_unit, labels={17: 1, 2: 0})
    given = {
        "three": {"scores": [0.3, 0.9, 0.8], "classes": [2, 17, 5], "boxes": [box] * 3},
        "scores of all classes": {"scores": np.eye(18)[[2, 17, 5]] * [[0.3], [0.9], [0.8]],
                                  "boxes": [box] * 3},
        "one": {"detections": [[*box, 0.3, 2], [*box, 0.9, 17], [*box, 0.8, 5]]},
    }[outputs]  # fmt: skip
    seen = Seen(np.zeros((3, 64, 128)), (64, 128), (64, 64), (0, 32))
    arrays = {name: np.array(values, np.float32) for name, values in given.items()}
    found = finish_boxes(arrays, seen, (40, 40), how, 0.1)
    assert found["classes"].tolist() == [1, 0], "best first; 5 is no class of ours"
    assert np.allclose(found["scores"], [0.9, 0.3])
    assert np.allclose(found["boxes"], [[10, 10, 30, 30]] * 2)
    assert len(finish_boxes(arrays, seen, (40, 40), how, 0.95)["boxes"]) == 0


def test_names_probabilities_and_files(classifier, tmp_path):
    file = tmp_path / "picture.png"
    cv2.imwrite(str(file), picture(50, 60))
    detect = Detector(classifier.file)
    found = detect(file)
    assert found.class_names == CLASSES["probabilities"] and found.masks is None
    assert found.probabilities.sum() == pytest.approx(1) and len(found.boxes) == 0
    assert (detect(picture(50, 60)).probabilities == found.probabilities).all()
    with pytest.raises(ValueError, match="array"):
        detect(picture(50, 60)[..., 0])


BAD = {
    "no file": ("no.onnx", {}, FileNotFoundError, "no such file"),
    "a checkpoint": ("student.pth", {}, ValueError, "give a file .onnx or .xml"),
    "damaged": ("torn.onnx", {}, ValueError, "torn.onnx cannot be run by onnxruntime"),
    "a library of none": ("good.onnx", {"library": "tensorrt"}, ValueError, "choose from onnxrun"),
    "other outputs": ("good.onnx", {"outputs": {"boxes": "bx"}}, ValueError, "names bx"),
    "another size": ("good.onnx", {"size": (32, 64)}, ValueError, "`size`"),
    "another layout": ("good.onnx", {"layout": "NHWC"}, ValueError, "`layout` NHWC"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_say_what_to_do(case, two_tasks, tmp_path):
    name, changes, kind, message = BAD[case]
    shutil.copy(two_tasks.file, tmp_path / "good.onnx")
    (tmp_path / "torn.onnx").write_bytes(two_tasks.file.read_bytes()[:3000])
    (tmp_path / "student.pth").write_bytes(b"")
    if "library" not in changes:
        known = Detector(two_tasks.file).description
        changes = {"description": replace(known, **changes)}
    with pytest.raises(kind, match=message):
        Detector(tmp_path / name, **changes)


def test_a_missing_library_is_named(two_tasks, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        Detector(two_tasks.file)
    with pytest.raises(ImportError, match="pip install openvino"):
        Detector(two_tasks.file, "openvino")


def test_a_description_survives_its_text():
    how = replace(LETTERBOX, classes=CLASSES, labels={3: 1}, mean=[1.0, 2.0, 3.0], std=[1.0] * 3)
    assert Description.from_json(how.to_json()) == how
