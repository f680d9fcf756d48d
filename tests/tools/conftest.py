"""What the tests of the tools share: the working directory, made-up runs, and small data."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import torchvision.datasets
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin

from multas.data import make_toy
from reproduction import data_sets, own_data
from reproduction.miniatures import accept, make_miniatures
from reproduction.run import Run


@pytest.fixture(autouse=True)
def working_directory(monkeypatch, repository):
    """Relative paths in configs start at the root of the repository."""
    monkeypatch.chdir(repository)


@pytest.fixture(autouse=True)
def no_data_sets_stay(forget_registered):
    """A test finds no data set of other tests' cards, and leaves none of its own."""
    forget_data()
    yield
    forget_data()


def forget_data() -> None:
    """Let cards be registered, data sets and files be read again."""
    for name in [name for name in DatasetCatalog if MetadataCatalog.get(name).get("card")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for function in (data_sets._load, data_sets.file_hash, own_data._class_opts):
        function.cache_clear()


@pytest.fixture(name="forget_data")
def _forget_data():
    return forget_data


def fabricate(run: Run, **numbers: float) -> None:
    """Leave behind what a training leaves, with made-up numbers: `bbox__AP=30` is bbox/AP."""
    run.folder.mkdir(parents=True, exist_ok=True)
    metrics = {name.replace("__", "/"): value for name, value in numbers.items()}
    names = [f"path_{what}/{path}" for what in ("weight", "loss") for path in ("at", "st")]
    records: list[dict] = [
        {"iteration": iteration, "time": 1.5, **{name: 0.5 + i for i, name in enumerate(names)}}
        for iteration in (19, 39, 59)
    ]
    records[-1] |= metrics
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (run.folder / "metrics.json").write_text(lines)
    (run.folder / "config.yaml").write_text(yaml.safe_dump({"MODEL": {"DEVICE": "cpu"}}))
    (run.folder / "log.txt").write_text("TEST FIXTURE: nothing was trained here\n")
    run.console.write_text(f"# 2 threads, 0.50 GPUs\n$ OMP_NUM_THREADS=2 {run.command_line}\n")
    torch.save({}, run.weights)


class FakeRunner:
    """Trains nothing; runs whose title has one of the words fail, the others get an AP of 10."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.trained: list[str] = []
        self.at_a_time = 0
        self.most_at_a_time = 0
        self.stopped = False
        self.wait = threading.Event()
        self._lock = threading.Lock()

    def train(self, run: Run) -> bool:
        with self._lock:
            self.trained.append(run.digest)
            self.at_a_time += 1
            self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        self.wait.wait(0.05)
        with self._lock:
            self.at_a_time -= 1
        if any(word in run.title for word in self.failing):
            run.folder.mkdir(parents=True, exist_ok=True)
            run.console.write_text("TEST FIXTURE: RuntimeError: out of luck\n")
            return False
        fabricate(run, bbox__AP=10.0)
        return True

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def fake_runner():
    return FakeRunner


@pytest.fixture(name="fabricate")
def fabricate_fixture():
    return fabricate


@pytest.fixture
def own_configs(repository, tmp_path, monkeypatch) -> Path:
    """A folder with a copy of the recipes and cards, to be changed; the working directory."""
    for folder in ("configs/limited-data", "datasets/cards"):
        shutil.copytree(repository / folder, tmp_path / "copy" / folder)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


_BUILTIN = ("coco", "cityscapes_fine_instance_seg", "cityscapes_fine_sem_seg", "ade20k_")


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory):
    """The folder of the miniatures."""
    root = tmp_path_factory.mktemp("miniatures")
    make_miniatures(root)
    return root


@pytest.fixture
def miniature_sets(miniatures, monkeypatch, forget_registered):
    """The folder; Detectron2's own data sets lie there, and cards look there for theirs."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(miniatures))
    for dataset in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        for files in ("train_list", "test_list", "meta"):  # to be put back
            monkeypatch.setattr(dataset, files, getattr(dataset, files))
    accept(miniatures)
    for name in [name for name in DatasetCatalog if any(part in name for part in _BUILTIN)]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for register in (
        builtin.register_all_coco, builtin.register_all_cityscapes, builtin.register_all_ade20k
    ):  # fmt: skip
        register(str(miniatures))
    return miniatures


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """A devkit of the embedded set, from which jobs learn."""
    return make_toy(tmp_path_factory.mktemp("devkit"), train=20, val=4, test=4)


@pytest.fixture
def cards(devkit, request):
    """``cards(task, ..., splits)``: one card for each task of the same images."""

    def make(*tasks, splits=("train",)):
        ids = {"train": "Main/train", "val": "Main/val", "test": "Main/test"}
        name = f"job{abs(hash(request.node.nodeid)) % 10**8}"
        return [
            {"name": f"{name}_{task}", "format": "voc", "root": str(devkit), "annotates": [task],
             "splits": {split: ids[split] for split in splits},
             "classes": yaml.safe_load(Path("datasets/cards/toy.yaml").read_text())["classes"]}
            for task in tasks
        ]  # fmt: skip

    return make
