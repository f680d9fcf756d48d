"""Configs that are missing, no YAML, wrong or hostile are refused, by file and key or line."""

import os

import pytest
import yaml
from detectron2 import model_zoo

from bad_inputs.entry import cases, check_refusal
from multas.engine import load_config

LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'{k}: *a{n - 1}' for k in 'abcdefghi')}}}\n" for n in range(1, 12)
)
# What stands in bad.yaml, and what the message must say.
FILES = {
    "empty": (b"", "bad.yaml is empty", "MODEL"),
    "comments": (b"# nothing\n", "bad.yaml is empty"),
    "list": (b"- a\n- b\n", "a list, not a config"),
    "text": (b"hello\n", "a str, not a config"),
    "number": (b"3\n", "a int, not a config", "a mapping of keys"),
    "tab": (b"MODEL:\n\tDEVICE: cpu\n", "bad.yaml, line 2", "'\\t'"),
    "colon": (b"MODEL:\n  DEVICE: cpu: 3\n", "bad.yaml, line 2", "mapping values"),
    "bracket": (b"SOLVER: {STEPS: [1, 2}\n", "bad.yaml, line 1", "expected ',' or ']'"),
    "quote": (b"MODEL: {DEVICE: 'cpu}\n", "bad.yaml, line 2", "a quoted scalar"),
    "unaligned": (b"MODEL:\n  DEVICE: cpu\n WEIGHTS: a\n", "bad.yaml, line 3",
                  "expected <block end>"),
    "anchor": (b"SEED: *unknown\n", "bad.yaml, line 1", "alias 'unknown'"),
    "two_documents": (b"SEED: 1\n---\nSEED: 2\n", "bad.yaml", "document"),
    "twice": (b"SEED: 1\nMODEL: {}\nSEED: 2\n", "bad.yaml, line 3", "'SEED' is given twice"),
    "twice_below": (b"SOLVER:\n  MAX_ITER: 1\n  MAX_ITER: 2\n", "line 3", "'MAX_ITER' is given"),
    "utf16": ("SEED: 1\n".encode("utf-16"), "bad.yaml, line 1", "UTF-8"),
    "latin1": ("OUTPUT_DIR: caf\xe9\n".encode("latin-1"), "bad.yaml, line 1", "UTF-8"),
    "binary": (bytes(range(256)), "bad.yaml, line 2", "UTF-8"),
    "zero": (b"SEED: 1\0\n", "bad.yaml, line 1", "plain text"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "bad.yaml, line 1", "UTF-8"),
    "page": (b"<!DOCTYPE html>\n<html>", "bad.yaml is a str, not a config"),
    "deep": (b"[" * 1500, "bad.yaml", "nested too deeply"),
    "itself": (b"MODEL: &a\n  X: *a\n", "bad.yaml", "contains itself"),
    "laughs": (LAUGHS.encode(), "bad.yaml", "values by its references"),
    "date": (b"OUTPUT_DIR: 2024-01-02\n", "bad.yaml", "OUTPUT_DIR"),
    "no_date": (b"OUTPUT_DIR: 2024-13-45\n", "bad.yaml", "month must be", "quotes"),
    "no_timestamp": (b"OUTPUT_DIR: !!timestamp x\n", "bad.yaml", "quotes"),
    "no_int": (b"SEED: !!int ''\n", "bad.yaml", "quotes"),
    "no_bool": (b"SEED: !!bool x\n", "bad.yaml", "quotes"),
    "set": (b"SOLVER: {STEPS: !!set {1, 2}}\n", "bad.yaml", "STEPS"),
    "key_is_a_list": (b"? [1, 2]\n: 3\n", "bad.yaml, line 1", "unhashable key"),
    "key_is_a_number": (b"1: 2\n", "bad.yaml", "the key 1 is no text", "quotes"),
    "key_is_on": (b"on: {X: 1}\n", "bad.yaml", "the key True", "quotes"),
    "include": (b"MODEL: !include x.yaml\n", "bad.yaml, line 1", "!include is unknown"),
    "lazy": (b"model: {_target_: my.Net, width: 3}\n", "LazyConfig", "META_ARCH_REGISTRY"),
    "unknown_group": (b"MODLE: {DEVICE: cpu}\n", "no key 'MODLE'", "'MODEL'"),
    "unknown": (b"SOLVER: {MAX_ITR: 3}\n", "bad.yaml: SOLVER has no key 'MAX_ITR'", "'MAX_ITER'"),
    "lower_case": (b"seed: 3\n", "no key 'seed'", "SEED"),
    "renamed": (b"INPUT: {STRETCH: 320}\n", "bad.yaml", "INPUT.SQUARE_SIZE"),
    "text_for_number": (b"SOLVER: {MAX_ITER: soon}\n", "SOLVER.MAX_ITER is 'soon'", "int", "40000"),
    "list_for_number": (b"SOLVER: {MAX_ITER: [3]}\n", "SOLVER.MAX_ITER is [3]", "list", "int"),
    "fraction_for_number": (b"SEED: 1.5\n", "SEED is 1.5", "float", "int"),
    "whole_for_fraction": (b"SOLVER: {BASE_LR: 1}\n", "SOLVER.BASE_LR is 1", "example 1.0"),
    "text_for_bool": (b"SOLVER: {AMP: {ENABLED: maybe}}\n", "SOLVER.AMP.ENABLED", "bool"),
    "bool_for_fraction": (b"SOLVER: {BASE_LR: true}\n", "SOLVER.BASE_LR is True", "float"),
    "text_for_list": (b"DATASETS: {TRAIN: tiny_half}\n", "DATASETS.TRAIN", "str", "tuple"),
    "nothing": (b"SOLVER: {MAX_ITER: }\n", "SOLVER.MAX_ITER is None", "40000"),
    "value_for_group": (b"SOLVER: 3\n", "SOLVER is 3", "a group of keys", "SOLVER."),
    "nothing_for_group": (b"SOLVER:\nSEED: 1\n", "SOLVER is None", "a group of keys"),
    "group_for_value": (b"SEED: {A: 1}\n", "SEED is CfgNode({'A': 1})", "expected int"),
    "version_99": (b"VERSION: 99\nSEED: 1\n", "bad.yaml: VERSION is 99", "write 2"),
    "version_0": (b"VERSION: 0\nSEED: 1\n", "bad.yaml: VERSION is 0", "write 2"),
    "version_text": (b"VERSION: two\n", "bad.yaml: VERSION is 'two'", "write 2"),
    "version_none": (b"VERSION:\n SEED: 1\n", "bad.yaml: VERSION is {'SEED': 1}", "write 2"),
    "base_missing": (b"_BASE_: bse.yaml\n", "bad.yaml: _BASE_ is 'bse.yaml'", "no such file"),
    "base_near": (b"_BASE_: studnt.yaml\n", "bad.yaml: _BASE_ is 'studnt.yaml'", "'student.yaml'"),
    "base_folder": (b"_BASE_: coco\n", "bad.yaml: _BASE_ is 'coco', a folder"),
    "base_number": (b"_BASE_: 3\n", "bad.yaml: _BASE_", "name of a file"),
    "base_of_numbers": (b"_BASE_: [3]\n", "bad.yaml: _BASE_ has 3", "name of a file"),
    "zero_in_a_text": (b'OUTPUT_DIR: "a\\0b"\n', "bad.yaml, line 1: the text 'a\\x00b'",
                       "zero byte", "remove"),
    "zero_in_base": (b'_BASE_: "a\\0b.yaml"\n', "bad.yaml, line 1: the text 'a\\x00b.yaml'",
                     "zero byte", "remove"),
    "half_a_character": (b'OUTPUT_DIR: "\\ud800"\n', "bad.yaml, line 1: the text '\\ud800'",
                         "half a character"),
    "base_unreachable": (b"_BASE_: https://localhost:1/x.yaml\n", "localhost:1/x.yaml cannot be",
                         "by hand"),
    "base_device": (b"_BASE_: /dev/null\n", "/dev/null', which is no file"),
    "base_itself": (b"_BASE_: bad.yaml\n", "bad.yaml -> bad.yaml", "cannot build on itself"),
    "base_circle": (b"_BASE_: circle.yaml\n", "bad.yaml -> circle.yaml -> ", "itself"),
    "base_broken": (b"_BASE_: broken.yaml\n", "broken.yaml, line 2", "expected"),
    "base_group": (b"_BASE_: value.yaml\nMODEL: {DEVICE: cpu}\n", "bad.yaml", "'MODEL' is a group"),
    "architecture": (b"MODEL: {META_ARCHITECTURE: RetinaNt}\n", "MODEL.META_ARCHITECTURE",
                     "'RetinaNt'", "'RetinaNet'"),
    "backbone": (b"MODEL: {BACKBONE: {NAME: resnet}}\n", "MODEL.BACKBONE.NAME", "'resnet'",
                 "IMPORT_MODULES"),
    "proposals": (b"MODEL: {LOAD_PROPOSALS: true}\n", "MODEL.LOAD_PROPOSALS", "RPN"),
    "device": (b"MODEL: {DEVICE: gpu}\n", "MODEL.DEVICE is 'gpu'", "cpu"),
    "device_99": (b"MODEL: {DEVICE: 'cuda:99'}\n", "MODEL.DEVICE is 'cuda:99'", "cpu"),
    "module": (b"IMPORT_MODULES: [no_such_module]\n", "'no_such_module'", "PYTHONPATH"),
    "module_file": (b"IMPORT_MODULES: [no_such/module.py]\n", "module.py'", "dotted name"),
    "module_text": (b"IMPORT_MODULES: no_such_module\n", "IMPORT_MODULES is 'no_such_module'",
                    "tuple"),
    "module_number": (b"IMPORT_MODULES: [3]\n", "IMPORT_MODULES is", "a name"),
    "module_fails": (b"IMPORT_MODULES: [failing_module]\n", "'failing_module'", "ZeroDivision"),
    "train": (b"DATASETS: {TRAIN: [tiny_hal]}\n", "DATASETS.TRAIN", "'tiny_hal'", "tiny_half"),
    "test": (b"DATASETS: {TEST: [nothing_at_all]}\n", "DATASETS.TEST", "DATASETS.CARDS"),
    "train_number": (b"DATASETS: {TRAIN: [3]}\n", "DATASETS.TRAIN is", "a name"),
    "test_number": (b"DATASETS: {TEST: [3]}\n", "DATASETS.TEST is", "a name"),
    "card_number": (b"DATASETS: {CARDS: [3]}\n", "DATASETS.CARDS is", "a file"),
    "world_size": (b"SOLVER: {IMS_PER_BATCH: 4, REFERENCE_WORLD_SIZE: 3}\n",
                   "SOLVER.REFERENCE_WORLD_SIZE is 3", "give 0"),
    "card": (b"DATASETS: {CARDS: [no_card.yaml]}\n", "no_card.yaml"),
}  # fmt: skip
# These would make a file if they were loaded as Detectron2 loads configs.
TAGS = {
    "system": "!!python/object/apply:os.system ['touch {mark}']",
    "new": "!!python/object/new:os.system ['touch {mark}']",
    "eval": "!!python/object/apply:eval [\"open('{mark}', 'w')\"]",
    "exec": "!!python/object/apply:exec [\"open('{mark}', 'w')\"]",
    "open": "!!python/object/apply:builtins.open ['{mark}', 'w']",
    "mapping": "!!python/object/apply:os.system {{args: ['touch {mark}']}}",
    "object": "!!python/object:subprocess.Popen {{}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1, 2]",
    "whole_tag": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {mark}']",
}
KEYS = ("OUTPUT_DIR: {}\n", "SOLVER:\n  STEPS:\n  - {}\n", "{}: 1\n", "A: {{B: 1}}\nX: {}")


