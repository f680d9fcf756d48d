"""What makes generated data sets repairable: a list of their files with sizes and hashes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from multas.util.files import written_whole

MANIFEST = "manifest.json"


def read_manifest(root: Path, recipe: dict | None = None) -> dict[str, list]:
    """Size and SHA-256 of the files by their path relative to ``root``.

    Nothing if there is no manifest, or if it is of another recipe than ``recipe``.
    """
    try:
        content = json.loads((root / MANIFEST).read_text())
        fits = recipe is None or content["recipe"] == recipe
        return content["files"] if fits else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_manifest(root: Path, recipe: dict, files: Mapping[str, list]) -> None:
    """Write the manifest of ``files``, and remove the other files of an earlier, larger set."""
    for path in read_manifest(root).keys() - files.keys():
        (root / path).unlink(missing_ok=True)
    content = {"recipe": recipe, "files": dict(sorted(files.items()))}
    write_file(root / MANIFEST, json.dumps(content, indent=0).encode())


def check_toy(root: str | Path, files: Mapping[str, list] | None = None) -> list[str]:
    """Find the missing and damaged files of a generated data set.

    Args:
        root: folder of the data set.
        files: size and SHA-256 by path; None to read them from the manifest.

    Returns:
        Their paths relative to ``root``; that of the manifest if there is none.
    """
    root = Path(root)
    files = read_manifest(root) if files is None else files
    if not files:
        return [MANIFEST]
    return [path for path, entry in files.items() if not is_intact(root / path, entry)]


def is_intact(file: Path, entry: list) -> bool:
    """Whether a file has the size and the hash of its entry."""
    try:
        return file.stat().st_size == entry[0] and _entry(file.read_bytes()) == entry
    except OSError:
        return False


def write_file(file: Path, content: bytes) -> list:
    """Write a file as a whole or not at all.

    Returns:
        The file's entry, [size in bytes, SHA-256].
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as partial:
        Path(partial).write_bytes(content)
    return _entry(content)


def _entry(content: bytes) -> list:
    return [len(content), hashlib.sha256(content).hexdigest()]
