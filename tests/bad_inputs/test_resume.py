"""A run is continued only as the run that it was, and from a checkpoint that is intact."""

import json
import shutil

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from bad_inputs.entry import check_refusal, run_script
from bad_inputs.world import World

AT = {"TYPE": "AttentionTransfer", "STUDENT": ["backbone.bottom_up.res3"]}
MSE = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}
SOFT = {"TYPE": "SoftDetection"}
PATHS = "MODEL.DISTILLATION.PATHS"
AGGREGATION = "MODEL.DISTILLATION.AGGREGATION"
TEACHER = "MODEL.DISTILLATION.TEACHER"
CATALOGS = (DatasetCatalog, MetadataCatalog)
CURES = ("Continue with the old values", "another OUTPUT_DIR")


@pytest.fixture(scope="module")
def trained(sound_world, tmp_path_factory):
    """The files after a distillation over three paths."""
    folder = tmp_path_factory.mktemp("trained") / "world"
    shutil.copytree(sound_world.folder, folder)
    world = World(folder)
    config = yaml.safe_load((world / "distilled.yaml").read_text())
    config["MODEL"]["DISTILLATION"]["PATHS"] = [AT, MSE, SOFT]
    config["SOLVER"] = {"MAX_ITER": 3, "CHECKPOINT_PERIOD": 1}
    config["DATASETS"] = {"TEST": []}
    world.write("three.yaml", config)
    known = [set(catalog.list()) for catalog in CATALOGS]
    world.run("train_net.py", "--config-file", "three.yaml")
    for catalog, names in zip(CATALOGS, known, strict=True):
        for name in set(catalog.list()) - names:
            catalog.remove(name)
    return world


@pytest.fixture
def run(trained, tmp_path, forget_registered):
    """A copy of all files after the training, to spoil."""
    shutil.copytree(trained.folder, tmp_path / "world")
    return World(tmp_path / "world")


def resumed(world: World, *opts) -> str:
    """The message with which the run is not continued."""
    return world.refused("train_net.py", "--config-file", "three.yaml", "--resume", *opts)


CONFIGS = [
    ((PATHS, [SOFT, AT, MSE]), (PATHS, "['at', 'mse', 'soft']", "['soft', 'at', 'mse']")),
    ((PATHS, [AT, MSE]), (PATHS, "['at', 'mse', 'soft']", "['at', 'mse'] now")),
    ((PATHS, [AT, MSE, SOFT, MSE | {"NAME": "more"}]), (PATHS, "'soft', 'more']")),
    ((PATHS, [AT, MSE | {"NAME": "other"}, SOFT]), (PATHS, "'other'")),
    ((PATHS, [AT | {"STUDENT": ["backbone.bottom_up.res4"]}, MSE, SOFT]),
     ("path 'at', STUDENT", "res3", "res4")),
    ((PATHS, [AT, MSE | {"TEACHER": "backbone.bottom_up"}, SOFT]), ("path 'mse', TEACHER",)),
    ((PATHS, [AT, MSE | {"WEIGHT": 7.0}, SOFT]), ("path 'mse', WEIGHT", "7.0 now")),
    ((PATHS, [AT, MSE | {"LAYERWISE": True}, SOFT]), ("path 'mse', LAYERWISE", "True now")),
    ((PATHS, [AT | {"TYPE": "FeatureMSE", "NAME": "at"}, MSE, SOFT]),
     ("path 'at', TYPE", "AttentionTransfer", "FeatureMSE")),
    ((f"{AGGREGATION}.NAME", "dwa"), (f"{AGGREGATION}.NAME", "adaptive", "dwa")),
    ((f"{AGGREGATION}.MAX_WEIGHTED_LOSS", "5.0"),
     (f"{AGGREGATION}.MAX_WEIGHTED_LOSS", "not set", "5.0 now")),
    (("MODEL.DISTILLATION.ALPHA", 0.5), ("DISTILLATION.ALPHA", "1.0 in", "0.5 now")),
    (("MODEL.DISTILLATION.RAMP.ITERS", 2), ("RAMP.ITERS", "0 in", "2 now")),
    ((f"{TEACHER}.OPTS", ["MODEL.FPN.NORM", "BN"]), (f"{TEACHER}, MODEL.FPN.NORM", "BN now")),
    ((f"{TEACHER}.PRECISION", "bfloat16"), (f"{TEACHER}.PRECISION", "bfloat16 now")),
    (("SEED", 2), ("SEED: 1 in the checkpoint, 2 now",)),
    (("DATASETS.TRAIN", "('tiny_det',)"), ("DATASETS.TRAIN", "tiny_half", "tiny_det")),
    (("MODEL.RESNETS.STEM_OUT_CHANNELS", 8), ("MODEL.RESNETS.STEM_OUT_CHANNELS", "8 now")),
    (("SOLVER.IMS_PER_BATCH", 4), ("SOLVER.IMS_PER_BATCH", "2 in", "4 now")),
    (("SOLVER.BASE_LR", 0.5), ("SOLVER.BASE_LR", "0.001 in", "0.5 now")),
    (("SOLVER.MOMENTUM", 0.5), ("SOLVER.MOMENTUM", "0.9 in", "0.5 now")),
    (("SOLVER.EMA.ENABLED", True), ("SOLVER.EMA.ENABLED", "False in", "True now")),
    (("INPUT.MIN_SIZE_TRAIN", [32]), ("INPUT.MIN_SIZE_TRAIN", "[64] in", "[32] now")),
    (("INPUT.COPIES", 2), ("INPUT.COPIES", "1 in", "2 now")),
]  # fmt: skip


