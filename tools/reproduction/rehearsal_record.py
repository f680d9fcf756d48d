"""How far a run of a rehearsal has come, in ``rehearsal.json`` in its folder."""

import json
from pathlib import Path
from typing import Any

from multas.util.files import write_text

ITERATIONS = 3
INTERRUPT_AFTER = 2  # iterations
_FILE = "rehearsal.json"


def read_record(folder: Path) -> dict[str, Any]:
    """What a run has reached so far: any of

    - built: True
    - images: of a batch, copies counted
    - trained: iterations
    - seconds: that the last one took
    - resumed: the iterations that it went on from
    - error: one line that says why it has failed, "" if it has not
    """
    file = folder / _FILE
    return json.loads(file.read_text()) if file.is_file() else {}


def note(folder: Path, **reached: Any) -> None:
    """Add to the record of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _FILE, json.dumps(read_record(folder) | reached))
