"""The anchors of Lê and Pham (ICCVW 2023): Detectron2's, but not larger than the image."""

import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class ClippedAnchorGenerator(DefaultAnchorGenerator):
    """Anchors cut to the width and height of the padded image, around the same centres.

    The config keys are those of ``DefaultAnchorGenerator``. With ``SIZES`` = [[b 2^k, b 2^k sqrt 2]
    for level k], ``ASPECT_RATIOS`` = [[1, 0.5, 2]] and ``OFFSET`` 0.5 these are the six anchors of
    the authors' code, in its order, with b = 24 pixels.

    That holds for images whose sides are multiples of the coarsest stride, as in all shipped
    recipes. Others are padded to such sides, as everywhere in Detectron2, and get the anchors of
    the padded image: 2040 for 100 x 100 pixels, which are padded to 128 x 128, and strides 8 to 64.
    The authors' code pads nothing: it has ceil(size / stride) cells on each side of a level, 1428
    anchors here, and stretches each grid over the image.
    """

    def _grid_anchors(self, grid_sizes: list[tuple[int, int]]) -> list[Tensor]:
        half_height, half_width = (0.5 * size * self.strides[0] for size in grid_sizes[0])
        levels = zip(grid_sizes, self.strides, self.cell_anchors, strict=True)
        anchors = []
        for (height, width), stride, cells in levels:
            like = {"dtype": cells.dtype, "device": cells.device}
            x = (torch.arange(width, **like) + self.offset) * stride
            y = (torch.arange(height, **like) + self.offset) * stride
            left, top, right, bottom = cells.unbind(1)
            left, right = left.clamp(min=-half_width), right.clamp(max=half_width)
            top, bottom = top.clamp(min=-half_height), bottom.clamp(max=half_height)
            x, y = x[None, :, None], y[:, None, None]
            corners = torch.broadcast_tensors(x + left, y + top, x + right, y + bottom)
            anchors.append(torch.stack(corners, dim=-1).reshape(-1, 4))
        return anchors
