"""The check that all image files of data sets can be read, before it matters."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils import comm
from PIL import Image
from tqdm import tqdm

from multas.data.image_files import mode_fault, unreadable
from multas.data.intact_files import add_intact, fingerprint, read_intact
from multas.data.issues import DatasetError, DatasetIssues
from multas.util.annotation import MASKS
from multas.util.files import refuse_pipe

# Metadata of ground truth in files, which know nothing of images that are left out. Without them
# evaluators take the dicts.
_FILES_OF_TRUTH = ("json_file", "dirname", "split")
# Of Cityscapes, whose archives have other label maps.
TRAIN_IDS = "_gtFine_labelTrainIds.png"
TRAIN_IDS_CURE = (
    "Make them once: cityscapesscripts/preparation/createTrainIdLabelImgs.py "
    "(pip install cityscapesscripts) with CITYSCAPES_DATASET as the folder of the data."
)
_CHUNK = 10_000  # files that are handed to threads at once


@contextmanager
def checked_images(names: Sequence[str]) -> Iterator[None]:
    """Decode every image file of registered data sets.

    Broken images of cards with ``strictness: skip`` are left out of the data set from now on, in
    training and evaluation alike, and named in a warning. The main process decodes for all. Inside
    the block the data sets stay as they were loaded for this check; nothing is read again.

    Raises:
        DatasetError: Images of other data sets are broken, or masks are not there; the message
            names the files.
    """
    loads = {name: _complete(name) for name in names}
    records = {name: _load(name, load) for name, load in loads.items()}
    for name, own_records in records.items():
        _require_masks(name, own_records)
    files = {name: _image_files(own) for name, own in records.items()}
    own = find_broken({f for fs in files.values() for f in fs}) if comm.is_main_process() else {}
    faults: Mapping[str, str] = comm.all_gather(own)[0]
    broken = {name: {f: faults[f] for f in files[name] if f in faults} for name in names}
    broken = {name: found for name, found in broken.items() if found}
    _stop_or_warn(broken)
    for name, found in broken.items():
        loads[name] = without = _WithoutBroken(name, loads[name], found)
        records[name] = without.intact(records[name])
    try:
        for name in names:
            DatasetCatalog[name] = partial(list, records[name])
        yield
    finally:
        DatasetCatalog.update(loads)


def _load(name: str, load: Callable[[], list[dict]]) -> list[dict]:
    try:
        return load()
    except AssertionError as error:  # of Detectron2's loaders, where files are missing
        raise DatasetError(f"Data set '{name}' cannot be loaded: {error}") from error


def _require_masks(name: str, records: Sequence[Mapping]) -> None:
    """Make sure that there is a file for every mask that the records name."""
    files = {str(r[MASKS.dataset_key]) for r in records if MASKS.dataset_key in r}
    missing = sorted(f for f in files if "://" not in f and not os.path.isfile(f))
    if missing:
        issues = DatasetIssues(repr(name))
        for file in missing:
            issues.add(file, "no such file")
        cure = f"\n{TRAIN_IDS_CURE}" if missing[0].endswith(TRAIN_IDS) else ""
        raise DatasetError(f"{issues.report()}{cure}")


def _stop_or_warn(broken: Mapping[str, Mapping[str, str]]) -> None:
    """Report the broken files of each data set, with what is wrong with them."""
    stopping = [n for n in broken if MetadataCatalog.get(n).get("strictness") != "skip"]
    if stopping:
        issues = DatasetIssues(", ".join(map(repr, stopping)))
        for file, fault in {f: w for name in stopping for f, w in broken[name].items()}.items():
            issues.add(file, fault)
        raise DatasetError(
            f"{issues.report()}\nMend or remove these images. `strictness: skip` in a card leaves "
            "them out, and DATASETS.CHECK_IMAGES False goes on until one is met."
        )
    for name, found in broken.items():
        issues = DatasetIssues(repr(name), "skip")
        for file, fault in found.items():
            issues.add(file, fault)
        issues.close()


def find_broken(files: Iterable[str]) -> dict[str, str]:
    """What is wrong with each file that is not a readable image.

    Files that were found intact before, and are unchanged, are not opened. A progress bar appears
    if it takes more than two seconds.
    """
    intact, new, broken = read_intact(), set(), {}
    pending: list[tuple[str, bytes]] = []
    for file in sorted(files):
        try:
            if (mark := fingerprint(file)) not in intact:
                pending.append((file, mark))
        except (OSError, ValueError) as error:
            broken[file] = unreadable(error)
    for mark, file, fault in _decode(pending):
        if fault is None:
            new.add(mark)
        else:
            broken[file] = fault
    if new:
        add_intact(new)
    return broken


def _decode(pending: Sequence[tuple[str, bytes]]) -> Iterator[tuple[bytes, str, str | None]]:
    """The fingerprint, name and fault of each file."""
    if not pending:
        return
    with (
        ThreadPool(num_threads()) as pool,  # Pillow decodes without holding Python's lock
        tqdm(total=len(pending), desc="images", unit="image", delay=2) as bar,
    ):
        for start in range(0, len(pending), _CHUNK):
            part = pending[start : start + _CHUNK]
            faults = pool.imap(image_fault, [file for file, _ in part], chunksize=16)
            for (file, mark), fault in zip(part, faults, strict=True):
                bar.update()
                yield mark, file, fault


def image_fault(file: str) -> str | None:
    """Decode an image file, and say what is wrong with it, if anything is."""
    try:
        refuse_pipe(file)
        if not os.path.getsize(file):
            return "is empty"
        with Image.open(file) as image:
            if fault := mode_fault(image):
                return fault
            # All data of a JPEG file are decoded, but few pixels are made of them.
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # Pillow has many for damaged files
        return unreadable(error)
    return None


def num_threads() -> int:
    return min((os.cpu_count() or 1) + 4, 32)  # some of them wait for the disk


def _image_files(records: Sequence[Mapping]) -> list[str]:
    """The local files of images; "pixels" stand for the image in a file that is none."""
    files = [str(r["file_name"]) for r in records if "file_name" in r and "pixels" not in r]
    return [file for file in files if "://" not in file]


@dataclass(frozen=True)
class _WithoutBroken:
    """Loads a data set without the images that were found broken."""

    name: str
    load: Callable[[], list[dict]]
    broken: Mapping[str, str]

    def __call__(self) -> list[dict]:
        metadata = MetadataCatalog.get(self.name)
        # Detectron2's COCO evaluator keeps there what it writes from the dicts.
        written = vars(metadata).pop("json_file", None)
        kept = self.intact(self.load())
        if written is not None:
            metadata.json_file = written
        return kept

    def intact(self, records: Sequence[dict]) -> list[dict]:
        """Those of the records, which have just been loaded, whose images are not broken."""
        metadata = MetadataCatalog.get(self.name)
        _forget_files_of_truth(metadata)
        kept = [record for record in records if record.get("file_name") not in self.broken]
        metadata.left_out["broken images"] = len(records) - len(kept)
        if not kept:
            raise DatasetError(f"Data set '{self.name}' has no image that can be read.")
        return kept


def _complete(name: str) -> Callable[[], list[dict]]:
    """The function that loads a data set, broken images included: they may have been mended."""
    load = DatasetCatalog[name]
    if not isinstance(load, _WithoutBroken):
        return load
    _forget_files_of_truth(MetadataCatalog.get(name))
    return load.load


def _forget_files_of_truth(metadata: Metadata) -> None:
    for key in _FILES_OF_TRUTH:
        vars(metadata).pop(key, None)
