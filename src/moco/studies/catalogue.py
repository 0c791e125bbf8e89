"""The papers' own controlled comparisons, as data; no torch in here.

A study is a list of settings of one base recipe: what it compares differs, all else is equal. To
add one, write one more value at the end of this file and name it in `STUDIES`.
"""

from __future__ import annotations

from dataclasses import replace

from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipes import MOCO_V1, MOCO_V2
from moco.specs import Mechanism
from moco.studies.spec import Claim, Measure, Setting, Study

FEATURE_MEASURES: tuple[Measure, ...] = ("linear", "knn_200")
"""What a claim about features is tested on: the papers' measure, and one without a fit."""
LADDER = (1, 4, 16, 64, 256)
"""Dictionary sizes in batches: 256 to 65,536 at the paper's batch of 256."""
LARGEST = 65536
END_TO_END_BATCHES = (1, 2, 4)
KEY_MOMENTUMS = {0.0: "fails", 0.9: "55.2", 0.99: "57.8", 0.999: "59.0", 0.9999: "58.9"}
"""Section 4.1's table, K = 4,096."""


def dictionary_sizes(base: Recipe, images: int) -> tuple[int, ...]:
    """Return the ladder of dictionary sizes, none above the number of images."""
    sizes = [base.batch_size * factor for factor in LADDER]
    return tuple(size for size in sizes if size <= min(LARGEST, images))


def with_dictionary(base: Recipe, mechanism: Mechanism, size: int) -> Recipe:
    """Return the recipe with another mechanism and dictionary size."""
    return replace(base, mechanism=mechanism, dictionary=replace(base.dictionary, size=size))


def with_batch(base: Recipe, factor: int) -> Recipe:
    """Return the end-to-end recipe with a larger batch, which is its dictionary.

    Groups of batch norm keep their number of images. The learning rate follows the paper's linear
    rule (section 4.1), with AdamW the square root, its usual rule. Epochs stay, so steps get fewer.
    """
    rule = factor**0.5 if base.optimizer.algorithm == "adamw" else factor
    return replace(
        base,
        mechanism="end_to_end",
        batch_size=base.batch_size * factor,
        batch_norm_groups=base.batch_norm_groups * factor,
        optimizer=replace(base.optimizer, learning_rate=base.optimizer.learning_rate * rule),
    )


def _queue_settings(base: Recipe, images: int) -> tuple[Setting, ...]:
    papers = {4096: "59.0", 65536: "60.6"}
    return tuple(
        Setting(
            name=f"MoCo, K {size:,}",
            series="MoCo",
            x=size,
            recipe=with_dictionary(base, "queue", size),
            paper=papers.get(size, ""),
        )
        for size in dictionary_sizes(base, images)
    )


def _mechanism_settings(base: Recipe, images: int) -> tuple[Setting, ...]:
    end_to_end = []
    for factor in END_TO_END_BATCHES:
        if base.batch_size * factor > images // 2 and factor > 1:
            continue
        negatives = base.batch_size * factor - 1
        end_to_end.append(
            Setting(
                name=f"end-to-end, K {negatives:,}",
                series="end-to-end",
                x=negatives,
                recipe=with_batch(base, factor),
            )
        )
    bank = (
        Setting(
            name=f"memory bank, K {size:,}",
            series="memory bank",
            x=size,
            recipe=with_dictionary(base, "memory_bank", size),
            paper="58.0" if size == LARGEST else "",
        )
        for size in dictionary_sizes(base, images)
    )
    return (*_queue_settings(base, images), *end_to_end, *bank)


def _key_momentum_settings(base: Recipe, _images: int) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            name=f"key momentum {value:g}",
            series="MoCo",
            x=f"{value:g}",
            recipe=replace(base, key_momentum=value, key_momentum_schedule="constant"),
            paper=paper,
        )
        for value, paper in KEY_MOMENTUMS.items()
    )


def _shuffle_settings(base: Recipe, _images: int) -> tuple[Setting, ...]:
    if base.batch_norm_groups == 1:
        raise UsageError(
            f"recipe '{base.name}' has batch_norm_groups 1, so there is nothing to shuffle keys "
            "between; set it to 2 or more with --set batch_norm_groups=N"
        )
    return tuple(
        Setting(name=name, series=name, x=name, recipe=replace(base, shuffle_keys=shuffled))
        for name, shuffled in (("with shuffling", True), ("without shuffling", False))
    )


