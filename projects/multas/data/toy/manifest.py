"""What makes generated data sets repairable: a list of their files with sizes and hashes."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

MANIFEST = "manifest.json"


def read_manifest(root: Path, recipe: dict | None = None) -> dict[str, list]:
    """Size and SHA-256 by path relative to `root`; empty where there is no manifest, or one of
    another recipe than `recipe`."""
    try:
        content = json.loads((root / MANIFEST).read_text())
        fits = recipe is None or content["recipe"] == recipe
        return content["files"] if fits else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_manifest(root: Path, recipe: dict, files: Mapping[str, list]) -> None:
    """Write the manifest of `files`, and remove what an earlier, larger set had besides."""
    for path in read_manifest(root).keys() - files.keys():
        (root / path).unlink(missing_ok=True)
    content = {"recipe": recipe, "files": dict(sorted(files.items()))}
    write_file(root / MANIFEST, json.dumps(content, indent=0).encode())


def check_toy(root: str | Path, files: Mapping[str, list] | None = None) -> list[str]:
    """Paths, relative to `root`, of missing or damaged files; the manifest itself when there is
    none.

    Args:
        root: folder of a generated data set.
        files: size and SHA-256 by path; None reads them from the manifest.
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
    """Write so that an interruption leaves the old file or the new one, never a part.

    Returns:
        The file's entry, [size in bytes, SHA-256].
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=file.suffix)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.chmod(name, 0o644)
    os.replace(name, file)
    return _entry(content)


def _entry(content: bytes) -> list:
    return [len(content), hashlib.sha256(content).hexdigest()]
