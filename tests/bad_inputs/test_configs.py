"""Configs that are missing, no YAML, wrong or hostile are refused, by file and key or line."""

import os

import pytest
from detectron2 import model_zoo
from detectron2.modeling import META_ARCH_REGISTRY

from bad_inputs.configs import FILES, KEYS, TAGS
from bad_inputs.entry import cases, check_refusal
from multas.engine import load_config


@cases("content", FILES)
def test_what_is_wrong_with_a_file_is_named(world, monkeypatch, content, parts):
    monkeypatch.syspath_prepend(world.folder)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    world.write("circle.yaml", "_BASE_: bad.yaml\n")
    world.write("broken.yaml", "a: [\n")
    world.write("value.yaml", "MODEL: 3\n")
    world.write("failing_module.py", "1 / 0\n")
    world.write("bad.yaml", content)
    check_refusal(world.train(config="bad.yaml"), *parts)


@pytest.mark.parametrize("where", KEYS)
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_runs_nothing(world, tag, where):
    world.write("bad.yaml", where.format(TAGS[tag].format(mark=world / "mark")))
    message = world.train(config="bad.yaml")
    check_refusal(message, "bad.yaml, line", "!!python/", "Write the value itself")
    assert not (world / "mark").exists()


def teacher(world):
    return world.train(
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", "bad.yaml", config="distilled.yaml"
    )


def further_teacher(world):
    more = [{"CONFIG_FILE": "bad.yaml", "WEIGHTS": "teacher.pth"}]
    key = "MODEL.DISTILLATION.MORE_TEACHERS"
    return world.train(key, repr(more), config="distilled.yaml")


def base(world):
    world.write("outer.yaml", "_BASE_: [student.yaml, bad.yaml]\n")
    return world.train(config="outer.yaml")


def label(world):
    return world.label(config="bad.yaml")


def draw(world):
    return world.draw(config="bad.yaml")


def tune(world):
    return world.refused("tools/tune_paths.py", "--config-file", "bad.yaml", "--search", "grid",
                         "--metric", "bbox/AP")  # fmt: skip


def write_plain(world):
    return world.refused("train_net.py", "--config-file", "bad.yaml", "--write-config", "x.yaml")


def table(world):
    return world.refused("train_net.py", "--config-file", "bad.yaml#voc/row")


WAYS = [teacher, further_teacher, base, label, draw, tune, write_plain, table]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["bracket", "utf16", "text", "empty"])
def test_every_way_to_a_config_refuses_it(world, way, name):
    content, *_ = FILES[name]
    world.write("bad.yaml", content)
    check_refusal(way(world), "bad.yaml")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tag", ["system", "eval"])
def test_no_way_to_a_config_runs_it(world, way, tag):
    world.write("bad.yaml", "SEED: 1\nOUTPUT_DIR: " + TAGS[tag].format(mark=world / "mark"))
    check_refusal(way(world), "bad.yaml, line 2", "!!python/")
    assert not (world / "mark").exists()


NO_CONFIGS = [
    ("studnt.yaml", "'studnt.yaml': no such file", "'student.yaml'"),
    ("nowhere/student.yaml", "'nowhere/student.yaml': no such file"),
    ("coco", "'coco', a folder"),
    (".", "'.', a folder"),
    ("student.py", "LazyConfig", "META_ARCH_REGISTRY", "IMPORT_MODULES"),
    ("devkit.yaml", "devkit.yaml: the config has no key"),
    ("teacher.pth", "teacher.pth", "UTF-8"),
    ("coco/train.json", "train.json: the config has no key 'images'"),
    ("student.yaml#voc/row", "student.yaml: no key"),
    ("nothing.yaml#voc/row", "nothing.yaml", "No such file"),
    ("student.yaml#row", "FILE#DATA/ROW"),
]


@cases("config", NO_CONFIGS)
def test_what_is_no_config_is_named(world, config, parts):
    world.write("student.py", f"open({str(world / 'mark')!r}, 'w')\nmodel = 3\n")
    check_refusal(world.train(config=config), *parts)
    assert not (world / "mark").exists()


