"""Source images per second and core, each giving two views: ours, the official way, and others."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from moco.benchmark.contender import Contender, check_work
from moco.benchmark.files import Files, Likeness, compare_pixels, made_files, own_files
from moco.benchmark.machine import system_load
from moco.benchmark.official import official
from moco.benchmark.ours import device_part, loading, whole
from moco.benchmark.peers import peer_contenders
from moco.benchmark.photographs import PACKED_SIDE, pack
from moco.benchmark.timing import check_times, images_per_second
from moco.data.sources.opening import open_images
from moco.recipe import Recipe
from moco.specs import ViewsSpec

SURE_LIKENESS = 1.0
"""Pixels of made photographs that are further off than this, of 255, are other pixels."""
CROPS = "two crops and the draws of all else; ends in uint8 crops, a batch"


@dataclass(frozen=True)
class Row:
    """A contender's rates, and how many times the official one's of the same round they are."""

    contender: Contender
    rates: list[float]
    """Images per second in each round."""
    ratios: list[float]

    @property
    def rate(self) -> float:
        """The median over rounds."""
        return median(self.rates)

    @property
    def ratio(self) -> float:
        """The median over rounds."""
        return median(self.ratios)


@dataclass(frozen=True)
class Comparison:
    """What a run of the benchmark found."""

    rows: list[Row]
    left_out: dict[str, str]
    """Libraries that did not take part, and why."""
    images: int
    mean_bytes: float
    likeness: Likeness
    loads: tuple[float | None, float | None]
    """Programs that wanted a processor in the last minute, at the beginning and at the end."""


def compare_input(
    recipe: Recipe, folder: Path | None, *, rounds: int, seconds: float, device: torch.device
) -> Comparison:
    """Time the pipelines in turn, on the files of a folder, or on made photographs.

    Args:
        seconds: how long a contender's turn takes at least in each round.
        device: makes views too, where it is not the CPU.

    Raises:
        UsageError: Rounds, seconds or the recipe make no sense here.
        DataError: There are no images to time with.
    """
    check_times(rounds, seconds)
    began, views = system_load(), recipe.views
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        files = made_files(made) if folder is None else own_files(folder)
        contenders = [*our_contenders(files, made, views, device), official(files.paths, views)]
        likeness = compare_pixels(files, views)
        if folder is None and likeness.worst > SURE_LIKENESS:
            raise ValueError(f"our pixels are not the official pipeline's: {likeness}")
        for contender in contenders:
            check_work(contender, views)
        peers, left_out = checked_peers(files, views)
        contenders += peers
        rates = images_per_second(contenders, rounds=rounds, seconds=seconds)
    rows = [Row(each, rates[each.name], _ratios(rates, each.name)) for each in contenders]
    loads = began, system_load()
    return Comparison(rows, left_out, len(files.paths), files.mean_bytes, likeness, loads)


def our_contenders(
    files: Files, place: Path, views: ViewsSpec, device: torch.device
) -> list[Contender]:
    """Return what this library does with the files; writes a shard of them into `place`."""
    shard = place / "packed-000000.tar"
    pack(files.paths, shard)
    parts = [
        loading(
            "ours_cpu_part",
            "moco, loading process's part",
            f"read and decode a file, {CROPS}",
            files.images,
            views,
        ),
        loading(
            "ours_packed",
            f"the same from shards, short side {PACKED_SIDE}",
            f"read from a tar and decode a smaller image, {CROPS}",
            open_images(shard),
            views,
        ),
        whole(files.images, views),
        device_part(files.images, views, torch.device("cpu")),
    ]
    if device.type != "cpu":
        parts.append(device_part(files.images, views, device))
    return parts


def checked_peers(files: Files, views: ViewsSpec) -> tuple[list[Contender], dict[str, str]]:
    """Return the libraries that do the whole work, and why others do not take part."""
    peers, left_out = peer_contenders(files.paths, views)
    found = []
    for peer in peers:
        try:
            check_work(peer, views)
        except ValueError as error:
            left_out[peer.name] = str(error)
        else:
            found.append(peer)
    return found, left_out


def _ratios(rates: dict[str, list[float]], name: str) -> list[float]:
    """Return a rate's multiples of the official one in the same round."""
    return [ours / theirs for ours, theirs in zip(rates[name], rates["official"], strict=True)]
