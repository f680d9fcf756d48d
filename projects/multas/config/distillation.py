"""Config keys of distillation: teacher, paths, aggregation."""

from detectron2.config import CfgNode as CN


def teacher_node() -> CN:
    """The keys of one teacher, with their defaults."""
    teacher = CN()
    # The teacher's own config file, and its trained weights, from the working directory. No weights
    # are needed where paths tap nothing but a pretrained backbone (its MODEL.TIMM.PRETRAINED).
    teacher.CONFIG_FILE = ""
    teacher.WEIGHTS = ""
    # KEY VALUE pairs that are merged into its config.
    teacher.OPTS = []
    # 0 = a fixed teacher. A larger value d makes it a mean teacher, t = d t + (1 - d) s after every
    # step with the student's weights s: an average over 1 / (1 - d) iterations. It has the
    # student's network (CONFIG_FILE ""), starts from WEIGHTS or, with "", as a copy of the student,
    # and sees the same augmented images.
    teacher.EMA_DECAY = 0.0
    # The number of iterations in which a mean teacher does not move yet or, without WEIGHTS, equals
    # the student. Set RAMP.START to the same number: a young student is a bad teacher.
    teacher.EMA_START = 0
    # The number format of its convolutions and matrix products: "" = the student's (SOLVER.AMP),
    # "bfloat16" (features differ by about 1 %), "float16", or "auto" = the one that the hardware
    # multiplies natively (bfloat16: AVX512_BF16, AMX, GPUs from Ampere on; float16: older GPUs),
    # otherwise "".
    teacher.PRECISION = ""
    return teacher


def aggregation_node() -> CN:
    """The keys of the aggregation, with their defaults."""
    # The options of the aggregator are keys of this node, too: the arguments of its constructor in
    # capitals, which its docstring explains. An option that it does not have is refused.
    aggregation = CN(new_allowed=True)
    # How the paths are weighed: the name of an aggregator of these (with its options), or of yours.
    # By their losses:
    #   single, hand_tuned, equal: fixed v
    #   adaptive: v = exp(-z), eqs. 5 and 6; MAX_WEIGHTED_LOSS, Z_WEIGHT_DECAY, Z_MOMENTUM,
    #     Z_LR, START
    #   fading: likewise, with a regulariser by which mastered paths fade; MAX_WEIGHTED_LOSS
    #   imtl_l: v = exp(s), adaptive's eqs. 5 and 6 to the letter under another name
    #   uw_so: v in closed form, a softmax of 1 / loss; TEMPERATURE
    #   dwa: dynamic weight average; TEMPERATURE, PERIOD
    # By their gradients, with a backward pass for each path, and TASK_AS_OBJECTIVE
    # (mgda, grad_norm and torchjd):
    #   mgda: minimum-norm point, eq. 4; NORMALISATION, LENGTH
    #   grad_norm: gradients of similar length; ASYMMETRY, LR
    #   gradient_ratio: together as long as RATIO times the task's gradient; MOMENTUM
    #   gradient_similarity: gated by the cosine with the task's gradient; WEIGHTED
    #   dto: task and paths fall at one rate, in closed form; LENGTH
    #   bilevel: v descends on the loss of validation images, section 3.3; LR
    #   torchjd:<name>: UPGrad, AlignedMTL … of the library TorchJD, with its options
    # The equations and the section are those of Chennupati et al., BMVC 2021.
    aggregation.NAME = "adaptive"
    # With respect to what aggregators by gradients take them: "parameters" = the student's, exactly
    # as in the paper, "features" = those of layers that all paths pass through (Sener and Koltun,
    # NeurIPS 2018). The latter costs little more than one backward pass, but only minimises an
    # upper bound of the norm, up to a factor of the layers in front.
    aggregation.SCOPE = "parameters"
    # "parameters": the student layers whose parameters count; empty = all (grad_norm: the last
    # shared one). "features": the layers that lie between all that is distilled and what is in
    # front, for example the maps that a pyramid starts from: [backbone.bottom_up.res3, …res5].
    aggregation.SCOPE_LAYERS = []
    # Whether scope "parameters" takes the gradients for a quarter of the parameters at a time,
    # keeps only their inner products, and weighs the losses in one more backward pass. This needs
    # a quarter of the memory and more time.
    aggregation.LOW_MEMORY = False
    # bilevel: the annotated data sets that are not trained on.
    aggregation.DATA = []
    return aggregation


