"""Training with a teacher's cache: the same losses, and a teacher that is soon not run at all."""

import logging

import pytest

from multas.distillation import Teacher
from multas.engine import Trainer
from multas.engine.checks import cache_size
from training import start

PATHS = [
    {"TYPE": "FeatureMSE", "STUDENT": "backbone", "WEIGHT": 1.0},
    {"TYPE": "SoftDetection"},
    {"TYPE": "DeFeat", "STUDENT": "backbone"},
]


@pytest.fixture
def run_cfg(distilled_cfg, teacher_files, card):
    """A distillation on 8 images in batches of 4, three epochs long."""

    def build(*opts, folder="run"):
        return distilled_cfg(
            *teacher_files("MODEL.RESNETS.RES2_OUT_CHANNELS", 4, "MODEL.FPN.OUT_CHANNELS", 8),
            "MODEL.DISTILLATION.PATHS", PATHS,
            "MODEL.DISTILLATION.AGGREGATION.NAME", "equal",
            "DATASETS.TRAIN", [f"{card['name']}_half"],
            "INPUT.VIEWS", 1,
            "INPUT.SQUARE_SIZE", 64,
            "DATALOADER.ASPECT_RATIO_GROUPING", False,
            "SOLVER.MAX_ITER", 6,
            *opts, folder=folder,
        )  # fmt: skip

    return build


@pytest.fixture
def shown(monkeypatch):
    """How many images each call has shown to a teacher."""
    counts = []
    run = Teacher.run

    def counted(self, inputs, score_thresh=None):
        counts.append(len(inputs))
        return run(self, inputs, score_thresh)

    monkeypatch.setattr(Teacher, "run", counted)
    return counts


def losses_of(cfg) -> list[dict[str, float]]:
    """Losses and cache hits of every step."""
    trainer = start(cfg)
    steps: list[dict[str, float]] = []

    write = trainer._trainer._write_metrics

    def note(losses, *args, **kwargs):
        steps.append({name: value.item() for name, value in losses.items()})
        return write(losses, *args, **kwargs)

    trainer._trainer._write_metrics = note
    trainer.train()
    history = trainer.storage.histories().get("teacher_cache/hits")
    for step, (hits, _) in zip(steps, history.values() if history else [], strict=False):
        step["hits"] = hits
    return steps


@pytest.mark.parametrize("boxes", ["auto", "teacher"])
def test_losses_are_those_of_a_run_without_cache(run_cfg, tmp_path, shown, boxes):
    source = ["MODEL.DISTILLATION.BOXES", boxes]
    plain = losses_of(run_cfg(*source))
    cache = [*source, "MODEL.DISTILLATION.CACHE.FOLDER", str(tmp_path / "cache")]
    shown.clear()
    cold = losses_of(run_cfg(*cache, folder="cold"))
    # One to tell the size, four with and without its statistics, then each of the 8 images once.
    assert sum(shown) == 1 + 2 * 4 + 8
    assert [step.pop("hits") for step in cold] == [0, 0, 1, 1, 1, 1]
    shown.clear()
    warm = losses_of(run_cfg(*cache, folder="warm"))
    assert sum(shown) == 1 + 2 * 4
    assert [step.pop("hits") for step in warm] == [1] * 6
    assert cold == warm
    for steps in (cold, warm):
        for step, reference in zip(steps, plain, strict=True):
            assert step == pytest.approx(reference, rel=2**-9, abs=1e-5)


def test_mixed_images_come_back_until_images_are_alone(run_cfg, tmp_path):
    cache = ["MODEL.DISTILLATION.CACHE.FOLDER", str(tmp_path / "cache")]
    steps = losses_of(run_cfg(*cache, "INPUT.MIX.MOSAIC", 1.0, "INPUT.MIX.FINAL_FRACTION", 1 / 3))
    assert [step["hits"] for step in steps] == [0, 0, 1, 1, 0, 0]


def test_damaged_entries_change_no_loss_and_are_counted(run_cfg, tmp_path):
    cache = ["MODEL.DISTILLATION.CACHE.FOLDER", str(tmp_path / "cache")]
    sound = losses_of(run_cfg(*cache, folder="cold"))
    for number, file in enumerate(sorted((tmp_path / "cache").glob("*.entry"))):
        file.write_bytes((b"", file.read_bytes()[:-1], b"text")[number % 3])
    trainer = start(run_cfg(*cache, folder="again"))
    trainer.train()
    counted = trainer.storage.histories()["teacher_cache/damaged"].values()
    assert [count for count, _ in counted] == [4, 8, 8, 8, 8, 8]
    again = losses_of(run_cfg(*cache, folder="repaired"))
    assert [step.pop("hits") for step in again] == [1] * 6
    for step in sound:
        del step["hits"]
    assert again == sound


def test_a_cache_without_views_is_refused_before_training(run_cfg, tmp_path):
    cfg = run_cfg("MODEL.DISTILLATION.CACHE.FOLDER", str(tmp_path / "cache"), "INPUT.VIEWS", 0)
    with pytest.raises(ValueError, match=r"INPUT.VIEWS is 0"):
        Trainer(cfg)


def test_the_size_is_told_and_compared_with_limit_and_disk(run_cfg, tmp_path, caplog, monkeypatch):
    folder = ["MODEL.DISTILLATION.CACHE.FOLDER", str(tmp_path / "cache"), "INPUT.VIEWS", 3]
    # Detectron2's loggers do not propagate once they are set up.
    logging.getLogger("multas").propagate = True
    with caplog.at_level(logging.INFO, logger="multas"):
        Trainer(run_cfg(*folder))
    assert "8 images in 3 views of about" in caplog.text
    assert "before they are used again" not in caplog.text
    with caplog.at_level(logging.INFO, logger="multas"):
        Trainer(run_cfg(*folder, "MODEL.DISTILLATION.CACHE.MAX_GB", 1e-4))
    assert "Raise MODEL.DISTILLATION.CACHE.MAX_GB" in caplog.text
    monkeypatch.setattr(cache_size, "free_space", lambda _: 1000)
    with pytest.raises(ValueError, match=r"0.0 GB are free on its disk"):
        Trainer(run_cfg(*folder))
