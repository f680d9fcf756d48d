#!/usr/bin/env python3
"""Make Detectron2 importable: leave an existing one alone, or else install a patched 0.6.

The package index has Detectron2 0.6 only as the Python sources of a repackaged distribution. They
are downloaded with pip, verified, adapted to current NumPy, Pillow and PyTorch (every change is a
row of detectron2_patches/table.py), and installed as the distribution `detectron2` 0.6. Torch and
setuptools must be installed first. A second run does nothing unless the patches have changed.

    python tools/install_detectron2.py
    python tools/install_detectron2.py --archive pb1-detectron2-0.6.tar.gz
"""

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from enum import Enum
from pathlib import Path

from detectron2_patches import table

SOURCE_DISTRIBUTION = "pb1-detectron2"
VERSION = "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
PATCH_FOLDER = Path(table.__file__).parent
MARKER = "PATCHES.sha256"
# Detectron2 keeps these as projects/<folder>/<package> and ships them as detectron2.projects.*.
PROJECTS = ("PointRend/point_rend", "DeepLab/deeplab", "Panoptic-DeepLab/panoptic_deeplab")


class Action(Enum):
    """What to do about the Detectron2 that was found."""

    INSTALL = "install"
    REFRESH = "refresh"
    KEEP = "keep"
    KEEP_FOREIGN = "keep foreign"


def find_detectron2() -> Path | None:
    """The folder of the importable Detectron2 package, found without importing it."""
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec and spec.origin else None


def patches_fingerprint() -> str:
    """A hash of everything that decides what the installed copy contains."""
    digest = hashlib.sha256(SHA256.encode())
    for path in sorted(PATCH_FOLDER.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def decide(package: Path | None, fingerprint: str) -> Action:
    """What to do about the folder of the Detectron2 package (None = there is none)."""
    if package is None:
        return Action.INSTALL
    marker = package / MARKER
    if not marker.is_file():
        return Action.KEEP_FOREIGN
    return Action.KEEP if marker.read_text().strip() == fingerprint else Action.REFRESH


def download(folder: Path) -> Path:
    """Download the source distribution into a folder with pip, and return the archive."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # Pip runs the archive's own setup.py for its metadata, which imports the installed torch.
    command += ["--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder)]
    command.append(f"{SOURCE_DISTRIBUTION}=={VERSION}")
    result = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode or not archives:
        raise RuntimeError(
            f"`{' '.join(command)}` failed:\n{result.stdout}{result.stderr}\n"
            "Torch and setuptools must be installed and the package index reachable. Any official "
            "Detectron2 (0.6 or newer) installed in this environment serves as well; an archive "
            f"{SOURCE_DISTRIBUTION}-{VERSION}.tar.gz at hand can be passed with --archive."
        )
    return archives[0]


def verify(archive: Path, sha256: str = SHA256) -> None:
    """Raise a RuntimeError unless the archive's SHA-256 is the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(
            f"{archive.name}: SHA-256 is {found}, expected {sha256}. "
            "The archive is damaged or not the pinned one; nothing was installed."
        )


def prepare(archive: Path, folder: Path, fingerprint: str) -> Path:
    """Unpack and patch the archive in a folder, and return the source tree to install."""
    shutil.unpack_archive(archive, folder)
    root = folder / f"{SOURCE_DISTRIBUTION}-{VERSION}"
    table.apply(root)
    for name in ("setup.py", "setup.cfg"):
        (root / name).unlink()
    for project in PROJECTS:
        source = root / "projects" / project
        shutil.copytree(source, root / "detectron2" / "projects" / source.name)
    shutil.copy(PATCH_FOLDER / "pyproject.toml", root)
    for module in ("torchvision_ops", "extension_absent"):
        shutil.copy(PATCH_FOLDER / f"{module}.py", root / "detectron2" / f"_{module}.py")
    (root / "detectron2" / MARKER).write_text(fingerprint + "\n")
    return root


def install(root: Path) -> None:
    """Install the source tree with pip into the environment of the running Python."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--force-reinstall", str(root)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed:\n{result.stdout}{result.stderr}")


def parse_args() -> argparse.Namespace:
    # The package, which has a parser for tools, cannot be imported before Detectron2.
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, help="the source archive; without it, it is fetched"
    )
    return parser.parse_args()


def main() -> int:
    """Run the command line, and return the exit status."""
    arguments = parse_args()
    fingerprint = patches_fingerprint()
    package = find_detectron2()
    action = decide(package, fingerprint)
    if action is Action.KEEP_FOREIGN:
        print(f"detectron2: found at {package}, not installed by this script; left alone")
        return 0
    if action is Action.KEEP:
        print(f"detectron2: {VERSION} with the current patches at {package}; nothing to do")
        return 0
    try:
        with tempfile.TemporaryDirectory(prefix="detectron2-") as scratch:
            folder = Path(scratch)
            print(f"detectron2: fetching, patching and installing {VERSION} ({action.value}) ...")
            archive = arguments.archive or download(folder)
            verify(archive)
            install(prepare(archive, folder, fingerprint))
    except RuntimeError as error:
        print(f"detectron2: {error}", file=sys.stderr)
        return 1
    print(f"detectron2: installed at {find_detectron2()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
