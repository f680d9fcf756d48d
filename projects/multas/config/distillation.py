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

    d.AGGREGATION = CN()
    # By losses: "single", "equal", "hand_tuned" (fixed v), "adaptive" (v = exp(-z), eqs. 5 and 6)
    # or "dwa" (dynamic weight average). By gradients, at the price of one backward pass for each
    # path: "mgda" (min-norm point, eq. 4), "grad_norm", "bilevel" (section 3.3: v descends on the
    # loss of validation images), "torchjd:<name>" (UPGrad, AlignedMTL … of the library TorchJD).
    d.AGGREGATION.NAME = "adaptive"
    # adaptive: the weighted loss v L of a path is 1 at the optimum. What exceeds this bound is
    # scaled back to it, for the student and for z alike, so that a loss that returns after it
    # had vanished cannot throw either. 0 = unbounded, as in the paper.
    d.AGGREGATION.MAX_WEIGHTED_LOSS = 10.0
    # adaptive: weight decay and momentum of z. The paper has no decay; its code uses the
    # network's group (1e-4). Momentum -1 = the optimiser's.
    d.AGGREGATION.Z_WEIGHT_DECAY = 0.0
    d.AGGREGATION.Z_MOMENTUM = -1.0
    # dwa: temperature T of its softmax, and the iterations whose mean loss it compares (an epoch
    # in its paper).
    d.AGGREGATION.DWA_TEMPERATURE = 2.0
    d.AGGREGATION.DWA_PERIOD = 100

    # By gradients: with respect to what they are taken. "parameters" = of the student (exact, as
    # in the paper), "features" = of layers that all paths pass through (Sener and Koltun 2018):
    # hardly dearer than one backward pass, but what is minimised is only an upper bound of the
    # norm, up to a factor of the layers in front.
    d.AGGREGATION.SCOPE = "parameters"
    # "parameters": student layers whose parameters count (grad_norm: the last shared one); empty
    # = all. "features": the layer or layers through which all that is distilled depends on what
    # lies in front, e.g. the maps that a pyramid starts from: [backbone.bottom_up.res3, …res5].
    d.AGGREGATION.SCOPE_LAYERS = []
    # "parameters": take the gradients in quarters of the parameters, keep only their inner
    # products, and weigh the losses in one further backward pass. A quarter of the memory, more
    # time. Else all path gradients are kept and combined, without a further pass.
    d.AGGREGATION.LOW_MEMORY = False
    # True: the task loss is one more objective beside alpha times the path losses. False: the
    # task keeps its own gradient, and alpha times the weighted path gradients is added.
    d.AGGREGATION.TASK_AS_OBJECTIVE = False
    # mgda: gradients are divided by "none" 1, "l2" their length, "loss" their loss, "loss+" both
    # before the problem is solved. With "none" (the paper's text) the shortest gradient gets
    # nearly all weight, whatever its meaning, when the losses differ in scale.
    d.AGGREGATION.NORMALISATION = "l2"
    # grad_norm: exponent of the relative training rates (0 = equal gradient lengths), and the
    # length of a step in log v.
    d.AGGREGATION.GRAD_NORM_ASYMMETRY = 1.5
    d.AGGREGATION.GRAD_NORM_LR = 0.025
    # bilevel: annotated data sets that are not trained on (validation), and the largest change of
    # log v in a step.
    d.AGGREGATION.BILEVEL_DATA = []
    d.AGGREGATION.BILEVEL_LR = 0.05
    # torchjd:<name>: arguments of its constructor, e.g. {c: 0.5} for CAGrad.
    d.AGGREGATION.TORCHJD = CN(new_allowed=True)