def write(world, name, text):
    world.write(name, text)
    world.write("circle.yaml", "_BASE_: bad.yaml\n")
    world.write("broken.yaml", "a: [\n")
    world.write("value.yaml", "MODEL: 3\n")
    world.write("failing_module.py", "1 / 0\n")


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_file_is_named(world, monkeypatch, name):
    monkeypatch.syspath_prepend(world.folder)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    content, *parts = FILES[name]
    write(world, "bad.yaml", content)
    if name in ("train", "test", "card", "world_size"):
        # They are only looked up in a config that is right otherwise.
        ((group, keys),) = yaml.safe_load(content).items()
        config = world.read("student.yaml")
        config[group] |= keys
        world.write("bad.yaml", config)
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


WAYS = {f.__name__: f for f in (teacher, further_teacher, base, label, draw, tune, write_plain)}


@pytest.mark.parametrize("way", [*WAYS.values(), table], ids=[*WAYS, "table"])
@pytest.mark.parametrize("name", ["bracket", "utf16", "text", "empty"])
def test_every_way_to_a_config_refuses_it(world, way, name):
    content, *_ = FILES[name]
    world.write("bad.yaml", content)
    check_refusal(way(world), "bad.yaml")


@pytest.mark.parametrize("way", [*WAYS.values(), table], ids=[*WAYS, "table"])
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
    text = """
from detectron2.modeling import META_ARCH_REGISTRY
META_ARCH_REGISTRY._obj_map.setdefault("OfCode", lambda cfg: None)
"""
    world.write("of_code.py", text)
    monkeypatch.syspath_prepend(world.folder)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    opts = ["IMPORT_MODULES", "('of_code',)", "MODEL.META_ARCHITECTURE", "OfCode"]
    message = world.train(*opts, "INPUT.SQUARE_SIZE", 64)
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
