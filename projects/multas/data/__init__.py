"""Data: the embedded set, data cards, split lists, and what joins them into training batches."""

from .augmentation import AUGMENTATION_REGISTRY
from .card import Card, read_card
from .cards import register_card, register_cards
from .checks import DatasetError, Problems
from .loader import build_test_loader, build_train_loader
from .mapper import MultasMapper
from .masks import read_mask
from .pseudo_labels import PseudoLabels, load_pseudo_labels, save_pseudo_labels
from .split_check import SplitReport, check_splits
from .splits import (
    class_counts,
    make_partial_splits,
    make_splits,
    mask_counts,
    write_splits,
)
from .toy import check_toy, make_toy
from .toy_classes import make_toy_classes

__all__ = [
    "AUGMENTATION_REGISTRY",
    "Card",
    "DatasetError",
    "MultasMapper",
    "Problems",
    "PseudoLabels",
    "SplitReport",
    "build_test_loader",
    "build_train_loader",
    "check_splits",
    "check_toy",
    "class_counts",
    "load_pseudo_labels",
    "make_partial_splits",
    "make_splits",
    "make_toy",
    "make_toy_classes",
    "mask_counts",
    "read_card",
    "read_mask",
    "register_card",
    "register_cards",
    "save_pseudo_labels",
    "write_splits",
]
