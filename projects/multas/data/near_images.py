"""Images that show the same although their files differ: encoded again, resized, brightened.

The difference hash of an image says for each point of a coarse grid whether the next point to its
right is brighter (Krawetz, "Kind of like that", hackerfactor.com, 2013). Here the grid has 16 x 16
points, so that 256 bits tell the images of large data sets apart. Where grounds are plain, as under
a microscope, many bits are noise: images with like hashes must correlate as well. Those of a camera
that stands still do; so at last a finer grid decides whether they are one picture.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.pool import ThreadPool

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from multas.data.image_checks import num_threads
from multas.data.image_files import as_array, read_image
from multas.util.errors import UserError

_GRID = 16, 17  # points, height and width
_FINE = 64, 64
_MAX_DISTANCE = 48  # of 256 bits; unlike photographs differ in 70 and more
_LEAST_CORRELATION = 0.97
_LEAST_DEVIATION = 2.0  # of gray values, 0 … 255; what is flatter looks like everything flat
_MAX_DIFFERENCE = 0.8  # deviations; encoding again gives 0.1, resizing 0.5, other objects mostly 2
_CLIPPED = 5, 250  # gray values outside say nothing of the brightness
_CANDIDATES = 4
_BLOCK = 4096  # images that are compared at once with as many others


@dataclass(frozen=True)
class Twin:
    """Two images that look alike, by their numbers.

    ``same`` tells whether they are one picture, and not two of one view with other objects.
    """

    first: int
    second: int
    same: bool


def find_twins(records: Sequence[Mapping], groups: Sequence[int]) -> list[Twin]:
    """Of each image the one of each other group that looks like it, if there is one.

    Progress bars appear if it takes more than two seconds. Unreadable images have no twin.

    Args:
        records: dataset dicts.
        groups: the number of the group of each image, such as its split.

    Returns:
        For each image and each group of a lower number at most one twin, ordered by ``first``,
        the image; ``second`` is the one of the lower group.
    """
    with ThreadPool(num_threads()) as pool:
        found = pool.imap(_grid, records, chunksize=16)
        bar = tqdm(found, total=len(records), desc="looks", unit="image", delay=2)
        grids = np.stack([*bar, np.zeros(_GRID, np.uint8)])[:-1]
    fine = lru_cache(maxsize=2048)(lambda number: _grid(records[number], _FINE))
    twins = []
    pairs = list(find_alike(grids, groups))
    for first, candidates in tqdm(pairs, desc="likes", unit="image", delay=2):
        same = (j for j in candidates if difference(fine(first), fine(j)) <= _MAX_DIFFERENCE)
        twin = next(same, None)
        twins.append(Twin(first, candidates[0] if twin is None else twin, twin is not None))
    return sorted(twins, key=lambda twin: (twin.first, twin.second))


def _grid(record: Mapping, size: tuple[int, int] = _GRID) -> np.ndarray:
    """The gray image of a dict as a grid of mean values, uint8; zeros if it is unreadable."""
    try:
        if "pixels" in record:
            image = as_array(Image.fromarray(record["pixels"]), "L")
        else:
            image = read_image(record["file_name"], "L", least_side=_FINE[0])
    except UserError:
        return np.zeros(size, np.uint8)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def difference_hash(grids: np.ndarray) -> np.ndarray:
    """The bits of grids, (N, 16, 17) -> (N, 256) bool."""
    return (grids[:, :, 1:] > grids[:, :, :-1]).reshape(len(grids), _GRID[0] ** 2)


def find_alike(grids: np.ndarray, groups: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Each image with the four nearest ones of a group of a lower number that look like it.

    Args:
        grids: (N, 16, 17) uint8, of the images.
        groups: the number of the group of each image.
    """
    values = grids.reshape(len(grids), np.prod(_GRID)).astype(np.float32)
    values -= values.mean(1, keepdims=True)
    # Signs in place of bits: a matrix product then counts the equal ones less the others.
    signs = np.where(difference_hash(grids), np.float32(1), np.float32(-1))
    usable = values.std(1) >= _LEAST_DEVIATION
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1)
    numbers = sorted(set(groups))
    members = [np.flatnonzero((np.asarray(groups) == n) & usable) for n in numbers]
    for b, upper in enumerate(members):
        for lower in members[:b]:
            for start in range(0, len(upper), _BLOCK):
                rows = upper[start : start + _BLOCK]
                for row, near in zip(rows, _nearest(signs, rows, lower), strict=True):
                    like = near[values[near] @ values[row] >= _LEAST_CORRELATION]
                    if len(like):
                        yield int(row), like.tolist()


def _nearest(signs: np.ndarray, rows: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
    """Of each image of ``rows`` the nearest ones of ``others`` within the distance, best first."""
    least = signs.shape[1] - 2 * _MAX_DISTANCE
    found = np.zeros((len(rows), 0), np.int64)
    score = np.zeros((len(rows), 0), np.float32)
    for start in range(0, len(others), _BLOCK):
        part = others[start : start + _BLOCK]
        product = signs[rows] @ signs[part].T
        if not (product >= least).any():
            continue
        score = np.hstack([score, product])
        found = np.hstack([found, np.broadcast_to(part, product.shape)])
        order = np.argsort(-score, axis=1, kind="stable")[:, :_CANDIDATES]
        score = np.take_along_axis(score, order, 1)
        found = np.take_along_axis(found, order, 1)
    return [own[near >= least] for own, near in zip(found, score, strict=True)]


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of 3 x 3 points of two fine grids, in deviations of the second.

    A difference in brightness or contrast does not count: the best straight line is taken out.

    Args:
        first, second: (64, 64) uint8.
    """
    low, high = _CLIPPED
    x, y = first.astype(np.float32), second.astype(np.float32)
    clear = (np.minimum(x, y) > low) & (np.maximum(x, y) < high)
    if clear.mean() < 0.25:
        clear[:] = True
    spread = x[clear] - x[clear].mean()
    slope = (spread * y[clear]).sum() / max((spread**2).sum(), 1.0)
    rest = np.abs(y - y[clear].mean() - slope * (x - x[clear].mean())) * clear
    return float(cv2.blur(rest, (3, 3)).max() / (y[clear].std() + 1))
