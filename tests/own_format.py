"""What a user writes to add a data format: this file, and keys of a config and of a data card:

IMPORT_MODULES: [own_format]           format: boxtable
DATASETS.CARDS: [card.yaml]            splits: {train: train.csv}
"""

import csv
from dataclasses import dataclass

from detectron2.structures import BoxMode

from multas.data import DATA_FORMAT_REGISTRY, DataFormat
from multas.util.annotation import BOXES


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class BoxTable(DataFormat):
    """Images, and a table with the columns image, class, x0, y0, x1, y1 (pixels)."""

    main_key = "table"
    can_annotate = (BOXES,)

    table: str
    delimiter: str = ","
    annotates: tuple[str, ...] = (BOXES.task,)

    def load(self, source):
        with open(source.root / self.table) as file:
            rows = list(csv.reader(file, delimiter=self.delimiter))
        classes = source.classes or sorted({name for _, name, *_ in rows})
        records, _ = self.load_unlabeled(source)
        for record in records:
            record["annotations"] = []
            for image_id, name, *box in rows:
                if image_id == record["image_id"] and name not in classes:
                    source.issues.add(self.table, f"unknown class {name!r}")
                elif image_id == record["image_id"]:
                    record["annotations"].append({
                        "category_id": classes.index(name),
                        "bbox": list(map(float, box)),
                        "bbox_mode": BoxMode.XYXY_ABS,
                    })  # fmt: skip
        return records, self.class_metadata(classes)
