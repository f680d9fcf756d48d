"""Merges KEY VALUE pairs into a config."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge KEY VALUE pairs into a config, in place.

    Keys that are not there yet are added below nodes that allow it.

    Args:
        cfg: the config.
        opts: keys and values in turn.

    Raises:
        ValueError: a key lacks its value.
        AssertionError: there is no such key.
    """
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        *path, last = key.split(".")
        node = cfg
        for name in path:
            node = node.get(name, CfgNode())
        if node.is_new_allowed() and last not in node:
            node[last] = CfgNode._decode_cfg_value(value)
        cfg.merge_from_list([key, value])
