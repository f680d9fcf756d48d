"""Config keys of the data."""

from detectron2.config import CfgNode as CN


def add_data_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    # Data cards (YAML files, see datasets/README.md) that are registered before any data set is
    # looked up. Every split of a card is then a name for DATASETS.TRAIN/TEST, and the same name
    # with `_unlabeled` is that split with its annotations withheld (they are never opened).
    cfg.DATASETS.CARDS = ()

    cfg.DATASETS.PSEUDO_LABELS = CN()
    # Files written by tools/pseudo_label.py. Their boxes join the ground truth of images they
    # name: an annotated image keeps its ground truth alone, an unannotated one gets the boxes.
    cfg.DATASETS.PSEUDO_LABELS.FILES = ()
    # Boxes below this teacher score are not used (on top of what the file already dropped).
    cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH = 0.0
    # At most so many boxes per image, best first; 0 = all.
    cfg.DATASETS.PSEUDO_LABELS.TOPK = 0
    # An image that the file covers but for which no box is left:
    # "background" = annotated as empty; "skip" = stays unannotated (distillation only).
    cfg.DATASETS.PSEUDO_LABELS.EMPTY = "background"

    # Python modules (dotted names) imported at start: the place to register own paths,
    # aggregators, heads … from outside this package.
    cfg.IMPORT_MODULES = ()
