"""Stands for ``detectron2._C`` where Detectron2 was installed without its compiled part.

Importing succeeds, using a compiled function says what is missing.
"""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(
        f"detectron2._C.{name} is part of Detectron2's compiled extension, which this pure-Python "
        "installation does not have. Rotated boxes and deformable convolutions on CUDA need it: "
        "build Detectron2 from its official source for them."
    )
