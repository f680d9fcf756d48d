"""Lists and tables in one block of memory, which loading processes share.

Objects cannot be shared: reading one changes its reference count, so that a forked process soon has
its own copy of every page of memory with such objects. Bytes can (Y. Wu, "Demystify RAM Usage in
Multi-Process Data Loaders", 2022). Detectron2's DatasetFromList keeps them as a NumPy array, of
which every spawned process would get a copy; torch shares its tensors with those, too.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch


class SharedList(Sequence):
    """The items of a list, each pickled; every access gives a new copy of one.

    Args:
        items: what pickle can take. They are read one by one and not kept.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        content, sizes = bytearray(), [0]
        for item in items:
            pickled = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            content += pickled
            sizes.append(len(pickled))
        # torch makes no tensor of an empty buffer.
        self._content = torch.frombuffer(content or bytearray(1), dtype=torch.uint8)
        self._ends = torch.tensor(list(accumulate(sizes)), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        start, end = self._ends[numbers : numbers + 2].tolist()
        return pickle.loads(self._content[start:end].numpy().data)


class SharedDict(Mapping):
    """A mapping with small keys and large values, which are those of a :class:`SharedList`."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        self._numbers = {key: number for number, key in enumerate(items)}
        self._values = SharedList(items.values())

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._numbers[key]]
