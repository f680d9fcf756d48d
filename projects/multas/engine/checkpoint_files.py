"""The checkpoints in the folder of a run, and which of them a run goes on from."""

import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from multas.util.errors import UserError

LAST = "last_checkpoint"
_CHECKPOINT = re.compile(r"model_(\d+|final)\.pth")


@dataclass(frozen=True)
class Newest:
    """The newest intact checkpoint of a folder.

    Attributes:
        path: its file; "" if the folder has no checkpoint.
        faults: what is wrong with those that were to be taken before it.
    """

    path: str = ""
    faults: tuple[str, ...] = ()


def has_checkpoints(folder: str) -> bool:
    """Whether a run has written checkpoints there, intact or not."""
    return os.path.exists(os.path.join(folder, LAST)) or bool(_checkpoints(folder))


def newest_intact(folder: str, *, every_byte: bool = True) -> Newest:
    """The checkpoint that ``last_checkpoint`` names; if it is damaged, the newest intact one.

    Args:
        folder: of the run.
        every_byte: False = for a look at what checkpoints say; see :func:`damage_of`.

    Raises:
        UserError: There are checkpoints, but all of them are damaged, or ``last_checkpoint`` names
            a file elsewhere.
    """
    if not has_checkpoints(folder):
        return Newest()
    named = _last_named(folder)
    faults = [f"{LAST} is missing"] if named is None else [] if named else [f"{LAST} is empty"]
    known = sorted(_checkpoints(folder), key=lambda name: _iteration(folder, name), reverse=True)
    for name in filter(None, [named, *(name for name in known if name != named)]):
        path = os.path.join(folder, name)
        fault = _fault_of(path, every_byte)
        if not fault:
            return Newest(path, tuple(faults))
        faults.append(f"{name} {fault}")
    raise UserError(
        f"No checkpoint in {folder} can be continued from: {'; '.join(faults)}. Put back a copy of "
        "one, or start anew, without --resume and in another OUTPUT_DIR."
    )


def read_checkpoint(path: str) -> dict[str, Any]:
    """The content of a checkpoint; its tensors are read from the file when they are used."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _last_named(folder: str) -> str | None:
    """The name in ``last_checkpoint``; "" if it has none, None if there is no such file."""
    record = os.path.join(folder, LAST)
    if not os.path.exists(record):
        return None
    with open(record, encoding="utf-8-sig", errors="replace") as file:
        name = file.read(1000).strip()
    if name != os.path.basename(name) or name in (".", ".."):
        raise UserError(
            f"{record} names '{name}', which is not in this folder. Write the name of a checkpoint "
            "beside it there, or delete this file: the newest checkpoint is then taken."
        )
    return name


def _checkpoints(folder: str) -> list[str]:
    """The names of all files that a run writes to be continued from."""
    if not os.path.isdir(folder):
        return []
    return [name for name in os.listdir(folder) if _CHECKPOINT.fullmatch(name)]


def _iteration(folder: str, name: str) -> float:
    """The iteration of a checkpoint; that of a final one is known only from its content."""
    found = _CHECKPOINT.fullmatch(name)
    if found and found[1] != "final":
        return int(found[1])
    try:
        return float(read_checkpoint(os.path.join(folder, name))["iteration"])
    except Exception:  # Its fault is found and named when it is its turn, at first.
        return float("inf")


def _fault_of(path: str, every_byte: bool) -> str:
    """What is wrong with a checkpoint, as the end of a sentence; "" if nothing is."""
    if not path.endswith(".pth"):
        return "is not called .pth"
    damage = damage_of(path, every_byte)
    if not damage and not _is_of_training(read_checkpoint(path)):
        return "holds weights alone, not the state of a training"
    return damage


def _is_of_training(content: Mapping[str, Any]) -> bool:
    trainer, contract = content.get("trainer"), content.get("contract", {})
    if not (isinstance(trainer, Mapping) and isinstance(contract, Mapping)):
        return False
    return "model" in content and type(content.get("iteration")) is int


def damage_of(path: str, every_byte: bool = True) -> str:
    """How a file that torch has written is damaged, as the end of a sentence; "" if it is not.

    The checksums of ``every_byte``, which torch does not look at, take a read of the whole file.
    """
    if not os.path.isfile(path):
        return "does not exist"
    if os.path.getsize(path) == 0:
        return "is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip() if every_byte else None
        content = read_checkpoint(path)
    except PermissionError:
        raise
    except Exception as error:  # Readers raise anything, depending on which bytes are wrong.
        return f"is damaged ({type(error).__name__})"
    if broken or not isinstance(content, Mapping):
        return f"is damaged ({broken or 'it holds no weights by name'})"
    return ""
