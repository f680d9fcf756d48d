"""A list whose items loading processes share, instead of each having its own copy."""

import multiprocessing
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from detectron2.structures import BoxMode

from multas.data.loader import build_train_loader
from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.data.pseudo_labels import load_pseudo_labels
from multas.data.shared_list import SharedDict, SharedList

ITEMS = [{"file": Path("a.png"), "box": (1, 2.5), "mode": BoxMode.XYWH_ABS}, [2**70], None]


def own_memory(process) -> int:
    """The bytes that a process has for itself."""
    rows = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    lines = dict(row.split(":", 1) for row in rows[1:])
    return 1024 * int(lines["Private_Dirty"].split()[0])


def test_it_reads_like_a_list_of_copies():
    shared = SharedList(iter(ITEMS))
    assert len(shared) == 3 and list(shared) == shared[:] == ITEMS
    assert shared[-3] == ITEMS[0] and shared[1:] == ITEMS[1:] and shared[::-2] == ITEMS[::-2]
    shared[1].append(3)
    assert shared[1] == ITEMS[1]
    for number in (3, -4):
        with pytest.raises(IndexError):
            shared[number]
    assert list(SharedList([])) == []


def test_a_table_reads_like_a_dict():
    items = {"a": ITEMS, 3: [], (1, "b"): {}}
    shared = SharedDict(items)
    assert shared == items and list(shared) == list(items) and len(shared) == 3
    assert shared["a"] == ITEMS and shared[3] == [] and "b" not in shared
    assert shared.get("b") is None
    with pytest.raises(KeyError):
        shared["b"]


def test_processes_that_are_not_forked_get_a_handle():
    shared = SharedList([bytes(1000)] * 100)
    pickled = ForkingPickler.dumps(shared)
    assert len(pickled) < 2000
    other = pickle.loads(pickled)
    assert list(other) == list(shared)
    shared._content[:] = 0
    assert not other._content.any()


def test_pseudo_labels_are_shared(tmp_path):
    box = {"image_id": 1, "category_id": 0, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    save_pseudo_labels(tmp_path / "labels.json", Header("a", ["cat"], [1], 0, 0), [box] * 200)
    labels = load_pseudo_labels([str(tmp_path / "labels.json")], ["cat"])
    assert len(labels.boxes[1]) == 200
    assert len(ForkingPickler.dumps(labels.boxes)) < 2000


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells it")
def test_workers_do_not_copy_the_dicts_that_they_read():
    dicts = [{f"{key} of {i}": float(i) for key in range(10)} for i in range(20_000)]
    loader = build_train_loader(dicts, len, total_batch_size=200, seed=0, num_workers=2)
    batches = iter(loader)
    # One of each worker, so that both have started: that alone costs them up to 20 MB.
    assert next(batches) == next(batches) == [10] * 200
    workers = multiprocessing.active_children()
    before = [own_memory(worker) for worker in workers]
    for _ in range(150):
        next(batches)
    grown = [own_memory(worker) - size for worker, size in zip(workers, before, strict=True)]
    # As plain dicts, of which each reads most, they would grow by 12 MB.
    assert len(workers) == 2 and max(grown) < 4e6
