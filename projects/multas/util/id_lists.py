"""Lists of image ids: text files with an id on each line."""

import os
import re

from multas.util.files import read_text
from multas.util.image_suffixes import without_suffix

_FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")


def read_id_list(path: str | os.PathLike) -> list[tuple[int, str]]:
    """The number and the id of each line that is not empty; an id may have spaces.

    VOC's lists by class have -1, 0 or 1 behind the id, others the extension of an image. Such an
    end is cut where all lines have one, and the ids are as many without it: "scan 0" and "scan 1"
    stay.

    Raises:
        OSError: if the file is missing or unreadable.
        UserError: if it is not a text; the message names the line.
    """
    lines = enumerate(read_text(path).split("\n"), start=1)
    numbered = [(number, line.strip()) for number, line in lines if line.strip()]
    flagged = [(n, m[1]) for n, line in numbered if (m := _FLAGGED.fullmatch(line))]
    ids = flagged if _are_as_many(flagged, numbered) else numbered
    plain = [(n, s) for n, i in ids if (s := without_suffix(i)) not in ("", i)]
    return plain if _are_as_many(plain, ids) else ids


def _are_as_many(lines: list[tuple[int, str]], before: list[tuple[int, str]]) -> bool:
    """Whether no line has been lost, and no two ids have become one."""
    different = ({image_id for _, image_id in own} for own in (lines, before))
    return len(lines) == len(before) and len(set(map(len, different))) == 1
