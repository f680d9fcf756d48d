"""Data: the embedded set, data cards, split lists, and what joins them into training batches."""

from multas.data.card import Card, read_card
from multas.data.cards import register_card, register_cards
from multas.data.formats import DATA_FORMAT_REGISTRY, DataFormat, Source
from multas.data.formats.masks import read_mask
from multas.data.issues import DatasetError, DatasetIssues
from multas.data.loader import build_test_loader, build_train_loader
from multas.data.mapper import MultasMapper
from multas.data.pseudo_labels import PseudoLabels, load_pseudo_labels, save_pseudo_labels
from multas.data.splits.check import SplitReport, check_splits
from multas.data.splits.make import (
    class_counts,
    make_partial_splits,
    make_splits,
    mask_counts,
    write_splits,
)
from multas.data.toy.make import check_toy, make_toy, make_toy_classes
from multas.data.transforms.augmentation import AUGMENTATION_REGISTRY

__all__ = [
    "AUGMENTATION_REGISTRY",
    "DATA_FORMAT_REGISTRY",
    "Card",
    "DataFormat",
    "DatasetError",
    "DatasetIssues",
    "MultasMapper",
    "PseudoLabels",
    "Source",
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