def _v1_to_v2_settings(base: Recipe, _images: int) -> tuple[Setting, ...]:
    def steps_of(recipe: Recipe, source: Recipe) -> Recipe:
        """Return the recipe with the source's views, without blur where the base has none."""
        order = tuple(
            step for step in source.views.order if step != "blur" or "blur" in base.views.order
        )
        views = replace(
            base.views,
            order=order,
            jitter=source.views.jitter,
            jitter_probability=source.views.jitter_probability,
        )
        return replace(recipe, views=views)

    milestones = (round(base.epochs * 0.6), round(base.epochs * 0.8))
    v1 = replace(
        steps_of(base, MOCO_V1),
        encoder=replace(base.encoder, head="linear"),
        temperature=MOCO_V1.temperature,
        last_temperature=0.0,
        optimizer=replace(base.optimizer, schedule="step", milestones=milestones),
    )
    mlp = replace(v1, encoder=replace(v1.encoder, head="mlp"), temperature=MOCO_V2.temperature)
    both = steps_of(mlp, MOCO_V2)
    cosine = replace(both, optimizer=replace(both.optimizer, schedule="cosine"))
    rows = (
        ("v1", v1, "60.6"),
        ("+MLP", mlp, "66.2"),
        ("+aug", steps_of(v1, MOCO_V2), "63.4"),
        ("+MLP+aug", both, "67.3"),
        ("+MLP+aug+cos", cosine, "67.5"),
    )
    return tuple(
        Setting(name=name, series="MoCo", x=name, recipe=recipe, paper=paper)
        for name, recipe, paper in rows
    )


def _of_features(text: str, better: tuple[str, ...], worse: tuple[str, ...]) -> tuple[Claim, ...]:
    return tuple(
        Claim(text=text, better=better, worse=worse, measure=measure)
        for measure in FEATURE_MEASURES
    )


def _largest_over_smallest(settings: tuple[Setting, ...], series: str) -> tuple[Claim, ...]:
    names = [setting.name for setting in settings if setting.series == series]
    if len(names) < 2:
        return ()
    text = f"{series}: a larger dictionary helps"
    return _of_features(text, (names[-1],), (names[0],))


def _mechanism_claims(settings: tuple[Setting, ...]) -> tuple[Claim, ...]:
    names = {
        series: tuple(setting.name for setting in settings if setting.series == series)
        for series in ("MoCo", "end-to-end", "memory bank")
    }
    return (
        *_of_features("MoCo beats the memory bank at equal K", names["MoCo"], names["memory bank"]),
        *_of_features(
            "MoCo's largest dictionary beats end-to-end's",
            names["MoCo"][-1:],
            names["end-to-end"][-1:],
        ),
        *(claim for series in names for claim in _largest_over_smallest(settings, series)),
    )


def _queue_claims(settings: tuple[Setting, ...]) -> tuple[Claim, ...]:
    return _largest_over_smallest(settings, "MoCo")


def _key_momentum_claims(settings: tuple[Setting, ...]) -> tuple[Claim, ...]:
    zero, small, large, larger, _ = (setting.name for setting in settings)
    return (
        *_of_features("key momentum 0 fails: worse than 0.99", (large,), (zero,)),
        *_of_features(
            "a large key momentum, 0.99 or 0.999, is better than 0.9", (large, larger), (small,)
        ),
        *_of_features("key momentum 0.999 is better than 0.99", (larger,), (large,)),
    )


def _shuffle_claims(settings: tuple[Setting, ...]) -> tuple[Claim, ...]:
    shuffled, unshuffled = ((setting.name,) for setting in settings)
    return (
        Claim(
            text="without shuffling the pretext score rises",
            better=unshuffled,
            worse=shuffled,
            measure="pretext_top1",
        ),
        *_of_features("without shuffling the features get worse", shuffled, unshuffled),
    )


def _v1_to_v2_claims(settings: tuple[Setting, ...]) -> tuple[Claim, ...]:
    v1, mlp, aug, both, cosine = ((setting.name,) for setting in settings)
    return (
        *_of_features("the MLP head helps v1", mlp, v1),
        *_of_features("v2's augmentation helps v1", aug, v1),
        *_of_features("the MLP head with v2's augmentation is better than the head", both, mlp),
        *_of_features("the cosine schedule helps", cosine, both),
    )


MECHANISMS = Study(
    name="mechanisms",
    title="Three mechanisms over the number of negatives",
    source="arXiv:1911.05722, Figure 3",
    x_label="negatives, K",
    figure="lines",
    settings=_mechanism_settings,
    claims=_mechanism_claims,
)
KEY_MOMENTUM = Study(
    name="key-momentum",
    title="Key momentum",
    source="arXiv:1911.05722, section 4.1, table of momentum",
    x_label="key momentum, m",
    figure="bars",
    settings=_key_momentum_settings,
    claims=_key_momentum_claims,
)
QUEUE_SIZE = Study(
    name="queue-size",
    title="Size of the queue",
    source="arXiv:1911.05722, Figure 3, MoCo alone",
    x_label="keys in the queue, K",
    figure="lines",
    settings=_queue_settings,
    claims=_queue_claims,
)
SHUFFLE_BN = Study(
    name="shuffle-bn",
    title="Shuffling batch norm",
    source="arXiv:1911.05722, section 3.3 and appendix A.9",
    x_label="epoch",
    figure="curves",
    settings=_shuffle_settings,
    claims=_shuffle_claims,
)
V1_TO_V2 = Study(
    name="v1-to-v2",
    title="From MoCo v1 to v2",
    source="arXiv:2003.04297, Tables 1 and 2",
    x_label="",
    figure="bars",
    settings=_v1_to_v2_settings,
    claims=_v1_to_v2_claims,
)

STUDIES = {
    study.name: study for study in (MECHANISMS, KEY_MOMENTUM, QUEUE_SIZE, SHUFFLE_BN, V1_TO_V2)
}
