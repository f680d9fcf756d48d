"""What images can be annotated with, and by which names data, models and evaluators know it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Annotation:
    """One kind of annotation, which a head learns from and a data set may have."""

    dataset_key: str  # key of a dataset dict; an image without the key is not annotated
    # Key of the model input that the mapper makes of it. What the mapper does not know reaches the
    # model under its own key, so that both keys are then the same.
    input_key: str
    task: str  # how ``annotates`` of a data card calls it
    classes_key: str = ""  # key of the metadata with the names of the classes; "" without classes
    evaluator: str = ""  # type of the evaluator that judges it by default; "" if there is none


BOXES = Annotation("annotations", "instances", "det", "thing_classes", "coco")
MASKS = Annotation("sem_seg_file_name", "sem_seg", "seg", "stuff_classes", "sem_seg")
LABELS = Annotation("label", "label", "cls", "label_classes", "classification")
STANDARD = (BOXES, MASKS, LABELS)
