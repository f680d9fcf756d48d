"""Files that have to be there, and what a message says where one is not."""

import os

from detectron2.utils.file_io import PathManager

from multas.util.names import nearest


def require_file(path: str, what: str, ends: tuple[str, ...], cure: str) -> None:
    """Make sure that a file is there; a URL is not checked.

    Args:
        path: the name of the file, which may be one of Detectron2's PathManager.
        what: the config key or argument that gives it, for the message.
        ends: what the names of such files end in.
        cure: the last sentence of the message.

    Raises:
        FileNotFoundError: There is none. The message has what is there instead.
    """
    if "://" in path or PathManager.isfile(path):
        return
    if os.path.isdir(path):
        inside = sorted(name for name in os.listdir(path) if name.endswith(ends))
        there = f"; it has {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"{what} is '{path}', a folder: name a file in it{there}.")
    if os.path.lexists(path):
        raise FileNotFoundError(f"{what} is '{path}', which is no file, or a link to none.")
    folder, name = os.path.split(path)
    near = nearest(name, os.listdir(folder or ".") if os.path.isdir(folder or ".") else [])
    hint = f" Did you mean '{os.path.join(folder, near)}'?" if near else ""
    raise FileNotFoundError(f"{what} is '{path}': no such file.{hint} {cure}")
