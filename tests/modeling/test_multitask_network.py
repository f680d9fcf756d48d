"""The contract of the meta-architecture, above all partly annotated batches."""

import copy

import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn.parallel import DistributedDataParallel

from multas.config.modeling import add_modeling_config
from multas.modeling import MultiTaskNetwork

HEADS = {
    "det": "DenseDetectionHead",
    "seg": "SemanticFPNHead",
    "cls": "LinearClassificationHead",
}
LOSSES = {
    "det": {"loss_cls", "loss_box_reg"},
    "seg": {"loss_sem_seg"},
    "cls": {"loss_class"},
}
KEYS = {"det": "instances", "seg": "sem_seg", "cls": "label"}
ALL = ("det", "seg", "cls")


def make_cfg(tasks=ALL, backbone="build_context_fpn_backbone", **dense_head):
    cfg = get_cfg()
    add_modeling_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MultiTaskNetwork"
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    resnet_only = backbone == "build_multas_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"] if resnet_only else ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_MAX_POOL = False
    cfg.MODEL.NECK.OUT_CHANNELS = 16
    cfg.MODEL.NECK.NUM_LEVELS = 3
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16.0], [32.0], [64.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.DENSE_HEAD.NUM_CLASSES = 3
    cfg.MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEMANTIC_FPN_HEAD.CONVS_DIM = 8
    cfg.MODEL.LINEAR_HEAD.NUM_CLASSES = 5
    cfg.MODEL.MULTITASK.TASKS = list(tasks)
    cfg.MODEL.MULTITASK.HEADS = [HEADS[task] for task in tasks]
    for key, value in dense_head.items():
        setattr(cfg.MODEL.DENSE_HEAD, key, value)
    return cfg


def make_network(*args, **kwargs) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return build_model(make_cfg(*args, **kwargs))


def make_image(seed: int, tasks=ALL, size=(64, 64), num_objects: int = 2) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, *size, generator=generator) * 255
    columns = torch.arange(size[1]) * 4 // size[1]
    corner = torch.rand(num_objects, 2, generator=generator) * 20
    objects = Instances(size)
    objects.gt_boxes = Boxes(torch.cat([corner, corner + 25], dim=1))
    objects.gt_classes = torch.randint(0, 3, (num_objects,), generator=generator)
    annotations = {
        "instances": objects,
        "sem_seg": columns.expand(size).clone(),
        "label": seed % 5,
    }
    return {"image": image} | {KEYS[task]: annotations[KEYS[task]] for task in tasks}


