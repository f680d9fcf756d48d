"""A report as a list of blocks, written as Markdown beside its pictures or as one HTML file."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tabulate import tabulate


@dataclass(frozen=True)
class Link:
    """A file, linked by its path relative to the report."""

    text: str
    file: Path


Cell = str | Link | tuple[Link, ...]


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Grid:
    """A table; its first column is text, the others are short."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """An image file, .png, .jpg or .svg.

    An SVG file becomes a part of the page. It may draw in the colours of the page: var(--text),
    var(--line) and the like.

    Attributes:
        file: the image.
        description: for those who cannot see it.
        caption: the text below it.
        whole: keeps its size and scrolls where the page is narrower, such as a large matrix.
    """

    file: Path
    description: str
    caption: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures beside each other, as many as find room; each is at least ``width`` pixels wide."""

    pictures: Sequence[Picture]
    width: int = 300


@dataclass(frozen=True)
class Legend:
    """What the colours of the pictures that follow stand for: names and colours of CSS."""

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Lines to be typed or copied."""

    text: str


Block = Heading | Paragraph | Grid | Picture | Gallery | Legend | Code

_KINDS = {".png": "image/png", ".jpg": "image/jpeg"}

# The colours of every page, by day and by night.
PALETTE = """
:root { color-scheme: light dark; --text: #1c2430; --ground: #fff; --line: #d5dae1;
        --strong: #8a94a3; --link: #1558b0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #dde3ea; --ground: #14181e; --line: #343c47; --strong: #6b7684;
          --link: #8ab8f5; }
}
"""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground);
       margin: 0 auto; max-width: 62rem; overflow-wrap: anywhere; padding: 1.5rem; }
a { color: var(--link); }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .5em; }
h1 { margin-top: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: right;
         overflow-wrap: normal; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid var(--strong); vertical-align: bottom; white-space: normal; }
img, svg { height: auto; max-width: 100%; }
img { background: #fff; }  /* plots are drawn in black */
figure { margin: 1em 0; }
figcaption { font-size: .87em; }
.whole { display: inline-block; max-width: 100%; overflow-x: auto; vertical-align: top; }
.whole > * { max-width: none; }
.gallery { display: grid; gap: .8rem; margin: 1em 0; }
.gallery figure { margin: 0; min-width: 0; }
.gallery img { width: 100%; }
.legend span { display: inline-block; margin-right: 1.2em; }
.legend i { border-radius: 2px; display: inline-block; height: .8em; margin-right: .4em;
            width: .8em; }
pre { border-left: 3px solid var(--line); margin: 1em 0; overflow-x: auto; padding: .2rem .8rem; }
"""


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """The blocks as Markdown.

    Args:
        blocks: in order.
        folder: that the file will lie in.
    """

    def link(target: Link) -> str:
        return f"[{target.text}]({_relative(target.file, folder)})"

    def cell(content: Cell) -> str:
        if isinstance(content, str):
            return content.replace("|", "\\|")
        return " ".join(map(link, [content] if isinstance(content, Link) else content))

    def block(b: Block) -> str:
        match b:
            case Heading(text, level):
                return f"{'#' * level} {text}"
            case Paragraph(text):
                return text
            case Picture(file, description, caption):
                return f"![{description}]({_relative(file, folder)})" + f" {caption}".rstrip()
            case Gallery(pictures):
                return "\n\n".join(map(block, pictures))
            case Legend(entries):
                return "; ".join(f"{name}: {colour}" for name, colour in entries)
            case Code(text):
                return f"```\n{text}\n```"
            case Grid(header, rows):
                cells = [[cell(c) for c in row] for row in rows]
                # Numbers come as text, rounded as they are to be read.
                return tabulate(cells, header, tablefmt="github", disable_numparse=True)

    return "\n\n".join(map(block, blocks)) + "\n"


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """The blocks as a page that holds its pictures and needs no network.

    Args:
        blocks: in order.
        folder: that the file will lie in.
    """

    def link(target: Link) -> str:
        return f'<a href="{escape(_relative(target.file, folder))}">{escape(target.text)}</a>'

    def cell(content: Cell, tag: str) -> str:
        if isinstance(content, str):
            return f"<{tag}>{escape(content)}</{tag}>"
        links = [content] if isinstance(content, Link) else content
        return f"<{tag}>{' '.join(map(link, links))}</{tag}>"

    def line(cells: Sequence[Cell], tag: str) -> str:
        return f"<tr>{''.join(cell(c, tag) for c in cells)}</tr>"

    def block(b: Block) -> str:
        match b:
            case Heading(text, level):
                return f"<h{level}>{escape(text)}</h{level}>"
            case Paragraph(text):
                return f"<p>{escape(text)}</p>"
            case Picture(file, description, caption, whole):
                below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
                kind = ' class="whole"' if whole else ""
                return f"<figure{kind}>{_image(file, description)}{below}</figure>"
            case Gallery(pictures, width):
                columns = f"repeat(auto-fill, minmax(min(100%, {width}px), 1fr))"
                inside = "\n".join(map(block, pictures))
                return (
                    f'<div class="gallery" style="grid-template-columns: {columns}">{inside}</div>'
                )
            case Legend(entries):
                marks = (
                    f'<span><i style="background: {c}"></i>{escape(n)}</span>' for n, c in entries
                )
                return f'<p class="legend">{"".join(marks)}</p>'
            case Code(text):
                return f"<pre><code>{escape(text)}</code></pre>"
            case Grid(header, rows):
                body = "\n".join(line(row, "td") for row in rows)
                head = f"<thead>{line(header, 'th')}</thead>"
                return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'

    title = next((b.text for b in blocks if isinstance(b, Heading)), "Report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PALETTE}{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(map(block, blocks))
        + "\n</body>\n</html>\n"
    )


def _image(file: Path, description: str) -> str:
    if file.suffix == ".svg":
        # Without the declarations of an XML file, which HTML does not know.
        image = file.read_text(encoding="utf-8").partition("<svg ")[2]
        return f'<svg role="img" aria-label="{escape(description)}" {image.strip()}'
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img src="data:{_KINDS[file.suffix]};base64,{data}" alt="{escape(description)}">'


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()
