"""Training on test images is mentioned, whatever the images are called."""

import shutil

import pytest

from multas.data.loader import build_train_loader
from multas.engine.checks.leaks import warn_of_leaks


@pytest.fixture
def files(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode() * 9000)
    shutil.copy(tmp_path / "a", tmp_path / "copy of a")
    return lambda *names: [
        {"file_name": str(tmp_path / name), "width": 1, "height": 1} for name in names
    ]


@pytest.mark.parametrize(
    ("tested", "message"),
    [
        (["c", "d"], None),
        (["c", "copy of a"], "1 images that are evaluated on are trained on, too"),
        (["a", "b"], "2 images that are evaluated on are trained on, too"),
        (["lost"], None),
    ],
)
def test_images_in_both_are_counted(files, caplog, tested, message):
    loader = build_train_loader(
        files("a", "b"), lambda record: record, total_batch_size=1, seed=1, group_by_aspect=False
    )
    with caplog.at_level("WARNING"):
        warn_of_leaks(loader, files(*tested))
    assert (message in caplog.text) if message else not caplog.text
    if "copy of a" in tested:
        assert "copy of a = " in caplog.text
