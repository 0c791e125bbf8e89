"""Every path that the command takes, given an enemy's files: nothing runs, nothing hangs."""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import command, in_fork
from hostile_files import Runs, legacy_tar, saved

import moco
from moco.cli.commands import build_parser
from moco.cli.parser import given_model, given_path
from moco.errors import DataError
from moco.evaluation.label_splits import read_split
from moco.recipe_files import recipe_yaml, write_recipe
from moco.recipes import MOCO_V2
from moco.run_lock import LOCK_NAME

FOLDERS = ["--train", "{classes}/train", "--test", "{classes}/test"]
STUDY = ["study", "key-momentum", "--images", "{classes}/train", "--test", "{classes}/test"]
TIME_TO = ["bench", "time-to", "--knn", "0.5", "--epochs", "1", "--seeds", "0"]
MONITORS = ["--monitor-train", "{classes}/train", "--monitor-test", "{classes}/test"]
JUDGED = ("knn", "linear", "retrieval", "few-labels", "finetune")
"""Kinds of evaluation that take a run and labelled images."""
IMAGES = {
    ("pretrain", "images"): ["pretrain", "{it}", "--run", "{new}"],
    ("pretrain", "monitor_train"): [
        *("pretrain", "{photos}", "--run", "{new}"),
        *("--monitor-train", "{it}", "--monitor-test", "{classes}/test"),
    ],
    ("pretrain", "monitor_test"): [
        *("pretrain", "{photos}", "--run", "{new}"),
        *("--monitor-test", "{it}", "--monitor-train", "{classes}/train"),
    ],
    **{
        (f"evaluate {kind}", part): ["evaluate", kind, "{new}", *others, f"--{part}", "{it}"]
        for kind in JUDGED
        for part, others in (("train", FOLDERS[2:]), ("test", FOLDERS[:2]))
    },
    ("embed", "images"): ["embed", "timm:test_vit", "{it}", "--out", "{new}.npz"],
    ("compare", "train"): ["compare", "timm:test_vit", *FOLDERS[2:], "--train", "{it}"],
    ("compare", "test"): ["compare", "timm:test_vit", *FOLDERS[:2], "--test", "{it}"],
    ("evaluate label-free", "images"): ["evaluate", "label-free", "{new}", "--images", "{it}"],
    ("report", "images"): ["report", "{run}", "--out", "{new}.html", "--images", "{it}"],
    ("data check", "source"): ["data", "check", "{it}"],
    ("data check", "test"): ["data", "check", "{photos}", "--test", "{it}"],
    ("data stats", "source"): ["data", "stats", "{it}"],
    ("data pack", "source"): ["data", "pack", "{it}", "{new}"],
    ("data preview", "source"): ["data", "preview", "{it}", "--out", "{new}.png"],
    ("demo", "images"): ["demo", "--images", "{it}", "--run", "{new}"],
    ("study", "images"): [*STUDY[:2], "--images", "{it}", *STUDY[4:], "--run", "{new}"],
    ("study", "test"): [*STUDY[:4], "--test", "{it}", "--run", "{new}"],
    ("bench input", "images"): ["bench", "input", "--images", "{it}"],
    ("bench train", "images"): ["bench", "train", "--images", "{it}"],
    ("bench time-to", "images"): [*TIME_TO[:2], "{it}", *TIME_TO[2:], *MONITORS],
    ("bench time-to", "monitor_train"): [
        *(*TIME_TO[:2], "{photos}", *TIME_TO[2:], "--monitor-train", "{it}", *MONITORS[2:])
    ],
    ("bench time-to", "monitor_test"): [
        *(*TIME_TO[:2], "{photos}", *TIME_TO[2:], *MONITORS[:2], "--monitor-test", "{it}")
    ],
}
"""Command and argument that images are read from."""
RECIPES = {
    ("pretrain", "recipe"): ["pretrain", "{photos}", "--run", "{new}", "--recipe", "{it}"],
    ("data preview", "recipe"): [
        *("data", "preview", "{photos}", "--out", "{new}.png", "--recipe", "{it}")
    ],
    ("study", "recipe"): [*STUDY, "--run", "{new}", "--recipe", "{it}"],
    ("recipes show", "recipe"): ["recipes", "show", "{it}"],
    ("recipes diff", "old"): ["recipes", "diff", "{it}", "moco-v2"],
    ("recipes diff", "new"): ["recipes", "diff", "moco-v2", "{it}"],
    ("bench input", "recipe"): ["bench", "input", "--recipe", "{it}"],
    ("bench step", "recipe"): ["bench", "step", "--recipe", "{it}"],
    ("bench train", "recipe"): ["bench", "train", "--recipe", "{it}"],
    ("bench time-to", "recipe"): [
        *(*TIME_TO[:2], "{photos}", *TIME_TO[2:], *MONITORS, "--recipe", "{it}")
    ],
}
"""Those that a recipe is read from: a file, or a run directory."""
RUNS = {
    ("pretrain", "run"): ["pretrain", "{photos}", "--epochs", "1", "--run", "{it}"],
    ("pretrain", "start_from"): ["pretrain", "{photos}", "--run", "{new}", "--from", "{it}"],
    **{(f"evaluate {kind}", "run"): ["evaluate", kind, "{it}", *FOLDERS] for kind in JUDGED},
    ("evaluate label-free", "runs"): ["evaluate", "label-free", "{it}", "--images", "{photos}"],
    ("import", "file"): ["import", "{it}"],
    ("embed", "model"): ["embed", "{it}", "{photos}", "--out", "{new}.npz"],
    ("compare", "models"): ["compare", "{it}", *FOLDERS],
    ("export", "model"): ["export", "{it}", "--to", "timm", "--out", "{new}"],
    ("doctor", "run"): ["doctor", "{it}"],
    ("report", "runs"): ["report", "{it}", "--out", "{new}.html"],
    ("demo", "run"): ["demo", "--images", "{photos}", "--run", "{it}"],
    ("study", "run"): [*STUDY, "--run", "{it}"],
}
"""Those that a run directory is read from."""
LISTS = {("evaluate few-labels", "split"), ("report", "evaluation")}
"""Those that names or figures are read from, once there are features, or a run."""
ONLY_WRITTEN = {"json", "out", "plot", "profile", "write_splits"}


