"""Merges config files, rows of tables and KEY VALUE pairs into a config.

Wherever a config file is named, the address of a row may stand, ``FILE#DATA/ROW``, for instance
``configs/limited-data/table1.yaml#voc/half/teacher``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from detectron2.config import CfgNode

from multas.config.solver import EPOCH_KEYS
from multas.config.tables import DataSet, Row, Table, find_data_set, find_row, read_table
from multas.util.names import did_you_mean


def merge_config(cfg: CfgNode, address: str) -> None:
    """Merge a config file or a row of a table into a config, in place.

    Args:
        cfg: a config that has the keys of Detectron2 and multas.
        address: a YAML file of Detectron2's kind, or FILE#DATA/ROW.

    Raises:
        ValueError: there is no such row, or it names something that does not exist.
    """
    if "#" in address:
        cfg.merge_from_other_cfg(CfgNode(read_config(address)))
    elif _is_table(address):
        raise ValueError(f"{address} is a table: name one of its rows, {address}#DATA/ROW.")
    else:
        cfg.merge_from_file(address)


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge KEY VALUE pairs into a config, in place.

    Keys that are not there yet are added below nodes that allow it. A whole number is accepted
    for a key with a fraction. A key in iterations turns its counterpart in epochs off, so that
    ``SOLVER.MAX_ITER 20`` means 20 iterations also where a file gives ``SOLVER.EPOCHS``.

    Args:
        cfg: the config.
        opts: keys and values in turn.

    Raises:
        ValueError: a key lacks its value, or a schedule is given in iterations and in epochs.
        KeyError: there is no such key; the nearest one is named.
    """
    if len(opts) % 2:
        raise ValueError(f"{opts[-1]}: options are pairs of KEY VALUE, and this one has no pair.")
    given = dict(zip(opts[::2], opts[1::2], strict=True))
    for key, value in given.items():
        if not cfg.key_is_deprecated(key) and not cfg.key_is_renamed(key):
            value = _prepare(cfg, key, value)
        cfg.merge_from_list([key, value])
    for key, in_epochs in EPOCH_KEYS.items():
        if key in given and in_epochs in given and value_of(cfg, in_epochs):
            raise ValueError(f"{key} and {in_epochs} say the same thing twice; give one of them.")
        if key in given and in_epochs not in given:
            cfg.merge_from_list([in_epochs, type(value_of(cfg, in_epochs))()])


def _prepare(cfg: CfgNode, key: str, value: Any) -> Any:
    """The value for a key, which is added where its node allows it."""
    *path, last = key.split(".")
    node = cfg
    for depth, name in enumerate([*path, last]):
        if name not in node:
            if depth == len(path) and node.is_new_allowed():
                setattr(node, last, CfgNode._decode_cfg_value(value))
                return value
            where = ".".join(path[:depth]) or "the config"
            raise KeyError(f"{key}: {where} has no key '{name}'.{did_you_mean(name, node)}")
        if depth < len(path):
            node = node[name]
            if not isinstance(node, CfgNode):
                raise KeyError(f"{key}: {'.'.join(path[: depth + 1])} is a value, not a group.")
    decoded = CfgNode._decode_cfg_value(value)
    whole = isinstance(node[last], float) and type(decoded) is int
    return float(decoded) if whole else value


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def read_config(address: str) -> dict[str, Any]:
    """The keys that a config file or a row sets, without those that it leaves at their defaults.

    Raises:
        ValueError: see :func:`merge_config`.
    """
    if "#" not in address:
        return CfgNode.load_yaml_with_base(address, allow_unsafe=True)
    table, data, row = _find(address)
    content: dict[str, Any] = {}
    paths: list[Any] = []
    for part in [*row.parts, *row.paths]:
        _merge(content, CfgNode.load_yaml_with_base(_part_file(table, data, part, address)))
        if part in row.paths:
            paths += content["MODEL"]["DISTILLATION"]["PATHS"]
            content["MODEL"]["DISTILLATION"]["PATHS"] = paths
    if row.train:
        names = [f"{card}_{split}" for split in row.train for card in data.cards]
        _merge(content, {"DATASETS": {"TRAIN": names}})
    if row.teacher:
        teacher = _related(table, data, row.teacher)
        own = {"CONFIG_FILE": teacher, "WEIGHTS": weights_of(teacher)}
        _merge(content, {"MODEL": {"DISTILLATION": {"TEACHER": own}}})
    if row.init:
        weights = weights_of(_related(table, data, row.init))
        _merge(content, {"MODEL": {"WEIGHTS": weights}})
    _merge(content, row.config)
    return content | {"OUTPUT_DIR": output_dir(row_address(row, data.name))}


