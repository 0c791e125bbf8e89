"""Everything that is to be shown on one GPU, in one command that ends within 9 minutes.

    python benchmarks/gpu.py --all --cifar CIFAR10 --json FIGURES.json
    python benchmarks/gpu.py --parts cifar10-symmetric --cifar CIFAR10 --json FIGURES.json

CIFAR10 holds train/CLASS and test/CLASS (examples/cifar10_folders.py makes them). Each part is a
`moco` command in a process of its own with a limit of time; what could not run, or not to its end,
is said. A CIFAR-10 run that its limit stopped goes on when the same command is given again, and
figures of earlier calls in FIGURES.json stay. lightly and solo-learn take part where they are
installed: benchmarks/step_peers.sh makes an environment. `--tiny --device cpu` checks this script.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_running import Ended, chip, run_apart, run_here

from moco.run_records import read_lines

TINY = (
    *("encoder.backbone=resnet18", "encoder.width=0.125", "encoder.stage_blocks=[1, 1, 1, 1]"),
    *("encoder.dim=16", "views.image_size=16", "views.evaluation_resize=16"),
    *("views.evaluation_size=16", "batch_size=16", "batch_norm_groups=2", "dictionary.size=32"),
)
TINY_WORDS = [word for setting in TINY for word in ("--set", setting)]
SHORT = ["--rounds", "1", "--seconds", "1e-6"]
LEAST_SECONDS = 5.0
"""With less time left a part is not begun."""
CIFAR_RECIPES = {"cifar10": "cifar10-resnet18", "cifar10-symmetric": "cifar10-resnet18-symmetric"}
STOPPED = 75
"""`moco`'s exit code for a run that was stopped and saved."""


@dataclass(frozen=True)
class Part:
    """One `moco bench` command."""

    words: list[str]
    tiny: list[str]
    """What makes it take a moment."""
    seconds: float
    """Its limit."""


PARTS = {
    "step-resnet50": Part(
        ["step", "--recipe", "moco-v2", "--batch", "256"], [*TINY_WORDS, "--batch", "16"], 120
    ),
    "step-cifar10": Part(["step", "--recipe", "cifar10-resnet18"], TINY_WORDS, 60),
    "loss-65536": Part(["loss"], ["--batch", "4", "--queue", "64"], 40),
    "loss-1048576": Part(["loss", "--queue", "1048576"], ["--batch", "4", "--queue", "128"], 40),
    "views": Part(["input", "--rounds", "3", "--seconds", "0.5"], [], 60),
}
GRAPHS = "cuda-graphs"
NAMES = [*PARTS, GRAPHS, *CIFAR_RECIPES]
RESNET50 = "step-resnet50"
GOALS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float], float], ...] = (
    ("images/s of our ResNet-50 step", RESNET50, lambda f: rate(f, "ours"), 3500),
    ("times the official step", RESNET50, lambda f: rate(f, "ours") / rate(f, "official"), 3.0),
    (
        "times the official step, given bfloat16 and channels_last",
        RESNET50,
        lambda f: rate(f, "ours") / rate(f, "official_tuned"),
        1.5,
    ),
    ("200 epochs of CIFAR-10 within 360 s", "cifar10", lambda f: 360 / f["seconds"], 1.0),
    ("kNN of CIFAR-10", "cifar10", lambda f: f["knn"]["top1"], 0.826),
    ("kNN of CIFAR-10, symmetric", "cifar10-symmetric", lambda f: f["knn"]["top1"], 0.853),
)
"""What is wanted: in words, of which part, how its figures are read, and from where it is met."""


def rate(figures: Mapping[str, Any], name: str) -> float:
    """Return the images per second of a row of a benchmark's figures."""
    rates = {row["name"]: row["images_per_second"] for row in figures["rows"]}
    return float(rates[name])


