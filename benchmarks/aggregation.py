"""Cost of a step with K weighted distillation paths, against Detectron2's student alone.

``python benchmarks/aggregation.py ALTERNATIVE K SIZE BATCH`` prints the peak memory of a few steps.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from memory import peak_gigabytes
from multas.distillation import Teacher
from multas.distillation.teacher.precision import teacher_precision
from multas.engine import Trainer
from stock import given_teacher, random_batch, retinanet_config, weigh_paths, whole_step
from tables import ratio_table
from timing import attempt, peak_memory, take_turns
from torchjd_step import TorchJDStep

SIZE, BATCH, OBJECTS, CLASSES = 320, 2, 6, 20
STUDENT_DEPTH, TEACHER_DEPTH = 18, 50
PATH_COUNTS, BAR_PATHS = (2, 5, 10), 5
MEMORY_STEPS, MEMORY_ROUNDS = 3, 2

LEVELS = ("p3", "p4", "p5", "p6", "p7")
PATHS = [
    {"TYPE": "FeatureMSE", "NAME": f"mse_{p}", "STUDENT": f"backbone.{p}", "ADAPTER": "conv"}
    for p in LEVELS
] + [{"TYPE": "AttentionTransfer", "NAME": f"at_{p}", "STUDENT": f"backbone.{p}"} for p in LEVELS]

STOCK = "stock student (Detectron2)"
# The input of the pyramid; every path depends on these maps.
_FEATURES = ["SCOPE", "features", "SCOPE_LAYERS", [f"backbone.bottom_up.res{i}" for i in (3, 4, 5)]]
_PARAMETERS = ["NAME", "mgda"]
# Keys below MODEL.DISTILLATION.AGGREGATION; None: no path.
OURS: dict[str, list | None] = {
    "Distiller without paths": None,
    "equal, hand_tuned": ["NAME", "equal"],
    "adaptive": ["NAME", "adaptive"],
    "mgda, features": ["NAME", "mgda", *_FEATURES],
    "gradient_ratio, features": ["NAME", "gradient_ratio", *_FEATURES],
    "mgda, parameters": _PARAMETERS,
    "mgda, parameters, LOW_MEMORY": [*_PARAMETERS, "LOW_MEMORY", True],
}
# The same with the teacher in bfloat16, if the CPU supports it.
FAST = {
    f"{name}, TEACHER.PRECISION auto": name for name in ("adaptive", "mgda, parameters, LOW_MEMORY")
}
OURS |= {fast: OURS[name] for fast, name in FAST.items()}
TORCHJD: dict[str, dict[str, Any]] = {
    "torchjd backward, sequential": {},
    "torchjd backward, sequential, Gramian": {"gramian": True},
    "torchjd backward, vmap": {"chunk": None},
    "torchjd mtl_backward, sequential": {"shared_only": True},
}
BARS = {
    "Distiller without paths": "1.00",
    "adaptive": "≤ 1.25",
    "mgda, features": "≤ 1.35",
    "gradient_ratio, features": "≤ 1.35",
    "mgda, parameters": "≤ 2.3",
    "mgda, parameters, LOW_MEMORY": "≤ 2.3",
}
BARS |= {fast: BARS[name] for fast, name in FAST.items()}
MEMORY_BARS = {name: "≤ 1.25" for name, keys in OURS.items() if keys}


def student_config(size: int, count: int, keys: list | None) -> CfgNode:
    """The student with the first ``count`` paths and the aggregation ``keys``; None: no path."""
    below = "MODEL.DISTILLATION.AGGREGATION."
    pairs = zip((keys or [])[::2], (keys or [])[1::2], strict=True)
    return _config(
        STUDENT_DEPTH,
        ["INPUT.MIN_SIZE_TRAIN", (size,),
         "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", "RetinaNet",
         "MODEL.DISTILLATION.PATHS", PATHS[:count] if keys else [],
         *(x for key, value in pairs for x in (below + key, value))],
    )  # fmt: skip


def _config(depth: int, opts: Sequence[Any] = ()) -> CfgNode:
    # With random weights feature losses are above 10,000; a usual learning rate would give NaN.
    return retinanet_config(depth, CLASSES, ["SOLVER.BASE_LR", 1e-14, *opts])


def new_teacher(name: str = "") -> Teacher:
    """Detectron2's RetinaNet with the deeper ResNet, in the precision of the alternative."""
    cfg = _config(TEACHER_DEPTH)
    model = build_model(cfg)
    precision = teacher_precision("auto" if name in FAST else "", model.device)
    return Teacher(model, cfg.INPUT.FORMAT, precision=precision)


