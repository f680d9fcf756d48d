"""The page that compares runs, from made-up runs: what it says, and that a browser shows it."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import report
from multas.data import make_toy
from multas.data.class_names import with_class_names
from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.engine import load_config
from multas.engine.comparison import judging, pseudo_labels, write_report
from multas.engine.comparison.data import load_data
from multas.engine.comparison.pictures import true_boxes
from multas.engine.comparison.plots import plot_curves, plot_matrix
from multas.engine.comparison.predictions import Predictions, as_png
from multas.engine.comparison.runs import read_runs
from multas.engine.export_table import Row, read_rows, write_rows
from multas.util.document import Code, Gallery, Heading, Legend, Picture, to_html, to_markdown
from multas.util.errors import UserError
from training import two_tasks

# How much of the truth a run sees; the others are wrong.
SKILL = {"supervised": 0.6, "distilled": 0.9}


@pytest.fixture(scope="module")
def card(repository, tmp_path_factory) -> Path:
    """The card of a small embedded set; its folder has a space and letters of other languages."""
    folder = tmp_path_factory.mktemp("Straße 1")
    content = yaml.safe_load((repository / "datasets" / "cards" / "toy.yaml").read_text())
    root = make_toy(folder / "toy", train=8, val=4, test=8)
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump({**content, "root": str(root)}))
    return file


@pytest.fixture
def make_run(card, tmp_path, repository):
    """``make_run(name, KEY, VALUE, ..., metrics=[], finished=True)``: a folder as a training leaves
    it, with made-up numbers and weights."""

    def make(name, *opts, metrics=(), finished=True, tasks=("det",)) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        base = ["DATASETS.CARDS", [str(card)], "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 60]
        cfg = load_config(str(repository / "configs/quickstart/base.yaml"), [*base, *opts])
        if len(tasks) > 1:
            two_tasks(cfg)
        (folder / "config.yaml").write_text(with_class_names(cfg).dump())
        if metrics:
            (folder / "metrics.json").write_text("".join(f"{json.dumps(m)}\n" for m in metrics))
        if finished:
            torch.save({"model": {}}, folder / "student.pth")
        return folder

    return make


@pytest.fixture
def skilled(monkeypatch):
    """Runs see the truth as well as SKILL says, in place of their networks."""

    def predict(run, dataset, records):
        data, skill = load_data(dataset), SKILL[run.name]
        classes = len(data.metadata.thing_classes)
        rng = np.random.default_rng(round(100 * skill))
        rows, masks = [], []
        for number, record in enumerate(records):
            for a, box in zip(
                record.get("annotations", ()),
                true_boxes(record.get("annotations", ()), data.metadata.thing_classes),
                strict=True,
            ):
                right = rng.random() < skill
                category = a["category_id"] if right else (a["category_id"] + 1) % classes
                rows.append((number, category, rng.uniform(0.3, 1), *box.corners))
            mask = data.true_mask(number)
            if mask is not None:
                wrong = rng.random(mask.shape) > skill
                seen = np.where(wrong | (mask > classes), 0, mask)
                masks.append(as_png(seen))
        table = np.array(rows).reshape(-1, 7)
        tasks = ("instances", *(["sem_seg"] if masks else []))
        return Predictions(
            tasks, 250_000, table[:, 0].astype(np.int64), table[:, 1].astype(np.int64),
            table[:, 2].astype(np.float32), table[:, 3:].astype(np.float32), tuple(masks),
            np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32),
        )  # fmt: skip

    for module in (judging, pseudo_labels):
        monkeypatch.setattr(module, "predictions_of", predict)


def history(*, distilled=False, **final) -> list[dict]:
    """Metrics of 60 iterations."""
    records = []
    for step in range(3):
        record = {"iteration": 20 * step + 19, "time": 0.5, "loss_cls": 1.0 / (step + 1)}
        record |= {"loss_box_reg": 0.5, "total_loss": 1.5}
        if distilled:
            record |= {"loss_kd_a": 0.3, "loss_kd_z": 9.0, "path_loss/a": 0.2, "path_weight/a": 2.0}
        records.append(record)
    if final:
        records.append({"iteration": 60, **{k.replace("__", "/"): v for k, v in final.items()}})
    return records


def text_of(page: Path) -> str:
    """What a reader reads."""
    bare = re.sub(r"<style.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.S)
    return unescape(re.sub(r"\s+", " ", bare))


@pytest.fixture
def two_runs(make_run, tmp_path, skilled):
    """A supervised and a distilled run, with pseudo-labels and exported networks."""
    pseudo = tmp_path / "pseudo.json"
    train = ["DATASETS.TRAIN", ["toy_half"]]
    supervised = make_run("supervised", *train, metrics=history(bbox__AP=1.0))
    both = ["DATASETS.TRAIN", ["toy_half", "toy_half2_unlabeled"]]
    files = ["DATASETS.PSEUDO_LABELS.FILES", [str(pseudo)]]
    distilled = make_run("distilled", *both, *files, metrics=history(distilled=True))
    truth = load_data("toy_half2")
    boxes = [
        {"image_id": r["image_id"], "category_id": a["category_id"], "score": 0.9,
         "bbox": [a["bbox"][0], a["bbox"][1], 30.0, 30.0]}
        for r in truth.records for a in r["annotations"]
    ]  # fmt: skip
    ids = [r["image_id"] for r in truth.records]
    classes = truth.metadata.thing_classes
    header = Header("toy_half2_unlabeled", classes, ids, 0.5, 0, teacher_weights="teacher.pth")
    save_pseudo_labels(str(pseudo), header, boxes)
    rows = [Row("PyTorch fp32", 10**6, [3.0, 4.0], {"bbox": 30.0})]
    rows += [Row("onnx", 10**6, [1.0, 2.0], {"bbox": 29.5}, "student.onnx")]
    write_rows(distilled, "student", rows)
    return supervised, distilled


def test_two_detectors_are_compared(two_runs, tmp_path, monkeypatch, capsys):
    html = tmp_path / "new" / "report.html"
    monkeypatch.setattr("sys.argv", ["report.py", *map(str, two_runs), "--output", str(html)])
    report.main()
    assert capsys.readouterr().out == f"Wrote {html}\n"
    text = text_of(html)
    assert text.count("distilled compared with supervised") == 2  # title and heading
    (ap, gain) = re.search(
        r"distilled has AP ([\d.]+) on toy_test, ([\d.]+) more than", text
    ).groups()
    assert float(ap) > float(gain) > 1
    assert f"distilled {ap} (+{gain})" in text
    assert "supervised noted AP 1.00 on toy_test at its end, here it is" in text
    assert "Chosen on toy_val and judged on toy_test." in text
    assert "No figure is followed" in text and "distillation, weighted" in text
    assert "distilled is better than supervised on" in text and re.search(
        r"\d wrong, \d missed", text
    )
    assert "learned from" in text and "Their annotations are known" in text
    assert "29.50 -0.50" in text and "tools/predict.py --model" in text
    headings = re.findall(r"<h[23]>([^<]+)", html.read_text())
    for heading in ("Precision and recall", "Best score thresholds", "What is taken for what"):
        assert heading in headings
    assert {"Training", "Paths of distilled", "What it cost", "To run distilled"} <= {*headings}
    page = html.read_text()
    addresses = set(re.findall(r"https?://[^\s\"<)]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), "names alone"
    assert not re.search(r"<script|<link |@import", page)
    assert page.count("<svg ") == page.count("</svg>") > 10
    ids = re.findall(r'<(?:clipPath|path) id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "parts of one plot would be taken for those of another"


def test_what_is_missing_is_said_in_a_sentence_each(make_run, tmp_path, skilled):
    train = ["DATASETS.TRAIN", ["toy_half", "toy_val"]]
    runs = [
        make_run("distilled", *train, "DATASETS.TEST", ["toy_both_test"], tasks=("det", "seg")),
        make_run("broken", *train, metrics=history()[:1], finished=False),
    ]
    pseudo = ["DATASETS.PSEUDO_LABELS.FILES", ["nowhere.json"]]
    runs.append(make_run("early", *train, *pseudo, finished=False))
    text = text_of(write_report(runs[::-1], tmp_path / "r.html", baseline=runs[0]))
    assert text.count("2 runs compared with distilled") == 2
    assert "distilled has no metrics.json, so that its curves are not known." in text
    assert "broken was interrupted after 20 of 60 iterations and has no student.pth" in text
    assert f"train_net.py --resume --config-file {runs[1]}/config.yaml ends it." in text
    assert "early was interrupted early and has no student.pth" in text
    assert "Pseudo-labels are not shown: DATASETS.PSEUDO_LABELS.FILES names 'nowhere.json'" in text
    # Two tasks at once, on a data set whose sibling is trained on.
    assert "Detection on toy_both_test in detail" in text
    assert "Segmentation on toy_both_test in detail IoU of each class" in text
    assert "Chosen on toy_both_test itself, since the config has no validation set" in text
    assert "broken – – –" in text and "Where distilled is worst" in text


def test_figures_that_were_noted_stand_in_for_data_that_are_gone(make_run, tmp_path):
    figures = {"toy_old/bbox/AP": 31.5, "toy_old/bbox/AP50": 50.25, "toy_old/sem_seg/mIoU": 70.0}
    records = [*history(), {"iteration": 60, **figures}]
    tests = ["DATASETS.TEST", ["toy_old", "toy_older"]]
    better = [*history(), {"iteration": 60, **figures, "toy_old/bbox/AP": 32.5}]
    runs = [make_run("a", *tests, metrics=records), make_run("b", *tests, metrics=better)]
    text = text_of(write_report(runs, tmp_path / "r.html"))
    assert "Nothing is judged on toy_old: toy_old is not registered: is its card" in text
    assert "a 31.50 50.25 – b 32.50 (+1.00) 50.25 (+0.00) –" in text
    assert "These are the figures that the runs noted at their end." in text
    assert "Segmentation on toy_old, in percent" in text and "To run b" in text
    chosen = write_report(runs, tmp_path / "r.html", chosen=runs[0], why="The smaller one is used.")
    text = text_of(chosen)
    assert "To run a" in text and "To run b" not in text
    assert text.index("The smaller one is used.") < text.index("31.50")
    with pytest.raises(UserError, match=r"The choice nowhere is none of the runs that are compar"):
        write_report(runs, tmp_path / "r.html", chosen="nowhere")


def test_runs_that_do_not_fit_the_data_are_left_out(make_run, tmp_path, skilled, monkeypatch):
    def refuse(run, dataset, records):
        raise UserError("MODEL.DENSE_HEAD.NUM_CLASSES is 3.")

    monkeypatch.setattr(judging, "predictions_of", refuse)
    runs = [make_run("supervised", "DATASETS.TRAIN", ["toy_half"])]
    text = text_of(
        write_report(runs, tmp_path / "r.html", datasets=["toy_test", "toy_val_unlabeled"])
    )
    assert "The run supervised" in text
    assert "supervised is not judged on toy_test: MODEL.DENSE_HEAD.NUM_CLASSES is 3." in text
    assert "toy_val_unlabeled is not annotated, so that nothing is judged there." in text
    with pytest.raises(UserError, match="The baseline other is none of the runs"):
        write_report(runs, tmp_path / "r.html", baseline="other")


def test_pseudo_labels_of_unknown_truth_are_compared_with_the_student(
    two_runs, tmp_path, skilled, monkeypatch
):
    monkeypatch.setattr(pseudo_labels, "_known_truth", lambda *_: None)
    runs = pseudo_labels.pseudo_label_blocks(read_runs(two_runs), tmp_path)
    text = to_markdown(runs, tmp_path)
    assert "The truth is not known. distilled and the pseudo-labels disagree most here" in text
    assert "pseudo-labels alone (dashed)" in text and re.search(
        r"distilled: \d right, \d wrong", text
    )


def test_exports_into_one_folder_stay_apart(tmp_path):
    rows = {name: [Row(name, 5, [1.0], {"bbox": 2.0}, f"{name}.onnx")] for name in "ab"}
    for name, own in rows.items():
        write_rows(tmp_path, name, [*own, *own])
        write_rows(tmp_path, name, own)
    assert read_rows(tmp_path) == rows
    assert read_rows(tmp_path / "nowhere") == {}
    (tmp_path / "export.json").write_text('{"a": [{"nam')
    with pytest.raises(UserError, match=r"export\.json is not JSON"):
        read_rows(tmp_path)
    (tmp_path / "export.json").write_text('{"a": [{"nam": 1}]}')
    with pytest.raises(UserError, match=r"is not what tools/export\.py writes"):
        read_rows(tmp_path)
    write_rows(tmp_path, "a", rows["a"])


def test_plots_take_odd_names_and_numbers(tmp_path):
    names = ["$x_1$", "<b>&amp;", "Straße", "一二三", *"x" * 16, "a" * 50]
    shares = np.full((21, 21), np.nan)
    shares[0, 1], shares[2, 2] = 0.004, 1.0
    file = plot_matrix(tmp_path / "m.svg", "$", ("a", "b"), shares, (names, names), "#336699")
    page = to_html([Picture(file, 'a "matrix"', whole=True)], tmp_path)
    assert "$x_1$" in page and "&lt;b&gt;&amp;amp;" in page and "一二三" in page
    assert f"{'a' * 17}…" in page and 'aria-label="a &quot;matrix&quot;"' in page
    x = np.arange(5000.0)
    curves = {0: (x, np.where(x > 10, np.nan, -x)), 9: (x[:1], x[:1]), 17: (x[:0], x[:0])}
    for log in (False, True):
        file = plot_curves(tmp_path / "c.svg", "", ("", ""), curves, log=log)
        assert file.stat().st_size < 40_000


def test_new_blocks_are_the_same_in_both_forms(tmp_path):
    Path(tmp_path / "p.png").write_bytes(b"1")
    picture = Picture(tmp_path / "p.png", "seen", "below & beside")
    blocks = [Heading("t"), Gallery([picture], 100), Legend([("<a>", "#123456")]), Code("a < b")]
    page, text = to_html(blocks, tmp_path), to_markdown(blocks, tmp_path)
    assert "<figcaption>below &amp; beside</figcaption>" in page and "&lt;a&gt;" in page
    assert "<pre><code>a &lt; b</code></pre>" in page
    assert "![seen](p.png) below & beside" in text and "```\na < b\n```" in text


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(two_runs, tmp_path, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs multas[browser]")
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    if not browser:
        pytest.skip("needs Chromium, which is not installed")
    html = write_report(two_runs, tmp_path / "report.html")
    names = [f"a long name {i}" for i in range(21)]
    matrix = plot_matrix(tmp_path / "m.svg", "t", ("a", "b"), np.eye(21), (names, names), "#336699")
    (tmp_path / "m.html").write_text(
        to_html([Picture(matrix, "many classes", whole=True)], tmp_path)
    )
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (1200, 400):
            check_shown(chromium, html, width, scheme)
        page = chromium.new_page()
        page.goto((tmp_path / "m.html").as_uri())
        check_letters(page)
        chromium.close()


def check_shown(chromium, html: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    page = chromium.new_page(viewport=size, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(html.as_uri())
    loaded = "images => images.map(i => i.complete && i.naturalWidth > 100)"
    images = page.eval_on_selector_all("img", loaded)
    assert len(images) > 20 and all(images)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # Plots fit the page, and their letters have its colour and are large enough to be read.
    inside = "plots => plots.every(p => p.getBoundingClientRect().right <= innerWidth)"
    assert page.eval_on_selector_all(".gallery svg", inside)
    text = page.locator(".gallery svg text").first
    assert text.bounding_box()["height"] > 8
    ground, ink = (page.evaluate(f"getComputedStyle(document.body).{c}")
                   for c in ("backgroundColor", "color"))  # fmt: skip
    assert text.evaluate("e => getComputedStyle(e).fill") == ink != ground
    check_letters(page)
    assert errors == []
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]


def check_letters(page) -> None:
    """No letters of a plot lie on others."""
    corners = "(b => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect())"
    for plot in page.locator("svg").all():
        boxes = plot.locator("text").evaluate_all(f"all => all.map(e => {corners})")
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if overlap(a, b)]


def overlap(a, b) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than a pixel each way."""
    return min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
