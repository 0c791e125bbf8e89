"""What a recipe is: the row of a paper's table that makes a method; no torch in here.

Its parts are in `specs`; the papers' own recipes are values in `recipes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from moco.schedules import cosine, growing_size
from moco.specs import (
    DictionarySpec,
    EncoderSpec,
    KeyMomentumSchedule,
    Mechanism,
    OptimizerSpec,
    ViewsSpec,
    require,
)
from moco.start_spec import StartSpec


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a method: read it as a row of the paper's table."""

    name: str
    """What it is called on the command line."""
    source: str
    """Where its figures come from."""
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    """The network."""
    mechanism: Mechanism = "queue"
    """Where keys come from, and which of them are the dictionary. queue: from a momentum encoder,
    the newest (v1, v2); in_batch: from a momentum encoder, the batch's (v3); end_to_end: from the
    encoder itself, with gradient, the batch's; memory_bank: one stored vector an image."""
    dictionary: DictionarySpec = field(default_factory=DictionarySpec)
    """What queries are compared with."""
    views: ViewsSpec = field(default_factory=ViewsSpec)
    """How views are made."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    """How weights move."""
    start: StartSpec = field(default_factory=StartSpec)
    """How it begins with a backbone that was trained before (`moco pretrain --from`)."""
    temperature: float = 0.07
    """tau of Eq. 1."""
    last_temperature: float = 0.0
    """The temperature at the end, reached on a half cosine, every step; 0: it does not move."""
    key_momentum: float = 0.999
    """m of Eq. 2: share of the old key weights that is kept, 0 to 1."""
    key_momentum_schedule: KeyMomentumSchedule = "constant"
    """cosine: from key_momentum to 1 on a half cosine, every step (v3)."""
    symmetric: bool = False
    """Contrast each view with the other's keys and add the two losses."""
    loss_scale: float = 1.0
    """Multiplies the loss; v3 has twice its temperature here, which follows no change of that."""
    batch_norm_groups: int = 8
    """Slices of the batch that batch norm normalizes alone: v1's and v2's 8 devices; 1: the whole
    batch, whatever the processes (v3). Of no effect on a network without batch norm."""
    shuffle_keys: bool = True
    """Permute the key batch where batch norm has groups (section 3.3); false only to study the
    leak."""
    shard_window: int = 0
    """For images in shards (tar files, Parquet) that do not fit in memory: shuffle shards, then the
    images of so many of them together; 0: all images of all shards."""
    epochs: int = 200
    """Passes over the images."""
    batch_size: int = 256
    """Images per optimizer step, all processes together; never rewritten."""

    def __post_init__(self) -> None:
        require(
            1e-4 <= self.temperature < float("inf"),
            f"temperature must be from 0.0001, got {self.temperature:g}",
        )
        require(
            0 <= self.key_momentum <= 1, f"key_momentum must be 0 to 1, got {self.key_momentum:g}"
        )
        require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        require(self.shard_window >= 0, f"shard_window must be from 0, got {self.shard_window}")
        require(
            0 <= self.last_temperature < float("inf"),
            f"last_temperature must be from 0, got {self.last_temperature:g}",
        )
        require(
            0 < self.loss_scale < float("inf"),
            f"loss_scale must be above 0, got {self.loss_scale:g}",
        )
        require(
            self.mechanism != "queue" or self.dictionary.size >= self.batch_size,
            f"queue size {self.dictionary.size} is smaller than the batch {self.batch_size}; "
            "raise dictionary.size or lower batch_size",
        )
        require(
            self.mechanism == "queue" or not self.dictionary.fill_first,
            f"dictionary.fill_first fills a queue, and mechanism is {self.mechanism}; set it to "
            "false, or mechanism to queue",
        )
        require(
            self.mechanism == "queue" or self.dictionary.key_precision == "float32",
            f"dictionary.key_precision {self.dictionary.key_precision} needs a queue, mechanism is "
            f"{self.mechanism}; set it to float32",
        )
        groups = self.batch_norm_groups
        require(
            groups >= 1 and self.batch_size % groups == 0 and self.batch_size // groups >= 2,
            f"batch_size {self.batch_size} does not split into batch_norm_groups {groups} "
            "slices of 2 images or more; change one of them",
        )
        warmup, epochs = self.optimizer.warmup_epochs, self.epochs
        require(
            self.optimizer.schedule != "warmup_cosine" or warmup < epochs,
            f"optimizer.warmup_epochs {warmup:g} leaves nothing of epochs {epochs}; lower it",
        )
        first = self.start.held_epochs + self.start.rise_epochs
        require(
            first <= epochs,
            f"start.held_epochs and start.rise_epochs take {first:g} of epochs {epochs}; lower "
            "them",
        )

    @property
    def candidates(self) -> int:
        """Among how many keys a query is to find its own."""
        if self.mechanism in ("in_batch", "end_to_end"):
            return self.batch_size
        return self.dictionary.size + 1

    @property
    def chance_loss(self) -> float:
        """The loss of queries that tell no key from another."""
        return self.loss_scale * (2 if self.symmetric else 1) * math.log(self.candidates)

    def keys_stored(self, steps: int) -> int:
        """Return how many keys a dictionary was given, by all processes, once so many steps ran."""
        first = self.dictionary.size if self.dictionary.fill_first else 0
        return first + steps * self.batch_size * (2 if self.symmetric else 1)

    @property
    def shuffles_keys(self) -> bool:
        """Whether a batch norm sees keys beside other images than their queries (section 3.3)."""
        grouped = self.mechanism != "memory_bank" and self.batch_norm_groups > 1
        return grouped and self.shuffle_keys

    @property
    def may_leak(self) -> bool:
        """Whether one batch norm sees keys as it saw their queries; v3 has a predictor between."""
        exposed = self.mechanism != "memory_bank" and not self.shuffles_keys
        return exposed and self.encoder.predictor == "none"

    @property
    def dictionary_in_words(self) -> str:
        """What queries are compared with, for people."""
        match self.mechanism:
            case "queue":
                rounded = " in bfloat16" * (self.dictionary.key_precision == "bfloat16")
                filled = ", filled before the first step" * self.dictionary.fill_first
                return f"queue of {self.dictionary.size:,} keys{rounded}{filled}"
            case "in_batch" | "end_to_end":
                return f"{self.batch_size:,} keys of the batch"
            case "memory_bank":
                return f"{self.dictionary.size:,} keys drawn from a memory bank"

    def image_size_at(self, epoch: int) -> int:
        """Return the side of a view in an epoch, counted from 0; the last epoch has image_size."""
        views = self.views
        if not views.first_size:
            return views.image_size
        growing_epochs = int(views.full_size_from * self.epochs)
        return growing_size(
            views.first_size, views.image_size, views.size_step, epoch, growing_epochs
        )

    def at_full_size(self) -> Recipe:
        """Return the recipe with views that never grow: what its slowest steps are."""
        return replace(self, views=replace(self.views, first_size=0))

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        rate = self.optimizer.rate(step, steps_per_epoch, self.epochs)
        return rate * self.start.rate_share(step, steps_per_epoch)

    def key_momentum_at(self, step: int, steps_per_epoch: int) -> float:
        """Return m of Eq. 2 for a step counted from 0; v3 raises it to 1 (section 4.1)."""
        if self.key_momentum_schedule == "constant":
            return self.key_momentum
        return 1.0 - cosine(1.0 - self.key_momentum, step / steps_per_epoch, self.epochs)

    def temperature_at(self, step: int, steps_per_epoch: int) -> float:
        """Return tau of Eq. 1 for a step counted from 0."""
        if not self.last_temperature:
            return self.temperature
        return self.last_temperature + cosine(
            self.temperature - self.last_temperature, step / steps_per_epoch, self.epochs
        )
