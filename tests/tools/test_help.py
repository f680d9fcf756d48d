"""What every tool says with --help: what it does, an example, and the defaults of its options."""

import argparse
import importlib
import re

import pytest

from documents import REPOSITORY, parsed

TOOLS = sorted(file.stem for file in (REPOSITORY / "tools").glob("*.py"))
# Options that do nothing unless they are given.
NOTHING = (None, False, True, "", argparse.SUPPRESS)


class Found(Exception):
    """Carries the parser of a tool out of it."""


def parsers_of(tool: str) -> list[argparse.ArgumentParser]:
    """The parser of a tool, and those of its commands."""

    def stop(self, *_):
        raise Found(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr("sys.argv", [tool])
        patch.chdir(REPOSITORY)
        with pytest.raises(Found) as found:
            importlib.import_module(tool).parse_args()
    parser = found.value.args[0]
    commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [parser, *(p for action in commands for p in action.choices.values())]


@pytest.mark.parametrize("tool", TOOLS)
def test_help_has_an_example_that_is_right(tool):
    text = parsers_of(tool)[0].format_help()
    joined = re.sub(r"\\\n\s*", " ", text)
    examples = re.findall(rf"^ *(python tools/{tool}\.py.*?)(?:  #.*)?$", joined, re.MULTILINE)
    assert examples, text
    for example in examples:
        _, script, *arguments = example.replace(" ...", "").split()
        parsed(script, arguments)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_explains_every_option_and_its_default(tool):
    for parser in parsers_of(tool):
        text = " ".join(parser.format_help().split())
        for action in parser._actions:
            assert action.help, action.dest
            default = action.default
            nothing = any(default is value for value in NOTHING) or default in ([], ())
            if not action.option_strings or nothing:
                continue
            shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
            assert action.required or f"(default: {shown})" in text, action.option_strings
