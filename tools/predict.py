#!/usr/bin/env python
"""Run an exported network on images, a video file or a camera.

    python tools/predict.py --model student.onnx --output found/ folder/ image.jpg ...
    python tools/predict.py --model student.xml --output found.mp4 street.mp4
    python tools/predict.py --model student.onnx --output found.csv 0

The last argument of the third is the number of a camera, which runs until Ctrl-C or --frames.
--output is a folder for pictures, or a file .mp4 or .avi, .json (as COCO has results, with the name
of the image or the number of the frame as image_id, and classes from 0), or .csv.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as run_lengths
from tqdm import tqdm

from multas.config.limits import check_limit, from_to, whole
from multas.data.image_files import read_image
from multas.deploy import Found
from multas.deploy.exported_model import open_detector
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import require_writable, write_text, written_whole
from visualize import find_images, name_pictures

VIDEOS = {".avi": "MJPG", ".mp4": "mp4v"}  # that are written, with their codecs
READ_VIDEOS = (*VIDEOS, ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
COLUMNS = ("image", "class", "score", "x0", "y0", "x1", "y1")
Add = Callable[[str, np.ndarray, Found], None]  # name, pixels (H, W, 3) BGR, what was found there


@dataclass
class Frames:
    """Images, one after the other.

    Attributes:
        each: their names, and pixels (H, W, 3), uint8, BGR.
        total: how many there are; None if it is not known.
        rate: frames per second of a video; 0 for images.
    """

    each: Iterator[tuple[str, np.ndarray]]
    total: int | None
    rate: float = 0.0


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", required=True, help="a file of tools/export.py, or a YAML file")
    parser.add_argument("--output", required=True, help="a folder, or .mp4, .avi, .json, .csv")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="the lowest score shown")
    parser.add_argument(
        "--library", default="", choices=["", "onnxruntime", "openvino"],
        help="what runs it; without it the first of them that reads the file and is installed",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=0, help="the number of threads, 0 = all cores"
    )
    parser.add_argument("--frames", type=int, default=0, help="the most frames, 0 = all")
    parser.add_argument(
        "inputs", nargs="+", help="images and folders, a video, or a camera's number"
    )
    args = parser.parse_args()
    check_limit("--score-thresh", args.score_thresh, from_to(0, 1))
    check_limit("--threads", args.threads, whole(0))
    check_limit("--frames", args.frames, whole(0))
    return args


def open_frames(args: argparse.Namespace) -> Frames:
    """The images of the command line.

    Raises:
        UserError: There are none, or they cannot be read, or would be written over.
    """
    first = args.inputs[0]
    is_camera = first.isdigit() and not Path(first).exists()
    if is_camera or Path(first).suffix.lower() in READ_VIDEOS:
        if len(args.inputs) > 1:
            raise UserError(f"{first} is a video or camera; give it alone.")
        return _open_video(first, is_camera)
    files = list(dict.fromkeys(find_images(args.inputs)))
    if Path(args.output).suffix.lower() in VIDEOS:
        raise UserError(
            f"--output {args.output} is a video, but the inputs are images; name a folder, or a "
            "file .json or .csv."
        )
    if not Path(args.output).suffix:
        name_pictures(files, Path(args.output))
    return Frames(((str(file), read_image(str(file), "BGR")) for file in files), len(files))


def _open_video(name: str, is_camera: bool) -> Frames:
    if not is_camera and not Path(name).is_file():
        raise UserError(f"{name}: no such video.")
    video = cv2.VideoCapture(int(name) if is_camera else name)
    if not video.isOpened():
        what = "There is no camera {}; 0 is the first" if is_camera else "{} is no readable video"
        raise UserError(f"{what.format(name)}. Name another one, or a folder of images.")
    rate, total = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    known = total if total > 0 and not is_camera else None
    return Frames(_frames_of(video), known, rate if 0 < rate <= 1000 else 30.0)


def _frames_of(video: cv2.VideoCapture) -> Iterator[tuple[str, np.ndarray]]:
    number = 0
    while True:
        there, image = video.read()
        if not there:
            return
        yield str(number), image
        number += 1


def open_output(path: str, rate: float) -> AbstractContextManager[Add]:
    """What takes the results; files are there when the block has ended.

    Raises:
        UserError: It cannot be written, or its kind is unknown.
    """
    file, suffix = Path(path), Path(path).suffix.lower()
    if not suffix or file.is_dir():
        require_writable(file / "picture.png", "--output")
        return pictures(file)
    require_writable(file, "--output")
    if suffix in VIDEOS:
        return film(file, rate)
    if suffix in (".json", ".csv"):
        return table(file, coco_text if suffix == ".json" else csv_text, numbered=rate > 0)
    raise UserError(
        f"--output {path}: '{suffix}' is no kind of results; name a folder for pictures, or a file "
        f"{', '.join(VIDEOS)}, .json or .csv."
    )


@contextmanager
def pictures(folder: Path) -> Iterator[Add]:
    """PNG files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)

    def add(name: str, image: np.ndarray, found: Found) -> None:
        stem = f"{int(name):06d}" if name.isdigit() else Path(name).stem
        picture = folder / f"{stem}.png"
        if not cv2.imwrite(str(picture), draw(image, found)):
            raise UserError(f"{picture} cannot be written. Name another folder.")

    yield add


