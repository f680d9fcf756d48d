"""The files that let anyone use and join the project are there and say what is true."""

import configparser
import re
import subprocess

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import multas

# Extras that `make test` installs, without which tests are skipped.
LOWEST_EXTRAS = ("cluster", "coco", "dev", "torchjd", "tune")  # of `make test-lowest`
TESTED_EXTRAS = (*LOWEST_EXTRAS, "onnx", "openvino", "timm", "docs")
PAPERS = {
    "Self-training and multi-task learning for limited data": (["Lê", "Pham"], 2023),
    "Adaptive Distillation": (["Chennupati", "Kamani", "Cheng", "Chen"], 2021),
}


@pytest.fixture(scope="module")
def setup_cfg(repository):
    config = configparser.ConfigParser(inline_comment_prefixes="#")
    config.read(repository / "setup.cfg")
    return config


def requirements(setup_cfg, extras=TESTED_EXTRAS):
    """What setup.cfg asks for at run time and in extras."""
    extra = setup_cfg["options.extras_require"]
    lists = [setup_cfg["options"]["install_requires"], *(extra[name] for name in extras)]
    return [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]


def pins(file):
    """The version that a file of constraints has for each package."""
    lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
    return {canonicalize_name(name): Version(v) for name, v in (i.split("==") for i in lines)}


def lower_bounds(found):
    """The lower bound of each requirement that has one."""
    return {
        canonicalize_name(requirement.name): Version(specifier.version)
        for requirement in found
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }


def test_lowest_constraints_are_the_lower_bounds(repository, setup_cfg):
    build = (repository / "pyproject.toml").read_text()
    (setuptools,) = re.findall(r'requires = \["(.*)"\]', build)
    expected = lower_bounds([*requirements(setup_cfg, LOWEST_EXTRAS), Requirement(setuptools)])
    assert pins(repository / "constraints-lowest.txt") == expected


def test_every_requirement_at_run_time_has_a_lower_bound(setup_cfg):
    found = requirements(setup_cfg, extras=())
    assert len(lower_bounds(found)) == len(found) > 0


def test_tested_versions_are_allowed_ones(repository, setup_cfg):
    versions = pins(repository / "constraints.txt")
    for requirement in requirements(setup_cfg, setup_cfg["options.extras_require"]):
        if requirement.specifier:
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_environment_of_the_tests_has_the_extras(repository):
    makefile = (repository / "Makefile").read_text()
    for name, expected in {"EXTRAS := ": TESTED_EXTRAS, "\tEXTRAS=": LOWEST_EXTRAS}.items():
        (extras,) = re.findall(rf"{name}(\S+)", makefile)
        assert sorted(extras.split(",")) == sorted(expected)


def test_licence_is_apache_2(repository, setup_cfg):
    text = (repository / "LICENSE").read_text()
    assert re.match(r"\s*Apache License\s+Version 2\.0, January 2004\n", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert setup_cfg["metadata"]["license_expression"] == "Apache-2.0"
    assert setup_cfg["metadata"]["license_files"] == "LICENSE"


def test_citation_names_the_version_and_both_papers(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert citation["version"] == multas.__version__
    found = {
        paper["title"]: ([author["family-names"] for author in paper["authors"]], paper["year"])
        for paper in citation["references"]
    }
    assert list(found.values()) == list(PAPERS.values())
    for title, start in zip(found, PAPERS, strict=True):
        assert title.startswith(start)


def test_changelog_has_this_version_and_what_follows_it(repository):
    text = (repository / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\S+)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert multas.__version__ in versions
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_contributing_is_short_and_names_targets_that_exist(repository):
    text = (repository / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 80
    makefile = (repository / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert "test" in targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_types_are_packaged(repository, setup_cfg):
    assert (repository / "projects/multas/py.typed").is_file()
    assert setup_cfg["options.package_data"]["multas"].split() == ["py.typed"]


def test_files_beside_python_are_packaged(repository, setup_cfg):
    package = repository / "projects"
    found = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    named = {
        package.joinpath(*name.split("."), file.strip())
        for name, files in setup_cfg["options.package_data"].items()
        for file in files.split(",")
    }
    assert {p for p in found if "egg-info" not in str(p)} == named


def test_pre_commit_runs_the_pinned_ruff(repository):
    config = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())
    hooks = {repo["repo"].rsplit("/", 1)[1]: repo for repo in config["repos"]}
    ruff = pins(repository / "constraints.txt")["ruff"]
    assert hooks["ruff-pre-commit"]["rev"] == f"v{ruff}"
    assert [hook["id"] for hook in hooks["ruff-pre-commit"]["hooks"]] == [
        "ruff-check",
        "ruff-format",
    ]


@pytest.mark.parametrize(
    ("name", "trigger", "command"),
    [
        ("tests", "pull_request", "bash .ci/run"),
        ("lowest", "schedule", "make test-lowest"),
        ("detectron2-main", "schedule", "make test"),
    ],
)
def test_workflows_run_the_commands_of_a_developer(repository, name, trigger, command):
    workflow = yaml.safe_load((repository / f".github/workflows/{name}.yml").read_text())
    # YAML 1.1 reads the key "on" as true.
    assert trigger in workflow[True]
    (job,) = workflow["jobs"].values()
    assert command in [step.get("run") for step in job["steps"]]
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
    cached = job["steps"][1]["with"]["cache-dependency-path"].split()
    assert all((repository / file).is_file() for file in cached)


def test_issue_forms_have_what_the_site_asks_for(repository):
    forms = sorted((repository / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "feature"]
    for form in forms:
        content = yaml.safe_load(form.read_text())
        assert content["name"] and content["description"]
        assert all(field["attributes"]["label"] for field in content["body"])
        assert any(field.get("validations", {}).get("required") for field in content["body"])


def test_make_help_explains_every_target(repository):
    result = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=repository, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    explained = re.findall(r"^make (\S+)", result.stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(phony.split())
