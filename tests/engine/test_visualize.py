"""Drawing the predictions of a trained model."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

import visualize
from multas.data.class_colours import legend
from multas.data.drawing import Visualizer, draw_results
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


@pytest.fixture
def two_cards(forget_registered):
    """A data set with boxes, whose format could have masks, and one with masks."""
    both = {"thing_classes": ["Pedestrian", "Car"], "stuff_classes": ["Pedestrian", "Car"]}
    MetadataCatalog.get("boxes").set(annotates=("det",), **both)
    ground = {"stuff_classes": ["road", "sky"], "stuff_colors": [[9, 9, 9], [0, 0, 255]]}
    MetadataCatalog.get("ground").set(annotates=("seg",), **ground)
    MetadataCatalog.get("kinds").set(annotates=("cls",), label_classes=["day", "night"])
    return ["boxes", "ground", "kinds"]


def test_each_kind_of_result_has_the_names_of_the_data_set_that_is_annotated_with_it(two_cards):
    for names in (two_cards, two_cards[::-1]):
        found = legend(names)
        assert found.thing_classes == ["Pedestrian", "Car"]
        assert found.stuff_classes == ["road", "sky"]
        assert found.stuff_colors == [[9, 9, 9], [0, 0, 255]]
        assert found.label_classes == ["day", "night"]
    assert legend(["boxes"]).get("stuff_classes") is None


def test_classes_that_only_the_data_name_are_found_there(two_cards, caplog):
    def load():
        MetadataCatalog.get("late").set(label_classes=["cat", "dog"])
        return []

    DatasetCatalog.register("late", load)
    MetadataCatalog.get("late").set(annotates=("cls",))
    assert legend(["late"]).label_classes == ["cat", "dog"]

    def fail():
        raise UserError("late.json is damaged")

    DatasetCatalog.register("lost", fail)
    MetadataCatalog.get("lost").set(annotates=("cls",))
    with caplog.at_level("WARNING", "multas"):
        assert legend(["lost"]).get("label_classes") is None
    assert "drawn as numbers" in caplog.text and "late.json is damaged" in caplog.text


def test_masks_and_classes_are_written_on_the_picture(two_cards, monkeypatch):
    written = []
    draw_text = Visualizer.draw_text

    def record(self, text, *args, **kwargs):
        written.append(text)
        return draw_text(self, text, *args, **kwargs)

    monkeypatch.setattr(Visualizer, "draw_text", record)
    sky = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    results = {"sem_seg": sky, "scores": torch.tensor([0.2, 0.8])}
    image = np.full((64, 64, 3), 200, np.uint8)
    drawn = draw_results(image, results, legend(two_cards), 1.0, 0.5).get_image()
    assert written == ["sky", "night 80%"]
    assert drawn[40, 40, 2] > drawn[40, 40, 0] + 50, "in the colour of the data set"
    written.clear()
    draw_results(image, results, legend([]), 1.0, 0.5)
    assert written == ["1", "1 80%"], "numbers where there are no names"


def test_weights_that_do_not_fit_draw_nothing(draw, devkit, tmp_path):
    torch.save({"model": {"backbone.nothing": torch.zeros(1)}}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth"):
        draw(min((devkit / "JPEGImages").iterdir()))
    assert not (tmp_path / "pictures").exists()
