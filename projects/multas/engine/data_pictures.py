"""Images of data sets and batches with what they are annotated with, as blocks of a page."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from multas.data.class_colours import class_colour, name_of
from multas.data.drawing import as_record, draw_truth
from multas.data.inspection import Split, classes_of
from multas.data.task_batches import training_sets
from multas.data.training import build_training_loader
from multas.engine.comparison.pictures import save_picture
from multas.util.annotation import BOXES
from multas.util.document import Block, Gallery, Heading, Legend, Paragraph, Picture
from multas.util.errors import UserError

_MOST_SAMPLES = 24  # of a batch


def batch_blocks(cfg: CfgNode, folder: Path) -> list[Block]:
    """The first batch of a training, as the network gets it, before it subtracts PIXEL_MEAN.

    Args:
        cfg: the config of the training.
        folder: receives the pictures.
    """
    own = cfg.clone()
    own.defrost()
    own.DATALOADER.NUM_WORKERS = 0
    try:
        batch = next(iter(build_training_loader(own)))
    except UserError as error:
        return [Heading("What the network gets"), Paragraph(f"Nothing: {error}")]
    names = MetadataCatalog.get(training_sets(own)[0])
    pictures: list[Picture] = []
    records = [as_record(sample, own.INPUT.FORMAT) for sample in batch[:_MOST_SAMPLES]]
    for number, (sample, record) in enumerate(zip(batch, records, strict=False)):
        height, width = sample["image"].shape[1:]
        caption = f"{Path(sample['file_name']).name}, {width}x{height}"
        pictures += picture_of(record, names, folder / f"batch{number}.jpg", caption)
    text = (
        f"The first batch of the training, {len(batch)} images after their augmentation, and what "
        "it learns from; pseudo-boxes have a question mark."
    )
    head: list[Block] = [Heading("What the network gets"), Paragraph(text)]
    return [*head, *_legend(records, names), Gallery(pictures)]


def sheet_blocks(split: Split, folder: Path, place: int) -> list[Block]:
    """Some annotated images of a split; ``place`` tells their files from those of other splits."""
    names = MetadataCatalog.get(split.name)
    pictures: list[Picture] = []
    for number, record in enumerate(split.shown):
        caption = Path(record["file_name"]).name
        pictures += picture_of(record, names, folder / f"truth{place}_{number}.jpg", caption)
    if not pictures:
        return []
    text = f"{len(pictures)} of {split.numbers.images} images, chosen to show every class."
    if split.unseen:
        text += f" There was no room for {split.unseen} classes."
    head: list[Block] = [Heading(f"Annotations of {split.name}"), Paragraph(text)]
    return [*head, *_legend(split.shown, names), Gallery(pictures)]


def picture_of(record: dict, names: Metadata, file: Path, caption: str) -> list[Picture]:
    """The picture of an image and what is known of it; none if it is unreadable."""
    try:
        return [save_picture(draw_truth(record, names), file, caption)]
    except UserError:
        return []


def _legend(records: Sequence[dict], names: Metadata) -> list[Block]:
    """The colours of the classes of the boxes in some images."""
    numbers = sorted({k for r in records for kind, k in classes_of(r) if kind is BOXES})
    known = names.get(BOXES.classes_key)
    colours = names.get("thing_colors")
    entries = [(name_of(k, known), class_colour(k, colours)) for k in numbers]
    return [Legend(entries)] if entries else []
