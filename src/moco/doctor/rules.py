"""What the doctor knows, as a table; torch-free. docs/doctor.md shows it to users.

The order is the order of judgement: causes before what they cause. The functions that look for the
evidence, with the thresholds, are in `evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moco.doctor import evidence
from moco.doctor.signs import Moment

OURS = "our recorded runs (docs/results.md, the doctor)"
MILDER = "--set temperature=0.1 (v1: 0.07, v2: 0.2; v3: 1.0, or 0.2 with a ViT)"
SLOWER_KEYS = "--set key_momentum=0.99, or 0.999 for a long run"
STRONGER_VIEWS = (
    "--set views.order=[crop,jitter,gray,horizontal_flip] --set views.crop_scale=[0.2,1]"
)


@dataclass(frozen=True)
class Rule:
    """One thing that the doctor knows."""

    name: str
    """The verdict."""
    sickness: str
    """What it is, in words: a sentence."""
    looks_at: str
    """The figures and settings that it is seen in."""
    threshold: str
    reference: str
    """Where the threshold is from."""
    find: Callable[[Moment], str | None]
    """Returns the evidence, None where there is none."""
    remedy: Callable[[Moment], str] = lambda _: ""
    """Returns the setting to change."""
    is_sick: bool = True
    only_speed: bool = False


def quieter(now: Moment) -> str:
    """Return the remedy of a rate that is too high."""
    rate = now.recipe.optimizer.learning_rate
    return f"--set optimizer.learning_rate={rate / 10:.3g}, or less"


def smaller_queue(now: Moment) -> str:
    """Return the remedy of a queue that is too large: about a quarter of the images."""
    batch = now.recipe.batch_size
    wanted = max(batch, 1 << max(0, (now.images // 4).bit_length() - 1)) if now.images else 0
    size = f"--set dictionary.size={wanted}" if wanted else "--set dictionary.size to fewer"
    return f"{size}, or --set dictionary.exclude_same_image=true"


def fewer_steps_old(now: Moment) -> str:
    """Return the remedy of keys that are no longer true."""
    if now.recipe.key_momentum < 0.99:
        return SLOWER_KEYS
    if now.recipe.key_momentum < 0.999:
        return "--set key_momentum=0.999, or a smaller dictionary.size"
    return "--set dictionary.size to fewer, or a lower optimizer.learning_rate"


def shuffled(now: Moment) -> str:
    """Return the remedy of a leak: groups among which keys are shuffled."""
    batch = now.recipe.batch_size
    fitting = [count for count in range(2, batch // 2 + 1) if batch % count == 0]
    groups = min(fitting, key=lambda count: abs(batch / count - 16), default=2)
    if now.recipe.batch_norm_groups > 1:
        return "--set shuffle_keys=true"
    return f"--set batch_norm_groups={groups} with shuffle_keys=true"


RULES = (
    Rule(
        "queue not updated",
        "The queue does not take in the keys it is given.",
        "queue_filled against steps x batch_size",
        "a queue that holds less than it was given",
        "arXiv:1911.05722, Algorithm 1: enqueue",
        evidence.still_queue,
        lambda _: "Contrast.advance must be called after each step and store its keys",
    ),
    Rule(
        "learning rate too high",
        "Steps are so large that what was learnt is lost.",
        "weight_change, with gradient_norm and the loss",
        f"a step moves the weights by {100 * evidence.LARGEST_STEP:g} % of their length, "
        f"{100 * evidence.LARGEST_LARS_STEP:g} % with LARS",
        OURS,
        evidence.large_steps,
        quieter,
    ),
    Rule(
        "temperature out of range",
        "The temperature makes the loss blind, or deaf to all but the nearest keys.",
        "temperature, and the loss against ln(K+1)",
        f"below {evidence.COLDEST:g}; below {evidence.COLD:g} with a loss of "
        f"{evidence.FAR_ABOVE_CHANCE:g} ln(K+1); or so high that no loss can be below "
        f"{evidence.WARMEST_FLOOR:g} ln(K+1)",
        "arXiv:1911.05722, Eq. 1 (0.07); arXiv:2003.04297, section 3 (0.2); arXiv:2104.02057 (1.0)",
        evidence.wrong_temperature,
        lambda _: MILDER,
    ),
    Rule(
        "key encoder frozen",
        "The key encoder does not follow the encoder: keys stay those of random weights.",
        "key_momentum, consistency, key_drift",
        "key_momentum 1 for all of the last steps, keys exactly as they were, and a drift",
        "arXiv:1911.05722, Eq. 2 and section 4.1, momentum",
        evidence.frozen_keys,
        lambda _: SLOWER_KEYS,
    ),
    Rule(
        "dictionary stale",
        "The keys in the queue are of another encoder than today's.",
        "consistency at the youngest age, against feature_deviation",
        f"1 - cosine of {evidence.MOST_MOVED:g} of that between keys of different images",
        "arXiv:1911.05722, section 3.1 (consistency) and 4.1 (momentum)",
        evidence.stale_keys,
        fewer_steps_old,
    ),
    Rule(
        "leak through batch norm",
        "Batch norm gives away which key belongs to a query, so nothing else need be learnt.",
        "batch_norm_groups, shuffle_keys, predictor; leak_ordered_top1 against leak_shuffled_top1",
        "keys beside their own queries' images in every batch norm",
        "arXiv:1911.05722, section 3.3",
        evidence.leaking,
        shuffled,
    ),
    Rule(
        "augmentation too weak",
        "The two views of an image are nearly the same picture: pixels suffice to find a key.",
        "view_difference, and pretext_top1",
        f"below {evidence.LEAST_VIEW_DIFFERENCE:g} of the difference between images",
        "arXiv:2003.04297, section 3 (aug+); " + OURS,
        evidence.weak_views,
        lambda _: STRONGER_VIEWS,
    ),
    Rule(
        "queue too large for the data",
        "The queue holds an image's older keys, which count as negatives of the image itself.",
        "dictionary.size against images, same_image_keys, oldest_key_epochs",
        f"more than {evidence.MOST_KEYS_OF_AN_IMAGE:g} key of each image, where "
        "dictionary.exclude_same_image is false",
        "docs/small_recipe.md; ImageNet's queue has 0.05 keys of each image",
        evidence.too_many_keys,
        smaller_queue,
    ),
    Rule(
        "collapsed",
        "All images get one embedding.",
        "feature_deviation; without it, similarities and the loss",
        f"a deviation below {evidence.FLATTEST_FEATURES:g}",
        OURS,
        evidence.constant_features,
        lambda now: f"{quieter(now)}; look at the views with moco data preview",
    ),
    Rule(
        "low rank",
        "Images differ in few directions only.",
        "effective_rank",
        f"below {evidence.LOWEST_RANK:g}",
        OURS,
        evidence.few_directions,
        quieter,
    ),
    Rule(
        "not learning",
        "The loss stays at chance, and no known reason shows.",
        "the loss against ln(K+1) once the queue is full",
        f"at chance after {evidence.PATIENCE_STEPS:,} steps and an epoch",
        OURS,
        evidence.nothing_learnt,
        lambda _: (
            "look at the views with moco data preview, then try another optimizer.learning_rate"
        ),
    ),
    Rule(
        "data bound",
        "Much of the time is spent waiting for data, which costs time and no learning.",
        "waiting_share",
        f"{100 * evidence.LONGEST_WAIT:g} % of the time in three rows one after the other",
        "docs/data.md; moco pretrain --dry-run measures what binds",
        evidence.waiting,
        lambda _: "--workers of more, --resident, or smaller files (moco data pack)",
        only_speed=True,
    ),
)
"""Sicknesses, in the order of judgement."""

CONSEQUENCES = ("dictionary stale", "collapsed", "low rank", "not learning")
"""Names of what a sickness before it in the table may have brought about."""

STATES = (
    Rule(
        "too early to say",
        "Too early to say.",
        "steps done",
        f"fewer than {evidence.SETTLED_STEPS} steps, or no signals",
        OURS,
        evidence.too_early,
        is_sick=False,
    ),
    Rule(
        "still filling",
        "Nothing is wrong; the queue is not full yet, and the loss rises while it fills.",
        "queue_filled",
        "less than 1",
        "arXiv:1911.05722, section 3.1; asked in facebookresearch/moco issues 9, 12 and 43",
        evidence.filling,
        is_sick=False,
    ),
)
"""What a run can be in which nothing is wrong, but healthy."""

LEARNS_WELL = Rule(
    "healthy",
    "Nothing is wrong.",
    "all of these",
    "none of the above",
    OURS,
    evidence.learning,
    is_sick=False,
)
