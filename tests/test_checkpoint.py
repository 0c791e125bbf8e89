from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitwise import assert_bitwise
from safetensors.torch import load_file

from moco import checkpoint as checkpoint_module
from moco.checkpoint import (
    KEPT,
    Checkpoint,
    Identity,
    image_fingerprint,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    verify,
)
from moco.errors import CheckpointError, StorageError
from moco.recipes import MOCO_V1, MOCO_V2

IDENTITY = Identity(MOCO_V2, 3, 64, image_fingerprint(["a.png", "b.png"]))
FILES = ("model.safetensors", "train_state.pt", "recipe.json", "manifest.json")


def made(step: int) -> Checkpoint:
    """Return a checkpoint whose every value depends on the step."""
    draw = torch.Generator().manual_seed(step)
    model = {
        "encoder.weight": torch.randn(7, 5, generator=draw),
        "encoder.transposed": torch.randn(4, 6, generator=draw).T,
        "key_encoder.half": torch.randn(9, generator=draw).bfloat16(),
        "dictionary.keys": torch.randn(8, 3, generator=draw),
        "dictionary.next_slot": torch.tensor(step % 8),
    }
    moments = {"step": torch.tensor(float(step)), "exp_avg": torch.randn(7, 5, generator=draw)}
    state: dict[str, Any] = {
        "optimizer": {
            "state": {0: moments},
            "param_groups": [{"lr": 0.1 * step, "betas": (0.9, 0.999), "params": [0]}],
        },
        "cpu_random_state": draw.get_state(),
    }
    return Checkpoint(step, model, state, IDENTITY)


def assert_is(found: Checkpoint | None, step: int) -> None:
    assert found is not None
    expected = made(step)
    assert found.step == step
    assert found.identity == expected.identity
    assert_bitwise(found.model, expected.model)
    assert_bitwise(found.train_state, {**expected.train_state, "step": step})


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def match_manifest(folder: Path) -> None:
    """Write the manifest anew, as somebody with access would after changing a file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run directory with the checkpoints of steps 4 and 8."""
    (tmp_path / "run").mkdir()
    for step in (4, 8):
        save_checkpoint(tmp_path / "run", made(step))
    return tmp_path / "run"


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = save_checkpoint(tmp_path / "run", made(1234))
    assert folder == tmp_path / "run" / "checkpoints" / "step_00001234"
    assert_is(load_checkpoint(folder), 1234)
    assert_is(load_newest(tmp_path / "run"), 1234)
    assert (tmp_path / "run" / "latest").read_text() == "step_00001234"


def test_the_files_are_the_documented_ones_and_the_manifest_is_true(run: Path) -> None:
    folder = run / "checkpoints" / "step_00000008"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format_version"] == checkpoint_module.FORMAT_VERSION
    assert sorted(manifest["files"]) == sorted(set(FILES) - {"manifest.json"})
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    verify(folder)
    assert sorted(load_file(folder / "model.safetensors")) == sorted(made(8).model)
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["name"] == "moco-v2"


def test_saving_changes_nothing_that_is_saved(tmp_path: Path) -> None:
    checkpoint = made(4)
    save_checkpoint(tmp_path, checkpoint)
    assert_bitwise(checkpoint.model, made(4).model)
    assert "step" not in checkpoint.train_state


def assert_noticed(run: Path, name: str, *, by_name: bool = True) -> None:
    """Check that newest is refused by name and the one before it is used and the damage told."""
    problem = ""
    try:
        found = load_checkpoint(run / "checkpoints" / "step_00000008")
    except CheckpointError as error:
        problem = str(error)
    if not problem:  # a bit of the manifest that nothing reads
        assert name == "manifest.json"
        assert_is(found, 8)
        return
    assert "step_00000008" in problem
    assert "\n" not in problem
    assert name in problem or not by_name
    told: list[str] = []
    assert_is(load_newest(run, named=told), 4)
    assert told == [problem]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_anywhere(name: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000008" / name
    whole = path.read_bytes()
    places = [round(share * (len(whole) - 1) / 11) for share in range(12)]
    for number, place in enumerate(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << number % 8
        path.write_bytes(flipped)
        assert_noticed(run, name, by_name=name != "manifest.json")
    path.write_bytes(whole)
    assert_is(load_newest(run), 8)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "one byte less", "one more"])
