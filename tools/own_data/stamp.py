"""The folder of a job has its settings in a file, so that no other job goes on with its models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from multas.util.errors import UserError
from multas.util.files import write_text

STAMP = "job.json"


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
