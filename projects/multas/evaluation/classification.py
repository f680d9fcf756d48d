"""Classification metrics: top-k error against the labels, agreement error against the teacher."""

import logging
from collections import OrderedDict

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from multas.util.errors import UserError
from multas.util.messages import Message

_logger = logging.getLogger(__name__)


def rank_of_class(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Number of classes that rank before the given one.

    Of equal scores the lower class number ranks first. In a row with a NaN score the class ranks
    last, so that a diverged model is never right.

    Args:
        scores: (N, K) float.
        classes: (N,) int64 in [0, K).

    Returns:
        (N,) int64; 0 for the top class.
    """
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return np.where(np.isnan(scores).any(axis=1), np.iinfo(np.int64).max, rank)


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1 and top-5 error, and the agreement error of student and teacher.

    The agreement error is the share of images whose top class of the teacher is not among the
    student's k best classes (Stanton et al., NeurIPS 2021; Chennupati et al., BMVC 2021,
    section 4).

    Results in percent below ``classification``: ``top1_error``, ``top5_error`` over the images
    with a label; ``top1_agreement_error``, ``top5_agreement_error`` over the images with teacher
    scores; ``teacher_top1_error`` over images with both. Results over no image are left out.

    Args:
        dataset_name: name of the data set in messages.
        distributed: gather the results of all processes.
    """

    def __init__(self, dataset_name: str, distributed: bool = True):
        self._dataset_name = dataset_name
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._ranks: dict[str, list[int]] = {"student": [], "agreement": [], "teacher": []}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch.

        Args:
            inputs: dicts, with ``label`` (int) if the image is annotated.
            outputs: dicts with ``scores`` (K,), logits or probabilities, and ``teacher_scores``
                (K,) if there is a teacher; dicts without ``scores`` are skipped.

        Raises:
            UserError: a label is not one of the K classes, or student and teacher differ in K.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if "scores" not in output:
                continue
            scores = _as_row(output["scores"])
            label = record.get("label")
            if label is not None:
                label = np.asarray([int(label)])
                if not 0 <= label[0] < scores.shape[1]:
                    raise UserError(
                        f"label {label[0]} of image {record.get('image_id')!r} in "
                        f"'{self._dataset_name}' is not one of the {scores.shape[1]} classes of "
                        "the model: check its number of classes."
                    )
                self._ranks["student"].extend(rank_of_class(scores, label).tolist())
            if "teacher_scores" in output:
                teacher = _as_row(output["teacher_scores"])
                if teacher.shape != scores.shape:
                    raise UserError(
                        f"The student has {scores.shape[1]} classes and the teacher "
                        f"{teacher.shape[1]}; agreement needs the same classes."
                    )
                top = teacher.argmax(axis=1)
                self._ranks["agreement"].extend(rank_of_class(scores, top).tolist())
                if label is not None:
                    self._ranks["teacher"].extend(rank_of_class(teacher, label).tolist())

    def evaluate(self) -> OrderedDict | None:
        """Compute the metrics.

        Returns:
            ``{"classification": {...}}``; empty if no image could be evaluated; None on other
            ranks than 0.
        """
        gathered = comm.gather(self._ranks, dst=0) if self._distributed else [self._ranks]
        if not gathered:
            return None
        results: dict[str, float] = {}
        for key, name, best in (
            ("student", "top{}_error", (1, 5)),
            ("agreement", "top{}_agreement_error", (1, 5)),
            ("teacher", "teacher_top{}_error", (1,)),
        ):
            ranks = np.asarray([rank for part in gathered for rank in part[key]])
            if len(ranks):
                results |= {name.format(k): 100.0 - 100.0 * float(np.mean(ranks < k)) for k in best}
        if not results:
            _logger.warning(
                f"No output had 'scores' with a label or teacher scores on "
                f"'{self._dataset_name}': nothing to evaluate."
            )
            return OrderedDict()
        _logger.info(Message(str(results)))
        return OrderedDict(classification=results)


def _as_row(scores: torch.Tensor | np.ndarray) -> np.ndarray:
    """(1, K) float64."""
    return torch.as_tensor(scores).detach().cpu().double().numpy().reshape(1, -1)