@contextmanager
def film(file: Path, rate: float) -> Iterator[Add]:
    """A video."""
    writers: list[cv2.VideoWriter] = []
    codec = cv2.VideoWriter.fourcc(*VIDEOS[file.suffix.lower()])
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file, f".partial{file.suffix}") as partial:

        def add(name: str, image: np.ndarray, found: Found) -> None:
            if not writers:
                writers.append(cv2.VideoWriter(partial, codec, rate, image.shape[1::-1]))
            if not writers[0].isOpened():
                raise UserError(f"OpenCV cannot write {file}; name a file .avi, or a folder.")
            writers[0].write(draw(image, found))

        try:
            yield add
        finally:
            for writer in writers:
                writer.release()


@contextmanager
def table(file: Path, text: Callable[[list], str], numbered: bool) -> Iterator[Add]:
    """A file of results, whose ``text`` is made of what was found, with the name of each image."""
    entries: list[tuple[str | int, Found]] = []

    def add(name: str, image: np.ndarray, found: Found) -> None:
        entries.append((int(name) if numbered else Path(name).name, found))

    yield add
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text(entries))


def rows(found: Found) -> list[tuple[int, str, float, list[float]]]:
    """Number, name, score and box (x0, y0, x1, y1) of each object; without box of a whole image."""
    scores, classes = found.scores.tolist(), found.classes.tolist()
    objects = list(zip(classes, found.names, scores, found.boxes.tolist(), strict=True))
    if found.probabilities is not None:
        k, names = int(found.probabilities.argmax()), found.class_names
        name = names[k] if k < len(names) else str(k)
        objects.append((k, name, float(found.probabilities[k]), []))
    return objects


def coco_text(entries: list[tuple[str | int, Found]]) -> str:
    """Results as COCO has them: boxes (x, y, width, height), masks run-length encoded, classes."""
    results: list[dict[str, Any]] = []
    for image_id, found in entries:
        for k, _, score, box in rows(found):
            where = {"bbox": [*box[:2], box[2] - box[0], box[3] - box[1]]} if box else {}
            results.append({"image_id": image_id, "category_id": k, "score": score, **where})
        for k in [] if found.masks is None else np.unique(found.masks).tolist():
            encoded = run_lengths.encode(np.asfortranarray(found.masks == k, np.uint8))
            mask = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            results.append({"image_id": image_id, "category_id": k, "segmentation": mask})
    return json.dumps(results)


def csv_text(entries: list[tuple[str | int, Found]]) -> str:
    """A line for each box, and one for the class of an image; masks are left out."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for image_id, found in entries:
        for _, name, score, box in rows(found):
            places = [f"{x:.1f}" for x in box] or [""] * 4
            lines.writerow([image_id, name, f"{score:.4f}", *places])
    return text.getvalue()


def colour(k: int) -> tuple[int, int, int]:
    """The colour of a class, BGR: neighbours in number differ much in hue."""
    hue = np.array([[[k * 67 % 180, 200, 255]]], np.uint8)
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def draw(image: np.ndarray, found: Found) -> np.ndarray:
    """A picture of what was found in an image (H, W, 3), BGR.

    Detectron2's Visualizer needs 40 ms for ten boxes, too long for a video; this needs 0.2 ms.
    """
    picture = image.copy()
    if found.masks is not None:
        palette = np.array([colour(k) for k in range(int(found.masks.max()) + 1)], np.uint8)
        picture = cv2.addWeighted(picture, 0.6, palette[found.masks], 0.4, 0)
    size = max(min(image.shape[:2]) / 800, 0.4)
    for k, name, score, box in rows(found):
        x0, y0, x1, y1 = (round(x) for x in box or [0, 0, 0, 0])
        if box:
            cv2.rectangle(picture, (x0, y0), (x1, y1), colour(k), 2)
        place = (x0 + 2, max(y0 - 4, int(30 * size)))
        for thickness, ink in ((3, (0, 0, 0)), (1, colour(k))):  # readable on any ground
            cv2.putText(
                picture, f"{name} {score:.0%}", place, cv2.FONT_HERSHEY_SIMPLEX, size, ink,
                thickness, cv2.LINE_AA,
            )  # fmt: skip
    return picture


def main() -> None:
    args = parse_args()
    frames = open_frames(args)
    output = open_output(args.output, frames.rate)
    detect = open_detector(
        args.model, library=args.library, threads=args.threads, score_thresh=args.score_thresh
    )
    total = min(filter(None, [frames.total, args.frames]), default=None)
    end = (KeyboardInterrupt,) if frames.total is None else ()  # of what a camera shows
    count, busy, start = 0, 0.0, time.perf_counter()
    with output as add:
        with suppress(*end):
            for name, image in tqdm(frames.each, total=total, unit=" images"):
                before = time.perf_counter()
                found = detect(image)
                busy += time.perf_counter() - before
                add(name, image, found)
                count += 1
                if count == args.frames:
                    break
        if not count:
            raise UserError(f"{args.inputs[0]} has no frame that can be read.")
    took = time.perf_counter() - start
    print(
        f"{args.output}: {count} images in {took:.1f} s, {count / took:.1f} images/s (detection "
        f"alone {count / busy:.1f} images/s)."
    )
    if total and count < total:
        print(f"The last {total - count} of {total} frames could not be read.")


if __name__ == "__main__":
    raise SystemExit(run(main))
