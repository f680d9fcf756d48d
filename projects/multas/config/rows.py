"""Config files and rows of tables, merged into a config or written as plain YAML.

The address of a row, ``FILE#DATA/ROW``, may stand in place of a config file, for instance
``configs/limited-data/table1.yaml#voc/half/teacher``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from detectron2.config import CfgNode

from multas.config.files import merge, read_file
from multas.config.merging import merge_content, merge_old_content
from multas.config.opts import value_of
from multas.config.solver import EPOCH_KEYS
from multas.config.tables import DataSet, Row, Table, check_name, read_table
from multas.util.errors import UserError
from multas.util.files import written_whole
from multas.util.names import did_you_mean
from multas.util.paths import inside


def merge_config(cfg: CfgNode, address: str) -> None:
    """Merge a config file of Detectron2's kind, or a row FILE#DATA/ROW, into a config, in place.

    Nothing that a file says is run.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: There is no such row, it names something that does not exist, or a file, key or
            value is wrong.
    """
    content = read_config(address)
    if "#" in address:
        merge_content(cfg, content, address)
    else:
        merge_old_content(cfg, content, address)


def read_config(address: str) -> dict[str, Any]:
    """The keys that a config file or a row sets, without those that it leaves at their defaults."""
    if "#" not in address:
        content = read_file(address)
        if {"columns", "place"} <= content.keys():
            raise UserError(f"{address} is a table: name one of its rows, {address}#DATA/ROW.")
        return content
    table, data, row = _find(address)
    content = {}
    paths: list[Any] = []
    for part in [*row.parts, *row.paths]:
        own = read_file(_part_file(table, data, part, address))
        merge(content, own, address)
        if part in row.paths:
            paths += _paths_in(own, f"{address}: part '{part}.yaml'")
            merge(content, {"MODEL": {"DISTILLATION": {"PATHS": paths}}}, address)
    if row.train:
        names = [f"{card}_{split}" for split in row.train for card in data.cards]
        merge(content, {"DATASETS": {"TRAIN": names}}, address)
    if row.teacher:
        teacher = _related(table, data, row.teacher)
        keys = {"CONFIG_FILE": teacher, "WEIGHTS": weights_of(teacher)}
        merge(content, {"MODEL": {"DISTILLATION": {"TEACHER": keys}}}, address)
    if row.init:
        merge(content, {"MODEL": {"WEIGHTS": weights_of(_related(table, data, row.init))}}, address)
    merge(content, row.config, address)
    return content | {"OUTPUT_DIR": output_dir(row_address(row, data.name))}


def write_config(cfg: CfgNode, address: str, opts: Sequence[Any], file: str) -> None:
    """Write what a config file or row and KEY VALUE pairs set in ``cfg`` as a plain YAML file.

    Raises:
        UserError: It would replace the config file itself, or a file that is no YAML.
    """
    own = os.path.realpath(file) == os.path.realpath(address.partition("#")[0])
    if os.path.isfile(file) and (own or not file.endswith((".yaml", ".yml"))):
        raise UserError(f"{file} is there and would be lost; write the config to another file.")
    content = read_config(address)
    changed = [key for pair in EPOCH_KEYS.items() for key in pair if pair[0] in opts[::2]]
    for key in [*opts[::2], *changed]:
        entry = value_of(cfg, key)
        for name in reversed(key.split(".")):
            entry = {name: entry}
        merge(content, entry, address)
    with written_whole(file) as partial, open(partial, "w") as stream:
        stream.write(f"# What {address} sets.\n")
        yaml.safe_dump(content, stream, sort_keys=False, default_flow_style=None, width=100)


def row_address(row: Row, data: str) -> str:
    """The address of a row, FILE#DATA/ROW."""
    return f"{row.table}#{data}/{row.name}"


def data_of(address: str) -> str:
    """The name of the data set in a row's address; "" for a config file."""
    return address.partition("#")[2].partition("/")[0]


def output_dir(address: str) -> str:
    """The folder that a row writes to: ``output/`` and its address as a path.

    Raises:
        UserError: The name of the row leads out of ``output/``.
    """
    file, _, row = address.partition("#")
    parts = PurePath(file).with_suffix("").parts
    start = len(parts) - parts[::-1].index("configs") if "configs" in parts else len(parts) - 1
    folder = "/".join(["output", *parts[start:], row])
    inside("output", folder.removeprefix("output/"), address)
    return folder


def weights_of(address: str) -> str:
    """The file of weights that the training of a row writes."""
    return f"{output_dir(address)}/student.pth"


def _find(address: str) -> tuple[Table, DataSet, Row]:
    """The table in which the row stands, its data set, and the row."""
    file, _, rest = address.partition("#")
    name, slash, row_name = rest.partition("/")
    if not slash:
        raise UserError(f"{address}: a row's address is FILE#DATA/ROW.")
    table = read_table(file)
    row = table.row(row_name)
    check_name("data set", name, table.data, file)
    if name not in row.data:
        raise UserError(f"{address}: the row is there on {', '.join(row.data)} alone.")
    home = read_table(row.table)
    return home, home.data[name], row


def _related(table: Table, data: DataSet, name: str) -> str:
    """The address of the teacher, or of the row to start from: NAME or FILE#NAME."""
    file, hash_sign, other = name.rpartition("#")
    if hash_sign:
        table = read_table(os.path.join(os.path.dirname(table.file), file))
    return row_address(table.row(other), data.name)


def _part_file(table: Table, data: DataSet, part: str, address: str) -> str:
    """The file of a part, where one for the data set prevails over one for all of them."""
    sets = filter(None, (data.name, data.like))
    folders = [os.path.join(folder, name) for name in sets for folder in table.parts]
    folders += table.parts
    for folder in folders:
        file = os.path.join(folder, f"{part}.yaml")
        if os.path.isfile(file):
            return file
    known = {f.removesuffix(".yaml") for d in folders if os.path.isdir(d) for f in os.listdir(d)}
    raise UserError(
        f"{address}: no part '{part}.yaml' in {', '.join(folders)}.{did_you_mean(part, known)}"
    )


def _paths_in(content: Mapping[str, Any], where: str) -> list[Any]:
    """The distillation paths that a part adds."""
    try:
        return list(content["MODEL"]["DISTILLATION"]["PATHS"])
    except (KeyError, TypeError):
        raise UserError(f"{where} needs a list in MODEL.DISTILLATION.PATHS.") from None
