"""Tables of papers as data: a YAML file for each table, whose rows are configs.

``configs/README.md`` explains every key of such a file, and the fields of the classes below have
the same names. :mod:`multas.config.rows` turns a row into a config.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from multas.config.limits import NUMBER, Limit, check_limit, each
from multas.util.errors import UserError
from multas.util.names import did_you_mean
from multas.util.yaml_files import read_yaml

# From minutes on a CPU to what the papers did; docs/tables.md says what each of them shows.
SCALES = ("tiny", "small", "full")

_TEXT = Limit("a text", lambda x: isinstance(x, str))
_FORMS: Mapping[Any, Limit] = {str: _TEXT, Sequence[str]: each(_TEXT, empty=True)}


@dataclass(frozen=True)
class DataSet:
    """A data set on which the rows of a table are run; its name begins their addresses.

    Attributes:
        stands_for: the data set of the paper whose rows and numbers it has.
        like: the data set whose parts it has where it has none of its own.
        scale: one of SCALES: by default "tiny" if it stands for another one, else "full".
        rows: the names of the rows that it has, if not all.
    """

    name: str
    title: str
    cards: Sequence[str] = ()
    metrics: Sequence[str] = ()
    stands_for: str = ""
    like: str = ""
    scale: str = ""
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table, on all of its data sets.

    Attributes:
        name: the key of the row, unique in its table, e.g. "half/self_trained".
        table: the file that defines the row. Other tables may show it.
        data: the names of the data sets that have the row.
        paper: the paper's number by data set and metric.
        config: config keys that prevail over the parts.
    """

    name: str
    table: str
    label: str
    parts: Sequence[str]
    paths: Sequence[str] = ()
    train: Sequence[str] = ()
    teacher: str = ""
    init: str = ""
    data: Sequence[str] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baseline: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """Rows that compete with each other, in the paper's order."""

    rows: Sequence[Row]
    name: str = ""
    labels: float = 0.0
    baseline: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper. Its parts are folders; its metrics are those of all data."""

    file: str
    name: str
    paper: str
    place: str
    title: str
    metrics: Sequence[str]
    parts: Sequence[str]
    data: Mapping[str, DataSet]
    columns: Sequence[Column]

    @property
    def rows(self) -> dict[str, Row]:
        """The rows of all columns by name, those of other tables included."""
        return {row.name: row for column in self.columns for row in column.rows}

    def row(self, name: str) -> Row:
        """The row with this name.

        Raises:
            UserError: There is none. The nearest name is given.
        """
        check_name("row", name, self.rows, self.file)
        return self.rows[name]


def read_table(file: str) -> Table:
    """Read and check a table file.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: A key, data set or number is wrong. The message names the file and the row.
    """
    try:
        return _read(file, os.stat(file).st_mtime_ns)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: something in it is not of the form that configs/README.md describes: {error}."
        ) from error


@lru_cache(maxsize=64)
def _read(file: str, _changed: int) -> Table:
    """Read a table file, and again only when it has changed."""
    content = read_yaml(file)
    own = _checked(Table, content, file, "file")
    data = {}
    for name, entry in own["data"].items():
        entry = _checked(DataSet, entry, f"{file}, {name}", "name")
        scale = "tiny" if entry.get("stands_for") else "full"
        data[name] = DataSet(**{"metrics": own["metrics"], "scale": scale, **entry, "name": name})
    for entry in data.values():
        for other in filter(None, (entry.stands_for, entry.like)):
            check_name("data set", other, data, file)
        check_name("scale", entry.scale, SCALES, f"{file}, {entry.name}")
    own["metrics"] = list(dict.fromkeys(m for entry in data.values() for m in entry.metrics))
    own["parts"] = [os.path.join(os.path.dirname(file), part) for part in own["parts"]]
    own["columns"] = [_read_column(entry, data, file) for entry in own["columns"]]
    table = Table(**{**own, "file": file, "data": data})
    for entry in data.values():
        for name in entry.rows:
            check_name("row", name, table.rows, f"{file}, {entry.name}")
    return table


def _read_column(content: Any, data: Mapping[str, DataSet], file: str) -> Column:
    own = _checked(Column, content, f"{file}, columns")
    baseline = own.get("baseline", "")
    rows = [_read_row(n, row, baseline, data, file) for n, row in own["rows"].items()]
    return Column(**{**own, "rows": rows})


def _read_row(
    name: str, content: Any, baseline: str, data: Mapping[str, DataSet], file: str
) -> Row:
    where = f"{file}, row {name}"
    if isinstance(content, str):
        content = {"table": content}
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a mapping, or the file of another table.")
    own = {"baseline": baseline, **content}
    if "paper" in own:
        own["paper"] = _read_numbers(own["paper"], data, where)
    if "table" in own:
        row = read_table(os.path.join(os.path.dirname(file), own.pop("table"))).row(name)
        for key in own:
            check_name("key", key, ("table", "paper", "baseline"), where)
        return replace(row, **own)
    config = {key: own.pop(key) for key in list(own) if key.isupper()}
    chosen, stand_ins = own.pop("data", list(data)), own.pop("stand_ins", True)
    for entry in chosen:
        check_name("data set", entry, data, where)
    having = [
        entry.name
        for entry in data.values()
        if (entry.name in chosen or (stand_ins and entry.stands_for in chosen))
        and name in (entry.rows or [name])
    ]
    own = _checked(Row, own, where, "name", "table", "data", "config")
    return Row(name=name, table=file, data=having, config=config, **own)


def _read_numbers(
    content: Any, data: Mapping[str, DataSet], where: str
) -> dict[str, dict[str, float]]:
    """The paper's numbers for each data set: one, or a list in the order of the metrics."""
    own = [entry.name for entry in data.values() if not entry.stands_for]
    if not isinstance(content, Mapping):
        if len(own) > 1:
            raise UserError(f"{where}: say which of {', '.join(own)} the numbers are of.")
        content = {own[0]: content}
    found = {}
    for name, numbers in content.items():
        check_name("data set", name, data, where)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        metrics = data[name].metrics
        if len(numbers) > len(metrics):
            raise UserError(f"{where}: {numbers} are more numbers than {', '.join(metrics)}.")
        pairs = [(m, x) for m, x in zip(metrics, numbers, strict=False) if x is not None]
        for metric, number in pairs:
            check_limit(f"{where}: {metric} on {name}", number, NUMBER)
        found[name] = {metric: float(number) for metric, number in pairs}
    return found


def check_name(kind: str, name: str, known: Collection[str], where: str) -> None:
    """Make sure that a name is known.

    Raises:
        UserError: It is not. The message begins with ``where`` and gives the nearest name.
    """
    if name not in known:
        raise UserError(f"{where}: no {kind} '{name}'.{did_you_mean(str(name), known)}")


def _checked(cls: Any, content: Any, where: str, *given: str) -> dict[str, Any]:
    """Check that the entries of a mapping are the fields of a dataclass without those ``given``."""
    own = [entry for entry in fields(cls) if entry.name not in given]
    names = [entry.name for entry in own]
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected a mapping with the keys {', '.join(names)}.")
    for key in content:
        check_name("key", key, names, where)
    for entry in own:
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if needed and entry.name not in content:
            raise UserError(f"{where}: the key {entry.name} is missing.")
        if entry.name in content and entry.type in _FORMS:
            check_limit(f"{where}: {entry.name}", content[entry.name], _FORMS[entry.type])
    return dict(content)
