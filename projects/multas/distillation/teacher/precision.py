"""The number format that a teacher computes in."""

import torch
from detectron2.layers import Conv2d
from torch import nn

_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def teacher_precision(name: str, device: torch.device) -> torch.dtype | None:
    """What MODEL.DISTILLATION.TEACHER.PRECISION means on a device.

    Args:
        name: see the key.
        device: of the teacher.

    Returns:
        None: no format of its own.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else None
    if name and name not in _FORMATS:
        raise ValueError(
            f"MODEL.DISTILLATION.TEACHER.PRECISION is '{name}'; give '' (as the student), 'auto', "
            f"{' or '.join(_FORMATS)}."
        )
    return _FORMATS.get(name)


def cast_convolutions_(model: nn.Module, precision: torch.dtype) -> None:
    """Keep the weights of plain convolutions in the format that autocast gives them anyway.

    The model then runs under autocast alone, in less memory.
    """
    for module in model.modules():
        if type(module) in (nn.Conv2d, Conv2d):
            module.weight.data = module.weight.data.to(precision)
            if module.bias is not None:
                module.bias.data = module.bias.data.to(precision)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has instructions for it; elsewhere it is no faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
