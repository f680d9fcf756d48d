"""tools/gpu_check.py on this CPU, and with a GPU all that it checks."""

import contextlib
from collections import Counter

import pytest
import torch

import gpu_check
from device_checks.check import Check, Place, Skipped, run_check
from device_checks.steps import PATHS
from device_checks.synchronisation import is_needed, watched
from device_checks.trainings import Trainings, check_finite, largest_difference
from device_checks.transfers import Pretended, second_step

CHECKS = {check.name: check for check in gpu_check.all_checks() if not check.measures}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("trainings"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name, trainings):
    outcome = run_check(CHECKS[name], Place("cuda", trainings))
    if outcome.verdict == "skipped":
        pytest.skip(outcome.said)
    assert outcome.verdict == "ok", outcome.said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_cpu(name, trainings):
    outcome = run_check(CHECKS[name], Place("cpu", trainings))
    assert outcome.verdict in ("ok", "skipped"), outcome.said


def test_a_few_checks_make_a_table(capsys):
    few = ["golden*", "path SoftTarget", "benchmark step"]
    assert gpu_check.main(["--device", "cpu", "--only", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:-2]]
    found = {name: (verdict, said) for name, verdict, said, _ in rows}
    assert list(found) == ["golden numbers", "path SoftTarget", "benchmark step"]
    assert [verdict for verdict, _ in found.values()] == ["ok", "ok", "skipped"]
    assert found["golden numbers"][1].startswith("63 cases")
    assert lines[-1] == "3 checks on cpu, 0 failed."


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys):
    assert gpu_check.main([]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "finds no GPU here" in err


def test_a_fault_is_told_and_the_others_still_run(trainings):
    def fails(place):
        raise ValueError("no such thing\nand more")

    def differs(place):
        largest_difference({"loss": [1.0, 2.0]}, {"loss": [1.0, 2.2]})

    def skips(place):
        raise Skipped("no library")

    place = Place("cpu", trainings)
    told = [run_check(Check("a", run), place) for run in (fails, differs, skips)]
    assert [(x.verdict, x.said) for x in told] == [
        ("FAILED", "ValueError: no such thing"),
        ("FAILED", "loss is 2 in iteration 1, not 2.2"),
        ("skipped", "no library"),
    ]
    with pytest.raises(AssertionError, match=r"loss is not finite in iterations \[1\]"):
        check_finite({"loss": [1.0, float("nan")]})


# Weights without values are not loaded.
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("path", ["PDFDistil", "DeFeat"])  # DeFeat takes the boxes as well
def test_annotations_are_sent_once_and_nothing_meets_across_devices(trainings, path):
    """The second step of a detector and its paths, on a device without values."""
    device = Pretended()
    second_step(trainings.config(PATHS[path], "cpu"), device)
    assert not device.mixed
    assert sum(n for place, n in device.copies.items() if "structures/boxes.py" in place) == 4
    assert all(is_needed(place) for place in [*device.copies, *device.waits])


def test_a_tensor_of_the_host_on_a_device_is_found():
    device = Pretended()
    with device:
        there = torch.ones(2, device="meta")
        assert (there + 1.0).sum().item() == 1.0 and not device.mixed
        assert len(there[there > 0]) == 1
        with contextlib.suppress(RuntimeError):
            there + torch.ones(2)
    assert sum(device.mixed.values()) == 1 and sum(device.waits.values()) == 2


def test_a_step_that_would_wait_is_found():
    """Values that the host wants, in code of multas; what is computed on tensors does not wait."""
    code = "x.item()\ny = x[x > 0]\nz = torch.where(x > 0, x, 0 * x).sum()\nw = x.nonzero()"
    waits = compile(code, "/anywhere/multas/waits.py", "exec")
    places = Counter()
    with watched(places, is_gpu=False):
        exec(waits, {"x": torch.ones(1), "torch": torch})
    assert [place.split(": ")[0] for place in places] == [
        "multas/waits.py:1", "multas/waits.py:2", "multas/waits.py:4"
    ]  # fmt: skip
