"""Files that are no weights, by what is wrong with them."""

import collections
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(content, **options) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "text")
    return stream.getvalue()


def script() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript as a whole is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), stream)
    return stream.getvalue()


def flipped() -> bytes:
    """A checkpoint with one wrong bit in a weight."""
    content = saved(WEIGHTS)
    at = content.index(WEIGHTS["a.weight"].numpy().tobytes()) + 6
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(2))
    return stream.getvalue()


OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1).state_dict()
NAN = {"a.weight": torch.tensor([1.0, float("nan")])}
QUANTISED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
LAUGHS = b"(lp0\n" + b"".join(b"(lp%d\ng%d\nag%d\na" % (n + 1, n, n) for n in range(60)) + b"."
OBJECTS = {"model": {"a": np.array([{}], dtype=object)}, "__author__": "x"}
RECORDS = {"model": {"a": np.zeros(2, dtype=[("x", "f4")])}, "__author__": "x"}

# The end of the file's name, its content, and what the message must say.
FOREIGN = {
    "empty": (".pth", b"", "is empty"),
    "empty_pkl": (".pkl", b"", "is empty"),
    "empty_safetensors": (".safetensors", b"", "is empty"),
    "cut_early": (".pth", saved(WEIGHTS)[:40], "damaged"),
    "cut_half": (".pth", saved(WEIGHTS)[: len(saved(WEIGHTS)) // 2], "damaged"),
    "cut_by_a_byte": (".pth", saved(WEIGHTS)[:-1], "damaged"),
    "one_bit": (".pth", flipped(), "checksum"),
    "old_cut": (".pth", saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-3], "damaged"),
    "pkl_cut": (".pkl", pickle.dumps({"model": {"a": np.zeros(9)}})[:-9], "damaged"),
    "safetensors_cut": (".safetensors", save_safetensors(WEIGHTS)[:-1], "damaged"),
    "text": (".pth", b"hello, this is text\n", "no file of weights"),
    "text_pkl": (".pkl", b"hello, this is text\n", "no file of weights"),
    "text_safetensors": (".safetensors", b"hello, this is text\n", "no file of weights"),
    "random": (".pth", bytes(range(7, 250)), "no file of weights"),
    "page": (".pth", b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "git_lfs": (".pth", b"version https://git-lfs.github.com/spec/v1\noid 1", "git lfs pull"),
    "keras": (".h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "onnx": (".onnx", b"\x08\x07\x12\x07pytorch", "ONNX"),
    "onnx_by_another_name": (".pth", b"\x08\x07\x12\x07pytorch", "no file of weights"),
    "npz": (".npz", npz(), "NumPy"),
    "npy": (".npy", b"\x93NUMPY\x01\0" + bytes(99), "NumPy array"),
    "gzip": (".pth", b"\x1f\x8b\x08" + bytes(99), "unpack it"),
    "archive": (".pth", zipped("readme.txt"), "archive without a checkpoint"),
    "torchscript": (".pth", script(), "TorchScript"),
    "list": (".pth", saved([1, 2]), "not weights by name"),
    "tensor": (".pth", saved(torch.zeros(2)), "not weights by name"),
    "nothing": (".pth", saved(None), "holds nothing"),
    "no_weights": (".pth", saved({}), "empty mapping"),
    "numbers": (".pth", saved({"epoch": 3}), "'epoch' is a value of the type int"),
    "number_as_model": (".pth", saved({"model": 3}), "'model' is a value of the type int"),
    "numbered": (".pth", saved({1: torch.zeros(2)}), "no name of a parameter"),
    "optimizer": (".pth", saved(OPTIMIZER), "state of an optimiser"),
    "other_library": (".pth", saved({"state_dict": WEIGHTS, "epoch": 1}), "in 'state_dict': save"),
    "diverged": (".pth", saved({"model": NAN}), "NaN"),
    "sparse": (".pth", saved({"a.weight": torch.eye(2).to_sparse()}), "'a.weight' is sparse"),
    "quantised": (".pth", saved({"a": QUANTISED}), "dense tensor of float32"),
    "whole_numbers": (".pth", saved({"a.weight": torch.ones(2, dtype=torch.int8)}), "torch.int8"),
    "complex": (".pth", saved({"a.bias": torch.ones(2, dtype=torch.complex64)}), "complex64"),
    "without_values": (".pth", saved({"a": torch.ones(2, device="meta")}), "without values"),
    "infinite": (".pth", saved({"a.bias": torch.tensor([float("inf")])}), "infinite"),
    "pkl_nan": (
        ".pkl",
        pickle.dumps({"model": {"a.weight": np.full(2, np.nan)}, "__author__": "x"}),
        "NaN",
    ),
    "pkl_texts": (
        ".pkl",
        pickle.dumps({"model": {"a.weight": np.array(["x"])}, "__author__": "x"}),
        "not of numbers",
    ),
    "pkl_long": (
        ".pkl",
        pickle.dumps({"model": {"a.weight": np.ones(2, np.longdouble)}, "__author__": "x"}),
        "not of numbers",
    ),
    "pkl_lists_of_lists": (".pkl", LAUGHS, "not weights by name"),
    "pkl_far_reference": (".pkl", b"\x80\x02}r\xff\xff\xff\x7f.", "empty mapping"),
    "pkl_many_zeros": (
        ".pkl",
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x40\x85R.",
        "wants to run",
    ),
    "pkl_list": (".pkl", pickle.dumps([1]), "not weights by name"),
    "pkl_tensors": (".pkl", pickle.dumps({"model": WEIGHTS}), "_rebuild_tensor_v2"),
    "pkl_objects": (".pkl", pickle.dumps(OBJECTS), "neither numbers nor text"),
    "pkl_records": (".pkl", pickle.dumps(RECORDS), "neither numbers nor text"),
    "safetensors_by_another_name": (".pth", save_safetensors(WEIGHTS), "no file of weights"),
}


class Calls:
    """Its pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(mark: Path) -> dict[str, tuple[str, bytes]]:
    """Files that would make ``mark`` if they were loaded, by name, with the end of their names."""
    touch = Calls(os.system, f"touch {mark}")
    opens = Calls(open, str(mark), "w")
    text = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    model = {"model": {"a": np.zeros(2)}, "__author__": "x", "matching_heuristics": True}
    old = {"_use_new_zipfile_serialization": False}
    bad_array = np.array([opens], dtype=object)
    protocols = {
        f"protocol_{n}": (".pkl", pickle.dumps(model | {"x": touch}, protocol=n)) for n in range(6)
    }
    return protocols | {
        "open": (".pkl", pickle.dumps(model | {"x": opens})),
        "eval": (".pkl", pickle.dumps(model | {"x": Calls(eval, text)})),
        "exec": (".pkl", pickle.dumps(model | {"x": Calls(exec, text)})),
        "alone": (".pkl", pickle.dumps(touch)),
        "as_blobs": (".pkl", pickle.dumps({"blobs": {"w": opens}})),
        "in_an_array": (".pkl", pickle.dumps({"model": {"a": bad_array}})),
        "in_a_mapping": (".pkl", pickle.dumps(collections.OrderedDict(model=opens))),
        "through_a_name_with_dots": (
            ".pkl",
            b"\x80\x04\x8c\x0dmultas.engine\x8c\x0fsetup.importlib\x93.",
        ),
        "by_hand": (".pkl", f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()),
        "built": (".pkl", f"(S'touch {mark}'\nios\nsystem\n.".encode()),
        "codec": (".pkl", b"c_codecs\nencode\n(Vabc\nVos\ntR."),
        "torch_load": (
            ".pkl",
            pickle.dumps({"model": Calls(torch.storage._load_from_bytes, saved(opens))}),
        ),
        "torch": (".pth", saved({"model": WEIGHTS, "x": touch})),
        "torch_old": (".pth", saved({"model": WEIGHTS, "x": touch}, **old)),
        "torch_without_an_end": ("", saved({"model": opens})),
        "torch_as_pkl": (".pkl", saved({"model": opens})),
        "module": (".pth", saved(torch.nn.Linear(2, 2))),
        "pyth": (".pyth", saved({"model_state": opens})),
        "pickle_as_pth": (".pth", pickle.dumps(opens, protocol=2)),
    }
