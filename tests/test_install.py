"""The installer of Detectron2, and whether what it installs works with today's libraries."""

import itertools
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import install_detectron2 as installer
from detectron2_patches import table
from detectron2_patches import torchvision_ops as stand_ins

# Reference operators, written as the definitions read: one box, one sample at a time.


def reference_nms(boxes, scores, threshold):
    boxes = boxes.numpy()
    order = np.argsort(-scores.numpy(), kind="stable")
    kept = []
    for j in order:
        for i in kept:
            width = max(0, min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            height = max(0, min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (boxes[i], boxes[j])]
            union = areas[0] + areas[1] - width * height
            if union > 0 and float(width * height / union) > threshold:
                break
        else:
            kept.append(j)
    return [int(i) for i in kept]


def reference_roi_align(features, rois, scale, bins, ratio, aligned):
    height, width = features.shape[2:]

    def sample(image, y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return torch.zeros_like(features[image, :, 0, 0])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        fy, fx = y - top, x - left
        plane = features[image]
        upper = plane[:, top, left] * (1 - fx) + plane[:, top, right] * fx
        lower = plane[:, bottom, left] * (1 - fx) + plane[:, bottom, right] * fx
        return upper * (1 - fy) + lower * fy

    pooled = features.new_zeros(len(rois), features.shape[1], *bins)
    for k, (image, *box) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (value * scale - 0.5 * aligned for value in box)
        size = [y1 - y0, x1 - x0] if aligned else [max(y1 - y0, 1), max(x1 - x0, 1)]
        cell = [size[0] / bins[0], size[1] / bins[1]]
        counts = [ratio if ratio > 0 else int(np.ceil(c)) for c in cell]
        for i, j in itertools.product(range(bins[0]), range(bins[1])):
            for a, b in itertools.product(range(counts[0]), range(counts[1])):
                y = y0 + (i + (a + 0.5) / counts[0]) * cell[0]
                x = x0 + (j + (b + 0.5) / counts[1]) * cell[1]
                pooled[k, :, i, j] += sample(int(image), y, x) / (counts[0] * counts[1])
    return pooled


def random_boxes(count, size=100.0, extent=40.0):
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + torch.rand(count, 2) * extent], dim=1)


# Whole coordinates and few score values make equal boxes, empty boxes and ties common.
coordinate = st.integers(0, 8)
scored_box = st.tuples(coordinate, coordinate, coordinate, coordinate, st.sampled_from([0.2, 0.9]))


@given(
    st.lists(scored_box, max_size=24),
    st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]),
    st.sampled_from([2, 5, 512]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_nms_equals_greedy_reference(rows, threshold, block, dtype):
    boxes = torch.tensor(
        [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d, _ in rows], dtype=dtype
    ).reshape(-1, 4)
    scores = torch.tensor([row[4] for row in rows], dtype=dtype)
    expected = reference_nms(boxes, scores, threshold)
    with mock.patch.object(stand_ins, "NMS_BLOCK", block):
        assert stand_ins.nms(boxes, scores, threshold).tolist() == expected


@pytest.mark.parametrize("threshold", [0.05, 0.5])
def test_nms_equals_greedy_reference_over_several_blocks(threshold):
    boxes, scores = random_boxes(1500), torch.rand(1500)
    expected = reference_nms(boxes, scores, threshold)
    assert stand_ins.nms(boxes, scores, threshold).tolist() == expected
    # Whichever operators are active, the stand-ins or the compiled ones, this is what they return.
    from torchvision.ops import nms

    assert nms(boxes, scores, threshold).tolist() == expected


def test_nms_keeps_the_boxes_of_a_long_alternating_chain():
    # Each box suppresses only its right neighbour, so the answer depends on all better boxes.
    left = torch.arange(600.0)
    boxes = torch.stack([left, left * 0, left + 2, left * 0 + 1], dim=1)
    kept = stand_ins.nms(boxes, 1 - left / 1000, 0.3)
    assert kept.tolist() == list(range(0, 600, 2))


def test_nms_of_nothing_and_of_boxes_without_area():
    assert stand_ins.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []
    assert stand_ins.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).dtype == torch.int64
    points = torch.ones(3, 4)
    assert stand_ins.nms(points, torch.tensor([0.1, 0.3, 0.3]), 0.5).tolist() == [1, 2, 0]


