"""A model that needs annotations, distilled on two ranks of which any may lack labels."""

import os
import sys
from itertools import pairwise

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from tiny_classifier import PATHS, images, make_distiller
from two_ranks import process_group, run_on_two_ranks
from weighing import copies, run_steps, weighed

CASES = {
    "adaptive": ["NAME", "adaptive"],
    "adaptive budget": ["NAME", "adaptive"],
    "mgda": ["NAME", "mgda"],
    "mgda task": ["NAME", "mgda", "TASK_AS_OBJECTIVE", True],
}
# Whether the images of ranks 0 and 1 have labels, step by step.
LABELS = [(False, False), (False, True), (True, False), (True, True)]


def make(options):
    # Without the path to the head: nothing but labels trains it.
    distiller = make_distiller(PATHS[:2], *options)
    distiller.student.accepts_unannotated = False
    return distiller


class Heads(HookBase):
    """The weights of the head after every step."""

    def before_train(self) -> None:
        self.weights = []

    def after_step(self) -> None:
        head = self.trainer.model.module.student.heads.cls.linear
        self.weights.append(head.weight.detach().clone())


def train(options, rank: int, budget: bool) -> dict:
    distiller = make(options)
    distiller.cfg.MODEL.DISTILLATION.BUDGET = budget
    model = weighed(DistributedDataParallel(distiller))
    batches = [images(2, seed=rank, labels=labels[rank]) for labels in LABELS]
    heads = Heads()
    storage = run_steps(model, batches, heads).storage
    losses = []
    if comm.is_main_process():
        losses = [value for value, _ in storage.history("loss_class").values()]
    return {"losses": losses, "heads": heads.weights, "parameters": copies(distiller)}


def main(folder: str, rank: int) -> None:
    with process_group(folder, rank):
        results = {name: train(o, rank, "budget" in name) for name, o in CASES.items()}
        torch.save(results, os.path.join(folder, f"rank{rank}.pth"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return run_on_two_ranks(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_ranks_stay_equal_and_labels_of_either_train_the_head(ranks, name):
    first, second = (result[name] for result in ranks)
    for key, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][key]), key
    heads = [make(CASES[name]).student.heads.cls.linear.weight.detach(), *first["heads"]]
    moved = [not torch.equal(a, b) for a, b in pairwise(heads)]
    assert moved == [False, True, True, True]


def test_the_log_has_the_mean_over_ranks_in_which_no_labels_are_zero(ranks):
    # Of all steps but the first, in which nobody knows what the losses will be called.
    one, other, both = ranks[0]["adaptive"]["losses"]
    assert both / (one + other) == pytest.approx(1, abs=0.1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
