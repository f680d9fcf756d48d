"""The Distiller around stock Detectron2 models and around the multi-task network."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

import weighing
from multas.config import add_multas_config
from multas.config.distillation import teacher_node
from multas.distillation import Distiller, Teacher
from weighing import set_keys, weighed, without_statistics

pytestmark = pytest.mark.usefixtures("storage")

FPN_LEVELS = ["backbone.p3", "backbone.p4"]


def retinanet_cfg(width: int = 8, depth: int = 18):
    """Detectron2's RetinaNet, as its own config builds it, on a narrow backbone of ours."""
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_multas_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = width
    cfg.MODEL.FPN.OUT_CHANNELS = 2 * width
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = 2
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    return cfg


def make_distiller(paths, **keys) -> Distiller:
    cfg = set_keys(retinanet_cfg(), PATHS=paths, **keys)
    return weighed(weighing.make_distiller(cfg, retinanet_cfg(16)))


def sample(annotated: bool = True, size=(64, 96), seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (3, *size), generator=generator, dtype=torch.uint8)
    result = {"image": image, "height": size[0], "width": size[1]}
    if annotated:
        boxes = Boxes(torch.tensor([[5.0, 5, 45, 50], [30, 10, 90, 60]]))
        classes = torch.tensor([0, 2])
        result["instances"] = Instances(size, gt_boxes=boxes, gt_classes=classes)
    return result


AT = {
    "TYPE": "AttentionTransfer",
    "STUDENT": ["backbone.bottom_up.res3", "backbone.bottom_up.res5"],
}
MSE = {"TYPE": "FeatureMSE", "STUDENT": FPN_LEVELS}
SOFT = {"TYPE": "SoftDetection", "STUDENT": "head"}


def test_stock_retinanet_is_distilled_over_three_paths():
    distiller = make_distiller([AT, MSE, SOFT]).train()
    losses = distiller([sample(), sample(seed=1)])
    own = {"loss_cls", "loss_box_reg"}
    assert losses.keys() == own | {f"loss_kd_{name}" for name in ("at", "mse", "soft", "z")}


def test_gradients_reach_student_adapters_and_z_but_never_the_teacher():
    distiller = make_distiller([AT, MSE, SOFT]).train()
    sum(distiller([sample()]).values()).backward()
    teacher = distiller.distillation.teachers[0].model
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert distiller.path_weights.aggregator.z.grad.abs().min() > 0
    adapters = distiller.distillation.paths["mse"].parameters()
    assert all(p.grad is not None for p in adapters)
    missing = [n for n, p in distiller.student.named_parameters() if p.grad is None]
    assert missing == []


def test_the_teacher_stays_frozen_in_eval_mode_and_outside_of_the_module():
    distiller = make_distiller([AT])
    teacher = distiller.distillation.teachers[0].model
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    distiller.train()
    distiller([sample()])
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    own = {id(p) for p in distiller.parameters()}
    assert not any(id(p) in own for p in teacher.parameters())


def test_outside_of_training_the_distiller_is_the_student():
    distiller = make_distiller([AT, MSE]).eval()
    with torch.no_grad():
        ours = distiller([sample(annotated=False)])[0]["instances"]
        plain = distiller.student([sample(annotated=False)])[0]["instances"]
    assert torch.equal(ours.scores, plain.scores)
    assert distiller.state_dict().keys() == distiller.student.state_dict().keys()


def test_without_preparation_training_is_refused():
    cfg = set_keys(retinanet_cfg(), PATHS=[AT], STUDENT="RetinaNet")
    cfg.MODEL.META_ARCHITECTURE = "Distiller"
    distiller = build_model(cfg).train()
    with pytest.raises(RuntimeError, match="prepare"):
        distiller([sample()])


@pytest.mark.parametrize("options", [{"paths": []}, {"paths": [AT, MSE], "ALPHA": 0.0}])
def test_nothing_to_distill_is_the_student_alone(options):
    distiller = make_distiller(**options).train()
    assert distiller.distillation is None
    assert distiller([sample()]).keys() == {"loss_cls", "loss_box_reg"}


def test_mixed_batch_of_a_stock_student_learns_labels_from_annotated_images_only():
    # Fixed statistics: with those of the batch, each part would be normalised by its own.
    d = without_statistics(make_distiller([MSE]))
    both = [sample(seed=0), sample(annotated=False, seed=1)]
    normalizer = getattr(d.student, "loss_normalizer", None)
    mixed = d(both)
    d.student.loss_normalizer = normalizer if normalizer is not None else 100
    alone = d.student([both[0]])
    for name in alone:
        torch.testing.assert_close(mixed[name], alone[name])


def test_only_unannotated_images_and_a_stock_student_leave_its_loss_normaliser_alone():
    distiller = make_distiller([SOFT]).train()
    distiller.student.loss_normalizer = 42.0
    losses = distiller([sample(annotated=False)])
    assert {"loss_kd_soft", "loss_kd_z"} == losses.keys()
    assert distiller.student.loss_normalizer == 42.0


def test_hard_labels_off_never_uses_an_annotation():
    distiller = make_distiller([SOFT], HARD_LABELS=False).train()
    assert {"loss_kd_soft", "loss_kd_z"} == distiller([sample()]).keys()


def test_layerwise_gives_every_layer_its_own_weight():
    distiller = make_distiller([{**AT, "LAYERWISE": True}, MSE]).train()
    assert distiller.distillation.names == ["at_0", "at_1", "mse"]
    losses = distiller([sample()])
    assert {"loss_kd_at_0", "loss_kd_at_1", "loss_kd_mse"} <= losses.keys()