def test_nms_keeps_equal_scores_in_input_order():
    boxes = torch.arange(2000.0)[:, None] * 10 + torch.tensor([0.0, 0.0, 5.0, 5.0])
    scores = (torch.arange(2000) % 2).float()
    order = torch.arange(2000)
    expected = torch.cat([order[1::2], order[::2]])
    assert torch.equal(stand_ins.nms(boxes, scores, 0.5), expected)


def test_nms_threshold_is_strict_and_compared_in_double_precision():
    # Intersection 6, union 10: float32(0.6) lies just above the double 0.6, just as in torchvision.
    boxes = torch.tensor([[0.0, 0.0, 8.0, 1.0], [2.0, 0.0, 10.0, 1.0]])
    scores = torch.tensor([1.0, 0.5])
    assert stand_ins.nms(boxes, scores, 0.6).tolist() == [0]
    assert stand_ins.nms(boxes.double(), scores.double(), 0.6).tolist() == [0, 1]


def test_nms_computes_half_precision_in_single():
    # In half precision the areas of these boxes overflow.
    boxes, scores = random_boxes(50, 200, 600).half(), torch.rand(50).half()
    expected = reference_nms(boxes.float(), scores.float(), 0.3)
    assert stand_ins.nms(boxes, scores, 0.3).tolist() == expected


def test_nms_rejects_wrong_shapes():
    with pytest.raises(RuntimeError, match=r"\(N, 4\)"):
        stand_ins.nms(torch.zeros(2, 5), torch.zeros(2), 0.5)
    with pytest.raises(RuntimeError, match=r"\(N,\)"):
        stand_ins.nms(torch.zeros(2, 4), torch.zeros(3), 0.5)


@pytest.mark.parametrize("count", [0, 60, 1200])
def test_batched_nms_keeps_classes_apart(count):
    from detectron2.layers import batched_nms

    boxes, scores = random_boxes(count), torch.rand(count)
    classes = torch.randint(3, (count,))
    expected = []
    for label in range(3):
        index = (classes == label).nonzero().squeeze(1)
        expected += index[reference_nms(boxes[index], scores[index], 0.4)].tolist()
    kept = batched_nms(boxes, scores, classes, 0.4)
    assert sorted(kept.tolist()) == sorted(expected)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)


ROIS = torch.tensor(
    [
        [0, 2.0, 3.0, 17.0, 25.0],
        [1, 0.0, 0.0, 40.0, 10.0],
        [1, 5.5, 7.0, 5.5, 7.0],
        [0, -20.0, -9.0, 12.0, 60.0],
        [1, 30.0, 31.0, 33.0, 32.5],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_roi_align_equals_reference(aligned, ratio, chunk):
    features = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    with mock.patch.object(stand_ins, "ROI_ALIGN_CHUNK", chunk):
        pooled = stand_ins.roi_align(features, ROIS, 0.25, 3, 2, ratio, aligned)
    expected = reference_roi_align(features, ROIS, 0.25, (3, 2), ratio, aligned)
    torch.testing.assert_close(pooled, expected)
    from torchvision.ops import roi_align

    single = roi_align(features.float(), ROIS.float(), (3, 2), 0.25, ratio, aligned)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=1e-5)


def test_roi_align_is_differentiable():
    features = torch.rand(2, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: stand_ins.roi_align(x, ROIS, 0.125, 2, 2, 0, True), features
    )
    empty = stand_ins.roi_align(features, ROIS[:0], 0.125, 2, 2, 0, True)
    assert empty.shape == (0, 1, 2, 2)


# When the stand-ins are active.

FAKE_PACKAGE = "import torchvision.extension as e; during = e._has_ops()"
PROBE = """
import json, torch
from detectron2_patches.torchvision_ops import import_torchvision
active = import_torchvision()
import torchvision
again = import_torchvision()
print(json.dumps({"active": active, "again": again, "during": torchvision.during,
    "after": torchvision.extension._has_ops(), "declared": hasattr(torch.ops.torchvision, "nms")}))
"""


@pytest.mark.parametrize("loads", [True, False])
def test_stand_ins_are_active_only_without_compiled_operators(tmp_path, repository, loads):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE_PACKAGE)
    (package / "extension.py").write_text(f"def _has_ops():\n    return {loads}\n")
    path = f"{tmp_path}:{repository / 'tools'}"
    result = subprocess.run(
        [sys.executable, "-c", PROBE], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "active": not loads,
        "again": not loads,
        "during": loads,
        "after": True,
        "declared": not loads,
    }


