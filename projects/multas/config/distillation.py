"""Config keys of distillation: teacher, paths, aggregation."""

from detectron2.config import CfgNode as CN


def teacher_node() -> CN:
    """The keys of one teacher, with their defaults."""
    teacher = CN()
    # Its own config file and its trained weights (relative paths: from the working directory).
    teacher.CONFIG_FILE = ""
    teacher.WEIGHTS = ""
    # KEY VALUE pairs merged into its config.
    teacher.OPTS = []
    # 0 = a fixed teacher. Above 0, a mean teacher: t = d t + (1 - d) s after every step, with the
    # student's weights s (unbiased teacher: 0.9996; an average over 1 / (1 - d) iterations). It
    # needs the student's network, which it has with CONFIG_FILE "", and starts from WEIGHTS, with
    # "" as a copy of the student. It sees the same augmented images as the student.
    teacher.EMA_DECAY = 0.0
    # Iterations of burn-in before it follows: until then it stays as loaded, without WEIGHTS equal
    # to the student. A copy of a young student teaches nonsense: set RAMP.START to the same.
    teacher.EMA_START = 0
    # Number format of its convolutions and matrix products: "" = as the student (SOLVER.AMP),
    # "bfloat16", "float16", or "auto" = bfloat16 where the hardware multiplies it natively (CPUs
    # with AVX512_BF16 or AMX, GPUs from Ampere on), elsewhere "". The paths get float32 from it.
    # bfloat16 has 8 significant bits: features differ by about 1 %.
    teacher.PRECISION = ""
    return teacher


def aggregation_node() -> CN:
    """The keys of the aggregation, with their defaults."""
    # How the paths are weighed: NAME, the keys that follow here, and the options of the aggregator
    # of that name, which are arguments of its constructor in capitals (its docstring explains
    # them; an option that it does not have is refused). A class of your own is configured alike.
    aggregation = CN(new_allowed=True)
    # By losses:
    #   single, hand_tuned, equal   fixed v
    #   adaptive  v = exp(-z), eqs. 5 and 6; MAX_WEIGHTED_LOSS, Z_WEIGHT_DECAY, Z_MOMENTUM
    #   dwa       dynamic weight average; TEMPERATURE, PERIOD
    # By gradients, at the price of one backward pass for each path; all of them have the option
    # TASK_AS_OBJECTIVE (but bilevel):
    #   mgda      minimum-norm point, eq. 4; NORMALISATION
    #   grad_norm gradients of similar length; ASYMMETRY, LR
    #   bilevel   v descends on the loss of validation images (section 3.3); LR
    #   torchjd:<name>  UPGrad, AlignedMTL ... of the library TorchJD and its options
    aggregation.NAME = "adaptive"
    # By gradients: with respect to what they are taken. "parameters" = of the student (exact, as
    # in the paper), "features" = of layers that all paths pass through (Sener and Koltun 2018):
    # hardly dearer than one backward pass, but what is minimised is only an upper bound of the
    # norm, up to a factor of the layers in front.
    aggregation.SCOPE = "parameters"
    # "parameters": student layers whose parameters count (grad_norm: the last shared one); empty
    # = all. "features": the layer or layers through which all that is distilled depends on what
    # lies in front, e.g. the maps that a pyramid starts from: [backbone.bottom_up.res3, …res5].
    aggregation.SCOPE_LAYERS = []
    # "parameters": take the gradients in quarters of the parameters, keep only their inner
    # products, and weigh the losses in one further backward pass. A quarter of the memory, more
    # time. Else all path gradients are kept and combined, without a further pass.
    aggregation.LOW_MEMORY = False
    # bilevel: annotated data sets that are not trained on.
    aggregation.DATA = []
    return aggregation


def add_distillation_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    d = cfg.MODEL.DISTILLATION = CN()
    # With MODEL.META_ARCHITECTURE "Distiller": the meta-architecture of the student, that is
    # what META_ARCHITECTURE was before. The rest of the config describes the student.
    d.STUDENT = "MultiTaskNetwork"

    d.TEACHER = teacher_node()
    # Further teachers: a list of mappings with the same keys. A path says by TEACHER_ID whom it
    # listens to: 0 is TEACHER, 1 the first of these.
    d.MORE_TEACHERS = []

    # The paths, in order (the order of z): a list of mappings with the keys
    #   TYPE     a class of the path registry (AttentionTransfer, FeatureMSE, SoftDetection, …)
    #   NAME     how it is called in logs; default: the class's own short name
    #   STUDENT  name of the tapped layer, or a list; default: the class's own
    #   TEACHER  the same for the teacher; default: as STUDENT
    #   WEIGHT   hand-tuned weight v of this path; default: the class's own (the papers')
    #   LAYERWISE  true = each term of the path is a path of its own
    #   TEACHER_ID  which teacher, when there are several (0; see MORE_TEACHERS)
    #   TASKS    tasks of DATASETS.TASK_BATCHES on whose images the path works; default: on all
    #   and the options of the class in capitals (POWER, RESIZE, …).
    d.PATHS = []
    # alpha of eqs. 3 and 5 of "Adaptive Distillation": weight of all distillation against the
    # task loss. 0 = no distillation: the run equals the student's own training bit for bit.
    d.ALPHA = 1.0
    d.RAMP = CN()
    # Iterations without distillation, then those during which alpha grows to its value; 0 and 0 =
    # it has it from the start. A young student and a weak teacher can throw each other off.
    d.RAMP.START = 0
    d.RAMP.ITERS = 0
    # "linear", or "sigmoid" = exp(-5 (1 - t)^2), flat at both ends.
    d.RAMP.SHAPE = "sigmoid"
    # Whether the student's own losses on annotated images are used beside the paths. False is
    # the self-training of Tables 1 to 4 of "Self-training and multi-task learning …": the
    # student sees no annotation even where there is one.
    d.HARD_LABELS = True
    # Where paths that need boxes (DeFeat's foreground) take them from:
    # "auto" = ground truth on annotated images when HARD_LABELS, else the teacher's detections;
    # "teacher" = always the teacher's; "ground_truth" = always the annotation (what the
    # reference implementation does even when self-training).
    d.BOXES = "auto"
    # Score above which a detection of the teacher counts as such a box.
    d.BOX_SCORE_THRESH = 0.5

    d.CACHE = CN()
    # Folder that keeps what fixed teachers return for each image, in half precision, so that no
    # image is shown to them twice; "" = no cache. It pays where images come back: set INPUT.VIEWS.
    # An entry is found by the content of the image, the size that it is padded to in its batch, and
    # the teacher's weights. So runs may share a folder, and images of one size
    # (INPUT.SQUARE_SIZE) are found from the first repetition on, others only when their batch has
    # that size again. Code is not looked at: empty the folder when you change a teacher's. Needs
    # the extra `cache`.
    d.CACHE.FOLDER = ""
    # Size limit in GB (10^9 bytes); the least recently used entries go.
    d.CACHE.MAX_GB = 20.0

    d.AGGREGATION = aggregation_node()
