"""Localization distillation (LD; Zheng et al., CVPR 2022) of GFL heads as a path."""

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor, nn

from multas.distillation.functional.localization import localization_distillation, valuable_region
from multas.distillation.paths.base import PATH_REGISTRY, Outputs, Path, TappedLayers, Targets
from multas.modeling.generalized_focal import atss_match
from multas.modeling.heads.dense_predictor import flatten_levels
from multas.util.errors import UserError

REGIONS = ("main", "valuable")
SIDES = 4
# Divisors of the sum over each region in the authors' code.
CODE_DIVISORS = {"main": 4.0, "valuable": 16.0}


@PATH_REGISTRY.register()
class LocalizationDistillation(Path):
    """KL divergence of the box-side distributions in the main and the valuable region.

    Tap the dense head of both networks: a pair (logits, distributions) with one map (N, A*K, Hi,
    Wi) and (N, A*4*(reg_max+1), Hi, Wi) per level. The main region has the positives of ATSS,
    weighted by the student's confidence; the valuable region has the anchors that overlap a box
    less than positives do, weighted by their IoU.

    Args:
        reg_max: a side has reg_max + 1 bins.
        temperature, mean_over_bins: see
            :func:`multas.distillation.functional.localization.distribution_kl_elements`.
        regions: "main", "valuable" or both.
        normalise: divide by the sum of the region's weights: the loss is a mean over box sides,
            whose size depends neither on the batch nor on the number of objects. False: divide by
            the constants 4 (main) and 16 (valuable) of the authors' code. That is the mean times
            the sum of the weights of the region's anchors (valuable: a quarter of it), and grows
            with the number of objects.
        topk: ATSS candidates on each level.
        gamma: lower end of the valuable region, as a fraction of the threshold for positives.
        anchor_generator: dotted name of the teacher's anchor generator, if there are several.
    """

    default_name = "ld"
    default_weight = 0.25
    needs_boxes = True

    def __init__(
        self,
        layers: TappedLayers,
        *,
        reg_max: int = 16,
        temperature: float = 10.0,
        regions: Sequence[str] = REGIONS,
        mean_over_bins: bool = False,
        normalise: bool = True,
        topk: int = 9,
        gamma: float = 0.25,
        anchor_generator: str = "",
    ) -> None:
        super().__init__()
        sides = layers.student, layers.teacher
        if any(len(side) != 1 for side in sides) or len(layers.student[0]) % 2:
            raise UserError(
                "LocalizationDistillation taps one layer: a dense head that returns (logits, "
                "distributions), each with one map per level."
            )
        levels = len(layers.student[0]) // 2
        boxes_s, boxes_t = ([shape[1:] for shape in side[0][levels:]] for side in sides)
        if boxes_s != boxes_t:
            cure = "Teacher and student need the same levels, strides, anchors and bins."
            raise self.mismatch("the shapes of the box distributions", boxes_s, boxes_t, cure)
        width = SIDES * (reg_max + 1)
        if any(shape[0] % width for shape in boxes_s):
            raise UserError(
                f"REG_MAX is {reg_max}, so the channels must be a multiple of {width}, but "
                f"the head returns {[shape[0] for shape in boxes_s]}; LD needs a head that "
                "predicts distributions (generalized focal loss)."
            )
        unknown = set(regions) - set(REGIONS)
        if unknown or not regions:
            raise UserError(f"REGIONS is {list(regions)}; choose from {', '.join(REGIONS)}.")
        if temperature <= 0:
            raise UserError(f"TEMPERATURE is {temperature}; it must be positive.")
        self.bins = reg_max + 1
        self.labels = [name for name in REGIONS if name in regions]
        self._loss = partial(
            localization_distillation, temperature=temperature, mean_over_bins=mean_over_bins
        )
        self.normalise = normalise
        self.topk = topk
        self.gamma = gamma
        # In a tuple, so that the teacher's module does not become a submodule of this path.
        self._anchors = (_find_anchors(layers.teacher_model, anchor_generator),)

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        (logits, sides_s), (_, sides_t) = student[0], teacher[0]
        weights = self._region_weights(logits, sides_s, targets)
        sides_s, sides_t = (
            flatten_levels(maps, SIDES * self.bins).flatten(0, 1) for maps in (sides_s, sides_t)
        )
        losses = {}
        for name in self.labels:
            weight = weights[name].flatten()
            chosen = weight.nonzero().squeeze(1)
            weight = weight[chosen].repeat_interleave(SIDES)
            total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
            losses[name] = self._loss(
                sides_s[chosen].reshape(-1, self.bins),
                sides_t[chosen].reshape(-1, self.bins),
                weight=weight,
                avg_factor=total if self.normalise else CODE_DIVISORS[name],
            )
        return losses

    @torch.no_grad()
    def _region_weights(
        self, logits: list[Tensor], sides: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Weights (N, R) of each region; 0 outside."""
        levels = [boxes.tensor for boxes in self._anchors[0](sides)]
        anchors = torch.cat(levels)
        per_cell = sides[0].shape[1] // (SIDES * self.bins)
        confidence = flatten_levels(logits, logits[0].shape[1] // per_cell).sigmoid().amax(dim=2)
        main, valuable = [], []
        for boxes, scores in zip(targets.boxes or [], confidence, strict=True):
            boxes = boxes.tensor.to(anchors)
            matched, thresholds = atss_match(levels, boxes, topk=self.topk)
            main.append(torch.where(matched >= 0, scores, 0.0))
            valuable.append(valuable_region(anchors, boxes, thresholds, gamma=self.gamma))
        return {"main": torch.stack(main), "valuable": torch.stack(valuable)}


def _find_anchors(teacher: nn.Module, name: str) -> nn.Module:
    found = {n: m for n, m in teacher.named_modules() if isinstance(m, DefaultAnchorGenerator)}
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise UserError(
            f"ANCHOR_GENERATOR is '{name}', but the teacher, which must be a dense detector, has "
            f"{len(found)} anchor generators ({', '.join(found)}); name one of them."
        )
    return found[name]
