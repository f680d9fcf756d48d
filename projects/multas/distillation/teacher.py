"""The teacher: only ever run forward, its weights fixed or following the student's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn

from multas.config import add_multas_config
from multas.config.distillation import teacher_node
from multas.distillation.taps import Taps
from multas.modeling.whole_weights import is_file, load_whole


@dataclass(frozen=True)
class Following:
    """How a mean teacher's weights follow the student's: ``t = d t + (1 - d) s`` after every step.

    Tarvainen and Valpola, NeurIPS 2017, section 2; with a burn-in for detectors, Liu et al.
    (unbiased teacher), ICLR 2021.

    Args:
        decay: d after the burn-in, in [0, 1).
        start: iterations of the burn-in.
        from_student: starts as a copy of the student, else from weights of its own.

    Raises:
        ValueError: decay or start out of range, naming the key.
    """

    decay: float
    start: int = 0
    from_student: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"MODEL.DISTILLATION.TEACHER.EMA_DECAY is {self.decay}; give 0.0 (a fixed teacher) "
                "or a number below 1 (0.9996: an average over 2500 iterations)."
            )
        if self.start < 0:
            raise ValueError(
                f"MODEL.DISTILLATION.TEACHER.EMA_START is {self.start}; give 0 or more iterations."
            )

    def __str__(self) -> str:
        role = "its copy" if self.from_student else "loaded"
        burn_in = f", after {self.start} iterations as {role}" if self.start else ""
        return f"follows the student, decay {self.decay:g}{burn_in}"

    def decay_at(self, update: int) -> float:
        """d of update k = 1, 2, …: in the burn-in 0 (a copy of the student) or 1 (stays)."""
        if update > self.start:
            return self.decay
        return 0.0 if self.from_student else 1.0


class Teacher:
    """A network in eval mode without gradients.

    Not an ``nn.Module``, so that it is no part of the student's parameters, checkpoint, optimiser
    or DDP wrapper, and no ``train()`` can reach it.

    Args:
        model: the network, on its device.
        input_format: channel order it expects ("BGR" or "RGB").
        following: how its weights follow the student's (the trainer's work); None = fixed.
    """

    def __init__(
        self, model: nn.Module, input_format: str = "BGR", following: Following | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.input_format = input_format
        self.following = following
        self.taps = Taps(model, [], owner="teacher")

    @classmethod
    def from_config(cls, options: CfgNode, student_cfg: CfgNode) -> "Teacher":
        """Build a teacher and load its weights.

        Args:
            options: MODEL.DISTILLATION.TEACHER, or such a node.
            student_cfg: the student's config: gives the device, and the network of a teacher that
                follows the student and has no config of its own.

        Raises:
            FileNotFoundError: no such config or weights, naming the key.
            ValueError: the weights do not fit the config, or a key is out of range.
        """
        following = Following(options.EMA_DECAY, options.EMA_START, not options.WEIGHTS)
        for key in ("CONFIG_FILE", "WEIGHTS"):
            path = options[key]
            if not is_file(path) and (path or not following.decay):
                raise FileNotFoundError(
                    f"MODEL.DISTILLATION.TEACHER.{key} is '{path}': no such file. Give the "
                    "teacher's own config and its trained weights (train it first with "
                    "train_net.py --config-file)."
                )
        if options.CONFIG_FILE:
            cfg = cls.load_config(options.CONFIG_FILE, options.OPTS)
        else:
            cfg = student_cfg.clone()
            cfg.defrost()
            cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.DISTILLATION.STUDENT
            cfg.merge_from_list(list(options.OPTS))
        cfg.MODEL.DEVICE = student_cfg.MODEL.DEVICE
        model = build_model(cfg)
        if options.WEIGHTS:
            try:
                load_whole(model, options.WEIGHTS)
            except ValueError as error:
                raise ValueError(
                    f"The teacher's weights do not fit its config: {error}. Check "
                    "MODEL.DISTILLATION.TEACHER.CONFIG_FILE, WEIGHTS and OPTS."
                ) from error
        return cls(model, cfg.INPUT.FORMAT, following if following.decay else None)

    @staticmethod
    def load_config(config_file: str, opts: Sequence) -> CfgNode:
        """The teacher's config, merged from file and options."""
        cfg = get_cfg()
        add_multas_config(cfg)
        cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(opts))
        return cfg

    def check_network(self, student: nn.Module, input_format: str) -> None:
        """Make sure that a teacher that follows the student has the student's network.

        Args:
            student: the network whose weights are averaged.
            input_format: channel order of its images.

        Raises:
            ValueError: naming the first difference and the keys to change.
        """
        if self.following is None:
            return
        own = _anatomy(self.model, self.input_format)
        wanted = _anatomy(student, input_format)
        for name in wanted | own:
            if own.get(name) != wanted.get(name):
                raise ValueError(
                    f"MODEL.DISTILLATION.TEACHER.EMA_DECAY is {self.following.decay}: a teacher "
                    "that follows the student must have its network, but "
                    f"{name} is {own.get(name, 'absent')} in the teacher and "
                    f"{wanted.get(name, 'absent')} in the student. Set TEACHER.CONFIG_FILE to "
                    "'' (the student's own network; see also TEACHER.OPTS), or EMA_DECAY to 0.0 "
                    "(a fixed teacher)."
                )

    def inputs(self, batched_inputs: Sequence[dict], input_format: str) -> list[dict]:
        """The images alone (no annotation reaches the teacher), in its channel order."""
        flip = {self.input_format, input_format} == {"BGR", "RGB"}
        return [{"image": x["image"].flip(0) if flip else x["image"]} for x in batched_inputs]

    def probe(self, names: Sequence[str], inputs: list[dict]) -> dict[str, Any]:
        """Attach taps and run once; see :meth:`Taps.probe`."""
        self.taps = Taps(self.model, names, owner="teacher")
        return self.taps.probe(self.model, inputs)

    @torch.no_grad()
    def record(self, inputs: list[dict]) -> dict[str, Any]:
        """What the taps returned; nothing behind the last tap is computed."""
        with self.taps.record(stop_early=True) as record:
            self.model(inputs)
        return record

    @torch.no_grad()
    def record_with_boxes(
        self, inputs: list[dict], score_thresh: float
    ) -> tuple[dict[str, Any], list[Boxes]]:
        """Taps and detections above ``score_thresh`` (pixels of the network input).

        Raises:
            ValueError: this teacher detects no objects.
        """
        with self.taps.record() as record:
            outputs = self.model(inputs)
        if "instances" not in outputs[0]:
            raise ValueError(
                "A path needs the boxes of objects (DeFeat: its foreground), but the teacher gives "
                f"{', '.join(outputs[0])} alone. Train on images annotated with boxes and leave "
                "MODEL.DISTILLATION.BOXES on 'auto', or use a teacher that detects."
            )
        instances = [output["instances"] for output in outputs]
        return record, [x.pred_boxes[x.scores > score_thresh] for x in instances]


def build_teachers(cfg: CfgNode) -> list[Teacher]:
    """All teachers that the student's config names: TEACHER, then MORE_TEACHERS."""
    options = cfg.MODEL.DISTILLATION
    return [
        Teacher.from_config(t, cfg) for t in (options.TEACHER, *map(_node, options.MORE_TEACHERS))
    ]


def _node(entry: Mapping[str, Any]) -> CfgNode:
    node = teacher_node()
    node.merge_from_other_cfg(CfgNode(dict(entry)))
    return node


def _anatomy(model: nn.Module, input_format: str) -> dict[str, Any]:
    """What two networks must share so that weights of one make sense in the other."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"INPUT.FORMAT": input_format} | shapes