def new_trainer(
    name: str,
    count: int,
    batch: list[dict],
    *,
    make_teacher: Callable[[str], Teacher] = new_teacher,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> SimpleTrainer:
    """The trainer of an alternative, every step of which uses the same batch.

    Args:
        name: STOCK, or a key of OURS or TORCHJD.
        count: K.
        batch: dataset dicts.
        make_teacher: builds the teacher of an alternative with paths.
        wrap: wraps the model for data parallelism.
    """
    torch.manual_seed(0)
    if name == STOCK:
        cfg = _config(STUDENT_DEPTH)
        model = build_model(cfg)
    else:
        size = batch[0]["image"].shape[-1]
        cfg = student_config(size, count, OURS.get(name, _PARAMETERS))
        model = build_model(cfg)
        if cfg.MODEL.DISTILLATION.PATHS:
            given_teacher(model, cfg, make_teacher(name))
        else:
            model.prepare()
    loader, optimizer = repeat(batch), Trainer.build_optimizer(cfg, model)
    if name in TORCHJD:
        return TorchJDStep(model, loader, optimizer, **TORCHJD[name])
    trainer = SimpleTrainer(wrap(model), loader, optimizer)
    trainer.register_hooks([weigh_paths(cfg, trainer.model, optimizer)])
    return trainer


def _steps(count: int, rounds: int) -> str:
    """Table of times for K = count."""
    torch.manual_seed(0)
    batch = random_batch(BATCH, SIZE, OBJECTS, CLASSES)
    # Alternatives with the same precision share one network, but not its taps.
    exact, fast = new_teacher(), new_teacher(next(iter(FAST)))

    def teacher_of(name: str) -> Teacher:
        shared = fast if name in FAST else exact
        return Teacher(shared.model, shared.input_format, precision=shared.precision)

    def step(name: str) -> Callable[[], None]:
        return whole_step(new_trainer(name, count, batch, make_teacher=teacher_of))

    ours = {name: step(name) for name in (STOCK, *OURS)}
    with EventStorage():
        others, missing = attempt({name: partial(step, name) for name in TORCHJD})
        seconds = take_turns(ours | others, rounds)
    table = ratio_table(
        seconds, "alternative", bars=BARS if count == BAR_PATHS else None, missing=missing
    )
    return f"K = {count}: {', '.join(path['NAME'] for path in PATHS[:count])}.\n\n{table}"


def _memory(count: int, rounds: int) -> str:
    """Table of peak memory for K = count; each number is from a separate process."""
    arguments = {name: (name, count, SIZE, BATCH) for name in (STOCK, *OURS, *TORCHJD)}
    gigabytes, missing = peak_gigabytes(__file__, arguments, rounds)
    bars = MEMORY_BARS if count == BAR_PATHS else None
    return ratio_table(gigabytes, "alternative", bars=bars, missing=missing, unit="GB", digits=2)


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    title = (
        f"## Aggregation: RetinaNet R{STUDENT_DEPTH} from R{TEACHER_DEPTH}, {SIZE} px, batch "
        f"{BATCH}, {rounds} rounds"
    )
    tables = [_steps(count, rounds) for count in PATH_COUNTS]
    tables.append("Peak memory of a process that takes a few steps, imports included.")
    for count in PATH_COUNTS:
        tables.append(f"K = {count}:\n\n{_memory(count, min(rounds, MEMORY_ROUNDS))}")
    return "\n\n".join([title, *tables])


def main(name: str, count: str, size: str, images: str) -> None:
    """Print the peak memory (bytes) of a few steps of one alternative."""
    torch.manual_seed(0)
    batch = random_batch(int(images), int(size), OBJECTS, CLASSES)
    step = whole_step(new_trainer(name, int(count), batch))
    with EventStorage():
        for _ in range(MEMORY_STEPS):
            step()
    print(peak_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
