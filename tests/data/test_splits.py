"""Split lists: nested, complementary, balanced, the same for the same seed; and their checker."""

import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from hypothesis import given
from hypothesis import strategies as st

import split as split_tool
from multas.data import make_toy_classes
from multas.data.splits import make
from multas.data.splits.check import check_splits, read_lists
from multas.data.splits.make import (
    class_counts,
    make_partial_splits,
    make_splits,
    split_names,
    write_splits,
)
from multas.util.errors import UserError

NAMES = ("Half", "Half2", "Quarter", "3Quarter", "Eighth", "7Eighth")

images = st.dictionaries(
    st.integers(0, 9999).map(lambda i: f"{i:04d}"),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6)),
    min_size=16,
    max_size=80,
)


@given(counts=images, seed=st.integers(0, 2**31))
def test_parts_are_nested_complementary_and_of_the_right_size(counts, seed):
    splits = make_splits(counts, seed=seed)
    assert set(splits) == set(NAMES)
    for part, rest, share in (
        ("Half", "Half2", 2),
        ("Quarter", "3Quarter", 4),
        ("Eighth", "7Eighth", 8),
    ):
        assert sorted(splits[part] + splits[rest]) == sorted(counts)
        assert abs(len(splits[part]) - len(counts) / share) <= 0.5
    assert set(splits["Eighth"]) < set(splits["Quarter"]) < set(splits["Half"])
    assert not check_splits({"x": {f"{name}/trainval": ids for name, ids in splits.items()}}).issues


@given(counts=images, seed=st.integers(0, 2**31), order=st.randoms(use_true_random=False))
def test_the_seed_alone_decides(counts, seed, order):
    shuffled = list(counts.items())
    order.shuffle(shuffled)
    assert make_splits(dict(shuffled), seed=seed) == make_splits(counts, seed=seed)


def test_other_seeds_give_other_lists():
    counts = {f"{i:03d}": {"a": 1} for i in range(64)}
    assert len({tuple(make_splits(counts, seed=seed)["Half"]) for seed in range(5)}) == 5


def test_each_class_gets_its_share(rng_counts):
    totals = Counter()
    for own in rng_counts.values():
        totals.update(own)
    splits = make_splits(rng_counts, seed=3)
    for name, share in (
        ("Half", 1 / 2),
        ("Quarter", 1 / 4),
        ("Eighth", 1 / 8),
        ("3Quarter", 3 / 4),
    ):
        own = Counter()
        for image_id in splits[name]:
            own.update(rng_counts[image_id])
        for class_name, total in totals.items():
            # At most two objects off, or 2 % of the class: a random draw is off by 5 to 30 %.
            assert abs(own[class_name] - share * total) <= max(2, 0.02 * total), (name, class_name)
        empty = sum(not rng_counts[image_id] for image_id in splits[name])
        assert abs(empty - 40 * share) <= 2


@pytest.fixture
def rng_counts():
    """600 images; class "a" in most, "d" in one of 20, 40 images without an object."""
    import random

    rng = random.Random(5)
    counts = {f"empty{i}": {} for i in range(40)}
    for i in range(560):
        own = {"a": rng.randint(1, 9)}
        own.update({n: rng.randint(1, 3) for n, p in (("b", 0.4), ("c", 0.15)) if rng.random() < p})
        if i % 20 == 0:
            own["d"] = 1
        counts[f"{i:04d}"] = own
    return counts


def test_other_fractions_are_named_by_percent():
    counts = {f"{i:02d}": {"a": 1} for i in range(40)}
    splits = make_splits(counts, [0.1, Fraction(1, 4)])
    assert {name: len(ids) for name, ids in splits.items()} == {
        "10pct": 4,
        "90pct": 36,
        "Quarter": 10,
        "3Quarter": 30,
    }
    assert set(splits["10pct"]) < set(splits["Quarter"])
    assert split_names(0.125) == ("Eighth", "7Eighth")


@pytest.mark.parametrize("fractions", [[0.5, 0.5], [1.5], [0], [0.001]])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match=r"fraction|no such split"):
        make_splits({f"{i}": {} for i in range(20)}, fractions)


def test_counts_of_numbered_images_use_file_names():
    records = [
        {"image_id": 7, "file_name": "x/000007.jpg", "annotations": [{"category_id": 1}] * 2},
        {"image_id": 8, "file_name": "x/000008.jpg", "annotations": []},
    ]
    assert class_counts(records, ["a", "b"]) == {"000007": {"b": 2}, "000008": {}}
    assert set(class_counts(records, ["a", "b"], ".")) == {"x/000007", "x/000008"}
    with pytest.raises(ValueError, match="not annotated"):
        class_counts([{"image_id": "a", "file_name": "a.jpg"}], ["a"])
    with pytest.raises(ValueError, match="occurs twice"):
        class_counts(records + records[:1], ["a", "b"])


