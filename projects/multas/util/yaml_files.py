"""YAML files, read without running anything, with messages that name the line."""

import os
import re
from collections.abc import Hashable
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager

from multas.util.errors import UserError

# The only expression in Detectron2's own configs, Base-RetinaNet.yaml, where a tag lets Python
# evaluate it: anchors of three sizes for each level.
_ANCHORS = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"

_MAX_VALUES = 1_000_000
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")  # only escapes in double quotes can make them


def read_yaml(file: str | os.PathLike) -> Any:
    """What a YAML file in UTF-8 says, see :func:`parse_yaml`.

    Raises:
        OSError: There is no such file, or it cannot be opened.
        UserError: It is not YAML; the message names the file and the line.
    """
    try:
        with PathManager.open(os.fspath(file), "rb") as stream:
            content = stream.read()
    except OSError as error:
        if error.filename is not None:
            raise
        raise UserError(f"{file} cannot be fetched: {error}. Fetch it by hand.") from error
    return parse_yaml(_decoded(content, file), file)


def parse_yaml(text: str, file: str | os.PathLike) -> Any:
    """What the text of a file says, in plain mappings, lists, texts, numbers and dates.

    Raises:
        UserError: It is not YAML, gives a key twice, or has a tag that runs Python code. The
            message names the file and the line.
    """
    try:
        value = yaml.load(text, _Loader)
        _check_size(value, {})
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}, line {mark.line + 1}" if mark else f"{file}"
        why = ", ".join(filter(None, [error.context, error.problem]))
        raise UserError(f"{where}: {why}.") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(f"{file}, line {line}: {error.reason}; YAML is plain text.") from None
    except _TooLarge as error:
        raise UserError(f"{file} {error}. Write out what it refers to.") from None
    except RecursionError:
        raise UserError(f"{file}: it is nested too deeply. Correct its brackets.") from None
    # A value that its form or tag makes a number or date, such as 2024-13-45, and that is none.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}. Put texts in quotes.") from None


def _decoded(content: bytes, file: str | os.PathLike) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{file}, line {line}: this is not text in UTF-8. Save the file as UTF-8 in an editor "
            "(it may be UTF-16, Latin-1, or no text at all)."
        ) from None


class _TooLarge(Exception):
    """References make a file endless, or far larger than it looks."""


def _check_size(value: Any, known: dict[int, int]) -> int:
    """The number of values with every reference written out; ``known`` are those of parts."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # until it is known
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_check_size(part, known) for part in parts)
    if known[id(value)] == 0:
        raise _TooLarge("contains itself by a reference (*name)")
    if known[id(value)] > _MAX_VALUES:
        raise _TooLarge(f"has more than {_MAX_VALUES:,} values by its references (*name)")
    return known[id(value)]


# The one in C ends the process, without an exception, where brackets are nested very deeply.
class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key '{key.value}' is given twice; join the two"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if _NO_TEXT.search(value):
            problem = f"the text {value!r} has a zero byte or half a character; remove it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


def _refuse_tag(loader: _Loader, node: yaml.Node) -> Any:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    if tag == "!!python/object/apply:eval" and isinstance(node, yaml.SequenceNode):
        expressions = [item.value for item in node.value]
        if expressions == [_ANCHORS]:
            return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in [32, 64, 128, 256, 512]]
    why = "would run Python code and is refused" if "!!python" in tag else "is unknown"
    problem = (
        f"the tag {tag} {why}. Write the value itself in its place: a text, a number or a list "
        "such as [32, 64]"
    )
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor(None, _refuse_tag)  # whatever has no constructor
