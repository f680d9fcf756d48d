"""The manifest: every row of every table is there, with the paper's numbers."""

from dataclasses import replace
from pathlib import Path

import pytest

from reproduction.rows import choose, rows_of
from reproduction.tables import METRICS, SCALES, TABLES

# Rows of the embedded set, and on the paper's data.
COUNTS = {
    "A1": (9, 18),
    "A2": (27, 27),
    "A3": (18, 18),
    "A4": (24, 24),
    "A5": (2 * (7 + 3), 2 * (7 + 3)),
    "A6": (12, 12),
    "B1": (6, 6),
    "B2": (8, 8 + 8 + 8 + 6),
    "B3": (12, 24),
    "B4": (8, 16),
    "B5": (11, 22),
    "BF2": (12, 36),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", COUNTS)
def test_tables_are_complete(name, scale):
    table, rows = TABLES[name], rows_of(TABLES[name], scale)
    assert len(rows) == COUNTS[name][SCALES.index(scale)]
    assert len({(row.column, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert not row.paper or row.data or scale == "full"
        assert (row.paper or name == "BF2") and row.paper.keys() <= METRICS.keys()
        neighbours = {other.name for other in rows if other.column == row.column}
        assert table.baseline(row.name) in neighbours or row.is_reference
    assert rows[0].is_reference is (name != "BF2"), "as in the papers, the teacher comes first"


def test_a_table_without_recipes_says_where_they_are_looked_for():
    table = replace(TABLES["A4"], name="A9", place="Table 9")
    with pytest.raises(
        FileNotFoundError, match=r"A9: no recipe of Table 9 in .*/toy/half/\*\.yaml"
    ):
        rows_of(table, "tiny")


def test_every_recipe_is_a_row_of_some_table():
    shown = {
        row.file for name in COUNTS for scale in SCALES for row in rows_of(TABLES[name], scale)
    }
    shipped = {
        str(file)
        for root in dict.fromkeys(table.root for table in TABLES.values())
        for file in Path("configs", root).rglob("*.yaml")
        if not {"base", "beyond"} & set(file.parts)
    }
    assert shown == shipped


@pytest.mark.parametrize("name", COUNTS)
def test_the_embedded_set_has_the_rows_of_a_data_set_of_the_paper(name):
    tiny, full = (rows_of(TABLES[name], scale) for scale in SCALES)
    columns = {row.column.split(",")[0] for row in full}
    rows = [[(r.name, r.label) for r in full if r.column.split(",")[0] == c] for c in columns]
    assert [(row.name, row.label) for row in tiny] in rows


@pytest.mark.parametrize(
    ("name", "scale", "column", "row", "paper"),
    [
        ("A1", "tiny", "half", "self_trained_pdf", {"AP50": 80.1, "AP75": 61.22, "mAP": 56.47}),
        ("A1", "full", "VEDAI, half", "self_trained_mse", {"AP10": 75.19, "AP25": 75.19}),
        ("A2", "full", "eighth", "supervised_defeat", {"mAP": 42.19}),
        ("A3", "tiny", "quarter → half2", "supervised", {"mAP": 47.16}),
        ("A4", "full", "eighth → 3quarter", "self_trained_pdf", {"mAP": 46.53}),
        ("A5", "tiny", "half of the images", "det2_mse_from_seg2", {"mAP": 42.54}),
        ("A5", "full", "for detection", "teacher_seg", {"IoU": 71.12}),
        ("A6", "tiny", "set", "multi_task_self_trained_pdf", {"mAP": 43.26, "IoU": 68.36}),
        ("B1", "full", "Cityscapes", "single_box", {"mAP": 39.6, "mAP50": 62.4}),
        ("B5", "full", "Cityscapes", "single_box", {"mAP": 39.8}),
        ("B2", "full", "CIFAR-10", "adaptive", {"top-1 error": 4.39, "agreement error": 3.12}),
        ("B4", "full", "ADE20K", "equal", {"mIoU": 34.06, "mAcc": 42.95}),
    ],
)
def test_a_row_has_the_papers_numbers(name, scale, column, row, paper):
    found = [r for r in rows_of(TABLES[name], scale) if r.name == row and r.column.endswith(column)]
    assert [r.paper for r in found] == [paper]


def test_rows_are_in_the_papers_order():
    names = [row.name for row in rows_of(TABLES["A2"], "tiny")][:9]
    methods = ["", "_mse", "_pdf", "_defeat"]
    assert names == [
        "teacher",
        *(f"supervised{m}" for m in methods),
        *(f"self_trained{m}" for m in methods),
    ]


def test_rows_are_chosen_by_name():
    rows = rows_of(TABLES["A2"], "tiny")
    assert choose(rows, []) == rows
    assert [r.name for r in choose(rows, ["teacher"])] == ["teacher"] * 3
    assert len(choose(rows, ["half/self_trained*", "eighth/teacher"])) == 5
    with pytest.raises(ValueError, match=r"--rows tutor: fits none of teacher, supervised"):
        choose(rows, ["teacher", "tutor"])


def test_own_data_takes_the_place_of_the_first_data_set():
    rows = rows_of(TABLES["A1"], "full", own_data="cells")
    assert {row.column for row in rows} == {"cells, half"}
    assert [row.file for row in rows] == [r.file for r in rows_of(TABLES["A1"], "full")[:9]]
