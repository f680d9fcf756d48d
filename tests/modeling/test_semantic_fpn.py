"""The head for segmentation: its losses, its masks, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec

from multas.config.modeling import add_modeling_config
from multas.modeling.heads import build_task_head

SHAPES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (3, 4, 5)}


def make_cfg(num_final_convs: int = 3) -> CfgNode:
    cfg = get_cfg()
    add_modeling_config(cfg)
    head = cfg.MODEL.SEMANTIC_FPN_HEAD
    head.NUM_CLASSES, head.CONVS_DIM, head.NUM_FINAL_CONVS = 4, 8, num_final_convs
    return cfg


def make_features(num_images: int, size: int = 64) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(num_images, 8, size // shape.stride, size // shape.stride)
        for name, shape in SHAPES.items()
    }


def test_semantic_head_ignores_padding_and_unlabelled_pixels():
    cfg = make_cfg()
    head = build_task_head("SemanticFPNHead", cfg, SHAPES).eval()
    features = make_features(2)
    logits = head(features)
    assert logits.shape == (2, 4, 64, 64)
    small = torch.randint(0, 4, (40, 50))
    large = torch.full((64, 64), 255)
    loss = head.losses(logits, features, [small, large], (64, 64))["loss_sem_seg"]
    expected = torch.nn.functional.cross_entropy(logits[:1, :, :40, :50], small[None])
    torch.testing.assert_close(loss, expected)
    nothing = head.losses(logits, features, [large, large], (64, 64))["loss_sem_seg"]
    assert nothing == 0
    resized = head.inference(logits, features, [(40, 50), (64, 64)], [(80, 100), (64, 64)])
    assert [tuple(x.shape) for x in resized] == [(4, 80, 100), (4, 64, 64)]
    torch.testing.assert_close(resized[1], logits[1])


def test_semantic_head_without_final_blocks_has_one_logit_for_the_pixels_that_share_it():
    """It learns and finds what upsampled features and logits of all pixels would give."""
    head = build_task_head("SemanticFPNHead", make_cfg(0), SHAPES).double().eval()
    features = {name: x.double() for name, x in make_features(2).items()}
    total = sum(branch(features[f]) for f, branch in zip(SHAPES, head.branches, strict=True))
    whole = head.predictor(head.upsample(total))
    coarse = head(features)
    assert whole.shape == (2, 4, 64, 64) and coarse.shape == (2, 4, 16, 16)
    labels = torch.randint(0, 4, (2, 64, 64))
    labels[torch.rand(labels.shape) < 0.2] = 255
    # The second image is smaller than the batch.
    small = labels[1, :40, :50]
    labels[1, 40:], labels[1, :, 50:] = 255, 255
    loss = head.losses(coarse, features, [labels[0], small], (64, 64))["loss_sem_seg"]
    expected = F.cross_entropy(whole, labels, ignore_index=255)
    torch.testing.assert_close(loss, expected)
    parameters = list(head.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters, retain_graph=True))
    masks = head.inference(coarse, features, [(64, 64), (40, 50)], [(64, 64), (40, 50)])
    torch.testing.assert_close(masks[0], whole[0])
    torch.testing.assert_close(masks[1], whole[1, :, :40, :50])
    exported = head.export(coarse, features, torch.zeros(2, 2), nms=True)["sem_seg"]
    torch.testing.assert_close(exported, whole)


def test_semantic_head_refuses_a_level_finer_than_the_common_stride():
    cfg = make_cfg()
    with pytest.raises(ValueError, match=r"Level p1 has stride 2.*COMMON_STRIDE"):
        build_task_head("SemanticFPNHead", cfg, {"p1": ShapeSpec(channels=8, stride=2)})
