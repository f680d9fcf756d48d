"""A head from a user's own file, with options and an annotation of its own, is trained."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from multas.data import register_card
from multas.modeling import MultiTaskNetwork
from training import start, train

HEAD = {"TYPE": "CountHead", "HIDDEN": 3}


@pytest.fixture
def counted(card, card_file):
    """Name of a data set whose images are annotated with their number of objects alone."""
    register_card(card_file)
    name = f"{card['name']}_counted"

    def load():
        records = DatasetCatalog.get(f"{card['name']}_train")
        return [{**r, "count": len(r.pop("annotations"))} for r in map(dict, records)]

    DatasetCatalog.register(name, load)
    yield name
    DatasetCatalog.remove(name)


@pytest.fixture
def count_cfg(tiny_cfg, counted):
    """``count_cfg(KEY, VALUE, ...)``: a network with a user's own head alone."""

    def build(*opts, head=HEAD, folder="run"):
        return tiny_cfg(
            "IMPORT_MODULES", ["own_head"],
            "MODEL.MULTITASK.TASKS", ["count"], "MODEL.MULTITASK.HEADS", [head],
            "DATASETS.TRAIN", [counted], "DATASETS.TEST", [],
            *opts, folder=folder,
        )  # fmt: skip

    return build


def test_it_learns_from_its_own_annotation(count_cfg):
    trainer = train(count_cfg("SOLVER.MAX_ITER", 30))
    assert trainer.model.heads["count"].layers[0].out_features == 3
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    trainer.model.eval()
    (output,) = trainer.model([{"image": torch.zeros(3, 64, 64)}])
    assert output["count"].shape == ()


def test_its_options_are_checked(count_cfg):
    with pytest.raises(ValueError, match=r"CountHead: unknown key 'HIDEN'. Did you mean 'HIDDEN'"):
        build_model(count_cfg(head={"TYPE": "CountHead", "HIDEN": 3}))
    with pytest.raises(ValueError, match=r"registered as 'CounterHead'. Did you mean 'CountHead'"):
        build_model(count_cfg(head={"TYPE": "CounterHead"}))
    with pytest.raises(ValueError, match=r"HEADS has {'HIDDEN': 3}: .* the key TYPE"):
        build_model(count_cfg(head={"HIDDEN": 3}))
    assert isinstance(build_model(count_cfg(head="CountHead")), MultiTaskNetwork)


def test_it_is_missed_where_no_image_is_annotated_for_it(count_cfg, card):
    with pytest.raises(ValueError, match="images are not annotated for count"):
        start(count_cfg("DATASETS.TRAIN", [f"{card['name']}_train"]))


@pytest.mark.parametrize("visible", [True, False])
def test_its_annotation_is_hidden_with_all_others(count_cfg, tmp_path, visible):
    teacher = count_cfg(folder="teacher")
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    torch.save({"model": build_model(teacher).state_dict()}, tmp_path / "teacher.pth")
    trainer = train(
        count_cfg(
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.HARD_LABELS", visible,
            "MODEL.DISTILLATION.PATHS", [{"TYPE": "FeatureMSE"}],
            "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(tmp_path / "teacher.yaml"),
            "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"),
        )
    )  # fmt: skip
    losses = [value for value, _ in trainer.storage.history("loss_count").values()]
    assert len(losses) == 3 and all((loss > 0) == visible for loss in losses)
