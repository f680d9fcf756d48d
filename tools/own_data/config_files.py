"""Configs of a job as nested mappings, and as files for people to read."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from multas.util.files import write_text

Config = dict[str, Any]


def set_key(config: Config, key: str, value: Any) -> None:
    """Set a key by its full name, such as "MODEL.FPN.NORM", in place."""
    *groups, name = key.split(".")
    for group in groups:
        config = config.setdefault(group, {})
    config[name] = value


def write_config(
    file: Path, config: Config, comments: Sequence[str], bases: Sequence[str] = ()
) -> None:
    """Write a config to a file, below comments; ``bases`` are the files that it inherits from."""
    lines = [
        f"# {line}"
        for comment in comments
        for line in textwrap.wrap(comment, 96, break_long_words=False)
    ]
    base = list(bases) if len(bases) > 1 else "".join(bases)
    content = ({"_BASE_": base} if base else {}) | config
    text = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join([*lines, text]))
