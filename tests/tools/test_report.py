"""Reports, from made-up numbers: what they say, and that the page is whole in itself."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from multas.util.document import Grid, Heading, Link, Paragraph, to_html, to_markdown
from reproduction.execution import State, states_of
from reproduction.report import Setting, write_report
from reproduction.results import read_result
from reproduction.rows import rows_of
from reproduction.runs import Planner, in_order
from reproduction.tables import read_tables


@pytest.fixture
def written(tmp_path, fabricate):
    """``written(table, numbers, failed=(), seeds=1)``: the folder of a report.

    `numbers` has TEST FIXTURE metrics of rows by their file names, one dict for each seed.
    """

    def write(table: str, numbers, failed=(), seeds=1, **setting) -> Path:
        plan = Planner(tmp_path / "runs")
        rows = rows_of(read_tables()[table], "tiny")
        pairs = [(row, [plan.plan(row.address, s) for s in range(1, seeds + 1)]) for row in rows]
        for row, runs in pairs:
            key = "/".join(Path(row.address).with_suffix("").parts[-2:])
            for run, metrics in zip(
                runs, numbers.get(key, numbers.get(row.name, [])), strict=False
            ):
                fabricate(run, **metrics)
        states = states_of(in_order(run for _, runs in pairs for run in runs))
        for row, runs in pairs:
            if row.name in failed:
                states |= {run.digest: State.FAILED for run in runs}
                for run in runs:
                    run.folder.mkdir(parents=True, exist_ok=True)
                    run.console.write_text("TEST FIXTURE: out of luck\n")
        results = [read_result(row, runs, states) for row, runs in pairs]
        folder = tmp_path / f"{table}-test"
        write_report(
            read_tables()[table], results, states, Setting("tiny", seeds, **setting), folder
        )
        return folder

    return write


def lines_of(text: str, heading: str) -> dict[str, list[str]]:
    """Cells of the table below a heading, by the first one."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [
        re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] for line in section.splitlines() if "|" in line
    ]
    return {row[0]: row[1:] for row in rows}


AP = [{"bbox__AP": 20.0, "bbox__AP50": 30.0, "bbox__AP75": 15.0}]


def ap(*values: float) -> list[dict]:
    return [{"bbox__AP": value, "bbox__AP50": value + 10} for value in values]


def test_papers_numbers_and_ours_stand_side_by_side(written):
    numbers = {"teacher": ap(28, 29), "supervised": ap(20, 22), "supervised_mse": ap(20.5, 20.5)}
    folder = written("A1", numbers, seeds=2)
    text = (folder / "report.md").read_text()
    rows = lines_of(text, "embedded set, half: mAP ↑")
    assert rows["row"] == ["paper", "ours", "paper − supervised", "ours − supervised", "same sign"]
    assert rows["teacher, half"] == ["58.24", "28.50 ± 0.71", "+7.16", "+7.50", "yes"]
    assert rows["supervised, half"] == ["51.08", "21.00 ± 1.41", "–", "–", "–"]
    assert rows["supervised + MSE, half"] == ["53.40", "20.50 ± 0.00", "+2.32", "-0.50", "no"]
    assert rows["supervised + PDF, half"] == ["54.18", "not run", "+3.10", "–", "–"]
    summary = lines_of(text, "Does the paper's order hold?")["embedded set, half"]
    # AP75 was not measured, so the last line of this column compares nothing.
    assert summary == ["AP75 ↑", "0 of 8", "–", "–", "–", "–"]
    assert "| mAP ↑    | 2 of 8" in text and "0 of 1" in text
    assert "numbers are of Pascal VOC" in text
    assert "Not complete: of 18 trainings of rows, 12 not run." in text


def test_what_failed_is_shown_with_its_log(written):
    folder = written("A1", {"teacher": AP, "supervised": AP}, failed=["supervised_mse"])
    text = (folder / "report.md").read_text()
    cell = lines_of(text, "embedded set, half: mAP ↑")["supervised + MSE, half"][1]
    link = re.fullmatch(r"\[failed\]\((.+)\)", cell)
    assert link and "out of luck" in (folder / link[1]).read_text()
    assert "1 failed, 6 not run" in text
    row = lines_of(text, "Runs and their cost")[
        "limited-data/table1/toy/half/supervised_mse, seed 1"
    ]
    assert row[0] == "failed" and "console.txt" in row[-1]


