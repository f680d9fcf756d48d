"""Entries on disk: kept whole or not there, never run, never outside of their folder."""

import os
import pickle
import sqlite3
import time

import pytest
import torch

from multas.distillation.teacher.cache import TeacherCache, TeacherOutput
from multas.distillation.teacher.entry_files import EntryFiles

KEYS = [f"{number:040x}" for number in range(40)]


@pytest.fixture
def store(tmp_path) -> EntryFiles:
    (tmp_path / "cache").mkdir()
    return EntryFiles(str(tmp_path / "cache"), 10**6)


def file_of(store, key) -> str:
    return os.path.join(store.folder, f"{key}.entry")


def test_what_was_written_is_found_and_nothing_else(store):
    for content in (b"", b"a", bytes(range(256)) * 1000):
        store.set(KEYS[0], content)
        assert store.get(KEYS[0]) == content
    assert store.get(KEYS[1]) is None
    assert EntryFiles(store.folder, 10**6).get(KEYS[0]) == content
    assert store.damaged == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: bytes([data[0] ^ 128]) + data[1:],
        lambda data: bytes(len(data)),
        lambda data: b"text\n",
        lambda data: data[20:],  # without its checksum, as in former versions
    ],
)
def test_a_damaged_entry_is_a_miss_is_counted_and_can_be_replaced(store, spoil):
    store.set(KEYS[0], b"content" * 99)
    with open(file_of(store, KEYS[0]), "rb") as file:
        data = file.read()
    with open(file_of(store, KEYS[0]), "wb") as file:
        file.write(spoil(data))
    assert store.get(KEYS[0]) is None
    assert store.damaged == 1
    store.set(KEYS[0], b"new")
    assert store.get(KEYS[0]) == b"new"
    assert store.damaged == 1


def test_an_entry_under_another_name_is_a_damaged_one(store):
    store.set(KEYS[0], b"content")
    os.rename(file_of(store, KEYS[0]), file_of(store, KEYS[1]))
    assert store.get(KEYS[1]) is None and store.damaged == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_neither_read_nor_waited_for(store, tmp_path, kind):
    victim, entry = tmp_path / "victim", file_of(store, KEYS[0])
    victim.write_bytes(b"mine")
    if kind == "link":
        os.symlink(victim, entry)
    elif kind == "pipe":
        os.mkfifo(entry)
    else:
        os.mkdir(entry)
    assert store.get(KEYS[0]) is None and store.damaged == 1
    store.set(KEYS[0], b"new")
    assert store.get(KEYS[0]) == (None if kind == "folder" else b"new")
    assert victim.read_bytes() == b"mine"


