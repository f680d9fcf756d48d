"""COCO's average precision of boxes by Detectron2's evaluator, compiled where it can be.

With the library faster-coco-eval (the extra ``coco``) it takes a part of the time, with the same
figures; what takes long in pycocotools is Python's loop over detections and objects.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from detectron2.evaluation import COCOEvaluator, coco_evaluation

from multas.util.messages import Lines

_LIBRARY = "faster_coco_eval"
_logger = logging.getLogger(__name__)


class QuietCOCOEvaluator(COCOEvaluator):
    """Detectron2's, compiled where it can be. What it prints goes to the log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Detectron2 has a compiled one of its own, which not every installation has.
        super().__init__(*args, use_fast_impl=find_spec(_LIBRARY) is None, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with redirect_stdout(Lines(_logger)), compiled():
            return super().evaluate(*args, **kwargs)


@contextmanager
def compiled() -> Iterator[None]:
    """Make Detectron2's evaluator use faster-coco-eval, if that is installed."""
    if find_spec(_LIBRARY) is None:
        yield
        return
    from faster_coco_eval import COCO, COCOeval_faster

    def renumbered(data: Any, numbers: Mapping[Any, int]) -> Any:
        """Annotations or detections of images with numbers for ids, which the library needs."""
        own = COCO()
        own.dataset = {
            **data.dataset,
            "images": [{**x, "id": numbers[x["id"]]} for x in data.dataset["images"]],
            "annotations": [
                {**x, "image_id": numbers[x["image_id"]]} for x in data.dataset["annotations"]
            ],
        }
        own.createIndex()
        return own

    class Compiled(COCOeval_faster):
        """As pycocotools' own, for its annotations and detections."""

        def __init__(self, truth: Any, found: Any, iou_type: str) -> None:
            # In the order in which pycocotools takes images: it ranks equal scores.
            numbers = {image_id: n for n, image_id in enumerate(sorted(truth.getImgIds()), 1)}
            super().__init__(renumbered(truth, numbers), renumbered(found, numbers), iou_type)

    before = coco_evaluation.COCOeval, coco_evaluation.COCOevalMaxDets
    # It needs no other class for other limits of detections than COCO's.
    coco_evaluation.COCOeval = coco_evaluation.COCOevalMaxDets = Compiled
    try:
        yield
    finally:
        coco_evaluation.COCOeval, coco_evaluation.COCOevalMaxDets = before
