"""The part of docs/evidence.md on the papers' tables at small scale, from evidence/small.json."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import chdir
from itertools import groupby
from pathlib import Path

from multas.config.tables import Table
from multas.util.document import Block, Heading, Paragraph, to_markdown
from reproduction.comparison import certain_numbers, certain_pairs, certain_summary
from reproduction.execution import states_of
from reproduction.kept import read_kept
from reproduction.results import Result, metrics_of, read_result
from reproduction.rows import rows_of
from reproduction.run import title_of
from reproduction.runs import Planner
from reproduction.tables import METRICS, read_tables
from studies.study import FOLDER, REPOSITORY

_SEEDS = range(1, 6)
FILE = FOLDER / "small.json"  # what tools/reproduce.py --scale small --results has written
_TITLE = "## The papers' tables at small scale"
_ABOUT = (
    "Rows of the papers' tables that may be compared: small networks, pretrained on the embedded "
    "source set, learn the embedded set from there, as [tables.md](tables.md) says. Pretraining is "
    "the same for all seeds; each seed has a teacher of its own. Rows that were not run are not "
    "shown. All are evaluated on test, and nothing was chosen there. The command:"
)


def sections(file: Path = FILE) -> list[str]:
    """The parts of the page; none where there are no results."""
    kept = read_kept(file)
    with chdir(REPOSITORY):  # the paths in configs start there
        tables = read_tables() if kept else {}
        found = {name: _results(table, kept) for name, table in tables.items()}
        parts = [_section(tables[name], own) for name, own in found.items() if own]
    if not parts:
        return []
    names = " ".join(name for name, own in found.items() if own)
    options = f"--scale small --seeds {max(_SEEDS)} --results evidence/small.json"
    command = f"```bash\npython tools/reproduce.py {names} {options}\n```"
    return [_TITLE, textwrap.fill(_ABOUT, 100), command, *parts]


def _results(table: Table, kept: Mapping[str, Mapping]) -> list[Result]:
    """The rows that have results, with the seeds that any has.

    Those of a column in which fewer than two compete, such as pretraining, are left out.
    """
    planner = Planner(FOLDER, results=kept)  # which has no folders of runs: the file alone counts
    titles = {entry["title"] for entry in kept.values()}
    rows = rows_of(table, "small")
    seeds = [n for n in _SEEDS if any(title_of(row.address, n) in titles for row in rows)]
    results = []
    for row in rows:
        if any(title_of(row.address, seed) in titles for seed in seeds):
            runs = [planner.plan(row.address, seed) for seed in seeds]
            results.append(read_result(row, runs, states_of(runs)))
    known = [result for result in results if any(result.metrics)]
    competing = Counter(result.row.column for result in known if not result.row.is_reference)
    return [result for result in known if competing[result.row.column] > 1]


def _section(table: Table, results: Sequence[Result]) -> str:
    blocks: list[Block] = [Heading(f"{table.place}: {table.title}", 3)]
    seeds = max(len(result.values(table.metrics[0])) for result in results)
    number = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard deviation"
    blocks.append(Paragraph(f'Of "{table.paper}"; {number}.'))
    blocks += [b for b in certain_summary(table, results) if not isinstance(b, Heading)]
    for column, group in groupby(results, key=lambda result: result.row.column):
        members = list(group)
        for metric in metrics_of(table, members):
            blocks.append(Heading(f"{column}: {METRICS[metric].title}", 4))
            blocks += [certain_numbers(members, metric), *certain_pairs(members, metric)]
    return to_markdown(blocks, REPOSITORY / "docs").strip()
