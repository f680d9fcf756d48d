"""Fails where the host waits for the device, although the tests have no such device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# ``lift_fresh`` is a tensor made of Python numbers, whose copy to a device waits.
WAITS = (
    "_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "lift_fresh"
)  # fmt: skip


class NoTransfer(TorchDispatchMode):
    """Fails on operations for which the host waits for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert name.removeprefix("aten::").split(".")[0] not in WAITS, f"{name} waits"
        if name.startswith("aten::index"):
            mask = [x for x in args[1] or () if torch.is_tensor(x) and x.dtype == torch.bool]
            assert not mask, f"{name} with a mask waits"
        return func(*args, **(kwargs or {}))
