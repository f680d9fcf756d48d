"""The training data of a config as one loader."""

from collections.abc import Sequence
from typing import cast

from detectron2.config import CfgNode
from detectron2.utils import comm

from multas.data.dataset_dicts import load_training_dicts
from multas.data.loader import SeededDataset, TrainLoader, build_train_loader
from multas.data.mapper import MultasMapper
from multas.data.task_batches import KEY, TaskLoader, parse_task_batches
from multas.data.transforms.multi_scale import build_batch_sizes


def build_training_loader(cfg: CfgNode) -> TrainLoader | TaskLoader:
    """The images of DATASETS.TRAIN or DATASETS.TASK_BATCHES, augmented and batched.

    Raises:
        ValueError: if a data set or value is wrong; the message names the key.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is '{cfg.DATALOADER.SAMPLER_TRAIN}'; multas' loader, "
            "which resumes exactly, knows 'TrainingSampler' only."
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    batches = parse_task_batches(cfg, seed)
    if not batches:
        loader = _build_loader(cfg, seed, "DATASETS.TRAIN", "SOLVER.IMS_PER_BATCH")
        _check_pseudo_labels([cfg], [loader], "DATASETS.TRAIN")
        return loader
    loaders = [
        _build_loader(batch.cfg, batch.seed, f"{batch.key}.TRAIN", batch.batch_size_key)
        for batch in batches
    ]
    _check_pseudo_labels([batch.cfg for batch in batches], loaders, KEY)
    return TaskLoader([batch.task for batch in batches], loaders, cfg.DATASETS.TASK_MODE)


def mini_batches(cfg: CfgNode) -> list[tuple[int, int]]:
    """Of each mini-batch of an iteration: the images of its data, and how many it has itself.

    Images that the loader leaves out are not counted, copies count once.

    Raises:
        ValueError: a data set or value that is wrong, naming the key.
    """
    own = [(batch.cfg, f"{batch.key}.TRAIN") for batch in parse_task_batches(cfg, seed=0)]
    return [
        (len(_load_dicts(batch_cfg, key)), batch_cfg.SOLVER.IMS_PER_BATCH)
        for batch_cfg, key in own or [(cfg, "DATASETS.TRAIN")]
    ]


def _load_dicts(cfg: CfgNode, key: str) -> list[dict]:
    return load_training_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, key)


def _build_loader(cfg: CfgNode, seed: int, key: str, batch_size_key: str) -> TrainLoader:
    return build_train_loader(
        _load_dicts(cfg, key),
        MultasMapper(cfg, is_train=True),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        batch_size_key=batch_size_key,
        seed=seed,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        copies=cfg.INPUT.COPIES,
        batch_sizes=build_batch_sizes(cfg, seed),
        views=cfg.INPUT.VIEWS,
    )


def _check_pseudo_labels(cfgs: Sequence[CfgNode], loaders: Sequence[TrainLoader], key: str) -> None:
    """Make sure that each file of pseudo-labels has labels for images of at least one task."""
    for files in {tuple(cfg.DATASETS.PSEUDO_LABELS.FILES) for cfg in cfgs}:
        own = [
            (cfg.DATASETS.TRAIN, cast(SeededDataset, loader.dataset))
            for cfg, loader in zip(cfgs, loaders, strict=True)
            if files and tuple(cfg.DATASETS.PSEUDO_LABELS.FILES) == files
        ]
        names = [name for train, _ in own for name in train]
        read = [cast(MultasMapper, dataset.mapper).pseudo_labels for _, dataset in own]
        used = [labels for labels in read if labels.headers]
        if own and not used:
            raise ValueError(
                f"{key} {tuple(names)}: none of them has classes of boxes, which "
                "DATASETS.PSEUDO_LABELS.FILES needs."
            )
        for labels in used[:1]:
            labels.check([sample for _, dataset in own for sample in dataset.dicts], names, key)
