"""The plan of the house: who may import whom, and what stays short."""

import ast
import re
from pathlib import Path

import pytest

# A package may import itself and these; util, config, data and evaluation are the ground.
FLOORS = {
    "util": set(),
    "config": {"util"},
    "data": {"util", "config"},
    "evaluation": {"util"},
    "modeling": {"util", "data"},
    "distillation": {"util", "config", "modeling"},
    "deploy": {"util", "config", "data", "modeling"},
    "engine": {"util", "config", "data", "modeling", "evaluation", "distillation", "deploy"},
}


def imports(file: Path, package: Path) -> set[str]:
    """Dotted names of the multas modules that a file imports."""
    module = file.relative_to(package.parent).with_suffix("").parts
    parent = module[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parent[: len(parent) - node.level + 1] if node.level else ()
            found.add(".".join([*base, *filter(None, [node.module])]))
    return {name for name in found if name.split(".")[0] == "multas"}


@pytest.fixture(scope="module")
def package(request) -> Path:
    return request.config.rootpath / "projects" / "multas"


def test_lower_floors_do_not_import_higher_ones(package):
    wrong = []
    for floor, below in FLOORS.items():
        for file in (package / floor).rglob("*.py"):
            for name in imports(file, package):
                target = name.split(".")[1] if "." in name else ""
                # The root has nothing but the version.
                if target and target not in below | {floor}:
                    wrong.append(f"{file.relative_to(package)} imports {name}")
    assert wrong == []


def test_every_package_has_a_floor(package):
    folders = {p.parent.relative_to(package).parts[0] for p in package.rglob("*/__init__.py")}
    assert folders == FLOORS.keys()


def test_contributing_has_the_floors(repository):
    text = (repository / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", text, re.MULTILINE)
    found = {}
    for floors, below in rows:
        below = FLOORS if below == "all of them" else re.findall(r"`(\w+)`", below)
        for floor in re.findall(r"`(\w+)`", floors):
            found[floor] = {*below, "util"} - {floor}
    assert found == FLOORS


@pytest.mark.parametrize("name", ["architecture", "guarantees"])
def test_files_that_documents_name_exist(repository, package, name):
    text = (repository / "docs" / f"{name}.md").read_text()
    named = re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|md))?)`", text)
    assert len(named) > 10
    parts = [package, package / "distillation", package / "engine", repository]
    assert [n for n in named if not any((part / n).exists() for part in parts)] == []


def test_every_folder_is_a_package_that_setuptools_finds(package):
    folders = {f.parent for f in package.rglob("*.py")}
    assert [str(d) for d in folders if not (d / "__init__.py").is_file()] == []


def test_modules_do_not_import_each_other_in_a_circle(package):
    files = {
        ".".join(f.relative_to(package.parent).with_suffix("").parts): f
        for f in package.rglob("*.py")
    }
    graph = {name: imports(f, package) & files.keys() for name, f in files.items()}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in graph[name]:
                visit(target, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize(("name", "limit"), [("train_net.py", 100), ("README.md", 121)])
def test_entry_points_stay_short(package, name, limit):
    lines = (package.parent.parent / name).read_text().splitlines()
    assert len(lines) < limit


def test_no_device_is_hard_coded(package):
    wrong = [str(f) for f in package.rglob("*.py") if ".cuda()" in f.read_text()]
    assert wrong == []
