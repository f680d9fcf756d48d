"""Pictures for TensorBoard: at every evaluation the same images, and what the model finds there."""

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from multas.data.class_colours import legend
from multas.data.drawing import draw_results, draw_truth
from multas.data.image_files import as_array, read_image
from multas.data.loader import TrainLoader
from multas.data.mapper import MultasMapper
from multas.data.task_batches import TaskLoader, training_sets

logger = logging.getLogger(__name__)

_SIDE = 320  # of a picture, the longer one in pixels
_ENLARGED = 3.0  # small images at most so often
_SCORE = 0.3  # focal losses keep scores low


@dataclass(frozen=True)
class _Sample:
    """An image that is drawn, under a name of its own."""

    name: str
    record: Mapping[str, Any]  # its dataset dict, pseudo-labels joined
    names: Metadata


class EvaluationImages:
    """Puts TEST.VIS_IMAGES pictures of each test set into the storage of the training that runs.

    Ground truth is on the left, and what the model finds on the right. As many images with
    pseudo-labels follow, these on the left. Nothing of it changes the training.

    Args:
        cfg: the config of the run.
        loader: its training loader.
    """

    def __init__(self, cfg: CfgNode, loader: Any) -> None:
        self._cfg, self._loader = cfg, loader
        self._samples: list[_Sample] | None = None
        has_writer = find_spec("tensorboard") is not None
        self._count = cfg.TEST.VIS_IMAGES if has_writer and comm.is_main_process() else 0

    def __call__(self, model: nn.Module) -> None:
        """Draw what a model, wrapped or not, finds."""
        if not self._count:
            return
        network = getattr(model, "module", model)
        try:
            with inference_context(network), torch.no_grad(), _kept_random_numbers():
                if self._samples is None:
                    self._samples = [*self._tested(), *self._pseudo_labelled()]
                mapper = MultasMapper(self._cfg, is_train=False)
                for sample in self._samples:
                    picture = _draw(sample, network, mapper)
                    get_event_storage().put_image(sample.name, picture)
        except Exception as error:  # of a user's own model or data, too
            self._count = 0  # pictures are not worth a training
            logger.warning(
                f"TensorBoard gets no more pictures of evaluations ({type(error).__name__}: "
                f"{error}). TEST.VIS_IMAGES 0 does without them."
            )

    def _tested(self) -> Iterator[_Sample]:
        for name in self._cfg.DATASETS.TEST:
            records = DatasetCatalog.get(name)
            chosen = np.linspace(0, len(records), self._count, endpoint=False, dtype=int)
            for number in dict.fromkeys(chosen.tolist()):
                yield _Sample(_name_of(name, records[number]), records[number], legend([name]))

    def _pseudo_labelled(self) -> Iterator[_Sample]:
        names = legend(training_sets(self._cfg))
        several = isinstance(self._loader, TaskLoader)
        for part in self._loader.loaders if several else [self._loader]:
            mapper = part.dataset.mapper if isinstance(part, TrainLoader) else None
            if not isinstance(mapper, MultasMapper) or not mapper.pseudo_labels.boxes:
                continue
            dicts, found = part.dataset.dicts, 0
            # In a random order, since images of one kind often follow each other.
            for number in np.random.default_rng(0).permutation(len(dicts)).tolist():
                record = dicts[number]
                joined = mapper.pseudo_labels.join(record)
                if joined is not record and joined["annotations"]:
                    yield _Sample(_name_of("pseudo-labels", record), joined, names)
                    found += 1
                if found == self._count:
                    break


def _name_of(group: str, record: Mapping[str, Any]) -> str:
    return f"{group}/{Path(str(record.get('file_name', record.get('image_id')))).stem}"


def _draw(sample: _Sample, network: nn.Module, mapper: MultasMapper) -> np.ndarray:
    """A picture (3, H, W) uint8: annotations beside predictions."""
    record = sample.record
    if "pixels" in record:
        image = as_array(record["pixels"], "RGB")
    else:
        image = read_image(record["file_name"], "RGB")
    side = max(image.shape[:2])
    scale = min(_ENLARGED, _SIDE / side)
    results = network([mapper(dict(record))])[0]
    truth = draw_truth({**record, "pixels": image}, sample.names, scale * side)
    found = draw_results(image, results, sample.names, scale, _SCORE).get_image()
    # A copy, since a drawing gives a view of its canvas.
    return np.concatenate([truth, found], axis=1).transpose(2, 0, 1).copy()


@contextmanager
def _kept_random_numbers() -> Iterator[None]:
    """Colours of drawings are jittered with NumPy's random numbers, which training goes on with."""
    states = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
