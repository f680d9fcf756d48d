"""What a person sees of a program: the log in brief and, on a terminal, bars."""

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from multas.util.messages import Message

_WIDTH = 100  # columns of text in a file or pipe
_FRAME = 0.2  # seconds between two pictures of a bar
_LINE = 60.0  # seconds between two lines about the same where there are no bars
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


class Screen(logging.Handler):
    """Shows the messages of multas, and the warnings of all, to a person.

    A warning that comes again is shown once. On a terminal, text is folded to its width and bars
    stand below it. Elsewhere, in a file or pipe, every line of text begins with the time, and
    nothing is ever overwritten.

    Args:
        stream: where to, usually sys.stdout.
        everything: whether all messages are shown in full, for whoever looks for a fault.
    """

    def __init__(self, stream: TextIO, everything: bool = False) -> None:
        super().__init__()
        self._stream, self._everything = stream, everything
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # names in data may have any letter
        self.is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._console = _console(stream, force_terminal=True) if self.is_terminal else None
        self._warned: set[str] = set()
        self._bars: list[Bar] = []
        self._live: Live | None = None
        self._is_open = True
        self.addFilter(self._is_shown)

    def _is_shown(self, record: logging.LogRecord) -> bool:
        least = logging.INFO if record.name.split(".")[0] == "multas" else logging.WARNING
        return self._everything or record.levelno >= least

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if isinstance(record.msg, Message) and not self._everything:
                if record.msg.brief:
                    self._show(record.msg.brief, record.created)
                return
            text = Text(self.format(record))
            if record.levelno == logging.WARNING and not self._everything:
                if text.plain in self._warned:
                    return
                self._warned.add(text.plain)
            if style := _STYLES.get(record.levelname):
                text = Text.assemble((f"{record.levelname.lower()}: ", style), text)
            self._show(text, record.created)
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on in silence where nobody reads any more: the pipe or terminal is closed."""
        if isinstance(sys.exc_info()[1], OSError):
            self._is_open = False
        else:
            super().handleError(record)

    def say(self, content: Any) -> None:
        """Show a text, or something that rich renders, now."""
        record = logging.LogRecord("multas", logging.INFO, "", 0, Message("", content), None, None)
        if record.levelno >= self.level:
            self.handle(record)

    def _show(self, content: Any, moment: float) -> None:
        if not self._is_open:
            return
        if self._console is not None:
            self._console.print(content)
            return
        is_text = isinstance(content, str | Text)
        stamp = time.strftime("[%m/%d %H:%M:%S] ", time.localtime(moment)) if is_text else ""
        self._stream.write(f"{stamp}{as_text(content)}\n")
        self._stream.flush()

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator["Bar"]:
        """A bar inside the block, below those that are there already.

        Args:
            title: what goes on.
            total: its steps.
            done: how many of them are done at the start.
        """
        bar = Bar(title, total, done, self._show_bar, _FRAME if self._console else _LINE)
        self._bars.append(bar)
        try:
            yield bar
        finally:
            self._bars.remove(bar)
            self._draw()

    def _show_bar(self, bar: "Bar") -> None:
        if self._console is None:
            words = [f"{bar.title}: {bar.count}", bar.time_left, bar.note]
            self.say(", ".join(filter(None, words)))
        self._draw()

    def _draw(self) -> None:
        if self._console is None or not self._is_open:
            return
        try:
            if not self._bars:
                live, self._live = self._live, None
                if live is not None:
                    live.stop()
                return
            if self._live is None:
                # No thread draws, so that processes which load data can be forked at any time.
                self._live = Live(
                    console=self._console, auto_refresh=False, transient=True,
                    get_renderable=lambda: Group(*self._bars),
                )  # fmt: skip
                self._live.start()
                self._console.show_cursor(True)  # a process that is killed could not do so
            self._live.refresh()
        except OSError:
            self._is_open = False


class Bar:
    """How far something has come: a line with a bar and, below it, a line of text.

    Without a terminal it is now and then a line of its own.
    """

    def __init__(
        self, title: str, total: int, done: int, show: Callable[["Bar"], None], seconds: float
    ) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""
        self._left: float | None = None
        self._show, self._seconds = show, seconds
        self._first, self._begin = done, time.monotonic()
        self._last = self._begin

    def is_due(self) -> bool:
        """Whether it is time to show it again: five times a second, or once a minute as a line."""
        return time.monotonic() - self._last >= self._seconds

    def show(
        self, done: int, note: str = "", left: float | None = None, total: int | None = None
    ) -> None:
        """Show it.

        Args:
            done: the steps that are done.
            note: the line of text.
            left: the seconds left; None = by the mean of the steps so far.
            total: a new number of all steps.
        """
        self.done, self.note, self._left = done, note, left
        self.total = self.total if total is None else total
        self._last = time.monotonic()
        self._show(self)

    @property
    def count(self) -> str:
        return f"{self.done}/{self.total}"

    @property
    def time_left(self) -> str:
        """The time left in words; "" where it is not known."""
        steps, left = self.done - self._first, self._left
        if left is None and steps > 0:
            left = (time.monotonic() - self._begin) / steps * (self.total - self.done)
        return "" if left is None else f"{clock(left)} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True, overflow="ellipsis", max_width=options.max_width // 2 - 6)
        line.add_column(ratio=1, min_width=10)
        for _ in range(2):
            line.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(max(1, self.total), self.done)
        line.add_row(self.title, bar, self.count, self.time_left)
        yield line
        if self.note:
            yield Text(f"  {self.note}", no_wrap=True, overflow="ellipsis")


class Counted:
    """Items in the order of a loader, which show on the screen how many there were.

    Args:
        items: with a length.
        title: what is done with them.
    """

    def __init__(self, items: Any, title: str) -> None:
        self._items, self._title = items, title

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        screen = find_screen()
        if screen is None:
            yield from self._items
            return
        with screen.bar(self._title, len(self)) as bar:
            for number, item in enumerate(self._items):
                yield item
                if bar.is_due():
                    bar.show(number + 1)


def find_screen() -> Screen | None:
    """The screen that shows the log of multas; None where there is none, as on further ranks."""
    handlers = logging.getLogger("multas").handlers
    return next((handler for handler in handlers if isinstance(handler, Screen)), None)


@contextmanager
def shown_from(level: int) -> Iterator[None]:
    """Messages below a level of logging are not shown inside the block, but bars are."""
    screen = find_screen()
    if screen is None:
        yield
        return
    before = screen.level
    screen.setLevel(level)
    try:
        yield
    finally:
        screen.setLevel(before)


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without lines, which folds to the width of a terminal; numbers stand to the right."""
    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, *cells in zip(header, *rows, strict=True):
        is_text = any(isinstance(cell, str) and cell != "-" for cell in cells)
        table.add_column(title, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def facts(pairs: Mapping[str, Any]) -> Table:
    """Names and what they are, below each other; those without a value are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value:
            table.add_row(name, value)
    return table


def as_text(content: Any, width: int = _WIDTH) -> str:
    """Plain text of what rich renders, at most ``width`` columns wide; a text stays as it is."""
    if isinstance(content, str | Text):
        return str(content)
    file = io.StringIO()
    _console(file, width=width, color_system=None).print(content)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: 0:03:10."""
    return str(timedelta(seconds=int(seconds)))


def _console(file: TextIO, **options: Any) -> Console:
    # Names in data are no markup, whatever brackets and colons they have.
    return Console(file=file, markup=False, emoji=False, highlight=False, **options)
