"""Pseudo-masks: the masks of folders (pseudo_mask_files.py) for images that have none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multas.data.formats.masks import check_mask, read_mask
from multas.data.pseudo_mask_files import AGAIN, KEY, MaskHeader, read_pseudo_masks
from multas.data.shared_list import SharedDict
from multas.util.annotation import MASKS
from multas.util.errors import UserError


@dataclass(frozen=True)
class PseudoMasks:
    """The masks of one or more folders: their files by image id, and the headers by folder."""

    files: Mapping[Any, str] = field(default_factory=dict)
    headers: Mapping[str, MaskHeader] = field(default_factory=dict)
    folders: Mapping[Any, str] = field(default_factory=dict)  # by image id, also without a file

    def join(self, dataset_dict: dict) -> dict:
        """Add its mask to the dict of an image that has none."""
        file = self.files.get(dataset_dict.get("image_id"))
        if file is None or MASKS.dataset_key in dataset_dict:
            return dataset_dict
        return {**dataset_dict, MASKS.dataset_key: file}

    def check(
        self, dicts: Sequence[Mapping], names: Sequence[str], training_key: str = "DATASETS.TRAIN"
    ) -> None:
        """Make sure that the folders belong to the training images, and that each mask is sound.

        Args:
            dicts: dataset dicts of the training set.
            names: names of the data sets that they come from.
            training_key: the config key that holds these names, for messages.

        Raises:
            UserError: A folder labels none of the images without a mask, two images have one id, or
                a mask cannot be read, has another size than its image or a value of no class.
        """
        images: dict[Any, Mapping] = {}
        for sample in dicts:
            image_id = sample.get("image_id")
            if MASKS.dataset_key in sample or image_id not in self.folders:
                continue
            other = images.setdefault(image_id, sample)["file_name"]
            if other != sample["file_name"]:
                raise UserError(
                    f"{KEY}: the id '{image_id}' is that of {other} and of {sample['file_name']}; "
                    "whose mask is it? Give the images different names, or train on one set."
                )
        for folder, header in self.headers.items():
            if folder not in {self.folders[image_id] for image_id in images}:
                raise UserError(
                    f"{KEY}: {folder} labels none of the images of {training_key} {tuple(names)} "
                    f"that have no mask; it was made for '{header.dataset}'. Name that data set "
                    "there, or label these images with tools/pseudo_label.py --masks."
                )
        for image_id in images.keys() & self.files.keys():
            header = self.headers[self.folders[image_id]]
            mask = read_mask(file := self.files[image_id])
            try:
                check_mask(mask, images[image_id], len(header.classes), header.ignore_label)
            except UserError as error:
                raise UserError(f"{KEY}: {file}: {error}. {AGAIN}") from None


def load_pseudo_masks(
    folders: Sequence[str], classes: Sequence[str], ignore_label: int
) -> PseudoMasks:
    """The masks of folders, written by :func:`writing_masks`, for training.

    Args:
        folders: their paths.
        classes: names of the classes of pixels of the training set, which the folders must have.
        ignore_label: the value of pixels that do not count in training.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: One is no folder of pseudo-masks, has other classes or another ignore label, or
            labels an image again.
    """
    files: dict[Any, str] = {}
    labelled_in: dict[Any, str] = {}
    headers: dict[str, MaskHeader] = {}
    for folder in folders:
        header, found = read_pseudo_masks(folder)
        headers[folder] = header
        if list(header.classes) != list(classes):
            raise UserError(
                f"{folder} was made for the classes {header.classes}, but the training set has "
                f"{list(classes)}. Label again with a teacher of these classes."
            )
        if header.ignore_label != ignore_label:
            raise UserError(
                f"{folder} has the value {header.ignore_label} where the teacher was not certain, "
                f"but MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE is {ignore_label}. Set that key to "
                f"{header.ignore_label}, or label again."
            )
        for image_id, file in found.items():
            if image_id in labelled_in:
                raise UserError(
                    f"{KEY}: image '{image_id}' is labelled in {labelled_in[image_id]} and again "
                    f"in {folder}. Name folders that do not overlap."
                )
            labelled_in[image_id] = folder
            if file:
                files[image_id] = file
    return PseudoMasks(SharedDict(files), headers, SharedDict(labelled_in))
