"""Config keys of the models."""

from detectron2.config import CfgNode as CN


def add_modeling_config(cfg: CN) -> None:
    """Add the keys of multas' backbones, necks, heads and meta-architecture, in place.

    "The paper" in the comments is Lê and Pham, ICCVW 2023.

    Args:
        cfg: the result of ``detectron2.config.get_cfg()``.
    """
    _add_backbone_config(cfg)
    _add_network_config(cfg)
    _add_dense_head_config(cfg)
    _add_gfl_head_config(cfg)
    _add_other_heads_config(cfg)


def _add_backbone_config(cfg: CN) -> None:
    # For MODEL.BACKBONE.NAME build_multas_resnet_backbone, build_multas_fpn_backbone,
    # build_context_fpn_backbone and build_context_pafpn_backbone.
    # Whether the stem ends with the 3x3 stride-2 max-pooling. False halves all strides (the paper).
    cfg.MODEL.RESNETS.STEM_MAX_POOL = True
    # The stem's convolution. 3 and 1 without the pooling give the ResNet for CIFAR, whose res2 …
    # res5 have the strides 1 … 8.
    cfg.MODEL.RESNETS.STEM_KERNEL_SIZE = 7
    cfg.MODEL.RESNETS.STEM_STRIDE = 2

    # build_multas_fpn_backbone: number of coarser levels (2: RetinaNet's p6 and p7).
    cfg.MODEL.FPN.NUM_EXTRA_LEVELS = 0

    # The necks of build_context_fpn_backbone and build_context_pafpn_backbone.
    cfg.MODEL.NECK = CN()
    # Two stages in MODEL.RESNETS.OUT_FEATURES, the second with twice the stride of the first.
    cfg.MODEL.NECK.IN_FEATURES = ["res4", "res5"]
    # Channels of every level.
    cfg.MODEL.NECK.OUT_CHANNELS = 256
    # Number of levels p3, p4, …: 4 for 320 px, 5 from 512 px on in the paper.
    cfg.MODEL.NECK.NUM_LEVELS = 4
    # Norm of every block: "BN", "SyncBN", "FrozenBN", "GN" or "" (no norm).
    cfg.MODEL.NECK.NORM = "BN"
    # Slope of LeakyReLU for negative values.
    cfg.MODEL.NECK.LEAKY_SLOPE = 0.1


def _add_network_config(cfg: CN) -> None:
    # For MODEL.META_ARCHITECTURE MultiTaskNetwork.
    cfg.MODEL.MULTITASK = CN()
    # Names of the tasks. Their heads are called `heads.<task>` in taps and checkpoints.
    cfg.MODEL.MULTITASK.TASKS = ["det"]
    # The head of each task: DenseDetectionHead, GFLHead, SemanticFPNHead, LinearClassificationHead,
    # or a class of your own in TASK_HEAD_REGISTRY, from a module in IMPORT_MODULES. An entry is a
    # name, or a mapping with the key TYPE and arguments of the class's constructor in capitals,
    # like {TYPE: MyHead, HIDDEN: 3}, which prevail over what the class reads from the config.
    cfg.MODEL.MULTITASK.HEADS = ["DenseDetectionHead"]
    # Factor of each task's losses; empty: all 1.
    cfg.MODEL.MULTITASK.LOSS_WEIGHTS = []
    # How the tasks' gradients of shared parameters are combined: "sum", or "mgda": T times the
    # min-norm point of the T gradients, which lowers every task's loss or is zero. "mgda" cannot be
    # used with an aggregation of paths by feature gradients (AGGREGATION.SCOPE), nor with
    # DATASETS.TASK_MODE alternate.
    cfg.MODEL.MULTITASK.GRADIENTS = "sum"
    # mgda: what each gradient is divided by before the problem is solved: "none": 1, "l2": its
    # length, "loss": its loss, "loss+": both (see MODEL.DISTILLATION.AGGREGATION.NORMALISATION).
    cfg.MODEL.MULTITASK.NORMALISATION = "l2"


