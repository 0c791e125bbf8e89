from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import made_run
from safetensors.torch import save_file

from moco.cli import embed as command
from moco.cli.commands import build_parser
from moco.cli.main import main
from moco.evaluation import features as features_module
from moco.evaluation.feature_files import read_features
from moco.evaluation.feature_parts import FeatureParts
from moco.found_model import find_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("embedded") / "run", 7)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "FEATURE_BATCH", 8)
    monkeypatch.setattr(command, "PART_IMAGES", 16)


def words(model: object, images: Path, out: Path, *more: str) -> list[str]:
    return ["embed", str(model), str(images), "--out", str(out), "--device", "cpu", *more]


def test_writes_rows_labels_and_names_and_says_what_they_are(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = tmp_path / "x.npz", tmp_path / "x.json"
    assert main(words(run, class_folders / "test", out, "--json", str(figures))) == 0
    printed = capsys.readouterr()
    assert printed.out == f"16 rows of 64 features of {run}, of 2 classes: {out}\n"
    assert printed.err == ""
    assert json.loads(figures.read_text()) == {
        "file": str(out),
        "bytes": out.stat().st_size,
        "rows": 16,
        "features": 64,
        "labels": "one_class",
        "classes": 2,
        "layer": "backbone",
        "encoder": find_model(str(run)).encoder,
        "skipped_files": 0,
    }
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["features"].dtype == np.float32
        assert arrays["labels"].tolist() == [0] * 8 + [1] * 8
        assert arrays["paths"][0] == "blue/0.png"
    assert sorted(os.listdir(tmp_path)) == ["x.json", "x.npz"]


@pytest.mark.parametrize("kind", ["knn", "retrieval"])
def test_scores_from_the_files_are_those_from_the_run(
    kind: str, run: Path, class_folders: Path, tmp_path: Path
) -> None:
    figures, files = [], []
    for part, suffix in (("train", ".safetensors"), ("test", ".npz")):
        files.append(tmp_path / f"{part}{suffix}")
        assert main(words(run, class_folders / part, files[-1])) == 0
    for start in (
        [str(run), "--train", str(class_folders / "train"), "--test", str(class_folders / "test")],
        ["--train", str(files[0]), "--test", str(files[1])],
    ):
        given = ["evaluate", kind, *start, "--device", "cpu"]
        assert main([*given, "--json", str(tmp_path / "figures.json")]) == 0
        figures.append(json.loads((tmp_path / "figures.json").read_text()))
    layers = [each.pop("layer") for each in figures]
    assert layers == ["backbone", None]  # the file's `encoder` says it
    assert figures[0] == figures[1]


MODELS = ("{run}", "untrained:{run}", "pixels", "pixels:{run}", "timm:test_resnet@{file}")


@pytest.mark.parametrize("model", MODELS)
def test_takes_any_network(model: str, run: Path, class_folders: Path, tmp_path: Path) -> None:
    import timm

    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    word, out = model.format(run=run, file=file), tmp_path / "x.safetensors"
    assert main(words(word, class_folders / "test", out)) == 0
    found, features = find_model(word), read_features(out)
    assert (features.encoder, features.rows.shape[1]) == (found.encoder, found.features)
    assert torch.isfinite(features.rows).all()


def test_any_layer_and_lower_precision_are_other_encoders(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = []
    for number, more in enumerate(
        (["--layer", "layer3"], ["--layer", "head"], [], ["--precision", "bfloat16"])
    ):
        out = tmp_path / f"{number}.npz"
        assert main(words(run, class_folders / "test", out, *more)) == 0
        encoders.append(read_features(out).encoder)
    assert len(set(encoders)) == 4
    assert encoders[3].endswith(", bfloat16")
    rows, lower = (read_features(tmp_path / f"{number}.npz").rows for number in (2, 3))
    assert not torch.equal(rows, lower)
    torch.testing.assert_close(rows, lower, rtol=0.05, atol=0.05)
    pair = ["--train", str(tmp_path / "2.npz"), "--test", str(tmp_path / "3.npz")]
    assert main(["evaluate", "knn", *pair]) == 3
    assert "are of different models, layers or views" in capsys.readouterr().err


def test_unlabelled_images_and_unreadable_ones(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(photos / "odd", tmp_path / "odd")
    (folder / "05.png").write_bytes(b"no image")
    out = tmp_path / "x.npz"
    assert main(words(run, folder, out)) == 0
    printed = capsys.readouterr()
    assert "31 rows of 64 features" in printed.out
    assert "without labels" in printed.out
    assert printed.err.startswith("skipped 05.png: ")
    features = read_features(out)
    assert "05.png" not in features.paths
    assert len(features.paths) == 31
    assert main(words(run, folder, tmp_path / "y.npz", "--labels", "numbers")) == 3
    assert "has no labels; leave --labels out" in capsys.readouterr().err


def stop_before(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = FeatureParts.keep

    def stopping(self: FeatureParts, number: int, found: Any) -> None:
        if number == part:
            raise KeyboardInterrupt
        keep(self, number, found)

    monkeypatch.setattr(FeatureParts, "keep", stopping)


@pytest.mark.usefixtures("small_parts")
def test_a_stopped_command_goes_on_to_the_same_bytes(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npz"
    assert main(words(run, photos, tmp_path / "whole.npz")) == 0
    with monkeypatch.context() as patched:
        stop_before(2, patched)
        assert main(words(run, photos, out)) == 130
    assert not out.exists()
    kept = sorted(os.listdir(tmp_path / "x.npz.parts"))
    assert kept == ["about.json", "part_00000.json", "part_00001.json", "rows.float32"]
    taken: list[int] = []
    keep = FeatureParts.keep
    monkeypatch.setattr(
        FeatureParts, "keep", lambda self, *part: (taken.append(part[0]), keep(self, *part))
    )
    assert main(words(run, photos, out)) == 0
    assert taken == [2, 3]
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "x.npz.parts").exists()


@pytest.mark.usefixtures("small_parts")
def test_parts_of_another_model_or_of_other_images_are_refused(
    run: Path,
    photos: Path,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "x.npz"
    with monkeypatch.context() as patched:
        stop_before(1, patched)
        assert main(words(run, photos, out)) == 130
    capsys.readouterr()
    other = made_run(tmp_path / "run", 8)
    for asked, differs in (
        (words(other, photos, out), "other model"),
        (words(run, photos, out, "--layer", "head"), "other model"),
        (words(run, photos, out, "--layer", "layer3"), "other layer"),
        (words(run, class_folders / "train", out), "other images"),
        (words(run, photos, out, "--precision", "bfloat16"), "other precision"),
    ):
        assert main(asked) == 2
        told = capsys.readouterr().err
        assert f"x.npz.parts has parts of {differs} (" in told
        assert told.count("\n") == 1
    assert main(words(run, photos, out)) == 0


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["--workers", "-1"], 2, "--workers must be from 0"),
        (["--layer", "layr3"], 2, "did you mean layer3"),
        (["--out", "x.csv"], 2, "--out must end in .npz, .parquet, .safetensors"),
        (["--out", "none/x.npz"], 5, "name a file in a writable folder"),
        (["--json", "none/x.json"], 5, "name a file in a writable folder"),
        (["--out", "there.npz"], 2, "there.npz is there already; name another --out"),
    ],
)
def test_what_makes_no_sense_is_told_before_the_work(
    more: list[str],
    code: int,
    told: str,
    run: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").touch()
    assert main(words(run, photos, tmp_path / "x.npz", *more)) == code
    assert told in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["there.npz"]


def test_wrong_words_are_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, code, told in (
        ("timm:resnt18", 2, "did you mean resnet18"),
        ("", 2, "the model is empty"),
        ("/nowhere", 6, "does not exist"),
        (f"timm:test_vit@{tmp_path}/no.pth", 6, "cannot be read"),
    ):
        assert main(words(word, photos, tmp_path / "x.npz")) == code
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


def test_a_word_keeps_its_dot(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = build_parser().parse_args(["compare", "./pixels", "--train", "a", "--test", "b"])
    assert asked.models == ["./pixels"]
    asked = build_parser().parse_args(["evaluate", "knn", "./timm", "--train", "a", "--test", "b"])
    assert asked.run == "./timm"
    monkeypatch.chdir(tmp_path)
    made_run(Path("pixels"), 7)
    assert main(words("./pixels", class_folders / "test", tmp_path / "x.npz")) == 0
    assert read_features(tmp_path / "x.npz").rows.shape == (16, 64)


def test_two_at_once_are_refused(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "x.npz.parts"
    parts.mkdir()
    program = (
        "import sys; from pathlib import Path; from moco.run_lock import RunLock;"
        f"RunLock(Path({str(parts)!r})).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert main(words(run, photos, tmp_path / "x.npz")) == 2
        told = capsys.readouterr().err
        assert f"folder {parts} is in use by process {holder.pid}" in told
        assert "choose another --out" in told
    finally:
        holder.communicate("")


SMALL = (
    "import sys, time; from moco.cli import embed; from moco.evaluation import features;"
    "from moco.evaluation.feature_parts import FeatureParts; from moco.cli.main import main;"
    "import torch; torch.set_num_threads(1);"
    "embed.PART_IMAGES, features.FEATURE_BATCH = 16, 8; keep = FeatureParts.keep;"
    "FeatureParts.keep = lambda *given: (keep(*given), time.sleep({pause}));"
    "sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bytes(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    def start(out: str, pause: float) -> subprocess.Popen[bytes]:
        asked = words(run, photos, tmp_path / out)
        return subprocess.Popen([sys.executable, "-c", SMALL.format(pause=pause), *asked])

    assert start("whole.npz", 0).wait(120) == 0
    for part in range(4):
        killed = start("x.npz", 60)
        done = tmp_path / "x.npz.parts" / f"part_{part:05}.json"
        ends = time.monotonic() + 120
        while not done.exists() and time.monotonic() < ends:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(60) == -signal.SIGKILL
        assert done.exists()
    assert start("x.npz", 0).wait(120) == 0
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.slow
def test_torchrun_shares_the_work_and_writes_the_same_bytes(
    run: Path, photos: Path, tmp_path: Path, small_parts: None
) -> None:
    assert main(words(run, photos, tmp_path / "alone.npz")) == 0
    script = tmp_path / "small.py"
    script.write_text(SMALL.format(pause=0))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def launch(*asked: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *launcher, str(script), *asked],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=200,
        )

    done = launch(*words(run, photos, tmp_path / "shared.npz"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("64 rows of 64 features") == 1
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
    again = launch(*words(run, photos, tmp_path / "shared.npz"))
    assert again.returncode != 0
    told = [line for line in again.stderr.splitlines() if line.startswith("moco:")]
    assert len(told) == 1
    assert "is there already" in told[0]
