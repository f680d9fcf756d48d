"""Every key that multas adds to Detectron2's config, its default, and what it does."""

from detectron2.config import CfgNode as CN

from multas.evaluation.config import add_evaluation_config
from multas.modeling.config import add_modeling_config


def add_multas_config(cfg: CN) -> None:
    """Add the keys of multas to a Detectron2 config, in place.

    Args:
        cfg: what ``detectron2.config.get_cfg()`` returned.
    """
    _add_data_config(cfg)
    _add_distillation_config(cfg)
    _add_solver_config(cfg)
    add_modeling_config(cfg)
    add_evaluation_config(cfg)


def _add_data_config(cfg: CN) -> None:
    # Data cards (YAML files, see datasets/README.md) that are registered before any data set is
    # looked up. Every split of a card is then a name for DATASETS.TRAIN/TEST, and the same name
    # with `_unlabeled` is that split with its annotations withheld (they are never opened).
    cfg.DATASETS.CARDS = ()

    cfg.DATASETS.PSEUDO_LABELS = CN()
    # Files written by tools/pseudo_label.py. Their boxes join the ground truth of images they
    # name: an annotated image keeps its ground truth alone, an unannotated one gets the boxes.
    cfg.DATASETS.PSEUDO_LABELS.FILES = ()
    # Boxes below this teacher score are not used (on top of what the file already dropped).
    cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH = 0.0
    # At most so many boxes per image, best first; 0 = all.
    cfg.DATASETS.PSEUDO_LABELS.TOPK = 0
    # An image that the file covers but for which no box is left:
    # "background" = annotated as empty; "skip" = stays unannotated (distillation only).
    cfg.DATASETS.PSEUDO_LABELS.EMPTY = "background"

    # Python modules (dotted names) imported at start: the place to register own paths,
    # aggregators, heads … from outside this package.
    cfg.IMPORT_MODULES = ()


def _add_distillation_config(cfg: CN) -> None:
    d = cfg.MODEL.DISTILLATION = CN()
    # With MODEL.META_ARCHITECTURE "Distiller": the meta-architecture of the student, that is
    # what META_ARCHITECTURE was before. The rest of the config describes the student.
    d.STUDENT = "MultiTaskNetwork"

    d.TEACHER = CN()
    # Its own config file and its trained weights (relative paths: from the working directory).
    d.TEACHER.CONFIG_FILE = ""
    d.TEACHER.WEIGHTS = ""
    # KEY VALUE pairs merged into its config.
    d.TEACHER.OPTS = []
    # Further teachers: a list of mappings with the same three keys. A path says by TEACHER_ID
    # whom it listens to: 0 is TEACHER, 1 the first of these.
    d.MORE_TEACHERS = []

    # The paths, in order (the order of z): a list of mappings with the keys
    #   TYPE     a class of the path registry (AttentionTransfer, FeatureMSE, SoftDetection, …)
    #   NAME     how it is called in logs; default: the class's own short name
    #   STUDENT  name of the tapped layer, or a list; default: the class's own
    #   TEACHER  the same for the teacher; default: as STUDENT
    #   WEIGHT   hand-tuned weight v of this path; default: the class's own (the papers')
    #   LAYERWISE  true = each term of the path is a path of its own
    #   TEACHER_ID  which teacher, when there are several (0; see MORE_TEACHERS)
    #   and the options of the class in capitals (POWER, RESIZE, …).
    d.PATHS = []
    # alpha of eqs. 3 and 5 of "Adaptive Distillation": weight of all distillation against the
    # task loss. 0 = no distillation: the run equals the student's own training bit for bit.
    d.ALPHA = 1.0
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

    d.AGGREGATION = CN()
    # "single", "equal", "hand_tuned" (fixed v) or "adaptive" (v = exp(-z), eqs. 5 and 6).
    d.AGGREGATION.NAME = "adaptive"
    # adaptive: the weighted loss v L of a path is 1 at the optimum. What exceeds this bound is
    # scaled back to it, for the student and for z alike, so that a loss that returns after it
    # had vanished cannot throw either. 0 = unbounded, as in the paper.
    d.AGGREGATION.MAX_WEIGHTED_LOSS = 10.0
    # adaptive: weight decay and momentum of z. The paper has no decay; its code uses the
    # network's group (1e-4). Momentum -1 = the optimiser's.
    d.AGGREGATION.Z_WEIGHT_DECAY = 0.0
    d.AGGREGATION.Z_MOMENTUM = -1.0


def _add_solver_config(cfg: CN) -> None:
    # Weight decay on biases is Detectron2's SOLVER.WEIGHT_DECAY_BIAS, on norms
    # SOLVER.WEIGHT_DECAY_NORM.
    cfg.SOLVER.EMA = CN()
    # Exponential moving average of the student's weights and BatchNorm statistics.
    cfg.SOLVER.EMA.ENABLED = False
    # decay(k) = DECAY (1 - exp(-k / RAMP)) at update k: short memory at first.
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.RAMP = 2000.0
