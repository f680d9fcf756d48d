"""Training runs: equal to stock Detectron2, exactly resumable, students that stand alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from multas.engine import Trainer
from training import start, train

PATHS = [
    {
        "TYPE": "AttentionTransfer",
        "STUDENT": ["backbone.bottom_up.res3", "backbone.bottom_up.res4"],
    },
    {"TYPE": "FeatureMSE", "STUDENT": "backbone"},
    {"TYPE": "SoftDetection"},
]
RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.RETINANET.NUM_CLASSES", 8,
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip


def weights(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert different == []


@pytest.fixture
def teacher_files(tiny_cfg, tmp_path):
    """Config and (random) weights of a wider teacher."""

    def build(*opts):
        cfg = tiny_cfg(*opts, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
                       "MODEL.RESNETS.RES2_OUT_CHANNELS", 8)  # fmt: skip
        config, file = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
        config.write_text(cfg.dump())
        torch.manual_seed(5)
        torch.save({"model": build_model(cfg).state_dict()}, file)
        return ["MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(config),
                "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(file)]  # fmt: skip

    return build


@pytest.fixture
def distilled_cfg(tiny_cfg, teacher_files, card):
    """The tiny student, distilled over three paths from labelled and unlabelled images."""

    def build(*opts, folder="run"):
        name = card["name"]
        return tiny_cfg(
            *teacher_files(),
            "MODEL.META_ARCHITECTURE", "Distiller",
            "MODEL.DISTILLATION.PATHS", PATHS,
            "DATASETS.TRAIN", [f"{name}_half", f"{name}_half2_unlabeled"],
            *opts, folder=folder,
        )  # fmt: skip

    return build


@pytest.mark.parametrize("student", ["MultiTaskNetwork", "RetinaNet"])
@pytest.mark.parametrize("off", ["no path", "alpha 0"])
def test_without_distillation_20_steps_equal_stock_training_bit_for_bit(
    tiny_cfg, teacher_files, student, off
):
    model_opts = RETINANET if student == "RetinaNet" else []
    plain = tiny_cfg(*model_opts, "SOLVER.MAX_ITER", 20)
    stock_model = build_seeded(plain)
    losses = []
    with EventStorage() as storage:
        stock = SimpleTrainer(
            stock_model, Trainer.build_train_loader(plain), build_optimizer(plain, stock_model)
        )
        for storage.iter in range(20):
            stock.run_step()
            losses.append(storage.history("total_loss").latest())

    paths = [] if off == "no path" else [{"TYPE": "FeatureMSE", "STUDENT": "backbone"}]
    alpha = 1.0 if off == "no path" else 0.0
    cfg = tiny_cfg(
        *model_opts, *teacher_files(*model_opts), "SOLVER.MAX_ITER", 20,
        "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", student,
        "MODEL.DISTILLATION.PATHS", paths, "MODEL.DISTILLATION.ALPHA", alpha,
    )  # fmt: skip
    model = build_seeded(cfg)
    own_losses = []
    with EventStorage() as storage:
        own = SimpleTrainer(
            model, Trainer.build_train_loader(cfg), Trainer.build_optimizer(cfg, model)
        )
        for storage.iter in range(20):
            own.run_step()
            own_losses.append(storage.history("total_loss").latest())
    assert own_losses == losses
    assert_same(weights(model), weights(stock_model))


def build_seeded(cfg):
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    # A teacher or an adapter must not have shifted the random numbers behind the student's.
    assert float(torch.rand(())) == pytest.approx(after_student(cfg))
    return model


def after_student(cfg) -> float:
    torch.manual_seed(0)
    plain = cfg.clone()
    if plain.MODEL.META_ARCHITECTURE == "Distiller":
        plain.MODEL.META_ARCHITECTURE = plain.MODEL.DISTILLATION.STUDENT
    build_model(plain)
    return float(torch.rand(()))


def test_a_distillation_step_changes_student_adapters_and_z(distilled_cfg):
    cfg = distilled_cfg("SOLVER.MAX_ITER", 1)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    before = weights(trainer.model), weights(trainer.model.distillation)
    trainer.resume_or_load(False)
    trainer.train()
    after = weights(trainer.model), weights(trainer.model.distillation)
    for old, new in zip(before, after, strict=True):
        assert any(not torch.equal(old[k], new[k]) for k in old)
    assert not torch.equal(before[1]["aggregator.z"], after[1]["aggregator.z"])


def test_path_weights_losses_and_z_are_logged_but_are_no_losses(distilled_cfg):
    trainer = train(distilled_cfg())
    logged = trainer.storage.latest()
    for name in ("at", "mse", "soft"):
        weight, loss, z = (logged[f"path_{what}/{name}"][0] for what in ("weight", "loss", "z"))
        assert loss > 0
        # Logged after the step: v belongs to the step, z already moved on.
        assert weight == pytest.approx(torch.exp(torch.tensor(-z)).item(), rel=0.5)
    total = sum(v for k, (v, _) in logged.items() if k.startswith("loss_"))
    assert logged["total_loss"][0] == pytest.approx(total, rel=1e-4)


def test_a_run_prints_the_path_table_at_its_start(distilled_cfg, train_net, capsys):
    cfg = distilled_cfg("SOLVER.MAX_ITER", 1)
    train_net(cfg)
    with open(os.path.join(cfg.OUTPUT_DIR, "log.txt")) as file:
        log = file.read()
    for printed in (capsys.readouterr().out, log):
        table, training = printed.index("Distillation paths"), printed.index("Starting training")
        assert table < training
        assert "backbone.bottom_up.res3" in printed[table:training]


def test_unlabelled_images_are_drawn_and_stay_unannotated(distilled_cfg, card):
    loader = Trainer.build_train_loader(distilled_cfg())
    batches = iter(loader)
    samples = [x for _ in range(4) for x in next(batches)]
    assert len(samples) == 16, "one epoch of both halves"
    assert sum("instances" not in x for x in samples) == 8


def test_decay_and_momentum_of_z_are_keys(distilled_cfg):
    def group_of_z(*opts):
        cfg = distilled_cfg(*opts)
        model = Trainer.build_model(cfg)
        optimizer = Trainer.build_optimizer(cfg, model)
        z = model.distillation.aggregator.z
        return next(g for g in optimizer.param_groups if any(p is z for p in g["params"]))

    assert group_of_z()["weight_decay"] == 0
    assert group_of_z()["momentum"] == 0.9
    key = "MODEL.DISTILLATION.AGGREGATION."
    group = group_of_z(f"{key}Z_WEIGHT_DECAY", 1e-4, f"{key}Z_MOMENTUM", 0.0)
    assert (group["weight_decay"], group["momentum"]) == (1e-4, 0)


@pytest.mark.parametrize(
    ("student", "channels_last"),
    [("MultiTaskNetwork", False), ("MultiTaskNetwork", True), ("RetinaNet", False)],
)
def test_a_run_that_was_stopped_resumes_to_the_same_bits(
    tiny_cfg, teacher_files, card, student, channels_last
):
    model_opts = RETINANET if student == "RetinaNet" else []
    paths = PATHS[:2] if student == "RetinaNet" else PATHS
    opts = [
        *model_opts, *teacher_files(*model_opts), "SOLVER.MAX_ITER", 8,
        "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", student,
        "MODEL.DISTILLATION.PATHS", paths, "SOLVER.CHANNELS_LAST", channels_last,
        "DATASETS.TRAIN", [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"],
    ]  # fmt: skip
    whole = train(tiny_cfg(*opts, folder="whole"))
    # The same schedule, but the process ends after iteration 5 with a checkpoint behind 3.
    cfg = tiny_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 3, folder="parts")
    first = start(cfg)

    class Stop(Exception):
        pass

    def stop():
        if first.iter == 4:
            raise Stop

    first._hooks[-1].after_step = stop
    with pytest.raises(Stop):
        first.train()
    torch.manual_seed(99)
    second = Trainer(cfg)
    second.resume_or_load(True)
    assert second.start_iter == 3
    second.train()
    assert_same(weights(second.model), weights(whole.model))
    assert_same(weights(second.model.distillation), weights(whole.model.distillation))
    if student == "RetinaNet":
        ours, theirs = second.model.student, whole.model.student
        assert ours.loss_normalizer == theirs.loss_normalizer


def test_a_killed_process_resumes_to_the_same_bits(distilled_cfg, repository):
    cfg = distilled_cfg("SOLVER.MAX_ITER", 40, folder="whole")
    whole = weights(train(cfg).model)
    killed = distilled_cfg("SOLVER.MAX_ITER", 40, "SOLVER.CHECKPOINT_PERIOD", 2, folder="killed")
    os.makedirs(killed.OUTPUT_DIR)
    config = os.path.join(killed.OUTPUT_DIR, "job.yaml")
    with open(config, "w") as file:
        file.write(killed.dump())
    command = [sys.executable, "train_net.py", "--resume", "--config-file", config]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=repository, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    last = os.path.join(killed.OUTPUT_DIR, "last_checkpoint")
    deadline = time.monotonic() + 120
    while not os.path.exists(last) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.exists(last), "the run did not reach its first checkpoint"
    assert not os.path.exists(os.path.join(killed.OUTPUT_DIR, "student.pth"))
    subprocess.run(command, cwd=repository, env=environment, check=True, capture_output=True)
    final = torch.load(os.path.join(killed.OUTPUT_DIR, "student.pth"), weights_only=True)["model"]
    assert_same(final, whole)


def test_the_student_loads_in_a_plain_config_and_predicts_the_same(distilled_cfg, tiny_cfg):
    cfg = distilled_cfg()
    trainer = train(cfg)
    student_file = os.path.join(cfg.OUTPUT_DIR, "student.pth")
    content = torch.load(student_file, weights_only=True)
    plain_keys = build_model(tiny_cfg()).state_dict().keys()
    assert content.keys() == {"model"}
    assert content["model"].keys() == plain_keys
    final = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    assert final["model"].keys() == plain_keys, "no teacher, no adapter under 'model'"

    os.remove(cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS)
    os.remove(cfg.MODEL.DISTILLATION.TEACHER.CONFIG_FILE)
    image = torch.randint(0, 255, (100, 128, 3), dtype=torch.uint8).numpy()
    outputs = []
    for config in (tiny_cfg(), cfg):
        config = config.clone()
        config.MODEL.WEIGHTS = student_file
        config.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.0
        outputs.append(DefaultPredictor(config)(image)["instances"])
    assert len(outputs[0]) > 0
    assert torch.equal(outputs[0].pred_boxes.tensor, outputs[1].pred_boxes.tensor)
    assert torch.equal(outputs[0].scores, outputs[1].scores)
    with torch.no_grad():
        reference = trainer.model.eval().student
    assert_same(weights(reference), content["model"])


@pytest.mark.parametrize("evaluator", ["voc", "coco"])
def test_training_ends_with_an_evaluation(tiny_cfg, evaluator):
    trainer = train(tiny_cfg("TEST.EVALUATOR", evaluator))
    assert {"AP", "AP50", "AP75"} <= trainer._last_eval_results["bbox"].keys()


def test_a_checkpoint_holds_plain_data_only(distilled_cfg):
    cfg = distilled_cfg()
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    state = torch.load(path, weights_only=True)
    assert "aggregator.z" in state["distillation"]
    model = build_model(cfg)
    assert DetectionCheckpointer(model).load(path)["iteration"] == cfg.SOLVER.MAX_ITER - 1


@pytest.mark.parametrize("student", [[], RETINANET])
def test_channels_last_changes_no_more_than_rounding(tiny_cfg, student):
    # Where an activation lies so near zero that rounding switches it, a gradient jumps; with this
    # seed none does.
    opts = [*student, "SOLVER.MAX_ITER", 2, "SEED", 7]
    plain = train(tiny_cfg(*opts, folder="plain"))
    last = train(tiny_cfg(*opts, "SOLVER.CHANNELS_LAST", True, folder="last"))
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(last.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    stem = last.model.backbone.bottom_up.stem.conv1.weight
    assert stem.is_contiguous(memory_format=torch.channels_last)
