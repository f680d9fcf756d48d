"""The ensemble of flips and scales: boxes come back to their place, and NMS merges them."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torchvision.ops import nms

import pseudo_label
from multas.data.pseudo_label_files import read_pseudo_labels
from multas.engine.ensemble import FlipScaleEnsemble
from multas.engine.pseudo_labeling import label_images


class BrightSpot(torch.nn.Module):
    """Finds the bounding box of bright pixels, scored by a list, one score per call."""

    def __init__(self, scores, classes=None):
        super().__init__()
        self.scores = scores
        self.classes = classes or [0] * len(scores)
        self.seen = []

    def forward(self, batched_inputs):
        call = len(self.seen)
        self.seen.append([tuple(x["image"].shape) for x in batched_inputs])
        return [{"instances": self.find(x, call)} for x in batched_inputs]

    def find(self, sample, call):
        image = sample["image"][0]
        y, x = (image > 128).nonzero().T
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        ratio = torch.tensor([sample["width"] / image.shape[1], sample["height"] / image.shape[0]])
        found = Instances((sample["height"], sample["width"]))
        found.pred_boxes = Boxes((box * ratio.repeat(2))[None])
        found.scores = torch.tensor([self.scores[call]])
        found.pred_classes = torch.tensor([self.classes[call]])
        return found


@pytest.fixture
def spot():
    """A 40 x 60 image that stands for one of 80 x 120, bright at (5, 10) - (20, 30)."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 5:20] = 255
    return {"image": image, "height": 80, "width": 120, "image_id": "spot"}


def test_boxes_of_all_views_meet_at_the_same_place(spot):
    model = BrightSpot([0.3, 0.9, 0.5, 0.4], classes=[0, 1, 2, 3])
    found = FlipScaleEnsemble(model, [1.0, 2.0])([spot])[0]["instances"]
    assert model.seen == [[(3, 40, 60)]] * 2 + [[(3, 80, 120)]] * 2
    assert found.image_size == (80, 120)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.4, 0.3])
    assert found.pred_classes.tolist() == [1, 2, 3, 0]
    expected = torch.tensor([10.0, 20, 40, 60]).expand(4, 4)
    torch.testing.assert_close(found.pred_boxes.tensor, expected, atol=2.0, rtol=0)
    exact = found.pred_boxes.tensor[found.pred_classes < 2]
    assert torch.equal(exact, expected[:2])


def test_of_the_same_object_the_best_score_remains(spot):
    found = FlipScaleEnsemble(BrightSpot([0.3, 0.9]))([spot])[0]["instances"]
    assert found.scores.tolist() == pytest.approx([0.9])
    both = FlipScaleEnsemble(BrightSpot([0.3, 0.9]), nms_thresh=1.0)([spot])[0]["instances"]
    assert len(both) == 2
    one = FlipScaleEnsemble(BrightSpot([0.3, 0.9]), nms_thresh=1.0, topk=1)([spot])
    assert one[0]["instances"].scores.tolist() == pytest.approx([0.9])


def test_the_inputs_are_not_changed(spot):
    before = spot["image"].clone()
    FlipScaleEnsemble(BrightSpot([0.3, 0.9, 0.5, 0.4]), [1.0, 0.5])([spot])
    assert torch.equal(spot["image"], before)
    assert spot.keys() == {"image", "height", "width", "image_id"}


def test_images_without_a_declared_size_keep_the_size_of_the_input(spot):
    del spot["height"], spot["width"]
    found = FlipScaleEnsemble(BrightSpot([0.5, 0.6]), [2.0])([spot])[0]["instances"]
    assert found.image_size == (40, 60)


@pytest.fixture
def model(tiny_cfg):
    """A random detector that finds a hundred boxes."""
    torch.manual_seed(1)
    return build_model(tiny_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0)).eval()


def test_one_view_is_the_model_itself(model):
    batch = [{"image": torch.randint(0, 256, (3, 96, 128)).float()} for _ in range(2)]
    with torch.no_grad():
        expected = [x["instances"] for x in model(batch)]
    single = FlipScaleEnsemble(model, flip=False, nms_thresh=1.0)(batch)
    for output, own in zip(single, expected, strict=True):
        assert torch.equal(output["instances"].pred_boxes.tensor, own.pred_boxes.tensor)
        assert torch.equal(output["instances"].scores, own.scores)