def frozen_statistics(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """Training mode whose norms do not look at the rest of the batch."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return network


@pytest.mark.parametrize(
    ("tasks", "backbone"),
    [
        (("det",), "build_context_fpn_backbone"),
        (("seg",), "build_context_pafpn_backbone"),
        (("cls",), "build_multas_resnet_backbone"),
        (("det", "seg"), "build_multas_fpn_backbone"),
        (ALL, "build_context_fpn_backbone"),
    ],
)
def test_any_tasks_give_their_losses_and_results(tasks, backbone):
    network = make_network(tasks, backbone)
    losses = network([make_image(0, tasks), make_image(1, tasks)])
    assert set(losses) == set().union(*(LOSSES[task] for task in tasks))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    results = network.eval()([make_image(0, ())])
    assert set(results[0]) == {network.heads[task].result for task in tasks}


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
def test_images_that_are_not_annotated_have_no_part_in_a_loss(assignment):
    network = frozen_statistics(make_network(ASSIGNMENT=assignment)).double()
    batch = [make_image(0), make_image(1, ("seg",)), make_image(2, ()), make_image(3, ("det",))]
    mixed = network(batch)
    for task in ALL:
        alone = network([x for x in batch if KEYS[task] in x])
        for name in LOSSES[task]:
            torch.testing.assert_close(mixed[name], alone[name], rtol=1e-10, atol=0)
            assert mixed[name] > 0


def test_annotated_as_empty_differs_from_not_annotated():
    network = frozen_statistics(make_network(("det",)))
    full, nothing = make_image(0, ("det",)), make_image(1, ())
    empty = make_image(1, ("det",), num_objects=0)
    assert network([full, nothing])["loss_cls"] == network([full])["loss_cls"]
    assert network([full, empty])["loss_cls"] > network([full])["loss_cls"]
    assert network([empty])["loss_cls"] > 0
    assert network([empty])["loss_box_reg"] == 0
    assert network([nothing])["loss_cls"] == 0


@pytest.mark.parametrize("missing", ALL)
def test_a_task_without_annotation_has_zero_losses_that_reach_its_head(missing):
    network = make_network()
    tasks = [task for task in ALL if task != missing]
    losses = network([make_image(0, tasks), make_image(1, tasks)])
    assert all(losses[name] == 0 for name in LOSSES[missing])
    sum(losses.values()).backward()
    grads = [p.grad for p in network.heads[missing].parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("annotated", [(), ("det",), ("seg", "cls"), ALL])
def test_every_parameter_takes_part_in_distributed_training(annotated):
    """Without a gradient for some parameter the second forward pass would raise."""
    network = DistributedDataParallel(make_network())
    for _ in range(3):
        sum(network([make_image(0, annotated), make_image(1, annotated)]).values()).backward()


def test_zero_losses_stay_zero_when_the_head_overflows():
    network = make_network(("det", "cls"))
    torch.nn.init.constant_(network.heads["cls"].linear.bias, float("inf"))
    losses = network([make_image(0, ("det",)), make_image(1, ("det",))])
    assert losses["loss_class"] == 0
    sum(losses.values()).backward()
    assert not network.heads["cls"].linear.weight.grad.any()
    assert all(p.grad.isfinite().all() for p in network.backbone.parameters())


def test_losses_and_results_do_not_depend_on_the_order_of_images():
    network = make_network().double()
    batch = [make_image(0), make_image(1, ("det",)), make_image(2, ("seg", "cls"))]
    order = [2, 0, 1]
    state = copy.deepcopy(network.state_dict())
    ours = network(batch)
    network.load_state_dict(state)
    theirs = network([batch[i] for i in order])
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-9, atol=0)
    network.eval()
    results, permuted = network(batch), network([batch[i] for i in order])
    for position, i in enumerate(order):
        torch.testing.assert_close(permuted[position]["sem_seg"], results[i]["sem_seg"])
        torch.testing.assert_close(permuted[position]["scores"], results[i]["scores"])
        boxes = [x["instances"].pred_boxes.tensor for x in (permuted[position], results[i])]
        torch.testing.assert_close(*boxes)


def test_results_are_in_the_coordinates_of_the_original_image():
    network = make_network(SCORE_THRESH_TEST=0.0).eval()
    image = make_image(0, (), size=(50, 60))
    plain, scaled = (network([image | size])[0] for size in ({}, {"height": 100, "width": 180}))
    assert plain["instances"].image_size == (50, 60)
    assert scaled["instances"].image_size == (100, 180)
    assert plain["sem_seg"].shape == (4, 50, 60)
    assert scaled["sem_seg"].shape == (4, 100, 180)
    assert len(plain["instances"]) > 10
    boxes = plain["instances"].pred_boxes.tensor * torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(scaled["instances"].pred_boxes.tensor, boxes)
    assert boxes[:, 2].max() <= 180 and boxes[:, 3].max() <= 100


def test_padding_does_not_change_what_a_small_image_may_detect():
    """Its boxes are clipped to itself, not to the padded batch."""
    network = make_network(("det",), SCORE_THRESH_TEST=0.0).eval()
    small, large = make_image(0, (), size=(33, 40)), make_image(1, (), size=(96, 64))
    result = network([small, large])[0]["instances"]
    assert result.pred_boxes.tensor[:, 2].max() <= 40
    assert result.pred_boxes.tensor[:, 3].max() <= 33


def test_training_on_one_image_learns_it():
    network = make_network()
    image = [make_image(0), make_image(1)]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(20):
        losses = network(image)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name, first in history[0].items():
        assert history[-1][name] < 0.9 * first, name


def test_a_single_image_can_be_trained_on():
    """One image at 32 px: the pooled branch and the coarsest level are 1x1."""
    network = make_network()
    losses = network([make_image(0, size=(32, 32))])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("assignment", ["iou", "mutual_guidance"])
def test_mixed_precision_gives_finite_losses_close_to_full_precision(assignment):
    network = frozen_statistics(make_network(ASSIGNMENT=assignment))
    batch = [make_image(0), make_image(1)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(batch)
    full = network(batch)
    sum(half.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    for name, loss in half.items():
        torch.testing.assert_close(loss.float(), full[name], rtol=0.1, atol=0.05)


def test_loss_weights_scale_the_losses_of_their_task():
    cfg = make_cfg(("det", "cls"))
    torch.manual_seed(0)
    plain = frozen_statistics(build_model(cfg))
    cfg.MODEL.MULTITASK.LOSS_WEIGHTS = [2.0, 0.5]
    weighted = frozen_statistics(build_model(cfg))
    weighted.load_state_dict(plain.state_dict())
    batch = [make_image(0, ("det", "cls"))]
    ours, theirs = plain(batch), weighted(batch)
    for name, factor in (("loss_cls", 2.0), ("loss_box_reg", 2.0), ("loss_class", 0.5)):
        torch.testing.assert_close(theirs[name], factor * ours[name])


def test_the_heads_can_be_tapped_in_training_and_evaluation():
    network = make_network(("det",))
    seen = []
    for name in ("heads.det", "heads.det.predictor"):
        network.get_submodule(name).register_forward_hook(lambda m, i, out: seen.append(out))
    network([make_image(0)] * 2)
    network.eval()([make_image(0)])
    assert len(seen) == 4
    for logits, deltas in seen:
        assert [x.shape[1] for x in logits] == [9] * 3
        assert [x.shape[1] for x in deltas] == [12] * 3


def test_checkpoints_hold_weights_only():
    network = make_network()
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "heads"}


def test_tasks_and_heads_must_fit():
    cfg = make_cfg(("det", "seg"))
    cfg.MODEL.MULTITASK.HEADS = ["DenseDetectionHead"]
    with pytest.raises(ValueError, match="equally many"):
        build_model(cfg)
    cfg.MODEL.MULTITASK.HEADS = ["DenseDetectionHead"] * 2
    with pytest.raises(ValueError, match="a result of its own"):
        build_model(cfg)


def test_two_heads_with_one_name_of_a_loss_are_refused():
    network = make_network(("seg", "cls"))
    network.heads["fine"] = copy.deepcopy(network.heads["seg"])
    with pytest.raises(ValueError, match=r"task fine calls a loss loss_sem_seg, as another"):
        network.train()([make_image(0, ("seg", "cls"))])
