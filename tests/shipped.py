"""The configs of the repository, by the names that ``--config-file`` takes."""

from pathlib import Path

from multas.config.rows import row_address
from multas.config.tables import read_table

REPOSITORY = Path(__file__).resolve().parent.parent


def rows(table: str, *data: str) -> list[str]:
    """The addresses of the rows that stand in a table, on these data sets or on all.

    The addresses are relative to the repository.
    """
    content = read_table(str(REPOSITORY / table))
    return [
        row_address(row, name).replace(f"{REPOSITORY}/", "")
        for name in data or content.data
        for row in content.rows.values()
        if row.table == content.file and name in row.data
    ]


def tables(folder: str) -> list[str]:
    """The table files of a paper."""
    files = (REPOSITORY / "configs" / folder).glob("*.yaml")
    return sorted(str(file.relative_to(REPOSITORY)) for file in files)


def row_of(address: str) -> tuple[str, str]:
    """The data set of a row and the last part of its name."""
    parts = address.partition("#")[2].split("/")
    return parts[0], parts[-1]


TABLES = [*tables("limited-data"), *tables("adaptive")]
PLAIN = sorted(
    str(file.relative_to(REPOSITORY))
    for folder in ("quickstart", "bccd", "limited-data/beyond")
    for file in (REPOSITORY / "configs" / folder).glob("*.yaml")
)
ROWS = [address for table in TABLES for address in rows(table)]
