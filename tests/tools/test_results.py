"""Order, differences and cost, from numbers that are known."""

import math

import pytest

from reproduction.execution import states_of
from reproduction.results import compare_order, cost_of, differences, order_of, read_result
from reproduction.rows import Row, rows_of
from reproduction.runs import Planner
from reproduction.tables import read_tables


@pytest.mark.parametrize(
    ("paper", "ours", "held", "pairs", "tau"),
    [
        ([1, 2, 3], [10, 20, 30], 3, 3, 1.0),
        ([1, 2, 3], [30, 20, 10], 0, 3, -1.0),
        ([1, 2, 3], [10, 30, 20], 2, 3, 1 / 3),
        # Equal in the paper: no order to hold. Equal in ours: not held. (tau-b of such ties.)
        ([1, 1, 2], [5, 4, 6], 2, 2, 2 / math.sqrt(6)),
        ([1, 2, 3], [4, 4, 5], 2, 3, 2 / math.sqrt(6)),
    ],
)
def test_orders_are_compared_pair_by_pair(paper, ours, held, pairs, tau):
    order = compare_order(paper, ours)
    assert (order.rows, order.held, order.pairs) == (3, held, pairs)
    assert order.tau == pytest.approx(tau)
    assert order.holds is (held == pairs)


def test_nothing_to_compare_is_no_order():
    for values in ([], [1.0]):
        order = compare_order(values, values)
        assert not order.holds and order.pairs == 0 and math.isnan(order.tau)


@pytest.fixture
def results(tmp_path, fabricate):
    """``results(name, metric=numbers)``: of the first rows, with these TEST FIXTURE numbers."""

    def make(table: str, **metrics: list):
        plan = Planner(tmp_path / "runs")
        rows = rows_of(read_tables()[table], "tiny")
        runs = [plan.plan(row.address, 1) for row in rows]
        for i, run in enumerate(runs):
            values = {m: v[i] for m, v in metrics.items() if i < len(v) and v[i] is not None}
            if values:
                fabricate(run, **values)
        states = states_of(runs)
        return [read_result(row, [run], states) for row, run in zip(rows, runs, strict=True)]

    return make


def test_teachers_do_not_compete(results):
    # Teacher and supervised rows of Table 1; the paper has 51.08 < 53.40 < 54.18 < 54.30.
    found = results("A1", bbox__AP=[1.0, 20.0, 21.0, 23.0, 22.0])
    order = order_of(found, "mAP")
    assert (order.rows, order.held, order.pairs) == (4, 5, 6)


def test_differences_are_to_the_baseline_of_the_row(results):
    found = results("A1", bbox__AP=[30.0, 20.0, 21.5])
    teacher, supervised, mse, pdf, *_ = differences(found, "mAP")
    assert teacher == pytest.approx((7.16, 10.0))
    assert supervised is None
    assert mse == pytest.approx((2.32, 1.5))
    assert pdf is not None and pdf[0] == pytest.approx(3.1) and math.isnan(pdf[1])


def test_a_pair_of_paths_is_compared_with_its_hand_tuned_twin(results):
    errors = [10.0 + i for i in range(12)]
    found = results("BF2", classification__top1_error=errors)
    by_name = dict(
        zip(
            [result.row.name for result in found],
            differences(found, "top-1 error"),
            strict=True,
        )
    )
    assert by_name["hand_tuned_fm_sr"] is None
    values = {result.row.name: result.mean("top-1 error") for result in found}
    difference = by_name["adaptive_fm_sr"]
    assert difference is not None
    assert difference[1] == values["adaptive_fm_sr"] - values["hand_tuned_fm_sr"]


def test_means_are_over_the_seeds_that_are_finished(tmp_path, fabricate):
    plan = Planner(tmp_path / "runs")
    row: Row = rows_of(read_tables()["A1"], "tiny")[0]
    runs = [plan.plan(row.address, seed) for seed in (1, 2, 3)]
    fabricate(runs[0], bbox__AP=20.0)
    fabricate(runs[2], bbox__AP=23.0)
    result = read_result(row, runs, states_of(runs))
    assert result.values("mAP") == [20.0, 23.0] and result.mean("mAP") == 21.5
    assert math.isnan(result.mean("AP50"))


def test_cost_counts_the_cores_of_a_process_and_gpus(tmp_path, fabricate):
    plan = Planner(tmp_path / "runs")
    runs = [plan.plan(row.address, 1) for row in rows_of(read_tables()["A1"], "tiny")[:3]]
    fabricate(runs[0], bbox__AP=1.0)  # 60 iterations of 1.5 s on 2 threads and half a GPU
    fabricate(runs[1], bbox__AP=1.0)
    config = runs[1].folder / "config.yaml"
    config.write_text(config.read_text().replace("cpu", "cuda:0"))
    assert cost_of(runs) == pytest.approx({"CPU": 2 * 90 / 3600, "GPU": 0.5 * 90 / 3600})
