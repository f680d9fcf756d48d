"""Feature-based knowledge distillation for detectors (FKD; Zhang and Ma, ICLR 2021) as a path."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from multas.distillation.functional.fkd import (
    batch_distance,
    channel_attention,
    joint_mask,
    masked_distance,
    non_local,
    spatial_attention,
)
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    Path,
    TappedLayers,
    Targets,
    flatten,
    paired_shapes,
)
from multas.distillation.paths.layers import LayerPath, match_size
from multas.util.errors import UserError
from multas.util.names import check_choice
from multas.util.ranks import root_mean_square_over_ranks

# Of the four distances: the one-stage weights of the public code, and what these are for root mean
# squares where two images of 800 x 1344 pixels give a map of stride 8 and 256 channels.
CODE_WEIGHTS = (4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4)
NORMALISED_WEIGHTS = (1.2, 0.54, 4.4, 1.2)


class NonLocalBlock(nn.Module):
    """``x + BN(W y)`` with the dot-product relation y of 1x1 projections of x.

    The scale of the BatchNorm is 0 at first, so the block starts as the identity.

    Args:
        channels: channels of x.
        reduction: the projections have channels / reduction channels, at least 1.
        pool: window of the max-pooling of keys and values; 1: no pooling.
    """

    def __init__(self, channels: int, *, reduction: int = 2, pool: int = 1) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.theta = nn.Conv2d(channels, inner, kernel_size=1)
        self.phi = nn.Conv2d(channels, inner, kernel_size=1)
        self.g = nn.Conv2d(channels, inner, kernel_size=1)
        self.out = nn.Conv2d(inner, channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)
        # With ceil_mode a map smaller than the window still has a key.
        self.pool = nn.MaxPool2d(pool, ceil_mode=True) if pool > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        relation = non_local(self.theta(x), self.pool(self.phi(x)), self.pool(self.g(x)))
        return x + self.bn(self.out(relation))


class FKDLevel(nn.Module):
    """The learned layers and the four distances of one pair of maps.

    Args:
        student, teacher: channels of the maps.
        reduction, pool: see :class:`NonLocalBlock`.
    """

    def __init__(self, student: int, teacher: int, *, reduction: int, pool: int) -> None:
        super().__init__()
        self.adapt = nn.Conv2d(student, teacher, kernel_size=1)
        self.channel = nn.Linear(student, teacher)
        self.spatial = nn.Conv2d(1, 1, kernel_size=3, padding=1)
        self.student_relation = NonLocalBlock(student, reduction=reduction, pool=pool)
        self.teacher_relation = NonLocalBlock(teacher, reduction=reduction, pool=pool)
        self.adapt_relation = nn.Conv2d(student, teacher, kernel_size=1)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Callable[[Tensor, Tensor], Tensor],
        *,
        channel_mask: bool,
        absolute: bool,
        normalise: bool,
    ) -> list[Tensor]:
        """Distances of features, channel attention, spatial attention and relation (scalars)."""
        adapted = self.adapt(student)
        # Channel masks need equal widths; otherwise the adapted map is used.
        wide = student if student.shape[1] == teacher.shape[1] else adapted
        pairs = [(spatial_attention(student), spatial_attention(teacher))]
        if channel_mask:
            pairs.append((channel_attention(wide), channel_attention(teacher)))
        masks = [mask(s, t) for s, t in pairs]
        channel = self.channel(channel_attention(student, absolute=absolute).flatten(1))
        spatial = self.spatial(spatial_attention(student, absolute=absolute))
        relation = self.adapt_relation(self.student_relation(student))
        distance = partial(batch_distance, normalise=normalise)
        return [
            masked_distance(adapted, teacher, *masks, normalise=normalise),
            distance(channel, channel_attention(teacher, absolute=absolute).flatten(1)),
            distance(spatial, spatial_attention(teacher, absolute=absolute)),
            distance(relation, self.teacher_relation(teacher)),
        ]


@PATH_REGISTRY.register()
class FKD(Path):
    """Attention-guided and non-local distillation, summed over the levels.

    ``w_1 feature + w_2 channel + w_3 spatial + w_4 relation`` for each pair of backbone stages
    (``Feats_B`` of Chennupati et al., BMVC 2021) or pyramid levels (``Feats_P``). The defaults are
    the one-stage weights of the public code with the masks and attentions of the paper. For
    two-stage detectors: TEMPERATURE 0.5, WEIGHTS [7e-5, 4e-3, 4e-3, 7e-5], CHANNEL_MASK False.
    The teacher's relation is learned together with the student's, as in all public code.

    Args:
        resize: the map to resize if the sizes differ: "student" or "teacher".
        temperature: T of the attention masks; lower values give sharper masks.
        weights: factors of the four distances; empty: those of the public code or, with
            ``normalise``, (1.2, 0.54, 4.4, 1.2), which are the same for two images of COCO's usual
            size and a map of stride 8.
        normalise: False: a distance is a norm over all entries of so many images as
            ``images_per_norm`` says, which is larger for larger images and finer maps. True: it is
            the root mean square of the entries, so that weights keep their meaning on other images.
        images_per_norm: the public code takes one norm over the images of a process, 2 of them.
            The norm of a batch of N images is scaled by sqrt(images_per_norm / N), and root mean
            squares are taken over the batches of all processes, so that neither the size of a batch
            nor the number of processes changes what a weight means.
        channel_mask: mask the feature distance by channels as well as by positions.
        softmax_of_sum: True: one mask from the summed attentions (paper); False: the mean of both
            networks' masks (code).
        absolute: attentions are means of |F| (paper); False: means of F (code).
        reduction, pool: see :class:`NonLocalBlock`; ``pool`` may also be one number per level.
    """

    default_name = "fkd"
    weights: Tensor

    def __init__(
        self,
        layers: TappedLayers,
        *,
        resize: str = "student",
        temperature: float = 0.1,
        weights: Sequence[float] = (),
        normalise: bool = False,
        images_per_norm: int = 2,
        channel_mask: bool = True,
        softmax_of_sum: bool = True,
        absolute: bool = True,
        reduction: int = 2,
        pool: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        pairs = paired_shapes(self, layers, *LayerPath.tensors)
        check_choice("RESIZE", resize, ("student", "teacher"))
        weights = weights or (NORMALISED_WEIGHTS if normalise else CODE_WEIGHTS)
        if len(weights) != 4:
            raise UserError(f"WEIGHTS has {len(weights)} entries; there are four distances.")
        if temperature <= 0:
            raise UserError(f"TEMPERATURE is {temperature}; it must be positive.")
        if images_per_norm < 1:
            raise UserError(f"IMAGES_PER_NORM is {images_per_norm}; it must be 1 or more.")
        pools = [pool] * len(pairs) if isinstance(pool, int) else list(pool)
        if len(pools) != len(pairs):
            raise UserError(f"POOL has {len(pools)} entries for {len(pairs)} feature maps.")
        self.levels = nn.ModuleList(
            FKDLevel(s[1], t[1], reduction=reduction, pool=p)
            for (s, t), p in zip(pairs, pools, strict=True)
        )
        self.labels = [str(i) for i in range(len(pairs))]
        self.adapter_note = "1x1, linear, 3x3, non-local"
        self.resize = resize
        self.images_per_norm = 0 if normalise else images_per_norm
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64), False)
        self._mask = partial(joint_mask, temperature=temperature, softmax_of_sum=softmax_of_sum)
        self._options = {
            "channel_mask": channel_mask,
            "absolute": absolute,
            "normalise": normalise,
        }

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        distances = []
        for level, s, t in zip(self.levels, flatten(student), flatten(teacher), strict=True):
            s, t = match_size(s, t, self.resize)
            distances.append(torch.stack(level(s, t, self._mask, **self._options)))
            if self.images_per_norm:
                distances[-1] = distances[-1] * math.sqrt(self.images_per_norm / max(len(s), 1))
        # All levels in one message.
        terms = root_mean_square_over_ranks(torch.stack(distances))
        weighted = self.weights.to(terms.dtype) * terms
        return {label: row.sum() for label, row in zip(self.labels, weighted, strict=True)}
