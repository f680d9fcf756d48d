"""Writing checkpoints of a run, and going on from one."""

import logging
import os
from typing import Any

import torch
from torch import nn

from multas.engine.checkpoint_files import LAST, newest_intact, read_checkpoint
from multas.engine.contract import Facts, check_same_run
from multas.engine.finite import check_weights
from multas.modeling.strict_loading import SafeCheckpointer
from multas.util.errors import UserError
from multas.util.files import write_text, written_whole
from multas.util.messages import Message
from multas.util.ranks import decided_by_main

logger = logging.getLogger(__name__)


def find_checkpoint(folder: str) -> str:
    """The newest intact checkpoint of a run, the same on all ranks; "" if there is none.

    Raises:
        UserError: There are checkpoints, but none is intact.
    """
    found = decided_by_main(lambda: newest_intact(folder))
    if found.faults:
        logger.warning(f"{folder}: {'; '.join(found.faults)}; {found.path} is taken instead.")
    return found.path


class Checkpointer(SafeCheckpointer):
    """Writes whole files of finite weights, and continues only the run that wrote them.

    Args:
        model: that is trained.
        folder: of the run.
        contract: what the run depends on, which is compared with that of a checkpoint.
        checkpointables: all else that has a state, by name.
    """

    def __init__(
        self, model: nn.Module, folder: str, contract: Facts, **checkpointables: Any
    ) -> None:
        super().__init__(model, folder, **checkpointables)
        self.contract = contract

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth with the further entries ``kwargs``, from the main process.

        Raises:
            FloatingPointError: Weights are not finite.
            UserError: There is no room on the disk.
        """
        check_weights(self.model)
        if not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, **kwargs, "contract": self.contract}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info(Message(f"Saving checkpoint to {path}"))
        with written_whole(path) as partial, open(partial, "wb") as file:
            torch.save(content, file)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(os.path.join(self.save_dir, LAST), last_filename_basename)

    def resume(self, path: str) -> None:
        """Continue the run of an intact checkpoint: load the weights and all other states.

        Raises:
            UserError: It is another run.
        """
        decided_by_main(lambda: self._check(path))
        logger.info(f"Continuing from {path}")
        # Not read_checkpoint: states keep tensors, and the file may be deleted.
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(content["model"])
        for name, part in self.checkpointables.items():
            part.load_state_dict(content[name])

    def _check(self, path: str) -> None:
        content = read_checkpoint(path)
        if "contract" not in content:
            logger.warning(
                f"{path} does not say what its run depended on (an older version wrote it): "
                "continue it with the same config and data only."
            )
        elif told := check_same_run(path, content["contract"], self.contract):
            logger.warning(f"The run continues with another schedule. {'; '.join(told)}.")
        own = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        saved = {name: tuple(tensor.shape) for name, tensor in content["model"].items()}
        different = [name for name in own | saved if own.get(name) != saved.get(name)]
        if different:
            name = different[0]
            raise UserError(
                f"{path} is of another network: {len(different)} of its weights differ, the first "
                f"is {name}, of shape {saved.get(name, 'absent')} there and "
                f"{own.get(name, 'absent')} now. Continue with the old config and code, or start "
                "anew in another OUTPUT_DIR."
            )
