"""Pickles of NumPy arrays, read without running what they name.

A pickle can call any function that can be imported. Detectron2's and Caffe2's files of weights only
need what builds arrays and mappings. NumPy's own functions for that trust what they are given, down
to the memory layout of a structured type, so that plain stand-ins take their places here.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from multas.util.errors import UserError


def load_arrays(file: BinaryIO, name: str) -> Any:
    """Load a pickle of mappings, sequences, texts, numbers and arrays (numbers or text, by bytes).

    Args:
        file: the open file. Pickles of Python 2 are read as latin-1, as Detectron2 does.
        name: what messages call it.

    Raises:
        UserError: It wants to call something else. The message names that.
        Exception: It is damaged; what ``pickle`` raises then can be anything.
    """
    return _plain(_Unpickler(file, name).load(), {})


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"an array of {self.dtype} is neither numbers nor text")

    def __setstate__(self, state: Sequence[Any]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for ``numpy.ndarray``, both as the class and as an array that is being built."""

    def __init__(self, *_: Any) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, fortran, data = state
        self.value = _from_bytes(data, kind, shape, "F" if fortran else "C")


def _from_bytes(data: Any, kind: _Type, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
    # Python 2 wrote the bytes as a text.
    content = data.encode("latin1") if isinstance(data, str) else bytes(data)
    array = np.frombuffer(content, kind.dtype).reshape(shape, order=order)
    # A copy that can be written to, in the byte order of this machine, which torch needs.
    return array.astype(kind.dtype.newbyteorder("="), order=order)


def _scalar(kind: _Type, data: Any) -> Any:
    return _from_bytes(data, kind, (1,))[0]


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


_CORES = ("numpy.core", "numpy._core")  # before and since NumPy 2
_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_bytes for core in _CORES},
}


# The one in C makes a table as long as the largest reference in the file says.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, encoding="latin1")
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UserError(
                f"{self._name} wants to run {module}.{name}, which a file of weights has no need "
                "for, so that nothing of it was read. If you trust its source, load it there and "
                "save the state dict alone, by torch.save as .pth or as .safetensors."
            )
        return _KNOWN[module, name]


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Arrays in place of what stands for them; ``known`` are parts that are referred to again."""
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in known:
        if isinstance(value, dict):
            parts: Any = ((key, _plain(item, known)) for key, item in value.items())
        else:
            parts = (_plain(item, known) for item in value)
        known[id(value)] = type(value)(parts)
    return known[id(value)]
