"""Config keys of the models."""

from detectron2.config import CfgNode as CN


def add_modeling_config(cfg: CN) -> None:
    """Add the keys below, in place. "The paper" in the comments is Lê and Pham, ICCVW 2023."""
    # For MODEL.BACKBONE.NAME build_multas_resnet_backbone, build_multas_fpn_backbone,
    # build_context_fpn_backbone and build_context_pafpn_backbone.
    # Whether the stem ends with the 3x3 max-pooling of stride 2. False halves all strides (paper).
    cfg.MODEL.RESNETS.STEM_MAX_POOL = True
    # The stem's convolution. 3 and 1 without the pooling give the ResNet for CIFAR, where res2 …
    # res5 have the strides 1 … 8.
    cfg.MODEL.RESNETS.STEM_KERNEL_SIZE = 7
    cfg.MODEL.RESNETS.STEM_STRIDE = 2
    # build_multas_fpn_backbone: the number of coarser levels (2: RetinaNet's p6 and p7).
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = 0

    _add_timm_config(cfg)

    # The necks of build_context_fpn_backbone, build_context_pafpn_backbone and of those of timm.
    neck = cfg.MODEL.NECK = CN()
    # Two stages of the backbone, the second with twice the stride of the first.
    neck.IN_FEATURES = ["res4", "res5"]
    # The number of channels of every level.
    neck.OUT_CHANNELS = 256
    # The number of levels p3, p4, … (paper: 4 for 320 pixels, 5 from 512 pixels on).
    neck.NUM_LEVELS = 4
    # The norm of every block: "BN", "SyncBN", "FrozenBN", "GN" or "" = no norm.
    neck.NORM = "BN"
    # The slope of LeakyReLU for negative values.
    neck.LEAKY_SLOPE = 0.1

    # For MODEL.META_ARCHITECTURE MultiTaskNetwork.
    tasks = cfg.MODEL.MULTITASK = CN()
    # The names of the tasks. Their heads are called `heads.<task>` in taps and checkpoints.
    tasks.TASKS = ["det"]
    # The head of each task: DenseDetectionHead, GFLHead, SemanticFPNHead, LinearClassificationHead,
    # or one of your own in TASK_HEAD_REGISTRY. It is a name, or a mapping with the key TYPE and
    # arguments of the class's constructor in capitals, like {TYPE: MyHead, HIDDEN: 3}, which
    # prevail over what the class reads from the config.
    tasks.HEADS = ["DenseDetectionHead"]
    # The factor of each task's losses; empty = 1 for all.
    tasks.LOSS_WEIGHTS = []
    # How the tasks' gradients of shared parameters are combined: "sum", or "mgda" = by the weights
    # that solve the min-norm problem, so that every task's loss falls, or nothing moves. "mgda"
    # excludes AGGREGATION.SCOPE features and DATASETS.TASK_MODE alternate.
    tasks.GRADIENTS = "sum"
    # mgda: what each gradient is divided by before the weights are solved for: "none" = 1, "l2" =
    # its length, "loss" = its loss, "loss+" = both.
    tasks.NORMALISATION = "l2"
    # mgda: how long their combination is: "mean" = the summands are together as long as those of
    # the plain sum, "simplex" = the weights of the T tasks add up to T, so that it is about T times
    # as long as the shortest gradient, "raw" = the weights of the normalised problem, with which a
    # task may get worse. "auto" is "simplex" for NORMALISATION none and "mean" otherwise.
    tasks.LENGTH = "auto"

    _add_dense_head_config(cfg)
    _add_gfl_head_config(cfg)

    head = cfg.MODEL.SEMANTIC_FPN_HEAD = CN()
    # The levels to segment from; empty = all that the backbone returns.
    head.IN_FEATURES = []
    # The number of classes, background included (21 for VOC).
    head.NUM_CLASSES = 21
    # The number of channels of the convolutions.
    head.CONVS_DIM = 128
    # The stride at which the levels are added.
    head.COMMON_STRIDE = 4
    # The number of 3x3 convolutions at the size of the input: 3 in the code of the paper, 0 in
    # Panoptic FPN (Kirillov et al., CVPR 2019).
    head.NUM_FINAL_CONVS = 3
    # The norm, and the slope of LeakyReLU for negative values, of all convolutions.
    head.NORM = "BN"
    head.LEAKY_SLOPE = 0.1
    # The label of pixels without annotation in this head, in augmentations and in DeFeat. It must
    # be the `ignore_label` of the data set.
    head.IGNORE_VALUE = 255

    # The names of the classes of boxes, masks and images. The config.yaml of a run has them, so
    # that its model can be served where the data cards are missing; a card that is there prevails.
    classes = cfg.MODEL.CLASSES = CN()
    classes.DET, classes.SEG, classes.CLS = [], [], []

    _add_exported_config(cfg)

    head = cfg.MODEL.LINEAR_HEAD = CN()
    # The feature map to pool and classify; empty = the coarsest that the backbone returns.
    head.IN_FEATURE = ""
    # The number of classes.
    head.NUM_CLASSES = 1000


