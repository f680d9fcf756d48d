"""What an aggregator has learned, by the names of the paths, as a checkpoint holds it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multas.distillation.aggregation.base import Aggregator
from multas.distillation.aggregation.gradient import GradientAggregator
from multas.util.errors import UserError

_PATHS = "paths"


def state_by_path(aggregator: Aggregator) -> dict[str, Any]:
    """The state dict, in which a vector with an entry per path is a mapping, and the paths' order.

    Returns:
        For example ``{"paths": ["at", "mse"], "z": {"at": 0.5, "mse": -1.2}}``.
    """
    names = _objectives(aggregator)
    state: dict[str, Any] = {_PATHS: names}
    for key, value in aggregator.state_dict().items():
        by_path = isinstance(value, Tensor) and value.shape == (len(names),)
        state[key] = dict(zip(names, value.clone(), strict=True)) if by_path else value
    return state


def load_state_by_path(aggregator: Aggregator, saved: Mapping[str, Any]) -> None:
    """Load what :func:`state_by_path` has returned.

    Raises:
        UserError: It is that of other paths or of another order, which the optimiser's state would
            mistake; or it is from an older version, which did not name the paths.
    """
    names = _objectives(aggregator)
    state = dict(saved)
    theirs = state.pop(_PATHS, None)
    if theirs is None:
        if state and len(names) > 1:
            raise UserError(
                "The checkpoint is of an older version: it does not say which of the path weights "
                f"in {', '.join(state)} belongs to which path. Start anew in another OUTPUT_DIR."
            )
    elif theirs != names:
        raise UserError(
            f"The checkpoint has the paths {', '.join(theirs)}, in this order, and "
            f"MODEL.DISTILLATION.PATHS gives {', '.join(names)}. Put back the old paths and order, "
            "or start anew in another OUTPUT_DIR."
        )
    state = {
        key: torch.stack([value[name] for name in names]) if isinstance(value, Mapping) else value
        for key, value in state.items()
    }
    own = aggregator.state_dict().keys()
    if own != state.keys():
        raise UserError(
            f"The checkpoint has {', '.join(state) or 'no state'} of its aggregation, "
            f"{type(aggregator).__name__} has {', '.join(own) or 'none'}. Continue with the old "
            "MODEL.DISTILLATION.AGGREGATION."
        )
    aggregator.load_state_dict(state)


def _objectives(aggregator: Aggregator) -> list[str]:
    """The names of what is weighed: the paths, and the task where it is an objective."""
    return aggregator.objectives if isinstance(aggregator, GradientAggregator) else aggregator.names