def _add_dense_head_config(cfg: CN) -> None:
    # DenseDetectionHead. Its anchors are MODEL.ANCHOR_GENERATOR.* (in the paper
    # ClippedAnchorGenerator with OFFSET 0.5).
    head = cfg.MODEL.DENSE_HEAD = CN()
    # Levels to detect on; empty: all that the backbone returns.
    head.IN_FEATURES = []
    # Number of classes without background.
    head.NUM_CLASSES = 20
    # False: separate sub-networks for every level with 1x1 output convolutions and LeakyReLU (the
    # code of the paper). True: Detectron2's RetinaNet head.
    head.SHARED = False
    # Number of 3x3 convolutions before the output of each sub-network (2 in the paper).
    head.NUM_CONVS = 2
    # Norm of these convolutions: "BN", "SyncBN", "FrozenBN", "GN" or "" (no norm). With SHARED,
    # "BN" has separate statistics for every level.
    head.NORM = "BN"
    # Slope of LeakyReLU for negative values (not for SHARED, which has ReLU).
    head.LEAKY_SLOPE = 0.1
    # Score of every class and anchor at the start of the training.
    head.PRIOR_PROB = 0.01
    # Factors of dx, dy, dw, dh; (10, 10, 5, 5) are the variances 0.1 and 0.2 of SSD.
    head.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

    # "iou" (the paper's students) or "mutual_guidance" (its teachers).
    head.ASSIGNMENT = "iou"
    # "iou": background below the first threshold, positive from the second on, else ignored.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # "mutual_guidance": an object gets as many positives as the sum of its TOPK best IoUs; sigma
    # damps the amplification of IoUs by scores.
    head.MUTUAL_TOPK = 15
    head.MUTUAL_SIGMA = 2.0
    # "quality_focal" (the paper) or "focal".
    head.CLS_LOSS = "quality_focal"
    head.QUALITY_FOCAL_GAMMA = 2.0
    # "focal": gamma is 1 in the code of the paper, 2 in RetinaNet.
    head.FOCAL_ALPHA = 0.25
    head.FOCAL_GAMMA = 1.0
    # Loss of box deltas: "balanced_l1" (the paper) or "smooth_l1".
    head.BOX_LOSS = "balanced_l1"
    # "smooth_l1": error at which the loss becomes linear.
    head.SMOOTH_L1_BETA = 0.1
    # Whether positives are weighted by the score of their pseudo-label (field gt_scores).
    head.WEIGHT_BY_SCORE = False

    # Inference keeps the best TOPK_CANDIDATES_TEST scores (0: all) above SCORE_THRESH_TEST, applies
    # NMS with this IoU, and keeps the best TEST.DETECTIONS_PER_IMAGE (0: all).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.5
    # True: one NMS over the anchors ranked by their best class; each class of a kept anchor with a
    # score above the threshold is a detection (the code of the paper). False: NMS per class.
    head.CLASS_AGNOSTIC_NMS = False


def _add_gfl_head_config(cfg: CN) -> None:
    # GFLHead: RetinaNet with Generalized Focal Loss (Li et al., NeurIPS 2020). Its anchors are
    # MODEL.ANCHOR_GENERATOR.*: in GFL one per cell, a square of 8 strides, with OFFSET 0.
    head = cfg.MODEL.GFL_HEAD = CN()
    # Levels to detect on, all of the same width; empty: all that the backbone returns.
    head.IN_FEATURES = []
    # Number of classes without background.
    head.NUM_CLASSES = 80
    # Number of 3x3 convolutions before the output of each sub-network.
    head.NUM_CONVS = 4
    # Norm of these convolutions: "GN" (GFL; 32 groups, fewer if the width is no multiple of 64),
    # "BN" and "SyncBN" (with separate statistics for every level), "FrozenBN" or "" (no norm).
    head.NORM = "GN"
    # Score of every class and anchor at the start of the training.
    head.PRIOR_PROB = 0.01
    # A box side is a distribution over the distances 0 … REG_MAX, in strides, from the centre of
    # the anchor. LocalizationDistillation needs the same value in teacher and student.
    head.REG_MAX = 16

    # "atss" (GFL) or "iou" (RetinaNet).
    head.ASSIGNMENT = "atss"
    # "atss": number of candidates of an object on each level, the anchors with the nearest centres.
    head.ATSS_TOPK = 9
    # "iou": background below the first threshold, positive from the second on, else ignored.
    head.IOU_THRESHOLDS = [0.4, 0.5]
    # Exponent of the quality focal loss, and the factors of the three losses.
    head.QUALITY_FOCAL_BETA = 2.0
    head.CLS_LOSS_WEIGHT = 1.0
    head.GIOU_LOSS_WEIGHT = 2.0
    head.DFL_LOSS_WEIGHT = 0.25
    # Whether positives are weighted by the score of their pseudo-label (field gt_scores).
    head.WEIGHT_BY_SCORE = False

    # Inference keeps the best TOPK_CANDIDATES_TEST scores (0: all; in GFL so many per level) above
    # SCORE_THRESH_TEST, applies NMS per class with this IoU, and keeps the best
    # TEST.DETECTIONS_PER_IMAGE (0: all).
    head.SCORE_THRESH_TEST = 0.05
    head.TOPK_CANDIDATES_TEST = 1000
    head.NMS_THRESH_TEST = 0.6


def _add_other_heads_config(cfg: CN) -> None:
    head = cfg.MODEL.SEMANTIC_FPN_HEAD = CN()
    # Levels to segment from; empty: all that the backbone returns.
    head.IN_FEATURES = []
    # Number of classes including background (21 for VOC).
    head.NUM_CLASSES = 21
    # Channels of the convolutions.
    head.CONVS_DIM = 128
    # Stride at which the levels are added.
    head.COMMON_STRIDE = 4
    # Number of 3x3 convolutions at the size of the input: 3 in the code of the paper, 0 in Panoptic
    # FPN (Kirillov et al., CVPR 2019).
    head.NUM_FINAL_CONVS = 3
    # Norm and LeakyReLU slope of all convolutions.
    head.NORM = "BN"
    head.LEAKY_SLOPE = 0.1
    # Label of pixels without annotation in this head, in augmentations and in DeFeat. It must be
    # the `ignore_label` of the data set.
    head.IGNORE_VALUE = 255

    head = cfg.MODEL.LINEAR_HEAD = CN()
    # The feature map to pool and classify; empty: the coarsest that the backbone returns.
    head.IN_FEATURE = ""
    head.NUM_CLASSES = 1000
