"""The pages of the catalogue: what each registry has, with its docstring and its options."""

import contextlib
import html
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import griffe
from detectron2.modeling import BACKBONE_REGISTRY
from tabulate import tabulate

from multas.data import AUGMENTATION_REGISTRY, DATA_FORMAT_REGISTRY
from multas.distillation import AGGREGATOR_REGISTRY, PATH_REGISTRY
from multas.evaluation import EVALUATOR_REGISTRY
from multas.modeling import TASK_HEAD_REGISTRY
from multas.util.names import lookup

NOTES = ""
REPOSITORY = Path(__file__).resolve().parent.parent.parent

_PATHS = """
A path is a loss between a layer of the teacher and one of the student. It is an entry of
`MODEL.DISTILLATION.PATHS`, and its options are keys of the entry:

```yaml
MODEL:
  DISTILLATION:
    PATHS:
      - {TYPE: FKD, STUDENT: backbone, TEMPERATURE: 0.5, WEIGHT: 2.0}
```

Every path has the keys NAME, STUDENT and TEACHER (layers by name), WEIGHT (its hand-tuned weight),
LAYERWISE, TEACHER_ID and TASKS too; [the keys](keys.md#distillation) explain them. A path of your
own is [one class](../architecture.md#a-path).
"""
_AGGREGATORS = """
An aggregator weighs the losses of all paths. Its options stand beside its name:

```yaml
MODEL:
  DISTILLATION:
    ALPHA: 0.3
    AGGREGATION: {NAME: adaptive, MAX_WEIGHTED_LOSS: 5.0}
```

`torchjd:<name>` is one of the library [TorchJD](https://torchjd.org) that needs the Gram matrix of
the gradients alone, such as `torchjd:UPGrad`, with the arguments of its constructor as options
(`pip install 'multas[torchjd]'`). [The keys](keys.md#distillation) say with respect to what
gradients are taken. An aggregator of your own is [one class](../architecture.md#an-aggregator).
"""
_HEADS = """
`MODEL.MULTITASK.HEADS` names the head of each task. What it reads are [keys of the
config](keys.md#models); a mapping sets arguments of the constructor instead. A head of your own is
[one class](../architecture.md#a-head).

```yaml
MODEL: {MULTITASK: {TASKS: [det], HEADS: [GFLHead]}}
```
"""
_FORMATS = """
The `format` of a [data card](../cards.md) says how its files are read. The keys may stand in a
split, or beside `splits` for all of them. A format of your own is [one
class](../cards.md#a-format-of-your-own).
"""
_AUGMENTATIONS = """
`INPUT.AUGMENTATION` names one of these; without it Detectron2's own keys hold. One of your own is a
function from the config to Detectron2's augmentations, registered in `AUGMENTATION_REGISTRY`.
Samples of several images are [another matter](../augmentations.md).
"""
_BACKBONES = """
`MODEL.BACKBONE.NAME`, beside those of Detectron2. [The page about backbones](../backbones.md) shows
how those of timm are used.
"""
_EVALUATORS = """
A data card chooses the evaluators of its splits by what they annotate, and `DATASETS.TEST` runs
them. `TEST.EVALUATOR` chooses another for boxes, whatever the format of the data:

- `voc`: `multas.evaluation.VOCDetectionEvaluator`, with the numbers of the next in less time,
  and AP of each class, at any IoU and by both metrics (`TEST.VOC_…`)
- `detectron2_voc`: Detectron2's `PascalVOCDetectionEvaluator` (AP, AP50, AP75)
- `coco`: Detectron2's `COCOEvaluator` (also APs, APm, APl and AP of each class)
"""


def pages() -> dict[str, str]:
    """The markdown of every page, by its place in the site."""
    heads = {name: cls for name, cls in TASK_HEAD_REGISTRY if cls.__module__.startswith("multas")}
    backbones = {n: f for n, f in BACKBONE_REGISTRY if f.__module__.startswith("multas")}
    aggregators = {_snake(name): cls for name, cls in AGGREGATOR_REGISTRY}
    formats = {cls.format_name(): cls for _, cls in DATA_FORMAT_REGISTRY}
    content = {
        "paths": _page("Paths", _PATHS, dict(PATH_REGISTRY), _path),
        "aggregators": _page("Aggregators", _AGGREGATORS, aggregators, _aggregator),
        "heads": _page("Heads", _HEADS, heads, _described),
        "formats": _page("Data formats", _FORMATS, formats, _format),
        "augmentations": _page(
            "Augmentations", _AUGMENTATIONS, dict(AUGMENTATION_REGISTRY), _described
        ),
        "backbones": _page("Backbones", _BACKBONES, backbones, _described),
        "evaluators": _page("Evaluators", _EVALUATORS, dict(EVALUATOR_REGISTRY), _described),
        "keys": _keys(),
        "tools": _tools(),
    }
    return {f"catalogue/{name}.md": text for name, text in content.items()}


Entry = Callable[[str, Any], Iterable[str]]


def _page(title: str, introduction: str, entries: Mapping[str, Any], entry: Entry) -> str:
    """A page: what all entries have in common, a line about each, and each at length."""
    index = [
        [f"[`{name}`](#{name.lower()})", _cell(_doc(entries[name]).split("\n\n")[0])]
        for name in entries
    ]
    parts = [f"# {title}", introduction, tabulate(index, ["name", "what it is"], tablefmt="github")]
    for name, thing in entries.items():
        parts += [f"## {name} {{ #{name.lower()} }}", *entry(name, thing)]
    return "\n\n".join(filter(None, parts))


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _described(name: str, thing: Any) -> Iterator[str]:
    yield _text(_sections(thing)[0])


