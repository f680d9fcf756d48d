"""The generalized focal loss head on two ranks equals one process with both batches."""

import os
import sys

import pytest
import torch

from gfl_scene import SCENE, SIZE, make_features, make_head, make_instances
from two_ranks import process_group, run_on_two_ranks

EMPTY = ([], [])
# The annotations of two images, one per rank; None: not annotated.
CASES = {
    "objects on both": (SCENE[0], SCENE[1]),
    "background on one": (SCENE[0], EMPTY),
    "no annotation on one": (SCENE[0], None),
    "background on both": (EMPTY, EMPTY),
    "no annotation at all": (None, None),
}


def gradients(case: str, images: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Gradients of all parameters of the head for these images, and the losses."""
    torch.manual_seed(0)
    head = make_head(per_place=2)
    features = {name: maps[images] for name, maps in make_features(2).items()}
    chosen = [CASES[case][i] for i in images]
    annotations = [None if x is None else make_instances(*x) for x in chosen]
    losses = head.losses(head(features), features, annotations, (SIZE, SIZE))
    sum(losses.values()).backward()
    return [p.grad for p in head.parameters()], torch.stack(list(losses.values())).detach()


def main(folder: str, rank: int) -> None:
    with process_group(folder, rank):
        results = {case: gradients(case, [rank]) for case in CASES}
        torch.save(results, os.path.join(folder, f"rank{rank}.pth"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """The computation of each of two processes."""
    return run_on_two_ranks(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_the_mean_over_two_ranks_is_what_one_process_computes(ranks, case):
    (first, first_losses), (second, second_losses) = (result[case] for result in ranks)
    wanted, losses = gradients(case, [0, 1])
    # Without any object both divide by 1, and the mean over the ranks is half of the sum.
    share = 0.5 if CASES[case] == (EMPTY, EMPTY) else 1.0
    torch.testing.assert_close((first_losses + second_losses) / 2, share * losses)
    for a, b, c in zip(first, second, wanted, strict=True):
        torch.testing.assert_close((a + b) / 2, share * c, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
