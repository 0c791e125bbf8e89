"""A short version of the doctor's confusion table, on real images: benchmarks/doctor_table.py."""

from __future__ import annotations

import importlib
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from moco.data.sources.opening import open_images

ROOT = Path(__file__).parents[2]
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.gz"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("doctor_table")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CIFAR10.exists():
        pytest.skip(f"{CIFAR10} is not there")
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(CIFAR10) as tar:
        wanted = [
            name
            for name in tar
            if name.isfile() and name.name.startswith("train/") and name.name[-8:-4] < "0128"
        ]
        tar.extractall(folder, wanted, filter="data")
    return folder / "train"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "healthy v2",
        "healthy end-to-end",
        "key momentum 0",
        "key momentum 1",
        "learning rate x 100",
        "no augmentation",
        "constant encoder",
    ],
)
def test_each_is_named_within_eighty_steps(
    name: str, table: ModuleType, cifar10: Path, tmp_path: Path
) -> None:
    images = open_images(cifar10, cache_bytes=1 << 27)
    case = table.CASES[name]
    # keys move as long as the rate is high, which in 4 epochs it is no more after step 75
    epochs = 8 if name == "key momentum 0" else 4  # of 20 steps
    judged = table.judge(table.make_run(case, images, tmp_path / "run", seed=20, epochs=epochs))
    named = judged.first_step(case.verdict)
    assert named is not None
    assert named < 80
    assert judged.other_sick(case.verdict) == []
