"""The manifest: every row of every table is there, with the paper's numbers."""

from dataclasses import replace

import pytest

from multas.config.tables import SCALES
from reproduction.rows import choose, rows_of
from reproduction.tables import METRICS, read_tables, rows_by_weights
from shipped import ROWS

# Rows at tiny and small scale, of the embedded sets, and at full scale.
COUNTS = {
    "A1": (9, 9 + 2, 18),
    "A2": (27, 27, 27),
    "A3": (18, 0, 18),
    "A4": (24, 0, 24),
    "A5": (2 * (7 + 3), 0, 2 * (7 + 3)),
    "A6": (12, 12, 12 + 1),
    "B1": (6, 6, 6),
    "B2": (8, 0, 8 + 8 + 8 + 6),
    "B3": (12, 0, 24),
    "B4": (8, 0, 16),
    "B5": (11, 11 + 15 + 2, 22),
    "BF2": (12, 0, 36),
}

# Rows on the paper's data alone that the paper does not have.
OURS = {"multi_task_notes"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", COUNTS)
def test_tables_are_complete(name, scale):
    rows = rows_of(read_tables()[name], scale)
    assert len(rows) == COUNTS[name][SCALES.index(scale)]
    assert len({(row.column, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert not row.paper or row.data or scale == "full"
        assert row.paper or name == "BF2" or scale == "small" or row.name in OURS
        assert row.paper.keys() <= METRICS.keys()
        neighbours = {other.name for other in rows if other.column == row.column}
        assert row.baseline in ("", *neighbours)
    assert not rows or rows[0].is_reference is (name != "BF2"), (
        "as in the papers, the teacher comes first"
    )


def test_the_tables_are_in_the_order_of_the_papers():
    assert list(read_tables()) == list(COUNTS)


def test_every_row_is_shown_in_some_table():
    tables = read_tables().values()
    shown = {row.address for table in tables for scale in SCALES for row in rows_of(table, scale)}
    assert shown == set(ROWS)
    assert set(rows_by_weights().values()) == set(ROWS)


@pytest.mark.parametrize("name", COUNTS)
def test_the_embedded_set_has_the_rows_of_a_data_set_of_the_paper(name):
    tiny, full = (rows_of(read_tables()[name], scale) for scale in ("tiny", "full"))
    full = [row for row in full if row.name not in OURS]
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
        ("B5", "small", "embedded set", "adaptive_feats_p", {"mAP": 40.9}),
        ("B5", "small", "source set", "student", {"mAP": 36.1}),
        ("B5", "small", "embedded set", "fading_feats_p", {}),
        ("B1", "full", "Cityscapes", "single_box", {"mAP": 39.6, "mAP50": 62.4}),
        ("B5", "full", "Cityscapes", "single_box", {"mAP": 39.8}),
        ("B2", "full", "CIFAR-10", "adaptive", {"top-1 error": 4.39, "agreement error": 3.12}),
        ("B4", "full", "ADE20K", "equal", {"mIoU": 34.06, "mAcc": 42.95}),
    ],
)
def test_a_row_has_the_papers_numbers(name, scale, column, row, paper):
    rows = rows_of(read_tables()[name], scale)
    assert [r.paper for r in rows if r.name == row and r.column.endswith(column)] == [paper]


def test_rows_are_in_the_papers_order():
    names = [row.name for row in rows_of(read_tables()["A2"], "tiny")][:9]
    methods = ["", "_mse", "_pdf", "_defeat"]
    assert names == [
        "teacher",
        *(f"supervised{m}" for m in methods),
        *(f"self_trained{m}" for m in methods),
    ]


def test_rows_are_chosen_by_name():
    rows = rows_of(read_tables()["A2"], "tiny")
    assert choose(rows, []) == rows
    assert [r.name for r in choose(rows, ["teacher"])] == ["teacher"] * 3
    assert len(choose(rows, ["half/self_trained*", "eighth/teacher"])) == 5
    with pytest.raises(ValueError, match=r"--rows tutor: fits none of teacher, supervised"):
        choose(rows, ["teacher", "tutor"])


def test_own_data_takes_the_place_of_the_first_data_set():
    rows = rows_of(read_tables()["A1"], "full", own_data="cells")
    assert {row.column for row in rows} == {"cells, half"}
    papers = rows_of(read_tables()["A1"], "full")[:9]
    assert [replace(row, column="cells, half") for row in papers] == rows
