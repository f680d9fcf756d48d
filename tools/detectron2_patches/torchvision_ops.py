"""PyTorch stand-ins for torchvision's compiled operators.

Copied into the Detectron2 package by ``tools/install_detectron2.py`` and called by
``detectron2/__init__.py`` before anything imports torchvision. The binaries of torchvision that the
package index serves are linked against a CUDA build of torch; beside a CPU-only torch they do not
load and ``import torchvision`` itself fails. Where they do load, nothing here is active.

Standing in: ``nms`` (and so ``batched_nms``) and ``roi_align``, exact to rounding and on any
device. The other operators are only declared, so that torchvision can be imported: calling one
raises torch's ``NotImplementedError`` with the operator's name.
"""

import importlib
import importlib.util
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NMS_BLOCK = 512
ROI_ALIGN_CHUNK = 2**24

DECLARATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width) -> (Tensor, Tensor)",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width, int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height,"
    " SymInt pooled_width) -> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias,"
    " SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h,"
    " SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor",
)

# torch forgets registrations when the Library that made them is collected.
_libraries: list[torch.library.Library] = []


def _suppresses(first: Tensor, second: Tensor, iou_threshold: float) -> Tensor:
    """Returns the (N, M) bool matrix of IoU(first, second) > threshold for (N, 4), (M, 4) boxes."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = (bottom_right - top_left).clamp_(min=0).prod(dim=2)
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    # torchvision compares with the threshold in double precision: float32(0.6) > 0.6 is true there.
    # Two boxes without area give 0 / 0 = NaN, which is not above any threshold.
    return (intersection / union).double() > iou_threshold


def _greedy(suppresses: Tensor) -> Tensor:
    """Solves greedy suppression for an (N, N) bool matrix over boxes sorted by falling score.

    Box j is kept when no kept box i < j suppresses it. Repeating that rule from "all kept" settles
    the boxes in order, so it ends at the greedy solution, after a few rounds for real detections.
    """
    suppresses = suppresses.triu(diagonal=1)
    keep = suppresses.new_ones(len(suppresses))
    while True:
        settled = ~(suppresses & keep[:, None]).any(dim=0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression with torchvision's conventions.

    Args:
        dets: (N, 4) XYXY boxes; half precision is computed in float32.
        scores: (N,); equal scores keep their input order.
        iou_threshold: a box whose IoU with a kept, better box is strictly above it is dropped.

    Returns:
        int64 indices of the kept boxes by falling score.

    Raises:
        RuntimeError: shapes are not (N, 4) and (N,).
    """
    if dets.dim() != 2 or dets.size(1) != 4 or scores.shape != dets.shape[:1]:
        raise RuntimeError(
            "nms needs boxes of shape (N, 4) and scores of shape (N,), "
            f"got {tuple(dets.shape)} and {tuple(scores.shape)}"
        )
    boxes = dets.detach()
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    remaining = scores.detach().argsort(descending=True, stable=True)
    kept = [remaining[:0]]
    while remaining.numel():
        head, tail = remaining[:NMS_BLOCK], remaining[NMS_BLOCK:]
        head = head[_greedy(_suppresses(boxes[head], boxes[head], iou_threshold))]
        kept.append(head)
        remaining = tail[~_suppresses(boxes[head], boxes[tail], iou_threshold).any(dim=0)]
    return torch.cat(kept)