def test_a_mirrored_image_gives_mirrored_boxes(model):
    image = torch.randint(0, 256, (3, 96, 128)).float()
    ensemble = FlipScaleEnsemble(model, topk=0)
    plain = ensemble([{"image": image}])[0]["instances"]
    mirrored = ensemble([{"image": image.flip(-1)}])[0]["instances"]
    x0, y0, x1, y1 = mirrored.pred_boxes.tensor.unbind(-1)
    back = torch.stack([128 - x1, y0, 128 - x0, y1], dim=-1)
    key = plain.scores.argsort(descending=True), mirrored.scores.argsort(descending=True)
    torch.testing.assert_close(plain.scores[key[0]][:20], mirrored.scores[key[1]][:20])
    torch.testing.assert_close(
        plain.pred_boxes.tensor[key[0]][:20], back[key[1]][:20], atol=1e-3, rtol=0
    )


def test_boxes_of_one_class_do_not_overlap_beyond_the_threshold(model):
    batch = [{"image": torch.randint(0, 256, (3, 96, 128)).float()}]
    found = FlipScaleEnsemble(model, [1.0, 1.25], nms_thresh=0.4, topk=0)(batch)[0]["instances"]
    for k in found.pred_classes.unique():
        own = found[found.pred_classes == k]
        assert len(nms(own.pred_boxes.tensor, own.scores, 0.4)) == len(own)


def test_it_labels_images_as_a_model_does(spot):
    model = FlipScaleEnsemble(BrightSpot([0.3, 0.9]))
    annotations, ids = label_images(model, [[spot]], score_thresh=0.5)
    assert ids == ["spot"]
    assert annotations == [
        {"image_id": "spot", "category_id": 0, "bbox": [10, 20, 30, 40],
         "score": pytest.approx(0.9)}
    ]  # fmt: skip


def test_the_tool_labels_with_an_ensemble(tiny_cfg, card, tmp_path, monkeypatch):
    cfg = tiny_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 7)
    (tmp_path / "teacher.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "teacher.pth")
    used = []
    forward = FlipScaleEnsemble.forward
    monkeypatch.setattr(
        FlipScaleEnsemble,
        "forward",
        lambda self, batch: used.append((self.scales, self.flip)) or forward(self, batch),
    )
    arguments = ["--config-file", str(tmp_path / "teacher.yaml"),
                 "--weights", str(tmp_path / "teacher.pth"),
                 "--dataset", f"{card['name']}_half2_unlabeled",
                 "--output", str(tmp_path / "labels.json"), "--score-thresh", "0"]  # fmt: skip
    for options in ([], ["--flip"], ["--scales", "0.5", "1"]):
        monkeypatch.setattr("sys.argv", ["pseudo_label.py", *arguments, *options])
        pseudo_label.main()
    assert used == [((1.0,), True)] * 8 + [((0.5, 1.0), False)] * 8
    header, annotations = read_pseudo_labels(str(tmp_path / "labels.json"))
    assert len(header.image_ids) == 8
    assert len(annotations) == 8 * 7


class Halves(torch.nn.Module):
    """Says of each pixel's brightness that it is the logit of class 1, of two."""

    def forward(self, batched_inputs):
        outputs = []
        for x in batched_inputs:
            size = x["height"], x["width"]
            bright = torch.nn.functional.interpolate(x["image"][None, :1].float(), size)[0]
            outputs.append({"sem_seg": torch.cat([torch.zeros_like(bright), bright / 64])})
        return outputs


def test_probabilities_of_pixels_are_averaged_in_their_place(spot):
    single = Halves()([spot])[0]["sem_seg"].softmax(0)
    assert FlipScaleEnsemble(Halves(), flip=True)([spot])[0].keys() == {"sem_seg"}
    both = FlipScaleEnsemble(Halves(), [1.0, 2.0])([spot])[0]["sem_seg"].softmax(0)
    assert both.shape == (2, 80, 120)
    # Only edges differ, where the image was scaled.
    assert ((single - both).abs() < 1e-5).float().mean() > 0.9


@pytest.mark.parametrize("scales", [[], [1.0, 0.0]])
def test_scales_must_be_positive(scales):
    with pytest.raises(ValueError, match="scales"):
        FlipScaleEnsemble(BrightSpot([0.5]), scales)
