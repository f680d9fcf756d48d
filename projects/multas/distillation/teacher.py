"""The frozen teacher: built from its own config, only ever run forward."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import nn

from multas.config import add_multas_config
from multas.distillation.taps import Taps
from multas.modeling.whole_weights import is_file, load_whole


class Teacher:
    """A network in eval mode without gradients.

    Not an ``nn.Module``, so that it is no part of the student's parameters, checkpoint, optimiser
    or DDP wrapper, and no ``train()`` can reach it.

    Args:
        model: the network, on its device.
        input_format: channel order it expects ("BGR" or "RGB").
    """

    def __init__(self, model: nn.Module, input_format: str = "BGR") -> None:
        self.model = model.eval().requires_grad_(False)
        self.input_format = input_format
        self.taps = Taps(model, [], owner="teacher")

    @classmethod
    def from_config(cls, config_file: str, weights: str, opts: Sequence, device: str) -> "Teacher":
        """Build a teacher and load its weights.

        Args:
            config_file: its own Detectron2 config (relative paths: from the working directory).
            weights: its checkpoint.
            opts: KEY VALUE pairs merged into its config.
            device: where it runs.

        Raises:
            FileNotFoundError: no such config or weights, naming the key.
            ValueError: the weights do not fit the config.
        """
        for key, path in (("CONFIG_FILE", config_file), ("WEIGHTS", weights)):
            if not is_file(path):
                raise FileNotFoundError(
                    f"MODEL.DISTILLATION.TEACHER.{key} is '{path}': no such file. Give the "
                    "teacher's own config and its trained weights (train it first with "
                    "train_net.py --config-file)."
                )
        cfg = cls.load_config(config_file, opts)
        cfg.MODEL.DEVICE = device
        model = build_model(cfg)
        try:
            load_whole(model, weights)
        except ValueError as error:
            raise ValueError(
                f"The teacher's weights do not fit its config: {error}. Check "
                "MODEL.DISTILLATION.TEACHER.CONFIG_FILE, WEIGHTS and OPTS."
            ) from error
        return cls(model, cfg.INPUT.FORMAT)

    @staticmethod
    def load_config(config_file: str, opts: Sequence) -> CfgNode:
        """The teacher's config, merged from file and options."""
        cfg = get_cfg()
        add_multas_config(cfg)
        cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(opts))
        return cfg

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
        """Taps and detections above ``score_thresh`` (pixels of the network input)."""
        with self.taps.record() as record:
            outputs = self.model(inputs)
        instances = [output["instances"] for output in outputs]
        return record, [x.pred_boxes[x.scores > score_thresh] for x in instances]
