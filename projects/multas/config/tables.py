"""Tables of papers as data: one YAML file per table, whose rows are configs.

``configs/README.md`` describes the files. This module reads and checks them;
:mod:`multas.config.merge` turns a row into a config.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import yaml

from multas.util.names import did_you_mean

_TABLE_KEYS = ("name", "paper", "place", "title", "metrics", "parts", "data", "columns")
_DATA_KEYS = ("title", "cards", "metrics", "stands_for")
_COLUMN_KEYS = ("name", "labels", "baseline", "rows")
_ROW_KEYS = ("parts", "paths", "train", "teacher", "init", "label", "paper", "data", "baseline")
_REFERENCE_KEYS = ("table", "paper", "baseline")


@dataclass(frozen=True)
class DataSet:
    """A data set on which the rows of a table are run.

    Attributes:
        name: the first part of a row's address.
        title: what reports call it.
        cards: names of the data cards whose splits are joined: the split "half" of the cards
            voc2007 and voc2012 is the data sets voc2007_half and voc2012_half.
        metrics: names of the paper's numbers on it, in the order in which rows list them.
        stands_for: another data set of the table, whose rows and numbers it has; "" = none.
    """

    name: str
    title: str
    cards: tuple[str, ...]
    metrics: tuple[str, ...]
    stands_for: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table, on all of its data sets.

    Attributes:
        name: unique in its table, e.g. "half/self_trained".
        table: the table file in which the row stands; others may refer to it.
        label: what the paper calls it.
        data: names of the data sets that have the row.
        parts: names of the YAML files that it is made of, merged in this order.
        paths: names of the files whose distillation paths it has, in this order.
        train: names of the splits that it is trained on; () = those that its parts name.
        teacher: the row that is its teacher, a name or FILE#NAME; "" = none.
        init: the row whose weights it starts from, likewise.
        config: config keys that prevail over the parts.
        paper: data set -> metric -> the paper's number.
        baseline: the last part of the name of the row that it is compared with; "" = none.
    """

    name: str
    table: str
    label: str
    data: tuple[str, ...]
    parts: tuple[str, ...]
    paths: tuple[str, ...]
    train: tuple[str, ...]
    teacher: str
    init: str
    config: Mapping[str, Any]
    paper: Mapping[str, Mapping[str, float]]
    baseline: str


@dataclass(frozen=True)
class Column:
    """Rows that compete with each other, in the paper's order.

    Attributes:
        name: of the column; "" where a table has only one for each data set.
        labels: the share of the images that is annotated; 0 = it does not vary.
        rows: the rows.
    """

    name: str
    labels: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes:
        file: the YAML file.
        name: short name, e.g. "A1".
        paper: title of the paper.
        place: "Table 1" or the like.
        title: what the table shows.
        folders: where the parts of the rows are looked for, in this order.
        data: the data sets, by name.
        columns: the columns of each data set.
    """

    file: str
    name: str
    paper: str
    place: str
    title: str
    folders: tuple[str, ...]
    data: Mapping[str, DataSet]
    columns: tuple[Column, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all data sets, each once."""
        return tuple(dict.fromkeys(name for data in self.data.values() for name in data.metrics))

    @property
    def rows(self) -> dict[str, Row]:
        """The rows of all columns by name, those of other tables included."""
        return {row.name: row for column in self.columns for row in column.rows}


def read_table(file: str) -> Table:
    """Read and check a table file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key, data set or number is wrong; the message names the file and the row.
    """
    return _read(file, os.stat(file).st_mtime_ns)


@lru_cache(maxsize=64)
def _read(file: str, _changed: int) -> Table:
    """Read a table file once for each time at which it was changed."""
    with open(file) as stream:
        content = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    _check_keys(content, _TABLE_KEYS, file, required=_TABLE_KEYS)
    metrics = tuple(content["metrics"])
    data = {}
    for name, entry in content["data"].items():
        _check_keys(entry, _DATA_KEYS, f"{file}, data set {name}", required=("title",))
        own = {key: tuple(entry.get(key, ())) for key in ("cards", "metrics")}
        own["metrics"] = own["metrics"] or metrics
        data[name] = DataSet(name, entry["title"], **own, stands_for=entry.get("stands_for", ""))
    for name in (entry.stands_for for entry in data.values() if entry.stands_for):
        _check_name("data set", name, data, file)
    folder = os.path.dirname(file)
    return Table(
        file,
        **{key: content[key] for key in ("name", "paper", "place", "title")},
        folders=tuple(os.path.join(folder, part) for part in content["parts"]),
        data=data,
        columns=tuple(_read_column(entry, data, file) for entry in content["columns"]),
    )


