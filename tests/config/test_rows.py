"""Rows of tables become configs, and plain files."""

import pytest
import train_net

from multas.config.rows import output_dir, read_config
from multas.engine import load_config
from plain_config import plain_config
from shipped import ROWS

pytestmark = pytest.mark.usefixtures("forget_registered")

TABLE = """
name: T1
paper: On tables
place: Table 1
title: A table
metrics: [mAP]
parts: [base, more]
data:
  voc: {title: Pascal VOC, cards: [voc2007, voc2012]}
  toy: {title: embedded set, cards: [toy], stands_for: voc}
columns:
  - rows:
      teacher: {parts: [net, big], train: [half], label: teacher}
      plain: {parts: [net], train: [det, seg_unlabeled], label: plain, data: [voc]}
      taught:
        {parts: [net], paths: [soft, pdf], teacher: teacher, init: plain, label: taught,
         SOLVER: {BASE_LR: 0.5}}
      lost: {parts: [nett], label: lost}
      orphan: {parts: [net], teacher: techer, label: orphan}
"""
PARTS = {
    "base/net": "MODEL: {RESNETS: {DEPTH: 18, NORM: BN}}\nSOLVER: {BASE_LR: 0.1, MAX_ITER: 7}\n",
    "base/toy/net": "_BASE_: ../net.yaml\nSOLVER: {MAX_ITER: 5}\n",
    "base/big": "MODEL: {RESNETS: {DEPTH: 50}}\n",
    "more/net": "SOLVER: {MAX_ITER: 1}\n",
    "more/toy/big": "MODEL: {RESNETS: {DEPTH: 34}}\n",
    "base/soft": "MODEL: {DISTILLATION: {PATHS: [{TYPE: SoftDetection}]}}\n",
    "more/pdf": "MODEL: {DISTILLATION: {PATHS: [{TYPE: PDFDistil}]}}\n",
}


@pytest.fixture
def table(tmp_path, monkeypatch) -> str:
    """A table and its parts in a folder of configs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for folder in ("base/toy", "more/toy"):
        (tmp_path / "configs/mine" / folder).mkdir(parents=True)
    (tmp_path / "configs/mine/table1.yaml").write_text(TABLE)
    for name, text in PARTS.items():
        (tmp_path / f"configs/mine/{name}.yaml").write_text(text)
    return "configs/mine/table1.yaml"


def test_a_row_is_merged_from_its_parts(table):
    cfg = plain_config(address=f"{table}#voc/teacher")
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM) == (50, "BN")
    assert cfg.DATASETS.TRAIN == ("voc2007_half", "voc2012_half")
    assert (cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR) == (7, "output/mine/table1/voc/teacher")
    names = [f"{card}_{split}" for split in ("det", "seg_unlabeled")
             for card in ("voc2007", "voc2012")]  # fmt: skip
    assert list(plain_config(address=f"{table}#voc/plain").DATASETS.TRAIN) == names


def test_a_part_of_the_data_set_prevails_over_the_order_of_the_folders(table):
    cfg = plain_config(address=f"{table}#toy/teacher")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.MODEL.RESNETS.DEPTH) == (5, 0.1, 34)
    assert cfg.DATASETS.TRAIN == ("toy_half",)


def test_a_row_names_its_teacher_its_start_and_its_paths(table):
    cfg = plain_config(address=f"{table}#voc/taught")
    teacher = cfg.MODEL.DISTILLATION.TEACHER
    assert f"{table}#voc/teacher" == teacher.CONFIG_FILE
    assert f"{plain_config(address=teacher.CONFIG_FILE).OUTPUT_DIR}/student.pth" == teacher.WEIGHTS
    assert cfg.MODEL.WEIGHTS == "output/mine/table1/voc/plain/student.pth"
    types = [path["TYPE"] for path in cfg.MODEL.DISTILLATION.PATHS]
    assert types == ["SoftDetection", "PDFDistil"] and cfg.SOLVER.BASE_LR == 0.5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", r"table1\.yaml is a table: name one of its rows"),
        ("#teacher", r"FILE#DATA/ROW"),
        ("#vok/teacher", r"no data set 'vok'\. Did you mean 'voc'\?"),
        ("#voc/techer", r"no row 'techer'\. Did you mean 'teacher'\?"),
        ("#toy/lost", r"#toy/lost: no part 'nett\.yaml' in .*Did you mean 'net'\?"),
        ("#voc/lost", r"#voc/lost: no part 'nett\.yaml' in .*Did you mean 'net'\?"),
        ("#toy/orphan", r"no row 'techer'\. Did you mean 'teacher'\?"),
    ],
)
def test_what_does_not_exist_is_named(table, row, message):
    with pytest.raises(ValueError, match=message):
        plain_config(address=f"{table}{row}")


def test_a_row_need_not_be_there_on_every_data_set(table):
    file = "configs/mine/table1.yaml"
    text = TABLE.replace("stands_for: voc}", "stands_for: voc}\n  coco: {title: COCO}")
    with open(file, "w") as stream:
        stream.write(text)
    with pytest.raises(ValueError, match="the row is there on voc, toy alone"):
        plain_config(address=f"{file}#coco/plain")


def test_folders_of_runs_are_addresses_as_paths():
    assert output_dir("configs/a/t.yaml#voc/half/x") == "output/a/t/voc/half/x"
    assert output_dir("/home/me/configs/a/t.yaml#voc/x") == "output/a/t/voc/x"
    assert output_dir("/home/me/t.yaml#voc/x") == "output/t/voc/x"


# Rows as plain files


def test_rows_can_be_written_as_plain_files(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    file = str(tmp_path / "row.yaml")
    for address in ROWS[::9]:
        write = train_net.parse_args(["--config-file", address, "--write-config", file])
        train_net.write(write)
        assert plain_config(address=file) == plain_config(address=address)
    assert "_BASE_" not in read_config(file)


def test_pairs_are_written_with_the_row(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    file, address = str(tmp_path / "row.yaml"), "configs/limited-data/table1.yaml#voc/half/teacher"
    opts = ["SOLVER.MAX_ITER", "20", "DATASETS.TEST", "('a','b')", "MODEL.FPN.OUT_CHANNELS", "8"]
    train_net.write(train_net.parse_args(["--config-file", address, "--write-config", file, *opts]))
    assert plain_config(address=file) == plain_config(*opts, address=address)
    written, row = read_config(file), read_config(address)
    assert written["SOLVER"] == {**row["SOLVER"], "MAX_ITER": 20, "EPOCHS": 0.0}
    assert written["MODEL"]["FPN"] == {**row["MODEL"].get("FPN", {}), "OUT_CHANNELS": 8}
    assert load_config(address, opts).SOLVER.EPOCHS == 0
