"""What a person sees: brief messages, tables that fit, bars on a terminal alone."""

import io
import logging
import re
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from multas.util.messages import Lines, Message
from multas.util.screen import Counted, Screen, columns, facts, shown_from

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38|48)[0-9;]*m")
TABLE = columns(
    ["data set", "images", "not annotated"],
    [["a_data_set_with_a_long_name_of_many_words_half2_unlabeled", 120, "-"], ["[red]日本", 5, 5]],
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(own_logger):
    """``log(stream, ...)``: the screen that shows what is logged from here on."""

    def attach(stream, **options):
        screen = Screen(stream, **options)
        own_logger.addHandler(screen)
        return screen

    return attach


@pytest.fixture
def own_logger():
    logger = logging.getLogger("multas")
    before = list(logger.handlers), logger.level, logger.propagate
    logger.handlers, logger.propagate = [], False
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers, logger.level, logger.propagate = before


def talk(logger):
    logger.info("begins")
    logger.info(Message("all 690 lines of it"))
    logger.info(Message("a wide table", TABLE))
    logger.debug("a detail")
    for _ in range(2):
        logger.getChild("engine").warning("of %s", "something")


def test_a_file_gets_plain_lines_with_the_time(log, own_logger):
    stream = io.StringIO()
    screen = log(stream)
    talk(own_logger)
    with screen.bar("training", 20) as bar:
        assert not bar.is_due(), "a line a minute"
        bar.show(12, "loss 1", left=61.4)
    first, *table, warning, progress = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[\d\d/\d\d \d\d:\d\d:\d\d\] begins", first)
    assert [line.split()[-2:] for line in table] == [["not", "annotated"], ["120", "-"], ["5", "5"]]
    assert table[2].startswith("[red]日本 "), "names are no markup"
    assert warning.endswith("] warning: of something")
    assert progress.endswith("] training: 12/20, 0:01:01 left, loss 1")
    assert not ESCAPE.search(stream.getvalue())


def test_only_warnings_of_others_are_shown_and_everything_if_asked_for(log, own_logger):
    record = logging.LogRecord("detectron2.data", logging.INFO, "", 0, "loud", None, None)
    for everything in (False, True):
        stream = io.StringIO()
        screen = log(stream, everything=everything)
        talk(own_logger)
        screen.handle(record)
        shown = [word in stream.getvalue() for word in ("loud", "690 lines", "a detail")]
        assert shown == [everything] * 3
        own_logger.removeHandler(screen)


@pytest.mark.parametrize("width", [40, 60, 200])
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_what_fits_and_no_colours_if_they_are_unwanted(
    log, own_logger, monkeypatch, width, no_color
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    screen = log(stream)
    talk(own_logger)
    own_logger.info("many words " * 30)
    own_logger.info(Message("", facts({"path": "a/" * 80, "nothing": ""})))
    with screen.bar("evaluating a_data_set_with_a_long_name", 1000) as bar:
        bar.show(500, "loss 10.4 (tasks 0.94, paths 9.46), 0.232 s each and more", left=5000)
        own_logger.info("in between")
    text = stream.getvalue()
    pieces = ESCAPE.sub("", re.sub(r"\x1b\[\d*[AK]", "\n", text)).split("\n")
    assert max(map(cell_len, pieces)) <= width
    assert "500/1000 1:23:20 left" in text and "in between" in text and "nothing" not in text
    assert bool(COLOUR.search(text)) is not no_color
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is there"
    assert text.endswith("\x1b[2K") or "\x1b[1A" in text[-40:], "the bar has gone"


def test_a_part_of_a_program_may_be_silent(log, own_logger):
    stream = io.StringIO()
    screen = log(stream)
    with shown_from(logging.WARNING):
        own_logger.info("one of many trials")
        screen.say("its iterations")
        own_logger.warning("something is odd")
    own_logger.info("the result")
    said = [line.split("] ")[1] for line in stream.getvalue().splitlines()]
    assert said == ["warning: something is odd", "the result"]


def test_a_dumb_terminal_is_a_file(log, own_logger, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    assert not log(stream).is_terminal
    talk(own_logger)
    assert not ESCAPE.search(stream.getvalue())


def test_whoever_stops_reading_stops_nothing(log, own_logger, capsys):
    class Closed(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            raise BrokenPipeError

    stream = Closed()
    log(stream)
    talk(own_logger)
    assert stream.writes == 1 and capsys.readouterr().err == ""


def test_what_prints_becomes_messages_of_the_file(log, own_logger):
    stream, file = io.StringIO(), io.StringIO()
    log(stream)
    own_logger.addHandler(logging.StreamHandler(file))
    with redirect_stdout(Lines(own_logger)):
        print("Average Precision", 0.5)
        print("two\nlines", end="")
    assert stream.getvalue() == "" and file.getvalue() == "Average Precision 0.5\ntwo\n"


def test_an_encoding_without_a_letter_stops_nothing(log, own_logger):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    log(stream)
    own_logger.info("Größe 3×4, ラベル")
    assert b"Gr??e 3?4" in raw.getvalue()


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"])))
def test_any_text_reaches_a_file_whole(text):
    stream = io.StringIO()
    Screen(stream).say(text + ".")
    assert stream.getvalue().partition("] ")[2] == f"{text}.\n"


def test_items_pass_with_and_without_a_screen(log, monkeypatch):
    assert list(Counted([1, 2, 3], "counting")) == [1, 2, 3] and len(Counted([1], "")) == 1
    stream = io.StringIO()
    log(stream)
    monkeypatch.setattr("multas.util.screen._LINE", 0.0)
    assert list(Counted([1, 2, 3], "counting")) == [1, 2, 3]
    assert [line.split("] ")[1][:13] for line in stream.getvalue().splitlines()] == [
        "counting: 1/3", "counting: 2/3", "counting: 3/3",
    ]  # fmt: skip
