"""All paths from the teachers to one student, and the aggregator that weighs them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn

from multas.distillation.aggregation import (
    SCOPE_KEY,
    Aggregator,
    GradientAggregator,
    GradientScope,
    build_aggregator,
)
from multas.distillation.box_source import check_box_source, wants_detections, with_boxes
from multas.distillation.gradients.feature_boundary import Cut, Cuts
from multas.distillation.paths.base import Path, Shapes, Targets
from multas.distillation.paths.spec import PathSpec, check_tasks, parse_paths, tapped_heads
from multas.distillation.paths.table import path_table, table_row
from multas.distillation.taps import TapError, Taps, leaves
from multas.distillation.teacher.teacher import Teacher, build_teachers
from multas.modeling.losses import full_precision
from multas.util.ranks import mean_over_ranks


class Distillation(nn.Module):
    """Computes the path losses of a batch and weighs them.

    Its parameters are the adapters and what the aggregator learns. The teachers are held, not
    owned: they are in no state dict.

    Args:
        student: the student network; only read, through taps.
        teachers: one or more.
        specs: the paths.
        cfg: the student's config (MODEL.DISTILLATION, INPUT.FORMAT).

    Raises:
        ValueError: a path names a teacher that does not exist, layers that do not, or layers
            that do not fit each other; a teacher is to follow a student of another network.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher],
        specs: Sequence[PathSpec],
        cfg: CfgNode,
    ) -> None:
        super().__init__()
        options = cfg.MODEL.DISTILLATION
        check_box_source(options.BOXES)
        for spec in specs:
            if not 0 <= spec.teacher_id < len(teachers):
                raise ValueError(
                    f"MODEL.DISTILLATION.PATHS, path '{spec.name}': TEACHER_ID is "
                    f"{spec.teacher_id}, but there are {len(teachers)} teachers (counted from 0)."
                )
        for teacher in teachers:
            teacher.check_network(student, cfg.INPUT.FORMAT)
        self.alpha: float = options.ALPHA
        # What a warm-up multiplies alpha with in the current step; see schedule.py.
        self.alpha_scale: float = 1.0
        self.boxes: str = options.BOXES
        self.box_score_thresh: float = options.BOX_SCORE_THRESH
        self.input_format: str = cfg.INPUT.FORMAT
        self.specs = tuple(specs)
        self.teachers = tuple(teachers)
        with _missing_layers_explained(specs):
            self.student_taps = Taps(student, [n for s in specs for n in s.student], "student")
        check_tasks(specs, cfg)
        require_heads = getattr(student, "require_heads", None)
        if require_heads is not None:
            require_heads(tapped_heads(specs))

        probe = [_blank_image(student, cfg)]
        with _missing_layers_explained(specs):
            records = self._probe(student, probe)
        self.paths = nn.ModuleDict(
            {
                spec.name: spec.build(
                    *self._shapes(spec, records), teacher_model=self.teacher_of(spec).model
                )
                for spec in self.specs
            }
        )
        cache = options.CACHE
        for teacher, record in zip(self.teachers, records[1], strict=True):
            if cache.FOLDER and record:
                teacher.keep_outputs(cache.FOLDER, int(cache.MAX_GB * 1e9), record)
            teacher.optimize_for_inference(evaluated=cfg.TEST.EVALUATE_TEACHER)
        self.labels = [(s.name, label) for s in self.specs for label in self._labels_of(s)]
        self.names = ["_".join(filter(None, pair)) for pair in self.labels]
        weight_of = {spec.name: spec.weight for spec in self.specs}
        self.aggregator: Aggregator = build_aggregator(
            cfg, self.names, [weight_of[path] for path, _ in self.labels]
        )
        self.scope = GradientScope.from_config(cfg)
        by_gradient = isinstance(self.aggregator, GradientAggregator)
        self.cuts = Cuts(student, self.scope.cuts if by_gradient else (), SCOPE_KEY)
        self.table = self._describe(records)
        self.monitors: dict[str, Tensor] = {}
        self._seen_gradient: set[str] = set()
        self._pending: tuple[list[Tensor], list[Cut]] | None = None

    def teacher_of(self, spec: PathSpec) -> Teacher:
        """The teacher that a path listens to."""
        return self.teachers[spec.teacher_id]

    def path_of(self, spec: PathSpec) -> Path:
        """The path that an entry of the config became."""
        return cast(Path, self.paths[spec.name])

    def _labels_of(self, spec: PathSpec) -> list[str]:
        return self.path_of(spec).labels() if spec.layerwise else [""]

    def _probe(self, student: nn.Module, image: list[dict]) -> tuple[dict, list[dict]]:
        student_record = self.student_taps.probe(student, image)
        teacher_records = []
        for i, teacher in enumerate(self.teachers):
            names = [n for s in self.specs if s.teacher_id == i for n in s.teacher]
            inputs = teacher.inputs(image, self.input_format)
            teacher_records.append(teacher.probe(names, inputs) if names else {})
        return student_record, teacher_records

    @staticmethod
    def _shapes(
        spec: PathSpec, records: tuple[dict, list[dict]]
    ) -> tuple[list[Shapes], list[Shapes]]:
        def shapes(record: Mapping[str, Any], names: Sequence[str]) -> list[Shapes]:
            return [[tuple(leaf.shape) for leaf in leaves(record[n])] for n in names]

        student, teachers = records
        return shapes(student, spec.student), shapes(teachers[spec.teacher_id], spec.teacher)

    def _describe(self, records: tuple[dict, list[dict]]) -> str:
        weights = self.aggregator.weights().tolist()
        rows = []
        for spec in self.specs:
            own = [
                w for w, (name, _) in zip(weights, self.labels, strict=True) if name == spec.name
            ]
            rows.append(table_row(spec, self.path_of(spec), self._shapes(spec, records), own))
        return path_table(
            rows,
            f"Distillation paths, aggregation {type(self.aggregator).__name__}, alpha "
            f"{self.alpha:g}:",
            [
                f"Teacher {i} {t.mean_teacher}."
                for i, t in enumerate(self.teachers)
                if t.mean_teacher
            ],
        )

    def taps_for(self, task: str | None) -> list[str]:
        """Student layers that the paths on images of a task tap (None: of no one's batch)."""
        return [n for spec in self.specs if spec.applies_to(task) for n in spec.student]

    def path_losses(
        self,
        student_record: Mapping[str, Any],
        batched_inputs: list[dict],
        targets: Targets,
        task: str | None = None,
    ) -> list[Tensor | None]:
        """Run the teachers and compute every path loss.

        Args:
            student_record: what the student's taps returned for this batch.
            batched_inputs: the same images.
            targets: what is known of them.
            task: whose batch it is; paths that do not apply to it are left out.

        Returns:
            K raw losses (scalars) in the order of ``names``, None for those left out. Not stacked:
            the gradient of one of them would run, as zeros, through all others.
        """
        teacher_records = []
        # Each teacher has detections of its own.
        targets_of = [targets] * len(self.teachers)
        for i, teacher in enumerate(self.teachers):
            specs = [s for s in self.specs if s.teacher_id == i and s.applies_to(task)]
            inputs = teacher.inputs(batched_inputs, self.input_format)
            need_boxes = any(self.path_of(spec).needs_boxes for spec in specs)
            if need_boxes and wants_detections(targets, self.boxes):
                record, boxes = teacher.record_with_boxes(inputs, self.box_score_thresh)
                targets_of[i] = with_boxes(targets, self.boxes, boxes)
            elif specs:
                record = teacher.record(inputs)
                if need_boxes:
                    targets_of[i] = with_boxes(targets, self.boxes, [])
            teacher_records.append(record if specs else {})
        losses: list[Tensor | None] = []
        for spec in self.specs:
            path = self.path_of(spec)
            if not spec.applies_to(task):
                losses.extend(None for _ in self._labels_of(spec))
                continue
            student = tuple(student_record[n] for n in spec.student)
            if torch.is_grad_enabled() and spec.name not in self._seen_gradient:
                self._check_gradient(spec, student)
                self._seen_gradient.add(spec.name)
            taught = tuple(teacher_records[spec.teacher_id][n] for n in spec.teacher)
            terms = path(student, taught, targets_of[spec.teacher_id])
            if spec.layerwise:
                losses.extend(terms[label] for label in path.labels())
            else:
                losses.append(torch.stack([full_precision(t) for t in terms.values()]).sum())
        return [loss if loss is None else full_precision(loss) for loss in losses]

    def _check_gradient(self, spec: PathSpec, student: tuple[Any, ...]) -> None:
        if not any(leaf.requires_grad for leaf in leaves(list(student))):
            raise ValueError(
                f"MODEL.DISTILLATION.PATHS, path '{spec.name}': no gradient reaches the student "
                f"from {', '.join(spec.student)}. The layers in front of it are frozen "
                "(MODEL.BACKBONE.FREEZE_AT) or it is not differentiable; tap another layer."
            )

    @property
    def current_alpha(self) -> float:
        """alpha in this step."""
        return self.alpha * self.alpha_scale

    def aggregate(self, losses: Sequence[Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
        """The terms to add to the task losses, alpha included.

        An aggregator that weighs gradients adds no term: it leaves the losses to the trainer, see
        :meth:`take_losses`.

        Args:
            losses: K scalars from :meth:`path_losses`.
            cuts: where the student's graph was cut (features in scope); may be empty.

        Raises:
            RuntimeError: nobody has taken the losses of the last step.
        """
        if isinstance(self.aggregator, GradientAggregator):
            if torch.is_grad_enabled():
                self._hand_over(losses, cuts)
            return {}
        raw = torch.stack(list(losses))
        if comm.get_world_size() > 1:
            # Weights follow from the mean over all ranks; the gradient is that of the own images.
            raw = raw - raw.detach() + mean_over_ranks(raw.detach())
        weighted, extra = self.aggregator(raw)
        self.log(raw.detach())
        alpha = self.current_alpha
        terms = {
            f"loss_kd_{name}": alpha * loss
            for name, loss in zip(self.names, weighted.unbind(), strict=True)
        }
        return terms | {f"loss_kd_{name}": alpha * term for name, term in extra.items()}

    def log(self, losses: Tensor) -> None:
        """Keep what is logged of this step: raw losses (K,), v and the aggregator's own values."""
        self.monitors = {
            "path_loss": losses,
            "path_weight": self.aggregator.weights(),
            **{f"path_{name}": value for name, value in self.aggregator.monitors().items()},
        }

    def _hand_over(self, losses: Sequence[Tensor], cuts: Sequence[Cut]) -> None:
        if self._pending is not None:
            raise RuntimeError(
                f"Aggregation {type(self.aggregator).__name__} weighs gradients: train with "
                "multas.engine.Trainer (or its GradientStep), not with a plain trainer, or "
                "set MODEL.DISTILLATION.AGGREGATION.NAME to one that weighs losses (adaptive)."
            )
        self._pending = list(losses), list(cuts)

    def take_losses(self) -> tuple[list[Tensor], list[Cut]]:
        """The K raw path losses of the last forward pass, with graph, and its cuts; only once."""
        if self._pending is None:
            raise RuntimeError("No forward pass in training mode has left path losses.")
        pending, self._pending = self._pending, None
        return pending


@contextmanager
def _missing_layers_explained(specs: Sequence[PathSpec]) -> Iterator[None]:
    try:
        yield
    except TapError as error:
        for spec in specs:
            note = spec.type.missing_layer_note
            if note and any(f"'{layer}'" in str(error) for layer in (*spec.student, *spec.teacher)):
                raise TapError(f"{error} Path '{spec.name}' taps it. {note}") from error
        raise


def _blank_image(student: nn.Module, cfg: CfgNode) -> dict:
    """A gray test image of the training size, to learn shapes with."""
    side = cfg.INPUT.MIN_SIZE_TRAIN[0] if cfg.INPUT.MIN_SIZE_TRAIN else cfg.INPUT.MIN_SIZE_TEST
    divisor = max(getattr(getattr(student, "backbone", None), "size_divisibility", 0), 32)
    # Larger images teach nothing more and cost time.
    side = min(-(-max(side, 1) // divisor) * divisor, 320)
    return {"image": torch.full((3, side, side), 114.0), "height": side, "width": side}


def build_distillation(
    cfg: CfgNode, student: nn.Module, teachers: Sequence[Teacher] | None = None
) -> Distillation | None:
    """What ``cfg.MODEL.DISTILLATION`` describes, on the device of the config.

    Args:
        cfg: the student's config.
        student: the student network.
        teachers: instead of those that the config names.

    Returns:
        None when there is nothing to distill (no path, or alpha = 0).
    """
    options = cfg.MODEL.DISTILLATION
    specs = parse_paths(options.PATHS)
    if not specs or options.ALPHA == 0:
        return None
    # Neither the teacher's nor the adapters' initialisation may shift the random numbers that
    # the student's own training sees.
    with torch.random.fork_rng():
        if teachers is None:
            teachers = build_teachers(cfg)
        distillation = Distillation(student, teachers, specs, cfg)
    return distillation.to(torch.device(cfg.MODEL.DEVICE))
