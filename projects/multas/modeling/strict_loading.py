"""Loading weights: what may be missing, what may not, and no code of the file is run."""

import logging
from collections.abc import Iterator
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from multas.modeling.weight_files import check_is_file, read_weights
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

_NEVER_MISSED = ("num_batches_tracked", "pixel_mean", "pixel_std")


class WeightsMisfit(UserError):
    """A file of weights is in order, but belongs to another model."""


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's, which reads files by :func:`read_weights`."""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint; "" loads nothing.

        Raises:
            FileNotFoundError: There is no such file.
            UserError: It is damaged or foreign, or wants to run code.
            WeightsMisfit: It hardly has a parameter of the model.
        """
        if path:
            check_is_file(path, "MODEL.WEIGHTS (or the checkpoint)")
        try:
            return super().load(path, *args, **kwargs)
        except WeightsMisfit as error:
            raise WeightsMisfit(f"{error} ({path})") from error
        except OSError as error:
            if error.filename is not None:
                raise
            raise UserError(f"{path} cannot be fetched: {error}. Fetch it by hand.") from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_weights(filename)
        # Newer Detectron2 takes options behind the question mark of a URL.
        url = getattr(self, "_parsed_url_during_loading", None)
        if url is not None and url.query == "matching_heuristics=True":
            content["matching_heuristics"] = True
        return content

    def _load_model(self, checkpoint: Any) -> Any:
        try:
            return super()._load_model(checkpoint)
        # Where its heuristics cannot decide.
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsMisfit(f"MODEL.WEIGHTS do not fit the model: {error}") from error

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        # Torch and Detectron2 do not miss these.
        own = [n for n in self.model.state_dict() if not n.endswith(_NEVER_MISSED)]
        lost = {*incompatible.missing_keys, *(n for n, *_ in incompatible.incorrect_shapes)}
        found = sum(name not in lost for name in own)
        unused = len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes)
        # A backbone alone, or a head alone, is a good start for a model; a stray name is none.
        if found == 0 or (found < len(own) / 20 and found < unused):
            names = ", ".join(sorted(lost)[:3])
            raise WeightsMisfit(
                f"MODEL.WEIGHTS has {found} of the model's {len(own)} parameters, and {unused} of "
                f"no use to it; it lacks {names} … Name weights of this model or of its backbone, "
                "or convert them with tools/convert_weights.py"
            )
        super()._log_incompatible_keys(incompatible)


class _StrictCheckpointer(SafeCheckpointer):
    """Raises for missing parameters; Detectron2 only warns and leaves them random.

    It also raises for further blocks of a series of which the model has fewer, such as those of a
    deeper ResNet: without them the others make no sense. Heads that the model lacks are told.
    """

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        shapes = (key for key, *_ in incompatible.incorrect_shapes)
        missing = list(dict.fromkeys([*incompatible.missing_keys, *shapes]))
        known = {start for name in self.model.state_dict() for start in series(name)}
        unused = incompatible.unexpected_keys
        more = [name for name in unused if not known.isdisjoint(series(name))]
        if more and not missing:
            raise WeightsMisfit(
                f"{len(more)} parameters are of layers that the model has fewer of, the first are "
                f"{', '.join(more[:5])}"
            )
        if unused:
            logger.warning(
                f"The model has no use for {len(unused)} parameters: {', '.join(unused[:5])} …"
            )
        if missing:
            raise WeightsMisfit(
                f"{len(missing)} parameters are missing or of another shape, the first are "
                f"{', '.join(missing[:5])}"
            )


def series(name: str) -> Iterator[str]:
    """What stands before each number in a parameter's name: "res2" in "res2.0.conv1.weight"."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i, part in enumerate(parts) if part.isdigit())


def load_strictly(model: nn.Module, path: str) -> dict[str, Any]:
    """Load a checkpoint, in any format that Detectron2 reads, that must have every parameter.

    Returns:
        What else the file has.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be read as weights.
        WeightsMisfit: Parameters are missing or have another shape; the message names the first.
    """
    return _StrictCheckpointer(model).load(path)