def test_missing_and_cut_files_are_noticed(name: str, damage: str, run: Path) -> None:
    path = run / "checkpoints" / "step_00000008" / name
    content = path.read_bytes()
    lengths = {"empty": 0, "half": len(content) // 2, "one byte less": len(content) - 1}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes((content + b"}")[: lengths.get(damage, len(content) + 1)])
    assert_noticed(run, name)


def test_a_folder_in_a_files_place_is_noticed(run: Path) -> None:
    for name in FILES:
        path = run / "checkpoints" / "step_00000008" / name
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        assert_noticed(run, name)
        path.rmdir()
        path.write_bytes(content)


def test_when_none_can_be_used_that_is_an_error_and_no_fresh_start(run: Path) -> None:
    for folder in (run / "checkpoints").iterdir():
        (folder / "train_state.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be used.*train_state\.pt"):
        load_newest(run)
    for folder in (run / "checkpoints").iterdir():
        shutil.rmtree(folder)
        folder.mkdir()
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_newest(run)


def test_no_checkpoint_at_all_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "nowhere") is None
    assert load_newest(tmp_path) is None
    (tmp_path / "checkpoints" / ".tmp-step_00000004-99").mkdir(parents=True)
    assert load_newest(tmp_path) is None


def test_what_a_killed_writer_left_is_ignored_and_collected(run: Path) -> None:
    left = run / "checkpoints" / ".tmp-step_00000012-99"
    shutil.copytree(run / "checkpoints" / "step_00000008", left)
    assert_is(load_newest(run), 8)
    save_checkpoint(run, made(12))
    assert folders(run) == ["step_00000008", "step_00000012"]


def test_only_the_newest_stay_and_latest_names_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 99999999):
        save_checkpoint(tmp_path, made(step))
        assert len(folders(tmp_path)) <= KEPT
        assert (tmp_path / "latest").read_text() == folders(tmp_path)[-1] == f"step_{step:08d}"
    assert KEPT == 2
    assert folders(tmp_path) == ["step_00000010", "step_99999999"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "latest"]


def test_a_step_can_be_saved_again(run: Path) -> None:
    (run / "checkpoints" / "step_00000008" / "model.safetensors").write_bytes(b"broken")
    save_checkpoint(run, made(8))
    assert_is(load_newest(run), 8)
    assert folders(run) == ["step_00000004", "step_00000008"]


def test_a_broken_checkpoint_is_not_one_to_fall_back_to(run: Path) -> None:
    (run / "checkpoints" / "step_00000008" / "model.safetensors").write_bytes(b"broken")
    assert_is(load_newest(run), 4)
    for step in (5, 6):  # the run goes on from step 4
        save_checkpoint(run, made(step))
        assert (run / "latest").read_text() == f"step_{step:08d}"
    assert_is(load_newest(run), 6)
    (run / "checkpoints" / "step_00000006" / "model.safetensors").write_bytes(b"broken")
    assert_is(load_newest(run), 5)