def test_classes_of_whole_images_are_counted():
    records = [
        {"image_id": "train/a/0", "file_name": "x/train/a/0.png", "label": 0},
        {"image_id": "train/00001", "file_name": "x/train/00001", "label": 1},  # CIFAR
    ]
    wanted = {"train/a/0": {"a": 1}, "train/00001": {"b": 1}}
    assert class_counts(records, ["a", "b"], "x") == wanted
    with pytest.raises(ValueError, match="occurs twice"):
        class_counts(records[:1] * 2, ["a", "b"], "x")


def test_tool_balances_class_folders(tmp_path, repository, capsys):
    content = yaml.safe_load((repository / "datasets/cards/toy_classes.yaml").read_text())
    root = make_toy_classes(tmp_path / "set", train=24, val=4, test=4)
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(content | {"root": str(root), "strictness": "skip"}))
    source = ["--card", str(card), "--split", "train", "--out", str(tmp_path / "out")]
    assert split_tool.main(["make", *source]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = lines.index(next(line for line in lines if line[:1] == ["all"]))
    column = lines[head].index("Half")
    images, *classes = [(int(x[1]), int(x[1 + 3 * column])) for x in lines[head + 1 : head + 10]]
    assert images[0] == sum(number for number, _ in classes)
    assert len(classes) == 8 and all(number for number, _ in classes)
    assert all(abs(half - number / 2) <= 1 for number, half in classes)
    ids = read_lists(tmp_path / "out")["Half/trainval"]
    registered = DatasetCatalog.get(f"{content['name']}_train")
    assert set(ids) < {record["image_id"] for record in registered}


def test_checker_finds_what_is_wrong():
    found = check_splits(
        {
            "set": {
                "Main/trainval": list("abcdefgh"),
                "Main/test": ["x", "y"],
                "Main/train": ["a", "b"],
                "Main/val": ["b", "c"],
                "Half/trainval": ["a", "b", "c", "x"],
                "Half2/trainval": ["e", "f", "g", "g"],
                "Quarter/trainval": ["a", "e"],
                "3Quarter/trainval": ["b", "c", "d", "f", "g", "h"],
            }
        }
    ).issues
    expected = [
        "Half2/trainval has 1 ids more than once (4 lines, first g)",
        "Quarter/trainval has 1 image (first e) outside Half/trainval",
        "Half2/trainval has 1 image (first e) outside 3Quarter/trainval",
        "Quarter/trainval and Half2/trainval have 1 image (first e) in common",
        "Half + Half2 (trainval) lacks 2 images (first d) of Main/trainval",
        "Main/trainval lacks 1 image (first x) of Half + Half2 (trainval)",
        "Main/train and Main/val have 1 image (first b) in common",
        "leak: Half/trainval has 1 image (first x) in Main/test",
    ]
    for line in expected:
        assert any(line in problem for problem in found), line


def test_checker_knows_an_image_under_two_names():
    found = check_splits(
        {
            "VOC2007": {"Half/trainval": ["000032"], "Main/test": ["000068"]},
            "VOC2012": {"Half/trainval": ["2007_000032", "2007_000068", "2008_000032"]},
        }
    ).issues
    assert found == [
        "Half/trainval: 1 images under two names (VOC2007 000032 = VOC2012 2007_000032)",
        "leak: Half/trainval has 1 image (first 000068) in Main/test",
    ]


def test_further_lists_can_count_as_tests():
    given_lists = {"x": {"A/trainval": ["1", "2"], "S1/val": ["2"]}}
    assert check_splits(given_lists).issues == []
    assert check_splits(given_lists, ["S1/val"]).issues == [
        "leak: A/trainval has 1 image (first 2) in S1/val"
    ]
    with pytest.raises(ValueError, match="no list 'S2/val'"):
        check_splits(given_lists, ["S2/val"])


def test_checker_finds_the_known_faults_of_the_reference_lists(shared_data):
    """The numbers that SPLITS.md beside the lists names."""
    folder = shared_data / "voc_splits"
    if not folder.is_dir():
        pytest.skip("no reference lists")
    sources = {year: read_lists(folder / year) for year in ("VOC2007", "VOC2012")}
    report = check_splits(sources)
    text = str(report)
    for name, leaked, twice in (("Half", 210, 422), ("Quarter", 209, 413), ("Eighth", 100, 223)):
        leak = f"leak: {name}/trainval has {leaked} images (first 000068) in Half/test (and 6 equal"
        assert leak in text
        assert f"{name}/trainval: {twice} images under two names" in text
    for line in (
        "VOC2012: Eighth/trainval has 17 images (first 2007_000822) outside Quarter/trainval",
        "VOC2012: 3Quarter/trainval has 11 images (first 2008_000103) outside 7Eighth/trainval",
        "VOC2012: Eighth/trainval and 3Quarter/trainval have 11 images",
        "VOC2012: Quarter + 3Quarter (trainval) lacks 10 images",
        "VOC2012: Eighth + 7Eighth (trainval) lacks 314 images",
        "VOC2007: MXEds/val has 321 ids more than once (642 lines",
        "VOC2012: SegQu/trainval has 1850 ids more than once (12689 lines",
        "leak: MXEdet/val has 104 images",
    ):
        assert line in text, line
    # What the experiments of the paper keep apart, is apart.
    assert "Half2/trainval has 210" not in text
    assert not any("VOC2007: " in line and "outside" in line for line in report.issues)
    official = check_splits(sources, ["S1/val"]).issues
    assert any("SegDb/trainval" in line and "in S1/val" in line for line in official)


def test_tool_makes_lists_for_a_card_and_checks_them(small_toy, tmp_path, capsys):
    card = tmp_path / "mine.yaml"
    card.write_text(f"name: mine\nformat: voc\nroot: {small_toy}\nsplits: {{train: Main/train}}\n")
    arguments = ["make", "--card", str(card), "--split", "train", "--out", str(tmp_path / "out")]
    assert split_tool.main(arguments) == 0
    assert "Half" in capsys.readouterr().out
    made = read_lists(tmp_path / "out")
    assert len(made["Half/trainval"]) == 12
    assert split_tool.main(["check", str(tmp_path / "out")]) == 0
    assert "Issues: 0" in capsys.readouterr().out
    assert split_tool.main(arguments) == 0
    with pytest.raises(UserError, match="other ids"):
        split_tool.main([*arguments, "--seed", "1"])
    write_splits({"Quarter": made["Half2/trainval"]}, tmp_path / "out")
    assert split_tool.main(["check", str(tmp_path / "out")]) == 1


def slow_balanced_part(features, pool, size, share, rng):
    """The definition of a balanced part: every swap is tried in full."""
    order = rng.permutation(pool)
    chosen, others = order[:size].copy(), order[size:].copy()
    if not len(others):
        return np.sort(chosen)
    error = features[chosen].sum(axis=0) - share * (features.sum(axis=0) > 0)
    best = float(error @ error)
    for position in rng.permutation(np.tile(np.arange(size), 2))[:2000]:
        candidates = features[others] - features[chosen[position]] + error
        costs = np.einsum("ij,ij->i", candidates, candidates)
        swap = int(np.argmin(costs))
        if costs[swap] < best * (1 - 1e-9) - 1e-18:
            best, error = float(costs[swap]), candidates[swap]
            chosen[position], others[swap] = others[swap], chosen[position]
    return np.sort(chosen)


@pytest.mark.parametrize(("count", "classes"), [(500, 20), (1500, 4), (700, 1)])
def test_swaps_are_those_of_the_definition(monkeypatch, count, classes):
    rng = np.random.default_rng(count)
    counts = {
        f"{i:05d}": dict(Counter(map(str, rng.integers(0, classes, rng.integers(0, 6)))))
        for i in range(count)
    }
    found = make_splits(counts, seed=1), make_partial_splits(counts, ["a", "b", "c"], seed=1)
    monkeypatch.setattr(make, "_balanced_part", slow_balanced_part)
    slow = make_splits(counts, seed=1), make_partial_splits(counts, ["a", "b", "c"], seed=1)
    assert found == slow


def test_large_lists_are_made_and_checked_fast():
    """100,000 images, 20 classes; 5 s and 2 s of a processor."""
    rng = np.random.default_rng(0)
    counts = {
        f"{i:06d}": dict(Counter(map(str, rng.integers(0, 20, 1 + i % 5)))) for i in range(100_000)
    }
    start = time.process_time()
    lists = {f"{name}/trainval": ids for name, ids in make_splits(counts).items()}
    made = time.process_time()
    lists |= {"Main/trainval": sorted(counts), "Main/test": [f"t{i}" for i in range(50_000)]}
    assert check_splits({"x": lists}).issues == []
    assert made - start < 15
    assert time.process_time() - made < 8


@pytest.mark.parametrize("fractions", [(Fraction(1, 2),), (1 / 2, 1 / 4, 1 / 8), (0.1, 0.2)])
def test_lists_made_of_a_part_of_a_larger_main_are_right(fractions):
    counts = {f"{i:03d}": {"a": 1} for i in range(99)}
    lists = {f"{name}/trainval": ids for name, ids in make_splits(counts, fractions).items()}
    whole = [*counts, "other", "others"]
    assert check_splits({"x": {**lists, "Main/trainval": whole}}).issues == []
    for name in [name for name in lists if len(lists) > 2]:
        lost = {**lists, name: lists[name][1:], "Main/trainval": whole}
        assert any("lacks" in issue for issue in check_splits({"x": lost}).issues)
