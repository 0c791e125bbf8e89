"""CIFAR-10 as class folders of PNG files, from torchvision's own download.

    python examples/cifar10_folders.py FOLDER

writes FOLDER/train/CLASS/NNNNN.png (50,000) and FOLDER/test/CLASS/NNNNN.png (10,000), the pixels
unchanged.
"""

import sys
from pathlib import Path

from torchvision.datasets import CIFAR10


def main(folder: Path) -> None:
    """Download into FOLDER/download and write the class folders beside it."""
    for split, is_train in (("train", True), ("test", False)):
        images = CIFAR10(str(folder / "download"), train=is_train, download=True)
        for name in images.classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(images):
            image.save(folder / split / images.classes[label] / f"{number:05d}.png")
        print(f"{len(images):,} images in {folder / split}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/cifar10_folders.py FOLDER")
    main(Path(sys.argv[1]))