@pytest.mark.parametrize(("opts", "parts"), CONFIGS)
def test_another_config_is_another_run(run, opts, parts):
    check_refusal(resumed(run, *opts), "model_final.pth is a checkpoint of another run", *parts,
                  *CURES)  # fmt: skip


def test_so_does_one_with_a_shorter_end(run):
    check_refusal(resumed(run, "SOLVER.MAX_ITER", 2), "SOLVER.MAX_ITER is 2", "model_final.pth",
                  "has trained 3 iterations", "another OUTPUT_DIR")  # fmt: skip


def another_teacher(world):
    weights = torch.load(world / "teacher.pth", weights_only=True)["model"]
    torch.save({"model": {name: 2 * tensor for name, tensor in weights.items()}},
               world / "teacher.pth")  # fmt: skip


def fewer_images(world):
    file = world / "devkit" / "ImageSets" / "Half" / "trainval.txt"
    file.write_text("\n".join(file.read_text().split()[:-1]) + "\n")


def another_box(world):
    for file in (world / "devkit" / "Annotations").iterdir():
        text = file.read_text()
        file.write_text(text.replace("<xmin>", "<xmin>1", 1) if "<xmin>1<" in text else text)
        start = text.index("<xmax>") + len("<xmax>")
        end = text.index("</xmax>")
        file.write_text(f"{text[:start]}{int(float(text[start:end])) - 1}{text[end:]}")


def other_classes(world):
    card = yaml.safe_load((world / "devkit.yaml").read_text())
    card["classes"] = card["classes"][::-1]
    world.write("devkit.yaml", card)


FILES = [
    (another_teacher, (f"{TEACHER}.WEIGHTS: teacher.pth",)),
    (fewer_images, ("DATASETS.TRAIN, images", "8 images", "7 images")),
    (another_box, ("DATASETS.TRAIN, images", "fingerprint")),
    (other_classes, ("thing_classes of 'tiny_half'", "['disc', ")),
]


@pytest.mark.parametrize(("change", "parts"), FILES)
def test_other_data_is_another_run(run, change, parts):
    change(run)
    check_refusal(resumed(run), "is a checkpoint of another run", *parts, *CURES)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


def all_of(spoil):
    """Spoils every checkpoint."""

    def change(world):
        for file in (world / "run").glob("model_*.pth"):
            spoil(file)

    return change


def last(content):
    """Spoils ``last_checkpoint``."""
    return lambda world: (world / "run" / "last_checkpoint").write_bytes(content)