def write_config(cfg: CfgNode, address: str, opts: Sequence[Any], file: str) -> None:
    """Write what a config file or row and KEY VALUE pairs set as a plain YAML file.

    Args:
        cfg: what they were merged into.
        address: see :func:`merge_config`.
        opts: keys and values in turn.
        file: to write.
    """
    content = read_config(address)
    changed = [key for pair in EPOCH_KEYS.items() for key in pair if pair[0] in opts[::2]]
    for key in [*opts[::2], *changed]:
        *path, last = key.split(".")
        value = value_of(cfg, key)
        entry: dict[str, Any] = {last: list(value) if isinstance(value, tuple) else value}
        for name in reversed(path):
            entry = {name: entry}
        _merge(content, entry)
    with open(file, "w") as stream:
        stream.write(f"# What {address} sets.\n")
        yaml.safe_dump(content, stream, sort_keys=False, default_flow_style=None, width=100)


def row_address(row: Row, data: str) -> str:
    """Where a row stands: FILE#DATA/ROW."""
    return f"{row.table}#{data}/{row.name}"


def output_dir(address: str) -> str:
    """The folder that a row writes to: ``output/`` and its address as a path."""
    file, _, row = address.partition("#")
    parts = PurePath(file).with_suffix("").parts
    start = len(parts) - parts[::-1].index("configs") if "configs" in parts else len(parts) - 1
    return "/".join(["output", *parts[start:], row])


def weights_of(address: str) -> str:
    """The file of the weights that training a row makes."""
    return f"{output_dir(address)}/student.pth"


def _find(address: str) -> tuple[Table, DataSet, Row]:
    """The table in which the row stands, its data set, and the row."""
    file, _, rest = address.partition("#")
    name, slash, row_name = rest.partition("/")
    if not slash:
        raise ValueError(f"{address}: a row's address is FILE#DATA/ROW.")
    table = read_table(file)
    row = find_row(table, row_name)
    find_data_set(table, name)
    home = table if row.table == table.file else read_table(row.table)
    data = find_data_set(home, name)
    if name not in row.data:
        raise ValueError(f"{address}: the row is there on {', '.join(row.data)} alone.")
    return home, data, row


def _related(table: Table, data: DataSet, name: str) -> str:
    """The address of the teacher, or of the row to start from: NAME or FILE#NAME."""
    file, hash_sign, other = name.rpartition("#")
    if hash_sign:
        table = read_table(os.path.join(os.path.dirname(table.file), file))
    return row_address(find_row(table, other), data.name)


def _part_file(table: Table, data: DataSet, part: str, address: str) -> str:
    """The file of a part: one for the data set prevails over one for all of them."""
    folders = [os.path.join(folder, data.name) for folder in table.folders] + [*table.folders]
    for folder in folders:
        file = os.path.join(folder, f"{part}.yaml")
        if os.path.isfile(file):
            return file
    known = {f.removesuffix(".yaml") for d in folders if os.path.isdir(d) for f in os.listdir(d)}
    raise ValueError(
        f"{address}: no part '{part}.yaml' in {', '.join(folders)}.{did_you_mean(part, known)}"
    )


def _merge(content: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Merge nested mappings, in place; the values of the second prevail."""
    for key, value in other.items():
        if isinstance(value, Mapping):
            own = content.get(key)
            content[key] = dict(own) if isinstance(own, Mapping) else {}
            _merge(content[key], value)
        else:
            content[key] = value


def _is_table(file: str) -> bool:
    """Whether a YAML file is a table of rows rather than a config."""
    with open(file) as stream:
        content = yaml.compose(stream, yaml.SafeLoader)
    keys = {key.value for key, _ in content.value} if content else set()
    return {"columns", "place"} <= keys
