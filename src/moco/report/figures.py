"""Which curves a page has, as a table: what each is of, and what to look for in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from moco.recipe import Recipe

Level = tuple[str, float]
"""A level to compare a curve with: what it is, and the value."""


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        lines: what each line is called, by its name in metrics.jsonl or signals.jsonl.
        about: what it is and what is normal; two sentences at most.
        unit: how values are shown: % of a share, GB of bytes, else the number.
        level: what it is compared with, by the run's recipe.
        from_zero: the axis begins at 0.
    """

    key: str
    title: str
    lines: Mapping[str, str]
    about: str
    unit: Literal["", "%", "GB"] = ""
    level: Callable[[Recipe], Level] | None = None
    from_zero: bool = False


def _chance(recipe: Recipe) -> Level:
    return "chance", recipe.chance_loss


LEARNING = (
    Figure(
        "loss",
        "Loss",
        {"loss": "loss"},
        "InfoNCE. Chance is ln(K + 1), what queries get that tell no key from another: a loss near "
        "it is normal early on, and rises towards it while a queue fills with real keys.",
        level=_chance,
    ),
    Figure(
        "similarity",
        "Similarity to keys",
        {"positive_similarity": "own key", "negative_similarity": "other images' keys"},
        "Mean cosine of a query with its own key and with those of other images. The gap between "
        "the two is what is learnt; without one nothing is.",
    ),
    Figure(
        "pretext",
        "Pretext accuracy",
        {"pretext_top1": "own key found first"},
        "How often a query's own key is the nearest among all it is compared with. "
        "This is the training task: not class accuracy.",
        unit="%",
        from_zero=True,
    ),
    Figure(
        "knn",
        "kNN on labelled images",
        {
            "knn_top1": "backbone, top-1",
            "knn_head_top1": "head, top-1",
            "knn_roc_auc": "backbone, ROC AUC",
        },
        "What the features are worth as training goes on: the vote of nearest neighbours among the "
        "labelled images of --monitor-train.",
        unit="%",
    ),
)
SCHEDULE = (
    Figure("rate", "Learning rate", {"learning_rate": "learning rate"}, "", from_zero=True),
    Figure(
        "momentum",
        "Key momentum",
        {"key_momentum": "key momentum"},
        "The share of the key encoder's old weights that each step keeps.",
    ),
)
EMBEDDING = (
    Figure(
        "rank",
        "Effective rank",
        {"effective_rank": "effective rank"},
        "How many directions the embeddings of the probe images use. One that falls to 1 is a "
        "collapse; more than the probe's images it cannot be.",
        from_zero=True,
    ),
    Figure(
        "deviation",
        "Feature deviation",
        {"feature_deviation": "deviation"},
        "Spread of the embeddings: 0 when all images get the same one, 1 at most.",
        from_zero=True,
    ),
    Figure(
        "alignment",
        "Alignment",
        {"alignment": "alignment"},
        "Mean squared distance of an image's two views: 0 is equal, 2 unrelated.",
        from_zero=True,
    ),
    Figure(
        "uniformity",
        "Uniformity",
        {"uniformity": "uniformity"},
        "How evenly embeddings spread over the sphere: the lower the better; 0 when all are alike.",
    ),
    Figure(
        "views",
        "Difference of views",
        {"view_difference": "difference"},
        "Pixels of an image's two views against those of different images: at 0 the views are the "
        "same and there is nothing to learn, at 1 they share nothing.",
        from_zero=True,
    ),
)
DICTIONARY = (
    Figure(
        "drift",
        "Drift of the key encoder",
        {"key_drift": "drift"},
        "How far the key encoder's weights lie from the query encoder's, as a share of those.",
        from_zero=True,
    ),
    Figure(
        "oldest",
        "Age of the oldest key",
        {"oldest_key_epochs": "oldest key"},
        "In epochs. Above 1, the queue holds several keys of the same image.",
        from_zero=True,
    ),
    Figure(
        "filled",
        "Queue filled with real keys",
        {"queue_filled": "filled"},
        "Random keys fill the rest, which are easy to tell apart.",
        unit="%",
        from_zero=True,
    ),
    Figure(
        "same",
        "Other keys of the same image",
        {"same_image_keys": "keys"},
        "How many negatives of a query are keys of its own image: near 0 unless the queue is large "
        "for the data.",
        from_zero=True,
    ),
    Figure(
        "leak",
        "Batch-norm leak",
        {"leak_ordered_top1": "keys in order", "leak_shuffled_top1": "keys shuffled"},
        "How often probe queries find their key first. If they find it only while the key batch "
        "stands in the queries' order, batch statistics give it away.",
        unit="%",
        from_zero=True,
    ),
)
MACHINE = (
    Figure(
        "gradient",
        "Gradient norm",
        {"gradient_norm": "gradient norm"},
        "Length of the loss's gradient over all weights.",
        from_zero=True,
    ),
    Figure(
        "change",
        "Change of weights",
        {"weight_change": "change"},
        "Of one step, as a share of the weights' length.",
        from_zero=True,
    ),
    Figure(
        "speed",
        "Images per second",
        {"images_per_second": "images per second"},
        "Without checkpoints and monitors.",
        from_zero=True,
    ),
    Figure(
        "waiting",
        "Time waiting for images",
        {"waiting_share": "waiting"},
        "Of the wall time. Above some ten per cent, loading holds the run up.",
        unit="%",
        from_zero=True,
    ),
    Figure("memory", "Memory", {"memory_bytes": "memory"}, "", unit="GB", from_zero=True),
)
CONSISTENCY_GROUP = "The dictionary"
"""Where the chart over keys' ages stands."""
GROUPS: Mapping[str, tuple[Figure, ...]] = {
    "Learning": LEARNING,
    "The embedding": EMBEDDING,
    CONSISTENCY_GROUP: DICTIONARY,
    "Settings over time": SCHEDULE,
    "Steps and speed": MACHINE,
}
CONSISTENCY = Figure(
    "consistency",
    "Consistency of the dictionary",
    {"consistency": "cosine"},
    "Cosine of keys as they were stored with the same views' keys now, against their age: what a "
    "slow key encoder is for (MoCo v1, section 3.2). 1 is a dictionary that has not aged.",
)