def weights_alone(world):
    for file in (world / "run").glob("model_*.pth"):
        shutil.copy(world / "teacher.pth", file)


DAMAGES = [
    (all_of(truncate), ("model_final.pth is damaged", "model_0000000.pth is damaged")),
    (all_of(flip_a_bit), ("model_final.pth is damaged", "model_0000001.pth is damaged")),
    (all_of(empty), ("model_final.pth is empty", "model_0000002.pth is empty")),
    (weights_alone, ("model_final.pth holds weights alone",)),
    (last(b"../teacher.pth"), ("last_checkpoint names '../teacher.pth'", "delete this file")),
    (last(b"/etc/passwd"), ("last_checkpoint names '/etc/passwd'", "delete this file")),
    (last(b".."), ("last_checkpoint names '..'",)),
]


@pytest.mark.parametrize(("spoil", "parts"), DAMAGES)
@pytest.mark.parametrize("how", [(), ("--eval-only", "DATASETS.TEST", "('tiny_test',)")])
def test_without_an_intact_checkpoint_nothing_is_continued(run, spoil, parts, how):
    spoil(run)
    message = run.refused("train_net.py", "--config-file", "three.yaml", "--resume", *how)
    check_refusal(message, *parts)
    check_refusal(message, "newest" if "names" in message else "another OUTPUT_DIR")


def network_of_another_code(world):
    for file in (world / "run").glob("model_*.pth"):
        content = torch.load(file, weights_only=True)
        content["model"]["renamed"] = content["model"].pop(next(iter(content["model"])))
        torch.save(content, file)


def adapters(world):
    for file in (world / "run").glob("model_*.pth"):
        content = torch.load(file, weights_only=True)
        content["trainer"]["hooks"]["PathWeights"]["adapters"]["paths.mse.more"] = torch.zeros(1)
        torch.save(content, file)


def weights_by_place(world):
    """As an older version wrote them."""
    for file in (world / "run").glob("model_*.pth"):
        content = torch.load(file, weights_only=True)
        del content["contract"]
        content["trainer"]["hooks"]["PathWeights"]["aggregator"] = {"z": torch.zeros(3)}
        torch.save(content, file)


def weights_of_other_paths(world):
    for file in (world / "run").glob("model_*.pth"):
        content = torch.load(file, weights_only=True)
        content["trainer"]["hooks"]["PathWeights"]["aggregator"]["paths"].reverse()
        torch.save(content, file)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (network_of_another_code, ("is of another network", "absent", "another OUTPUT_DIR")),
        (adapters, ("absent here are paths.mse.more", "the old paths")),
        (weights_by_place, ("an older version", "path weights in z", "another OUTPUT_DIR")),
        (weights_of_other_paths, ("soft, mse, at, in this order", "at, mse, soft")),
    ],
)
def test_a_state_that_does_not_fit_is_named(run, change, parts):
    change(run)
    check_refusal(resumed(run), *parts)


def test_what_may_change(run):
    (run / "elsewhere").mkdir()
    for name in ("teacher.pth", "teacher.yaml"):
        (run / name).rename(run / "elsewhere" / name)
    opts = [f"{TEACHER}.WEIGHTS", "elsewhere/teacher.pth",
            f"{TEACHER}.CONFIG_FILE", "elsewhere/teacher.yaml", "SOLVER.MAX_ITER", "4",
            "SOLVER.CHECKPOINT_PERIOD", "7", "DATALOADER.NUM_WORKERS", "1",
            "TEST.DETECTIONS_PER_IMAGE", "5", "INPUT.MIN_SIZE_TEST", "32"]  # fmt: skip
    status, errors = run_script("train_net.py", "--config-file", "three.yaml", "--resume", *opts,
                                folder=run.folder)  # fmt: skip
    assert status == 0, errors
    told = "another schedule. SOLVER.MAX_ITER: 3 in the checkpoint, 4 now"
    assert (run / "run" / "log.txt").read_text().count(told) == 1 and told not in errors
    iterations = [json.loads(x)["iteration"] for x in (run / "run" / "metrics.json").open()]
    assert iterations == [2, 3]
