"""Folders that a run cannot have, and refusals late in the start, which leave OUTPUT_DIR alone."""

import fcntl
import subprocess
import sys

import pytest

from bad_inputs.entry import cases, check_refusal

HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
lock.write("process 7 on elsewhere")
lock.flush()
print(flush=True)
sys.stdin.read()
"""

FOLDERS = {
    "a file": ("student.yaml", ["student.yaml", "cannot be made", "Name a folder"]),
    "in a file": ("student.yaml/run", ["student.yaml/run", "cannot be made", "Name a folder"]),
    "too long": ("x" * 300, ["OUTPUT_DIR", "name too long", "Name a folder"]),
}

# What is found out when the model, and the data, are there.
LATE = {
    "classes": (["MODEL.DENSE_HEAD.NUM_CLASSES", 5], ["MODEL.DENSE_HEAD.NUM_CLASSES", "tiny_half"]),
    "nothing annotated": (
        ["DATASETS.TRAIN", "('tiny_half2_unlabeled',)"],
        ["DATASETS.TRAIN", "nothing to learn from", "PSEUDO_LABELS.FILES"],
    ),
    "no test set": (["DATASETS.TEST", "('tiny_tset',)"], ["tiny_tset", "tiny_test"]),
    "uneven batch": (["INPUT.COPIES", 0], ["INPUT.COPIES is 0", "1 or more"]),
}

# Files of a former run, and the keys by which a new one would read them.
FORMER = {
    "weights": (["MODEL.WEIGHTS", "run/model_final.pth"], "student.yaml"),
    "teacher": (["MODEL.DISTILLATION.TEACHER.WEIGHTS", "run/student.pth"], "distilled.yaml"),
}


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("way", ["train", "evaluate"])
def test_folders_that_cannot_be_made(world, case, way):
    folder, parts = FOLDERS[case]
    evaluation = ["--eval-only", "MODEL.WEIGHTS", "teacher.pth"] if way == "evaluate" else []
    check_refusal(world.train(*evaluation, "OUTPUT_DIR", folder), *parts)


@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("old", [[], ["notes.txt"], ["metrics.json", "model_final.pth", "log.txt"]])
def test_late_refusals_leave_the_folder_as_it_was(world, case, old):
    opts, parts = LATE[case]
    for name in old:
        world.write(f"run/{name}", "mine")
    check_refusal(world.train(*opts), *parts)


def test_so_does_an_evaluation(world):
    opts = ["--eval-only", "MODEL.WEIGHTS", "teacher.pth", "MODEL.DENSE_HEAD.NUM_CLASSES", 5]
    check_refusal(world.train(*opts), "teacher.pth", "Use the config that they were trained with")


@pytest.mark.parametrize("case", FORMER)
def test_a_former_run_that_the_new_one_reads(world, case):
    opts, config = FORMER[case]
    (world / "run").mkdir()
    for name in ("model_final.pth", "student.pth"):
        (world / "run" / name).write_bytes((world / "teacher.pth").read_bytes())
    message = world.train(*opts, config=config)
    check_refusal(message, *opts, "former run", "--resume", "another OUTPUT_DIR")


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_in_use(world, resume):
    (world / "run").mkdir()
    command = [sys.executable, "-c", HOLDER, str(world / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        message = world.train(*resume)
        holder.stdin.close()
    check_refusal(message, "OUTPUT_DIR run is in use", "process 7 on elsewhere", "choose another")
    with open(world / "run" / ".lock", "a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_evaluation_begins_its_log_when_all_is_checked(world):
    opts = ["--eval-only", "MODEL.WEIGHTS", "teacher.pth"]
    world.run("train_net.py", "--config-file", "student.yaml", *opts)
    assert "Command line arguments" in (world / "run" / "log.txt").read_text()
    assert (world / "run" / "config.yaml").is_file()


DAMAGED = "out/job.json is damaged", "delete that file"
STAMPS = [(b"", *DAMAGED), (b"{", *DAMAGED), (b"\xff\xfe{}", *DAMAGED),
          (b"[1]", "other settings:\n  [1]"), (b"null", "other settings:\n  None")]  # fmt: skip


@cases("stamp", STAMPS)
def test_a_damaged_stamp_of_the_quickstart(world, stamp, parts):
    world.write("out/job.json", stamp)
    message = world.refused("tools/quickstart.py", "--output", world / "out")
    check_refusal(message, world.folder.name, *parts, "--output")
