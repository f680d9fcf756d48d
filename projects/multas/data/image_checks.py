"""The check that all image files of data sets can be read, before it matters."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils import comm
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from multas.data.image_files import mode_fault
from multas.data.intact_files import add_intact, fingerprint, read_intact
from multas.data.issues import DatasetError, DatasetIssues

# Metadata of ground truth in files, which know nothing of images that are left out. Without them
# evaluators take the dicts.
_FILES_OF_TRUTH = ("json_file", "dirname", "split")
_CHUNK = 10_000  # files that are handed to threads at once


def check_images(names: Sequence[str]) -> None:
    """Decode every image file of registered data sets.

    Broken images of cards with ``strictness: skip`` are left out of the data set from now on, in
    training and evaluation alike, and named in a warning. The main process decodes for all.

    Raises:
        DatasetError: Images of other data sets are broken; the message names the files.
    """
    for name in names:
        _restore(name)
    files = {name: _image_files(DatasetCatalog.get(name)) for name in names}
    all_files = {file for own in files.values() for file in own}
    own = find_broken(all_files) if comm.is_main_process() else {}
    broken: Mapping[str, str] = comm.all_gather(own)[0]
    stopping: dict[str, list[str]] = {}
    for name, own_files in files.items():
        found = [file for file in own_files if file in broken]
        if found and MetadataCatalog.get(name).get("strictness") == "skip":
            _leave_out(name, {file: broken[file] for file in found})
        elif found:
            stopping[name] = found
    if stopping:
        issues = DatasetIssues(", ".join(map(repr, stopping)))
        for file in dict.fromkeys(file for found in stopping.values() for file in found):
            issues.add(file, broken[file])
        raise DatasetError(
            f"{issues.report()}\nMend or remove these images. `strictness: skip` in a card leaves "
            "them out, and DATASETS.CHECK_IMAGES False goes on until one is met."
        )


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
            broken[file] = _in_words(error)
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
        ThreadPool(_num_threads()) as pool,  # Pillow decodes without holding Python's lock
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
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "is a folder" if os.path.isdir(file) else "is no ordinary file"
        if not os.path.getsize(file):
            return "is empty"
        with Image.open(file) as image:
            if fault := mode_fault(image):
                return fault
            # All data of a JPEG file are decoded, but few pixels are made of them.
            image.draft(None, (1, 1))
            image.load()
    except Exception as error:  # Pillow has many for damaged files
        return _in_words(error)
    return None


def _in_words(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"is too large to be opened: {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"is damaged ({error.__class__.__name__}: {error})"


def _num_threads() -> int:
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
        records = self.load()
        _forget_files_of_truth(metadata)
        if written is not None:
            metadata.json_file = written
        kept = [record for record in records if record.get("file_name") not in self.broken]
        metadata.left_out["broken images"] = len(records) - len(kept)
        if not kept:
            raise DatasetError(f"Data set '{self.name}' has no image that can be read.")
        return kept


def _restore(name: str) -> None:
    """Let a data set be loaded with the images that were broken: they may have been mended."""
    if isinstance(load := DatasetCatalog[name], _WithoutBroken):
        _forget_files_of_truth(MetadataCatalog.get(name))
        _register(name, load.load)


def _leave_out(name: str, broken: Mapping[str, str]) -> None:
    issues = DatasetIssues(repr(name), "skip")
    for file, fault in broken.items():
        issues.add(file, fault)
    issues.close()
    _forget_files_of_truth(MetadataCatalog.get(name))
    _register(name, _WithoutBroken(name, DatasetCatalog[name], broken))


def _forget_files_of_truth(metadata: Metadata) -> None:
    for key in _FILES_OF_TRUTH:
        vars(metadata).pop(key, None)


def _register(name: str, load: Callable[[], list[dict]]) -> None:
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, load)
