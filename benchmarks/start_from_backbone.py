"""What the warm-up of `moco pretrain --from` is worth: kNN as a supervised backbone trains on.

    python benchmarks/start_from_backbone.py CIFAR OUT

CIFAR has train/ and test/ with a folder for each class. A small ResNet is trained with the labels
of the first 2,000 train images of each class; MoCo then goes on from it on the next 400 of each,
without labels, for the first 3 epochs of 20. After each epoch those 4,000 vote on 2,000 test images
by its features. A line of OUT/rows.jsonl is one run; runs that are there are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from moco.data.sources.sequence import SequenceImages
from moco.data.views import normalize
from moco.encoders import Encoder, build_encoder
from moco.errors import InterruptedRunError
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipes import CIFAR10_RESNET18
from moco.run_records import read_lines
from moco.specs import EncoderSpec, ViewsSpec
from moco.start.asked import start_asked

EPOCHS, SEEN_EPOCHS = 20, 3
NETWORK = EncoderSpec(
    backbone="resnet18", stem="strided", width=0.5, stage_blocks=(1, 1, 1, 1), dim=10
)
SIDE = ["views.image_size=32", "views.evaluation_size=32", "views.evaluation_resize=32"]
RECIPES: dict[str, tuple[str | Recipe, float, list[str]]] = {
    "small": ("small", 1e-3, ["views.order=[crop,jitter,gray,horizontal_flip]"]),
    "sgd": (CIFAR10_RESNET18, 0.06, ["batch_size=128", "dictionary.size=1024"]),
}
WARM_UPS = {"none": (0, 0), "rise": (0, 1), "held": (1, 0), "held, rise": (1, 1)}
RUNS = [
    *(("small", 1.0, warm_up) for warm_up in WARM_UPS),
    *(("small", 0.1, warm_up) for warm_up in ("none", "held, rise")),
    *(("sgd", share, warm_up) for share in (1.0, 0.1) for warm_up in ("none", "held, rise")),
]
"""Recipe, share of its learning rate, warm-up."""


def labelled(folder: Path, first: int, stop: int) -> tuple[list[Any], torch.Tensor]:
    """Return some images of each class folder, [H, W, 3], and their classes."""
    images, classes = [], []
    for number, name in enumerate(sorted(folder.iterdir())):
        for path in sorted(name.iterdir())[first:stop]:
            images.append(np.asarray(Image.open(path).convert("RGB")))
            classes.append(number)
    return images, torch.tensor(classes)


def as_batch(images: list[Any]) -> torch.Tensor:
    """Return images of one size as [N, 3, H, W]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def supervised(cifar: Path, to: Path, *, epochs: int = 12, batch: int = 128) -> None:
    """Train the network with labels and keep it as torchvision's names have it."""
    torch.manual_seed(0)
    images, classes = labelled(cifar / "train", 0, 2000)
    pixels = as_batch(images)
    encoder = build_encoder(NETWORK, ViewsSpec(image_size=32))
    encoder.layout = torch.channels_last
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        encoder.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = len(pixels) // batch
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(pixels))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            top, left = torch.randint(0, 9, (2,)).tolist()
            cut = F.pad(pixels[rows], (4, 4, 4, 4))[:, :, top : top + 32, left : left + 32]
            cut = cut.flip(3) if torch.rand(()) < 0.5 else cut
            loss = F.cross_entropy(encoder(cut), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    state = encoder.state_dict()
    names = {name: name.removeprefix("backbone.").replace("head.", "fc.") for name in state}
    torch.save({names[name]: value.contiguous() for name, value in state.items()}, to)


class Votes:
    """kNN by the pre-training images on test images: 20 neighbours, temperature 0.1."""

    def __init__(self, cifar: Path, train_images: list[Any], classes: torch.Tensor) -> None:
        test_images, self.test_classes = labelled(cifar / "test", 200, 400)
        self.train, self.test, self.classes = as_batch(train_images), as_batch(test_images), classes

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> Mapping[str, float]:
        encoder.eval()
        train_rows, test_rows = (
            F.normalize(
                torch.cat(
                    [encoder.backbone(normalize(part, encoder.views)) for part in of.split(500)]
                ),
                dim=1,
            )
            for of in (self.train, self.test)
        )
        nearness, nearest = (test_rows @ train_rows.T).topk(20)
        votes = torch.zeros(len(test_rows), 10)
        votes.scatter_add_(1, self.classes[nearest], (nearness / 0.1).exp())
        return {"knn_top1": float((votes.argmax(1) == self.test_classes).float().mean())}


def one_run(
    kind: str, share: float, warm_up: str, seed: int, folder: Path, images: list[Any], votes: Votes
) -> dict[str, Any]:
    """Return kNN (%) after each epoch, and each epoch's first loss."""
    recipe, rate, settings = RECIPES[kind]
    held, rise = WARM_UPS[warm_up]
    network = [
        *("encoder.backbone=resnet18", "encoder.stem=strided", "encoder.width=0.5"),
        "encoder.stage_blocks=[1,1,1,1]",
    ]
    plan = make_plan(
        SequenceImages(images),
        recipe=recipe,
        settings=[
            *(*network, *SIDE, *settings, f"learning_rate={rate * share:g}"),
            *(f"start.held_epochs={held}", f"start.rise_epochs={rise}"),
        ],
        epochs=EPOCHS,
        run=folder / f"{kind}-{share}-{warm_up}-{seed}".replace(", ", "-"),
        device="cpu",
        seed=seed,
        workers=0,
        signals_every=0,
        start=start_asked(folder / "supervised.pth"),
        resume="never",
    )
    taken = iter(range(1, plan.steps + 1))
    last = SEEN_EPOCHS * plan.steps_per_epoch
    with suppress(InterruptedRunError):
        train(plan, resume="never", monitor=votes, stop=lambda: 75 if next(taken) == last else None)
    rows = read_lines(plan.run / "metrics.jsonl")
    return {
        **{"recipe": kind, "rate_share": share, "warm_up": warm_up, "seed": seed},
        "knn": [round(100 * row["knn_top1"], 1) for row in rows if "knn_top1" in row],
        "loss": [round(row["loss"], 2) for row in rows[:: plan.steps_per_epoch]],
    }


def main() -> None:
    """Train the backbone once, then every run of three seeds."""
    cifar, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if not (folder / "supervised.pth").exists():
        supervised(cifar, folder / "supervised.pth")
    images, classes = labelled(cifar / "train", 2000, 2400)
    votes = Votes(cifar, images, classes)
    done = read_lines(folder / "rows.jsonl")
    keys = ("recipe", "rate_share", "warm_up", "seed")
    for seed in range(3):
        for kind, share, warm_up in RUNS:
            if any([row[key] for key in keys] == [kind, share, warm_up, seed] for row in done):
                continue
            row = one_run(kind, share, warm_up, seed, folder, images, votes)
            print(row, flush=True)
            with (folder / "rows.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
