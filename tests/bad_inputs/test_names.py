"""Names in files lead nowhere but into the folder that they belong to."""

import json
import os

import pytest

from bad_inputs.entry import check_refusal, run_script

SIZES = ("--train", "16", "--val", "1", "--test", "1")


def make(world, *opts):
    return world.refused("tools/make_dataset.py", "--root", "devkit", *SIZES, *opts)


@pytest.fixture
def manifest(world):
    """Add a file to the manifest of the data set."""

    def name(file):
        content = world.read("devkit/manifest.json")
        content["files"][file] = [1, "0"]
        world.write("devkit/manifest.json", content)

    world.write("victim.txt", "mine")
    return name


@pytest.mark.parametrize("check", [(), ("--check",)])
@pytest.mark.parametrize(
    "name",
    ["../victim.txt", "JPEGImages/../../victim.txt", "{}/victim.txt", "/dev/zero", "out/victim.txt",
     "..", ""],
)  # fmt: skip
def test_a_manifest_names_no_file_of_anyone_else(world, manifest, name, check):
    os.symlink(world.folder, world / "devkit" / "out")
    manifest(name.format(world.folder))
    check_refusal(make(world, *check), "devkit/manifest.json", "is not inside of devkit")
    assert (world / "victim.txt").read_text() == "mine"


def test_a_link_in_the_data_set_is_not_followed(world, manifest):
    os.symlink(world / "victim.txt", world / "devkit" / "link.txt")
    manifest("link.txt")
    argv = ["--root", "devkit", *SIZES[:4], "--test", "2"]
    world.run("tools/make_dataset.py", *argv)
    assert (world / "victim.txt").read_text() == "mine"
    assert not (world / "devkit" / "link.txt").is_symlink()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"null", b'{"recipe": 3, "files": 4}', b'{"recipe": {}, "files": [1]}',
     b'{"recipe": {}}', b"\xff\xfe", b"[" * 9999],
)  # fmt: skip
def test_a_manifest_that_is_none_counts_as_missing(world, content):
    world.write("devkit/manifest.json", content)
    status, errors = run_script("tools/make_dataset.py", "--root", "devkit", "--check",
                                folder=world.folder)  # fmt: skip
    assert status == 1 and not errors


def test_a_pipe_in_the_data_set_is_a_damaged_file(world):
    name = next(iter(world.read("devkit/manifest.json")["files"]))
    (world / "devkit" / name).unlink()
    os.mkfifo(world / "devkit" / name)
    status, _ = run_script("tools/make_dataset.py", "--root", "devkit", "--check",
                           folder=world.folder)  # fmt: skip
    assert status == 1


@pytest.mark.parametrize("name", ["../../../gone", "../../x/../../y"])
def test_a_row_writes_below_output(world, name):
    row = {"parts": ["net"], "label": "x"}
    table = {"name": "T", "paper": "P", "place": "Table 1", "title": "T", "metrics": ["mAP"],
             "parts": ["parts"], "data": {"tiny": {"title": "t", "cards": ["tiny"]}},
             "columns": [{"rows": {name: row}}]}  # fmt: skip
    world.write("table.yaml", table)
    world.write("parts/net.yaml", {"SEED": 1})
    message = world.train(config=f"table.yaml#tiny/{name}")
    check_refusal(message, "table.yaml", "is not inside of output")


def test_a_cifar_file_of_somebody_else_is_not_unpickled(world):
    folder = world / "cifar-10-batches-py"
    folder.mkdir()
    evil = f"cos\nsystem\n(S'touch {world / 'mark'}'\ntR.".encode()
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(evil)
    card = {"name": "evil", "format": "cifar10", "root": folder.name, "splits": {"train": "train"}}
    world.write("cifar.yaml", card)
    config = world.read("student.yaml")
    config["DATASETS"] = {"CARDS": ["cifar.yaml"], "TRAIN": ["evil_train"], "TEST": []}
    world.write("student.yaml", config)
    check_refusal(world.train(), "damaged")
    assert not (world / "mark").exists()


def test_the_database_of_trials_may_be_none(world):
    pytest.importorskip("optuna")
    config = world.read("distilled.yaml")
    world.write("distilled.yaml", config | {"OUTPUT_DIR": "tuned"})
    for content in (b"no database" * 99, json.dumps({}).encode()):
        world.write("tuned/trials.db", content)
        message = world.refused(
            "tools/tune_paths.py", "--config-file", "distilled.yaml", "--search", "random",
            "--metric", "bbox/AP",
        )  # fmt: skip
        check_refusal(message, "tuned/trials.db", "Delete it")
