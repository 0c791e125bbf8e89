"""The run directory of the small recipe, damaged or closed to writing, read by another process."""

from __future__ import annotations

import ctypes
import importlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from killing import PATIENCE_SECONDS, kill_group, start_process

import moco
from moco.cli.main import main
from moco.errors import InterruptedRunError
from moco.plan import make_plan

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.timeout(240),
]


train = importlib.import_module("moco.pretraining").train


class CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def give_up_privileges() -> bool:
    """Let file permissions hold for root too; say whether they do."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return True
    header, none = CapabilityHeader(0x20080522, 0), (ctypes.c_uint32 * 6)()
    try:
        return ctypes.CDLL(None).capset(ctypes.byref(header), none) == 0
    except AttributeError:  # no Linux
        return False


def pretrain_command(photos: Path, run: Path) -> list[str]:
    options = "--epochs 1 --set views.image_size=32 --device cpu --workers 0"
    return ["pretrain", str(photos), *options.split(), "--run", str(run)]


def read_in_process(photos: Path, run: Path, answers: Path) -> None:
    """Leave what `moco.load` and the same command again have to say."""
    os.setsid()
    torch.set_num_threads(1)
    if not give_up_privileges():
        answers.write_text("[]")
        return
    lines = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            network = moco.load(run, part="encoder")
            lines.append(f"loaded {weights_of(network):.9g}")
        except Exception as error:  # noqa: BLE001  whatever it is, the test reads it
            lines.append(f"{type(error).__name__}: {error}")
    lines.append(" ".join(str(warning.message) for warning in told))
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        code = main(pretrain_command(photos, run))
    lines += [str(code), " ".join((errors.getvalue() + said.getvalue()).split())]
    answers.write_text(json.dumps(lines))


def weights_of(network: torch.nn.Module) -> float:
    """Return one number that tells networks apart."""
    return float(sum(weight.detach().double().abs().sum() for weight in network.parameters()))


def read_anew(photos: Path, run: Path, folder: Path) -> list[str]:
    """Return what a process that knows nothing finds: loaded, warned, exit code, said."""
    answers = folder / "answers"
    process = start_process(read_in_process, photos, run, answers)
    process.join(PATIENCE_SECONDS)
    kill_group(process)
    assert process.exitcode == 0
    lines: list[str] = json.loads(answers.read_text())
    if not lines:
        pytest.skip("root writes where nobody may, and cannot give that up here")
    return lines


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of one epoch by the small recipe, two steps, each with its state."""
    run = tmp_path_factory.mktemp("finished") / "run"
    plan = make_plan(
        photos, epochs=1, settings=["views.image_size=32"], run=run, device="cpu", workers=0
    )
    with pytest.raises(InterruptedRunError, match="step 1 of 2"):
        train(plan, stop=lambda: 75)
    assert main(pretrain_command(photos, run)) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the run."""
    copied = tmp_path / "run"
    shutil.copytree(finished, copied)
    yield copied
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def expected_of(run: Path) -> tuple[str, str]:
    """Return what is said of the run's older and of its newer checkpoint when it is loaded."""
    older, newer = sorted((run / "checkpoints").glob("step_*"))
    return answer_of(older), answer_of(newer)


def answer_of(folder: Path) -> str:
    return f"loaded {weights_of(moco.load(folder, part='encoder')):.9g}"


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def close_to_writing(run: Path) -> None:
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_finished_run_closed_to_writing_is_read(run: Path, photos: Path, tmp_path: Path) -> None:
    (_, newer), before = expected_of(run), content_of(run)
    close_to_writing(run)
    loaded, warned, code, said = read_anew(photos, run, tmp_path)
    assert (loaded, warned, code) == (newer, "", "0"), said
    assert "is done: 2 of 2 steps" in said
    assert content_of(run) == before


def test_an_unfinished_run_closed_to_writing_is_read_and_not_continued(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    older, _ = expected_of(run)
    shutil.rmtree(run / "checkpoints" / "step_00000002")
    (run / "latest").write_text("step_00000001")
    before = content_of(run)
    close_to_writing(run)
    loaded, warned, code, said = read_anew(photos, run, tmp_path)
    assert (loaded, warned, code) == (older, "", "5"), said
    assert said.startswith(f"moco: error: cannot write run directory {run}: Permission denied")
    assert content_of(run) == before


@pytest.mark.parametrize("name", ["model.safetensors", "train_state.pt"])
def test_a_flipped_bit_in_the_newest_is_told_and_mended(
    name: str, run: Path, photos: Path, tmp_path: Path
) -> None:
    older, newer = expected_of(run)
    whole = content_of(run / "checkpoints" / "step_00000002")
    flip_a_bit(run / "checkpoints" / "step_00000002" / name)
    loaded, warned, code, said = read_anew(photos, run, tmp_path)
    assert (loaded, code) == (older, "0"), said
    assert f"step_00000002/{name}" in warned
    assert f"passed over: checkpoint file {run}" in said
    assert "going on from step 1 of 2" in said
    assert expected_of(run) == (older, newer)  # the lost step was taken again
    assert content_of(run / "checkpoints" / "step_00000002") == whole


def test_flipped_bits_in_all_checkpoints_are_refused(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    for path in run.glob("checkpoints/*/model.safetensors"):
        flip_a_bit(path)
    before = content_of(run)
    loaded, _, code, said = read_anew(photos, run, tmp_path)
    assert code == "6"
    for line in (loaded, said):
        assert "no checkpoint of" in line
        assert "model.safetensors is damaged" in line
    assert content_of(run) == before


@pytest.mark.parametrize(
    "pointer",
    [None, b"", b"step_00009999", b"../../elsewhere", b"/", b"\xff\0\n" * 99, b"step_00000001"],
    ids=["lost", "empty", "to nothing", "elsewhere", "root", "no text", "behind"],
)
def test_a_pointer_that_is_wrong_is_not_followed(
    pointer: bytes | None, run: Path, photos: Path, tmp_path: Path
) -> None:
    (older, newer), elsewhere = expected_of(run), tmp_path / "elsewhere"
    shutil.copytree(run / "checkpoints" / "step_00000001", elsewhere)
    if pointer is None:
        (run / "latest").unlink()
    else:
        (run / "latest").write_bytes(pointer)
    loaded, warned, code, said = read_anew(photos, run, tmp_path)
    assert (loaded, warned, code) == (newer, "", "0"), said
    assert older != newer
    assert "is done: 2 of 2 steps" in said
    assert content_of(elsewhere)
