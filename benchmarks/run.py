#!/usr/bin/env python
"""Run benchmarks and write benchmarks/results/<machine>.md.

python benchmarks/run.py [--rounds 9] [step aggregation ...]
"""

import argparse
import logging
import os
import platform
from pathlib import Path

import aggregation
import assignment
import evaluation
import inference
import loading
import min_norm
import multi_task
import scaling
import step
from timing import machine

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
}
FOLDER = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default=FOLDER / "results" / f"{platform.machine()}.md")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    os.chdir(FOLDER.parent)
    # Detectron2 reports every config that it reads.
    logging.disable(logging.WARNING)
    sections = [f"# Benchmarks\n\n{machine()}"]
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in args.names or BENCHMARKS:
        sections.append(BENCHMARKS[name](args.rounds))
        print(sections[-1], flush=True)
        # After each: what is there stays if a later one is interrupted.
        output.write_text("\n\n".join(sections) + "\n")
    print(f"\n{output}")


if __name__ == "__main__":
    main()
