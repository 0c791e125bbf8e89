"""What a run will do, decided before anything is written: recipe, device, number of steps."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moco import __version__
from moco.bad_limit import check_bad_limit, most_bad
from moco.checkpoint import Identity, image_fingerprint
from moco.data.images import Images, StoredImages
from moco.data.resident import ResidentImages, load_resident
from moco.data.sources.opening import open_images
from moco.data.workers import LOADER_TIMEOUT_SECONDS
from moco.device import default_workers, device_name, pick_device, pick_precision
from moco.errors import DataError, UsageError
from moco.fitting import check_usable
from moco.found_recipe import find_recipe
from moco.processes import local_processes
from moco.recipe import Recipe
from moco.recipe_files import read_setting
from moco.small import Choice
from moco.specs import BAD_LIMIT, SIGNALS_EVERY_STEPS
from moco.start.asked import StartAsked
from moco.start.begun import Start
from moco.start.planning import find_start

CACHE_BYTES = 1 << 30
"""Decoded images are kept in memory up to this size, over all loading processes of a machine."""

MOST_SECONDS = 1_000_000
"""Eleven days; clocks of the system end somewhere above."""


@dataclass(frozen=True)
class Plan:
    """A run, decided but not begun."""

    images: Images
    recipe: Recipe
    choices: list[Choice]
    """What was derived from the images and the device, and why."""
    run: Path
    device: torch.device
    precision: torch.dtype | None
    seed: int
    workers: int
    steps_per_epoch: int
    bad_limit: float = BAD_LIMIT
    """Share of the images that may turn out unusable before the run ends."""
    timeout: float = LOADER_TIMEOUT_SECONDS
    """Seconds that a loading process, or another process, may let the run wait."""

    accumulate: int = 1
    """How many parts a batch is taken in, for less memory."""
    signals_every: int = SIGNALS_EVERY_STEPS
    """Steps between readings of the signals; 0 for none."""
    compile_networks: bool = False
    """Compile the encoders' passes, where that works."""
    cuda_graphs: bool = False
    """Replay the encoders' passes as CUDA graphs, where that works."""
    start: Start | None = field(default=None, compare=False)
    """Where its weights come from, None where they are drawn."""
    start_lines: tuple[str, ...] = ()
    """What the user should know of that."""
    resident: ResidentImages | None = field(default=None, compare=False)
    """All images on the device, None where loading processes, or the run itself, read them."""

    @property
    def steps(self) -> int:
        """All optimizer steps of the run."""
        return self.recipe.epochs * self.steps_per_epoch

    def about(self) -> dict[str, Any]:
        """Return what status.json says of the run beside its state: its size and what it runs on.

        Nothing of it decides a step: it may differ between a run and its continuation.
        """
        begun = {"start": self.start.in_short()} if self.start else {}
        return {
            **begun,
            "images": len(self.images),
            "steps_per_epoch": self.steps_per_epoch,
            "device": f"{self.device.type}, {device_name(self.device)}",
            "precision": str(self.precision or torch.float32).removeprefix("torch."),
            "versions": {
                "moco": __version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
        }

    def identity(self) -> Identity:
        """Return what a continuation of this run must have in common with it."""
        return Identity(self.recipe, self.seed, len(self.images), fingerprint(self.images))

    @property
    def most_bad(self) -> int:
        """How many images may turn out unusable; a single one never ends a run."""
        return most_bad(self.bad_limit, len(self.images))


def make_plan(  # noqa: PLR0913  one for each option of the command
    images: str | Path | Images,
    *,
    recipe: str | Path | Recipe = "small",
    settings: Sequence[str] = (),
    epochs: int | None = None,
    run: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    precision: str = "auto",
    bad_limit: float = BAD_LIMIT,
    timeout: float = LOADER_TIMEOUT_SECONDS,
    resident: bool = False,
    accumulate: int = 1,
    signals_every: int = SIGNALS_EVERY_STEPS,
    compile_networks: bool = False,
    cuda_graphs: bool = False,
    start: StartAsked | None = None,
    resume: str = "auto",
) -> Plan:
    """Return the plan of a run; writes nothing.

    Args:
        images: a folder, searched recursively, another source (docs/sources.md), or an `Images`
            object.
        recipe: a recipe's name, a recipe file, a run directory, or a `Recipe`.
        settings: "field=value" changes to it.
        epochs: the same as the setting "epochs=N".
        run: where the run is kept; runs/RECIPE-FOLDER by default.
        device: auto, cpu, cuda or mps.
        seed: decides weights, order and views.
        workers: loading processes; None picks by device.
        precision: auto, float32 or bfloat16: what networks compute in.
        bad_limit: share of the images, 0 to 1, that may turn out unusable before the run ends.
        timeout: seconds that a loading process, or another process, may let the run wait.
        resident: keep all images on the device, read here and now; no loading processes then.
        accumulate: take each batch in so many parts: the same step in less memory.
        signals_every: steps between readings of the signals (docs/signals.md); 0 for none.
        compile_networks: compile the encoders' passes, where that works.
        cuda_graphs: replay the encoders' passes as CUDA graphs instead, where that works.
        start: where its weights come from, None to draw them.
        resume: never to leave checkpoints that the run has already out of account.

    Raises:
        CheckpointError: What it is to start from cannot be used.
        UsageError: An unknown recipe, field or device, a recipe file that is not strict YAML, or
            values that do not go together.
        DataError: No images, none readable, or fewer than a batch.
    """
    if isinstance(settings, str):
        raise UsageError(f"settings must be a list such as ['{settings}'], got text")
    picked = pick_device(device)
    check_seed(seed)
    check_bad_limit(bad_limit)
    _check_timeout(timeout)
    _check_steps(signals_every, compiled=compile_networks, captured=cuda_graphs)
    workers = _loading_processes(workers, picked, resident=resident)
    found = find_recipe(recipe)
    where = _default_run(found.name, images) if run is None else Path(run)
    images = _opened(images, workers, resident=resident)
    changes = dict(read_setting(setting) for setting in settings)
    if epochs is not None:
        changes["epochs"] = epochs
    begun = find_start(start, where, found, changes, resume=resume)
    settled, choices = begun.recipe_for(images, found, changes, picked)
    _check_images(images, settled)
    plan = Plan(
        images=images,
        recipe=settled,
        choices=choices,
        run=where,
        device=picked,
        precision=pick_precision(precision, picked),
        seed=seed,
        workers=workers,
        steps_per_epoch=len(images) // settled.batch_size,
        bad_limit=bad_limit,
        timeout=timeout,
        accumulate=accumulate,
        signals_every=signals_every,
        compile_networks=compile_networks,
        cuda_graphs=cuda_graphs,
        resident=_load_resident(images, settled, picked) if resident else None,
    )
    begins = begun.start(plan.identity(), plan.steps_per_epoch)
    return replace(plan, start=begins, start_lines=begins.lines if begins else begun.lines())


def _opened(images: str | Path | Images, workers: int, *, resident: bool) -> Images:
    if isinstance(images, str | Path):
        readers = max(1, workers) * local_processes()
        images = open_images(images, cache_bytes=0 if resident else CACHE_BYTES // readers)
    if not isinstance(images, Images):
        raise UsageError(
            f"images must be a path or have read() and name(), got a {type(images).__name__}; "
            "wrap a sequence or a torch Dataset in moco.data.sources.sequence.SequenceImages"
        )
    return images


def _check_steps(signals_every: int, *, compiled: bool, captured: bool) -> None:
    if signals_every < 0:
        raise UsageError(f"signals_every must be from 0, got {signals_every}")
    if compiled and captured:
        raise UsageError("compiled networks are not captured; leave out --compile or --cuda-graphs")


def _loading_processes(asked: int | None, device: torch.device, *, resident: bool) -> int:
    if resident and asked:
        raise UsageError(
            f"resident images need no loading processes; leave out --workers {asked}, or --resident"
        )
    workers = default_workers(device) if asked is None else asked
    if workers < 0:
        raise UsageError(f"workers must be from 0, got {workers}")
    return 0 if resident else workers


def _load_resident(images: Images, recipe: Recipe, device: torch.device) -> ResidentImages:
    holders = 1 if device.type == "cuda" else local_processes()
    return load_resident(images, recipe.views, device, holders=holders)


def check_seed(seed: int) -> None:
    """Refuse a seed that the random numbers do not take.

    Raises:
        UsageError: It is not from 0 to below 2^63.
    """
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed must be from 0 to 2^63 - 1, got {seed}")


def _check_timeout(timeout: float) -> None:
    if not 1 <= timeout <= MOST_SECONDS:
        raise UsageError(f"timeout must be 1 to {MOST_SECONDS} seconds, got {timeout:g}")


def fingerprint(images: Images) -> str:
    """Return a SHA-256 of which images these are, in order."""
    if isinstance(images, StoredImages):
        return images.fingerprint()
    return image_fingerprint([images.name(image_id) for image_id in range(len(images))])


def _default_run(name: str, images: str | Path | Images) -> Path:
    """Return runs/RECIPE-SOURCE; the name may come from a file that somebody sent."""
    if "/" in name or "\\" in name:
        raise UsageError(f"the recipe's name {name!r:.90} cannot name a directory; choose a --run")
    source = [_plain_name(Path(images).resolve().name)] if isinstance(images, str | Path) else []
    return Path("runs") / "-".join([name, *source])


def _plain_name(source: str) -> str:
    """Return a source's name without what makes it a pattern."""
    return re.sub(r"[*?{}\[\]]+", "_", source)


def _check_images(images: Images, recipe: Recipe) -> None:
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{len(images)} images are fewer than a batch of {recipe.batch_size}; add images, use "
            "--recipe small, or lower it with --set batch_size=N"
        )
    check_usable(images, recipe.views)
