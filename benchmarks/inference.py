"""Images per second of the student of Lê and Pham (ICCVW 2023), against Detectron2's RetinaNet."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

import kept_ap
from multas.engine import load_config
from multas.modeling.fold import fold_batch_norm
from runtimes import RUNTIMES, Network, RawNetwork, deviation
from stock import retinanet_config
from tables import rate_table
from timing import attempt, take_turns

SIZE, CLASSES = 320, 20
BATCHES = (1, 4)
FILE = "configs/limited-data/table1.yaml#voc/half/supervised"
STOCK, STUDENT = "RetinaNet R18-FPN (Detectron2)", "student R18-FPN"
FOLDED_STOCK, FOLDED = f"{STOCK}, folded", f"{STUDENT}, folded"


def networks() -> dict[str, nn.Module]:
    """Both models in eval mode with random weights, as trained and with folded BatchNorms."""
    torch.manual_seed(0)
    stock = build_model(retinanet_config(18, CLASSES, ["MODEL.RESNETS.NORM", "BN"])).eval()
    cfg = load_config(FILE, ["MODEL.WEIGHTS", "", "DATASETS.CARDS", "()"])
    student = build_model(cfg).eval()
    return {
        STOCK: stock,
        FOLDED_STOCK: fold_batch_norm(stock),
        STUDENT: student,
        FOLDED: fold_batch_norm(student),
    }


def whole(models: dict[str, nn.Module], batch: int, rounds: int) -> str:
    """Table of whole models, from images to boxes."""
    inputs = [{"image": torch.randint(256, (3, SIZE, SIZE)).byte()} for _ in range(batch)]
    last = fold_batch_norm(models[FOLDED])
    last = last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    alternatives = {**models, f"{FOLDED}, channels last": last}
    calls = {name: partial(_call, model, inputs) for name, model in alternatives.items()}
    return rate_table(take_turns(calls, rounds), f"batch {batch}", batch)


@torch.no_grad()
def _call(network: Callable[[Any], Any], inputs: Any) -> Any:
    return network(inputs)


def raw(models: dict[str, nn.Module], batch: int, rounds: int) -> str:
    """Table of networks without decoding and NMS, and of runtimes for the folded student."""
    plain = {name: RawNetwork(model).eval() for name, model in models.items()}
    network = plain[FOLDED]
    example = torch.randn(batch, 3, SIZE, SIZE, device=next(network.parameters()).device)
    made: dict[str, Network] = {}

    def make(name: str) -> Callable[[], Any]:
        with torch.no_grad():
            made[name] = RUNTIMES[name](network, example)
        return partial(_call, made[name], example)

    calls = {name: partial(_call, plain[name], example) for name in plain}
    others = {f"{FOLDED}, {name}": partial(make, name) for name in RUNTIMES}
    works, missing = attempt(others)
    seconds = take_turns(calls | works, rounds)
    expected: list[Tensor] = _call(network, example)
    wrong = ", ".join(
        f"{name} {deviation(_call(call, example), expected):.0e}"
        for name, call in made.items()
        if f"{FOLDED}, {name}" in works
    )
    table = rate_table(seconds, f"batch {batch}, network alone", batch, missing=missing)
    return f"{table}\n\nLargest deviation, relative to the largest output: {wrong}."


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    models = networks()
    parameters = ", ".join(
        f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
        for name, model in models.items()
    )
    return "\n\n".join(
        [
            f"## Inference: {SIZE} px, {rounds} rounds",
            "From images to boxes. Random weights give few detections above the threshold.",
            *(whole(models, batch, rounds) for batch in BATCHES),
            "The network alone, from a normalised tensor to logits and deltas.",
            *(raw(models, batch, rounds) for batch in BATCHES),
            kept_ap.run(),
            f"Parameters: {parameters}.",
        ]
    )
