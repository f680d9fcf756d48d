"""Data: the embedded set, data cards, split lists, and what joins them into training batches."""

from multas.data.card import read_card
from multas.data.cards import register_card, register_cards
from multas.data.formats import DATA_FORMAT_REGISTRY, DataFormat
from multas.data.issues import DatasetError
from multas.data.loader import build_test_loader, build_train_loader
from multas.data.mapper import MultasMapper
from multas.data.toy.make import (
    check_toy,
    make_toy,
    make_toy_classes,
    make_toy_source,
)
from multas.data.transforms.augmentation import AUGMENTATION_REGISTRY

__all__ = [
    "AUGMENTATION_REGISTRY",
    "DATA_FORMAT_REGISTRY",
    "DataFormat",
    "DatasetError",
    "MultasMapper",
    "build_test_loader",
    "build_train_loader",
    "check_toy",
    "make_toy",
    "make_toy_classes",
    "make_toy_source",
    "read_card",
    "register_card",
    "register_cards",
]
