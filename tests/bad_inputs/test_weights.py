"""Weights that are missing, damaged, foreign or hostile are refused by every command."""

import pickle
import shutil

import pytest
import torch

from bad_inputs.entry import check_refusal, contents
from bad_inputs.weights import FOREIGN, WEIGHTS, attacks, saved

TEACHER = "MODEL.DISTILLATION.TEACHER.WEIGHTS"


def convert(world, weights):
    return world.refused("tools/convert_weights.py", weights, "new.pth")


def evaluate(world, weights):
    return world.refused("train_net.py", "--config-file", "student.yaml", "--eval-only",
                         "MODEL.WEIGHTS", weights)  # fmt: skip


def more_teachers(world, weights):
    more = [{"CONFIG_FILE": "teacher.yaml", "WEIGHTS": weights}]
    key = "MODEL.DISTILLATION.MORE_TEACHERS"
    return world.train(key, repr(more), config="distilled.yaml")


COMMANDS = {
    "MODEL.WEIGHTS": lambda world, file: world.train("MODEL.WEIGHTS", file),
    "TEACHER.WEIGHTS": lambda world, file: world.train(TEACHER, file, config="distilled.yaml"),
    "MORE_TEACHERS": more_teachers,
    "eval-only": evaluate,
    "pseudo_label": lambda world, file: world.label(weights=file),
    "visualize": lambda world, file: world.draw(weights=file),
    "convert_weights": convert,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_file_of_weights_is_named(world, name):
    end, content, reason = FOREIGN[name]
    world.write(f"bad{end}", content)
    check_refusal(world.train("MODEL.WEIGHTS", f"bad{end}"), f"bad{end}", reason)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["cut_half", "page", "list", "text_pkl", "safetensors_cut"])
def test_every_command_refuses_it(world, command, name):
    end, content, reason = FOREIGN[name]
    world.write(f"bad{end}", content)
    check_refusal(COMMANDS[command](world, f"bad{end}"), f"bad{end}", reason)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["techer.pth", "nowhere/teacher.pth", "coco"])
def test_misspelt_names_are_named(world, command, name):
    message = COMMANDS[command](world, name)
    cure = "folder" if name == "coco" else "teacher"
    check_refusal(message, f"'{name}'", cure)


def test_a_misspelt_name_gets_the_nearest_and_a_folder_its_files(world):
    check_refusal(evaluate(world, "techer.pth"), "Did you mean 'teacher.pth'?")
    shutil.copy(world / "teacher.pth", world / "coco" / "student.pth")
    check_refusal(evaluate(world, "coco"), "it has student.pth")


# These do not get as far as to name a function.
HARMLESS = {
    "in_an_array": "an array of object is neither",
    "codec": "bytes in the encoding os",
    "torch_load": "Weights only load failed",
}


@pytest.mark.parametrize("name", attacks("mark"))
def test_no_file_of_weights_runs_code(world, name):
    end, content = attacks(world / "mark")[name]
    world.write(f"evil{end}", content)
    message = COMMANDS["MODEL.WEIGHTS"](world, f"evil{end}")
    check_refusal(message, f"evil{end} ", HARMLESS.get(name, "wants to run"))
    assert not (world / "mark").exists()


@pytest.mark.parametrize("name", ["protocol_0", "protocol_4", "open", "eval", "by_hand", "built"])
def test_these_attacks_are_real(tmp_path, name):
    pickle.loads(attacks(tmp_path / "mark")[name][1])
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["protocol_2", "torch", "as_blobs"])
def test_no_command_runs_what_weights_hold(world, command, name):
    end, content = attacks(world / "mark")[name]
    world.write(f"evil{end}", content)
    check_refusal(COMMANDS[command](world, f"evil{end}"), f"evil{end}", "wants to run", "save")
    assert not (world / "mark").exists()


def test_weights_of_another_network_are_refused_where_all_are_needed(world):
    weights = torch.load(world / "teacher.pth")["model"]
    weights.pop(next(name for name in weights if name.startswith("heads")))
    torch.save({"model": weights}, world / "part.pth")
    check_refusal(world.label(weights="part.pth"), "part.pth", "1 parameters are missing")


def test_training_does_not_start_from_weights_that_fit_nothing(world):
    torch.save({"model": WEIGHTS}, world / "other.pth")
    message = world.train("MODEL.WEIGHTS", "other.pth")
    check_refusal(message, "other.pth", "0 of the model's", "convert_weights.py")


def test_training_starts_from_a_part_of_the_model(world):
    weights = torch.load(world / "teacher.pth")["model"]
    backbone = {n: t for n, t in weights.items() if n.startswith("backbone.bottom_up")}
    torch.save({"model": backbone}, world / "backbone.pth")
    opts = ["MODEL.WEIGHTS", "backbone.pth"]
    world.run("train_net.py", "--config-file", "student.yaml", *opts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("../teacher.pth", ("last_checkpoint names '../teacher.pth'", "not in this folder")),
        ("/etc/passwd", ("last_checkpoint names '/etc/passwd'", "not in this folder")),
        ("", ("last_checkpoint is empty", "Put back")),
        ("model_0000007.pth", ("model_0000007.pth does not exist", "model_0000001.pth is damaged")),
        ("\0\1\2", ("run", "is not called .pth", "Put back")),
        ("model_0000001.pth", ("run", "model_0000001.pth is damaged", "Put back")),
        ("evil.pkl", ("evil.pkl is not called .pth", "Put back")),
        ("evil.pth", ("evil.pth is damaged", "Put back")),
    ],
)
@pytest.mark.parametrize("argv", [(), ("--eval-only",)])
def test_last_checkpoint_names_a_checkpoint_of_the_run(world, name, parts, argv):
    world.write("run/model_0000001.pth", saved(WEIGHTS)[:99])
    world.write("run/evil.pkl", attacks(world / "mark")["open"][1])
    world.write("run/evil.pth", attacks(world / "mark")["torch"][1])
    world.write("run/last_checkpoint", name)
    message = world.refused("train_net.py", "--config-file", "student.yaml", "--resume", *argv)
    check_refusal(message, *parts)
    assert not (world / "mark").exists()


def test_a_refused_conversion_leaves_what_was_there(world):
    world.write("new.pth", b"mine")
    before = contents(world.folder)
    convert(world, "teacher.pth")
    assert contents(world.folder) == before


def deeper(weights):
    """A further block, as a deeper ResNet has it."""
    block = [name for name in weights if ".res4.1." in name]
    return weights | {name.replace(".res4.1.", ".res4.2."): weights[name] for name in block}


@pytest.mark.parametrize("command", ["eval-only", "TEACHER.WEIGHTS"])
def test_weights_of_a_deeper_network_are_refused(world, command):
    weights = torch.load(world / "teacher.pth")["model"]
    torch.save({"model": deeper(weights)}, world / "deep.pth")
    check_refusal(COMMANDS[command](world, "deep.pth"), "deep.pth", "res4.2.", "config")


def test_a_head_that_the_model_lacks_does_no_harm(world):
    weights = torch.load(world / "teacher.pth")["model"]
    torch.save({"model": weights | {"heads.seg.weight": torch.ones(3)}}, world / "more.pth")
    argv = ["--config-file", "student.yaml", "--eval-only", "MODEL.WEIGHTS", "more.pth"]
    world.run("train_net.py", *argv)


@pytest.mark.parametrize("name", ["teacher.pth", "student.yaml", "devkit.yaml", "coco/train.json"])
def test_pseudo_labels_replace_no_file_of_another_kind(world, name):
    message = world.label(output=name)
    check_refusal(message, f"--output '{name}'", "would be lost", "another file")
