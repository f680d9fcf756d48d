"""Lists of image ids: text files with an id on each line."""

import os
import re

from multas.util.files import read_text

_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def read_id_list(path: str | os.PathLike) -> list[tuple[int, str]]:
    """The number and the id of each line that is not empty; an id may have spaces.

    VOC's lists by class have -1, 0 or 1 behind the id. This word is cut where all lines have it.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is not a text; the message names the line.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    numbered = [(number, line.strip()) for number, line in lines if line.strip()]
    if all(_FLAGGED.fullmatch(line) for _, line in numbered):
        return [(number, _FLAGGED.sub(r"\1", line)) for number, line in numbered]
    return numbered
