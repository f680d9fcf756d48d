"""Faulty cards: one message that names the card and its key, and a cure."""

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP

CARDS = {
    "name table": ({"name": {"a": 1}}, "name has {'a': 1}, need a text"),
    "name of a list": ({"name": ["a"]}, "name has ['a'], need a text", "quotes"),
    "name yes": ({"name": True}, "name has True, need a text", "quotes"),
    "name that leaves": ({"name": "../../x"}, "name '../../x' must consist of letters"),
    "name absolute": ({"name": "/elsewhere"}, "name '/elsewhere' must consist of letters, digits"),
    "name of a space": ({"name": "my data"}, "name 'my data' must consist of letters, digits"),
    "name empty": ({"name": ""}, "name '' must consist of letters, digits"),
    "name hidden": ({"name": ".x"}, "name '.x'", "begin with a letter or digit"),
    "no name": ({"name": None}, "key 'name' is missing"),
    "format": ({"format": "vok"}, "format is 'vok'; choose from", "voc"),
    "format list": ({"format": ["voc"]}, "format is '['voc']'", "choose from", "voc"),
    "no format": ({"format": None}, "key 'format' is missing"),
    "root list": ({"root": ["a"]}, "root has ['a'], need a text"),
    "root number": ({"root": 1.5}, "root has 1.5, need a text"),
    "root nowhere": ({"root": "nowhere"}, "root 'nowhere' is not a folder, tried", "correct"),
    "root of nobody": ({"root": "~nobody7/x"}, "root '~nobody7/x' is not a folder", "correct"),
    "root a file": ({"root": "devkit.yaml"}, "root 'devkit.yaml' is not a folder",
                    "correct `root`"),
    "root with zero": ({"root": "a\0b"}, "a zero byte or half a character; remove it"),
    "ignore_label text": ({"ignore_label": "x"}, "ignore_label 'x', need a whole number"),
    "ignore_label half": ({"ignore_label": 1.5}, "ignore_label 1.5, need a whole number"),
    "ignore_label yes": ({"ignore_label": True}, "ignore_label True, need a whole number"),
    "ignore_label large": ({"ignore_label": 300}, "ignore_label 300", "0 to 255"),
    "classes text": ({"classes": "cup"}, "classes must be a list of names, got 'cup'"),
    "classes table": ({"classes": {1: "cup"}}, "classes must be a list of names, got {1: 'cup'}"),
    "classes yes": ({"classes": ["yes", True]}, "classes has True, need a text", "quotes"),
    "classes list": ({"classes": [["cup"]]}, "classes has ['cup'], need a text"),
    "classes twice": ({"classes": ["cup", "cup"]}, "classes lists cup twice"),
    "classes blank": ({"classes": ["cup", " "]}, "classes has ' ', need a text of one line"),
    "classes lines": ({"classes": ["cup", "a\nb"]}, "classes has 'a\\nb', need a text of one line"),
    "without itself": ({"splits": {"half": {"ids": "Half/trainval", "without": ["half"]}}},
                       "split 'half': `without` names 'half'"),
    "only unknown": ({"only": ["sstar"]}, "`only` names 'sstar'. Did you mean 'star'"),
    "only text": ({"only": "star"}, "only must be a list of names, got 'star'"),
    "only empty": ({"only": []}, "only is empty", "leave out the key"),
    "classes empty": ({"classes": []}, "classes is empty", "leave"),
    "strictness": ({"strictness": "skp"}, "strictness is 'skp'; choose from stop, skip"),
    "strictness yes": ({"strictness": True}, "strictness is 'True'; choose from stop, skip"),
    "splits list": ({"splits": ["half"]}, "`splits` must be a table like {train: Main/train}"),
    "splits text": ({"splits": "half"}, "`splits` must be a table like {train: Main/train}"),
    "splits empty": ({"splits": {}}, "`splits` must be a table like {train: Main/train}"),
    "split list": ({"splits": {"half": ["a", "b"]}}, "ids has ['a', 'b'], need a text"),
    "split name": ({"splits": {"../x": "Main/train"}},
                   "name '../x' must consist of letters, digits"),
    "split no": ({"splits": {False: "Main/train"}}, "name has False, need a text", "quotes"),
    "split key": ({"splits": {"half": {"idz": "x"}}}, "split 'half': unknown key 'idz'", "'ids'"),
    "no list": ({"splits": {"half": "Main/trian"}}, "no id list 'Main/trian', tried"),
    "split taken": ({"splits": {"a_unlabeled": "x"}}, "names ending in _unlabeled"),
    "year text": ({"year": "x"}, "year 'x', need a whole number"),
    "year half": ({"year": 2007.5}, "year 2007.5, need a whole number"),
    "year other": ({"year": 2010}, "year 2010, choose 2007", "2012"),
    "only_complete": ({"only_complete": "no"}, "only_complete 'no', choose true or false"),
    "images list": ({"images": ["a"]}, "images has ['a'], need a text"),
    "images nowhere": ({"images": "nowhere"}, "no image folder", "correct `root` or `images`"),
    "annotates": ({"annotates": ["dets"]}, "annotates ['dets']", "can give ['det', 'seg']"),
    "annotates table": ({"annotates": {"det": 1}}, "annotates has {'det': 1}, need a text"),
    "unknown key": ({"clases": ["a"]}, "unknown key 'clases'", "Did you mean 'classes'"),
    "key of another": ({"json": "x"}, "format voc has no use for `json` (coco have), drop it"),
}  # fmt: skip


