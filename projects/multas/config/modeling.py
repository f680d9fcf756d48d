"""Config keys of the models."""

from detectron2.config import CfgNode as CN


def add_modeling_config(cfg: CN) -> None:
    """Add the keys of multas' backbones, necks, heads and meta-architecture, in place.

    Args:
        cfg: what ``detectron2.config.get_cfg()`` returned.
    """
    _add_backbone_config(cfg)
    _add_network_config(cfg)
    _add_dense_head_config(cfg)
    _add_gfl_head_config(cfg)
    _add_other_heads_config(cfg)


def _add_backbone_config(cfg: CN) -> None:
    # For MODEL.BACKBONE.NAME build_multas_resnet_backbone, build_multas_fpn_backbone,
    # build_context_fpn_backbone, build_context_pafpn_backbone; further keys: MODEL.RESNETS.*.
    # Whether the stem ends with the 3x3 stride-2 max-pooling. False halves all strides
    # (ScratchDet; paper A).
    cfg.MODEL.RESNETS.STEM_MAX_POOL = True
    # The stem's convolution. 3 and 1, without the pooling, make the ResNet of CIFAR, whose res2 …
    # res5 have the strides 1 … 8.
    cfg.MODEL.RESNETS.STEM_KERNEL_SIZE = 7
    cfg.MODEL.RESNETS.STEM_STRIDE = 2

    # build_multas_fpn_backbone: coarser levels made from the last stage (2 = RetinaNet's p6, p7).
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = 0

    # The necks of build_context_fpn_backbone and build_context_pafpn_backbone (paper A).
    cfg.MODEL.NECK = CN()
    # Two stages, the second of twice the stride of the first. Name them in
    # MODEL.RESNETS.OUT_FEATURES, too.
    cfg.MODEL.NECK.IN_FEATURES = ["res4", "res5"]
    # Channels of every level.
    cfg.MODEL.NECK.OUT_CHANNELS = 256
    # Levels p3, p4, …: 4 for 320 px, 5 from 512 px on in paper A.
    cfg.MODEL.NECK.NUM_LEVELS = 4
    # Norm of every block: "BN", "SyncBN", "FrozenBN", "GN" or "" (none).
    cfg.MODEL.NECK.NORM = "BN"
    # Slope of LeakyReLU for negative values.
    cfg.MODEL.NECK.LEAKY_SLOPE = 0.1


def _add_network_config(cfg: CN) -> None:
    # For MODEL.META_ARCHITECTURE MultiTaskNetwork.
    cfg.MODEL.MULTITASK = CN()
    # Names of the tasks: heads are called `heads.<task>` in taps and checkpoints.
    cfg.MODEL.MULTITASK.TASKS = ["det"]
    # The head of each task: DenseDetectionHead, GFLHead, SemanticFPNHead, LinearClassificationHead,
    # or a class of your own in TASK_HEAD_REGISTRY, from a module in IMPORT_MODULES. An entry is a
    # name, or a mapping with the key TYPE and arguments of the class's constructor in capitals,
    # like {TYPE: MyHead, HIDDEN: 3}, which prevail over what the class reads from the config.
    cfg.MODEL.MULTITASK.HEADS = ["DenseDetectionHead"]
    # Factor of each task's losses; empty = all 1.
    cfg.MODEL.MULTITASK.LOSS_WEIGHTS = []
    # How the tasks' gradients of shared parameters become one: "sum", or "mgda", T times the
    # min-norm point of the T gradients, which lowers every task's loss or is zero. Goes with any
    # aggregation of paths, except that by gradients of features (AGGREGATION.SCOPE), but not with
    # DATASETS.TASK_MODE alternate, where tasks do not meet.
    cfg.MODEL.MULTITASK.GRADIENTS = "sum"
    # mgda: gradients are divided by "none" 1, "l2" their length, "loss" their loss, "loss+" both
    # before the problem is solved (see MODEL.DISTILLATION.AGGREGATION.NORMALISATION).
    cfg.MODEL.MULTITASK.NORMALISATION = "l2"


