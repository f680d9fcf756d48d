"""Two ranks equal one process with the double batch, whatever the aggregation."""

import copy
import os
import sys

import pytest
import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from multas.distillation import AGGREGATOR_REGISTRY, GradientAggregator, Teacher
from multas.distillation.teacher.mean_teacher import MeanTeacher
from multas.engine.weights.ema import MeanTeachers
from tiny_classifier import PATHS, images, make_distiller
from two_ranks import process_group, run_on_two_ranks
from weighing import copies, run_steps, weighed

STEPS = 5
TASK = ["TASK_AS_OBJECTIVE", True]
FEATURES = ["SCOPE", "features", "SCOPE_LAYERS", ["backbone.res3"]]
CASES = {
    "equal": ["NAME", "equal"],
    "hand_tuned": ["NAME", "hand_tuned"],
    "adaptive": ["NAME", "adaptive"],
    "adaptive bfloat16": ["NAME", "adaptive"],
    # Low enough to be reached: the bound acts on the mean over the ranks.
    "adaptive bounded": ["NAME", "adaptive", "MAX_WEIGHTED_LOSS", 1.2],
    "fading budget": ["NAME", "fading"],
    "uw_so budget": ["NAME", "uw_so", "TEMPERATURE", 5.0],
    "adaptive separate momentum": ["NAME", "adaptive"],
    "dwa": ["NAME", "dwa", "PERIOD", 1],
    "mgda": ["NAME", "mgda"],
    "mgda bfloat16": ["NAME", "mgda"],
    "mgda loss": ["NAME", "mgda", "NORMALISATION", "loss"],
    "mgda task": ["NAME", "mgda", *TASK],
    "mgda low memory": ["NAME", "mgda", "LOW_MEMORY", True],
    "mgda features": ["NAME", "mgda", *FEATURES],
    "mgda features task": ["NAME", "mgda", *FEATURES, *TASK],
    "grad_norm": ["NAME", "grad_norm", "SCOPE_LAYERS", ["backbone.res3"]],
    "gradient_ratio features": ["NAME", "gradient_ratio", *FEATURES],
    "gradient_similarity": ["NAME", "gradient_similarity"],
    "dto features": ["NAME", "dto", *FEATURES],
    "torchjd": ["NAME", "torchjd:PCGrad"],
    "dice": ["NAME", "dice"],
}
# What has no one result to compare with: it is random, or rounded in each rank.
NO_ONE_RESULT = ("torchjd", "dice", "adaptive bfloat16", "mgda bfloat16")


@AGGREGATOR_REGISTRY.register()
class Dice(GradientAggregator):
    """Draws its weights, other ones on each rank."""

    def weigh(self, gram, losses):
        return torch.rand(len(gram), dtype=torch.float64)


def train(name, batch, wrap: bool) -> dict:
    """After five steps: parameters, those of a mean teacher, v of every step and what the
    aggregator remembers."""
    distiller = make_distiller(PATHS, *CASES[name])
    distiller.cfg.MODEL.DISTILLATION.BUDGET = "budget" in name
    half, delta = "bfloat16" in name, 0.08 if "separate" in name else None
    model = weighed(DistributedDataParallel(distiller) if wrap else distiller)
    follower = Teacher(copy.deepcopy(distiller.student), mean_teacher=MeanTeacher(0.5))
    torch.manual_seed(comm.get_rank())
    mean_teachers = MeanTeachers(model, [follower])
    steps = run_steps(
        model, [batch] * STEPS, mean_teachers, bfloat16=half, lr=0.005, momentum=0.9, delta=delta
    )
    storage = steps.storage
    histories = [
        storage.history(f"path_weight/{name}").values() for name in distiller.distillation.names
    ]
    aggregator = model.path_weights.aggregator
    return {
        "parameters": copies(distiller) | copies(aggregator),
        "mean_teacher": copies(follower.model),
        "weights": torch.tensor([[v for v, _ in history] for history in histories]),
        "aggregator": aggregator.state_dict(),
    }


def batch_of(ranks: list[int]) -> list[dict]:
    return [x for rank in ranks for x in images(2, seed=rank)]


def main(folder: str, rank: int) -> None:
    with process_group(folder, rank):
        results = {}
        for name in CASES:
            if name == "torchjd" and not _has_torchjd():
                continue
            results[name] = train(name, batch_of([rank]), wrap=True)
        torch.save(results, os.path.join(folder, f"rank{rank}.pth"))


def _has_torchjd() -> bool:
    try:
        import torchjd.aggregation  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes has after training all cases one after the other."""
    return run_on_two_ranks(__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_have_the_same_weights_and_parameters(ranks, name):
    if name == "torchjd":
        pytest.importorskip("torchjd")
    first, second = (result[name] for result in ranks)
    assert torch.equal(first["weights"], second["weights"])
    for kind in ("parameters", "mean_teacher", "aggregator"):
        for key, value in first[kind].items():
            assert torch.equal(value, second[kind][key]), key


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_ONE_RESULT])
def test_two_ranks_equal_one_process_with_the_double_batch(ranks, name):
    alone = train(name, batch_of([0, 1]), wrap=False)
    together = ranks[0][name]
    # v may be known less well than the direction it makes: with nearly dependent gradients, the
    # order of the images alone moves it as much in one process.
    torch.testing.assert_close(together["weights"], alone["weights"], rtol=2e-3, atol=1e-6)
    start = copies(make_distiller(PATHS, *CASES[name]))
    for key, value in alone["parameters"].items():
        torch.testing.assert_close(together["parameters"][key], value, rtol=1e-5, atol=1e-5)
    moved = max((v - alone["parameters"][k]).abs().max() for k, v in start.items())
    assert moved > 1e-3, "training that moves nothing compares nothing"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
