"""Drawing the predictions of a trained model."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

import visualize
from multas.util.errors import UserError


@pytest.fixture
def draw(tiny_cfg, tmp_path, monkeypatch):
    """``draw(input, ...)``: folder of the pictures."""
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0
    )
    config, weights = tmp_path / "config.yaml", tmp_path / "weights.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, weights)

    def run(*inputs):
        output = tmp_path / "pictures"
        arguments = ["--config-file", config, "--weights", weights, "--output", output]
        arguments += ["--score-thresh", "0.0", "--scale", "2.0", *inputs]
        monkeypatch.setattr("sys.argv", ["visualize.py", *map(str, arguments)])
        visualize.main()
        return output

    return run


def test_every_image_is_drawn_once(draw, devkit, tmp_path):
    images = sorted((devkit / "JPEGImages").iterdir())[:2]
    folder = tmp_path / "some"
    folder.mkdir()
    Image.open(images[0]).save(folder / "other.png")
    output = draw(images[0], images[1], images[0], folder)
    names = {f"{images[0].stem}.png", f"{images[1].stem}.png", "other.png"}
    assert {p.name for p in output.iterdir()} == names
    picture, image = (np.asarray(Image.open(p)) for p in (output / "other.png", images[0]))
    assert picture.shape[:2] == (2 * image.shape[0], 2 * image.shape[1])
    enlarged = np.asarray(Image.open(images[0]).resize(picture.shape[1::-1]))
    assert (np.abs(picture[..., :3] - enlarged.astype(float)) > 64).any(), "boxes are drawn"


def test_two_pictures_of_one_name_are_refused(draw, devkit, tmp_path):
    image = min((devkit / "JPEGImages").iterdir())
    Image.open(image).save(tmp_path / f"{image.stem}.png")
    with pytest.raises(UserError, match="have one name"):
        draw(image, tmp_path / f"{image.stem}.png")


@pytest.mark.parametrize("what", ["empty", "missing"])
def test_nothing_to_draw_is_said(draw, tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image in|no such image or folder"):
        draw(tmp_path / what)
