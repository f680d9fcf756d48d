"""What a run depends on: a checkpoint carries it, and only the same run goes on from it.

The contract is a mapping from names to plain values, which a checkpoint can hold and messages show.
A key of the config belongs to it unless it is listed here as free, so that a key that is new or of
your own does.
"""

import fnmatch
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from multas.config import add_multas_config
from multas.data.loader import TrainLoader
from multas.data.pseudo_label_files import file_sha256
from multas.data.pseudo_mask_files import INDEX
from multas.data.task_batches import TaskLoader, training_sets
from multas.distillation.paths.spec import KEY as PATHS
from multas.distillation.paths.spec import parse_paths
from multas.distillation.teacher.build import teacher_nodes
from multas.distillation.teacher.teacher import Teacher
from multas.engine.checkpoint_files import newest_intact, read_checkpoint
from multas.util.annotation import STANDARD
from multas.util.errors import UserError
from multas.util.ranks import decided_by_main

Facts = dict[str, Any]

# What does not change the weights that are trained, or only by rounding: where things are, what is
# measured and written, and how fast.
_FREE = (
    "OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "IMPORT_MODULES", "FLOAT32_PRECISION",
    "*_TEST", "TEST.[!P]*", "MODEL.DEVICE", "MODEL.WEIGHTS",
    "MODEL.TIMM.PRETRAINED",
    "MODEL.CLASSES.*",  # of the data, which are compared
    "DATASETS.TEST", "DATASETS.CARDS", "DATASETS.CHECK_IMAGES", "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD*", "MODEL.DISTILLATION.CACHE.*",
    "MODEL.DISTILLATION.*TEACHER*",  # compared by the content of their files, which may have moved
)  # fmt: skip
# A longer run, or another end of its schedule: it counts from here on, and the log tells it. (Not
# SOLVER.BASE_LR: a checkpoint holds the learning rates, and theirs would prevail.)
_TOLD = ("SOLVER.MAX_ITER", "SOLVER.EPOCHS", "SOLVER.STEPS*", "SOLVER.REFERENCE_WORLD_SIZE")
_PSEUDO_LABELS, _PSEUDO_MASKS = "DATASETS.PSEUDO_LABELS.FILES", "DATASETS.PSEUDO_LABELS.MASKS"
_NOT_SET = "not set"
_SHOWN = 10


def config_facts(cfg: CfgNode) -> Facts:
    """What a run depends on by its config and the files that this names, besides the data.

    Raises:
        UserError: An entry of MODEL.DISTILLATION.PATHS is wrong.
    """
    # A config that is scaled to the number of processes is another one with another number.
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    facts = {key: value for key, value in _leaves(cfg) if not _is_one_of(key, _FREE)}
    facts.update(_path_facts(facts.pop(PATHS)))
    facts[_PSEUDO_LABELS] = [_digest(file) for file in facts[_PSEUDO_LABELS]]
    # The index of a folder of masks has the hash of their values.
    facts[_PSEUDO_MASKS] = [_digest(os.path.join(x, INDEX)) for x in facts[_PSEUDO_MASKS]]
    for key, node in teacher_nodes(cfg):
        facts.update(_teacher_facts(key, node))
    return facts


def data_facts(cfg: CfgNode, loader: TrainLoader | TaskLoader) -> Facts:
    """What a run depends on by its loaded training data: images, annotations and classes."""
    facts: Facts = {}
    for name in training_sets(cfg):
        for kind in STANDARD:
            classes = MetadataCatalog.get(name).get(kind.classes_key)
            if classes:
                facts[f"DATASETS.TRAIN, {kind.classes_key} of '{name}'"] = _plain(classes)
    if isinstance(loader, TrainLoader):
        return facts | {"DATASETS.TRAIN, images": _describe(loader.dataset.dicts)}
    for task, part in zip(loader.tasks, loader.loaders, strict=True):
        facts[f"DATASETS.TASK_BATCHES, images of {task}"] = _describe(part.dataset.dicts)
    return facts


