"""Solar cells as class folders, from the elpv-dataset package (`pip install 'moco-torch[demo]'`).

    python examples/solar_folders.py FOLDER

writes FOLDER/train/CLASS/NAME.png and FOLDER/test/CLASS/NAME.png, CLASS being `defective` (experts
give a defect a probability above one half) or `sound`: 2,624 photographs of 300x300 pixels, split
as `moco demo` does it: every third block of 82 neighbours is for testing. CC BY-NC-SA.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

BLOCK = 82
"""Cells that stand side by side in the list may be of one module."""


def main(folder: Path) -> None:
    """Copy the package's files into class folders."""
    package = find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        sys.exit("the images come with a package: pip install elpv-dataset")
    data = Path(package.submodule_search_locations[0]) / "data"
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(sorted(lines)):
        name, probability, _kind = line.split()
        part = "test" if number // BLOCK % 3 == 2 else "train"
        place = folder / part / ("defective" if float(probability) > 0.5 else "sound")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / name, place / Path(name).name)
    for part in ("train", "test"):
        print(f"{len(list((folder / part).rglob('*.png'))):,} images in {folder / part}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/solar_folders.py FOLDER")
    main(Path(sys.argv[1]))