def path_arguments(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from path_arguments(inner, (*words, name))
        elif action.type in (given_path, given_model) or action.dest in ("recipe", "old", "new"):
            yield " ".join(words), action.dest


def test_every_path_argument_is_attacked_here() -> None:
    found = {pair for pair in path_arguments(build_parser()) if pair[1] not in ONLY_WRITTEN}
    assert found == set(IMAGES) | set(RECIPES) | set(RUNS) | LISTS


def hostile_images(at: Path, canary: Path) -> list[Path]:
    """Return files and folders that are pickles where images are expected."""
    at.mkdir()
    content = pickle.dumps(Runs(canary))
    objects = np.array([Runs(canary)], dtype=object)
    for name in ("x.pkl", "x.pth", "x.pt", "x.png", "x.csv", "x.zip", "x.parquet"):
        (at / name).write_bytes(content if name != "x.pth" else saved({"x": Runs(canary)}))
    (at / "x.tar").write_bytes(legacy_tar(canary))
    np.save(at / "x.npy", objects, allow_pickle=True)
    np.savez(at / "x.npz", images=objects)
    (at / "cifar").mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (at / "cifar" / name).write_bytes(content)
    os.mkfifo(at / "pipe")
    return [*sorted(at.iterdir()), at, Path("/dev/zero"), Path(f"pipe:touch {canary}")]


def outcomes(templates: dict[Any, list[str]], paths: list[Path], **places: Path) -> list[Any]:
    """Return [command, path, exit code, errors] of each command with each path, from a fork."""

    def work() -> list[Any]:
        found = []
        for (name, argument), words in templates.items():
            for number, path in enumerate(paths):
                new = places["at"] / f"new-{name}-{argument}-{number}".replace(" ", "-")
                given = [word.format(it=path, new=new, **places) for word in words]
                code, _, errors = command(*given)
                found.append([f"{name} {argument}", str(path), code, errors])
        return found

    return list(in_fork(work, seconds=200).value)


def test_pickles_in_the_place_of_images_are_never_run(
    tmp_path: Path, photos: Path, class_folders: Path
) -> None:
    canary = tmp_path / "canary"
    paths = hostile_images(tmp_path / "images", canary)
    run = tmp_path / "run"
    run.mkdir()
    write_recipe(run / "recipe.yaml", MOCO_V2)
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n')
    told = outcomes(IMAGES, paths, at=tmp_path, photos=photos, classes=class_folders, run=run)
    assert len(told) == len(IMAGES) * len(paths)
    for name, path, code, errors in told:
        if name == "data check test" and code == 0:  # it tells what it found, and found no image
            continue
        # 6: a CIFAR folder is only opened before the run, which is not there, is asked for
        allowed = (2, 3, 6) if name == "evaluate label-free images" else (2, 3)
        assert code in allowed, (name, path, code, errors)
        assert errors.count("moco: error: ") == 1, (name, path, errors)
    assert not canary.exists()


def test_pickles_in_the_place_of_features_are_never_run(
    tmp_path: Path, photos: Path, class_folders: Path
) -> None:
    canary, at = tmp_path / "canary", tmp_path / "features"
    at.mkdir()
    for suffix in (".npz", ".parquet", ".safetensors"):
        (at / f"pickle{suffix}").write_bytes(pickle.dumps(Runs(canary)))
        (at / f"folder{suffix}").mkdir()
        os.mkfifo(at / f"pipe{suffix}")
        (at / f"device{suffix}").symlink_to("/dev/zero")
    objects = np.array([[Runs(canary)]], dtype=object)
    rows, numbers = np.ones((4, 2), np.float32), np.arange(4)
    np.savez(at / "features.npz", features=objects, labels=numbers)
    for name in ("labels", "paths", "classes", "encoder"):
        np.savez(at / f"{name}.npz", features=rows, **{"labels": numbers, name: objects})
    np.savez(at / "good.npz", features=rows, labels=numbers % 2)
    paths = sorted(set(at.iterdir()) - {at / "good.npz"})
    templates = {
        (kind, part): ["evaluate", kind, f"--{part}", "{it}", f"--{other}", f"{at}/good.npz"]
        for kind in JUDGED
        if kind != "finetune"
        for part, other in (("train", "test"), ("test", "train"))
    }
    knn = {name: words for name, words in templates.items() if name[0] == "knn"}
    places = {"at": tmp_path, "photos": photos, "classes": class_folders}
    told = outcomes(knn, paths, **places) + outcomes(templates, paths[:2], **places)
    assert len(told) == len(knn) * len(paths) + len(templates) * 2
    for name, path, code, errors in told:
        assert code == 3, (name, path, code, errors)
        assert errors.count("\n") == 1, (name, path, errors)
        assert path in errors
    assert not canary.exists()


def test_pickles_in_the_place_of_a_split_are_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for path in hostile_images(tmp_path / "lists", canary):
        with pytest.raises(DataError):
            read_split(path, torch.tensor([0, 1]), ("a", "b"), ("x", "y"))
    assert not canary.exists()


def hostile_recipes(at: Path, canary: Path) -> list[Path]:
    """Return recipe files, and run directories whose recipe.yaml is one."""
    at.mkdir()
    tag = f"!!python/object/apply:os.mkdir ['{canary}']"
    texts = {
        "tag": f"base: moco-v2\nsource: {tag}\n",
        "whole with a tag": recipe_yaml(MOCO_V2).replace(
            f"source: {MOCO_V2.source}", f"source: {tag}"
        ),
        "bomb": "a: &a [x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in itertools.pairwise("abcdefghi")
        ),
        "deep": "base: " + "[" * 60_000,
        "100 MB": recipe_yaml(MOCO_V2) + "#" * 100_000_000,
        "NaN": recipe_yaml(MOCO_V2).replace("learning_rate: 0.03", "learning_rate: .nan"),
        "endless": recipe_yaml(MOCO_V2).replace("learning_rate: 0.03", "learning_rate: .inf"),
        "tab": "base: moco-v2\noptimizer:\n\tlearning_rate: 1\n",
        "JSON": '{"base": "moco-v2", "learning_rate": NaN}',
        "JSON, twice": '{"base": "moco-v2", "epochs": 2, "epochs": 3}',
        "pickle": pickle.dumps(Runs(canary), 0).decode("latin-1"),
    }
    for name, text in texts.items():
        (at / f"{name}.yaml").write_text(text)
        (at / name).mkdir()
        (at / name / "recipe.yaml").write_text(text)
    (at / "pipe").mkdir()
    os.mkfifo(at / "pipe" / "recipe.yaml")
    os.mkfifo(at / "pipe.yaml")
    (at / "device").mkdir()
    (at / "device" / "recipe.yaml").symlink_to("/dev/zero")
    return sorted(at.iterdir())


