"""Other scripts of this repository, in processes of their own that get this one's signals."""

import os
import subprocess
import sys
from pathlib import Path

from multas.util.signals import not_orphaned

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def called(script: str, *args: str) -> int:
    """Run a script of this repository and return its exit status."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(REPOSITORY / script), *args]
    with subprocess.Popen(command, env=environment) as process, not_orphaned(process):
        status = process.wait()
    return status if status >= 0 else 128 - status


def call(script: str, *args: str) -> None:
    """Run a script of this repository. If it fails, this process ends with its exit status."""
    if status := called(script, *args):
        raise SystemExit(status)
