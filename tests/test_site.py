"""The site of the documentation builds without a warning, and needs nothing from elsewhere."""

import re
from pathlib import Path

import pytest

from documents import REPOSITORY

for library in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(library, reason="pip install 'multas[docs]'")

FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    file = str(REPOSITORY / "docs/site/mkdocs.yml")
    build(load_config(file, site_dir=str(folder), strict=True))
    return folder


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def test_no_page_fetches_anything(site):
    found = {m for file in site.rglob("*.html") for m in FETCHED.findall(file.read_text())}
    assert found == set()


def test_documents_of_other_folders_are_pages_with_links_between_pages(site):
    assert 'href="quickstart.html"' in page(site, "index")
    assert 'href="cards.html#splits"' in page(site, "faq")
    assert 'src="predictions.jpg"' in page(site, "index")
    assert 'href="catalogue/paths.html"' in page(site, "choosing")
    assert "README.md)" not in page(site, "cards")


def test_the_catalogue_has_options_and_citations(site):
    text = page(site, "catalogue/paths")
    assert "Guo et al., CVPR 2021" in text and "FOREGROUND_WEIGHT" in text
    # What DeFeat says by "see :class:`LayerPath`".
    assert text.count("1x1 convolution where widths differ") > 2
    words = {"aggregators": "MAX_WEIGHTED_LOSS", "formats": "extra_columns",
             "keys": "SCORE_THRESH", "tools": "python tools/distill.py"}  # fmt: skip
    for name, word in words.items():
        assert word in page(site, f"catalogue/{name}"), name


def test_no_markup_is_left_over(site):
    pages = {str(f.relative_to(site)): f.read_text() for f in site.rglob("*.html")}
    marks = (":class:", ":func:", r"\(", r"\[", "<p>| ", "```")
    assert [(f, m) for f, t in pages.items() for m in marks if m in t.split("<article")[-1]] == []
    assert "<math" in pages["min_norm.html"]
