"""The rows of a table at one scale: on the embedded sets, or on the paper's data."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from multas.config.rows import output_dir, row_address
from multas.config.tables import Row as TableRow
from multas.config.tables import Table
from multas.util.errors import UserError


@dataclass(frozen=True)
class Row:
    """A row on one data set.

    Attributes:
        column: the data set's title and the name of the column.
        address: of its config.
        name: the last part of its name in the table.
        label: what the paper calls it.
        paper: the paper's number of each metric.
        data: what the paper's numbers are of, if not of the row's own data; else "".
        labels: the share of the images that is annotated; 0 = it does not vary in the table.
        baseline: the name of the row in its column that it is compared with; "" = none.
        is_reference: whether it teaches other rows of the table: it is shown, but it does not
            compete with its students.
    """

    column: str
    address: str
    name: str
    label: str
    paper: dict[str, float]
    data: str
    labels: float
    baseline: str
    is_reference: bool


def rows_of(table: Table, scale: str, own_data: str = "") -> list[Row]:
    """The rows of a table, in the paper's order.

    Args:
        table: one of the tables of the papers.
        scale: "tiny" or "small": on the embedded sets; "full": on the paper's data.
        own_data: name of the user's data, on which the rows of the first data set are run.
    """
    chosen = [data for data in table.data.values() if data.scale == scale]
    teachers = {row.teacher.rpartition("#")[2] for row in table.rows.values()}
    rows = []
    for data in chosen[:1] if own_data else chosen:
        for column in table.columns:
            title = ", ".join(filter(None, [own_data or data.title, column.name]))
            rows += [
                Row(
                    title,
                    row_address(row, data.name),
                    row.name.rpartition("/")[2],
                    row.label,
                    _numbers(table, row, data.stands_for or data.name),
                    table.data[data.stands_for].title if data.stands_for else "",
                    column.labels,
                    row.baseline,
                    row.name in teachers,
                )
                for row in column.rows
                if data.name in row.data
            ]
    return rows


def _numbers(table: Table, row: TableRow, data: str) -> dict[str, float]:
    """The numbers of the metrics that this table reports."""
    numbers = row.paper.get(data, {})
    return {name: number for name, number in numbers.items() if name in table.metrics}


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows with one of these names, with or without what is above: ``half/self_trained*``.

    Raises:
        UserError: a pattern fits none.
    """
    for pattern in patterns:
        if not any(_fits(row, pattern) for row in rows):
            names = ", ".join(dict.fromkeys(row.name for row in rows))
            raise UserError(f"--rows {pattern}: fits none of {names}.")
    return [row for row in rows if not patterns or any(_fits(row, p) for p in patterns)]


def _fits(row: Row, pattern: str) -> bool:
    parts = output_dir(row.address).split("/")
    return fnmatch("/".join(parts[-1 - pattern.count("/") :]), pattern)
