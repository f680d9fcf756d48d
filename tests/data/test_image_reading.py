"""Images of every kind are read as Detectron2 reads them, and where it makes them white, right."""

import struct

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, detection_utils
from PIL import Image

from multas.data import DatasetError, register_card
from multas.data.formats.mask_files import read_mask
from multas.data.image_files import image_record, read_image
from multas.data.issues import DatasetIssues
from multas.data.mapper import MultasMapper

SHAPE = (12, 20)  # height, width
_ORIENTATION = 0x0112


@pytest.fixture
def issues():
    return DatasetIssues("these")


def save(file, image, orientation=1, **options):
    exif = image.getexif()
    exif[_ORIENTATION] = orientation
    image.save(file, exif=exif, **options)
    return str(file)


def noise(mode):
    rng = np.random.default_rng(3)
    pixels = Image.fromarray(rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    return pixels.convert(mode)


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("LA", "png"),
     ("P", "png"), ("1", "png"), ("RGB", "bmp"), ("RGB", "webp"), ("CMYK", "tif"), ("L", "tif")],
)  # fmt: skip
def test_8_bits_are_read_as_by_detectron2(tmp_path, issues, mode, suffix, image_format):
    for orientation in range(1, 9) if suffix in ("jpg", "png", "webp") else [1]:
        file = save(tmp_path / f"{orientation}.{suffix}", noise(mode), orientation)
        ours = read_image(file, image_format)
        theirs = detection_utils.read_image(file, image_format)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
        record = image_record("a", file, issues)
        assert (record["height"], record["width"]) == ours.shape[:2]
    assert not issues.lines


