"""Numbers on a command line."""

from argparse import ArgumentTypeError

import pytest

from multas.util.arguments import number


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (number(0, 1), "0", 0.0),
        (number(0, 1), "1", 1.0),
        (number(0, above=True), "1e-9", 1e-9),
        (number(1, kind=int), "20", 20),
    ],
)
def test_numbers_in_the_range_are_taken(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "texts", "wanted"),
    [
        (number(0, 1), ["-0.1", "1.01", "nan", "inf", "half", ""], "a number from 0 to 1, but is"),
        (number(0, above=True), ["0", "-1", "inf", "-inf"], "a number above 0, but is"),
        (number(0, 1, above=True), ["0", "2"], "a number above 0 to 1, but is"),
        (number(1, kind=int), ["0", "-3", "1.5", "1e3"], "a whole number of 1 or more, but is"),
    ],
)
def test_other_texts_are_refused_with_the_range(kind, texts, wanted):
    for text in texts:
        with pytest.raises(ArgumentTypeError, match=f"must be {wanted}"):
            kind(text)
