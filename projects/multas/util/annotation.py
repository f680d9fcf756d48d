"""The kinds of annotations, and their names in data, models and evaluators."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Annotation:
    """One kind of annotation, which a head learns from and a data set may have.

    Attributes:
        dataset_key: the key of a dataset dict. An image without the key is not annotated.
        input_key: the key of the model input that the mapper makes of it. A key that the mapper
            does not know reaches the model as it is, so that both keys are the same.
        task: its name in ``annotates`` of a data card.
        classes_key: the key of the metadata with the names of the classes; "" = it has none.
        evaluator: the type of the evaluator that judges it by default; "" = there is none.
    """

    dataset_key: str
    input_key: str
    task: str
    classes_key: str = ""
    evaluator: str = ""


BOXES = Annotation("annotations", "instances", "det", "thing_classes", "coco")
MASKS = Annotation("sem_seg_file_name", "sem_seg", "seg", "stuff_classes", "sem_seg")
LABELS = Annotation("label", "label", "cls", "label_classes", "classification")
STANDARD = (BOXES, MASKS, LABELS)
