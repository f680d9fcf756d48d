"""The check that no model is scored on images that it has learned from."""

import logging
from collections.abc import Sequence

from multas.data.loader import TrainLoader
from multas.data.same_images import find_copies, opened_files
from multas.data.task_batches import TaskLoader

logger = logging.getLogger(__name__)


def warn_of_leaks(loader: TrainLoader | TaskLoader, tested: Sequence[dict]) -> None:
    """Warn if training images are test images too, under the same name or another.

    Args:
        loader: the training data. A user's own loader is not checked.
        tested: the dataset dicts of all sets that the run evaluates on.
    """
    loaders = loader.loaders if isinstance(loader, TaskLoader) else [loader]
    known = [record for x in loaders if isinstance(x, TrainLoader) for record in x.dataset.dicts]
    trained, scored = ({r["file_name"] for r in records} for records in (known, tested))
    same = sorted(trained & scored)
    for group in find_copies(opened_files([*known, *tested])):
        ours = [file for file in group if file in trained - scored]
        theirs = [file for file in group if file in scored - trained]
        same += [f"{file} = {ours[0]}" for file in theirs if ours]
    if same:
        logger.warning(
            f"{len(same)} images that are evaluated on are trained on, too (first {same[0]}): "
            "their results say little about new images."
        )