def add_distillation_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    d = cfg.MODEL.DISTILLATION = CN()
    # With MODEL.META_ARCHITECTURE "Distiller": the meta-architecture of the student. The rest of
    # the config describes the student, too.
    d.STUDENT = "MultiTaskNetwork"
    d.TEACHER = teacher_node()
    # Further teachers: a list of mappings with the same keys.
    d.MORE_TEACHERS = []
    # The paths, in the order of z: a list of mappings with the keys
    #   TYPE        a class of the path registry (AttentionTransfer, FeatureMSE, SoftDetection, …)
    #   NAME        its name in logs; the default is the class's own short name
    #   STUDENT     the name of the tapped layer, or a list; the default is the class's own
    #   TEACHER     the same in the teacher; the default is STUDENT
    #   WEIGHT      the hand-tuned weight v; the default is the class's own (the papers')
    #   LAYERWISE   true = each term of the path is a path of its own
    #   TEACHER_ID  the teacher: 0 (default) = TEACHER, 1 = the first of MORE_TEACHERS, …
    #   TASKS       tasks of DATASETS.TASK_BATCHES on whose images the path works; default: on all
    # and the options of the class in capitals (POWER, RESIZE, …).
    d.PATHS = []
    # The weight of all distillation against the task loss, alpha of eqs. 3 and 5 of Chennupati et
    # al. 0 = no distillation: the run equals the student's own training bit for bit.
    d.ALPHA = 1.0
    # Whether ALPHA is a budget: the weighted path losses are then together ALPHA times as large as
    # the task loss, whatever they are and however small it becomes. A step without labels takes the
    # last task loss. Not for aggregators by gradients, nor without HARD_LABELS.
    d.BUDGET = False
    d.RAMP = CN()
    # The number of iterations without distillation, and of those after them in which alpha grows.
    d.RAMP.START = 0
    d.RAMP.ITERS = 0
    # How alpha grows: "linear", or "sigmoid" = exp(-5 (1 - t)^2).
    d.RAMP.SHAPE = "sigmoid"
    d.DECAY = CN()
    # The share of training (SOLVER.MAX_ITER) in which alpha falls to 0, and of that at the end,
    # behind it, without distillation: the task has the last word. 0 and 0 = alpha stays.
    d.DECAY.FRACTION = 0.0
    d.DECAY.FINAL_FRACTION = 0.0
    # How alpha falls: "linear" or "cosine".
    d.DECAY.SHAPE = "cosine"
    # Whether the student's own losses on annotated images are used beside the paths. False is the
    # self-training of Lê and Pham, Tables 1 to 4: the student sees no annotation.
    d.HARD_LABELS = True
    # Where paths that need boxes (DeFeat's foreground) take them from: "auto" = the ground truth on
    # annotated images with HARD_LABELS, otherwise the teacher's detections, "teacher" = always the
    # teacher's, "ground_truth" = always the annotation, as in the reference implementation.
    d.BOXES = "auto"
    # The score above which a detection of the teacher counts as such a box.
    d.BOX_SCORE_THRESH = 0.5

    d.CACHE = CN()
    # A folder that keeps, in half precision, what fixed teachers return for each image, so that no
    # image is shown to them twice; "" = no cache. Set INPUT.VIEWS, so that images come back. Runs
    # may share a folder: an entry is found by the content of the image, the size that it is padded
    # to in its batch (always the same with INPUT.SQUARE_SIZE), and the teacher's weights. Empty
    # the folder after you change a teacher's code.
    d.CACHE.FOLDER = ""
    # The size limit in GB (10^9 bytes). The least recently used entries are dropped.
    d.CACHE.MAX_GB = 20.0

    d.AGGREGATION = aggregation_node()