def _add_timm_config(cfg: CN) -> None:
    """A backbone of the library timm, see docs/backbones.md."""
    # For MODEL.BACKBONE.NAME build_timm_backbone (alone), build_timm_fpn_backbone (MODEL.FPN.*),
    # build_timm_context_fpn_backbone and build_timm_context_pafpn_backbone (MODEL.NECK.*), and
    # build_timm_vit_pyramid_backbone (a plain ViT; MODEL.FPN.*). MODEL.BACKBONE.FREEZE_AT 2 … 5
    # keeps everything up to res2 … res5, 0 nothing.
    timm = cfg.MODEL.TIMM = CN()
    # A name of timm.list_models(), with the tag of its weights or without it:
    # "mobilenetv2_100.ra_in1k".
    timm.NAME = ""
    # The weights that training starts from: "" = random ones, "hub" = those of timm's hub, or a
    # local file (.safetensors, .pth) with timm's names. Where MODEL.WEIGHTS names a checkpoint,
    # which would replace them, they are not read: a trained model is served without them.
    timm.PRETRAINED = ""
    # build_timm_backbone: its maps, res<log2 of their stride>. (A neck has its own IN_FEATURES.)
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # The probability that the last residual block is left out in training; it falls linearly to 0
    # at the first one.
    timm.DROP_PATH = 0.0
    # "FrozenBN" = BatchNorms keep their statistics, scales and shifts; "SyncBN"; "" = as they are.
    timm.NORM = ""


def _add_exported_config(cfg: CN) -> None:
    """A network in a file of another runtime, see docs/serving.md."""
    # For MODEL.META_ARCHITECTURE ExportedModel.
    exported = cfg.MODEL.EXPORTED = CN()
    # A file .onnx or .xml of tools/export.py, or a YAML file that describes a detector of another
    # program. `load_config` moves MODEL.WEIGHTS here, which Detectron2 would take for a checkpoint,
    # and leaves test images whole (INPUT.*_TEST): the file has its own rule of resizing.
    exported.FILE = ""
    # "onnxruntime" or "openvino"; "" = the first of them that reads the file and is installed.
    exported.LIBRARY = ""
    # The number of threads; 0 = all cores.
    exported.THREADS = 0
    # OpenVINO: "f32" or "bf16"; "" = what the processor multiplies fastest.
    exported.PRECISION = ""


