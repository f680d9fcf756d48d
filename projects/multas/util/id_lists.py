"""Lists of image ids: text files with an id on each line."""

import os
import re

from multas.util.files import read_text

_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def read_id_list(path: str | os.PathLike) -> list[tuple[int, str]]:
    """The number and the id of each line that is not empty; an id may have spaces.

    VOC's lists by class have -1, 0 or 1 behind the id. This word is cut where all lines have it,
    and the ids are as many without it: "scan 0" and "scan 1" stay.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is not a text; the message names the line.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    numbered = [(number, line.strip()) for number, line in lines if line.strip()]
    flagged = [(n, m[1]) for n, line in numbered if (m := _FLAGGED.fullmatch(line))]
    is_by_class = len(flagged) == len(numbered) and _number(flagged) == _number(numbered)
    return flagged if is_by_class else numbered


def _number(lines: list[tuple[int, str]]) -> int:
    """Of different ids."""
    return len({image_id for _, image_id in lines})
