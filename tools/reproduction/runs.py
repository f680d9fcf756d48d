"""Trainings, each in a folder named by a hash of what it computes, so that rows share them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from multas.config import add_multas_config, merge_config, merge_opts
from multas.config.rows import data_of
from multas.data import register_cards
from multas.data.pseudo_mask_files import INDEX
from multas.engine.epochs import resolve_epochs
from multas.util.yaml_files import read_yaml
from reproduction.data_sets import content_hash, file_hash, names_on_cards
from reproduction.own_data import opts_on_card
from reproduction.run import Run
from reproduction.tables import rows_by_weights

PRETRAINING_SEED = 1
_DISTILLATION = "MODEL.DISTILLATION"
# A teacher's network is what its own training was told, too; these say what a student is.
_STUDENTS_OWN = ("MODEL.DISTILLATION.", "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS")


@dataclass
class Planner:
    """What all runs of one call have in common, and the runs planned so far.

    Args:
        folder: the folder that has those of the runs.
        opts: KEY VALUE pairs for every run. Those of MODEL.DISTILLATION pass by the runs that do
            not distil, which are shared.
        card: the data card to train and test on in place of the rows' data; "" = none.
        gpus: how many GPUs a training may have. It has as many of them as can share its batches
            equally, so that batch and learning rate are those of the recipe.
        results: what is kept of runs, by their hashes.
        changes_for: KEY VALUE pairs for a run, by its config; ``opts`` prevail over them.
    """

    folder: Path
    opts: Sequence[str] = ()
    card: str = ""
    gpus: int = 1
    results: Mapping[str, Mapping] = field(default_factory=dict)
    changes_for: Callable[[CfgNode], list[str]] = lambda cfg: []
    _known: dict[tuple[str, int], Run] = field(default_factory=dict)
    _rows: Mapping[str, str] = field(default_factory=rows_by_weights)

    def plan(self, config_file: str, seed: int) -> Run:
        """The training of a row or config file, with those that it needs."""
        key = (config_file, seed)
        if key not in self._known:
            self._known[key] = self._plan(config_file, seed)
        return self._known[key]

    def _plan(self, config_file: str, seed: int) -> Run:
        cfg = merged(config_file, [])
        own = opts_on_card(self.card, cfg) if self.card else []
        own += self.changes_for(cfg)
        opts = [*own, *_opts_for(cfg, self.opts), "SEED", str(seed)]
        merge_opts(cfg, opts)
        told = _teacher_opts(cfg, opts)
        merge_opts(cfg, told)
        made = {
            weights: self._needed(self._rows[weights], config_file, seed)
            for weights in dict.fromkeys(_weights(cfg))
            if weights in self._rows
        }
        opts += [*told, *_weights_opts(cfg, made, lambda run: str(run.weights))]
        merge_opts(cfg, _weights_opts(cfg, made, lambda run: f"run {run.digest}"))
        early, name = cfg.SOLVER.EARLY_STOPPING, digest(cfg)
        return Run(
            config_file,
            seed,
            tuple(opts),
            self.folder / name,
            tuple(made.values()),
            0 if cfg.SOLVER.EPOCHS else cfg.SOLVER.MAX_ITER,
            early.ENABLED and early.DATASET in cfg.DATASETS.TEST,
            max(n for n in range(1, self.gpus + 1) if not any(x % n for x in batch_sizes(cfg))),
            self.results.get(name),
        )

    def _needed(self, row: str, by: str, seed: int) -> Run:
        """The run of a row that another row needs, with this seed.

        One on other data is pretraining: it keeps its data where all others get a card, and is the
        same for all seeds, as the weights of ImageNet are.
        """
        if data_of(row) == data_of(by):
            return self.plan(row, seed)
        planner = replace(self, card="", _known={}) if self.card else self
        return planner.plan(row, PRETRAINING_SEED)


def _opts_for(cfg: CfgNode, opts: Sequence[str]) -> list[str]:
    """KEY VALUE pairs without those of distillation, where the run has none."""
    pairs = list(zip(opts[::2], opts[1::2], strict=True))
    names = [cfg.MODEL.META_ARCHITECTURE, dict(pairs).get("MODEL.META_ARCHITECTURE")]
    own = [
        pair
        for pair in pairs
        if "Distiller" in names or not pair[0].startswith(f"{_DISTILLATION}.")
    ]
    return [word for pair in own for word in pair]


def merged(config_file: str, opts: Sequence[str]) -> CfgNode:
    """The config of a row or file and KEY VALUE pairs, whatever devices and data there are."""
    cfg = get_cfg()
    add_multas_config(cfg)
    merge_config(cfg, config_file)
    merge_opts(cfg, opts)
    return cfg


def batch_sizes(cfg: CfgNode) -> list[int]:
    """The images of each mini-batch of an iteration, over all processes and without copies."""
    own = cfg.SOLVER.IMS_PER_BATCH
    return [x.get("IMS_PER_BATCH", own) for x in cfg.DATASETS.TASK_BATCHES] or [own]


def images_per_iteration(cfg: CfgNode) -> int:
    """The images of an iteration, over all processes and with their copies."""
    each = batch_sizes(cfg)
    images = max(each) if cfg.DATASETS.TASK_MODE == "alternate" else sum(each)
    return images * cfg.INPUT.COPIES


@cache
def iterations_of(run: Run) -> int:
    """The iterations of a run; for a schedule in epochs its data are counted (0: unreadable)."""
    if run.iterations:
        return run.iterations
    cfg = merged(run.config_file, run.opts)
    try:
        register_cards(cfg.DATASETS.CARDS)
        return resolve_epochs(cfg).SOLVER.MAX_ITER
    except (OSError, ValueError):
        return 0


def digest(cfg: CfgNode) -> str:
    """A hash of a config's values, of its data and of the content of the files that it names.

    The data sets of its cards count by their content, wherever they lie. Detectron2's own sets and
    the embedded ones, which are always made alike, count by their names.
    """
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = ""
    cards = [read_yaml(card) for card in cfg.DATASETS.CARDS]
    own = [{k: v for k, v in card.items() if k != "root"} for card in cards]
    content = [content_hash(name) for name in names_on_cards(cfg)]
    content += [file_hash(file) for file in _files(cfg)]
    cfg.DATASETS.CARDS = ()
    return hashlib.sha256(f"{cfg.dump()}{own}{content}".encode()).hexdigest()[:12]


def _files(cfg: CfgNode) -> list[str]:
    """The files of weights and pseudo-labels that a config names."""
    labels = cfg.DATASETS.PSEUDO_LABELS
    return [*_weights(cfg), *labels.FILES, *(os.path.join(x, INDEX) for x in labels.MASKS)]


def _weights(cfg: CfgNode) -> list[str]:
    """The files of weights that a config names: those to start from and those of teachers."""
    distillation = cfg.MODEL.DISTILLATION
    if cfg.MODEL.META_ARCHITECTURE != "Distiller":
        return [cfg.MODEL.WEIGHTS]
    more = [teacher.get("WEIGHTS", "") for teacher in distillation.MORE_TEACHERS]
    return [cfg.MODEL.WEIGHTS, distillation.TEACHER.WEIGHTS, *more]


def _weights_opts(cfg: CfgNode, made: Mapping[str, Run], name: Callable[[Run], str]) -> list[str]:
    """KEY VALUE pairs that give ``name(run)`` in place of the weights that runs make."""
    distillation = cfg.MODEL.DISTILLATION
    pairs = {
        "MODEL.WEIGHTS": cfg.MODEL.WEIGHTS,
        f"{_DISTILLATION}.TEACHER.WEIGHTS": distillation.TEACHER.WEIGHTS,
    }
    opts = [w for k, v in pairs.items() if v in made for w in (k, name(made[v]))]
    if any(teacher.get("WEIGHTS") in made for teacher in distillation.MORE_TEACHERS):
        more = [
            {**t, "WEIGHTS": name(made[t["WEIGHTS"]])} if t.get("WEIGHTS") in made else dict(t)
            for t in distillation.MORE_TEACHERS
        ]
        opts += [f"{_DISTILLATION}.MORE_TEACHERS", repr(more)]
    return opts


def in_order(runs: Iterable[Run]) -> list[Run]:
    """The runs and all that they need, each once and behind what it needs."""
    found: dict[str, Run] = {}
    for run in runs:
        found |= {need.digest: need for need in in_order(run.needs) if need.digest not in found}
        found.setdefault(run.digest, run)
    return list(found.values())


def _teacher_opts(cfg: CfgNode, opts: Sequence[str]) -> list[str]:
    """KEY VALUE pairs that tell the teachers what their own trainings were told of the network."""
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
