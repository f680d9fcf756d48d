"""What the documents of the repository say: their code blocks, commands, names and links."""

import ast
import importlib
import re
import shlex
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
from detectron2.config import CfgNode, get_cfg

from multas.config import add_multas_config

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    str(file.relative_to(REPOSITORY))
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/*.md", "datasets/*.md", "configs/**/*.md")
    for file in REPOSITORY.glob(pattern)
)
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def text(file: str = "README.md") -> str:
    return (REPOSITORY / file).read_text()


def languages(file: str) -> set[str]:
    """The languages of a document's code blocks, "" for those that name none."""
    return {match[2] for match in _FENCE.finditer(text(file))}


def blocks(language: str, file: str = "README.md") -> list[str]:
    return [match[3] for match in _FENCE.finditer(text(file)) if match[2] == language]


def block(language: str, word: str, file: str) -> str:
    """The first code block of a language that has a word."""
    return next(b for b in blocks(language, file) if word in b)


def prose(file: str) -> str:
    return _FENCE.sub("", text(file))


def words(file: str = "README.md") -> list[str]:
    """What stands between backticks in the running text."""
    return re.findall(r"`([^`\n]+)`", prose(file))


def links(file: str) -> list[str]:
    """The targets of links to other files, as paths from the root of the repository."""
    folder = Path(file).parent
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose(file))
    return [str(folder / target) for target in targets]


def commands(file: str = "README.md") -> list[list[str]]:
    """The command lines of a document, in words.

    A block without a language may hold a tree of files; its lines that start with python count.
    """
    joined = [b.replace("\\\n", " ") for b in blocks("bash", file)]
    for b in blocks("", file):
        joined += [line for line in b.replace("\\\n", " ").splitlines() if line[:7] == "python "]
    lines = "\n".join(joined).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(script: str, word: str = "", file: str = "README.md") -> list[str]:
    """Arguments of the first command of a document that runs a script and has a word."""
    found = [c for c in commands(file) if c[:2] == ["python", script] and (not word or word in c)]
    return found[0][2:]


def parsed(script: str, arguments: list[str]) -> Namespace:
    """What a tool makes of its command line; one that it refuses fails the test."""
    module = importlib.import_module(Path(script).stem)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr("sys.argv", [script, *arguments])
        try:
            return module.parse_args()
        except SystemExit as error:
            raise AssertionError(f"{script} refuses {' '.join(arguments)}") from error


def imported(code: str) -> None:
    """Import what a piece of Python imports; a name that is not there fails the test."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module: ModuleType = importlib.import_module(node.module or "")
            missing = [a.name for a in node.names if not hasattr(module, a.name)]
            assert not missing, f"{node.module} has no {missing}"


def all_keys() -> CfgNode:
    """Detectron2's config with the keys of multas."""
    cfg = get_cfg()
    add_multas_config(cfg)
    return cfg


def has_key(cfg: CfgNode, key: str) -> bool:
    """Whether a config has a key or group; ``GROUP.*`` will do, and options of an aggregator."""
    node = cfg
    *groups, last = key.split(".")
    for part in groups:
        if not isinstance(node, CfgNode) or part not in node:
            return False
        node = node[part]
    return last == "*" or (isinstance(node, CfgNode) and (last in node or node.is_new_allowed()))
