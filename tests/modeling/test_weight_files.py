"""Every good file of weights gives what Detectron2's own reader gives."""

import pickle
from collections import OrderedDict
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.torch import save_file
from torch import nn

from multas.modeling.strict_loading import SafeCheckpointer, WeightsMisfit
from multas.modeling.weight_files import read_weights
from multas.util.errors import UserError

KINDS = ["f2", "<f4", ">f4", "f8", "i1", "<i8", ">i4", "u1", "?", "c8", "S3", "<U2"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "zoo.pkl"


@given(
    st.dictionaries(st.text(max_size=5), st.sampled_from(KINDS).flatmap(lambda kind: arrays(
        kind, array_shapes(min_dims=0, max_dims=3, max_side=4)))),
    st.integers(0, 5),
    st.booleans(),
)  # fmt: skip
def test_arrays_come_back_as_they_were(file, model, protocol, fortran):
    if fortran:
        model = {name: np.asfortranarray(array) for name, array in model.items()}
    about = {"__author__": "x", "bytes": b"\xff\0", "list": [1, 2.5, None, (True,)],
             "scalar": np.float32(3), "ordered": OrderedDict(b=1, a=np.zeros(2))}  # fmt: skip
    file.write_bytes(pickle.dumps({"model": model, **about}, protocol=protocol))
    if not model:
        with pytest.raises(UserError, match="no weights"):
            read_weights(str(file))
        return
    found = read_weights(str(file))
    expected = pickle.loads(file.read_bytes())
    for name, array in expected["model"].items():
        own = found["model"][name]
        np.testing.assert_array_equal(own, array)
        assert (own.dtype, own.shape) == (array.dtype.newbyteorder("="), array.shape)
        assert own.flags.f_contiguous == array.flags.f_contiguous and own.flags.writeable
    assert found["scalar"] == 3 and found["scalar"].dtype == np.float32
    assert type(found["ordered"]) is OrderedDict and list(found["ordered"]) == ["b", "a"]
    for name in ("bytes", "list", "__author__"):
        assert found[name] == about[name]


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Written by Python 2 and NumPy 1: texts are bytes, an array's content is one of them."""
    text = (
        b"(dp0\nS'blobs'\np1\n(dp2\nS'w'\np3\ncnumpy.core.multiarray\n_reconstruct\np4\n"
        b"(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\ntp8\nRp9\n(I1\n(I2\ntp10\ncnumpy\ndtype\np11\n"
        b"(S'f4'\np12\nI0\nI1\ntp13\nRp14\n(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\n"
        b"S'\\x00\\x00\\x80\\x3f\\x00\\x00\\x00\\xc0'\np17\ntp18\nbsS'w_momentum'\np19\nI3\nss."
    )
    (tmp_path / "old.pkl").write_bytes(text)
    found = read_weights(str(tmp_path / "old.pkl"))
    assert found["model"]["w"].tolist() == [1, -2] and list(found["model"]) == ["w"]
    assert (found["__author__"], found["matching_heuristics"]) == ("Caffe2", True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("pixel_mean", torch.zeros(3))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("end", [".pth", ".pkl", ".pyth", ".safetensors", ""])
@pytest.mark.parametrize("form", ["model", "plain", "heuristics", "caffe2", "module"])
def test_what_is_loaded_is_what_detectron2_loads(tmp_path, end, form):
    weights = {name: torch.rand_like(t.float()).to(t.dtype) for name, t in state(Net()).items()}
    content = {"model": weights, "__author__": "x"}
    if form == "plain":
        content = dict(weights)
    elif form == "heuristics":
        weights = {f"backbone.{name}"[9:]: t for name, t in weights.items()}
        content = {"model": weights, "matching_heuristics": True, "__author__": "x"}
    elif form == "caffe2":
        content = {"blobs": {"stem_w": weights["stem.weight"], "stem_w_momentum": torch.ones(1)}}
    elif form == "module":
        content = {"model": {f"module.{name}": t for name, t in weights.items()}, "__author__": "x"}
    path = str(tmp_path / f"file{end}")
    if end == ".pkl":
        arrays_of = lambda value: (  # noqa: E731
            {k: arrays_of(v) for k, v in value.items()} if isinstance(value, dict)
            else value.numpy() if isinstance(value, torch.Tensor) else value
        )  # fmt: skip
        with open(path, "wb") as stream:
            pickle.dump(arrays_of(content), stream)
    elif form == "caffe2":
        pytest.skip("only pickles have this form")
    elif end == ".safetensors":
        save_file(content.get("model", content), path)
    else:
        torch.save({"model_state": weights} if end == ".pyth" else content, path)
    own, theirs = Net(), Net()
    theirs.load_state_dict(own.state_dict())
    SafeCheckpointer(own).load(path)
    if end == ".safetensors":
        DetectionCheckpointer(theirs)._load_model({"model": content.get("model", dict(content))})
    else:
        DetectionCheckpointer(theirs).load(path)
    assert all(
        torch.equal(a, b) for a, b in zip(state(own).values(), state(theirs).values(), strict=True)
    )
    assert not torch.equal(own.stem.weight, Net().stem.weight)


def test_weights_of_which_hardly_anything_fits_are_refused(tmp_path):
    path, model = str(tmp_path / "w.pth"), Net()
    torch.save({"model": {"pixel_mean": torch.ones(3), "x": torch.ones(2)}}, path)
    with pytest.raises(WeightsMisfit, match=r"has 0 of the model's 6 parameters, and 1 of no use"):
        SafeCheckpointer(model).load(path)
    torch.save({"model": {"stem.weight": torch.ones(9)}}, path)
    with pytest.raises(WeightsMisfit, match=r"w\.pth"):
        SafeCheckpointer(model).load(path)
    torch.save({"model": {"stem.weight": torch.ones(4, 3, 3, 3)}}, path)
    SafeCheckpointer(model).load(path)  # the rest is only warned of
    assert (model.stem.weight == 1).all()


def test_a_url_may_ask_for_heuristics_as_in_newer_detectron2(tmp_path):
    torch.save({"model": {"stem.weight": torch.ones(4, 3, 3, 3)}}, tmp_path / "w.pth")
    checkpointer = SafeCheckpointer(Net())
    assert "matching_heuristics" not in checkpointer._load_file(str(tmp_path / "w.pth"))
    url = urlparse("https://host/w.pth?matching_heuristics=True")
    checkpointer._parsed_url_during_loading = url
    assert checkpointer._load_file(str(tmp_path / "w.pth"))["matching_heuristics"] is True
