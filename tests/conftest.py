"""Fixtures and settings that every test shares."""

import logging
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Detectron2 first: where torchvision's compiled operators do not load, it makes torchvision work.
import detectron2  # noqa: F401
import matplotlib
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import setup_logger
from hypothesis import settings

from multas.util.locks import LOCK

# Its import closes the handlers of all logs. absl's then closes the stream that it was made with,
# which inside of a test would be the one that pytest captures.
with suppress(ImportError):
    import submitit  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent

# No test waits for weights that no network brings.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
matplotlib.use("Agg")
# Small tensors gain nothing from more threads, and results stay the same on any machine.
torch.set_num_threads(1)
# Examples are the same in every run; a slow machine fails no test by its speed.
settings.register_profile("multas", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("multas")


# Files with long tests, which begin first, so that no process is at one when all others are done.
LONGEST = (
    "test_quickstart.py", "test_reproduce.py", "test_interruption.py", "test_resume.py",
    "test_distributed.py", "test_two_tasks.py", "test_benchmarks.py", "test_fkd_ranks.py",
)  # fmt: skip

HOLDER = """
import fcntl, os, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
lock.write("process 7 on elsewhere\\n")
lock.flush()
if os.fork():  # as the processes that load data are
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def seed():
    """Starts every test from the same random state and returns the seed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What runs remember from one to the next is forgotten after the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


_CATALOGS = (DatasetCatalog, MetadataCatalog)
_OF_DETECTRON2 = [dict(catalog.data) for catalog in _CATALOGS]


@pytest.fixture(scope="module", autouse=True)
def own_catalogs():
    """No file of tests finds a data set that another registered, whatever their order."""
    for catalog, content in zip(_CATALOGS, _OF_DETECTRON2, strict=True):
        catalog.data = dict(content)


@pytest.fixture(scope="module", autouse=True)
def own_loggers():
    """No file of tests has the loggers that a tool has set up in another, whatever their order."""
    for logger in map(logging.getLogger, ("detectron2", "fvcore", "multas")):
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    for handler in logging.getLogger().handlers:  # pytest's; an export to 8 bits quietens them
        handler.setLevel(logging.NOTSET)
    setup_logger.cache_clear()


@pytest.fixture
def forget_registered():
    """Removes from the catalogs what the test added."""
    before = [dict(catalog.data) for catalog in _CATALOGS]
    yield
    for catalog, content in zip(_CATALOGS, before, strict=True):
        catalog.data = content


@pytest.fixture
def storage():
    """Detectron2's models log while they train."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture(scope="session")
def repository():
    """The root folder of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """``tiny_recipe(address, KEY, VALUE, ..., output=folder)``, see :mod:`tiny_recipe`."""
    from tiny_recipe import TinyRecipes

    return TinyRecipes(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets beside the repository; skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder.name}/ beside the repository")
    return folder


def pytest_collection_modifyitems(items):
    """Puts long files first, and skips tests marked gpu where there is no CUDA device."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def holder(tmp_path):
    """``holder(folder)``: another process, with a child, that holds the lock of a folder."""
    started = []

    def hold(folder: str) -> subprocess.Popen:
        os.makedirs(folder, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, os.path.join(folder, LOCK)],
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
