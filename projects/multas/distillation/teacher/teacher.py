"""The teacher: only ever run forward, its weights fixed or following the student's."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from multas.config import add_multas_config, merge_config, merge_opts, prefer_square_size
from multas.config.limits import check_limits
from multas.distillation.taps import Taps, map_leaves
from multas.distillation.teacher.cache import TeacherCache, TeacherOutput, fingerprint, split
from multas.distillation.teacher.mean_teacher import MeanTeacher
from multas.distillation.teacher.precision import cast_convolutions_, teacher_precision
from multas.modeling.building import building
from multas.modeling.fold import fold_batch_norm_
from multas.modeling.layers import channels_last_
from multas.modeling.network_input import PREPARED
from multas.modeling.registered import check_registered
from multas.modeling.strict_loading import WeightsMisfit, load_strictly
from multas.modeling.weight_files import check_is_file
from multas.util.errors import UserError
from multas.util.required_files import require_file

logger = logging.getLogger(__name__)

KEY = "MODEL.DISTILLATION.TEACHER"


@dataclass(eq=False)
class Teacher:
    """A network in eval mode without gradients.

    Not an ``nn.Module``, so that it is no part of the student's parameters, checkpoint, optimiser
    or DDP wrapper, and no ``train()`` can reach it.

    Attributes:
        model: the network, on its device.
        input_format: channel order that it expects ("BGR" or "RGB").
        mean_teacher: how the trainer lets its weights follow the student's; None for a fixed
            teacher.
        precision: number format of its convolutions and matrix products; None for the student's.
        description: what :attr:`cache` must know of the network besides its weights.
        weights: the file of its weights, for messages.
        cache: where outputs for images are looked up before the network is run; None for no cache.
    """

    model: nn.Module
    input_format: str = "BGR"
    mean_teacher: MeanTeacher | None = None
    precision: torch.dtype | None = None
    description: str = ""
    weights: str = ""
    cache: TeacherCache | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        self.taps = Taps(self.model, [], owner="teacher")

    @classmethod
    def from_config(cls, options: CfgNode, student_cfg: CfgNode, key: str = KEY) -> "Teacher":
        """Build a teacher and load its weights.

        Args:
            options: MODEL.DISTILLATION.TEACHER, or such a node.
            student_cfg: the student's config: gives the device, and the network of a teacher that
                follows the student and has no config of its own.
            key: the key of ``options``, for messages.

        Raises:
            FileNotFoundError: the config or the weights are missing; the message names the key.
            UserError: the weights do not fit the config, or a key is out of range.
        """
        mean_teacher = MeanTeacher(options.EMA_DECAY, options.EMA_START, not options.WEIGHTS)
        check_teacher_files(options, key)
        if options.CONFIG_FILE:
            cfg = cls.load_config(options.CONFIG_FILE, options.OPTS)
        else:
            cfg = student_cfg.clone()
            cfg.defrost()
            cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.DISTILLATION.STUDENT
            merge_opts(cfg, options.OPTS)
        cfg.MODEL.DEVICE = student_cfg.MODEL.DEVICE
        description = cfg.dump()
        if options.WEIGHTS:
            cfg.MODEL.WEIGHTS = options.WEIGHTS  # so that no pretrained backbone is looked for
        elif not options.EMA_DECAY:
            logger.warning(
                f"{key}.WEIGHTS is empty: but for its pretrained backbone "
                f"({cfg.MODEL.TIMM.PRETRAINED}) the teacher is random. Let paths tap "
                "backbone.bottom_up and its layers alone."
            )
        with building(cfg):
            model = build_model(cfg)
        if options.WEIGHTS:
            try:
                load_strictly(model, options.WEIGHTS)
            except WeightsMisfit as error:
                raise UserError(
                    f"The teacher's weights do not fit its config: {error}. Check "
                    f"{key}.CONFIG_FILE, WEIGHTS and OPTS."
                ) from error
        precision = teacher_precision(options.PRECISION, torch.device(cfg.MODEL.DEVICE))
        follows = mean_teacher if mean_teacher.decay else None
        return cls(model, cfg.INPUT.FORMAT, follows, precision, description, options.WEIGHTS)

    @staticmethod
    def load_config(config_file: str, opts: Sequence) -> CfgNode:
        """The teacher's config, merged from a file or the address of a row, and options."""
        cfg = get_cfg()
        add_multas_config(cfg)
        merge_config(cfg, config_file)
        merge_opts(cfg, opts)
        if cfg.MODEL.META_ARCHITECTURE == "ExportedModel":
            raise UserError(
                f"The teacher's config {config_file} names ExportedModel, which has no layers to "
                "distil from. Let it label images (tools/pseudo_label.py), or name the config and "
                "the checkpoint that it was exported from."
            )
        prefer_square_size(cfg)
        check_limits(cfg, f"The teacher's config {config_file}: ")
        check_registered(cfg, f"The teacher's config {config_file}")
        return cfg

    def inputs(self, batched_inputs: Sequence[dict], input_format: str) -> list[dict]:
        """The images alone, as the student sees them, in the teacher's channel order.

        No annotation reaches the teacher, and it stretches or crops nothing by itself.
        """
        flip = {self.input_format, input_format} == {"BGR", "RGB"}
        images = [x["image"].flip(0) if flip else x["image"] for x in batched_inputs]
        return [{"image": image, PREPARED: True} for image in images]

    def probe(self, names: Sequence[str], inputs: list[dict]) -> dict[str, Any]:
        """Attach taps and run once; see :meth:`Taps.probe`."""
        self.taps = Taps(self.model, names, owner="teacher")
        with self._autocast():
            return self.taps.probe(self.model, inputs)

    def optimize_for_inference(self, evaluated: bool = False) -> None:
        """Make a fixed network faster, with the same results; it cannot be trained afterwards.

        Batch norms are folded into their convolutions, except those that are tapped or that use
        the statistics of each batch. Weights are stored channels last, and in :attr:`precision`.

        Args:
            evaluated: whether the network is also run without autocast, to evaluate it.
        """
        if self.mean_teacher is None:
            by_the_batch = self._norms(with_statistics=False)
            fold_batch_norm_(self.model, [*self.taps.modules, *by_the_batch])
            if self.precision is not None and not evaluated:
                cast_convolutions_(self.model, self.precision)
            channels_last_(self.model)

    @property
    def has_statistics(self) -> bool:
        """Whether it has BatchNorms with running statistics, which are not folded yet."""
        return bool(self._norms(with_statistics=True))

    @contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Let BatchNorms normalise by each batch inside the block; dropout stays off."""
        norms = self._norms(with_statistics=True)
        own = [(norm.running_mean, norm.running_var) for norm in norms]
        for norm in norms:
            norm.running_mean = norm.running_var = None
        try:
            yield
        finally:
            for norm, statistics in zip(norms, own, strict=True):
                norm.running_mean, norm.running_var = statistics

    def _norms(self, with_statistics: bool) -> list[_BatchNorm]:
        """The BatchNorms with running statistics, or those that only normalise by the batch."""
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        return [norm for norm in norms if (norm.running_var is not None) == with_statistics]

    def keep_outputs(self, folder: str, max_bytes: int, template: dict[str, Any]) -> None:
        """Use a :class:`TeacherCache` from now on.

        Args:
            folder: folder of the cache.
            max_bytes: size limit of the cache.
            template: what :meth:`probe` returned.

        Raises:
            UserError: the teacher changes from step to step, or sees images of a batch together.
        """
        why = ""
        if self.mean_teacher is not None:
            why = (
                f"follows the student (EMA_DECAY {self.mean_teacher.decay}): what it said before "
                "is out of date"
            )
        elif self._norms(with_statistics=False):
            why = (
                "has a BatchNorm without running statistics: what it says of an image depends on "
                "the rest of the batch"
            )
        if why:
            raise UserError(
                f"MODEL.DISTILLATION.CACHE.FOLDER is set, but the teacher {why}. Set FOLDER to ''."
            )
        about = list(template), self.input_format, self.precision, self.description
        self.cache = TeacherCache(
            folder,
            max_bytes,
            teacher=fingerprint(self.model, *about),
            template=template,
            device=self._device,
            divisor=getattr(getattr(self.model, "backbone", None), "size_divisibility", 0),
        )

    def bytes_kept(self, inputs: list[dict]) -> int:
        """Size of what the cache keeps of a batch, without boxes; 0 without a cache."""
        if self.cache is None:
            return 0
        return sum(map(len, split(self.run(inputs), len(inputs))))

    def record(self, inputs: list[dict]) -> dict[str, Any]:
        """What the taps returned; the network is run only as far as the last tap."""
        return self.output_of(inputs, None).record

    def output_of(self, inputs: list[dict], score_thresh: float | None) -> TeacherOutput:
        """What the taps returned, with the detections above ``score_thresh`` unless it is None.

        Raises:
            UserError: detections are wanted, but this teacher detects no objects.
        """
        if self.cache is None:
            return self.run(inputs, score_thresh)
        return self.cache.output_of(inputs, score_thresh, self.run)

    @torch.no_grad()
    def run(self, inputs: list[dict], score_thresh: float | None = None) -> TeacherOutput:
        """As :meth:`output_of`, past the cache."""
        boxes: list[Boxes] = []
        with self._autocast():
            with self.taps.record(stop_early=score_thresh is None) as record:
                outputs = self.model(inputs)
            if score_thresh is not None:
                boxes = _boxes_above(outputs, score_thresh)
        return TeacherOutput({n: map_leaves(self._as_tapped, v) for n, v in record.items()}, boxes)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _autocast(self) -> AbstractContextManager:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision)

    def _as_tapped(self, value: Tensor) -> Tensor:
        # Paths meet what an ordinary network returns, whatever makes this one fast.
        if self.precision is not None and value.is_floating_point():
            value = value.float()
        return value.contiguous()


def _boxes_above(outputs: list[dict], score_thresh: float) -> list[Boxes]:
    if "instances" not in outputs[0]:
        raise UserError(
            "A path needs the boxes of objects (DeFeat: its foreground), but the teacher gives "
            f"{', '.join(outputs[0])} alone. Train on images annotated with boxes and leave "
            "MODEL.DISTILLATION.BOXES on 'auto', or use a teacher that detects."
        )
    instances = [output["instances"] for output in outputs]
    return [x.pred_boxes[x.scores > score_thresh] for x in instances]


def check_teacher_files(options: CfgNode, key: str) -> None:
    """Make sure that the config and the weights that a teacher needs are there.

    Args:
        options: MODEL.DISTILLATION.TEACHER, or such a node.
        key: the key of this node, for messages.

    Raises:
        FileNotFoundError: One is missing; the message names the key.
    """
    config = options.CONFIG_FILE.partition("#")[0]
    if config or not options.EMA_DECAY:
        cure = "Give the teacher's own config (train it first with train_net.py --config-file)."
        require_file(config, f"{key}.CONFIG_FILE", (".yaml", ".yml"), cure)
    # A pretrained backbone needs no training to be a teacher.
    if options.WEIGHTS or not (options.EMA_DECAY or _is_pretrained(options)):
        check_is_file(options.WEIGHTS, f"{key}.WEIGHTS")


def _is_pretrained(options: CfgNode) -> bool:
    return bool(Teacher.load_config(options.CONFIG_FILE, options.OPTS).MODEL.TIMM.PRETRAINED)
