"""Trainings, each in a folder named by a hash of what it computes, so that rows share them."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

from multas.config import add_multas_config
from multas.engine.report import last_values
from reproduction.data_sets import content_hash, file_hash, names_on_cards
from reproduction.own_data import opts_on_card
from reproduction.tables import METRICS

_DISTILLATION = "MODEL.DISTILLATION"
# Where a recipe may name the product of another one.
_WEIGHTS = ("MODEL.WEIGHTS", f"{_DISTILLATION}.TEACHER.WEIGHTS", f"{_DISTILLATION}.MORE_TEACHERS")
_PRODUCT = re.compile(r"(?:^|(?<=['\"]))output/[^'\"]+/student\.pth")
# A teacher's network is what its own training was told, too; these say what a student is.
_STUDENTS_OWN = ("MODEL.DISTILLATION.", "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS")


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        config_file: its recipe.
        seed: of weights and batches.
        opts: KEY VALUE pairs, without OUTPUT_DIR.
        folder: its own, named by the hash.
        needs: trainings whose weights it starts from or listens to.
        iterations: how many it has, if it is not stopped early.
        selects_on_test: its weights are those that are best on a set on which they are tested.
    """

    config_file: str
    seed: int
    opts: tuple[str, ...]
    folder: Path
    needs: tuple["Run", ...]
    iterations: int
    selects_on_test: bool = False

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        name = self.config_file.removeprefix("configs/").removesuffix(".yaml")
        return f"{name}, seed {self.seed}"

    @property
    def weights(self) -> Path:
        return self.folder / "student.pth"

    @property
    def console(self) -> Path:
        """What the training said, its last words included."""
        return self.folder / "console.txt"

    @property
    def arguments(self) -> list[str]:
        """Of the Python interpreter, in the root of the repository."""
        start = ["train_net.py", "--resume", "--config-file", self.config_file]
        return [*start, *self.opts, "OUTPUT_DIR", str(self.folder)]

    @property
    def command_line(self) -> str:
        return shlex.join(["python", *self.arguments])

    @property
    def is_finished(self) -> bool:
        """Whether weights and final metrics are there; the weights are written last."""
        if not (self.weights.is_file() and (self.folder / "metrics.json").is_file()):
            return False
        return bool({m.key for m in METRICS.values()} & last_values(str(self.folder)).keys())


@dataclass
class Planner:
    """What all runs of one call have in common, and the runs planned so far.

    Args:
        folder: where the folders of the runs are.
        opts: KEY VALUE pairs for every run.
        card: data card to train and test on in place of the recipes' data; "" = none.
    """

    folder: Path
    opts: Sequence[str] = ()
    card: str = ""
    _known: dict[tuple[str, int], Run] = field(default_factory=dict)

    def plan(self, config_file: str, seed: int) -> Run:
        """The training of a recipe, with those that it needs."""
        key = (config_file, seed)
        if key not in self._known:
            self._known[key] = self._plan(config_file, seed)
        return self._known[key]

    def _plan(self, config_file: str, seed: int) -> Run:
        cfg = merged(config_file, [])
        recipe_tests = list(cfg.DATASETS.TEST)
        own = opts_on_card(self.card, cfg) if self.card else []
        opts = [*own, *self.opts, "SEED", str(seed)]
        cfg.merge_from_list(opts)
        told = _teacher_opts(cfg, opts)
        cfg.merge_from_list(told)
        opts += told
        needs: list[Run] = []
        for key in _WEIGHTS:
            text = ours = theirs = str(_value(cfg, key))
            for weights in dict.fromkeys(_PRODUCT.findall(text)):
                if recipe := trained_by(weights):
                    run = self._on_data_of(recipe, recipe_tests).plan(recipe, seed)
                    needs.append(run)
                    ours = ours.replace(weights, str(run.weights))
                    theirs = theirs.replace(weights, f"run {run.digest}")
            if ours != text:
                opts += [key, ours]
                cfg.merge_from_list([key, theirs])
        early = cfg.SOLVER.EARLY_STOPPING
        return Run(
            config_file,
            seed,
            tuple(opts),
            self.folder / digest(cfg),
            tuple(needs),
            cfg.SOLVER.MAX_ITER,
            early.ENABLED and early.DATASET in cfg.DATASETS.TEST,
        )

    def _on_data_of(self, recipe: str, tests: Sequence[str]) -> "Planner":
        """Plans what a recipe with these test sets needs: pretraining stays on its own data."""
        same = list(merged(recipe, []).DATASETS.TEST) == list(tests)
        return self if same or not self.card else Planner(self.folder, self.opts)


def merged(config_file: str, opts: Sequence[str]) -> CfgNode:
    """A config as this machine's devices and data sets do not change it."""
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    return cfg


def digest(cfg: CfgNode) -> str:
    """Names a config by its values, its data and what is in the files that it names.

    Data: what is in the sets of its cards, wherever they lie; Detectron2's own sets, and the
    embedded ones, which are always made alike, are known by their names.
    """
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = ""
    cards = [yaml.safe_load(Path(card).read_text()) for card in cfg.DATASETS.CARDS]
    own = [{k: v for k, v in card.items() if k != "root"} for card in cards]
    content = [content_hash(name) for name in names_on_cards(cfg)]
    content += [file_hash(file) for file in _files(cfg)]
    cfg.DATASETS.CARDS = ()
    return hashlib.sha256(f"{cfg.dump()}{own}{content}".encode()).hexdigest()[:12]


def _files(cfg: CfgNode) -> list[str]:
    """Weights and pseudo-labels that no run makes, as far as the config says."""
    distillation = cfg.MODEL.DISTILLATION
    weights = [cfg.MODEL.WEIGHTS, distillation.TEACHER.WEIGHTS]
    weights += [teacher.get("WEIGHTS", "") for teacher in distillation.MORE_TEACHERS]
    return [*weights, *cfg.DATASETS.PSEUDO_LABELS.FILES]


def trained_by(weights: str) -> str:
    """The recipe whose product a file of weights is, or "": each writes to its own path."""
    recipe = Path("configs", *Path(weights).parent.parts[1:]).with_suffix(".yaml")
    return str(recipe) if recipe.is_file() else ""


def in_order(runs: Iterable[Run]) -> list[Run]:
    """These runs and all that they need, each once and behind what it needs."""
    found: dict[str, Run] = {}
    for run in runs:
        found |= {need.digest: need for need in in_order(run.needs) if need.digest not in found}
        found.setdefault(run.digest, run)
    return list(found.values())


def _value(cfg: CfgNode, key: str) -> object:
    return reduce(getattr, key.split("."), cfg)


def _teacher_opts(cfg: CfgNode, opts: Sequence[str]) -> list[str]:
    """Tells the teachers what their own trainings were told about the network."""
    distillation = cfg.MODEL.DISTILLATION
    network = [
        word
        for key, value in zip(opts[::2], opts[1::2], strict=True)
        if key.startswith("MODEL.") and not key.startswith(_STUDENTS_OWN)
        for word in (key, value)
    ]
    if not network or not distillation.TEACHER.CONFIG_FILE:
        return []
    told = [f"{_DISTILLATION}.TEACHER.OPTS", repr([*distillation.TEACHER.OPTS, *network])]
    if distillation.MORE_TEACHERS:
        more = [{**t, "OPTS": [*t.get("OPTS", []), *network]} for t in distillation.MORE_TEACHERS]
        told += [f"{_DISTILLATION}.MORE_TEACHERS", repr(more)]
    return told
