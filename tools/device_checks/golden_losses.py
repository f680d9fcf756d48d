"""The functions that are compared with the numbers of the original authors' code, by cases."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from multas.distillation.functional.attention import attention_transfer
from multas.distillation.functional.feature_imitation import (
    defeat_imitation,
    mse_imitation,
    pdf_imitation,
)
from multas.distillation.functional.features import (
    feature_map_loss,
    nst_channel_gram,
    softmax_regression,
)
from multas.distillation.functional.localization import localization_distillation
from multas.distillation.functional.logits import l2_logits, soft_target
from multas.distillation.functional.overhaul import ofd_loss
from multas.distillation.functional.soft_detection import soft_detection_loss
from multas.modeling.losses import (
    balanced_l1_loss,
    focal_loss,
    quality_focal_loss,
    semantic_cross_entropy,
    soft_focal_loss,
)
from multas.modeling.matcher import match_iou, match_mutual_guidance, pad_objects

Numbers = Mapping[str, Tensor]


def _curve(g: Numbers, *names: str) -> dict[str, Any]:
    return {name: g[f"in_{name}"].item() for name in names}


def _levels(features: Tensor) -> list[Tensor]:
    """[batch, cells, channels] as a pyramid of one level."""
    return [features.mT.unflatten(2, (-1, 1))]


def _detection(g: Numbers) -> tuple[Tensor, ...]:
    return g["in_conf_s"], g["in_loc_s"], g["in_conf_t"], g["in_loc_t"]


def _soft(g: Numbers) -> dict[str, Tensor]:
    found = soft_detection_loss(*_detection(g), class_weight=g["in_soft_weight"].item())
    return {"loss_l": found["box_reg"], "loss_c": found["cls"], "total": sum(found.values())}  # type: ignore[dict-item]


def _pdf(g: Numbers) -> dict[str, Tensor]:
    pyramids = _levels(g["in_fea_s"]), _levels(g["in_fea_t"])
    found = pdf_imitation(*pyramids, *_detection(g), weight=g["in_loss_weight"].item())
    return {"loss_pdf": found["feature"], "total": sum(found.values())}  # type: ignore[dict-item]


def _defeat(g: Numbers) -> dict[str, Tensor]:
    pyramids = _levels(g["in_fea_s"]), _levels(g["in_fea_t"])
    found = defeat_imitation(*pyramids, g["in_mask"], divisor=g["in_divisor"].item())
    return {"loss_kd": sum(found.values())}  # type: ignore[dict-item]


def _localization(g: Numbers) -> Tensor:
    options = {"weight": g.get("in_weight"), "avg_factor": g.get("in_avg_factor")}
    loss = localization_distillation(
        g["in_pred"], g["in_soft"], temperature=float(g["in_T"]), mean_over_bins=True, **options
    )
    return g["in_loss_weight"] * loss


def _objects(g: Numbers, images: int):
    def image(number: int) -> Instances:
        rows = g["in_targets"][g["in_targets_image"] == number]
        return Instances((1, 1), gt_boxes=Boxes(rows[:, :4]), gt_classes=rows[:, 4].long() - 1)

    objects = pad_objects([image(i) for i in range(images)])
    return objects._replace(boxes=objects.boxes.double())


def _corners(g: Numbers) -> Tensor:
    center, half = g["in_priors"][:, :2].double(), g["in_priors"][:, 2:].double() / 2
    return torch.cat([center - half, center + half], dim=1)


def _by_iou(g: Numbers) -> dict[str, Tensor]:
    match = match_iou(_objects(g, len(g["out_overlap_t"])), _corners(g))
    return {"overlap_t": match.quality}


def _by_guidance(g: Numbers) -> dict[str, Tensor]:
    predictions = g["in_conf_data"], g["in_loc_data"]
    objects = _objects(g, len(g["out_overlap_t"]))
    topk, sigma = int(g["in_topk"]), float(g["in_sigma"])
    matches = match_mutual_guidance(objects, _corners(g), *predictions, topk=topk, sigma=sigma)
    qualities = [match.quality.double() + 3 * match.positive for match in matches]
    return dict(zip(("overlap_t", "pred_t"), qualities, strict=True))


# Names of cases -> what is stored of them: the loss, or several outputs by name.
CASES: dict[str, Callable[[Numbers], Tensor | Mapping[str, Tensor]]] = {
    "adaptive/at_layer_*": lambda g: attention_transfer(
        g["in_fs"], g["in_ft"], p=int(g["in_p"]), reduction="mean"
    ),
    # A student without signal has a gradient of rounding alone.
    "adaptive/nst_[brz]*": lambda g: nst_channel_gram(g["in_fs"], g["in_ft"]),
    "adaptive/fm_*": lambda g: feature_map_loss(g["in_fs"], g["in_ft"]),
    "adaptive/sr_*": lambda g: softmax_regression(
        g["in_fs_adapted"], g["in_zt"], g["in_w_head_t"], g["in_b_head_t"]
    ),
    "adaptive/st_cls_T4": lambda g: soft_target(g["in_zs"], g["in_zt"], temperature=4.0)[None],
    "adaptive/l2logits_*": lambda g: l2_logits(g["in_zs"], g["in_zt"]),
    "adaptive/ofd_loss_*": lambda g: ofd_loss(
        g["in_fs"], g["in_ft"], divisor=float(g["in_mul_factor"]), weight=float(g["in_loss_weight"])
    ),
    "adaptive/ld_kl_*": _localization,
    "multas/balanced_l1_*": lambda g: balanced_l1_loss(
        g["in_pred"], g["in_target"], weights=g.get("in_weights"),
        **_curve(g, "alpha", "gamma", "beta"),
    ),
    "multas/gfocal_*": lambda g: quality_focal_loss(
        g["in_pred"], g["in_target"], mask=g.get("in_mask"), **_curve(g, "gamma", "weight")
    ),
    "multas/focal_sup_*": lambda g: g["in_weight"] * focal_loss(
        g["in_pred"], g["in_target"], mask=g.get("in_mask"), **_curve(g, "alpha", "gamma")
    ),
    "multas/focal_soft_*": lambda g: soft_focal_loss(g["in_conf_s"], g["in_conf_t"]),
    "multas/soft_det_*": _soft,
    "multas/kd_mse_*": lambda g: mse_imitation(
        _levels(g["in_fea_s"]), _levels(g["in_fea_t"]), weight=g["in_loss_weight"].item()
    ),
    "multas/kd_pdf_*": _pdf,
    "multas/kd_def*": _defeat,
    "multas/seg_ce_*": lambda g: semantic_cross_entropy(g["in_seg"], g["in_gt"][:, 0]),
    "multas/match_iou_*": _by_iou,
    "multas/match_mutual_*": _by_guidance,
}  # fmt: skip