def _add_dense_head_config(cfg: CN) -> None:
    """DenseDetectionHead; its anchors are MODEL.ANCHOR_GENERATOR.* (the paper's are clipped)."""
    head = cfg.MODEL.DENSE_HEAD = CN()
    # The levels to detect on; empty = all that the backbone returns.
    head.IN_FEATURES = []
    # The number of classes, without background.
    head.NUM_CLASSES = 20
    # False = separate sub-networks for every level with 1x1 output convolutions and LeakyReLU (the
    # code of the paper), True = Detectron2's RetinaNet head.
    head.SHARED = False
    # The number of 3x3 convolutions before the output of each sub-network (paper: 2).
    head.NUM_CONVS = 2
    # The norm of these convolutions: "BN" (with SHARED, separate for every level), "SyncBN",
    # "FrozenBN", "GN" or "" = no norm.
    head.NORM = "BN"
    # The slope of LeakyReLU for negative values. (With SHARED, it is ReLU.)
    head.LEAKY_SLOPE = 0.1
    # The score of every class and anchor at the start of the training.
    head.PRIOR_PROB = 0.01
    # The factors of dx, dy, dw, dh. (10, 10, 5, 5) are the variances 0.1 and 0.2 of SSD.
    head.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

    # How anchors are assigned: "iou" (the paper's students) or "mutual_guidance" (its teachers).
    head.ASSIGNMENT = "iou"
    # "iou": an anchor is background below the first IoU, positive from the second on, else ignored.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # "mutual_guidance": an object gets as many positives as the sum of its TOPK best IoUs, and
    # sigma damps the amplification of IoUs by scores.
    head.MUTUAL_TOPK = 15
    head.MUTUAL_SIGMA = 2.0
    # The loss of the classes: "quality_focal" (the paper), with its gamma, or "focal".
    head.CLS_LOSS = "quality_focal"
    head.QUALITY_FOCAL_GAMMA = 2.0
    # "focal": its alpha and gamma, which is 1 in the code of the paper and 2 in RetinaNet.
    head.FOCAL_ALPHA = 0.25
    head.FOCAL_GAMMA = 1.0
    # The loss of the boxes: "balanced_l1" (the paper) or "smooth_l1" of their deltas, of which the
    # latter is linear above the error SMOOTH_L1_BETA; or "giou" = 1 - generalised IoU.
    head.BOX_LOSS = "balanced_l1"
    head.BOX_LOSS_WEIGHT = 1.0
    head.SMOOTH_L1_BETA = 0.1
    # Whether positives are weighted by the score of their pseudo-label (field gt_scores).
    head.WEIGHT_BY_SCORE = False

    # Inference takes the best TOPK_CANDIDATES_TEST scores (0 = all) above SCORE_THRESH_TEST, does
    # NMS with the IoU NMS_THRESH_TEST, and keeps the best TEST.DETECTIONS_PER_IMAGE (0 = all).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.5
    # False = NMS for each class, True = one NMS over the anchors, ranked by their best class, of
    # which each class with a score above the threshold is a detection (the code of the paper).
    head.CLASS_AGNOSTIC_NMS = False


def _add_gfl_head_config(cfg: CN) -> None:
    """GFLHead: RetinaNet with Generalized Focal Loss (Li et al., NeurIPS 2020).

    Its anchors are MODEL.ANCHOR_GENERATOR.*, in GFL a square of 8 strides per cell with OFFSET 0.
    """
    head = cfg.MODEL.GFL_HEAD = CN()
    # These keys mean the same as in DENSE_HEAD. All levels must have the same number of channels.
    head.IN_FEATURES = []
    head.NUM_CLASSES = 80
    head.NUM_CONVS = 4
    head.PRIOR_PROB = 0.01
    head.WEIGHT_BY_SCORE = False
    # The norm of the convolutions: "GN" (32 groups, fewer if the number of channels is no multiple
    # of 64), "BN" or "SyncBN" (separate statistics for every level), "FrozenBN" or "" = no norm.
    head.NORM = "GN"
    # A box side is a distribution over the distances 0 … REG_MAX, in strides, from the centre of
    # the anchor. LocalizationDistillation needs the same value in teacher and student.
    head.REG_MAX = 16
    # How anchors are assigned to objects: "atss" (GFL) or "iou" (RetinaNet).
    head.ASSIGNMENT = "atss"
    # "atss": the number of candidates per object and level, the anchors with the nearest centres.
    head.ATSS_TOPK = 9
    # "iou": the same as in DENSE_HEAD.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # The exponent of the quality focal loss, and the factors of the three losses.
    head.QUALITY_FOCAL_BETA = 2.0
    head.CLS_LOSS_WEIGHT = 1.0
    head.GIOU_LOSS_WEIGHT = 2.0
    head.DFL_LOSS_WEIGHT = 0.25
    # Inference is that of DENSE_HEAD with NMS for each class (in GFL, TOPK holds for each level).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.6
