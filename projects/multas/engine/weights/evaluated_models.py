"""What is evaluated by name in a run: sets of weights, and the teachers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation import Teacher, unwrap
from multas.evaluation.build import evaluator_types
from multas.modeling.network_input import NetworkInput
from multas.util.errors import UserError

Weights = Mapping[str, Tensor]


def live_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model or of a Distiller's student, wrapped or not, sharing its memory."""
    return unwrap(model)[0].state_dict()


@contextmanager
def swapped_weights(model: nn.Module, weights: Weights | None) -> Iterator[None]:
    """Other weights (None = its own) in a model inside the block, and exactly its own after it.

    Raises:
        UserError: The weights have other names than the model's.
    """
    if weights is None:
        yield
        return
    live = live_weights(model)
    if live.keys() != weights.keys():
        different = sorted(live.keys() ^ weights.keys())
        raise UserError(
            f"These weights belong to another model: {len(different)} names differ, the first "
            f"{', '.join(different[:5])}. Continue a run with its own config."
        )
    own = {name: tensor.clone() for name, tensor in live.items()}
    copy_weights(live, weights)
    try:
        yield
    finally:
        copy_weights(live, own)


@torch.no_grad()
def copy_weights(target: Weights, source: Weights) -> None:
    """Copy tensors by name, in place."""
    for name, tensor in target.items():
        tensor.copy_(source[name])


@contextmanager
def undisturbed_training() -> Iterator[None]:
    """Random numbers that are drawn inside the block do not change those drawn after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    comm.synchronize()


class TeacherModel(nn.Module):
    """A teacher that predicts on the student's test images, for Detectron2's evaluators.

    ``input_format`` is the channel order of the student's images, and ``network_input`` makes what
    the student sees of them.
    """

    def __init__(
        self, teacher: Teacher, input_format: str, network_input: NetworkInput | None = None
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self._input_format = input_format
        self._network_input = network_input or NetworkInput()

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        seen = self._network_input(batched_inputs)
        images = self.teacher.inputs(seen, self._input_format)
        return self.teacher.model([x | y for x, y in zip(seen, images, strict=True)])


class WithTeacherScores(nn.Module):
    """A classifier whose results also have "teacher_scores", for the agreement of the two."""

    def __init__(self, model: nn.Module, teacher: TeacherModel) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher
        # Detectron2 restores the mode that it finds.
        self.training = model.training

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        results = self.model(batched_inputs)
        for result, taught in zip(results, self.teacher(batched_inputs), strict=True):
            if "scores" in taught:
                result["teacher_scores"] = taught["scores"]
        return results


def teacher_models(cfg: CfgNode, teachers: Sequence[Teacher]) -> dict[str, TeacherModel]:
    """The teachers that are evaluated, by name; none without TEST.EVALUATE_TEACHER."""
    if not cfg.TEST.EVALUATE_TEACHER:
        return {}
    network_input = NetworkInput.from_config(cfg)
    return {
        f"teacher{i}" if i else "teacher": TeacherModel(teacher, cfg.INPUT.FORMAT, network_input)
        for i, teacher in enumerate(teachers)
    }


def with_teacher_scores(
    cfg: CfgNode, model: nn.Module, teachers: Mapping[str, TeacherModel]
) -> nn.Module:
    """The model, and with it the first teacher where DATASETS.TEST can show their agreement."""
    sets = cfg.DATASETS.TEST
    if "teacher" in teachers and any("classification" in evaluator_types(name) for name in sets):
        return WithTeacherScores(model, teachers["teacher"])
    return model
