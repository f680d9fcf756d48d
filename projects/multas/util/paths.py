"""Names that come from data, below a folder that they may not leave."""

import os
from pathlib import Path

from multas.util.errors import UserError


def inside(folder: str | os.PathLike, name: str, source: str) -> Path:
    """The path of a name below a folder.

    Args:
        folder: the folder.
        name: a name relative to it, which was read from a file.
        source: that file, for the message.

    Returns:
        The path as it is written. Links on the way to it do not leave the folder; it may itself be
        a link.

    Raises:
        UserError: The name is absolute, or leads out of the folder.
    """
    path, root = Path(folder, name), Path(folder).resolve()
    try:
        target = path.parent.resolve() / path.name
        within = root in target.parents and path.name != ".." and "\0" not in name
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a zero byte
        within = False
    if not within or os.path.isabs(name):
        raise UserError(
            f"{source} names '{name}', which is not inside of {folder}; nothing outside of it is "
            "touched. Correct that name, or delete the file."
        )
    return path
