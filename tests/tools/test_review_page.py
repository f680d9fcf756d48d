"""The page of a review, clicked through in a browser, and what its decisions make of the labels."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pseudo_label
from multas.data.pseudo_label_files import Header, read_pseudo_labels, save_pseudo_labels
from multas.data.pseudo_mask_files import MaskHeader, writing_masks
from multas.data.review_page import write_review_page

pytestmark = pytest.mark.slow
CLASSES = ["cat", "dog", "<b>cow</b>"]
IDS = ["first", "second", "third & <i>last", "empty"]
# Image, class and score: the first image has the most doubtful box, then comes the third.
BOXES = [(0, 0, 0.3), (0, 1, 0.8), (1, 1, 0.6), (1, 0, 0.9), (2, 2, 0.4), (2, 0, 0.5)]
VERDICTS = [False, True, True, True, None, False]


@pytest.fixture
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs multas[browser]")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), "")
    if not browser:
        pytest.skip("needs Chromium, which is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def labels(tmp_path):
    """A file of pseudo-labels of images of noise, one of which is turned by its EXIF data."""
    records = []
    for number, image_id in enumerate(IDS):
        file = tmp_path / "images of ü" / f"{image_id}.jpg"
        file.parent.mkdir(exist_ok=True)
        size = (120, 60, 3) if number == 0 else (60, 120, 3)
        pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 0 else 1
        Image.fromarray(pixels).save(file, exif=exif)
        records.append({"image_id": image_id, "file_name": str(file)})
    boxes = [
        {"image_id": IDS[i], "category_id": k, "bbox": [10.0 + 20 * k, 10, 40, 30], "score": score}
        for i, k, score in BOXES
    ]
    header = Header("pets_unlabeled", CLASSES, IDS, 0.3, 0)
    path = tmp_path / "pseudo_labels.json"
    save_pseudo_labels(str(path), header, boxes)
    objects = [4, 3, 1]
    page = tmp_path / "review.html"
    write_review_page(page, str(path), header, boxes, records, verdicts=VERDICTS, objects=objects)
    write_review_page(tmp_path / "blind.html", str(path), header, boxes, records)
    kinds = MaskHeader("pets_unlabeled", ["background", "cat"], prob_thresh=0.9, ignore_label=255)
    with writing_masks(tmp_path / "masks", kinds, IDS[:1]) as write:
        logits = torch.zeros(2, 120, 60)
        logits[1, :60] = 9.0  # below, nothing is certain
        write(IDS[0], logits.transpose(1, 2))
    page, masks = tmp_path / "masked.html", str(tmp_path / "masks")
    write_review_page(page, str(path), header, boxes, records, masks=masks)
    return path


@pytest.fixture
def open_page(chromium, labels):
    """``open_page(name, scheme, width)``: a page, which must not ask the network or complain."""
    requests, errors = [], []

    def build(name="review.html", scheme="light", width=1200):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((labels.parent / name).as_uri())
        return page

    yield build
    assert errors == []
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


def shown(page):
    """The name of the current image, and class and score of its current box."""
    return page.locator("#name").inner_text(), page.locator("#what").inner_text()


def marks(page):
    return page.locator("#boxes .mark").all_inner_texts()


def numbers(page, row):
    return page.locator("#thresholds tbody tr").nth(row).locator("td").all_inner_texts()[2:]


def download(page):
    with page.expect_download() as waiting:
        page.locator("#download").click()
    assert waiting.value.suggested_filename == "decisions.json"
    return waiting.value.path()


def press(page, keys):
    for key in keys.split():
        page.keyboard.press(key)


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_looks_right_by_day_and_night_on_wide_and_narrow_screens(open_page, scheme, width):
    page = open_page(scheme=scheme, width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert shown(page) == ("first.jpg", "cat 0.30")
    assert page.locator("#stage rect").count() == 2
    assert page.locator("#stage rect.current").is_visible()
    assert page.locator(".thumb span").all_inner_texts() == [
        "first.jpg", f"{IDS[2]}.jpg", "second.jpg", "empty.jpg"
    ]  # fmt: skip
    # Markup in a name is text.
    assert page.locator("#class option").all_inner_texts() == ["all", *CLASSES]
    assert page.locator("b:text-is('cow')").count() == 0
    for control in ("#accept", "#reject", "#relabel", "#download"):
        page.locator(control).scroll_into_view_if_needed()
        assert page.locator(control).is_visible()


def test_the_image_itself_stands_for_its_small_copy_upright(open_page):
    page = open_page()
    image = page.locator("#stage image")
    page.wait_for_function(
        "!document.querySelector('#stage image').href.baseVal.startsWith('data')"
    )
    assert (image.get_attribute("width"), image.get_attribute("height")) == ("120", "60")
    size = page.evaluate(
        "new Promise(done => { const i = new Image(); i.onload = () => "
        "done([i.naturalWidth, i.naturalHeight]); "
        "i.src = document.querySelector('#stage image').href.baseVal; })"
    )
    assert size == [120, 60], "browsers turn it, too"


def test_a_review_by_keys_becomes_pseudo_labels(open_page, labels, monkeypatch, capsys):
    page = open_page()
    press(page, "r")  # box 0
    assert shown(page) == ("first.jpg", "dog 0.80")
    assert marks(page) == ["rejected", "undecided"]
    press(page, "a")  # box 1
    assert shown(page) == (f"{IDS[2]}.jpg", "<b>cow</b> 0.40")
    press(page, "2")  # box 4 becomes a dog
    assert "<b>cow</b> → dog" in page.locator("#boxes").inner_text()
    press(page, "r u")  # box 5 after all not
    assert marks(page) == ["relabelled", "undecided"]
    press(page, "ArrowDown")
    assert shown(page) == ("second.jpg", "dog 0.60")
    press(page, "c")
    assert marks(page) == ["accepted", "accepted"] or shown(page)[0] != "second.jpg"
    assert "3 of 6 boxes decided, 1 of 4 images complete" in page.locator("#progress").inner_text()
    page.reload()
    assert "3 of 6 boxes decided, 1 of 4 images complete" in page.locator("#progress").inner_text()
    decisions = download(page)
    assert json.loads(decisions.read_text())["boxes"] == [
        {"box": 0, "decision": "reject"},
        {"box": 1, "decision": "accept"},
        {"box": 4, "decision": "relabel", "category_id": 1},
    ]
    for way, count in (("keep", 5), ("drop", 4)):
        output = labels.with_name(f"{way}.json")
        monkeypatch.setattr(sys, "argv", [
            "pseudo_label.py", "--input", str(labels), "--apply-review", str(decisions),
            "--output", str(output), "--unreviewed", way,
        ])  # fmt: skip
        pseudo_label.main()
        header, kept = read_pseudo_labels(str(output))
        assert len(kept) == count
        assert [(b["category_id"], b["score"]) for b in kept[:4]] == [
            (1, 1),
            (1, 1),
            (0, 1),
            (1, 1),
        ]
        assert header.image_ids == (IDS if way == "keep" else IDS[:3])
    assert "accepted with their image  2" in capsys.readouterr().out


def test_the_same_by_mouse(open_page):
    page = open_page(width=400)
    page.locator("#boxes .box").nth(1).click()
    assert shown(page) == ("first.jpg", "dog 0.80")
    page.locator("#accept").click()
    page.locator(".thumb").nth(2).click()
    assert shown(page)[0] == "second.jpg"
    page.locator("#relabel").select_option("<b>cow</b>")
    page.locator("#reject").click()
    page.locator("#undo").click()
    page.locator("#next").click()
    assert "found nothing" in page.locator("#boxes").inner_text()
    page.locator("#complete").click()
    assert page.locator(".thumb span").all_inner_texts()[3] == "✓ empty.jpg"
    # The smaller of two boxes that cover each other can be had on the image.
    page.locator(".thumb").nth(1).click()
    page.locator("#stage rect").last.click()
    content = json.loads(download(page).read_text())
    assert content["boxes"] == [
        {"box": 1, "decision": "accept"}, {"box": 2, "decision": "relabel", "category_id": 2}
    ]  # fmt: skip
    assert content["complete"] == [3]


def test_masks_are_shown_and_hidden(open_page):
    page = open_page("masked.html")
    mask = page.locator("#stage image.mask")
    assert mask.get_attribute("href").startswith("data:image/png")
    assert (mask.get_attribute("width"), mask.get_attribute("height")) == ("120", "60")
    assert page.locator("#legend > span").all_inner_texts() == ["cat", "not certain"]
    assert page.locator(".thumb image.mask").count() == 1
    page.locator("#stage rect").last.click()  # the mask does not take the clicks
    press(page, "m")
    assert mask.count() == 0 and page.locator("#legend > span").count() == 0
    assert page.locator(".thumb image.mask").count() == 0
    page.locator("#masks").click()
    assert mask.count() == 1
    press(page, "ArrowDown")
    assert page.locator("#stage image.mask, #legend > span").count() == 0, "it has no mask"
    assert open_page().locator("#masks").is_hidden()


def test_filters_and_thresholds(open_page):
    page = open_page()
    assert numbers(page, 0) == ["6", "0.60", "0.38"]
    assert numbers(page, 1) == ["3", "0.33", "0.25"]
    slider = page.get_by_label("Threshold of cat")
    slider.fill("0.55")
    assert numbers(page, 1) == ["1", "1.00", "0.25"]
    assert "CLASS_SCORE_THRESH: [0.55, 0.3, 0.3]" in page.locator("#yaml").inner_text()
    page.locator("#class").select_option("cat")
    names = page.locator(".thumb span").all_inner_texts()
    assert names == [f"{IDS[2]}.jpg", "first.jpg", "second.jpg"], "nearest to the threshold first"
    page.locator("#state").select_option("below")
    assert "of 2" in page.locator("#place").inner_text()
    page.locator("#state").select_option("undecided")
    assert shown(page) == ("second.jpg", "cat 0.90")
    page.locator("#high").fill("0.85")
    page.keyboard.press("Tab")
    assert page.locator("#name").inner_text() == "Nothing passes the filter."
    assert page.locator("#accept").is_disabled()
    content = json.loads(download(page).read_text())
    assert (content["thresholds"], content["boxes"]) == ({"cat": 0.55}, [])
    page.get_by_label("Threshold of all").fill("0.5")
    assert "[0.5, 0.5, 0.5]" in page.locator("#yaml").inner_text()


def test_without_ground_truth_decisions_are_the_estimate(open_page):
    page = open_page("blind.html")
    assert numbers(page, 0) == ["6", "–", "0"]
    press(page, "a r r 2")
    assert numbers(page, 0) == ["6", "0.25", "4"]
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#forget").click()
    assert numbers(page, 0) == ["6", "–", "0"]
    assert shown(page)[0] == "first.jpg"
