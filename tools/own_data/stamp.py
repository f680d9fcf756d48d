"""The folder of a job: held by one job at a time, and stamped with the settings of its models."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.locks import LOCK, locked

STAMP = "job.json"


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Hold a folder for a job; it is made where it does not exist.

    Raises:
        UserError: Another job holds it.
    """
    output.mkdir(parents=True, exist_ok=True)
    with locked(output, "--output", "job"):
        yield


@contextmanager
def removed_if_refused(output: Path) -> Iterator[None]:
    """A held folder that had nothing before the block is not there after an error in it."""
    is_new = set(os.listdir(output)) <= {LOCK}
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(output, ignore_errors=True)
        raise


def claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder that of a job with these settings.

    Raises:
        UserError: See :func:`refuse_other`.
    """
    refuse_other(output, settings)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / STAMP, json.dumps(settings))


def refuse_other(output: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that a folder has no models of a job with other settings.

    Raises:
        UserError: It has, and the message names both settings; or its stamp is damaged.
    """
    stamp, mine = output / STAMP, json.loads(json.dumps(settings))
    try:
        theirs = json.loads(stamp.read_text()) if stamp.is_file() else mine
    except ValueError as error:
        raise UserError(
            f"{stamp} is damaged ({error}): the settings of the models in {output} are unknown. If "
            f"they are {mine}, delete that file; if not, choose another --output."
        ) from error
    if theirs != mine:
        raise UserError(
            f"{output} holds a job with other settings:\n  {theirs}\nnot\n  {mine}\n"
            "Choose another --output, or delete that folder."
        )
