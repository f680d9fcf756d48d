"""The generalized focal loss head on two ranks equals one process with both batches."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from gfl_scene import SCENE, SIZE, make_features, make_head, make_instances

EMPTY = ([], [])
# The annotations of two images, one for each rank; None = not annotated.
CASES = {
    "objects on both": (SCENE[0], SCENE[1]),
    "background on one": (SCENE[0], EMPTY),
    "no annotation on one": (SCENE[0], None),
    "background on both": (EMPTY, EMPTY),
    "no annotation at all": (None, None),
}


def gradients(case: str, images: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of all parameters of the head, for the losses of these images; and the losses."""
    torch.manual_seed(0)
    head = make_head(per_place=2)
    features = {name: maps[images] for name, maps in make_features(2).items()}
    chosen = [CASES[case][i] for i in images]
    annotations = [None if x is None else make_instances(*x) for x in chosen]
    losses = head.losses(head(features), features, annotations, (SIZE, SIZE))
    sum(losses.values()).backward()
    return [p.grad for p in head.parameters()], torch.stack(list(losses.values())).detach()


def main(folder: str, rank: int) -> None:
    meeting = "file://" + os.path.join(folder, "meeting")
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    results = {case: gradients(case, [rank]) for case in CASES}
    torch.save(results, os.path.join(folder, f"rank{rank}.pth"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes computes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]


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
