"""Files of weights where a run is asked for: `moco.load`, model words, and `moco import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import official_files as made
import pytest
import torch
from made_runs import made_run
from torch import nn

import moco
from moco.cli.import_options import KINDS
from moco.cli.main import main
from moco.errors import UsageError
from moco.foreign import read_foreign
from moco.foreign.weights import Kind
from moco.found_model import find_model


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return made.torchvision_resnet("resnet18")


@pytest.fixture(scope="module")
def head() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 128)).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, backbone: nn.Module, head: nn.Module) -> Path:
    state = made.official_queue_state(backbone, head)
    buffers = {5: {"momentum_buffer": torch.randn(3)}}
    optimizer = {"state": buffers, "param_groups": [{"betas": (0.9, 0.99), "params": [140_123]}]}
    return made.save(
        tmp_path_factory.mktemp("official") / "v2.pth.tar", state, old=True, optimizer=optimizer
    )


def test_load_gives_a_plain_module_that_says_its_features(
    file: Path, backbone: nn.Module, head: nn.Module, tmp_path: Path
) -> None:
    images = torch.randn(2, 3, 64, 64)
    loaded = moco.load(file)
    assert (loaded.num_features, loaded.training) == (512, False)
    assert torch.equal(loaded(images), backbone(images))
    whole = moco.load(file, "encoder")
    assert whole.num_features == 128
    assert torch.equal(whole(images), head(backbone(images)))
    run = moco.load(made_run(tmp_path / "run", 7))
    assert run.num_features == run(torch.zeros(1, 3, 32, 32)).shape[1]


def test_a_file_is_a_model_word(file: Path, tmp_path: Path) -> None:
    found = find_model(str(file))
    assert (found.features, found.recipe, found.views.evaluation_size) == (512, "", 224)
    assert find_model(str(file), layer="head").features == 128
    assert find_model(f"untrained:{file}").weights != found.weights
    assert find_model(f"pixels:{file}").features == 3 * 224 * 224
    plain = tmp_path / "plain.pth"
    torch.save(made.torchvision_resnet().state_dict(), plain)
    with pytest.raises(UsageError, match="no projection head; name another --layer"):
        find_model(str(plain), layer="head")
    with pytest.raises(UsageError, match="no projection head; load its backbone"):
        moco.load(plain, "encoder")


def test_what_import_writes_has_all_that_was_read(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "v2.safetensors"
    assert main(["import", str(file), "--out", str(out)]) == 0
    first, again = read_foreign(file), read_foreign(out)
    for part in ("backbone", "head", "key_backbone", "key_head", "predictor"):
        one, other = getattr(first, part), getattr(again, part)
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert first.queue is not None
    assert again.queue is not None
    assert torch.equal(first.queue, again.queue)
    for name in ("encoder", "views", "queue_next", "epoch", "about", "notes"):
        assert getattr(first, name) == getattr(again, name), name
    assert first.optimizer is not None
    assert again.optimizer is not None
    assert again.optimizer["param_groups"] == first.optimizer["param_groups"]
    buffers = [of.optimizer["state"][5]["momentum_buffer"] for of in (first, again) if of.optimizer]
    assert torch.equal(*buffers)
    assert find_model(str(out)).weights == find_model(str(file)).weights


def test_import_never_overwrites_unless_told(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    assert main(["import", str(file), "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "is there already; name another --out, or add --overwrite" in capsys.readouterr().err
    assert main(["import", str(file), "--out", str(out), "--overwrite"]) == 0
    assert read_foreign(out).kind == "moco"
    assert main(["import", str(file), "--out", str(tmp_path / "mine.pth")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors"]


def test_import_tells_what_the_file_is(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "file.json"
    assert main(["import", str(file), "--json", str(figures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: an official checkpoint of MoCo v2, after 200 epochs"
    assert "resnet18, 3 channels, 512 features" in lines[1]
    assert lines[4] == "  queue        64 keys of 128, the next at 32"
    told: dict[str, Any] = json.loads(figures.read_text())
    assert len(told["used"]) == 250
    assert (told["kind"], told["head"], told["queue"]) == ("official-v2", "mlp", 64)


def test_notes_of_import_that_are_damaged_are_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.safetensors"
    assert main(["import", str(file), "--out", str(out)]) == 0
    content = out.read_bytes()
    for before, after in ((b'\\"format\\": 1', b'\\"format\\": 9'), (b"encoder", b"decoder")):
        assert before in content
        out.write_bytes(content.replace(before, after))
        assert main(["import", str(out)]) == 6
        assert capsys.readouterr().err.count("\n") == 1


def test_the_command_offers_every_kind() -> None:
    assert set(KINDS) == {"auto", *Kind.__args__}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_other_commands_take_a_file(class_folders: Path, tmp_path: Path) -> None:
    file = made.save(tmp_path / "model_last.pth", made.notebook_state(made.notebook_network()))
    pair = ["--train", str(class_folders / "train"), "--test", str(class_folders / "test")]
    out = tmp_path / "rows.npz"
    assert main(["embed", str(file), str(class_folders / "test"), "--out", str(out)]) == 0
    assert main(["evaluate", "knn", str(file), *pair, "--device", "cpu"]) == 0
    assert main(["compare", str(file), "pixels", *pair, "--device", "cpu"]) == 0
