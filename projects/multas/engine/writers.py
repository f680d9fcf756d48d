"""Writers of metrics that leave the folder of a run alone until there is something to write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.utils.events import EventWriter


@dataclass(eq=False)
class LateWriters(EventWriter):
    """Writers that are built, and open their files, when they write for the first time."""

    build: Callable[[], Sequence[EventWriter]]
    _built: list[EventWriter] = field(default_factory=list)

    def write(self, **kwargs: Any) -> None:
        if not self._built:
            self._built.extend(self.build())
        for writer in self._built:
            writer.write(**kwargs)

    def close(self) -> None:
        for writer in self._built:
            writer.close()