def _read_column(content: Any, data: Mapping[str, DataSet], file: str) -> Column:
    _check_keys(content, _COLUMN_KEYS, f"{file}, columns", required=("rows",))
    baseline = content.get("baseline", "")
    rows = [_read_row(name, entry, baseline, data, file) for name, entry in content["rows"].items()]
    return Column(content.get("name", ""), content.get("labels", 0.0), tuple(rows))


def _read_row(
    name: str, content: Any, baseline: str, data: Mapping[str, DataSet], file: str
) -> Row:
    where = f"{file}, row {name}"
    if isinstance(content, str):
        content = {"table": content}
    if "table" in content:
        return _read_reference(name, content, baseline, data, file)
    config = {key: value for key, value in content.items() if key.isupper()}
    own = {key: value for key, value in content.items() if key not in config}
    _check_keys(own, _ROW_KEYS, where, required=("parts", "label"))
    chosen = tuple(own.get("data", data))
    for entry in chosen:
        _check_name("data set", entry, data, where)
    return Row(
        name,
        file,
        own["label"],
        tuple(n for n, entry in data.items() if n in chosen or entry.stands_for in chosen),
        tuple(own["parts"]),
        tuple(own.get("paths", ())),
        tuple(own.get("train", ())),
        own.get("teacher", ""),
        own.get("init", ""),
        config,
        _read_numbers(own.get("paper"), data, where),
        own.get("baseline", baseline),
    )


def _read_reference(
    name: str, content: Mapping[str, Any], baseline: str, data: Mapping[str, DataSet], file: str
) -> Row:
    """A row that stands in another table."""
    where = f"{file}, row {name}"
    _check_keys(content, _REFERENCE_KEYS, where)
    other = read_table(os.path.join(os.path.dirname(file), content["table"]))
    row = find_row(other, name)
    if "paper" in content:
        row = replace(row, paper=_read_numbers(content["paper"], data, where))
    return replace(row, baseline=content.get("baseline", baseline))


def _read_numbers(
    content: Any, data: Mapping[str, DataSet], where: str
) -> dict[str, dict[str, float]]:
    """The paper's numbers: of each data set one or a list, in the order of its metrics."""
    if content is None:
        return {}
    own = [entry for entry in data.values() if not entry.stands_for]
    if not isinstance(content, Mapping):
        if len(own) > 1:
            names = ", ".join(entry.name for entry in own)
            raise ValueError(f"{where}: say which of {names} the paper's numbers are of.")
        content = {own[0].name: content}
    found = {}
    for name, numbers in content.items():
        _check_name("data set", name, data, where)
        numbers = numbers if isinstance(numbers, Sequence) else [numbers]
        metrics = data[name].metrics
        if len(numbers) > len(metrics):
            raise ValueError(f"{where}: {numbers} are more numbers than {', '.join(metrics)}.")
        pairs = zip(metrics, numbers, strict=False)
        found[name] = {metric: float(number) for metric, number in pairs if number is not None}
    return found


def find_row(table: Table, name: str) -> Row:
    """The row with this name.

    Raises:
        ValueError: the table has no such row; the nearest name is given.
    """
    _check_name("row", name, table.rows, table.file)
    return table.rows[name]


def find_data_set(table: Table, name: str) -> DataSet:
    """The data set with this name.

    Raises:
        ValueError: the table has no such data set.
    """
    _check_name("data set", name, table.data, table.file)
    return table.data[name]


def _check_name(kind: str, name: str, known: Collection[str], where: str) -> None:
    if name not in known:
        raise ValueError(f"{where}: no {kind} '{name}'.{did_you_mean(name, known)}")


def _check_keys(
    content: Any, known: Sequence[str], where: str, required: Sequence[str] = ()
) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected a mapping with the keys {', '.join(known)}.")
    for key in content:
        if key not in known:
            raise ValueError(f"{where}: unknown key '{key}'.{did_you_mean(str(key), known)}")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{where}: the key {', '.join(missing)} is missing.")
