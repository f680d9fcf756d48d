"""tools/predict.py: pictures, videos and tables of what an exported network finds."""

import csv
import json

import cv2
import numpy as np
import pytest

import predict
from deploy.conftest import CLASSES, picture
from multas.deploy import Detector
from multas.util.errors import UserError


@pytest.fixture
def ask(monkeypatch, capsys, tmp_path):
    """``ask(pair, output, inputs, options)``: what the tool prints."""

    def run(pair, output, *inputs, options=()):
        arguments = ["--model", pair.file, "--output", output, *options, *inputs]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, arguments)])
        predict.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def images(tmp_path):
    """A folder of two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, size in enumerate([(50, 70), (90, 61)]):
        cv2.imwrite(str(folder / f"{i}.png"), picture(*size, i))
    return folder


@pytest.fixture
def video(tmp_path):
    """Three frames of 64 x 48 pixels, 10 a second."""
    file = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for i in range(3):
        writer.write(picture(48, 64, i))
    writer.release()
    return file


def test_pictures(two_tasks, classifier, ask, images, tmp_path):
    said = ask(two_tasks, "found", images, options=["--score-thresh", "0.2"])
    assert "2 images in" in said and "images/s" in said
    for i, shape in enumerate([(50, 70, 3), (90, 61, 3)]):
        drawn = cv2.imread(str(tmp_path / "found" / f"{i}.png"))
        assert drawn.shape == shape and (drawn != picture(*shape[:2], i)).any()
    ask(classifier, "kinds", images / "0.png")
    assert (cv2.imread(str(tmp_path / "kinds" / "0.png")) != picture(50, 70)).any()


def test_tables(two_tasks, classifier, ask, images, tmp_path):
    wanted = Detector(two_tasks.file, score_thresh=0.2)(picture(50, 70))
    assert len(wanted.boxes) > 3
    ask(two_tasks, "new/found.csv", images, options=["--score-thresh", "0.2"])
    lines = list(csv.DictReader((tmp_path / "new" / "found.csv").open()))
    own = [line for line in lines if line["image"] == "0.png"]
    assert [line["class"] for line in own] == wanted.names
    assert [float(own[0][key]) for key in ("x0", "y0", "x1", "y1")] == pytest.approx(
        wanted.boxes[0], abs=0.06
    )
    ask(two_tasks, "found.json", images, options=["--score-thresh", "0.2"])
    entries = [
        x for x in json.loads((tmp_path / "found.json").read_text()) if x["image_id"] == "0.png"
    ]
    boxes = [entry for entry in entries if "bbox" in entry]
    x0, y0, x1, y1 = wanted.boxes[0]
    assert boxes[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
    masks = {entry["category_id"] for entry in entries if "segmentation" in entry}
    assert masks == set(np.unique(wanted.masks).tolist())
    ask(classifier, "kinds.csv", images)
    lines = list(csv.DictReader((tmp_path / "kinds.csv").open()))
    assert len(lines) == 2 and lines[0]["class"] in CLASSES["probabilities"]


def test_a_video(two_tasks, ask, video, tmp_path):
    assert "3 images in" in ask(two_tasks, "found.avi", video)
    drawn = cv2.VideoCapture(str(tmp_path / "found.avi"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and drawn.get(cv2.CAP_PROP_FPS) == 10
    ask(two_tasks, "found", video, options=["--frames", "2"])
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["000000.png", "000001.png"]
    ask(two_tasks, "found.json", video)
    assert {x["image_id"] for x in json.loads((tmp_path / "found.json").read_text())} == {0, 1, 2}


def test_a_camera_runs_until_it_is_stopped(two_tasks, ask, monkeypatch, tmp_path):
    class Camera:
        frames = 0

        def __init__(self, number):
            assert number == 0

        def isOpened(self):
            return True

        def get(self, what):
            return 0.0

        def read(self):
            self.frames += 1
            if self.frames > 2:
                raise KeyboardInterrupt
            return True, picture(48, 64)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert "2 images in" in ask(two_tasks, "found.csv", "0")
    assert (tmp_path / "found.csv").is_file()


BAD = {
    "no image": ("found", ["nothing"], "nothing: no such image or folder"),
    "no video": ("found.avi", ["nothing.avi"], "nothing.avi: no such video"),
    "torn video": ("found.avi", ["torn.avi"], "torn.avi is no readable video"),
    "no camera": ("found.avi", ["77"], "There is no camera 77"),
    "a video and more": (
        "found.avi",
        ["torn.avi", "images"],
        "a video or camera; give it alone",
    ),
    "images as a video": ("found.mp4", ["images"], "name a folder, or a file .json or .csv"),
    "another kind": ("found.xlsx", ["images"], "'.xlsx' is no kind of results"),
    "over the images": ("images", ["images"], "would be overwritten"),
    "below a file": ("torn.avi/found", ["images"], "--output 'torn.avi/found/picture.png' cannot"),
    "a score": ("found", ["images", "--score-thresh", "2"], "--score-thresh is 2.0; it must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told_before_anything_is_written(case, two_tasks, ask, images, tmp_path):
    (tmp_path / "torn.avi").write_text("no video")
    output, inputs, message = BAD[case]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        ask(two_tasks, output, *inputs)
    assert message in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before
