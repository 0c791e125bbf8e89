"""A small map of made images whose features are known: a pair that is planted, a loner, classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moco.data.images import Images
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.evaluation.features import Features
from moco.report.browser_page import page
from moco.report.embedding_section import embedding_part
from moco.report.mapped_images import Kind, MappedImages, map_images

HOSTILE = "<script>document.title='run'</script>\"'><img src=x onerror=alert(1)>.png"
CLASSES = ("dark", "light", "<b>odd</b>")
COUNT, FEATURES = 60, 12
PLANTED, LONER = ("dark/07.png", "light/03.png"), "light/11.png"


@dataclass
class Made:
    """A source, and the features that a network is said to have of it."""

    source: FolderImages
    rows: dict[str, dict[str, np.ndarray]]
    """Of trained and untrained, by an image's name."""
    asked: list[tuple[str, int]]
    """Which features of how many images were asked for."""

    def features_of(self, images: Images, which: str) -> Features:
        self.asked.append((which, len(images)))
        names = [images.name(image_id) for image_id in range(len(images))]
        read = [place for place, name in enumerate(names) if "broken" not in name]
        rows = [self.rows[which][names[place]] for place in read]
        skipped = [(name, "broken") for name in names if "broken" in name]
        return Features(torch.from_numpy(np.array(rows)), torch.tensor(read), skipped)

    def mapped(self, kind: Kind = "pca", most_images: int = 5000) -> MappedImages:
        return map_images(
            self.source, self.features_of, network="run", most_images=most_images, kind=kind
        )


def made_source(at: Path, *, broken: int = 0, hostile: bool = True) -> Made:
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        name, kind = f"{number // 3:02d}.png", CLASSES[number % 3].replace("/", "")
        if hostile and number == 1:
            name = HOSTILE.replace("/", "")
        if number // 3 >= COUNT // 3 - broken and number % 3 == 0:
            name = f"broken{number}.png"
        (at / kind).mkdir(parents=True, exist_ok=True)
        colour = (80 * (number % 3), 4 * number, 100)
        Image.new("RGB", (20, 16), colour).save(at / kind / name)
    source = open_images(at)
    rows = {
        which: {source.name(i): draw.normal(size=FEATURES).astype(np.float32) for i in range(COUNT)}
        for which in ("trained", "untrained")
    }
    for of in rows["trained"].values():
        of[0] += 6  # all in one cone, as features are
    first, second = PLANTED
    if first in rows["trained"]:
        rows["trained"][second] = rows["trained"][first] * 3 + np.float32(1e-3)
    for name in rows["trained"]:
        if name == LONER or HOSTILE.replace("/", "") in name:
            rows["trained"][name] = (-2 if name == LONER else -1) * rows["trained"][name]
            rows["trained"][name][1] += 9 if name == LONER else -9
    return Made(source, rows, [])


def map_page(at: Path, mapped: MappedImages) -> Path:
    at.write_text(page("run", [embedding_part(mapped)]), encoding="utf-8")
    return at


def nearest_by_numpy(rows: np.ndarray, row: int, count: int = 8) -> list[tuple[int, float]]:
    """The rows of the highest cosine with one, by numpy in float64."""
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit[row]
    cosines[row] = -2
    best = np.argsort(-cosines, kind="stable")[:count]
    return [(int(other), float(cosines[other])) for other in best]