def test_dropping_removes_nothing_but_entries(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "cache"
    folder.mkdir()
    store = EntryFiles(str(folder), 5000)
    others = ["notes.txt", "../victim", f"{KEYS[30]}.entry.old", "x.entry", "cache.db"]
    for name in others:
        (folder / name).write_bytes(b"mine" * 10)
    os.symlink(victim, folder / f"{KEYS[39]}.entry")
    (folder / "sub").mkdir()
    (folder / "sub" / f"{KEYS[38]}.entry").write_bytes(b"mine" * 10)
    for key in KEYS[:30]:
        store.set(key, bytes(500))
        time.sleep(0.002)  # the clock of some file systems is coarse
    assert all((folder / name).read_bytes() == b"mine" * 10 for name in others)
    assert os.path.islink(folder / f"{KEYS[39]}.entry")
    assert (folder / "sub" / f"{KEYS[38]}.entry").is_file()
    found = [key for key in KEYS[:30] if store.get(key) is not None]
    assert found == KEYS[30 - len(found) : 30] and 5 <= len(found) <= 9
    assert store.held == len(found) * 520 <= 5000


def test_what_was_read_last_stays(tmp_path):
    store = EntryFiles(str(tmp_path), 5000)
    for number, key in enumerate(KEYS[:9]):
        store.set(key, bytes(500))
        os.utime(file_of(store, key), (number, number))
    assert store.get(KEYS[0]) is not None
    store.set(KEYS[9], bytes(500))
    assert {key for key in KEYS[:10] if store.get(key)} == {KEYS[0], *KEYS[3:10]}


def test_processes_keep_the_limit_together(tmp_path):
    stores = [EntryFiles(str(tmp_path), 10_000) for _ in range(4)]
    for number in range(200):
        stores[number % 4].set(f"{number:040x}", bytes(180))
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000 * (1 + 4 * 0.1)


def test_files_of_killed_processes_go(tmp_path):
    store = EntryFiles(str(tmp_path), 1000)
    young, old = (tmp_path / f"{KEYS[n]}.entry.{'0' * 16}.partial" for n in range(2))
    for file in (young, old):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    for key in KEYS:
        store.set(key, bytes(100))
    assert young.is_file() and not old.exists()


class Marks:
    """Its pickle makes a file when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def output_of(folder, damage=None) -> tuple[TeacherOutput, TeacherCache, int]:
    """What a cache returns for two images after ``damage(folder, keys)``, and the runs it took."""
    runs = []

    def run(batch, _):
        runs.append(len(batch))
        rows = [x["image"].float().mean((1, 2)) / 3 for x in batch]
        return TeacherOutput({"a": torch.stack(rows)}, [])

    torch.manual_seed(1)
    batch = [{"image": torch.randint(0, 255, (3, 8, 8))} for _ in range(2)]
    template = {"a": torch.zeros(1, 3)}
    for _ in range(2):
        cache = TeacherCache(
            str(folder), 10**6, teacher="t", template=template, device=torch.device("cpu")
        )
        if damage and runs:
            keys = [cache._key(x["image"], cache._padded_size([x["image"]]), None) for x in batch]
            damage(folder, keys)
        output = cache.output_of(batch, None, run)
    return output, cache, sum(runs)


def pickled_entries(folder, keys):
    for key in keys:
        (folder / f"{key}.entry").write_bytes(pickle.dumps(Marks(folder / "mark")))


def pickled_entries_with_checksum(folder, keys):
    for key in keys:
        EntryFiles(str(folder), 10**6).set(key, pickle.dumps(Marks(folder / "mark")))


def other_tensors(folder, keys):
    from safetensors.torch import save

    for key in keys:
        EntryFiles(str(folder), 10**6).set(key, save({"scales": torch.ones(2)}))


def cut_off(folder, keys):
    for file in folder.glob("*.entry"):
        file.write_bytes(file.read_bytes()[:30])


def database_of_pickles(folder, keys):
    """As diskcache would have it: values of mode 4 are pickles, file names may lead anywhere."""
    for file in folder.glob("*.entry"):
        file.unlink()
    (folder.parent / "victim").write_text("mine")
    database = sqlite3.connect(folder / "cache.db")
    database.execute("CREATE TABLE Cache (key BLOB, raw INTEGER, mode INTEGER, filename, value)")
    row = (1, 4, "../victim", pickle.dumps(Marks(folder / "mark")))
    database.executemany("INSERT INTO Cache VALUES (?, ?, ?, ?, ?)", [(key, *row) for key in keys])
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (pickled_entries, 2),
        (pickled_entries_with_checksum, 2),
        (other_tensors, 2),
        (cut_off, 2),
        (database_of_pickles, 0),
    ],
)
def test_a_spoilt_cache_runs_nothing_and_gives_the_same_values(tmp_path, damage, damaged):
    folder = tmp_path / "cache"
    sound, cache, shown = output_of(tmp_path / "sound")
    assert (shown, cache.damaged) == (2, 0)
    output, cache, shown = output_of(folder, damage)
    assert torch.equal(output.record["a"], sound.record["a"])
    assert (cache.damaged, shown) == (damaged, 4)
    assert not (folder / "mark").exists()
    if damage is database_of_pickles:
        assert (tmp_path / "victim").read_text() == "mine"
