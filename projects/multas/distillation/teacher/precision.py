"""The number format that a teacher computes in."""

import torch
from detectron2.layers import Conv2d
from torch import nn

from multas.modeling.precision import native_half
from multas.util.errors import UserError

_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def teacher_precision(name: str, device: torch.device) -> torch.dtype | None:
    """What MODEL.DISTILLATION.TEACHER.PRECISION means on a device; None for the student's format.

    Raises:
        UserError: unknown name.
    """
    if name == "auto":
        return native_half(device)
    if name and name not in _FORMATS:
        raise UserError(
            f"MODEL.DISTILLATION.TEACHER.PRECISION is '{name}'; give '' (as the student), 'auto', "
            f"{' or '.join(_FORMATS)}."
        )
    return _FORMATS.get(name)


def cast_convolutions_(model: nn.Module, precision: torch.dtype) -> None:
    """Store plain convolutions in the format that autocast gives them anyway, which saves memory.

    From then on the model runs only under autocast.
    """
    for module in model.modules():
        if type(module) in (nn.Conv2d, Conv2d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(precision)
