"""KEY VALUE pairs of a command line, merged into a config."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from multas.config.merging import adopt_auto, check_not_renamed, check_value, decode
from multas.config.solver import EPOCH_KEYS
from multas.util.errors import UserError
from multas.util.names import did_you_mean


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge keys and values, which come in turn, into a config, in place.

    New keys are added below nodes that allow it. A whole number is accepted for a key with a
    fraction. A key in iterations turns its counterpart in epochs off, so that
    ``SOLVER.MAX_ITER 20`` means 20 iterations even if a file gives ``SOLVER.EPOCHS``.

    Raises:
        UserError: A key lacks its value, or a schedule is given in iterations and in epochs.
        UserError: There is no such key (the nearest one is named), or the value has another type.
    """
    for word in opts:
        if isinstance(word, str) and word.startswith("--"):
            raise UserError(f"{word} stands among the pairs of KEY VALUE; put it before them.")
    if len(opts) % 2:
        raise UserError(f"{opts[-1]}: options are pairs of KEY VALUE, and this one has no pair.")
    for key in opts[::2]:
        if not isinstance(key, str):
            raise UserError(f"{key!r}: options are pairs of KEY VALUE, and this is no key.")
    given = dict(zip(opts[::2], opts[1::2], strict=True))
    for key, value in given.items():
        check_not_renamed(cfg, key)
        if not cfg.key_is_deprecated(key):
            value = _prepare(cfg, key, value)
        cfg.merge_from_list([key, value])
    for key, in_epochs in EPOCH_KEYS.items():
        if key not in given:
            continue
        if in_epochs in given and value_of(cfg, in_epochs):
            raise UserError(f"{key} and {in_epochs} say the same thing twice; give one of them.")
        cfg.merge_from_list([in_epochs, type(value_of(cfg, in_epochs))()])


def _prepare(cfg: CfgNode, key: str, value: Any) -> Any:
    """The value for a key, which is added where its node allows it."""
    *path, last = key.split(".")
    node = cfg
    for depth, name in enumerate([*path, last]):
        if name not in node:
            if depth == len(path) and node.is_new_allowed():
                setattr(node, last, decode(value, key))
                return value
            where = ".".join(path[:depth]) or "the config"
            raise UserError(f"{key}: {where} has no key '{name}'.{did_you_mean(name, node)}")
        if depth < len(path):
            node = node[name]
            if not isinstance(node, CfgNode):
                raise UserError(f"{key}: {'.'.join(path[: depth + 1])} is a value, not a group.")
    decoded = decode(value, key)
    adopt_auto(node, last, decoded, key)
    if isinstance(node[last], float) and type(decoded) is int:
        return float(decoded)
    check_value(decoded, node[last], key)
    return value


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