def test_a_palette_with_transparency_is_read_as_by_detectron2(tmp_path):
    file = str(tmp_path / "a.png")
    noise("P").save(file, transparency=3)
    assert np.array_equal(read_image(file, "BGR"), detection_utils.read_image(file, "BGR"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bit_gray_is_scaled_by_the_range_of_its_type(tmp_path, issues, suffix, orientation):
    values = np.linspace(0, 65535, 240).round().astype(np.uint16).reshape(SHAPE)
    file = save(tmp_path / f"a.{suffix}", Image.fromarray(values), orientation)
    eighth = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    expected = detection_utils.read_image(save(tmp_path / "b.png", eighth, orientation), "RGB")
    found = read_image(file, "RGB")
    assert np.array_equal(found, expected)
    record = image_record("a", file, issues)
    assert (record["height"], record["width"]) == found.shape[:2]


def test_16_bits_of_both_byte_orders_equal_the_exact_scale_to_one_level(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    little, big = str(tmp_path / "little.tif"), str(tmp_path / "big.tif")
    Image.fromarray(values).save(little)
    _write_tiff(big, values.astype(">u2").tobytes(), bits=16, order=">")
    exact = values / 257
    for file in (little, big):
        assert np.abs(read_image(file, "L")[..., 0] - exact).max() < 1
    with Image.open(big) as image:
        assert image.mode == "I;16B"


def test_16_bit_colours_are_gray_where_the_channels_agree(tmp_path):
    gray = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    cv2.imwrite(str(tmp_path / "colour.png"), np.repeat(gray[..., None], 3, axis=2))
    images = [read_image(str(tmp_path / f"{name}.png"), "RGB") for name in ("gray", "colour")]
    assert np.array_equal(*images)


def _write_tiff(file, data, bits, order="<", photometric=1):
    """A TIFF file of SHAPE with one strip, of kinds that Pillow does not write."""
    height, width = SHAPE
    start = 8 + 2 + 12 * 9 + 4
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1),
               (262, 3, photometric), (273, 4, start), (277, 3, 1), (278, 4, height),
               (279, 4, len(data))]  # fmt: skip
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, value in entries:
        packed = struct.pack(f"{order}I" if kind == 4 else f"{order}Hxx", value)
        out += struct.pack(f"{order}HHI", tag, kind, 1) + packed
    with open(file, "wb") as stream:
        stream.write(out + bytes(4) + data)


def test_tiff_of_12_bits_and_of_white_zero(tmp_path):
    values = np.arange(240) * 17
    bits = "".join(f"{value:012b}" for value in values)
    _write_tiff(tmp_path / "12.tif", int(bits, 2).to_bytes(360, "big"), bits=12)
    assert np.array_equal(read_image(str(tmp_path / "12.tif"), "L")[..., 0].ravel(), values >> 4)
    deep = (values * 16).astype("<u2")
    _write_tiff(tmp_path / "white.tif", deep.tobytes(), bits=16, photometric=0)
    found = read_image(str(tmp_path / "white.tif"), "L")[..., 0].ravel()
    assert np.array_equal(found, 255 - (deep >> 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_turned_once(tmp_path, issues, orientation):
    tiff = save(tmp_path / "a.tif", noise("RGB"), orientation)
    png = save(tmp_path / "a.png", noise("RGB"), orientation)
    found = read_image(tiff, "RGB")
    assert np.array_equal(found, read_image(png, "RGB"))
    record = image_record("a", tiff, issues)
    assert (record["height"], record["width"]) == found.shape[:2]


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_values_of_unknown_range_are_refused_with_a_cure(tmp_path, issues, mode):
    file = str(tmp_path / "a.tif")
    Image.new(mode, SHAPE[::-1]).save(file)
    with pytest.raises(DatasetError, match=rf"a.tif: has .*{mode}.*; save it"):
        read_image(file, "BGR")
    assert image_record("a", file, issues) is None
    assert "a.tif: has" in issues.lines[0]


@pytest.mark.parametrize("content", [b"", b"GIF", b"\x89PNG\r\n\x1a\n", None])
def test_what_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "a.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a.png: not a readable image \(.*\); mend or remove"):
        read_image(str(file), "BGR")


def test_an_image_that_is_cut_off_is_named(tmp_path):
    file = save(tmp_path / "a.jpg", noise("RGB"))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    with pytest.raises(DatasetError, match=r"a.jpg: not a readable image"):
        read_image(file, "BGR")


def test_the_first_page_is_read_and_the_others_are_mentioned(tmp_path, caplog):
    for suffix in ("tif", "webp", "png"):
        pages = [noise("RGB"), Image.new("RGB", SHAPE[::-1])]
        pages[0].save(tmp_path / f"{suffix}s.{suffix}", save_all=True, append_images=pages[1:])
    register_card({"name": "paged", "format": "images", "root": str(tmp_path)})
    with caplog.at_level("WARNING"):
        assert len(DatasetCatalog.get("paged_all")) == 3
    assert "of images with several pages the first is read (3 places)" in caplog.text
    assert np.array_equal(read_image(str(tmp_path / "tifs.tif"), "RGB"), np.asarray(noise("RGB")))


def test_the_mapper_reads_16_bits(tmp_path):
    values = np.full(SHAPE, 32768, np.uint16)
    file = str(tmp_path / "a.png")
    cv2.imwrite(file, values)
    mapper = MultasMapper(is_train=False, augmentations=[], image_format="BGR")
    assert (mapper({"file_name": file, "image_id": "a"})["image"] == 128).all()


def test_small_16_bit_values_and_equal_pictures_are_mentioned(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "dark.png"), np.full(SHAPE, 4095, np.uint16))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full(SHAPE, 4096, np.uint16))
    noise("RGB").save(tmp_path / "one.png")
    noise("RGB").save(tmp_path / "two.png")
    register_card({"name": "odd", "format": "images", "root": str(tmp_path)})
    with caplog.at_level("WARNING"):
        DatasetCatalog.get("odd_all")
    assert f"scale them to 65535 (1 place): {tmp_path}/dark.png\n" in caplog.text
    same = f"one picture under several names (1 place): {tmp_path}/one.png = {tmp_path}/two.png\n"
    assert same in caplog.text


def test_masks_of_16_bits_hold_indices(tmp_path):
    values = np.arange(240, dtype=np.uint16).reshape(SHAPE)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert np.array_equal(read_mask(tmp_path / "a.png"), values)
    assert read_mask(tmp_path / "a.png").dtype == np.uint8
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_mask(tmp_path / "a.tif"), values)
    cv2.imwrite(str(tmp_path / "b.png"), values + 17)
    with pytest.raises(ValueError, match=r"b.png: has values 17 … 256, but class indices"):
        read_mask(tmp_path / "b.png")
