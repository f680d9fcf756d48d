"""docs/architecture.md: what it says one adds, in at most fifteen lines each, trains."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

from documents import REPOSITORY, text
from multas.data import DATA_FORMAT_REGISTRY, make_toy, register_card
from multas.distillation import AGGREGATOR_REGISTRY, PATH_REGISTRY
from multas.engine import Trainer, load_config
from multas.modeling import TASK_HEAD_REGISTRY
from training import start, train

TEXT = text("docs/architecture.md")
REGISTRIES = (PATH_REGISTRY, AGGREGATOR_REGISTRY, TASK_HEAD_REGISTRY, DATA_FORMAT_REGISTRY)
WHAT = ["a path", "an aggregator", "a head", "a data format", "a hook"]


def snippets(what: str) -> tuple[str, dict]:
    """The Python of a section, and its YAML."""
    section = re.search(rf"^### {what}\n(.*?)(?=^### |\Z)", TEXT, re.M | re.S)[1]
    python = re.search(r"^```python\n(.*?)^```", section, re.M | re.S)[1]
    config = re.search(r"^```yaml\n(.*?)^```", section, re.M | re.S)
    return python, yaml.safe_load(config[1]) if config else {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny data set with its card, and a folder of the user's own modules.

    What these register is forgotten afterwards.
    """
    folder = tmp_path_factory.mktemp("own")
    root = make_toy(folder / "data", train=8, val=4, test=4)
    card = yaml.safe_load((REPOSITORY / "datasets" / "cards" / "toy.yaml").read_text())
    card |= {"name": "architecture_toy", "root": str(root)}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    for what in WHAT:
        (folder / f"{module_of(what)}.py").write_text(snippets(what)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for registry in REGISTRIES:
            patch.setattr(registry, "_obj_map", dict(registry._obj_map))
        yield folder


def module_of(what: str) -> str:
    return f"architecture_{what.split()[-1]}"


def tiny(folder: Path, run: Path, *opts):
    """The quickstart's student, shrunk to train in seconds."""
    base = str(REPOSITORY / "configs" / "quickstart" / "base.yaml")
    options = [
        "DATASETS.CARDS", [str(folder / "card.yaml")],
        "DATASETS.TRAIN", ["architecture_toy_train"],
        "DATASETS.TEST", [],
        "MODEL.DEVICE", "cpu",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 4,
        "MODEL.FPN.OUT_CHANNELS", 8,
        "SOLVER.IMS_PER_BATCH", 2,
        "SOLVER.MAX_ITER", 3,
        "SOLVER.AMP.ENABLED", False,
        "OUTPUT_DIR", str(run),
    ]  # fmt: skip
    return load_config(base, [*options, *opts])


def distilled(folder: Path, run: Path, config: dict, *opts):
    """The same, distilled by a teacher of random weights, with the YAML of a section."""
    teacher = tiny(folder, run, "MODEL.FPN.OUT_CHANNELS", 16)
    (run / "teacher.yaml").write_text(teacher.dump())
    torch.save({"model": build_model(teacher).state_dict()}, run / "teacher.pth")
    cfg = tiny(
        folder, run,
        "MODEL.META_ARCHITECTURE", "Distiller",
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(run / "teacher.yaml"),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(run / "teacher.pth"),
        *opts,
    )  # fmt: skip
    cfg.merge_from_other_cfg(type(cfg)(config))
    return cfg


@pytest.mark.parametrize("what", WHAT)
def test_it_takes_at_most_fifteen_lines(what):
    python, _ = snippets(what)
    assert 0 < len([line for line in python.splitlines() if line.strip()]) <= 15


def test_a_path_trains(folder, tmp_path):
    cfg = distilled(
        folder, tmp_path, snippets("a path")[1], "IMPORT_MODULES", [module_of("a path")]
    )
    trainer = train(cfg)
    losses = [value for value, _ in trainer.storage.history("path_loss/cosine").values()]
    assert len(losses) == 3 and min(losses) > 0


def test_an_aggregator_trains(folder, tmp_path):
    paths = [{"TYPE": "FeatureMSE", "STUDENT": "backbone"}, {"TYPE": "SoftDetection"}]
    cfg = distilled(
        folder, tmp_path, snippets("an aggregator")[1],
        "IMPORT_MODULES", [module_of("an aggregator")], "MODEL.DISTILLATION.PATHS", paths,
    )  # fmt: skip
    logged = train(cfg).storage.latest()
    for name in ("mse", "soft"):
        assert logged[f"loss_kd_{name}"][0] == pytest.approx(0.5, rel=1e-4)


def test_a_head_trains_on_a_data_format(folder, tmp_path):
    """The number of objects, taught by a format of its own."""
    root = tmp_path / "data" / "counts"
    (root / "pictures").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(root / "pictures" / f"{i}.png")
    (root / "counts.csv").write_text("".join(f"{i},{i}\n" for i in range(4)))
    importlib.import_module(module_of("a data format"))
    card = snippets("a data format")[1] | {"root": str(root)}
    names = register_card(card)
    cfg = tiny(
        folder, tmp_path, "IMPORT_MODULES", [module_of("a head")],
        "DATASETS.TRAIN", [f"{card['name']}_train"],
        "SOLVER.MAX_ITER", 20, "SOLVER.WARMUP_ITERS", 0,
    )  # fmt: skip
    cfg.merge_from_other_cfg(type(cfg)(snippets("a head")[1]))
    assert f"{card['name']}_train" in names
    losses = [value for value, _ in train(cfg).storage.history("total_loss").values()]
    assert sum(losses[-8:]) < sum(losses[:8])


def test_a_hook_logs(folder, tmp_path):
    hook = importlib.import_module(module_of("a hook")).GradientNorm()
    trainer = start(tiny(folder, tmp_path))
    assert isinstance(trainer, Trainer)
    trainer.register_hooks([hook])
    trainer.train()
    assert trainer.storage.latest()["gradient_norm"][0] > 0