def test_layerwise_terms_add_up_to_the_path():
    image = [sample()]
    whole = make_distiller([AT], AGGREGATION__NAME="equal").train()(image)["loss_kd_at"]
    parts = make_distiller([{**AT, "LAYERWISE": True}], AGGREGATION__NAME="equal").train()(image)
    torch.testing.assert_close(whole, parts["loss_kd_at_0"] + parts["loss_kd_at_1"])


def test_alpha_scales_every_term_and_the_regulariser():
    one = make_distiller([AT, MSE]).train()([sample()])
    half = make_distiller([AT, MSE], ALPHA=0.5).train()([sample()])
    for name in ("loss_kd_at", "loss_kd_mse", "loss_kd_z"):
        torch.testing.assert_close(half[name], 0.5 * one[name])


def test_a_teacher_of_the_other_channel_order_sees_the_channels_swapped():
    teacher = Teacher(nn.Identity(), input_format="RGB")
    image = torch.arange(3).view(3, 1, 1).expand(3, 2, 2)
    assert teacher.inputs([{"image": image, "instances": 1}], "BGR")[0]["image"][0, 0, 0] == 2
    assert teacher.inputs([{"image": image}], "RGB")[0]["image"][0, 0, 0] == 0
    assert "instances" not in teacher.inputs([{"image": image, "instances": 1}], "BGR")[0]


def test_the_path_table_names_layers_shapes_and_adapters():
    table = make_distiller([AT, MSE]).path_weights.table()
    for word in ("backbone.bottom_up.res3", "16×8×8", "1x1 16→32", "Adaptive", "AttentionTransfer"):
        assert word in table


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ({"TYPE": "AttentionTranfer"}, {}, "Did you mean 'AttentionTransfer'"),
        ({"STUDENT": "x"}, {}, r"PATHS\[0\] must be a mapping with the key TYPE"),
        ({**MSE, "RESISE": "none"}, {}, "unknown key 'RESISE'. Did you mean 'RESIZE'"),
        ({**MSE, "STUDENT": "backbone.bottom_up.res6"}, {}, "Nearest: backbone.bottom_up.res"),
        ({**MSE, "ADAPTER": "none"}, {}, "path 'mse': .*channels differ .*ADAPTER: conv"),
        ({**MSE, "TEACHER": ["backbone.p4", "backbone.p5"], "RESIZE": "none"}, {}, "sizes differ"),
        ({**MSE, "TEACHER": ["backbone.p4"]}, {}, "numbers of feature maps"),
        ({**MSE, "TEACHER_ID": 3}, {}, "TEACHER_ID is 3, but there are 1 teachers"),
        (MSE, {"AGGREGATION__NAME": "adaptve"}, "Did you mean 'Adaptive'"),
        ({**MSE, "WEIGHT": "much"}, {}, r"PATHS\[0\] \(FeatureMSE\): WEIGHT is 'much'"),
        (MSE, {"BOXES": "mine"}, "BOXES is 'mine'; choose from auto"),
    ],
)
def test_a_mistake_in_the_config_is_named_before_training(path, options, message):
    with pytest.raises(ValueError, match=message):
        make_distiller([path], **options)


def test_two_paths_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two paths are called 'mse'"):
        make_distiller([MSE, MSE])


def test_a_head_with_other_anchors_is_refused():
    teacher = retinanet_cfg(16)
    teacher.MODEL.RETINANET.NUM_CLASSES = 4
    with pytest.raises(ValueError, match="same levels, strides, anchors and classes"):
        weighing.make_distiller(set_keys(retinanet_cfg(), PATHS=[SOFT]), teacher)


def test_a_tap_in_a_frozen_part_is_refused_at_the_first_step():
    distiller = make_distiller([{**AT, "STUDENT": "backbone.bottom_up.res2"}]).train()
    distiller.student.backbone.bottom_up.freeze(2)
    with pytest.raises(ValueError, match=r"no gradient reaches the student .*FREEZE_AT"):
        distiller([sample()])


@pytest.mark.parametrize("key", ["CONFIG_FILE", "WEIGHTS"])
def test_a_missing_teacher_file_is_named(tmp_path, key):
    config = tmp_path / "teacher.yaml"
    config.write_text("MODEL: {META_ARCHITECTURE: RetinaNet}")
    options = teacher_node()
    options.CONFIG_FILE = str(config)
    options[key] = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=f"TEACHER.{key} is .*none.*no such file"):
        Teacher.from_config(options, retinanet_cfg())


def test_weights_of_another_network_are_refused(tmp_path):
    cfg = retinanet_cfg(8)
    config, weights = tmp_path / "teacher.yaml", tmp_path / "weights.pth"
    config.write_text(cfg.dump())
    model = build_model(retinanet_cfg(16))
    torch.save({"model": model.state_dict()}, weights)
    options = teacher_node()
    options.CONFIG_FILE, options.WEIGHTS = str(config), str(weights)
    with pytest.raises(ValueError, match=r"weights do not fit its config: .*missing or of another"):
        Teacher.from_config(options, retinanet_cfg())
    options.OPTS = [
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
        "MODEL.FPN.OUT_CHANNELS", 32,
    ]  # fmt: skip
    loaded = Teacher.from_config(options, retinanet_cfg())
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.model.parameters(), model.parameters(), strict=True)
    )


def test_a_float64_model_gets_its_path_losses_in_float64():
    distiller = make_distiller([MSE]).double().train()
    distiller.path_weights.aggregator.double()
    distiller.distillation.teachers[0].model.double()
    image = sample()
    losses = distiller([{**image, "image": image["image"].double()}])
    assert losses["loss_kd_mse"].dtype == torch.float64
    raw = distiller.path_weights.monitors["path_loss"]
    assert not torch.equal(raw, raw.float().double()), "no detour through float32"