def test_hostile_recipes_are_refused_through_every_command(
    tmp_path: Path, photos: Path, class_folders: Path
) -> None:
    canary = tmp_path / "canary"
    paths = hostile_recipes(tmp_path / "recipes", canary)
    told = outcomes(RECIPES, paths, at=tmp_path, photos=photos, classes=class_folders)
    assert len(told) == len(RECIPES) * len(paths)
    for name, path, code, errors in told:
        allowed = (2,) if path.endswith(".yaml") else (2, 6)  # 6: a run's own recipe.yaml
        assert code in allowed, (name, path, code, errors)
        assert errors.count("\n") == 1, (name, path, errors)
        assert len(errors) < 2000, (name, path, errors)
    assert not canary.exists()


def test_each_recipe_is_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    for path in hostile_recipes(tmp_path / "recipes", tmp_path / "canary"):
        done = in_fork(lambda path=path: command("recipes", "show", path))
        assert done.value[0] in (2, 6), (path, done)
        assert done.seconds < 1, (path, done)
        assert done.grown < 50 << 20, (path, done)


def hostile_runs(at: Path, victim: Path) -> list[Path]:
    """Return run directories whose files are pipes, devices and links to a file of the user's."""
    names = ("recipe.yaml", "metrics.jsonl", "status.json", "skipped.jsonl", "latest", LOCK_NAME)
    for name in names:
        (at / f"pipe {name}").mkdir(parents=True)
        os.mkfifo(at / f"pipe {name}" / name)
    for name in (
        *(".recipe.yaml.tmp", ".metrics.jsonl.tmp", ".status.tmp", ".latest.tmp", LOCK_NAME),
        *("metrics.jsonl", "status.json", "latest", "recipe.yaml"),
    ):
        (at / f"link {name}").mkdir()
        (at / f"link {name}" / name).symlink_to(victim)
    (at / "deep").mkdir()
    (at / "deep" / "metrics.jsonl").write_text("[" * 100_000 + '\n{"step": "x"}\n{"step": null}\n')
    (at / "deep" / "status.json").write_text("[" * 100_000)
    (at / "deep" / "skipped.jsonl").write_text("[" * 100_000 + '\n{"image": [1]}\n')
    for name in ("study-key-momentum.json",):
        for number, text in enumerate(("[" * 100_000, '{"plan": {"device": 1}}', '{"plan": [1]}')):
            (at / f"study {number}").mkdir()
            (at / f"study {number}" / name).write_text(text)
    return sorted(at.iterdir())