def _add_dense_head_config(cfg: CN) -> None:
    # DenseDetectionHead; its anchors are MODEL.ANCHOR_GENERATOR.* (ClippedAnchorGenerator with
    # OFFSET 0.5 for paper A).
    head = cfg.MODEL.DENSE_HEAD = CN()
    # Maps to detect on; empty = all that the backbone returns.
    head.IN_FEATURES = []
    # Classes, without background.
    head.NUM_CLASSES = 20
    # False: sub-networks of their own for every level, 1x1 output convolution, LeakyReLU
    # (reference implementation of paper A). True: Detectron2's RetinaNet head.
    head.SHARED = False
    # 3x3 convolutions in front of the output of each sub-network (paper A: 2).
    head.NUM_CONVS = 2
    # Norm of these convolutions: "BN", "SyncBN", "FrozenBN", "GN" or "" (none). With SHARED, BN
    # has statistics of its own for every level.
    head.NORM = "BN"
    # Slope of LeakyReLU for negative values (SHARED has ReLU).
    head.LEAKY_SLOPE = 0.1
    # Score that every class has at every anchor before training.
    head.PRIOR_PROB = 0.01
    # Factors of dx, dy, dw, dh; (10, 10, 5, 5) = variances 0.1 and 0.2 of single-shot detectors.
    head.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

    # "iou" (paper A's students) or "mutual_guidance" (its teachers).
    head.ASSIGNMENT = "iou"
    # "iou": background below the first, positive from the second, ignored between.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # "mutual_guidance": how many of the best overlaps decide how many positives an object gets,
    # and the damping sigma of the amplification by scores.
    head.MUTUAL_TOPK = 15
    head.MUTUAL_SIGMA = 2.0
    # "quality_focal" (both of paper A) or "focal".
    head.CLS_LOSS = "quality_focal"
    head.QUALITY_FOCAL_GAMMA = 2.0
    # "focal": the reference implementation has gamma 1, RetinaNet 2.
    head.FOCAL_ALPHA = 0.25
    head.FOCAL_GAMMA = 1.0
    # "balanced_l1" (paper A) or "smooth_l1", on deltas.
    head.BOX_LOSS = "balanced_l1"
    # "smooth_l1": error at which it becomes linear.
    head.SMOOTH_L1_BETA = 0.1
    # Whether positives count in proportion to the score of their pseudo-label (field gt_scores).
    head.WEIGHT_BY_SCORE = False

    # Inference: scores above SCORE_THRESH_TEST, the best TOPK_CANDIDATES_TEST of them (0 = all),
    # NMS at this IoU, then the best TEST.DETECTIONS_PER_IMAGE (0 = all).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.5
    # True: one NMS over the anchors ranked by their best class, as the reference implementation
    # of paper A does, and every class above the threshold of a survivor is a detection.
    head.CLASS_AGNOSTIC_NMS = False


def _add_gfl_head_config(cfg: CN) -> None:
    # GFLHead: RetinaNet with Generalized Focal Loss (paper B's detector). Its anchors are
    # MODEL.ANCHOR_GENERATOR.*: GFL has one per place, a square of 8 strides, OFFSET 0.
    head = cfg.MODEL.GFL_HEAD = CN()
    # Maps to detect on, all of one width; empty = all that the backbone returns.
    head.IN_FEATURES = []
    # Classes, without background.
    head.NUM_CLASSES = 80
    # 3x3 convolutions in front of the output of each of the two sub-networks.
    head.NUM_CONVS = 4
    # Norm of these convolutions: "GN" (GFL; 32 groups, fewer where the width is no multiple of 64),
    # "BN" and "SyncBN" (with statistics of their own for every level), "FrozenBN" or "" (none).
    head.NORM = "GN"
    # Score that every class has at every anchor before training.
    head.PRIOR_PROB = 0.01
    # A box side is a distribution over the distances 0 … REG_MAX, in strides, from the centre of
    # the anchor; a teacher's must be the student's for LocalizationDistillation.
    head.REG_MAX = 16

    # "atss" (GFL) or "iou" (RetinaNet).
    head.ASSIGNMENT = "atss"
    # "atss": anchors of each level, nearest to an object, that may become its positives.
    head.ATSS_TOPK = 9
    # "iou": background below the first, positive from the second, ignored between.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # Exponent of the quality focal loss, and the factors of the three losses.
    head.QUALITY_FOCAL_BETA = 2.0
    head.CLS_LOSS_WEIGHT = 1.0
    head.GIOU_LOSS_WEIGHT = 2.0
    head.DFL_LOSS_WEIGHT = 0.25
    # Whether positives count in proportion to the score of their pseudo-label (field gt_scores).
    head.WEIGHT_BY_SCORE = False

    # Inference: scores above SCORE_THRESH_TEST, the best TOPK_CANDIDATES_TEST of all levels
    # together (0 = all; GFL takes so many of each level), NMS per class at this IoU, then the best
    # TEST.DETECTIONS_PER_IMAGE (0 = all).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.6


def _add_other_heads_config(cfg: CN) -> None:
    head = cfg.MODEL.SEMANTIC_FPN_HEAD = CN()
    # Maps to segment from; empty = all that the backbone returns.
    head.IN_FEATURES = []
    # Classes, background included (21 for VOC).
    head.NUM_CLASSES = 21
    # Width of the blocks.
    head.CONVS_DIM = 128
    # Stride at which the levels are added.
    head.COMMON_STRIDE = 4
    # 3x3 convolutions at the size of the input: 3 in the reference implementation of paper A,
    # 0 in Panoptic FPN.
    head.NUM_FINAL_CONVS = 3
    # Norm and LeakyReLU slope of all of them.
    head.NORM = "BN"
    head.LEAKY_SLOPE = 0.1
    # Label of pixels without annotation, in all that reads masks: this head, augmentations, DeFeat.
    # It must be the data's (`ignore_label` of a card).
    head.IGNORE_VALUE = 255

    head = cfg.MODEL.LINEAR_HEAD = CN()
    # The map that is pooled and classified; empty = the coarsest that the backbone returns.
    head.IN_FEATURE = ""
    head.NUM_CLASSES = 1000