def test_installed_copy_agrees_with_whether_the_compiled_operators_load():
    installed = pytest.importorskip(
        "detectron2._torchvision_ops", reason="this Detectron2 was not installed by tools/"
    )
    import torchvision

    try:
        torch.ops.load_library(next(Path(torchvision.__file__).parent.glob("_C*.so")))
        loads = True
    except OSError:
        loads = False
    assert bool(installed._libraries) is not loads
    assert torchvision.extension._has_ops()


# The installer.


def test_installer_leaves_a_foreign_detectron2_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installer, "find_detectron2", lambda: tmp_path)
    monkeypatch.setattr(installer, "download", lambda folder: pytest.fail("downloaded"))
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py"])
    assert installer.main() == 0
    assert "left alone" in capsys.readouterr().out


def test_installer_refreshes_only_its_own_outdated_copy(tmp_path):
    assert installer.decide(None, "new") is installer.Action.INSTALL
    assert installer.decide(tmp_path, "new") is installer.Action.KEEP_FOREIGN
    (tmp_path / installer.MARKER).write_text("old\n")
    assert installer.decide(tmp_path, "new") is installer.Action.REFRESH
    assert installer.decide(tmp_path, "old") is installer.Action.KEEP


def test_installer_stops_at_a_wrong_checksum(tmp_path, monkeypatch, capsys):
    archive = tmp_path / "pb1-detectron2-0.6.tar.gz"
    archive.write_bytes(b"something else")
    monkeypatch.setattr(installer, "find_detectron2", lambda: None)
    monkeypatch.setattr(installer, "install", lambda root: pytest.fail("installed"))
    monkeypatch.setattr(sys, "argv", ["install_detectron2.py", "--archive", str(archive)])
    assert installer.main() == 1
    message = capsys.readouterr().err
    assert archive.name in message and installer.SHA256 in message


def test_installer_explains_a_failed_download(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(RuntimeError, match=r"pip download.*failed[\s\S]*--archive"):
        installer.download(tmp_path)


def test_patch_table_fails_where_the_sources_differ(tmp_path, monkeypatch):
    row = table.Patch("a.py", "np.int)", "int)", "why", count=2)
    monkeypatch.setattr(table, "PATCHES", (row,))
    with pytest.raises(RuntimeError, match=r"a\.py: expected 2 x .* found 0"):
        table.apply(tmp_path)
    (tmp_path / "a.py").write_text("f(np.int), g(np.int)")
    table.apply(tmp_path)
    assert (tmp_path / "a.py").read_text() == "f(int), g(int)"
    with pytest.raises(RuntimeError, match="found 0"):
        table.apply(tmp_path)


def test_prepared_sources_carry_patches_stand_ins_and_marker(tmp_path, monkeypatch):
    top = tmp_path / "pb1-detectron2-0.6"
    for name in ("setup.py", "setup.cfg", "detectron2/__init__.py", "detectron2/projects/x.py"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("old = 1\n")
    for project in installer.PROJECTS:
        (top / "projects" / project).mkdir(parents=True)
    archive = tmp_path / "sources.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(top, top.name)
    row = table.Patch("detectron2/__init__.py", "old", "new", "why")
    monkeypatch.setattr(table, "PATCHES", (row,))
    root = installer.prepare(archive, tmp_path / "out", "print")
    assert not (root / "setup.py").exists() and (root / "pyproject.toml").is_file()
    assert (root / "detectron2/__init__.py").read_text() == "new = 1\n"
    assert (root / "detectron2/_torchvision_ops.py").is_file()
    assert (root / "detectron2/projects/point_rend").is_dir()
    assert installer.decide(root / "detectron2", "print") is installer.Action.KEEP
