"""The extensions of image files."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def without_suffix(path: str) -> str:
    """A path without the extension of an image; dots in names stay."""
    suffix = next((s for s in IMAGE_SUFFIXES if path.lower().endswith(s)), "")
    return path[: len(path) - len(suffix)] if suffix else path
