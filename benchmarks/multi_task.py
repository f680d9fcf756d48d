"""Cost of an iteration with two tasks, against the iterations of the single tasks."""

import sys
from collections.abc import Callable
from itertools import repeat

import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from memory import peak_gigabytes
from multas.engine import Trainer, load_config
from multas.engine.steps.task_gradients import TaskGradients, TaskWeights
from stock import random_batch, whole_step
from tables import ratio_table
from timing import peak_memory, take_turns

CONFIG = "configs/limited-data/table6.yaml#voc/multi_task"
SIZE, BATCH, OBJECTS, CLASSES = 320, 4, 6, 20
# name -> tasks, how their images are batched, how their gradients are combined.
ALTERNATIVES = {
    "detection alone": (("det",), "separate", "sum"),
    "segmentation alone": (("seg",), "separate", "sum"),
    "both, separate": (("det", "seg"), "separate", "sum"),
    "both, mixed": (("det", "seg"), "mixed", "sum"),
    "both, separate, MGDA": (("det", "seg"), "separate", "mgda"),
}
# A process that has imported everything and built no model.
NO_MODEL = "no model"
MEMORY_STEPS = 3


def task_batch(tasks: tuple[str, ...], mode: str, images: int, size: int) -> list[dict]:
    """A batch with ``images`` images per task."""
    batch = []
    for number, task in enumerate(tasks):
        extra = {"task": task} | ({"mini_batch": number} if mode == "separate" else {})
        for x in random_batch(images, size, OBJECTS, CLASSES):
            x["sem_seg"] = torch.randint(CLASSES + 1, (size, size))
            batch.append(x | extra)
    return batch


def new_step(name: str, images: int, size: int) -> Callable[[], None]:
    """The training step of an alternative; a single task has only its own head."""
    tasks, mode, gradients = ALTERNATIVES[name]
    heads = {"det": "DenseDetectionHead", "seg": "SemanticFPNHead"}
    cfg = load_config(
        CONFIG,
        ["MODEL.WEIGHTS", "", "MODEL.MULTITASK.GRADIENTS", gradients,
         "MODEL.MULTITASK.TASKS", list(tasks), "MODEL.MULTITASK.HEADS", [heads[t] for t in tasks]],
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    loader = repeat(task_batch(tasks, mode, images, size))
    trainer = SimpleTrainer(model, loader, Trainer.build_optimizer(cfg, model))
    weighed = TaskGradients.from_config(cfg, model)
    trainer.register_hooks([None if weighed is None else TaskWeights(model, weighed)])
    return whole_step(trainer)


def _with_sum(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """Put the sum of the single tasks first, as the base of all ratios."""
    det, seg = values["detection alone"], values["segmentation alone"]
    return {"sum of the single tasks": [x + y for x, y in zip(det, seg, strict=True)]} | values


def _memory(rounds: int) -> str:
    arguments = {name: (name, BATCH, SIZE) for name in (NO_MODEL, *ALTERNATIVES)}
    gigabytes, missing = peak_gigabytes(__file__, arguments, rounds)
    if missing:
        raise RuntimeError(str(missing))
    base = gigabytes.pop(NO_MODEL)
    own = {
        name: [peak - start for peak, start in zip(peaks, base, strict=True)]
        for name, peaks in gigabytes.items()
    }
    return ratio_table(_with_sum(own), "alternative", unit="GB", digits=2)


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    with EventStorage():
        steps = {name: new_step(name, BATCH, SIZE) for name in ALTERNATIVES}
        times = ratio_table(_with_sum(take_turns(steps, rounds)), "alternative")
    title = f"## Two tasks: R18-FPN, {SIZE} px, {BATCH} images for each task, {rounds} rounds"
    note = "Peak memory of a process that takes a few steps, above that of one without a model:"
    # Once, as the peak hardly varies and starting a process takes longer than its steps.
    return "\n\n".join([title, times, note, _memory(1)])


def main(name: str, images: str, size: str) -> None:
    """Print the peak memory (bytes) of a few steps of one alternative."""
    if name != NO_MODEL:
        with EventStorage():
            step = new_step(name, int(images), int(size))
            for _ in range(MEMORY_STEPS):
                step()
    print(peak_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
