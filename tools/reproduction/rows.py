"""The rows of a table: the recipes in its folders whose heads name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from reproduction.heads import read_head
from reproduction.tables import DATA_NAMES, Column, Table

CONFIGS = Path("configs")
# Rows are listed as the papers do: by the beginning of their names, then by the other words.
_ORDER = (
    *("teacher", "student", "supervised", "det", "self_trained", "multi_task", "single"),
    *("hand_tuned", "equal", "multiobjective", "adaptive_layerwise", "adaptive"),
)
_WORDS = ("", "det", "self", "all", "init", "mse", "pdf", "defeat", "at", "st")


@dataclass(frozen=True)
class Row:
    """A row in one column; ``paper`` has its numbers, ``data`` what they are of."""

    column: str
    file: str
    label: str
    paper: dict[str, float]
    data: str
    labels: float

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def is_reference(self) -> bool:
        """A teacher is shown, but is no competitor of the students."""
        return self.name.startswith("teacher")


def rows_of(table: Table, scale: str, own_data: str = "") -> list[Row]:
    """The rows of a table whose recipes exist, in the paper's order.

    Args:
        table: of TABLES.
        scale: "tiny": on the embedded set; "full": on the paper's data.
        own_data: name of the user's data, on which the rows of the first data set are run.

    Raises:
        FileNotFoundError: there is none, naming where they are looked for.
    """
    data_sets = ("toy",) if scale == "tiny" else table.data
    rows: list[Row] = []
    patterns: list[str] = []
    for data in data_sets[:1] if own_data else data_sets:
        for part in table.parts:
            title = own_data or DATA_NAMES.get(data, data)
            folder = CONFIGS / table.root / data
            files = [file for pattern in part.files for file in sorted(folder.glob(pattern))]
            found = filter(None, (_row(table, title, part, file) for file in files))
            rows += sorted(found, key=_place_in_table)
            patterns += [str(folder / pattern) for pattern in part.files]
    if not rows:
        raise FileNotFoundError(
            f"{table.name}: no recipe of {table.place} in {', '.join(patterns)}. A row is a YAML "
            f"file there whose head names '{table.place}'."
        )
    return rows


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """Those whose files have one of these names, with or without folder: ``half/self_trained*``.

    Raises:
        ValueError: a pattern fits none.
    """
    for pattern in patterns:
        if not any(_fits(row, pattern) for row in rows):
            names = ", ".join(dict.fromkeys(row.name for row in rows))
            raise ValueError(f"--rows {pattern}: fits none of {names}.")
    return [row for row in rows if not patterns or any(_fits(row, p) for p in patterns)]


def _fits(row: Row, pattern: str) -> bool:
    parts = Path(row.file).with_suffix("").parts
    return fnmatch("/".join(parts[-1 - pattern.count("/") :]), pattern)


def _row(table: Table, data: str, part: Column, file: Path) -> Row | None:
    head = read_head(file)
    if table.place not in head.places:
        return None
    column = ", ".join(filter(None, [data, part.name]))
    paper = {n: v for n, v in head.paper(table.place).items() if n in table.metrics}
    return Row(column, str(file), head.label, paper, head.data, part.labels)


def _place_in_table(row: Row) -> tuple:
    group = next((i for i, name in enumerate(_ORDER) if row.name.startswith(name)), len(_ORDER))
    rest = row.name.removeprefix(_ORDER[group]) if group < len(_ORDER) else row.name
    words = rest.strip("_").split("_")
    return group, [_WORDS.index(w) if w in _WORDS else len(_WORDS) for w in words], rest
