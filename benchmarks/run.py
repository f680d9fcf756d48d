#!/usr/bin/env python
"""Run benchmarks and write benchmarks/results/<machine>.md.

python benchmarks/run.py [--rounds 9] [step aggregation ...]

Results of other benchmarks in this file stay.
"""

import argparse
import logging
import os
import re
import traceback
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import aggregation
import assignment
import deployment
import evaluation
import inference
import loading
import min_norm
import multi_task
import scaling
import step
from timing import machine, machine_name

BENCHMARKS = {
    "step": step.run,
    "aggregation": aggregation.run,
    "min_norm": min_norm.run,
    "assignment": assignment.run,
    "evaluation": evaluation.run,
    "multi_task": multi_task.run,
    "loading": loading.run,
    "scaling": scaling.run,
    "inference": inference.run,
    "deploy": deployment.run,
}
FOLDER = Path(__file__).resolve().parent
# Marks each section, so that a single one can be replaced.
_MARK = re.compile(r"^<!-- (\w+) -->$\n", re.MULTILINE)


def read_sections(file: Path) -> dict[str, str]:
    """The sections of a results file by name of the benchmark."""
    if not file.is_file():
        return {}
    parts = _MARK.split(file.read_text())[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def write_sections(file: Path, sections: Mapping[str, str]) -> None:
    """Write sections in the order of BENCHMARKS."""
    file.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"<!-- {name} -->\n{sections[name]}\n" for name in BENCHMARKS if name in sections]
    file.write_text("\n".join(["# Benchmarks\n", *texts]))


def measure(name: str, rounds: int) -> str:
    """The section of a benchmark with machine and date, or with its error message."""
    try:
        text = BENCHMARKS[name](rounds)
    except Exception as error:
        # The other benchmarks still run.
        traceback.print_exc()
        text = f"## {name}\n\nFailed: {type(error).__name__}: {error}"
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{machine()}, {date.today()}\n{rest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default=FOLDER / "results" / f"{machine_name()}.md")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    os.chdir(FOLDER.parent)
    # Detectron2 logs every config that it reads.
    logging.disable(logging.WARNING)
    output = Path(args.output)
    for name in args.names or BENCHMARKS:
        section = measure(name, args.rounds)
        print(f"{section}\n", flush=True)
        write_sections(output, read_sections(output) | {name: section})
    print(output)


if __name__ == "__main__":
    main()