def test_cost_configs_and_logs_are_there(written):
    folder = written("A1", {"teacher": AP, "supervised": AP})
    text = (folder / "report.md").read_text()
    row = lines_of(text, "Runs and their cost")["limited-data/table1/toy/half/teacher, seed 1"]
    assert row[:3] == ["finished before", "2 min", "0.05 CPU h"]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert not Path(target).is_absolute() and (folder / target).exists(), target
    assert "9 trainings, teachers that several rows share counted once: 0.1 CPU h." in text


def test_changes_and_own_data_are_said(written):
    setting = {"card": "somewhere/mine.yaml", "opts": ("SOLVER.MAX_ITER", "2")}
    text = (written("A1", {}, **setting) / "report.md").read_text()
    assert "Every run was changed by: SOLVER.MAX_ITER 2" in text
    assert "on the data of mine.yaml" in text and "somewhere" not in text


def test_numbers_that_the_test_set_selected_are_said_to_be_too_good(written, monkeypatch):
    text = (written("A1", {"teacher": AP}) / "report.md").read_text()
    assert "chosen by the test set" not in text
    plan = Planner.plan

    def selecting(planner, file, seed):
        run = plan(planner, file, seed)
        return replace(run, selects_on_test="supervised" in file)

    monkeypatch.setattr(Planner, "plan", selecting)
    text = (written("A1", {"teacher": AP}) / "report.md").read_text()
    assert "In 4 of 9 trainings of rows the weights that are tested are chosen by the" in text


def test_labels_and_path_weights_are_plotted(written):
    numbers = {
        f"{part}/{row}": ap(value + 5 * i)
        for i, part in enumerate(("eighth", "quarter", "half"))
        for row, value in (("teacher", 20), ("supervised", 15))
    }
    assert (written("A2", numbers) / "labels.png").stat().st_size > 10_000
    folder = written("B1", {"student": AP, "adaptive_feats_b": AP, "hand_tuned_feats_b": AP})
    pictures = sorted(file.name for file in folder.glob("*.png"))
    assert pictures == ["paths_5.png"], "weights of adaptive rows alone move"
    assert (
        "Path weights, embedded set: adaptive, Feats_B and Box, seed 1"
        in (folder / "report.md").read_text()
    )


def test_the_page_needs_nothing_but_itself(written):
    folder = written("B1", {"adaptive_feats_b": AP, "student": AP})
    page = (folder / "report.html").read_text()
    sources = re.findall(r'src="([^"]{30})', page)
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    for target in re.findall(r'href="([^"]+)"', page):
        assert (folder / target).exists()


def test_text_is_escaped(tmp_path):
    blocks = [
        Heading("a < b", 1),
        Paragraph("<i>"),
        Grid(["x|y"], [["1|2"], [Link("&", tmp_path)]]),
    ]
    page, text = to_html(blocks, tmp_path), to_markdown(blocks, tmp_path)
    assert "<title>a &lt; b</title>" in page and "<p>&lt;i&gt;</p>" in page
    assert '<a href=".">&amp;</a>' in page
    assert r"1\|2" in text and "[&](.)" in text


@pytest.mark.slow
def test_a_browser_shows_the_page(written):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs multas[browser]")
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
    )
    if not browser:
        pytest.skip("needs Chromium, which is not installed")
    numbers = {"teacher": AP, "student": AP, "adaptive_feats_b": AP}
    folder = written("B1", numbers, failed=["single_box"])
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 420, "height": 800})
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((folder / "report.html").as_uri())
        assert page.title().startswith("B1:")
        sizes = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
        assert len(sizes) == 1 and min(sizes) > 500
        # On a narrow screen the tables scroll, not the page.
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("table").first.is_visible()
        assert page.get_by_text("adaptive, Feats_B and Box").first.is_visible()
        page.get_by_role("link", name="failed").first.click()
        assert "out of luck" in page.content()
        chromium.close()
    assert errors == []
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]