def check_same_run(path: str, old: Facts, new: Facts) -> list[str]:
    """Make sure that the run of a checkpoint depends on the same as this one.

    Args:
        path: the checkpoint.
        old: its contract.
        new: that of this run.

    Returns:
        The differences in the schedule, which are none of the run.

    Raises:
        UserError: Another fact differs; the message names all, with both values.
    """
    # An older or newer version may not have had a key.
    default_cfg = get_cfg()
    add_multas_config(default_cfg)
    defaults = dict(_leaves(default_cfg))
    different: list[str] = []
    told: list[str] = []
    for key in new | old:
        was, now = (x.get(key, defaults.get(key, _NOT_SET)) for x in (old, new))
        if was != now:
            line = f"{key}: {was} in the checkpoint, {now} now"
            (told if _is_one_of(key, _TOLD) else different).append(line)
    if different:
        more = len(different) - _SHOWN
        lines = [*different[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise UserError(
            "\n  ".join([f"{path} is a checkpoint of another run:", *lines])
            + "\nContinue with the old values, or start anew, without --resume and in another "
            "OUTPUT_DIR."
        )
    return told


def check_resumable(cfg: CfgNode) -> None:
    """Compare a config with the checkpoint that a run would go on from, before data are loaded.

    Raises:
        UserError: There is a checkpoint, but it is one of another run, or none can be read.
    """

    def check() -> None:
        path = newest_intact(cfg.OUTPUT_DIR, every_byte=False).path
        if path and (old := read_checkpoint(path).get("contract")):
            check_same_run(path, old, old | config_facts(cfg))

    decided_by_main(check)


def _path_facts(entries: Sequence[Mapping[str, Any]]) -> Facts:
    """The order of the paths, which the weights and the optimiser go by, and each one's options."""
    specs = parse_paths(entries)
    facts: Facts = {PATHS: [spec.name for spec in specs]}
    for spec in specs:
        own = vars(spec) | {"type": spec.type.__name__}
        own |= own.pop("options")
        facts |= {f"{PATHS}, path '{spec.name}', {k.upper()}": _plain(v) for k, v in own.items()}
    return facts


def _teacher_facts(key: str, node: CfgNode) -> Facts:
    """A teacher's own keys, the digest of its weights, and its network."""
    facts = dict(_leaves(node, f"{key}."))
    facts[f"{key}.WEIGHTS"] = _digest(node.WEIGHTS)
    if not os.path.isfile(node.CONFIG_FILE.partition("#")[0]):
        return facts
    del facts[f"{key}.CONFIG_FILE"], facts[f"{key}.OPTS"]
    network = dict(_leaves(Teacher.load_config(node.CONFIG_FILE, node.OPTS)))
    own = ("MODEL.DISTILLATION.*", "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.CLASSES.*")
    return facts | {
        f"{key}, {name}": value
        for name, value in network.items()
        if _is_one_of(name, ("MODEL.*", "INPUT.FORMAT")) and not _is_one_of(name, own)
    }


def _describe(dicts: Sequence[Mapping[str, Any]]) -> str:
    """How many images there are, and a fingerprint of their names, sizes, boxes and classes."""
    digest = hashlib.sha256()
    for record in dicts:
        digest.update(repr(list(_described(record))).encode())
    return f"{len(dicts)} images with fingerprint {digest.hexdigest()[:12]}"


def _described(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(record.items()):
        if key == "annotations":
            yield key, [(x.get("category_id"), *map(float, x.get("bbox", ()))) for x in value]
        elif isinstance(value, str):
            yield key, os.path.basename(value)  # the data may have moved
        elif isinstance(value, int | float):
            yield key, value


def _digest(file: str) -> str:
    """The content of a file in short; what is no local file stands for itself."""
    if not os.path.isfile(file):
        return file
    return f"{os.path.basename(file)} {file_sha256(file)[:12]}"


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a config in full, and their values."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> Any:
    """A value as a checkpoint can hold and compare it: tuples are lists, and so on."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _is_one_of(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
