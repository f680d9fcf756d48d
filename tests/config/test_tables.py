"""Table files: what they say, and what is said of a wrong one."""

from pathlib import Path

import pytest

from multas.config.tables import read_table

TABLE = """
name: T1
paper: On tables
place: Table 1
title: A table
metrics: [mAP, AP50]
parts: [base, more]
data:
  voc: {title: Pascal VOC, cards: [voc2007, voc2012]}
  vedai: {title: VEDAI, metrics: [AP10]}
  toy: {title: embedded set, stands_for: voc}
  small: {title: embedded set, stands_for: voc, like: toy, scale: small, rows: [teacher]}
columns:
  - name: half
    labels: 0.5
    baseline: plain
    rows:
      teacher: {parts: [big], label: "teacher, half", paper: {voc: [50, 60.5], vedai: 7}}
      half/plain: {parts: [small], train: [half], label: plain, data: [voc]}
      half/taught:
        {parts: [small], paths: [soft, pdf], teacher: teacher, init: half/plain, label: taught,
         SOLVER: {BASE_LR: 0.5}, baseline: teacher, paper: {voc: [null, 61]}}
"""
OTHER = """
name: T2
paper: On tables
place: Table 2
title: Another
metrics: [mAP]
parts: [base]
data:
  voc: {title: Pascal VOC}
columns:
  - rows:
      teacher: table1.yaml
      half/plain: {table: table1.yaml, paper: 3}
"""


@pytest.fixture
def write(tmp_path):
    """``write(text, name)``: a table file."""

    def write(text: str = TABLE, name: str = "table1.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_a_table_has_columns_of_rows(write):
    table = read_table(write())
    assert (table.name, table.place, table.title) == ("T1", "Table 1", "A table")
    assert table.metrics == ["mAP", "AP50", "AP10"]
    assert [Path(folder).name for folder in table.parts] == ["base", "more"]
    assert table.data["toy"].stands_for == "voc" and table.data["vedai"].metrics == ["AP10"]
    (column,) = table.columns
    assert (column.name, column.labels) == ("half", 0.5)
    assert list(table.rows) == ["teacher", "half/plain", "half/taught"]


def test_a_row_says_what_it_is_made_of(write):
    teacher, plain, taught = read_table(write()).rows.values()
    assert teacher.data == ["voc", "vedai", "toy", "small"] and plain.data == ["voc", "toy"]
    assert teacher.paper == {"voc": {"mAP": 50, "AP50": 60.5}, "vedai": {"AP10": 7}}
    assert (taught.parts, taught.paths) == (["small"], ["soft", "pdf"])
    assert (taught.teacher, taught.init, plain.train) == ("teacher", "half/plain", ["half"])
    assert taught.config == {"SOLVER": {"BASE_LR": 0.5}} and taught.paper == {"voc": {"AP50": 61}}
    assert [row.baseline for row in (teacher, plain, taught)] == ["plain", "plain", "teacher"]


def test_a_row_may_be_on_its_own_data_alone(write):
    text = TABLE.replace("label: plain, data: [voc]", "label: plain, data: [voc], stand_ins: False")
    assert read_table(write(text)).row("half/plain").data == ["voc"]


def test_a_data_set_has_a_scale(write):
    scales = {name: data.scale for name, data in read_table(write()).data.items()}
    assert scales == {"voc": "full", "vedai": "full", "toy": "tiny", "small": "small"}


def test_a_row_may_stand_in_another_table(write):
    first = read_table(write())
    second = read_table(write(OTHER, "table2.yaml"))
    teacher, plain = second.rows.values()
    assert teacher.table == plain.table == first.file and teacher.label == "teacher, half"
    assert teacher.paper == first.rows["teacher"].paper and plain.paper == {"voc": {"mAP": 3}}
    assert teacher.baseline == "", "of the column that it stands in here"


def test_a_changed_file_is_read_again(write):
    assert read_table(write()).title == "A table"
    assert read_table(write(TABLE.replace("A table", "A new one"))).title == "A new one"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("place:", "plaice:", r"table1\.yaml: no key 'plaice'\. Did you mean 'place'\?"),
        ("place:", "7:", r"table1\.yaml: no key '7'\. Choose from"),
        ("place: Table 1\n", "", r"table1\.yaml: the key place is missing"),
        ("cards:", "card:", r"table1\.yaml, voc: no key 'card'\. Did you mean 'cards'\?"),
        ("stands_for: voc", "stands_for: vox", r"no data set 'vox'\. Did you mean 'voc'\?"),
        ("like: toy", "like: toys", r"no data set 'toys'\. Did you mean 'toy'\?"),
        ("scale: small", "scale: smal", r"table1\.yaml, small: no scale 'smal'\. Did you mean"),
        ("[teacher]", "[techer]", r"table1\.yaml, small: no row 'techer'\. Did you mean 'teacher'"),
        ("labels:", "label:", r"columns: no key 'label'\. Did you mean 'labels'\?"),
        ("train:", "trian:", r"row half/plain: no key 'trian'\. Did you mean 'train'\?"),
        ("data: [voc]", "data: [vok]", r"row half/plain: no data set 'vok'\. Did you mean 'voc'\?"),
        ("[null, 61]", "[1, 2, 3]", r"half/taught: \[1, 2, 3\] are more numbers than mAP"),
        ("{voc: [null, 61]}", "61", r"row half/taught: say which of voc, vedai"),
        ("{title: VEDAI, metrics: [AP10]}", "VEDAI", r"table1\.yaml, vedai: expected a mapping"),
        ("{parts: [big],", "7 #", r"row teacher: expected a mapping, or the file"),
        ("{voc: [null, 61]}", "{vox: 61}", r"taught: no data set 'vox'\. Did you mean 'voc'\?"),
        ("parts: [base, more]", "parts: base", r"table1\.yaml: parts is 'base'; .* a list"),
        ("[voc2007, voc2012]", "3", r"table1\.yaml, voc: cards is 3; it must be a list"),
        ("teacher: teacher,", "teacher: [3],", r"half/taught: teacher is \[3\]; it must be a text"),
        ("parts: [big]", "parts: [3]", r"row teacher: parts is \[3\]; .* each a text"),
        ("[50, 60.5]", "[50, x]", r"row teacher: AP50 on voc is 'x'; it must be a number"),
        ("metrics: [mAP, AP50]", "metrics: 3", r"table1\.yaml: metrics is 3; it must be a list"),
        ("- name: half", "- rows: 3\n  - name: half", r"of the form that configs/README.md"),
        ("{parts: [big], label", "{label", r"row teacher: the key parts is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_row(write, old, new, message):
    assert old in TABLE
    with pytest.raises(ValueError, match=message):
        read_table(write(TABLE.replace(old, new, 1)))


def test_a_row_of_another_table_has_no_parts_of_its_own(write):
    write()
    text = OTHER.replace("paper: 3", "parts: [small]")
    with pytest.raises(ValueError, match=r"row half/plain: no key 'parts'.* paper, table"):
        read_table(write(text, "table2.yaml"))


def test_an_unknown_row_is_named_with_the_nearest(write):
    table = read_table(write())
    with pytest.raises(ValueError, match=r"table1\.yaml: no row 'techer'\. Did you mean 'teacher'"):
        table.row("techer")
