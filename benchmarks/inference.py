"""Images per second of paper A's student against Detectron2's RetinaNet-R18."""

import statistics
from collections.abc import Callable

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import nn

from multas.engine import load_config
from multas.modeling.fold import fold_batch_norm
from timing import take_turns

SIZE, CLASSES = 320, 20


def students() -> dict[str, nn.Module]:
    """The networks that take turns, in eval mode, with random weights."""
    torch.manual_seed(0)
    file = "configs/limited-data/voc/half/supervised.yaml"
    student = build_model(load_config(file, ["MODEL.WEIGHTS", "", "DATASETS.CARDS", "()"]))
    folded = fold_batch_norm(student)
    return {
        "RetinaNet R18-FPN (Detectron2)": retinanet().eval(),
        "student R18-FPN": student.eval(),
        "student, folded": folded,
        "student, folded, channels last": fold_batch_norm(student).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        ),
    }


def retinanet() -> nn.Module:
    """Detectron2's RetinaNet with a ResNet-18 and as many classes."""
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list(
        ["MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
         "MODEL.RETINANET.NUM_CLASSES", CLASSES, "MODEL.RESNETS.NORM", "BN",
         "MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
    )  # fmt: skip
    return build_model(cfg)


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    models = students()
    rows = []
    for batch in (1, 4):
        inputs = [{"image": torch.randint(256, (3, SIZE, SIZE)).byte()} for _ in range(batch)]

        def predict(model: nn.Module, inputs: list[dict] = inputs) -> Callable[[], None]:
            @torch.no_grad()
            def call() -> None:
                model(inputs)

            return call

        seconds = take_turns({n: predict(m) for n, m in models.items()}, rounds)
        base = min(next(iter(seconds.values())))
        for name, times in seconds.items():
            best, median = batch / min(times), batch / statistics.median(times)
            rows.append([batch, name, best, median, base / min(times)])
    header = ["batch", "network", "images/s (best)", "images/s (median)", "speed ratio"]
    table = tabulate(rows, header, tablefmt="github", floatfmt=("", "", ".1f", ".1f", ".2f"))
    parameters = ", ".join(
        f"{n}: {sum(p.numel() for p in m.parameters()) / 1e6:.1f} M" for n, m in models.items()
    )
    return (
        f"## Inference: {SIZE} px, {rounds} rounds\n\nForward, decoding and NMS of one batch. "
        f"Random weights give few detections above the threshold, for all alike.\n\n{table}\n\n"
        f"Parameters: {parameters}."
    )
