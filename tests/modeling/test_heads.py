"""Heads against the reference's numbers (golden) and by their behaviour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import CycleBatchNormList, ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.structures import Boxes, Instances
from fvcore.nn import giou_loss
from hypothesis import given
from hypothesis import strategies as st

from multas.config.modeling import add_modeling_config
from multas.modeling.box_coding import decode_boxes, encode_boxes
from multas.modeling.heads import build_task_head
from multas.modeling.heads.dense_inference import DenseInference
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.heads.dense_predictor import LevelwisePredictor, shared_predictor
from multas.modeling.layers import BatchNorm2d, LevelNorms
from multas.modeling.matcher import pad_objects
from no_transfer import NoTransfer

GOLDEN = Path(__file__).parents[1] / "golden" / "multas"
SHAPES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (3, 4, 5)}


def load(path: Path) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


def to_corners(priors: torch.Tensor) -> torch.Tensor:
    center, size = priors.double().split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def make_instances(boxes, classes, scores=None, size=(64, 64)) -> Instances:
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.as_tensor(boxes).reshape(-1, 4))
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    if scores is not None:
        instances.gt_scores = torch.as_tensor(scores)
    return instances


def make_cfg(**dense_head):
    cfg = get_cfg()
    add_modeling_config(cfg)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8.0, 12.0], [16.0, 24.0], [32.0, 48.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.DENSE_HEAD.NUM_CLASSES = 3
    for key, value in dense_head.items():
        setattr(cfg.MODEL.DENSE_HEAD, key, value)
    return cfg


def make_features(num_images: int, size: int = 64) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(num_images, 8, size // shape.stride, size // shape.stride)
        for name, shape in SHAPES.items()
    }


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("prior_*.npz")), ids=lambda p: p.stem)
def test_clipped_anchors_are_those_of_the_reference(path):
    golden = load(path)
    size, base = int(golden["in_size"]), float(golden["in_base_anchor"])
    grids = golden["out_feat_sizes"].tolist()
    levels = range(len(grids))
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "ClippedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0, 0.5, 2.0]]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[base * 2**k, base * 2**k * 2**0.5] for k in levels]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=8 << k) for k in levels])
    anchors = Boxes.cat(generator([torch.zeros(1, 1, g, g) for g in grids])).tensor / size
    assert len(anchors) == int(golden["out_num"])
    expected = to_corners(golden["out_priors"]).float()
    torch.testing.assert_close(anchors, expected, rtol=0, atol=1e-6)


def test_clipped_anchors_know_height_from_width():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "ClippedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[100.0]]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=8)])
    (boxes,) = generator([torch.zeros(1, 1, 3, 5)])
    size = boxes.tensor[:, 2:] - boxes.tensor[:, :2]
    assert (size == torch.tensor([40.0, 24.0])).all()
    assert torch.equal(boxes.get_centers()[:6, 0], torch.tensor([4.0, 12, 20, 28, 36, 4]))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("det_loss_*.npz")), ids=lambda p: p.stem)
def test_complete_loss_and_gradients_are_those_of_the_reference(path):
    golden = load(path)
    deltas = golden["in_loc_data"].double().requires_grad_()
    logits = golden["in_conf_data"].double().requires_grad_()
    instances = []
    for image in range(len(deltas)):
        rows = golden["in_targets"][golden["in_targets_image"] == image].double()
        instances.append(make_instances(rows[:, :4], rows[:, 4].long() - 1))
    loss = DenseLoss(
        num_classes=logits.shape[-1],
        assignment="mutual_guidance" if golden["in_mutual_guide"] else "iou",
        cls_loss="focal" if golden["in_use_focal"] else "quality_focal",
    )
    losses = loss(logits, deltas, to_corners(golden["in_priors"]), instances)
    for name, key in (("loss_box_reg", "out_loss_l"), ("loss_cls", "out_loss_c")):
        torch.testing.assert_close(losses[name].item(), golden[key].item(), rtol=1e-7, atol=1e-9)
    sum(losses.values()).backward()
    for leaf, key in ((deltas, "grad_loc_data"), (logits, "grad_conf_data")):
        torch.testing.assert_close(leaf.grad.float(), golden[key], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("detect_*.npz")), ids=lambda p: p.stem)
def test_class_agnostic_inference_is_that_of_the_reference(path):
    golden = load(path)
    width, height = golden["in_scale"][:2].tolist()
    detect = DenseInference(
        score_thresh=float(golden["in_score_threshold"]),
        nms_thresh=float(golden["in_nms_threshold"]),
        topk=0,
        max_detections=0,
        class_agnostic=True,
    )
    result = detect(
        golden["in_conf"][0].double(),
        golden["in_loc"][0].double(),
        to_corners(golden["in_priors"]) * golden["in_scale"],
        (int(height), int(width)),
    )
    rows, classes = golden["out_det_index"], golden["out_det_class"] - 1
    scores = golden["out_scores"][rows, classes].double()
    order = scores.argsort(descending=True, stable=True)
    assert torch.equal(result.pred_classes, classes[order])
    torch.testing.assert_close(result.scores, scores[order], rtol=0, atol=1e-5)
    boxes = golden["out_boxes"].float()[rows[order]]
    torch.testing.assert_close(result.pred_boxes.tensor, boxes, rtol=0, atol=1e-3)


def test_per_class_inference_keeps_overlapping_boxes_of_different_classes():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 40, 40]])
    logits = torch.tensor([[3.0, -9], [2.0, 1.0], [-9, 0.5]])
    deltas = torch.zeros(3, 4)
    both = DenseInference(score_thresh=0.3)(logits, deltas, anchors, (30, 30))
    assert both.pred_classes.tolist() == [0, 1, 1]
    assert both.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30]]
    torch.testing.assert_close(both.scores, torch.tensor([3.0, 1.0, 0.5]).sigmoid())
    best = DenseInference(score_thresh=0.3, max_detections=1)(logits, deltas, anchors, (30, 30))
    assert len(best) == 1
    few = DenseInference(score_thresh=0.3, topk=2)(logits, deltas, anchors, (30, 30))
    assert few.pred_classes.tolist() == [0]
    one = DenseInference(score_thresh=0.3, class_agnostic=True)(logits, deltas, anchors, (30, 30))
    assert one.pred_classes.tolist() == [0, 1]
    none = DenseInference(score_thresh=0.99)(logits, deltas, anchors, (30, 30))
    assert len(none) == 0
    assert none.pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("build", [LevelwisePredictor, shared_predictor])
def test_layout_is_that_of_retinanet_and_every_class_starts_at_the_prior(build):
    predictor = build(
        input_shape=list(SHAPES.values()), num_classes=3, num_anchors=6, conv_dims=[8, 8],
        norm="BN", prior_prob=0.02,
    )  # fmt: skip
    features = list(make_features(2).values())
    logits, deltas = predictor(features)
    for x, score, delta in zip(features, logits, deltas, strict=True):
        assert score.shape == (2, 18, *x.shape[2:])
        assert delta.shape == (2, 24, *x.shape[2:])
        assert score.sigmoid().mean().item() == pytest.approx(0.02, rel=0.2)


def test_norms_of_levels_stay_in_bfloat16_and_are_those_of_detectron2():
    torch.manual_seed(0)
    stock, own = (kind(2, BatchNorm2d, num_features=4) for kind in (CycleBatchNormList, LevelNorms))
    for norms in (stock, own):
        norms.weight.data.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
        norms.bias.data.fill_(0.25)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    assert torch.equal(own(x), stock(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for scale in (1, 3, 5):  # of each level in turn
            y, wanted = own(scale * x.bfloat16()), stock(scale * x)
        assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), wanted, rtol=0.02, atol=0.02)
    for out in (y, wanted):
        (out.float() * x).sum().backward()
    torch.testing.assert_close(own.weight.grad, stock.weight.grad, rtol=0.02, atol=0.1)
    assert own.state_dict().keys() == stock.state_dict().keys()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=0.01, atol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as a teacher, whose bits stay
        stock.load_state_dict(own.state_dict())
        assert torch.equal(own.eval()(x.bfloat16()), stock.eval()(x.bfloat16()))


def test_levels_share_weights_only_when_asked_to():
    own = build_task_head("DenseDetectionHead", make_cfg(), SHAPES)
    shared = build_task_head("DenseDetectionHead", make_cfg(SHARED=True), SHAPES)
    x = {name: torch.ones(1, 8, 4, 4) for name in SHAPES}
    for head, same in ((own, False), (shared, True)):
        logits, _ = head.eval()(x)
        assert torch.equal(logits[0], logits[1]) == same


def test_flattened_rows_belong_to_the_anchors_of_the_same_row():
    """Write the row number into the maps, place by place and anchor by anchor."""
    head = build_task_head("DenseDetectionHead", make_cfg(), SHAPES)
    features = make_features(1)
    anchors, row, maps = head.anchors(features), 0, ([], [])
    for x in features.values():
        height, width = x.shape[2:]
        score, delta = torch.zeros(1, 18, height, width), torch.zeros(1, 24, height, width)
        for y in range(height):
            for x_ in range(width):
                for anchor in range(6):
                    score[0, 3 * anchor : 3 * anchor + 3, y, x_] = row
                    delta[0, 4 * anchor : 4 * anchor + 4, y, x_] = anchors[row]
                    row += 1
        maps[0].append(score)
        maps[1].append(delta)
    logits, deltas = head.flatten(maps)
    assert torch.equal(logits[0], torch.arange(row)[:, None].expand(-1, 3).float())
    assert torch.equal(deltas[0], anchors)


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
@pytest.mark.parametrize("cls_loss", ["focal", "quality_focal"])
@pytest.mark.parametrize("box_loss", ["balanced_l1", "smooth_l1", "giou"])
@pytest.mark.parametrize("shared", [False, True])
def test_every_choice_trains_all_parameters(assignment, cls_loss, box_loss, shared):
    torch.manual_seed(0)
    cfg = make_cfg(ASSIGNMENT=assignment, CLS_LOSS=cls_loss, BOX_LOSS=box_loss, SHARED=shared)
    cfg.MODEL.DENSE_HEAD.NORM = ""
    head = build_task_head("DenseDetectionHead", cfg, SHAPES)
    features = make_features(2)
    boxes = [[4.0, 4, 13, 13], [10, 10, 30, 34], [6, 6, 60, 58]]
    annotations = [make_instances(boxes, [0, 1, 2]), make_instances([], [])]
    predictions = head(features)
    losses = head.losses(predictions, features, annotations, (64, 64))
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    assert all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in head.parameters()) > 5


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
@pytest.mark.parametrize("box_loss", ["balanced_l1", "smooth_l1", "giou"])
def test_no_loss_waits_for_the_device(assignment, box_loss):
    cfg = make_cfg(ASSIGNMENT=assignment, BOX_LOSS=box_loss, WEIGHT_BY_SCORE=True)
    head, features = build_task_head("DenseDetectionHead", cfg, SHAPES), make_features(2)
    annotations = [make_instances([[4.0, 4, 13, 13]], [1], [0.5]), make_instances([], [])]
    with NoTransfer():
        losses = head.losses(head(features), features, annotations, (64, 64))
        sum(losses.values()).backward()


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_giou_is_of_the_decoded_boxes_and_knows_no_unit(seed, scale):
    """Boxes that fit cost nothing; others what fvcore says, whatever the unit of pixels is."""
    random = torch.Generator().manual_seed(seed)
    low = 40 * torch.rand(6, 2, generator=random, dtype=torch.float64)
    size = 4 + 40 * torch.rand(6, 2, generator=random, dtype=torch.float64)
    anchors, boxes = torch.cat([low, low + size], dim=1), torch.cat([low, low + 1.2 * size], dim=1)
    loss = DenseLoss(num_classes=1, box_loss="giou", box_loss_weight=2.0)
    logits = torch.zeros(1, 6, 1, dtype=torch.float64)

    def of(deltas, scale=1.0):
        objects = make_instances(scale * boxes, [0] * 6, size=(100, 100))
        return loss(logits, deltas[None], scale * anchors, [objects])["loss_box_reg"]

    objects = pad_objects([make_instances(boxes, [0] * 6)])
    targets = loss.assign(objects, anchors, logits, torch.zeros(1, 6, 4))
    exact = encode_boxes(targets.boxes[0], anchors)
    assert of(exact) == pytest.approx(0, abs=1e-6)
    deltas = torch.randn(6, 4, generator=random, dtype=torch.float64)
    weights, found = targets.box_weights[0], decode_boxes(deltas, anchors)
    wanted = weights @ giou_loss(found, targets.boxes[0]) / weights.sum()
    assert of(deltas) == pytest.approx(2 * float(wanted), abs=1e-6)
    assert of(deltas, scale) == pytest.approx(float(of(deltas)), abs=1e-5)


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
def test_images_without_any_object_are_background(assignment):
    head = build_task_head("DenseDetectionHead", make_cfg(ASSIGNMENT=assignment), SHAPES)
    features = make_features(2)
    empty = [make_instances([], []), make_instances([], [])]
    losses = head.losses(head(features), features, empty, (64, 64))
    assert losses["loss_box_reg"] == 0
    assert losses["loss_cls"].isfinite() and losses["loss_cls"] > 0
    sum(losses.values()).backward()
    grads = [p.grad for p in head.predictor.box_subnets.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
def test_pseudo_scores_weight_positives_only(assignment):
    torch.manual_seed(0)
    head = build_task_head("DenseDetectionHead", make_cfg(ASSIGNMENT=assignment), SHAPES)
    features = make_features(2)
    box, other = [[10.0, 10, 30, 34]], [[6.0, 6, 60, 58]]
    logits, deltas = (x.detach() for x in head.flatten(head(features)))
    anchors = head.anchors(features)

    def losses(scores: list, use_scores: bool) -> torch.Tensor:
        loss = DenseLoss(num_classes=3, assignment=assignment, use_scores=use_scores)
        instances = [make_instances(box, [1], scores[0]), make_instances(other, [2], scores[1])]
        return torch.stack(list(loss(logits, deltas, anchors, instances).values()))

    plain = losses([[1.0], [1.0]], False)
    torch.testing.assert_close(losses([[0.3], [0.6]], False), plain)
    torch.testing.assert_close(losses([[1.0], None], True), plain)
    low, middle = losses([[0.0], [0.0]], True), losses([[0.5], [0.5]], True)
    assert low[1] == 0
    # Linear in the score, and the background part stays.
    torch.testing.assert_close(2 * middle, low + plain)
    assert 0 < low[0] < plain[0]


def test_linear_head_takes_the_coarsest_map_and_averages_labelled_images():
    cfg = make_cfg()
    cfg.MODEL.LINEAR_HEAD.NUM_CLASSES = 5
    head = build_task_head("LinearClassificationHead", cfg, SHAPES)
    assert head.in_feature == "p5"
    features = make_features(3)
    logits = head(features)
    loss = head.losses(logits, features, [4, None, 0], (64, 64))["loss_class"]
    expected = -(logits[0].log_softmax(0)[4] + logits[2].log_softmax(0)[0]) / 2
    torch.testing.assert_close(loss, expected)
    scores = head.inference(logits, features, [(64, 64)] * 3, [(64, 64)] * 3)
    torch.testing.assert_close(torch.stack(scores).sum(1), torch.ones(3))


def test_linear_head_learns_from_the_shares_of_a_mixed_image():
    head = build_task_head(
        {"TYPE": "LinearClassificationHead", "NUM_CLASSES": 5}, make_cfg(), SHAPES
    )
    features = make_features(3)
    logits = head(features)
    loss = head.losses(logits, features, [{4: 0.3, 1: 0.7}, None, 0], (64, 64))["loss_class"]
    scores = logits.log_softmax(1)
    expected = -(0.3 * scores[0, 4] + 0.7 * scores[0, 1] + scores[2, 0]) / 2
    torch.testing.assert_close(loss, expected)


def test_options_of_an_entry_prevail_over_the_config():
    cfg = make_cfg()
    cfg.MODEL.LINEAR_HEAD.NUM_CLASSES = 5
    assert build_task_head("LinearClassificationHead", cfg, SHAPES).num_classes == 5
    entry = {"TYPE": "LinearClassificationHead", "NUM_CLASSES": 7}
    assert build_task_head(entry, cfg, SHAPES).num_classes == 7
    entry = {"TYPE": "SemanticFPNHead", "NUM_FINAL_CONVS": 0, "COMMON_STRIDE": 8}
    head = build_task_head(entry, cfg, SHAPES)
    assert len(head.final) == 0 and len(head.branches[0]) == 1
    with pytest.raises(ValueError, match=r"FPNHead: .* 'CHANNEL'\. Did you mean 'CHANNELS'"):
        build_task_head({"TYPE": "SemanticFPNHead", "CHANNEL": 4}, cfg, SHAPES)


def test_wrong_names_are_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"'DenseHead'.* from: .*DenseDetectionHead, GFL"):
        build_task_head("DenseHead", make_cfg(), SHAPES)
    with pytest.raises(ValueError, match=r"DENSE_HEAD.IN_FEATURES names \['p9'\].*'p3'"):
        build_task_head("DenseDetectionHead", make_cfg(IN_FEATURES=["p9", "p3"]), SHAPES)
    for key in ("ASSIGNMENT", "CLS_LOSS", "BOX_LOSS"):
        with pytest.raises(ValueError, match=f"DENSE_HEAD.{key} is 'x'; choose from"):
            build_task_head("DenseDetectionHead", make_cfg(**{key: "x"}), SHAPES)
    cfg = make_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8.0], [16.0, 24.0], [32.0]]
    with pytest.raises(ValueError, match="equally many"):
        build_task_head("DenseDetectionHead", cfg, SHAPES)
