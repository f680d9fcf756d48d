"""Heads of recipes: what they can say, and that those shipped say it."""

from pathlib import Path

import pytest

from reproduction.heads import read_head

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECIPES = [
    str(file.relative_to(REPOSITORY))
    for paper in ("limited-data", "adaptive")
    for file in sorted((REPOSITORY / "configs" / paper).rglob("*.yaml"))
    if not {"base", "beyond"} & set(file.parts)
]


@pytest.mark.parametrize(
    ("text", "places", "label", "data", "numbers"),
    [
        ("# Table 2, a row.\n# Paper: mAP 1.5.\n", "2", "a row", "", {"mAP": 1.5}),
        (
            "# Tables 1 to 3, self-trained, on x.\n# Paper, on VOC: AP50 7, mAP 5.25.\n",
            "1 2 3",
            "self-trained, on x",
            "VOC",
            {"AP50": 7.0, "mAP": 5.25},
        ),
        (
            "# Tables 2, 3 and 5, student (ResNet-18).\n# Paper: top-1 error 20.04, agreement\n"
            "# error 3.1. It is trained longer, e.g. 2 epochs.\n",
            "2 3 5",
            "student (ResNet-18)",
            "",
            {"top-1 error": 20.04, "agreement error": 3.1},
        ),
        ("# Table 1 (VEDAI), a.\n# Paper: AP10 1.\nX: 1\n# Table 9\n", "1", "a", "", {"AP10": 1.0}),
        ("# Table 1, a.\n# Paper: mAP 4 (mAP50 6.1).\n", "1", "a", "", {"mAP": 4.0, "mAP50": 6.1}),
        ("# Table 1, a.\n# Paper: mAP 4 (beside b: 3).\n", "1", "a", "", {"mAP": 4.0}),
        ("# Table 1, a.\n# Paper: a bar without a number in the text.\n", "1", "a", "", {}),
    ],
)
def test_a_head_says(tmp_path, text, places, label, data, numbers):
    file = tmp_path / "row.yaml"
    file.write_text(f"{text}MODEL: {{}}\n")
    head = read_head(file)
    assert head.places == {f"Table {n}" for n in places.split()}
    assert (head.label, head.data, head.numbers) == (label, data, numbers)


def test_numbers_may_differ_between_tables(tmp_path):
    file = tmp_path / "row.yaml"
    file.write_text(
        "# Tables 1 and 5, Figure 2, a.\n# Paper: mAP 39.8 (Table 1: 39.6, mAP50 62).\n"
    )
    head = read_head(file)
    assert head.places == {"Table 1", "Table 5", "Figure 2"}
    assert head.paper("Table 1") == {"mAP": 39.6, "mAP50": 62.0}
    assert head.paper("Table 5") == {"mAP": 39.8, "mAP50": 62.0}


@pytest.mark.parametrize(
    "text", ["MODEL: {}\n", "# A row.\n", "# Table 1, a.\n", "# Table 1, a.\n# Paper: mAP much.\n"]
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text):
    file = tmp_path / "row.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"row\.yaml.*mAP 50\.1"):
        read_head(file)


@pytest.mark.parametrize("file", RECIPES)
def test_every_recipe_has_a_head(file):
    head = read_head(file)
    assert head.label
    assert head.numbers or head.places == {"Figure 2"}