@dataclass
class Runner:
    """What all parts need to know."""

    options: argparse.Namespace
    run: Callable[[list[str], float], Ended]
    ends: float
    """When everything has to be over, by the monotonic clock."""
    work: Path
    """A folder for what is written on the way."""

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def part(self, name: str, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Run a part and return what is known of it."""
        if self.left() < LEAST_SECONDS:
            return {"state": "not run", "reason": f"no time left: --parts {name} runs it alone"}
        if name in CIFAR_RECIPES:
            return self.cifar(name, earlier)
        return self.graphs() if name == GRAPHS else self.bench(name)

    def bench(self, name: str) -> dict[str, Any]:
        """Run a benchmark."""
        part, tiny = PARTS[name], self.options.tiny
        words = ["bench", *part.words, "--device", self.options.device]
        if part.words[0] == "step":
            words += ["--profile", str(self.work / f"{name}-trace.json")]
        if name == "views" and tiny:
            words += ["--recipe", str(tiny_views(self.work))]
        return self.command(words + (part.tiny + SHORT if tiny else []), part.seconds, name)

    def command(self, words: list[str], seconds: float, name: str) -> dict[str, Any]:
        """Run a command that writes its figures to a file."""
        file = self.work / f"{name}.json"
        file.unlink(missing_ok=True)
        ended = self.run([*words, "--json", str(file)], min(seconds, max(1.0, self.left())))
        found = {"words": " ".join(["moco", *words]), "took": round(ended.seconds, 1)}
        if ended.code == 0:
            figures = json.loads(file.read_text(encoding="utf-8"))
            said = [line for line in ended.text.splitlines() if "CUDA graph" in line]
            return {**found, "state": "done", "figures": figures, "said": said}
        reason = ended.text.strip().splitlines()[-1:] or [f"exit code {ended.code}"]
        state = "stopped" if ended.stopped else "failed"
        return {**found, "state": state, "reason": reason[0], "code": ended.code}

    def training(self, images: Path, recipe: str, run: Path) -> list[str]:
        """Return the words that train on images that fit the device."""
        options = self.options
        words = ["pretrain", str(images), "--recipe", recipe, "--run", str(run)]
        words += ["--device", options.device, "--resident"]
        return words + ([*TINY_WORDS, "--workers", "0"] if options.tiny else [])

    def graphs(self) -> dict[str, Any]:
        """Train a little on CIFAR-10 twice, without CUDA graphs and with them."""
        options = self.options
        if options.cifar is None:
            return {"state": "not run", "reason": "it needs --cifar CIFAR10"}
        found: dict[str, Any] = {"state": "done", "took": 0.0, "figures": {}}
        for name, more in (("without", []), ("with", ["--cuda-graphs"])):
            run = options.runs / f"{GRAPHS}-{name}"
            words = self.training(options.cifar / "train", "cifar10-resnet18", run)
            words += ["--epochs", "1" if options.tiny else "3", "--resume", "never", *more]
            part = self.command(words, 60, f"{GRAPHS}-{name}")
            found["took"] = round(found["took"] + part["took"], 1)
            if part["state"] != "done":
                return {**part, "took": found["took"]}
            rates = [row["images_per_second"] for row in read_lines(run / "metrics.jsonl")]
            figures = {"images_per_second": median(rates[len(rates) // 3 :]), "said": part["said"]}
            found["figures"][name] = figures
        return found

    def cifar(self, name: str, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Train on CIFAR-10, or go on with it, then score the head's features by kNN."""
        options = self.options
        if options.cifar is None:
            return {"state": "not run", "reason": "it needs --cifar CIFAR10"}
        run = options.runs / name
        train, test = options.cifar / "train", options.cifar / "test"
        words = self.training(train, CIFAR_RECIPES[name], run)
        words += ["--epochs", "1"] if options.tiny else []
        limit = max(1.0, self.left() - (0 if options.tiny else 40))  # kNN and saving want theirs
        found = self.command(words, limit, name)
        before = earlier.get("figures", {}).get("seconds", 0.0) if run_was_there(earlier) else 0.0
        figures = {"seconds": round(before + found["took"], 1), **progress_of(run)}
        found = {**found, "figures": figures}
        if found["state"] == "failed" and found["code"] != STOPPED:
            return found
        score = ["evaluate", "knn", str(run), "--train", str(train), "--test", str(test)]
        score += ["--neighbours", "200", "--temperature", "0.1", "--layer", "head"]
        score += ["--workers", "0" if options.tiny else "4"]
        if found["state"] == "done":
            knn = self.command([*score, "--device", options.device], 60, f"{name}-knn")
            figures["knn"] = knn.get("figures", {})
            found["reason"] = knn.get("reason", "")
        return found


def run_was_there(earlier: Mapping[str, Any]) -> bool:
    """Say whether a run goes on that an earlier call did not end."""
    return earlier.get("state") == "stopped"


def progress_of(run: Path) -> dict[str, Any]:
    """Return how far a run is."""
    try:
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"run": str(run), "status": status}


