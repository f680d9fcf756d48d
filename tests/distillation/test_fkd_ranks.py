"""FKD on two ranks equals one process with both batches."""

import os
import sys
from pathlib import Path

import detectron2  # noqa: F401  (first: it makes torchvision work without compiled operators)
import pytest
import torch

from multas.distillation.paths.base import Targets
from path_building import build_path
from two_ranks import process_group, run_on_two_ranks

SETTINGS = {
    "norm": {},
    "norm of four images": {"IMAGES_PER_NORM": 4},
    "root mean square": {"NORMALISE": True},
}
NOTHING = Targets(image_sizes=[], padded_size=(0, 0), instances=[])


def losses_and_gradients(options: dict, images: list[int]) -> tuple[torch.Tensor, dict]:
    """The losses of two levels, and the gradients of the learned layers, for some of 4 images."""
    torch.manual_seed(0)
    shapes = (4, 3, 6, 5), (4, 3, 3, 2)
    # Images differ in size of their features, so that a mean of norms is another than the norm.
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0]).double()[:, None, None, None]
    student, teacher = ([scale * torch.randn(s).double() for s in shapes] for _ in range(2))
    path = build_path("FKD", student, teacher, **options).double()
    losses = path([x[images] for x in student], [x[images] for x in teacher], NOTHING)
    values = torch.stack(list(losses.values()))
    values.sum().backward()
    # The relation's BatchNorm sees the images of its process, as everywhere.
    gradients = {
        name: p.grad for name, p in path.named_parameters()
        if p.grad is not None and not name.endswith(("bn.weight", "bn.bias"))
    }  # fmt: skip
    return values.detach(), gradients


def main(folder: str, rank: int) -> None:
    own = [2 * rank, 2 * rank + 1]
    with process_group(folder, rank):
        results = {name: losses_and_gradients(o, own) for name, o in SETTINGS.items()}
        torch.save(results, os.path.join(folder, f"rank{rank}.pth"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """The computation of each of two processes."""
    return run_on_two_ranks(__file__, Path(tmp_path_factory.mktemp("ranks")))


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_compute_what_one_process_does(ranks, name):
    wanted, gradients = losses_and_gradients(SETTINGS[name], [0, 1, 2, 3])
    (first, first_gradients), (second, second_gradients) = (result[name] for result in ranks)
    for values in (first, second):
        torch.testing.assert_close(values, wanted)
    assert gradients.keys() == first_gradients.keys() and len(gradients) >= 10
    for key, gradient in gradients.items():
        torch.testing.assert_close((first_gradients[key] + second_gradients[key]) / 2, gradient)


def test_a_batch_counts_as_the_images_of_one_norm():
    # Images that are alike: twice as many of them make no loss larger.
    student, teacher = (torch.randn(1, 4, 6, 6).double() for _ in range(2))
    path = build_path("FKD", [student], [teacher]).double()
    one, eight = (
        path([student.repeat(n, 1, 1, 1)], [teacher.repeat(n, 1, 1, 1)], NOTHING)["0"]
        for n in (1, 8)
    )
    torch.testing.assert_close(one, eight)
    with pytest.raises(ValueError, match="IMAGES_PER_NORM is 0; it must be 1 or more"):
        build_path("FKD", [student], [teacher], IMAGES_PER_NORM=0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
