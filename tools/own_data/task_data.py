"""The registered data sets of one task."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.card import UNLABELED
from multas.util.annotation import Annotation
from multas.util.errors import UserError
from multas.util.screen import shown_from
from own_data.parts import PARTS


@dataclass(frozen=True)
class TaskData:
    """The registered data sets of one task.

    Attributes:
        annotation: what its images are annotated with.
        card: the file of the card.
        labeled: data sets to learn from.
        unlabeled: data sets without annotations, ending in ``_unlabeled``.
        withheld: those of them whose annotations are withheld.
        val, test: data sets to choose on ("" if there is none) and to report on.
        records: the dataset dicts of all of these, by the name of the data set.
    """

    annotation: Annotation
    card: Path
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    withheld: tuple[str, ...]
    val: str
    test: str
    records: Mapping[str, list[dict]] = field(repr=False)

    @property
    def task(self) -> str:
        return self.annotation.task

    @property
    def classes(self) -> list[str]:
        return list(MetadataCatalog.get(self.labeled[0]).get(self.annotation.classes_key))

    @property
    def ignore_label(self) -> int:
        """The value of pixels without annotation, if it has masks."""
        return MetadataCatalog.get(self.labeled[0]).get("ignore_label")

    @property
    def annotated(self) -> list[dict]:
        """The dataset dicts to learn from that are annotated."""
        return [record for name in self.labeled for record in self.records[name]]


def task_data(
    file: Path,
    annotation: Annotation,
    use: Mapping[str, Sequence[str]],
    bases: Sequence[str],
    names: Mapping[str, Mapping[str, str]],
    told: Collection[str],
) -> TaskData:
    """The data of a registered card.

    Args:
        file: the card.
        annotation: what its images are annotated with.
        use: its own splits by what they are for.
        bases: those that are learned from.
        names: of those of them that are divided the names of the parts.
        told: splits whose faults are known already.
    """
    name = file.stem
    new = {part: [own[part] for own in names.values() if part in own] for part in PARTS}
    tests = use["test"] or use["val"] or new["test"]
    vals = (use["val"] if tests != use["val"] else []) or new["val"]
    own = [names.get(base, {"labeled": base}) for base in bases]
    labeled = [parts["labeled"] for parts in own if "labeled" in parts]
    if not tests or not labeled:
        raise UserError(
            f"{name}: none of its images are left to {'learn from' if tests else 'test on'}, as "
            "other splits have them for something else; give cards with splits train and test."
        )
    withheld = tuple(f"{name}_{split}{UNLABELED}" for split in new["rest"])
    unlabeled = tuple(f"{name}_{split}{UNLABELED}" for split in use["unlabeled"])
    learned = tuple(f"{name}_{split}" for split in labeled)
    val, test = f"{name}_{vals[0]}" if vals else "", f"{name}_{tests[0]}"
    records = {}
    for data in filter(None, (*learned, *unlabeled, *withheld, val, test)):
        is_told = data.removeprefix(f"{name}_").removesuffix(UNLABELED) in told
        with shown_from(logging.ERROR) if is_told else nullcontext():
            records[data] = DatasetCatalog.get(data)
    return TaskData(
        annotation=annotation,
        card=file,
        labeled=learned,
        unlabeled=unlabeled + withheld,
        withheld=withheld,
        val=val,
        test=test,
        records=records,
    )
