"""What mkdocs does for the site beside what it does by itself.

Documents of other folders become pages without being copied, links between files of the repository
become links between pages, formulas become MathML, and catalogue.py's pages are added.
"""

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import catalogue
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# Documents that stand outside of docs/, and their pages.
ELSEWHERE = {
    "README.md": "index.md",
    "datasets/README.md": "cards.md",
    "configs/README.md": "configs.md",
    "configs/limited-data/README.md": "limited_data.md",
    "configs/adaptive/README.md": "adaptive.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# Folders of code that a generated page tells about.
FOLDERS = {
    "projects/multas/config": "catalogue/keys.md",
    "projects/multas/data/formats": "catalogue/formats.md",
    "projects/multas/distillation/aggregation": "catalogue/aggregators.md",
    "projects/multas/distillation/paths": "catalogue/paths.md",
    "projects/multas/modeling/heads": "catalogue/heads.md",
    "tools": "catalogue/tools.md",
}
_SOURCES = {page: source for source, page in ELSEWHERE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / source)))
    for page, content in catalogue.pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    shown = {_SOURCES.get(file.src_uri, f"docs/{file.src_uri}"): file.src_uri for file in files}
    shown |= FOLDERS
    return with_links_of_the_site(markdown, _SOURCES.get(uri, f"docs/{uri}"), uri, shown)


def with_links_of_the_site(markdown: str, source: str, page: str, shown: Mapping[str, str]) -> str:
    """Links to files of the repository as links to their pages, outside of code blocks.

    Documents that are named as code, such as `docs/serving.md`, become links, too. A link to a file
    that the site does not have becomes plain text.

    Args:
        source: the document's path in the repository, which its links start from.
        page: its path in the site.
        shown: the page or picture of each file of the repository that has one.
    """

    def link(match: re.Match) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        file = os.path.normpath(PurePosixPath(source).parent / target)
        if file in shown:
            to = os.path.relpath(shown[file], PurePosixPath(page).parent)
            return f"{match['mark']}[{text}]({to}{anchor})"
        return text if (REPOSITORY / file).exists() else match[0]

    def name(match: re.Match) -> str:
        if match[1] not in shown or shown[match[1]] == page:
            return match[0]
        return f"[{match[0]}]({os.path.relpath(shown[match[1]], PurePosixPath(page).parent)})"

    def prose(text: str) -> str:
        text = re.sub(r"(?<!\[)`([\w/-]+\.md)`", name, text)
        pattern = r"(?P<mark>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)]*)?\)"
        return re.sub(pattern, link, text)

    parts = re.split(r"^(```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else prose(part) for i, part in enumerate(parts))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    content = re.sub(r":(?:class|func|meth|mod|attr|data):\s*(?=<code>)", "", content)
    return re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>',
        _mathml,
        content,
        flags=re.DOTALL,
    )


def _mathml(match: re.Match) -> str:
    display = "inline" if match[2] == "(" else "block"
    return convert(html.unescape(match[3]).strip(), display=display)
