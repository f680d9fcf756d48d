"""The sound files are not refused, and every command refuses in the same way."""

import os

import pytest
from detectron2.data import DatasetCatalog

from bad_inputs.entry import REPOSITORY, check_refusal, run_script
from multas.data import register_card

SCRIPTS = ["train_net.py", *sorted(f"tools/{p.name}" for p in (REPOSITORY / "tools").glob("*.py"))]
OWN_PYTHON = ("tools/install_detectron2.py",)  # runs before multas is installed


@pytest.mark.parametrize("config", ["student.yaml", "distilled.yaml"])
def test_the_sound_world_trains(world, config):
    world.run("train_net.py", "--config-file", config)
    assert (world / "run" / "student.pth").is_file()
    assert "tiny_half" in DatasetCatalog.list()


@pytest.mark.parametrize("card", ["coco", "masks"])
def test_the_sound_cards_load(world, card):
    register_card(str(world / f"{card}.yaml"))
    assert len(DatasetCatalog.get(f"tiny{card}_train")) == 3


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s not in OWN_PYTHON])
def test_commands_end_through_run(script):
    text = (REPOSITORY / script).read_text()
    assert "    raise SystemExit(run(main))\n" in text or "    run(start)\n" in text
    assert "SystemExit(f" not in text and 'SystemExit("' not in text


def test_debug_shows_the_traceback(world, monkeypatch):
    monkeypatch.delenv("MULTAS_DEBUG", raising=False)
    check_refusal(world.train("SOLVER.MAX_ITR", 3), "SOLVER.MAX_ITR", "MAX_ITER")
    with pytest.raises(ValueError, match="MAX_ITR"):
        run_script("train_net.py", "--config-file", "student.yaml", "--debug",
                   "SOLVER.MAX_ITR", "3", folder=world.folder)  # fmt: skip
    assert os.environ.pop("MULTAS_DEBUG") == "1"
