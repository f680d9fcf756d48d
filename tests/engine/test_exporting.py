"""Trained networks become files for other runtimes, unless 8 bits cost too much."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from multas.deploy import Detector
from multas.deploy.detector import KEY
from multas.deploy.graph import ExportGraph
from multas.deploy.quantisation import Compiled
from multas.engine import exporting
from multas.engine.export_table import Row, figures_of, listed, read_rows, table
from multas.engine.exporting import prepare_export
from multas.util.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("nncf")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.fixture
def export(tiny_cfg, card, tmp_path, forget_registered):
    """``export(**options)``: a network with random weights on its way into files."""

    def prepare(*opts, **options):
        name = card["name"]
        opts = (
            *opts, "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5,
            "MODEL.DENSE_HEAD.TOPK_CANDIDATES_TEST", 50,  # whose NMS takes most of the time
        )  # fmt: skip
        cfg = tiny_cfg(*opts)
        torch.manual_seed(0)
        weights = tmp_path / "net.pth"
        torch.save({"model": build_model(cfg).state_dict()}, weights)
        stem = tmp_path / "files" / "net"
        return prepare_export(cfg, str(weights), (0, 0), f"{name}_half", 4, stem=stem, **options)

    return prepare


def test_all_formats_are_written_and_evaluated(export, tmp_path):
    rows = export(max_drop=100.0).run(["openvino", "onnx"], int8=True)
    assert [row.name for row in rows] == [
        "PyTorch fp32", "openvino", "openvino int8", "onnx", "onnx int8"
    ]  # fmt: skip
    files = {file.name for file in (tmp_path / "files").iterdir()}
    assert files == {"net.onnx", "net_int8.onnx", "net.xml", "net.bin", "net_int8.xml",
                     "net_int8.bin", "export.json"}  # fmt: skip
    assert read_rows(tmp_path / "files") == {"net": rows}
    assert [row.file for row in rows] == [
        "", "net.xml", "net_int8.xml", "net.onnx", "net_int8.onnx"
    ]  # fmt: skip
    for file in files - {"net.bin", "net_int8.bin", "export.json"}:
        description = Detector(str(tmp_path / "files" / file)).description
        assert description.classes["classes"][0] == "disc"
    nodes = onnx.load(tmp_path / "files" / "net_int8.onnx").graph.node
    in_8_bits = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    assert any("backbone" in name for name in in_8_bits)
    assert not any(name == "image_sizes" or "decoding" in name for name in in_8_bits)
    assert all(row.size > 0 and min(row.times) > 0 for row in rows)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "files").iterdir()}
    assert rows[3].size == sizes["net.onnx"] and rows[1].size == sizes["net.xml"] + sizes["net.bin"]
    assert rows[1].figures["bbox"] == pytest.approx(rows[0].figures["bbox"], abs=0.01)


@pytest.mark.parametrize("name", exporting.TORCH)
def test_a_file_of_torch_gives_what_the_network_gives(export, tmp_path, name):
    own = export()
    own.run([name], int8=False)
    file = (tmp_path / "files" / "net").with_suffix(exporting.TORCH[name])
    assert {f.name for f in file.parent.iterdir()} == {file.name, "export.json"}
    described = {KEY: ""}
    if name == "torchscript":
        run = torch.jit.load(file, _extra_files=described)
    else:
        run = torch.export.load(file, extra_files=described).module()
    described = json.loads(described[KEY])
    assert described["classes"]["classes"][0] == "disc"
    with torch.no_grad():
        for image in own.images[:2]:
            inputs = [torch.from_numpy(x) for x in own._inputs(image).values()]
            wanted = ExportGraph(own.model).eval().results(*inputs)
            assert list(described["outputs"]) == list(wanted) and wanted["scores"].any()
            for found, value in zip(run(*inputs), wanted.values(), strict=True):
                torch.testing.assert_close(found, value)


def test_a_network_of_stretched_images_is_evaluated(export):
    rows = export("INPUT.SQUARE_SIZE", 64, "INPUT.MIN_SIZE_TEST", 0).run(["onnx"], int8=False)
    assert rows[1].figures["bbox"] == pytest.approx(rows[0].figures["bbox"], abs=0.01)


def test_8_bits_that_cost_too_much_are_not_kept(export, tmp_path, monkeypatch):
    attempts = []

    def quantise(network, inputs, gain, max_drop):
        attempts.append(gain)
        if gain:  # it asks the network that it is given
            with pytest.raises(TypeError, match="'str' object is not callable"):
                gain("no network")
        return network

    monkeypatch.setattr(exporting, "quantise", quantise)
    with pytest.raises(UserError, match=r"net_int8.xml is not written: 8 bits cost .* of bbox/AP"):
        export(max_drop=-1000.0).run(["openvino"], int8=True)
    assert {file.name for file in (tmp_path / "files").iterdir()} == {
        "net.xml",
        "net.bin",
        "export.json",
    }
    assert attempts[0] is None and len(attempts) == 2


@pytest.mark.parametrize("search", [True, False])
def test_layers_that_suffer_are_sought_on_a_few_images(export, card, monkeypatch, search):
    monkeypatch.setattr(exporting, "SEARCHED", 2)
    sought, judged = f"{card['name']}_{'train' if search else 'test'}", []
    own = export(search=[sought] if search else [])
    monkeypatch.setattr(exporting, "Compiled", lambda network, described: network)
    monkeypatch.setattr(own, "_figures", lambda file, runtime, cfg: {"bbox/AP": 4.0, "mIoU": 6.5})

    def judge(cfg, model):
        judged.append(list(cfg.DATASETS.TEST))
        return {"bbox/AP": 5.0, "mIoU": 6.0}

    monkeypatch.setattr(own, "_judged", judge)
    gain = own._gain("net.onnx", own.description)
    assert [gain("a network"), gain("another")] == [-1.0, -1.0]
    assert judged == [[f"{sought}_few2"]], "the whole network is judged once"
    few, whole = (DatasetCatalog.get(name) for name in (judged[0][0], sought))
    assert len(few) == 2 < len(whole) and all(record in whole for record in few)
    known = MetadataCatalog.get(judged[0][0])
    assert known.thing_classes == MetadataCatalog.get(sought).thing_classes
    assert known.get("dirname") is None and known.get("json_file") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_layers_that_suffer_stay_in_full_precision(export, tmp_path, name):
    with pytest.raises(UserError, match=r"net_int8\.(xml|onnx) is not written"):
        export(max_drop=-1000.0).run([name], int8=True)


def test_a_network_of_onnx_in_memory_runs_as_its_file(export, tmp_path):
    own = export()
    own.run(["onnx"], int8=False)
    file = str(tmp_path / "files" / "net.onnx")
    in_memory = Compiled(onnx.load(file), own.description)
    inputs = own._inputs(own.images[0])
    wanted = Detector(file).runtime(inputs)
    found = in_memory(inputs)
    assert found.keys() == wanted.keys() and wanted["scores"].any()
    for name, value in wanted.items():
        assert np.array_equal(found[name], value)


def test_errors_count_as_losses():
    rows = [
        Row("whole", 10**6, [2.0, 3.0, 4.0], figures_of({"classification": {"top1_error": 20.0}})),
        Row("int8", 10**6, [1.0], figures_of({"classification": {"top1_error": 22.5}})),
    ]
    cells = [[cell.strip() for cell in line.split("│")] for line in table(rows).splitlines()[3:5]]
    assert cells[0][1:-1] == ["whole", "1.00", "2.00", "3.00", "333.3", "20.00", "+0.00"]
    assert cells[1][1:-1] == ["int8", "1.00", "1.00", "1.00", "1000.0", "22.50", "-2.50"]


def test_figures_of_several_data_sets_have_their_names():
    boxes, masks = {"bbox": {"AP": 40.0, "AP50": 60.0}}, {"sem_seg": {"mIoU": 70.0}}
    found = figures_of({"cells_test": boxes, "cells_masks_test": masks})
    assert found == {"cells_test/bbox": 40.0, "cells_masks_test/sem_seg": 70.0}
    rows = [Row("whole", 10**6, [2.0], found), Row("int8", 10**6, [1.0], found)]
    assert "cells_test/bbox/AP" in table(rows) and "cells_masks_test/sem_seg/mIoU" in table(rows)
    assert listed({"cells_masks_test/sem_seg": 1.0}) == "1.00 of cells_masks_test/sem_seg/mIoU"