@cases("keys", CARDS)
def test_cards(world, keys, parts):
    world.write("devkit.yaml", {**world.read("devkit.yaml"), **keys})
    check_refusal(world.make_splits("devkit.yaml", "half"), "card devkit.yaml", *parts)


CARD_FILES = {
    "empty": (b"", "is not a table of keys"),
    "list": (b"- a\n", "is not a table of keys"),
    "Latin-1": ("# Où\nname: été\n".encode("latin-1"), "line 1 is not UTF-8", "encoding UTF-8"),
    "binary": (b"\0\1\2", "zero bytes", "encoding UTF-8"),
    "no YAML": (b"name: [a\n", "devkit.yaml, line 2", "expected ',' or ']'"),
    "tab": (b"name: a\n\troot: b\n", "devkit.yaml, line 2", "cannot start any token"),
    "no date": (b"name: 2020-02-30\n", "day is out of range", "Put texts in quotes"),
    "code": (b"name: !!python/object/apply:os.system ['touch owned']\n", "line 1: the tag",
             "would run Python code and is refused"),
    "deep": (b"[" * 2_000, "nested too deeply", "Correct its brackets"),
    "key twice": (b"name: a\nroot: b\nname: c\n", "line 3: the key 'name' is given twice"),
    "split twice": (b"name: a\nsplits:\n  x: a\n  x: b\n", "line 4: the key 'x' is given twice"),
}  # fmt: skip


@cases("content", CARD_FILES)
def test_card_files(world, content, parts):
    world.write("devkit.yaml", content)
    check_refusal(world.make_splits("devkit.yaml", "half"), "card devkit.yaml", *parts)


def test_cards_that_are_no_files(world):
    check_refusal(world.make_splits("nowhere.yaml"), "nowhere.yaml cannot be read", "No such file")
    check_refusal(world.make_splits("devkit"), "devkit cannot be read", "Is a directory")


def test_train_net_names_file_and_entry(world):
    world.write("devkit.yaml", {**world.read("devkit.yaml"), "name": "../../x"})
    check_refusal(world.train(), "card devkit.yaml: name '../../x' must consist of letters")
    content = world.read("coco/train.json")
    content["categories"].append({"id": 3, "name": "cat"})
    world.write("coco/train.json", content)
    opts = ["DATASETS.CARDS", "('coco.yaml',)", "DATASETS.TRAIN", "('tinycoco_train',)"]
    message = world.train(*opts, "DATASETS.TEST", "()")
    check_refusal(message, "train.json: categories[2]: name 'cat' is that of categories[0]", SKIP)
