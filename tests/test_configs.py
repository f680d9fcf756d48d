"""The shipped configs: all load, the recipes build and train, and no key is there in vain."""

import ast
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.events import EventStorage

import multas.data
from multas.config import add_multas_config, files
from multas.config.rows import output_dir, read_config
from multas.config.solver import EPOCH_KEYS
from multas.data import make_toy
from multas.distillation import Distiller, unwrap
from multas.distillation.paths.spec import parse_paths
from multas.engine import Trainer, load_config
from multas.engine.path_weights import PathWeights
from multas.util.annotation import STANDARD
from multas.util.yaml_files import read_yaml
from shipped import PLAIN, REPOSITORY, ROWS, row_of, rows
from tiny_recipe import as_shipped

LIMITED = [address for n in range(1, 5) for address in rows(f"configs/limited-data/table{n}.yaml")]
MULTI_TASK = [address for n in (5, 6) for address in rows(f"configs/limited-data/table{n}.yaml")]
# Rows differ between data sets in the parts of the data set alone: all of them on the embedded
# set, and those of Table 1 on the others.
BUILT = [a for a in LIMITED if row_of(a)[0] == "toy" or "table1" in a]
# One of each kind of row, to run from the first hook to the last.
SAMPLES = [
    f"configs/limited-data/{row}"
    for row in (
        "table1.yaml#voc/half/teacher",
        "table1.yaml#voc/half/self_trained_defeat",
        "table2.yaml#toy/quarter/teacher",
        "table2.yaml#toy/quarter/supervised_pdf",
        "table4.yaml#toy/eighth_to_3quarter/self_trained_mse",
        "beyond/mean_teacher.yaml",
        "table1.yaml#vedai/half/self_trained_pdf",
    )
]


@cache
def loaded(file: str) -> CfgNode:
    return load_config(file)