def test_a_hostile_run_directory_holds_nothing_up_and_leads_nowhere_else(
    tmp_path: Path, photos: Path, class_folders: Path, tiny_settings: list[str]
) -> None:
    victim, canary = tmp_path / "victim", tmp_path / "canary"
    victim.write_text("all my work")
    paths = hostile_runs(tmp_path / "runs", victim)
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    for path in paths:
        words = ["--device", "cpu", "--workers", "0", "--epochs", "1", *settings, "--run", path]
        code, _, errors = command("pretrain", photos, *words)
        assert code in (0, 2, 5, 6), (path, code, errors)
        assert code == 0 or errors.count("\n") == 1, (path, errors)
        assert victim.read_text() == "all my work", path
    others = {name: words for name, words in RUNS.items() if name != ("pretrain", "run")}
    del others["demo", "run"]  # which trains as `pretrain` does
    asked = [path for path in paths if path.name.startswith("study")]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Runs(canary)))
    asked.append(tmp_path / "x.pkl")
    told = outcomes(others, asked, at=tmp_path, photos=photos, classes=class_folders)
    told += outcomes(RUNS, asked[-1:], at=tmp_path, photos=photos, classes=class_folders)
    for name, path, code, errors in told:
        assert code in (2, 5, 6), (name, path, code, errors)
        assert errors.count("\n") == 1, (name, path, errors)
    assert not canary.exists()


CALLS_THAT_RUN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv"}
MODULES_THAT_RUN = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "pty"),
    *("socket", "socketserver", "http", "http.server", "asyncio", "xmlrpc", "ftplib", "telnetlib"),
    *("urllib.request", "requests", "httpx", "subprocess", "multiprocessing.connection"),
    *("torch.hub", "torch.jit", "torch.package", "huggingface_hub"),
}
SOURCE = Path(moco.__file__).parent


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_can_run_what_a_file_says_or_listen(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names} & MODULES_THAT_RUN
            # exports that other libraries want pickled are written, and never read
            allowed = {"run_lock": {"socket"}, "pickles": {"pickle"}}
            assert names <= allowed.get(path.stem, set())
            assert path.stem != "pickles" or "pickle.load" not in path.read_text()
        if isinstance(node, ast.ImportFrom):
            names = {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
            assert not names & MODULES_THAT_RUN
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {ast.unparse(given) for given in node.keywords}
        assert name not in CALLS_THAT_RUN, name
        assert not name.startswith("socket.") or name == "socket.gethostname"
        assert name not in ("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all")
        assert not keywords & {"allow_pickle=True", "shell=True", "weights_only=False"}
        assert not name.endswith((".extractall", ".bind", ".listen", "load_state_dict_from_url"))
        if name in ("yaml.compose", "yaml.parse"):
            assert "Loader=yaml.SafeLoader" in keywords
        if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            assert "allow_pickle=False" in keywords
        if name.endswith("torch.load") or name.endswith("Unpickler"):
            assert path.stem == "checkpoint_reading"
            assert "weights_only=True" in keywords
