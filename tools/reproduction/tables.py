"""The tables of both papers, which stand in configs/, and the metrics that they report."""

from dataclasses import dataclass
from pathlib import Path

from multas.config.rows import row_address, weights_of
from multas.config.tables import Table, read_table

# A table is a YAML file directly in one of these folders, a folder for each paper.
FOLDERS = ("configs/limited-data", "configs/adaptive")


@dataclass(frozen=True)
class Metric:
    """A number of a row: what the papers call it, its key in metrics.json, and which way is up."""

    name: str
    key: str
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} {'↓' if self.lower_is_better else '↑'}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("mAP", "bbox/AP"),
        Metric("AP50", "bbox/AP50"),
        Metric("AP75", "bbox/AP75"),
        Metric("mAP50", "bbox/AP50"),
        Metric("AP10", "bbox/AP10"),
        Metric("AP25", "bbox/AP25"),
        Metric("IoU", "sem_seg/mIoU"),
        Metric("mIoU", "sem_seg/mIoU"),
        Metric("mAcc", "sem_seg/mACC"),
        Metric("top-1 error", "classification/top1_error", lower_is_better=True),
        Metric("agreement error", "classification/top1_agreement_error", lower_is_better=True),
    )
}


def read_tables() -> dict[str, Table]:
    """All tables by name, in the order of the papers; the figure comes last.

    Raises:
        UserError: a table file is wrong; the message names the file and the row.
    """
    files = [file for folder in FOLDERS for file in Path(folder).glob("*.yaml")]
    tables = [read_table(str(file)) for file in files]
    return {table.name: table for table in sorted(tables, key=lambda table: table.name)}


def rows_by_weights() -> dict[str, str]:
    """The file of the weights that each row makes -> the address of the row."""
    rows = [(row, data) for table in read_tables().values() for row in table.rows.values()
            for data in row.data]  # fmt: skip
    addresses = [row_address(row, data) for row, data in rows]
    return {weights_of(address): address for address in addresses}
