"""An exported network as a model of Detectron2: the same results, wherever a model is used."""

import json
from argparse import Namespace

import pytest
import torch
import train_net
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor

import pseudo_label
import visualize
from deploy.conftest import CLASSES, Pair, picture
from multas.distillation import Teacher
from multas.engine import Trainer, load_config
from multas.engine.checks.classes import check_classes
from multas.engine.inference import load_model
from multas.util.errors import UserError

EXPORTED = ["MODEL.META_ARCHITECTURE", "ExportedModel"]


def files(pair: Pair, folder) -> tuple[str, str]:
    """The config of a network and its weights, as files."""
    config, weights = folder / "config.yaml", folder / "student.pth"
    config.write_text(pair.cfg.dump())
    torch.save({"model": pair.model.state_dict()}, weights)
    return str(config), str(weights)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key in {"sem_seg", "scores"} & wanted.keys():
        error = (found[key] - wanted[key]).abs().max() / wanted[key].abs().max()
        assert error < 1e-4, key
    if "instances" in wanted:
        a, b = found["instances"], wanted["instances"]
        assert a.image_size == b.image_size and len(a) == len(b) > 10
        assert torch.equal(a.pred_classes, b.pred_classes)
        assert torch.allclose(a.scores, b.scores, atol=1e-4)
        assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "library"),
    [("two_tasks", "onnxruntime"), ("any_size", "openvino"), ("classifier", "onnxruntime")],
)
def test_default_predictor_gives_the_same_results(name, library, request, tmp_path):
    pytest.importorskip(library)
    pair = request.getfixturevalue(name)
    config, weights = files(pair, tmp_path)
    plain = DefaultPredictor(load_config(config, ["MODEL.WEIGHTS", weights]))
    opts = [*EXPORTED, "MODEL.WEIGHTS", str(pair.file), "MODEL.EXPORTED.LIBRARY", library]
    served = DefaultPredictor(load_config(config, [*opts, "MODEL.EXPORTED.PRECISION", "f32"]))
    for size in [(50, 70), (90, 61), (64, 64)]:
        assert_same(served(picture(*size)), plain(picture(*size)))


@pytest.mark.parametrize("name", ["two_tasks", "classifier"])
def test_evaluators_find_the_same(name, request, cells, tmp_path):
    pair = request.getfixturevalue(name)
    config, weights = files(pair, tmp_path)
    kinds = ["coco", "sem_seg"] if name == "two_tasks" else "classification"
    MetadataCatalog.get(cells).evaluator_type = kinds
    opts = ["DATASETS.TEST", [cells], "DATALOADER.NUM_WORKERS", 0]

    def evaluate(*more):
        keys = [*opts, "OUTPUT_DIR", str(tmp_path / "run"), *more]
        args = Namespace(config_file=config, opts=keys, eval_only=True, resume=False)
        return train_net.main(args)

    wanted = evaluate("MODEL.WEIGHTS", weights)
    found = evaluate("MODEL.WEIGHTS", str(pair.file), *EXPORTED)
    assert found.keys() == wanted.keys() and found
    for task, figures in wanted.items():
        assert found[task] == pytest.approx(figures, abs=0.1, nan_ok=True), task
    again = load_config(str(tmp_path / "run" / "config.yaml"))
    assert str(pair.file) == again.MODEL.EXPORTED.FILE and not again.MODEL.WEIGHTS


def run(monkeypatch, tool, *arguments):
    monkeypatch.setattr("sys.argv", [tool.__name__, *map(str, arguments)])
    tool.main()


