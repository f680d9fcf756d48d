"""Every document says what is true: code loads, commands parse, files, keys and links exist."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

from documents import (
    DOCUMENTS,
    REPOSITORY,
    all_keys,
    blocks,
    commands,
    has_key,
    imported,
    languages,
    links,
    parsed,
    text,
    words,
)
from multas.config import merge_opts
from multas.config.tables import read_table
from multas.data import read_card
from multas.deploy.description_file import read_description
from multas.distillation.paths.spec import parse_paths
from multas.engine import load_config

FOLDERS = {"configs", "datasets", "docs", "projects", "tools", "tests", "benchmarks"}
# What runs makes, and folders of data that are not kept here.
MADE = re.compile(r"datasets/(toy|bccd|VOC|VEDAI|SBD|coco|cifar|tiny|imagenet|cells)|.*[…<*]")
# Paths, aggregators and heads of one's own, which tests/test_architecture.py trains.
OWN = "docs/architecture.md"


@pytest.fixture(autouse=True)
def no_data_sets_stay(forget_registered):
    """Every snippet registers its own."""


def snippets(language: str) -> list:
    return [
        pytest.param(file, block, id=f"{file}-{i}")
        for file in DOCUMENTS
        for i, block in enumerate(blocks(language, file))
    ]


@pytest.mark.parametrize("file", DOCUMENTS)
def test_every_code_block_is_of_a_kind_that_is_checked(file):
    assert languages(file) <= {"bash", "python", "yaml", "text", ""}


@pytest.mark.parametrize("file", DOCUMENTS)
def test_files_exist(file):
    named = [w.split()[1] if w.startswith("python ") else w.split()[0] for w in words(file)]
    named = [n.split("#")[0] for n in named if n.split("/")[0] in FOLDERS and "/" in n]
    assert [n for n in named if not (REPOSITORY / n).exists() and not MADE.match(n)] == []
    assert [link for link in links(file) if not (REPOSITORY / link).exists()] == []


@pytest.mark.parametrize("file", DOCUMENTS)
def test_config_keys_exist(file):
    cfg = all_keys()
    keys = [m[0] for w in words(file) if (m := re.match(r"[A-Z]\w*(\.([A-Z_0-9]+|\*))+(?=$| )", w))]
    assert [key for key in keys if key.split(".")[0] in cfg and not has_key(cfg, key)] == []


# Those of the page that shows how to add a path, a head … are tested beside what they add.
@pytest.mark.parametrize(("file", "code"), [s for s in snippets("yaml") if s.values[0] != OWN])
def test_yaml_loads(file, code, tmp_path):
    """As a card, a detector's description, a table, or a config."""
    content, copy = yaml.safe_load(code), tmp_path / "snippet.yaml"
    copy.write_text(code)
    if "format" in content and "root" in content:
        assert read_card(content).splits
    elif "outputs" in content:
        (tmp_path / content["file"]).touch()
        assert read_description(str(copy))[1].classes
    elif "columns" in content:
        assert read_table(str(copy)).columns
    else:
        base = REPOSITORY / content.pop("_BASE_", "my_student.yaml")
        assert base.is_file() or base.name.startswith("my_")
        own = {"_BASE_": str(base)} if base.is_file() else {}
        copy.write_text(yaml.safe_dump(content | own))
        parse_paths(load_config(str(copy)).MODEL.DISTILLATION.PATHS)


@pytest.mark.parametrize(("file", "code"), snippets("python"))
def test_python_compiles_and_its_imports_exist(file, code):
    compile(code, file, "exec")
    imported(code)


def test_commands_are_right():
    targets = re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE)
    setup = configparser.ConfigParser(inline_comment_prefixes="#")
    setup.read(REPOSITORY / "setup.cfg")
    extras = setup["options.extras_require"]
    tools = set()
    for file in DOCUMENTS:
        for program, *arguments in commands(file):
            if program == "make":
                assert arguments[0] in targets, file
            elif program == "pip":
                named = [n for a in arguments for n in re.findall(r"\w+", a.partition("[")[2])]
                assert set(named) <= set(extras), file
            elif program == "python":
                script, *rest = arguments
                assert (REPOSITORY / script).is_file(), f"{file}: {script}"
                if Path(script).parent.name in ("", "tools"):
                    args = parsed(script, rest)
                    merge_opts(all_keys(), list(getattr(args, "opts", ())))
                    tools.add(script)
            else:
                assert program == "source", f"{file}: {program}"
    assert {"train_net.py", "tools/distill.py", "tools/export.py", "tools/reproduce.py"} <= tools


def test_the_site_shows_every_document():
    site = (REPOSITORY / "docs/site/mkdocs.yml").read_text()
    pages = set(re.findall(r"[\w-]+: ([\w/]+\.md)$", site, re.MULTILINE))
    assert {file.name for file in (REPOSITORY / "docs").glob("*.md")} <= pages
