"""Config keys of the data."""

from detectron2.config import CfgNode as CN


def add_data_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    # Python modules (dotted names) that are imported at the start, before data cards are read. They
    # register your own paths, aggregators, heads, data formats …
    cfg.IMPORT_MODULES = ()
    # Data cards (YAML files, see datasets/README.md) that are registered before any data set is
    # looked up. Every split of a card is then a name for DATASETS.TRAIN and TEST. The same name
    # with `_unlabeled` is that split without its annotations, which are never opened.
    cfg.DATASETS.CARDS = ()
    # Whether every image file is decoded once before a training or evaluation, so that none of them
    # breaks it later. Files that were found intact are remembered in ~/.cache/multas (or
    # $XDG_CACHE_HOME/multas) and not read again until they change.
    cfg.DATASETS.CHECK_IMAGES = True

    # How often the images of a data set come in an epoch: pairs of a name in DATASETS.TRAIN and a
    # factor, such as [["cells_labeled", 4.0]]; the others come once. SOLVER.EPOCHS counts every
    # image once all the same.
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []

    # Multi-task learning with one mini-batch per task: a list of mappings that replaces
    # DATASETS.TRAIN, with the keys
    #   TASK           one of MODEL.MULTITASK.TASKS: the images count for this task alone, whatever
    #                  else they are annotated with, and only its head runs on them
    #   TRAIN          data sets; each task has its own epochs, so that smaller ones start anew
    #   IMS_PER_BATCH  the number of images; the default is SOLVER.IMS_PER_BATCH
    #   OPTS           KEY VALUE pairs that hold for these images alone: INPUT.*, DATALOADER.* and
    #                  DATASETS.PSEUDO_LABELS.*
    # Without it, the images of DATASETS.TRAIN may still have any annotations: each loss is the mean
    # over the images that are annotated for it.
    cfg.DATASETS.TASK_BATCHES = []
    # "separate": an iteration takes one mini-batch of each task. They pass through the network one
    # after the other, with their own BatchNorm statistics, and their gradients add up to one step
    # (Lê and Pham, section 3). "mixed": they pass through the backbone as one batch. "alternate":
    # an iteration takes one of them, in turn.
    cfg.DATASETS.TASK_MODE = "separate"

    cfg.DATASETS.PSEUDO_LABELS = CN()
    # Files from tools/pseudo_label.py. Unannotated images that they name get their boxes; annotated
    # images keep their ground truth alone.
    cfg.DATASETS.PSEUDO_LABELS.FILES = ()
    # Folders from tools/pseudo_label.py --masks. Images without a mask that they name get theirs;
    # pixels of which the teacher was not certain are ignored.
    cfg.DATASETS.PSEUDO_LABELS.MASKS = ()
    # Boxes whose teacher score is lower are not used, for all classes and for each class in order
    # (empty = no threshold of its own). A box must reach both.
    cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH = 0.0
    cfg.DATASETS.PSEUDO_LABELS.CLASS_SCORE_THRESH = []
    # The largest number of boxes per image, of which the best are taken; 0 = all.
    cfg.DATASETS.PSEUDO_LABELS.TOPK = 0
    # What an image is for which a file has no box left: "background" = annotated as empty,
    # "skip" = not annotated, so that it only serves distillation.
    cfg.DATASETS.PSEUDO_LABELS.EMPTY = "background"

    # The side, in pixels, of the square that images are stretched to in training and test (320 or
    # 512 in Lê and Pham). 0 = Detectron2's INPUT.MIN_SIZE_* and MAX_SIZE_*. In test the model
    # stretches the whole image itself: it prevails over MIN_SIZE_TEST, which `load_config` sets to
    # 0, so that Detectron2's DefaultPredictor hands the whole image over. A meta-architecture of
    # Detectron2 can only do so, and crop (CENTER_CROP_TEST), as the student of a Distiller.
    cfg.INPUT.SQUARE_SIZE = 0
    cfg.register_renamed_key("INPUT.STRETCH", "INPUT.SQUARE_SIZE")
    # The augmentation of training images: "" = Detectron2's INPUT.RANDOM_FLIP and CROP,
    # "single_shot" = the colour distortion, crop or expansion, and mirroring of Lê and Pham,
    # "padded_crop" = a shift by up to 4 pixels (CIFAR), "resized_crop" = a window resized to the
    # square of MIN_SIZE_TRAIN (ImageNet), both with RANDOM_FLIP, or one of AUGMENTATION_REGISTRY.
    cfg.INPUT.AUGMENTATION = ""
    # Whether the crop (INPUT.CROP) is cut out of the resized image; Detectron2 resizes what it has
    # cut out. With MIN_SIZE_TRAIN [512, 2048], MIN_SIZE_TRAIN_SAMPLING range and MAX_SIZE_TRAIN
    # 4096, images of Cityscapes are scaled by 0.5 to 2 before.
    cfg.INPUT.CROP.AFTER_RESIZE = False
    # The share of a crop's annotated pixels that one class of a mask may have, as in Detectron2's
    # DeepLab: up to ten crops are drawn until it has less; 1.0 = the first is taken.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # The side, in pixels, of the square that is cut out of the middle of test images after they
    # were resized to MIN_SIZE_TEST (ImageNet: 224 of 256), for classification; 0 = the whole image.
    cfg.INPUT.CENTER_CROP_TEST = 0
    # The number of independently augmented copies of each image in a batch, which then holds COPIES
    # times SOLVER.IMS_PER_BATCH images (2: the "double augmentation" of Lê and Pham).
    cfg.INPUT.COPIES = 1
    # The number of augmented views of an image, which are taken in turn over epochs and copies and
    # never change, so that MODEL.DISTILLATION.CACHE can keep the teacher's outputs; 0 = new ones.
    cfg.INPUT.VIEWS = 0
    cfg.INPUT.MULTI_SCALE = CN()
    # Sizes in pixels that replace SQUARE_SIZE, one drawn for each training batch (in Lê and Pham
    # 256, 320, 384 for 320, and 384, 512, 640 for 512); empty = always SQUARE_SIZE.
    cfg.INPUT.MULTI_SCALE.SIZES = []
    # The share of MAX_ITER at the end that is always trained at SQUARE_SIZE.
    cfg.INPUT.MULTI_SCALE.FINAL_FRACTION = 0.2
    # Samples of several training images (data/mixing.py), each augmented by itself, of the size of
    # the first. The others are drawn from the images with the same annotations, so that nothing
    # that is not annotated counts as background. MOSAIC, COPY_PASTE and MIXUP are the
    # probabilities of each, 0 = never. With several of them a mosaic is made first, pasted onto
    # second, and blended last.
    cfg.INPUT.MIX = CN()
    # Four images with boxes, masks or both around one point, scaled by factors of this range.
    cfg.INPUT.MIX.MOSAIC = 0.0
    cfg.INPUT.MIX.MOSAIC_SCALE = [0.5, 1.5]
    # Objects of another image: by their outlines ("segmentation", also for models without instance
    # masks), without these in windows around their boxes, with masks alone half of the classes.
    cfg.INPUT.MIX.COPY_PASTE = 0.0
    # The mean with another image, for boxes and labels (not for masks), weighted with a draw from
    # Beta(ALPHA, ALPHA): all boxes count in full, labels in these shares. 32: about half of each,
    # as is usual for boxes; for labels 0.2 to 1 (Zhang et al., ICLR 2018).
    cfg.INPUT.MIX.MIXUP = 0.0
    cfg.INPUT.MIX.MIXUP_ALPHA = 32.0
    # The share of an object that must remain visible; it is dropped otherwise, and so is what is
    # left with a side below 2 pixels.
    cfg.INPUT.MIX.MIN_VISIBLE = 0.2
    # The share of MAX_ITER at the end in which no images are mixed (YOLOv8 and YOLO11: 0.1, YOLOX:
    # 0.05).
    cfg.INPUT.MIX.FINAL_FRACTION = 0.1
