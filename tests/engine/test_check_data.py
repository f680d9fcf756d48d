"""The tool that checks data: what it prints, its page, and its exit status."""

import re
import shutil

import pytest
import yaml
from PIL import Image

import check_data
from multas.data.suggestions import Suggestion, as_yaml
from multas.engine.data_pictures import batch_blocks
from multas.util.document import Gallery
from multas.util.errors import UserError


@pytest.fixture
def check(tmp_path, monkeypatch, capsys, forget_registered):
    """``check(card, *arguments)``: exit status, text on the console, and page."""

    def run(card: dict, *arguments):
        file = tmp_path / f"{card['name']}.yaml"
        file.write_text(yaml.safe_dump(card, sort_keys=False))
        argv = ["check_data.py", file, "--output", tmp_path / "check.html", *arguments]
        monkeypatch.setattr("sys.argv", [*map(str, argv)])
        status = check_data.main()
        return status, capsys.readouterr().out, (tmp_path / "check.html").read_text()

    return run


@pytest.fixture
def two_splits(card, devkit):
    return {**card, "name": "two", "splits": {"val": "Main/val", "test": "Main/test"}}


def test_the_page_is_whole_and_the_text_is_short(check, two_splits, tiny_cfg, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg().dump())
    status, text, page = check(two_splits, "--config-file", config, "--opts", "SEED", 3)
    assert status == 0 and "No faults." in text and len(text.splitlines()) < 60
    assert "| two_val  | 4        |" in text
    assert re.search(r"SIZES: \[\[.*\]\]  # mean IoU 0\.\d\d", text)
    for name in ("Splits", "Classes", "Sizes", "Annotations of two_val", "What the network gets"):
        assert f">{name}</h2>" in page
    # All images of both splits, and the first batch.
    assert page.count('src="data:image/jpeg;base64,') == 4 + 4 + 4
    assert page.count("<svg") >= 2
    assert not re.search(r"(src|href)=.(?!data:|#)|<script|<link|@import", page)


def test_faults_are_listed_by_kind_and_give_status_1(check, two_splits, devkit, tmp_path):
    root = shutil.copytree(devkit, tmp_path / "kit")
    for file in sorted((root / "Annotations").iterdir()):
        file.write_text(file.read_text().replace("<xmin>", "<xmin>9"))
    lost = (root / "ImageSets" / "Main" / "test.txt").read_text().split()[0]
    (root / "JPEGImages" / f"{lost}.jpg").unlink()
    status, text, page = check({**two_splits, "root": str(root)})
    assert status == 1
    kinds = re.findall(r"^\| (box … \S+ \S+|no image of this id)", text, re.MULTILINE)
    assert sorted(set(kinds)) == ["box … has no", "no image of this id"]
    assert re.search(r"<h3>box … has no area \(\d+ places\)</h3>", page)
    assert f"{lost}: no image of this id" in page and str(root) not in page.split("<h3>", 1)[1]
    assert "Sizes" not in page, "nothing is left to measure"


def test_images_without_annotations_are_drawn(check, tmp_path):
    for number, name in enumerate(("über.png", "b c.png")):
        Image.new("RGB", (40, 30), (90 * number, 0, 0)).save(tmp_path / name)
    card = {"name": "bare", "format": "images", "root": str(tmp_path)}
    status, text, page = check(card, "--fast")
    assert status == 0 and "not annotated" in text and "über.png" in page
    assert "PIXEL_MEAN" in text and "ANCHOR_GENERATOR" not in text


def test_a_card_without_a_proper_split_still_gives_a_page(check, two_splits):
    splits = {"none": "Main/none", "other": {"ids": "Main/val", "images": "nowhere"}}
    status, _, page = check({**two_splits, "splits": splits})
    assert status == 1 and "no id list" in page and "no image folder" in page


def test_a_folder_is_looked_at(devkit, card_file):
    cards, notes = check_data.cards_of(str(devkit))
    assert [card["format"] for card in cards] == ["voc", "masks"] and notes
    assert check_data.cards_of(str(card_file)) == ([str(card_file)], [])


def test_what_cannot_be_trained_on_is_said_in_the_page(tiny_cfg, tmp_path):
    cfg = tiny_cfg("DATASETS.TRAIN", ["nowhere"])
    _, paragraph = batch_blocks(cfg, tmp_path)
    assert "Nothing" in paragraph.text and "nowhere" in paragraph.text


def test_a_batch_shows_masks_and_pseudo_boxes(joint_cfg, tmp_path):
    blocks = batch_blocks(joint_cfg("SOLVER.IMS_PER_BATCH", 2), tmp_path)
    gallery = blocks[-1]
    assert isinstance(gallery, Gallery) and len(gallery.pictures) == 2


def test_the_page_must_be_writable(check, two_splits, tmp_path):
    with pytest.raises(UserError, match="--output"):
        check(two_splits, "--output", tmp_path)


def test_settings_as_yaml_say_where_they_come_from():
    values = {"A.C.D": [[1.5]], "A.B": 2, "E": "BGR", "A.C.B": [0.1, 0.2]}
    text = as_yaml({key: Suggestion(value, f"of {key}") for key, value in values.items()})
    assert yaml.safe_load(text) == {"A": {"B": 2, "C": {"B": [0.1, 0.2], "D": [[1.5]]}}, "E": "BGR"}
    assert "    D: [[1.5]]  # of A.C.D" in text.splitlines()


@pytest.mark.slow
def test_a_browser_shows_the_page(check, two_splits, tiny_cfg, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs multas[browser]")
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    if not browser:
        pytest.skip("needs Chromium, which is not installed")
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg().dump())
    check(two_splits, "--config-file", config)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width, scheme in ((1200, "light"), (400, "dark")):
            page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            requests, errors = [], []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.on("console", lambda message, seen=errors: seen.append(message.text))
            page.on("pageerror", lambda error, seen=errors: seen.append(str(error)))
            page.goto((tmp_path / "check.html").as_uri())
            assert page.title().startswith("Data of")
            sizes = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
            assert len(sizes) == 12 and min(sizes) >= 300
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.get_by_text("What the network gets").is_visible()
            assert errors == []
            assert not [url for url in requests if not url.startswith(("file:", "data:"))]
        chromium.close()