def test_it_labels_images_as_a_teacher(two_tasks, cells, tmp_path, monkeypatch):
    config, weights = files(two_tasks, tmp_path)
    wanted, found = tmp_path / "wanted.json", tmp_path / "found.json"
    rest, opts = (
        ["--dataset", cells, "--score-thresh", "0.1", "--flip"],
        ["DATALOADER.NUM_WORKERS", 0],
    )
    run(monkeypatch, pseudo_label, "--config-file", config, "--weights", weights,
        "--output", wanted, *rest, *opts)  # fmt: skip
    of_file = ["--config-file", config, "--weights", two_tasks.file, "--output", found, *rest]
    run(monkeypatch, pseudo_label, *of_file, *opts, *EXPORTED)
    a, b = (json.loads(file.read_text())["annotations"] for file in (found, wanted))
    assert len(a) == len(b) > 10
    for one, other in zip(a, b, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-2)
        assert one["category_id"] == other["category_id"]
    with pytest.raises(UserError, match=r"--scales: .*Leave --scales out"):
        run(monkeypatch, pseudo_label, *of_file, "--scales", "1.0", "0.5", "--flip", *EXPORTED)


def test_it_is_drawn(two_tasks, cells, tmp_path, monkeypatch):
    config, _ = files(two_tasks, tmp_path)
    run(monkeypatch, visualize, "--config-file", config, "--weights", two_tasks.file,
        "--output", tmp_path / "drawn", tmp_path / "0.png", "--opts", *EXPORTED)  # fmt: skip
    assert (tmp_path / "drawn" / "0.png").is_file()


def test_other_classes_are_refused(two_tasks, cells):
    cfg = load_config("", [*EXPORTED, "MODEL.DEVICE", "cpu"])
    model = load_model(cfg, str(two_tasks.file))
    check_classes(model, [cells])
    other = MetadataCatalog.get("others")
    other.set(annotates=("det",), thing_classes=["dot", "cell", "ring"], stuff_classes=["sky"])
    with pytest.raises(UserError, match=r"cell, dot, ring.*'others' has dot, cell, ring"):
        check_classes(model, ["others"])


def test_it_cannot_be_trained_or_tapped(two_tasks, cells, tmp_path):
    cfg = load_config("", [*EXPORTED, "MODEL.WEIGHTS", str(two_tasks.file)])
    with pytest.raises(UserError, match=r"ExportedModel, a network that is fixed.*pseudo_label"):
        Trainer(cfg)
    student = ["MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", EXPORTED[1]]
    with pytest.raises(UserError, match=r"MODEL\.DISTILLATION\.STUDENT names ExportedModel"):
        Trainer(load_config("", student))
    model = load_model(cfg, "")
    with pytest.raises(UserError, match="fixed"):
        model.train()([{"image": torch.zeros(3, 8, 8)}])
    (tmp_path / "teacher.yaml").write_text("MODEL: {META_ARCHITECTURE: ExportedModel}")
    with pytest.raises(UserError, match="no layers to distil from"):
        Teacher.load_config(str(tmp_path / "teacher.yaml"), [])


def test_prepared_images_are_refused(two_tasks):
    model = load_model(load_config("", EXPORTED), str(two_tasks.file))
    with pytest.raises(UserError, match="takes whole images"):
        model([{"image": torch.zeros(3, 8, 8), "prepared": True}])
    assert model([{"image": torch.zeros(3, 8, 8)}])[0]["instances"].image_size == (8, 8)
    assert model.classes.__self__.detector.description.classes == CLASSES


def test_a_file_that_cannot_be_run_says_so(tmp_path, two_tasks):
    cfg = load_config("", EXPORTED)
    (tmp_path / "torn.onnx").write_bytes(two_tasks.file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"torn\.onnx cannot be run by onnxruntime"):
        load_model(cfg, str(tmp_path / "torn.onnx"))
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*torn\.onnx"):
        load_model(cfg, str(tmp_path / "tom.onnx"))
    (tmp_path / "student.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"student\.pth is no exported network"):
        load_model(cfg, str(tmp_path / "student.pth"))
    plain = load_config("", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(UserError, match=r"META_ARCHITECTURE ExportedModel"):
        load_model(plain, str(two_tasks.file))