def tiny_views(work: Path) -> Path:
    """Return a recipe file of small views."""
    path = work / "tiny.yaml"
    path.write_text("base: moco-v2\nviews:\n  image_size: 32\n", encoding="utf-8")
    return path


def goals_of(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was wanted beside what was found, for parts that ended."""
    found = []
    for words, name, read, least in GOALS:
        value = None
        if parts.get(name, {}).get("state") == "done":
            with contextlib.suppress(KeyError):
                value = round(read(parts[name]["figures"]), 4)
        met = None if value is None else value >= least
        found.append({"goal": words, "least": least, "found": value, "met": met})
    return found


def not_run(parts: Mapping[str, Any]) -> list[str]:
    """Return what could not run, or not to its end, in words."""
    lines = []
    for name, part in parts.items():
        if part["state"] != "done" or part.get("reason"):
            lines.append(f"{name}: {part['state']}: {part.get('reason', '')}")
        for peer, reason in part.get("figures", {}).get("left_out", {}).items():
            lines.append(f"{name}: without {peer}: {reason}")
    return lines


def parsed(words: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="run every part (the default)")
    parser.add_argument("--parts", metavar="NAME,...", help=f"run these: {', '.join(NAMES)}")
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="CIFAR-10 as class folders")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="where runs are kept")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the figures")
    parser.add_argument("--minutes", type=float, default=8.5, help="limit of everything")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="check this script alone")
    options = parser.parse_args(words)
    options.names = options.parts.split(",") if options.parts else NAMES
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no part {', '.join(sorted(unknown))}; choose of {', '.join(NAMES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --tiny --device cpu checks the script")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu goes with --tiny")
    return options


def main(words: list[str] | None = None) -> int:
    """Run what was asked for; return 0 where every part that ran came to its end."""
    began, options = time.monotonic(), parsed(words)
    earlier: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(options.json.read_text(encoding="utf-8"))["parts"]
    work = options.runs / "figures"
    work.mkdir(parents=True, exist_ok=True)
    ends = began + 60 * options.minutes
    runner = Runner(options, run_here if options.tiny else run_apart, ends, work)
    figures = {**chip(options.device), "tiny": options.tiny, "parts": dict(earlier)}
    for name in options.names:
        part = runner.part(name, earlier.get(name, {}))
        figures["parts"][name] = part
        figures["goals"] = goals_of(figures["parts"])
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {part['state']} after {part.get('took', 0)} s", flush=True)
    for goal in figures["goals"]:
        met = {None: "not measured", True: "met", False: "MISSED"}[goal["met"]]
        print(f"{met}: {goal['goal']}: {goal['found']} (wanted: from {goal['least']})")
    for line in not_run(figures["parts"]):
        print(line)
    print(f"{figures['device_name']}; {options.json}; {time.monotonic() - began:.0f} s")
    return int(any(figures["parts"][name]["state"] == "failed" for name in options.names))


if __name__ == "__main__":
    sys.exit(main())
