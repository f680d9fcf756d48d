"""Every change made to the Detectron2 0.6 sources: file, text, replacement, reason.

A text that is not found exactly as often as its row says stops the installation: the sources are
then not those that this table was written for.
"""

from dataclasses import dataclass
from pathlib import Path

NUMPY_ALIAS = "NumPy 1.24 removed the aliases of Python's own types"
NO_EXTENSION = "the source distribution has no compiled part; complain at use, not at import"
TENSOR_COPY = "NumPy 2 warns when it has to copy a tensor, whose __array__ knows no copy argument"
AMP_NAMES = "torch deprecated torch.cuda.amp in favour of torch.amp with a device"
OLD_WARN = "Logger.warn is deprecated in favour of Logger.warning"


@dataclass(frozen=True)
class Patch:
    """One exact replacement: `old` occurs `count` times in `file`, relative to the sources."""

    file: str
    old: str
    new: str
    why: str
    count: int = 1


PATCHES = (
    Patch(
        "detectron2/__init__.py",
        "from .utils.env import setup_environment\n",
        "from ._torchvision_ops import import_torchvision\n\nimport_torchvision()\n\n"
        "from .utils.env import setup_environment\n",
        "torchvision's compiled operators do not load beside a CPU-only torch",
    ),
    Patch(
        "detectron2/layers/deform_conv.py",
        "from detectron2 import _C\n",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n"
        "    from detectron2 import _extension_absent as _C\n",
        NO_EXTENSION,
    ),
    Patch(
        "detectron2/layers/roi_align_rotated.py",
        "from detectron2 import _C\n",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n"
        "    from detectron2 import _extension_absent as _C\n",
        NO_EXTENSION,
    ),
    Patch(
        "detectron2/layers/rotated_boxes.py",
        "from detectron2 import _C\n",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n"
        "    from detectron2 import _extension_absent as _C\n",
        NO_EXTENSION,
    ),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
        "the fast evaluation is compiled; pycocotools gives the same numbers",
    ),
    Patch(
        "detectron2/evaluation/pascal_voc_evaluation.py",
        'difficult = np.array([x["difficult"] for x in R]).astype(np.bool)',
        'difficult = np.array([x["difficult"] for x in R]).astype(bool)',
        NUMPY_ALIAS,
    ),
    Patch(
        "detectron2/evaluation/sem_seg_evaluation.py",
        "np.array(output, dtype=np.int)",
        "output.numpy().astype(int)",
        TENSOR_COPY,
    ),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        'np.array(mask[:, :, None], order="F", dtype="uint8")',
        'np.array(mask[:, :, None].numpy(), order="F", dtype="uint8")',
        TENSOR_COPY,
    ),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "np.int)", "int)", NUMPY_ALIAS),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "np.float)", "float)", NUMPY_ALIAS, 5),
    Patch("detectron2/structures/masks.py", "np.bool)", "bool)", NUMPY_ALIAS, 3),
    Patch("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", NUMPY_ALIAS),
    Patch("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", NUMPY_ALIAS),
    Patch("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", NUMPY_ALIAS),
    Patch("detectron2/utils/visualizer.py", "np.bool)", "bool)", NUMPY_ALIAS, 3),
    Patch("detectron2/utils/video_visualizer.py", "np.bool)", "bool)", NUMPY_ALIAS),
    Patch(
        "detectron2/layers/mask_ops.py",
        "np.array(mask, copy=False)",
        "np.asarray(mask)",
        "NumPy 2 reads copy=False as 'never copy' and refuses PIL images",
    ),
    Patch(
        "detectron2/data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed the old name",
    ),
    Patch(
        "detectron2/modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        "torch warns when the indexing is left out",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "setuptools 81 removed pkg_resources",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        "    cfg_file = pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n',
        '    cfg_file = os.path.join(os.path.dirname(__file__), "configs", config_path)\n',
        "setuptools 81 removed pkg_resources",
    ),
    Patch(
        "detectron2/solver/build.py",
        '                for p in group["params"]:\n                    per_param_clipper(p)\n',
        '                for p in group["params"]:\n                    if p.grad is not None:\n'
        "                        per_param_clipper(p)\n",
        "clipping by value fails on a parameter that got no gradient in this step",
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        "            from torch.cuda.amp import GradScaler\n\n"
        "            grad_scaler = GradScaler()\n",
        '            grad_scaler = torch.amp.GradScaler("cuda")\n',
        AMP_NAMES,
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        "        from torch.cuda.amp import autocast\n\n",
        "\n",
        AMP_NAMES,
    ),
    Patch(
        "detectron2/engine/train_loop.py",
        "        with autocast():\n",
        '        with torch.amp.autocast("cuda"):\n',
        AMP_NAMES,
    ),
    Patch(
        "detectron2/evaluation/coco_evaluation.py", "_logger.warn(", "_logger.warning(", OLD_WARN, 2
    ),
    Patch(
        "detectron2/evaluation/sem_seg_evaluation.py",
        "_logger.warn(",
        "_logger.warning(",
        OLD_WARN,
        2,
    ),
    Patch("detectron2/engine/defaults.py", "logger.warn(", "logger.warning(", OLD_WARN, 1),
    Patch("detectron2/data/datasets/coco.py", "logger.warn(", "logger.warning(", OLD_WARN, 2),
)


def apply(root: Path) -> None:
    """Applies the table to the unpacked sources in `root`.

    Raises:
        RuntimeError: a file is absent or does not contain a row's text as often as the row says.
    """
    for patch in PATCHES:
        path = root / patch.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = text.count(patch.old)
        if found != patch.count:
            raise RuntimeError(
                f"{patch.file}: expected {patch.count} x {patch.old!r}, found {found}. "
                "These are not the sources the patch table was written for."
            )
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
