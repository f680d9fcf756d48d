"""Two processes find the same images broken, and one of them decodes."""

import sys
from pathlib import Path

import detectron2  # noqa: F401  (first: it makes torchvision work without compiled operators)
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from multas.data import image_checks
from two_ranks import process_group, run_on_two_ranks


def main(folder: Path, rank: int) -> None:
    files = [str(folder / f"{number}.png") for number in range(3)]
    decoded: list[str] = []
    whole = image_checks.image_fault
    image_checks.image_fault = lambda file: (decoded.append(file), whole(file))[1]
    for name, strictness in (("stop", "stop"), ("skip", "skip")):
        DatasetCatalog.register(name, lambda: [{"file_name": file} for file in files])
        MetadataCatalog.get(name).set(strictness=strictness, left_out={})
    with process_group(folder, rank):
        with image_checks.checked_images(["skip"]):
            pass
        try:
            with image_checks.checked_images(["stop"]):
                pass
        except ValueError as error:
            message = str(error)
    result = {"decoded": len(set(decoded)), "kept": len(DatasetCatalog.get("skip"))}
    torch.save(result | {"message": message}, folder / f"rank{rank}.pth")


def test_ranks_agree_on_broken_images(tmp_path):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    first, second = run_on_two_ranks(__file__, tmp_path)
    assert (first["decoded"], second["decoded"]) == (3, 0)
    assert first["kept"] == second["kept"] == 2
    assert first["message"] == second["message"]
    assert "1.png: not a readable image" in first["message"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
