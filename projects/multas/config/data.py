"""Config keys of the data."""

from detectron2.config import CfgNode as CN


def add_data_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    # Data cards (YAML files, see datasets/README.md) that are registered before any data set is
    # looked up. Every split of a card is then a name for DATASETS.TRAIN/TEST, and the same name
    # with `_unlabeled` is that split with its annotations withheld (they are never opened).
    cfg.DATASETS.CARDS = ()

    # Multi-task learning with one mini-batch per task in place of DATASETS.TRAIN: a list of
    # mappings with the keys
    #   TASK           of MODEL.MULTITASK.TASKS: the images count for this task alone, whatever
    #                  else they are annotated with, and its head alone runs on them
    #   TRAIN          data sets; each mini-batch has an epoch of its own, shorter ones start anew
    #   IMS_PER_BATCH  default: SOLVER.IMS_PER_BATCH
    #   OPTS           KEY VALUE pairs that hold for these images: INPUT.*, DATALOADER.* and
    #                  DATASETS.PSEUDO_LABELS.*
    # Without it, images of DATASETS.TRAIN may have any subset of annotations, too: each loss is
    # the mean over the images that are annotated for it.
    cfg.DATASETS.TASK_BATCHES = []
    # "separate": an iteration takes one mini-batch of each; they pass through the network one after
    # the other (BatchNorm statistics of their own), their gradients add up, one optimiser step
    # (section 3 of "Self-training and multi-task learning …"). "mixed": they pass the backbone
    # as one batch, each head its own images.
    # "alternate": an iteration takes one of them, in turn.
    cfg.DATASETS.TASK_MODE = "separate"

    cfg.DATASETS.PSEUDO_LABELS = CN()
    # Files written by tools/pseudo_label.py. Their boxes join the ground truth of images they
    # name: an annotated image keeps its ground truth alone, an unannotated one gets the boxes.
    cfg.DATASETS.PSEUDO_LABELS.FILES = ()
    # Boxes below this teacher score are not used (on top of what the file already dropped).
    cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH = 0.0
    # The same for each class, in the order of the classes; empty = SCORE_THRESH alone. A box must
    # pass both.
    cfg.DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH = []
    # At most so many boxes per image, best first; 0 = all.
    cfg.DATASETS.PSEUDO_LABELS.TOPK = 0
    # An image that the file covers but for which no box is left:
    # "background" = annotated as empty; "skip" = stays unannotated (distillation only).
    cfg.DATASETS.PSEUDO_LABELS.EMPTY = "background"

    # Side in pixels of the square that images are stretched to, in training and test, the aspect
    # ratio not kept (paper A: 320 or 512). 0 = Detectron2's INPUT.MIN_SIZE_* and MAX_SIZE_*.
    cfg.INPUT.SQUARE_SIZE = 0
    cfg.register_renamed_key("INPUT.STRETCH", "INPUT.SQUARE_SIZE")
    # Training augmentation: "" = Detectron2's INPUT.RANDOM_FLIP and CROP, "single_shot" = colour
    # distortion, crop-or-expand and mirror of paper A, "padded_crop" = CIFAR's shift by up to 4 px
    # and INPUT.RANDOM_FLIP, "resized_crop" = ImageNet's window of any size, resized to
    # INPUT.MIN_SIZE_TRAIN squared, and INPUT.RANDOM_FLIP, or one of your own in
    # AUGMENTATION_REGISTRY.
    cfg.INPUT.AUGMENTATION = ""
    # Side in pixels of the square that is cut out of the middle of test images, after they were
    # resized to MIN_SIZE_TEST (ImageNet: 224 of 256); 0 = the whole image. For classification:
    # boxes and masks would be judged against the whole image.
    cfg.INPUT.CENTER_CROP_TEST = 0
    # Independently augmented copies of every image in a batch (2: "double augmentation" of paper
    # A). A batch holds COPIES times SOLVER.IMS_PER_BATCH images.
    cfg.INPUT.COPIES = 1
    # Augmented views of an image: 0 = a new one each time; M = views 0 to M - 1 in turn over the
    # epochs (and the COPIES), each always the same, so that what a teacher says of them can be kept
    # (MODEL.DISTILLATION.CACHE).
    cfg.INPUT.VIEWS = 0
    cfg.INPUT.MULTI_SCALE = CN()
    # Sizes in place of SQUARE_SIZE, one drawn for each training batch (paper A: 256, 320, 384 for
    # 320 and 384, 512, 640 for 512); empty = always SQUARE_SIZE.
    cfg.INPUT.MULTI_SCALE.SIZES = []
    # Share of MAX_ITER at the end that is always trained at SQUARE_SIZE.
    cfg.INPUT.MULTI_SCALE.FINAL_FRACTION = 0.2

    # Python modules (dotted names) that are imported at the start, before data cards are read:
    # they register paths, aggregators, heads, data formats … of your own.
    cfg.IMPORT_MODULES = ()
