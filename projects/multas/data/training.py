"""The training data of a config as one loader."""

from detectron2.config import CfgNode
from detectron2.utils import comm

from multas.data.loader import TrainLoader, build_train_loader, load_training_dicts
from multas.data.mapper import MultasMapper
from multas.data.multi_scale import build_batch_sizes
from multas.data.task_batches import TaskLoader, parse_task_batches


def build_training_loader(cfg: CfgNode) -> TrainLoader | TaskLoader:
    """What DATASETS.TRAIN or DATASETS.TASK_BATCHES name, augmented and batched.

    Raises:
        ValueError: a data set or value that is wrong, naming the key.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is '{cfg.DATALOADER.SAMPLER_TRAIN}'; multas' loader, "
            "which resumes exactly, knows 'TrainingSampler' only."
        )
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    batches = parse_task_batches(cfg, seed)
    if not batches:
        return _build_loader(cfg, seed, "DATASETS.TRAIN", "SOLVER.IMS_PER_BATCH")
    loaders = [
        _build_loader(batch.cfg, batch.seed, f"{batch.key}.TRAIN", f"{batch.key}.IMS_PER_BATCH")
        for batch in batches
    ]
    return TaskLoader([batch.task for batch in batches], loaders, cfg.DATASETS.TASK_MODE)


def _build_loader(cfg: CfgNode, seed: int, key: str, batch_size_key: str) -> TrainLoader:
    names = cfg.DATASETS.TRAIN
    dicts = load_training_dicts(names, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, key)
    mapper = MultasMapper(cfg, is_train=True)
    mapper.pseudo_labels.check(dicts, names)
    return build_train_loader(
        dicts,
        mapper,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        batch_size_key=batch_size_key,
        seed=seed,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        copies=cfg.INPUT.COPIES,
        batch_sizes=build_batch_sizes(cfg, seed),
        views=cfg.INPUT.VIEWS,
    )