@pytest.fixture(autouse=True)
def working_directory(monkeypatch):
    """Relative paths in configs start at the root of the repository."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> dict:
    """The card of the embedded set, pointed at a tiny one."""
    root = make_toy(tmp_path_factory.mktemp("tinyconfigs"), train=16, val=4, test=4)
    content = yaml.safe_load((REPOSITORY / "datasets" / "cards" / "toy.yaml").read_text())
    # Every module that uses the fixture has a data set, and a name, of its own.
    return {**content, "name": root.name, "root": str(root)}


def split_of(name: str) -> str:
    return name.removeprefix("toy_source_") if "source" in name else name.partition("_")[2]


def tiny_names(names, card: str) -> list[str]:
    """The same splits of the tiny set: voc2007_half and voc2012_half -> tiny_half, vedai_test ->
    tiny_test, voc2012_both_val -> tiny_both_val."""
    own = dict.fromkeys(f"{card}_{split_of(name)}" for name in names)
    return [name.replace("_det_val", "_val") for name in own]


@pytest.fixture
def tiny(card, tiny_recipe, tmp_path):
    """``tiny(file)``: a shipped config on the tiny set, narrow, for two iterations."""
    multas.data.register_card(card)

    def build(file: str, *opts) -> CfgNode:
        cfg = as_shipped(file)
        pairs = [
            "DATASETS.TRAIN", tiny_names(cfg.DATASETS.TRAIN, card["name"]),
            "DATASETS.TEST", tiny_names(cfg.DATASETS.TEST, card["name"]),
            "SOLVER.IMS_PER_BATCH", 2 // cfg.INPUT.COPIES,
            "SOLVER.WARMUP_ITERS", 1,
        ]  # fmt: skip
        if cfg.DATASETS.TASK_BATCHES:
            batches = [
                entry | {"TRAIN": tiny_names(entry["TRAIN"], card["name"])}
                for entry in cfg.DATASETS.TASK_BATCHES
            ]
            pairs += ["DATASETS.TASK_BATCHES", batches]
        if cfg.INPUT.SQUARE_SIZE:
            pairs += ["INPUT.SQUARE_SIZE", 64, "INPUT.MULTI_SCALE.SIZES", [64, 128]]
        if cfg.SOLVER.EARLY_STOPPING.ENABLED:
            stop = "SOLVER.EARLY_STOPPING"
            dataset = tiny_names([cfg.SOLVER.EARLY_STOPPING.DATASET], card["name"])[0]
            pairs += [f"{stop}.DATASET", dataset, f"{stop}.PERIOD", 2]
        return tiny_recipe(file, *pairs, *opts, output=tmp_path / "run")

    return build


@pytest.mark.parametrize("file", PLAIN + ROWS)
def test_every_config_loads_and_names_what_exists(file):
    cfg = loaded(file)
    parse_paths(cfg.MODEL.DISTILLATION.PATHS)
    for card in cfg.DATASETS.CARDS:
        assert Path(card).is_file()
    teacher = cfg.MODEL.DISTILLATION.TEACHER
    if cfg.MODEL.META_ARCHITECTURE == "Distiller" and not teacher.EMA_DECAY:
        # A fixed teacher is trained by a config of ours, whose output the student's config names.
        trained = loaded(teacher.CONFIG_FILE)
        assert f"{trained.OUTPUT_DIR}/student.pth" == teacher.WEIGHTS
        assert cfg.DATASETS.CARDS == trained.DATASETS.CARDS


def test_every_run_writes_to_a_folder_of_its_own():
    folders = [loaded(file).OUTPUT_DIR for file in PLAIN + ROWS if not file.endswith("base.yaml")]
    assert len(set(folders)) == len(folders)
    assert all(output_dir(address) == loaded(address).OUTPUT_DIR for address in ROWS)


def test_there_are_few_files():
    assert len(list((REPOSITORY / "configs").rglob("*.yaml"))) <= 150


def test_every_part_is_used(monkeypatch):
    read = set()

    def spy(file):
        read.add(Path(file).resolve())
        return read_yaml(file)

    monkeypatch.setattr(files, "read_yaml", spy)
    for address in [*ROWS, *PLAIN]:
        read_config(address)
    parts = {f for f in (REPOSITORY / "configs").rglob("*.yaml") if "base" in f.parts}
    assert parts - read == set()


def test_a_student_trains_on_the_split_that_its_table_says():
    for address in LIMITED:
        cfg = loaded(address)
        folder, name = address.split("/")[-2:]
        part, _, other = folder.partition("_to_")
        self_trained = name.startswith("self_trained")
        wanted = f"{other or 'trainval'}_unlabeled" if self_trained else part
        assert {split_of(split) for split in cfg.DATASETS.TRAIN} == {wanted}
        assert cfg.MODEL.DISTILLATION.HARD_LABELS is not self_trained
        teacher = cfg.MODEL.DISTILLATION.TEACHER.CONFIG_FILE
        assert not teacher or teacher.split("/")[-2:] == [part, "teacher"]


@pytest.mark.parametrize("file", BUILT)
def test_every_row_builds_and_trains_for_two_iterations(file, tiny):
    cfg = tiny(file)
    model = Trainer.build_model(cfg).train()
    if unwrap(model)[1] is not None:
        PathWeights(cfg, model)
    optimizer = Trainer.build_optimizer(cfg, model)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    batches = iter(Trainer.build_train_loader(cfg))
    before = [p.detach().clone() for p in model.parameters()]
    with EventStorage():
        for _ in range(2):
            losses = model(next(batches))
            total = sum(losses.values())
            assert torch.isfinite(total)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            scheduler.step()
    paths = {name.split("_")[2] for name in losses if name.startswith("loss_kd_")}
    words = row_of(file)[1].split("_")
    assert paths == {"mse", "pdf", "defeat"} & set(words) | ({"soft"} if "self" in words else set())
    if "self" in words:
        # No ground truth: the losses of the labels are exact zeros.
        assert losses["loss_cls"] == losses["loss_box_reg"] == 0
    # Small steps vanish in the rounding of a norm's weight of 1; most parameters move.
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(p.grad is not None for p in model.parameters())


def test_self_training_needs_no_annotation_file(card, tiny, tmp_path):
    root = Path(shutil.copytree(card["root"], tmp_path / "devkit"))
    shutil.rmtree(root / "Annotations")
    shutil.rmtree(root / "SegmentationClass")
    bare = tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump({**card, "name": "bareconfigs", "root": str(root)}))
    for table, folder, row in (
        ("table3.yaml", "half_to_half2", "self_trained_defeat"),
        ("table4.yaml", "eighth_to_3quarter", "self_trained_pdf"),
    ):
        split = folder.split("_")[-1]
        cfg = tiny(
            f"configs/limited-data/{table}#toy/{folder}/{row}",
            "DATASETS.CARDS", [str(bare)],
            "DATASETS.TRAIN", [f"bareconfigs_{split}_unlabeled"],
            "MODEL.DISTILLATION.BOX_SCORE_THRESH", 0.0,
        )  # fmt: skip
        model = Trainer.build_model(cfg).train()
        PathWeights(cfg, model)
        with EventStorage():
            losses = model(next(iter(Trainer.build_train_loader(cfg))))
        assert sum(losses.values()) > 0


# Keys


def leaves(node: dict, prefix: str = "") -> dict:
    """Dotted names of all values below a node."""
    found = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def own_keys() -> list[str]:
    plain, ours = get_cfg(), get_cfg()
    add_multas_config(ours)
    return sorted(leaves(ours).keys() - leaves(plain).keys())


@cache
def attributes() -> set[str]:
    """All names after a dot in the code of the package, the declarations of the keys apart."""
    package = REPOSITORY / "projects" / "multas"
    files = [f for f in package.rglob("*.py") if f.parent.name != "config"]
    trees = [ast.parse(f.read_text()) for f in files]
    return {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


@pytest.mark.parametrize("key", own_keys())
def test_every_key_is_read_somewhere(key):
    # Those of schedules in epochs are read by their names in EPOCH_KEYS, names of classes by task.
    by_name = {*EPOCH_KEYS.values(), *(f"MODEL.CLASSES.{x.task.upper()}" for x in STANDARD)}
    unread = [part for part in key.split(".") if part not in attributes() and key not in by_name]
    assert unread == [], f"nothing reads {key}"


@pytest.fixture
def read_keys(monkeypatch):
    """Dotted names of all keys read from any config during the test.

    A node does not know its place, so it is told by its keys: no two nodes with the same keys
    share a key of different meaning here.
    """
    reference = get_cfg()
    add_multas_config(reference)
    places: dict[frozenset, list[str]] = {}

    def walk(node: CfgNode, prefix: str) -> None:
        places.setdefault(frozenset(node), []).append(prefix)
        for key, value in node.items():
            if isinstance(value, CfgNode):
                walk(value, f"{prefix}{key}.")

    walk(reference, "")
    read: set[str] = set()
    original = CfgNode.__getattr__

    def spy(self, name):
        if name in self:
            read.update(f"{prefix}{name}" for prefix in places.get(frozenset(self), ()))
        return original(self, name)

    monkeypatch.setattr(CfgNode, "__getattr__", spy)
    return read


@pytest.mark.parametrize("file", SAMPLES)
def test_no_key_of_a_recipe_is_set_in_vain(file, tiny, read_keys, tmp_path):
    cfg = tiny(file)
    read_keys.clear()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    Trainer.test(cfg, trainer.model)
    content = read_config(file)
    # What the tiny version overrides, load_config reads before the spy looks, or means something
    # to bottleneck blocks alone.
    outside = {"VERSION", "DATASETS.CARDS", "DATALOADER.NUM_WORKERS", "SOLVER.EPOCHS",
               "SOLVER.EPOCH_ROUNDING", "SOLVER.EARLY_STOPPING.PERIOD_EPOCHS",
               "MODEL.RESNETS.STRIDE_IN_1X1"}  # fmt: skip
    assert leaves(content).keys() - read_keys - outside == set()
    student = torch.load(tmp_path / "run" / "student.pth", weights_only=True)
    assert isinstance(trainer.model, Distiller) == (not file.endswith("/teacher"))
    assert student["model"].keys() == trainer.model.state_dict().keys()
