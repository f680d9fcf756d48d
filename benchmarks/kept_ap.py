"""AP of a student, trained on the embedded data set, with each runtime."""

import contextlib
import io
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch import nn

from multas.data import make_toy
from multas.engine import Trainer, load_config
from multas.engine.inference import load_model
from multas.modeling.fold import fold_batch_norm
from multas.modeling.multitask_network import RawOutputs
from runtimes import RUNTIMES, Network, RawNetwork
from timing import attempt

FILE = "configs/limited-data/table1.yaml#toy/half/supervised"
OPTS: tuple = ()
# All test images are stretched to this size, since a trace or an exported graph has a fixed one.
SIDE = 128


class RunBy(nn.Module):
    """A detector whose backbone and detection head run in a runtime.

    Args:
        model: a MultiTaskNetwork for preprocessing and decoding.
        network: replaces its :class:`RawNetwork`, for one image.
    """

    def __init__(self, model: Any, network: Network) -> None:
        super().__init__()
        self.model = model
        self.network = network

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Inputs and outputs are those of the model in eval mode."""
        batched_inputs = self.model.network_input(batched_inputs)
        images = self.model.preprocess_image(batched_inputs)
        outputs = [x.to(self.model.device) for x in self.network(images.tensor)]
        logits, deltas = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
        # Anchors need only the shapes of the maps.
        maps = dict(zip(self.model.heads["det"].in_features, logits, strict=True))
        outputs_of_heads = RawOutputs(images, maps, {"det": (logits, deltas)})
        return self.model.results(outputs_of_heads, batched_inputs)


def trained(folder: str) -> tuple[CfgNode, Any]:
    """Train the student (a minute); return it with the config for testing."""
    make_toy("datasets/toy")
    cfg = load_config(FILE, ["OUTPUT_DIR", folder, *OPTS])
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg.defrost()
    cfg.INPUT.SQUARE_SIZE, cfg.INPUT.MIN_SIZE_TEST = SIDE, 0
    return cfg, load_model(cfg, str(Path(folder) / "student.pth"))


def scores(cfg: CfgNode, model: Any) -> tuple[dict[str, float], dict[str, str]]:
    """AP as trained, folded, and folded in each runtime; and why other runtimes fail."""
    found: dict[str, float] = {}
    folded = fold_batch_norm(model)
    network = RawNetwork(folded).eval()
    example = torch.randn(1, 3, SIDE, SIDE, device=model.device)

    def score(name: str, tested: nn.Module) -> None:
        found[name] = Trainer.test(cfg, tested)["bbox"]["AP"]

    def score_runtime(name: str) -> None:
        score(f"folded, {name}", RunBy(folded, RUNTIMES[name](network, example)).eval())

    score("as trained", model)
    score("folded", folded)
    # attempt() expects makers of calls; here there is nothing to make.
    makers = {name: partial(partial, score_runtime, name) for name in RUNTIMES}
    _, missing = attempt(makers)
    return found, missing


def run() -> str:
    """Table of APs and their difference to the student as trained."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg, model = trained(folder)
        with torch.no_grad():
            found, missing = scores(cfg, model)
    base = found["as trained"]
    rows = [[name, f"{ap:.2f}", f"{ap - base:+.2f}"] for name, ap in found.items()]
    rows += [[name, reason, "-"] for name, reason in missing.items()]
    header = ["student", "AP", "difference"]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    return f"AP of {FILE} on the embedded test set:\n\n{table}"
