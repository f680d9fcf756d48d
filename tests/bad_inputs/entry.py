"""Scripts run as a command line runs them, but in this process."""

import contextlib
import hashlib
import io
import itertools
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run_script(script: str, *argv: str, folder: Path) -> tuple[int, str]:
    """Run a script of the repository ("train_net.py", "tools/split.py") in a working directory.

    Returns:
        The exit status, and what it has written to stderr. An exception that leaves the script
        leaves this function, too: a user would see its traceback.
    """
    path, errors = str(REPOSITORY / script), io.StringIO()
    before, status = os.getcwd(), 0
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", [path, *map(str, argv)]),
            mock.patch.object(sys, "path", [str(REPOSITORY / "tools"), *sys.path]),
            contextlib.redirect_stderr(errors),
        ):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        # As the interpreter does: None is success, and a text is printed with the status 1.
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        errors.write(end.code if isinstance(end.code, str) else "")
    finally:
        os.chdir(before)
    return status, errors.getvalue()


def failed(script: str, *argv: str, folder: Path) -> str:
    """The message with which a script ends: its exit status must be 2, without a traceback."""
    status, errors = run_script(script, *argv, folder=folder)
    assert "Traceback" not in errors, errors
    # Progress bars and usage lines may stand before it.
    lines = itertools.dropwhile(lambda line: "error: " not in line, errors.splitlines())
    message = "\n".join(lines)
    assert status == 2 and message, f"status {status}: {errors}"
    return message


def refused(script: str, *argv: str, folder: Path) -> str:
    """The message with which a script refuses what it was given; it has to write nothing.

    Below ``folder``, which is the working directory, every file must be as it was, and the
    repository gets no data and no results.
    """
    before, known = contents(folder), data_and_results()
    message = failed(script, *argv, folder=folder)
    after = contents(folder)
    changed = [path for path in before | after if before.get(path) != after.get(path)]
    changed += data_and_results() - known
    assert not changed, f"written in spite of the message: {changed}\n{message}"
    return message


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with a hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        known = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if known else ""
        )
    return found


def data_and_results() -> set[str]:
    """The data sets and the folders of results in the repository, where some scripts work."""
    return {str(path) for name in ("datasets", "output") for path in REPOSITORY.glob(f"{name}/*")}


def check_refusal(message: str, *parts: str) -> None:
    """Make sure that a message has these parts: the file or key at fault, and a cure."""
    missing = [part for part in parts if part not in message]
    if missing:
        pytest.fail(f"The message lacks {missing}:\n{message}")


def cases(name: str, table: Mapping[str, tuple] | Sequence[tuple]) -> pytest.MarkDecorator:
    """Run a test for each row of a table: what is given to it as ``name``, and after that what
    the message must have, given as ``parts``. A mapping names its rows.
    """
    rows, ids = (table.values(), list(table)) if isinstance(table, Mapping) else (table, None)
    return pytest.mark.parametrize((name, "parts"), [(row[0], row[1:]) for row in rows], ids=ids)