def raise_at(call: int, plain: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Return `plain`, but its call of that number raises."""
    count = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise error
        return plain(*args, **options)

    return counted


FULL = OSError(errno.ENOSPC, "No space left on device")
STAGES = [
    ("save_file", 1),
    ("torch.save", 1),
    *(("os.fsync", call) for call in range(1, 9)),
    ("os.rename", 1),
    ("os.replace", 1),
    ("Path.write_text", 1),
    ("Path.write_text", 2),
]


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["disk full", "killed"])
@pytest.mark.parametrize(("stage", "call"), STAGES)
def test_a_crash_at_any_stage_leaves_a_usable_checkpoint(
    stage: str, call: int, error: BaseException, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = checkpoint_module
    *path, name = stage.split(".")
    for part in path:
        owner = getattr(owner, part)
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, raise_at(call, getattr(owner, name), error))
        expected = StorageError if error is FULL else KeyboardInterrupt
        with pytest.raises(expected) as caught:
            save_checkpoint(run, made(12))
    if error is FULL:
        assert "No space left" in str(caught.value)
        assert not [folder for folder in folders(run) if folder.startswith(".tmp")]
    found = load_newest(run)
    assert found is not None
    assert_is(found, found.step)
    renamed = stage == "os.replace" or (stage == "os.fsync" and call > 5)
    assert found.step == (12 if renamed else 8)
    save_checkpoint(run, made(16))
    assert_is(load_newest(run), 16)
    assert len(folders(run)) == KEPT
    assert (run / "latest").read_text() == "step_00000016"


def test_the_stages_above_are_all_there_are(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def note(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(owner, name, note)

    for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (torch, "save")):
        noted(owner, name)
    save_checkpoint(run, made(12))
    assert calls == ["save", *["fsync"] * 5, "rename", "fsync", "fsync", "replace", "fsync"]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "file", made(4))


def test_a_run_directory_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        save_checkpoint(tmp_path / "gone", made(4))
    assert not (tmp_path / "gone").exists()


class Exploit:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def test_a_pickle_that_would_run_code_is_refused_unrun(run: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    folder = run / "checkpoints" / "step_00000008"
    state = {**made(8).train_state, "step": 8, "extra": Exploit(proof)}
    for target in ("train_state.pt", "model.safetensors"):
        content = (folder / target).read_bytes()
        torch.save(state, folder / target)
        match_manifest(folder)
        verify(folder)  # the checksums are no defence here
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(folder)
        assert_is(load_newest(run), 4)
        assert not proof.exists()
        (folder / target).write_bytes(content)


def test_the_exploit_above_is_a_working_one(tmp_path: Path) -> None:
    torch.save({"extra": Exploit(tmp_path / "it ran")}, tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b"{}"),
        ("recipe.json", b"[]"),
        ("recipe.json", b"null"),
        ("recipe.json", b'{"recipe": {}, "seed": 1, "image_count": 1, "image_fingerprint": ""}'),
        ("recipe.json", b'{"recipe": 5, "seed": 1, "image_count": 1, "image_fingerprint": ""}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 100),
        ("train_state.pt", b""),
        ("train_state.pt", b"PK\x03\x04"),
    ],
)
def test_files_that_match_the_manifest_and_make_no_sense_are_refused(
    name: str, content: bytes, run: Path
) -> None:
    folder = run / "checkpoints" / "step_00000008"
    (folder / name).write_bytes(content)
    match_manifest(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)
    assert_is(load_newest(run), 4)


@pytest.mark.parametrize("state", [{}, {"step": "x"}, [1, 2], 7])
def test_a_train_state_of_something_else_is_refused(state: Any, run: Path) -> None:
    folder = run / "checkpoints" / "step_00000008"
    torch.save(state, folder / "train_state.pt")
    match_manifest(folder)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", "5", '"x"', "", '{"format_version": 1}'])
def test_a_manifest_of_something_else_is_refused(manifest: str, run: Path) -> None:
    folder = run / "checkpoints" / "step_00000008"
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(folder)


def test_a_newer_format_asks_for_a_newer_version(run: Path) -> None:
    path = run / "checkpoints" / "step_00000008" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format_version"] = checkpoint_module.FORMAT_VERSION + 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="update moco"):
        load_checkpoint(path.parent)


def test_a_newer_format_is_not_passed_over_for_an_older_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, made(step))
    manifest_file = tmp_path / "checkpoints" / "step_00000002" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    manifest["format_version"] = checkpoint_module.FORMAT_VERSION + 1
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="update moco"):
        load_newest(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with open("/dev/full", "wb", buffering=0) as file:
            return file.write(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        save_checkpoint(tmp_path, made(1))
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EACCES, "allow writing there"),
        (errno.EROFS, "allow writing there"),
        (errno.EIO, "see to that disk"),
    ],
)
def test_the_remedy_is_of_what_failed(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, content: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}; {remedy}, then"):
        save_checkpoint(tmp_path, made(1))


def test_a_manifest_that_leaves_a_file_out_is_refused(run: Path) -> None:
    path = run / "checkpoints" / "step_00000008" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in list(manifest["files"]):
        files = {other: entry for other, entry in manifest["files"].items() if other != name}
        path.write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path.parent)


def test_the_fingerprint_tells_names_and_their_order_apart() -> None:
    lists = [[], [""], ["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["\udcff.png"]]
    assert len({image_fingerprint(names) for names in lists[1:]}) == len(lists) - 1
    assert image_fingerprint(["a", "b"]) == image_fingerprint(["a", "b"])


def test_the_identity_comes_back_field_by_field(tmp_path: Path) -> None:
    checkpoint = made(4)
    checkpoint.identity = Identity(MOCO_V1, 12345, 7, "f")
    assert load_checkpoint(save_checkpoint(tmp_path, checkpoint)).identity == checkpoint.identity