def test_a_function_as_model_takes_test_images_as_they_are(world, monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OfCode", lambda cfg: None)
    message = world.train("MODEL.META_ARCHITECTURE", "OfCode", "INPUT.SQUARE_SIZE", 64)
    check_refusal(message, "INPUT.SQUARE_SIZE is 64", "OfCode", "MODEL.DISTILLATION.STUDENT OfCode")


def test_a_lazy_config_as_teacher_is_refused_with_what_to_do(world):
    world.write("lazy.py", f"open({str(world / 'mark')!r}, 'w')\n")
    key = "MODEL.DISTILLATION.TEACHER.CONFIG_FILE"
    check_refusal(world.train(key, "lazy.py", config="distilled.yaml"), "lazy.py", "LazyConfig")
    assert not (world / "mark").exists()


WORDS = [
    (["SOLVER.MAX_ITER"], "SOLVER.MAX_ITER", "pairs of KEY VALUE"),
    (["SOLVER.MAX_ITER", "soon"], "SOLVER.MAX_ITER is 'soon'", "int"),
    (["SOLVER.MAX_ITER", "3.5"], "SOLVER.MAX_ITER is 3.5", "int"),
    (["SOLVER.MAX_ITER=3", "x"], "SOLVER has no key 'MAX_ITER=3'", "'MAX_ITER'"),
    (["SOLVER", "3"], "SOLVER is 3", "group of keys"),
    (["SEED", "None"], "SEED is None", "int"),
    (["SEED", "(" * 300], "SEED is '(((", "expected int"),
    (["SEED", "{[1]: 2}"], "SEED", "no value"),
    (["SEED", "__import__('os').system('touch mark')"], "SEED is", "of the type str, expected int"),
    (["INPUT.STRETCH", "3"], "INPUT.SQUARE_SIZE"),
    (["_BASE_", "student.yaml"], "no key '_BASE_'"),
    (["DATASETS.TRAIN", "tiny_half"], "DATASETS.TRAIN is 'tiny_half'", "tuple"),
    (["MODEL.DEVICE", "cuda:x"], "MODEL.DEVICE is 'cuda:x'", "cpu"),
    (["MODEL.DISTILLATION.STUDENT", "Nt"], "MODEL.DISTILLATION.STUDENT is 'Nt'"),
    (["--num-gpus", "99"], "--num-gpus is 99"),
    (["--num-gpus", "-1"], "--num-gpus is -1"),
]


@cases("opts", WORDS)
def test_wrong_words_of_the_command_line_are_named(world, opts, parts):
    if opts[0].startswith("--"):
        message = world.refused("train_net.py", *opts, "--config-file", "student.yaml")
    else:
        message = world.train(*opts)
    check_refusal(message, *parts)
    assert not (world / "mark").exists()


TEACHERS = [
    (["TEACHER.OPTS", "['SEED']"], "SEED", "pairs of KEY VALUE"),
    (["TEACHER.OPTS", "[3, 4]"], "3", "no key"),
    (["TEACHER.OPTS", "['MODEL.X', 4]"], "MODEL has no key 'X'"),
    (["MORE_TEACHERS", "['teacher.yaml']"], "MORE_TEACHERS[0] is 'teacher.yaml'", "mapping"),
    (["MORE_TEACHERS", "[{'CONFIG': 'a'}]"], "MORE_TEACHERS[0]", "'CONFIG_FILE'"),
    (["MORE_TEACHERS", "[{'WEIGHTS': 3}]"], "MORE_TEACHERS[0]", "WEIGHTS is 3", "str"),
    (["TEACHER.CONFIG_FILE", "techer.yaml"], "TEACHER.CONFIG_FILE is 'techer.yaml'"),
    (["TEACHER.OPTS", "['MODEL.META_ARCHITECTURE', 'Nt']"], "teacher.yaml", "'Nt'"),
]


@cases("opts", TEACHERS)
def test_wrong_teachers_are_named(world, opts, parts):
    opts = [f"MODEL.DISTILLATION.{opts[0]}", opts[1]]
    check_refusal(world.train(*opts, config="distilled.yaml"), *parts)


def test_reproduce_reads_its_card_safely(world):
    world.write("mine.yaml", "name: " + TAGS["system"].format(mark=world / "mark"))
    message = world.refused("tools/reproduce.py", "A1", "--data", "mine.yaml", "--dry-run")
    check_refusal(message, "mine.yaml", "line 1")
    assert not (world / "mark").exists()


def test_a_file_that_may_not_be_read_is_named(world):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (world / "student.yaml").chmod(0)
    check_refusal(world.train(), "student.yaml", "Permission denied")


def test_detectron2s_own_configs_still_load():
    """Base-RetinaNet.yaml has the one expression that is known."""
    cfg = load_config(model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    sizes = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]
    assert sizes == cfg.MODEL.ANCHOR_GENERATOR.SIZES


def test_a_byte_order_mark_does_no_harm(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    world.write("bom.yaml", "\ufeffSEED: 7\n")
    assert load_config("bom.yaml").SEED == 7


def test_old_configs_are_converted_as_detectron2_does(world):
    world.write("old.yaml", "VERSION: 1\nMODEL: {WEIGHT: a.pkl}\n")
    assert load_config(str(world / "old.yaml")).MODEL.WEIGHTS == "a.pkl"