def _sample_positions(
    start: Tensor, length: Tensor, count: int, size: int
) -> tuple[Tensor, Tensor]:
    """Returns (K, count) sample positions, normalised for grid_sample, and whether they count."""
    steps = torch.arange(count, device=start.device, dtype=start.dtype) + 0.5
    position = start[:, None] + steps * (length / count)[:, None]
    inside = (position >= -1) & (position <= size)
    return (2 * position + 1) / size - 1, inside


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Average of bilinear samples per bin (Mask R-CNN, He et al. 2017), differentiable in input.

    Args:
        input: (N, C, H, W) features.
        rois: (K, 5) rows of image index and XYXY box in pixels; times spatial_scale is feature
            coordinates.
        sampling_ratio: samples per bin and axis; 0 or less takes ceil(box size / bins).
        aligned: shift by half a cell (Detectron2's ROIAlignV2); otherwise boxes are at least 1 x 1.

    Returns:
        (K, C, pooled_height, pooled_width) in the dtype of input.
    """
    channels, height, width = input.shape[1:]
    features = input if input.dtype == torch.float64 else input.float()
    boxes = rois[:, 1:].to(features.dtype) * spatial_scale - (0.5 if aligned else 0.0)
    x, y, x1, y1 = boxes.unbind(dim=1)
    box_width, box_height = x1 - x, y1 - y
    if not aligned:
        box_width, box_height = box_width.clamp(min=1), box_height.clamp(min=1)
    if sampling_ratio > 0:
        samples_y = samples_x = torch.full_like(rois[:, 0], sampling_ratio).long()
    else:
        samples_y = (box_height / pooled_height).ceil().long().clamp(min=0)
        samples_x = (box_width / pooled_width).ceil().long().clamp(min=0)

    indices: list[Tensor] = []
    parts: list[Tensor] = []
    # Boxes of one image with equally many samples per bin make one rectangular sampling grid.
    groups, member = torch.stack([rois[:, 0].long(), samples_y, samples_x], dim=1).unique(
        dim=0, return_inverse=True
    )
    for group, (image, ny, nx) in enumerate(groups.tolist()):
        if ny == 0 or nx == 0:
            continue
        rows, columns = pooled_height * ny, pooled_width * nx
        chunk = max(1, ROI_ALIGN_CHUNK // (channels * rows * columns))
        for index in (member == group).nonzero().squeeze(1).split(chunk):
            grid_y, inside_y = _sample_positions(y[index], box_height[index], rows, height)
            grid_x, inside_x = _sample_positions(x[index], box_width[index], columns, width)
            shape = (len(index), rows, columns)
            grid = torch.stack([grid_x[:, None].expand(shape), grid_y[..., None].expand(shape)], -1)
            samples = F.grid_sample(
                features[image : image + 1],
                grid.view(1, -1, columns, 2),
                padding_mode="border",
                align_corners=False,
            ).view(channels, *shape)
            samples = samples * (inside_y[:, :, None] & inside_x[:, None, :])
            bins = samples.view(channels, len(index), pooled_height, ny, pooled_width, nx)
            indices.append(index)
            parts.append(bins.mean(dim=(3, 5)).transpose(0, 1))
    pooled = features.new_zeros(len(rois), channels, pooled_height, pooled_width)
    if parts:
        pooled = pooled.index_copy(0, torch.cat(indices), torch.cat(parts))
    return pooled.to(input.dtype)


def _declare() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for declaration in DECLARATIONS:
        library.define(declaration)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _libraries.append(library)


def import_torchvision() -> bool:
    """Imports torchvision, with stand-in operators if and only if its compiled ones do not load.

    Returns:
        Whether the stand-ins are active. An absent torchvision is left to the caller's own import.
    """
    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or spec is None or spec.loader is None:
        return bool(_libraries)
    # torchvision.extension decides whether the compiled operators load. It must be asked before
    # torchvision/__init__.py runs, which fails when they are missing.
    package = importlib.util.module_from_spec(spec)
    sys.modules["torchvision"] = package
    try:
        extension: Any = importlib.import_module("torchvision.extension")
        substitute = not extension._has_ops()
        if substitute:
            _declare()
            imported: list[bool] = []
            # False during the import: torchvision then registers no gradients and shapes for
            # operators that are only declared. True afterwards: its functions agree to be called.
            extension._has_ops = lambda: bool(imported)
        spec.loader.exec_module(package)
    except BaseException:
        sys.modules.pop("torchvision", None)
        raise
    if substitute:
        imported.append(True)
    return substitute
