"""The 16-bit number format of convolutions and matrix products, for students and teachers."""

import torch


def native_half(device: torch.device) -> torch.dtype | None:
    """The 16-bit format that the hardware multiplies; None where it is no faster than float32.

    That is bfloat16, with the range of float32, on CPUs with AVX512_BF16 or AMX and on GPUs from
    Ampere on, and float16 on older GPUs.
    """
    if device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if ampere else torch.float16
    if device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        return torch.bfloat16
    return None