def _path(name: str, cls: Any) -> Iterator[str]:
    yield from _described(name, cls)
    facts = [f"NAME `{cls.default_name}`, WEIGHT {cls.default_weight:g}"]
    if cls.default_student:
        facts.append(f"STUDENT {', '.join(f'`{layer}`' for layer in cls.default_student)}")
    notes = ["Both networks need the same anchors."] if cls.same_anchors else []
    notes += ["The teacher runs to its detections."] if cls.needs_boxes else []
    yield " ".join([f"By default: {', '.join(facts)}.", *notes])
    yield _options(cls, given=("layers",), key=str.upper)


def _aggregator(name: str, cls: Any) -> Iterator[str]:
    assert lookup(AGGREGATOR_REGISTRY, name, "the catalogue") is cls
    yield from _described(name, cls)
    yield _options(cls, given=("names", "hand_tuned"), key=str.upper)


def _format(name: str, cls: Any) -> Iterator[str]:
    yield from _described(name, cls)
    yield _options(cls, given=("name",), key=str)


def _options(cls: Any, given: Iterable[str], key: Callable[[str], str]) -> str:
    """A table of what a config may set: the arguments of the constructor."""
    meanings = _sections(cls)[1]
    rows = [
        [
            f"`{key(argument.name)}`",
            _type(argument.annotation),
            "needed" if argument.default is argument.empty else f"`{_value(argument.default)}`",
            _cell(meanings.get(argument.name, "")),
        ]
        for argument in inspect.signature(cls).parameters.values()
        if argument.name not in given
    ]
    header = ["option", "type", "default", "meaning"]
    if not any(row[-1] for row in rows):
        rows, header = [row[:-1] for row in rows], header[:-1]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True) if rows else ""
    return "\n\n".join(filter(None, [table, _text(meanings.get(NOTES, ""))]))


def _sections(thing: Any) -> tuple[str, dict[str, str]]:
    """The text of a docstring, and what it says of each argument."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    for section in griffe.Docstring(_doc(thing)).parse("google", warnings=False):
        if section.kind.value == "text":
            text.append(section.value)
        elif section.kind.value == "parameters":
            for argument in section.value:
                own = _meanings(thing, argument.name.split(", "), argument.description)
                notes = " ".join(filter(None, [arguments.get(NOTES), own.get(NOTES)]))
                arguments |= own | {NOTES: notes}
    return "\n\n".join(text), arguments


def _meanings(thing: Any, names: Sequence[str], said: str) -> dict[str, str]:
    """What is said of some arguments.

    "see :class:`Other`" and "see ``this`` and ``that`` of :func:`other`" are replaced by what
    stands there. What is said beside that, of all of them, is under ``NOTES``.
    """
    said = " ".join(said.split())
    match = re.search(r"\bsee ((?:``\w+``|,| and|\s|of)*):\w+:`([\w.]+)`[.;]?", said)
    if not match:
        return dict.fromkeys(names, said)
    module, _, name = match[2].rpartition(".")
    other = getattr(importlib.import_module(module or thing.__module__), name)
    _, theirs = _sections(other)
    named = re.findall(r"\w{3,}", match[1].replace("and", "")) or names
    pairs = zip(names, named, strict=True)
    meanings = {mine: theirs.get(their, said) for mine, their in pairs}
    own = said.replace(match[0], "").strip()
    return meanings | ({NOTES: own} if own else {})


def _text(docstring: str) -> str:
    """Markdown of a docstring, whose marks are those of reStructuredText."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match[1].rpartition('.')[2]}`", docstring)
    text = re.sub(r"``(.+?)``", r"`\1`", text).strip()
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [html.escape(part, quote=False) for part in parts[::2]]
    return "".join(parts)


def _cell(text: str) -> str:
    return _text(text).replace("|", r"\|")


def _type(annotation: Any) -> str:
    text = inspect.formatannotation(annotation)
    text = re.sub(
        r"(collections\.abc\.)?Sequence\[(\w+)\]|tuple\[(\w+), \.\.\.\]", r"list of \2\3", text
    )
    return text.replace(" | None", "").replace(" | ", " or ")


def _value(default: Any) -> str:
    if isinstance(default, tuple | list):
        return f"[{', '.join(map(str, default))}]"
    return '""' if default == "" else "–" if default is None else str(default)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _keys() -> str:
    """The keys of the config, as the code that adds them has them."""
    files = {"Data": "data", "Models": "modeling", "Distillation": "distillation",
             "Solver": "solver", "Evaluation": "evaluation"}  # fmt: skip
    parts = [
        "# Config keys",
        "What multas adds to [Detectron2's config](https://detectron2.readthedocs.io), with each "
        "default. `_BASE_` is a path from the file that names it; all other relative paths are "
        "those of the working directory.",
    ]
    for title, name in files.items():
        code = (REPOSITORY / f"projects/multas/config/{name}.py").read_text()
        parts += [f"## {title}", f"```python\n{code}```"]
    return "\n\n".join(parts)


def _tools() -> str:
    """What every tool prints with --help."""
    folder = REPOSITORY / "tools"
    sys.path.insert(0, str(folder))
    parts = [
        "# Tools",
        "What each tool says with `--help`.",
    ]
    for file in sorted(folder.glob("*.py")):
        parts += [f"## {file.stem}", f"```text\n{help_of(file.stem)}\n```"]
    return "\n\n".join(parts)


def help_of(tool: str) -> str:
    """What a script of tools/ prints with --help."""
    output = io.StringIO()
    with (
        patch.object(sys, "argv", [f"tools/{tool}.py", "--help"]),
        patch.dict(os.environ, {"COLUMNS": "100"}),
        contextlib.chdir(REPOSITORY),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(tool).parse_args()
    return output.getvalue().strip()
