"""What runs cost, what their exported networks do, and the commands that use them."""

import shlex
from collections.abc import Mapping, Sequence

from multas.data.task_batches import training_sets
from multas.engine.comparison.figures import NOTHING, listed
from multas.engine.comparison.runs import Run
from multas.engine.export_table import FILE, Row, cells, read_rows
from multas.engine.report import training_seconds
from multas.util.document import Block, Cell, Code, Grid, Heading, Paragraph


def cost_blocks(runs: Sequence[Run], parameters: Mapping[str, int]) -> list[Block]:
    """A table of what was trained, on what and how long.

    Args:
        runs: of the report.
        parameters: of the models by name of the run, as far as they are known.
    """
    memory = [run.megabytes for run in runs]
    header = ["run", "iterations", "images each", "training", "device", "parameters", "trained on"]
    rows: list[list[Cell]] = []
    for run in runs:
        seconds = training_seconds(str(run.folder)) if run.records else 0.0
        known = run.name in parameters
        rows.append(
            [
                run.name,
                str(run.iterations) if run.records else NOTHING,
                str(run.cfg.SOLVER.IMS_PER_BATCH),
                _duration(seconds) if seconds else NOTHING,
                run.cfg.MODEL.DEVICE,
                f"{parameters[run.name] / 1e6:.2f} M" if known else NOTHING,
                listed(training_sets(run.cfg)),
            ]
        )
    if any(memory):
        header.insert(5, "GPU memory")
        for row, megabytes in zip(rows, memory, strict=True):
            row.insert(5, f"{megabytes} MB" if megabytes else NOTHING)
    note = (
        "The time is that of training iterations, without start and evaluation. A teacher that "
        "another run needs is not counted there."
    )
    return [Heading("What it cost"), Grid(header, rows), Paragraph(note)]


def exported_networks(run: Run) -> dict[str, list[Row]]:
    """What is known of the exported networks of a run, by the path of their files' folder and stem.

    Raises:
        UserError: An export.json is damaged.
    """
    folders = [run.folder, *sorted(p for p in run.folder.glob("*") if (p / FILE).is_file())]
    return {
        str(folder / stem): rows
        for folder in folders
        for stem, rows in read_rows(folder).items()
        if rows
    }


def deploy_blocks(networks: Sequence[Mapping[str, Sequence[Row]]]) -> list[Block]:
    """A table of each exported network of some runs, see :func:`exported_networks`."""
    if not networks:
        return []
    blocks: list[Block] = [Heading("Deployment")]
    for stem, rows in (item for own in networks for item in own.items()):
        header, lines = cells(rows)
        blocks += [Heading(stem, 3), Grid(header, lines)]
    return [*blocks, Paragraph("Times are of one image, on the machine that exported it.")]


def command_blocks(
    run: Run, networks: Mapping[str, Sequence[Row]], threshold: float
) -> list[Block]:
    """The commands that run a model and make files of it; ``threshold`` is for its scores."""
    if run.weights is None:
        return []
    config, weights = (shlex.quote(str(f)) for f in (run.folder / "config.yaml", run.weights))
    shown = f" --score-thresh {threshold:.3f}" if threshold == threshold else ""
    lines = [
        "# what it sees in images",
        f"python tools/visualize.py --config-file {config} --weights {weights}{shown} "
        "--output found/ IMAGE_OR_FOLDER",
        "# its figures",
        f"python train_net.py --eval-only --config-file {config} MODEL.WEIGHTS {weights}",
        "# a file that needs no torch",
        f"python tools/export.py --config-file {config} --weights {weights} --format onnx openvino",
    ]
    files = [
        shlex.quote(f"{stem.rpartition('/')[0]}/{row.file}")
        for stem, rows in networks.items()
        for row in rows
        if row.file.endswith((".onnx", ".xml"))  # which it reads
    ]
    if files:
        lines += ["# and what that sees, in images, a video or from a camera"]
        lines += [
            f"python tools/predict.py --model {f}{shown} --output found/ IMAGE" for f in files
        ]
    return [Heading(f"To run {run.name}"), Code("\n".join(lines))]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
