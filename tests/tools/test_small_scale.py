"""The part of the page of evidence that is made of the papers' tables at small scale."""

import json

import numpy as np

from multas.evaluation.resampling import SAMPLES
from reproduction.runs import Planner
from studies.small_scale import sections


def test_rows_of_the_small_scale_stand_on_the_page(tmp_path):
    rng, planner, entries = np.random.default_rng(0), Planner(tmp_path), []
    spread = rng.normal(size=(3, SAMPLES))  # of test images, which the rows have in common
    for row, ap in (("teacher", 40.0), ("student", 30.0), ("single_box", 33.0)):
        for seed in (1, 2, 3)[: 2 if row == "single_box" else 3]:
            run = planner.plan(f"configs/adaptive/table5.yaml#small/{row}", seed)
            resampled = (ap + 0.1 * seed + spread[seed - 1]).round(2).tolist()
            entries.append(
                {"run": run.digest, "title": run.title, "metrics": {"bbox/AP": ap + 0.1 * seed},
                 "resampled": {"bbox/AP": resampled}, "seconds": 60})  # fmt: skip
    stale = {
        **entries[-1],
        "run": "f" * 12,
        "title": entries[-1]["title"].replace("box", "feats_p"),
    }
    file = tmp_path / "small.json"
    file.write_text(json.dumps([*entries, stale]))
    head, about, command, *_, table = sections(file)
    assert head.startswith("## ") and "tables.md" in about
    assert "tools/reproduce.py B1 B5 --scale small" in command  # which have these rows
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table.split("\n")]
    rows = {own[0]: own[1:] for own in cells if len(own) == 8}
    assert rows["student (ResNet-18)"][1] == "30.20 ± 0.10"
    assert rows["teacher (ResNet-101)"][3:] == ["+10.00", "+10.00 … +10.00", "1.00", "better"]
    # Two seeds decide nothing, and a result of another config is none.
    assert rows["single, Box"][1] == "33.15 ± 0.07 (2 of 3 seeds)"
    assert rows["single, Box"][-1] == "not decided" and "single, Feats_P" not in rows
    file.write_text("[]")
    assert sections(file) == [] == sections(tmp_path / "nowhere.json")
