"""How each sickness shows: a function of a moment of a run to the evidence, None without it.

Torch-free. `rules` has the thresholds, in a table with words and remedies. A signal that is
missing is evidence of nothing.
"""

from __future__ import annotations

import math

from moco.doctor.signs import WATCHED_SIGNALS, WATCHED_STEPS, Moment

SMALLEST_GAP = 1e-3
"""Between similarities to own and to other keys, in the mean of the watched steps."""
NEAR_CHANCE = 0.02
"""How far from ln(K+1), as a share of it, a loss is of queries that tell no key from another."""
FLATTEST_FEATURES = 0.02
"""Deviation of normalized features, 0 to 1, below which all images are alike."""
LOWEST_RANK = 3.0
"""Effective rank of the embeddings below which few directions are left."""
RECOVERED_RANK = 6.0
"""Effective rank from which a run counts as over what it had; healthy small runs have 10 and more.
"""
LARGEST_STEP, LARGEST_LARS_STEP = 0.01, 0.2
"""Share of its own length by which a step may move the weights; LARS moves each layer's by its rate
times 0.001, ten times that with its momentum, which is 0.1 in v3's own recipe."""
COLDEST, COLD = 0.02, 0.07
"""A temperature below the first is out of range, below the second where the loss says so, too."""
FAR_ABOVE_CHANCE = 1.5
"""Times ln(K+1)."""
WARMEST_FLOOR = 0.9
"""Share of ln(K+1) that the lowest loss a temperature allows may be."""
FROZEN = 1.0 - 1e-6
MOST_MOVED = 1.0
"""Of the distance between keys of different images, that a key may move within some steps."""
LEAST_VIEW_DIFFERENCE = 0.15
MOST_KEYS_OF_AN_IMAGE = 1.0
LONGEST_WAIT = 0.3
"""Share of the time."""
UNTOLD_KEYS = 0.02
"""Share of the queue by which what it holds may lag behind what it was given."""
SETTLED_STEPS = 50
"""Steps before which nothing is called healthy."""
PATIENCE_STEPS = 1000


def constant_features(now: Moment) -> str | None:
    """All images get one embedding."""
    deviation, gap, loss = now.signal("feature_deviation"), now.gap, now.mean("loss")
    chance = now.recipe.chance_loss
    if deviation is not None and deviation < FLATTEST_FEATURES:
        told = f"; the loss is {loss:.3f}, chance {chance:.3f}" if loss is not None else ""
        return f"features deviate by {deviation:.4f} between images, 1 being evenly spread{told}"
    if deviation is not None or gap is None or len(now.metrics) < WATCHED_STEPS:
        return None
    last = now.metrics[-1]["loss"]
    if abs(gap) >= SMALLEST_GAP or abs(last - chance) > NEAR_CHANCE * chance:
        return None
    return (
        f"for {WATCHED_STEPS} steps other images' keys were as near to a query as its own, and the "
        f"loss sits at {last:.3f}, chance, ln(K+1), being {chance:.3f}"
    )


def few_directions(now: Moment) -> str | None:
    """Embeddings differ, but in few directions only."""
    rank, most = now.signal("effective_rank"), now.signal("effective_rank_most")
    if rank is None or rank >= LOWEST_RANK:
        return None
    of_most = f" of {most:.0f}" if most is not None else ""
    return f"embeddings use {rank:.1f}{of_most} directions (effective rank)"


def has_not_recovered(now: Moment) -> bool:
    """Whether what was found before still shows in what was learnt, though nothing moves any more.

    Where the learning rate has decayed, keys are consistent and steps small, whatever went wrong.
    """
    rank, loss = now.signal("effective_rank"), now.mean("loss")
    is_at_chance = loss is not None and loss >= (1 - NEAR_CHANCE) * now.recipe.chance_loss
    return is_at_chance or (rank is not None and rank < RECOVERED_RANK)


def large_steps(now: Moment) -> str | None:
    """A step moves the weights by a large share of their length."""
    change, loss = now.signal("weight_change"), now.mean("loss")
    is_lars = now.recipe.optimizer.algorithm == "lars"
    if change is None or change < (LARGEST_LARS_STEP if is_lars else LARGEST_STEP):
        return None
    norm = now.signal("gradient_norm")
    told = f", gradient norm {norm:.3g}" if norm is not None else ""
    told += f", loss {loss:.3f} with chance at {now.recipe.chance_loss:.3f}" if loss else ""
    return f"one step moves the weights by {100 * change:.1f} % of their length{told}"


def lowest_loss(temperature: float, candidates: int) -> float:
    """Return the loss of a query that is its key, with all others opposite to it (Eq. 1)."""
    return math.log1p((candidates - 1) * math.exp(-2.0 / temperature))


def wrong_temperature(now: Moment) -> str | None:
    """The temperature leaves the loss no room, or turns small differences into large losses."""
    recipe, loss = now.recipe, now.mean("loss")
    chance = math.log(recipe.candidates)
    terms = recipe.chance_loss / chance
    tau = recipe.temperature
    floor = lowest_loss(tau, recipe.candidates)
    if floor > WARMEST_FLOOR * chance:
        return (
            f"with temperature {tau:g} no loss can be below {terms * floor:.3f}, chance being "
            f"{terms * chance:.3f}"
        )
    is_far_above = loss is not None and loss > FAR_ABOVE_CHANCE * recipe.chance_loss
    if tau < COLDEST or (tau < COLD and is_far_above):
        told = f"; the loss is {loss:.3f}, chance {terms * chance:.3f}" if loss is not None else ""
        return f"temperature {tau:g} makes {0.1 / tau:.0f} of a cosine of 0.1{told}"
    return None


def frozen_keys(now: Moment) -> str | None:
    """The key encoder does not move, while the encoder does."""
    if now.recipe.mechanism not in ("queue", "in_batch"):
        return None
    momentum = [row.get("key_momentum") for row in now.metrics]
    drift = now.signal("key_drift")
    if len(momentum) < WATCHED_STEPS // 2 or any(value != 1 for value in momentum):
        return None
    consistent = [same for _, same in now.consistency]
    if not drift or (consistent and min(consistent) < FROZEN):
        return None
    told = "; keys are to the last digit what they were" if consistent else ""
    return (
        f"key_momentum is 1, and the encoder is {100 * drift:.1f} % of its length away from the "
        f"key encoder{told}"
    )


def stale_keys(now: Moment) -> str | None:
    """Keys in the queue are no longer what the key encoder says of the same views today.

    How far a key is from itself some steps later is told in how far keys of different images are:
    of unit vectors, 1 - cosine is the square of the features' deviation in the mean.
    """
    deviation, ages = now.signal("feature_deviation"), now.consistency
    if now.recipe.mechanism != "queue" or not ages or not deviation:
        return None
    if now.steps_done < SETTLED_STEPS:  # at first all networks change fast
        return None
    age, same = ages[0]
    oldest = now.signal("oldest_key_steps")
    if oldest is not None and 2 * oldest < age:
        return None
    moved = (1.0 - same) / deviation**2
    if moved < MOST_MOVED:
        return None
    return (
        f"within {age:.0f} steps a key moves {moved:.1f} times as far as keys of different images "
        f"lie apart (its cosine with itself is {same:.3f}); key_momentum is "
        f"{now.recipe.key_momentum:g}"
    )


def leaking(now: Moment) -> str | None:
    """Batch norm tells which images a key was encoded beside."""
    if now.recipe.mechanism == "memory_bank":
        return None
    ordered, shuffled = now.signal("leak_ordered_top1"), now.signal("leak_shuffled_top1")
    if ordered is None or shuffled is None:
        return None
    told = (
        f"a query finds its key in {100 * ordered:.0f} % with the keys in its own order, in "
        f"{100 * shuffled:.0f} % with them permuted"
    )
    if now.recipe.may_leak:
        return f"keys pass through batch norm beside the very images of their queries; {told}"
    return None


def weak_views(now: Moment) -> str | None:
    """The two views of an image are nearly the same picture."""
    difference, found = now.signal("view_difference"), now.mean("pretext_top1")
    if difference is None or difference >= LEAST_VIEW_DIFFERENCE:
        return None
    told = f"; {100 * found:.0f} % of the queries find their key" if found is not None else ""
    return (
        f"two views of an image differ by {difference:.2f} of what views of different images do"
        f"{told}"
    )


def too_many_keys(now: Moment) -> str | None:
    """The queue holds several keys of each image, which count as negatives of each other."""
    recipe, images = now.recipe, now.images
    if recipe.mechanism != "queue" or recipe.dictionary.exclude_same_image:
        return None
    same, epochs = now.signal("same_image_keys"), now.signal("oldest_key_epochs")
    will_be = recipe.dictionary.size / images if images else None
    most = max((count for count in (same, will_be) if count is not None), default=0.0)
    if most <= MOST_KEYS_OF_AN_IMAGE:
        return None
    told = [f"{same:.1f} of the negatives are a query's own image" if same is not None else ""]
    told += [f"the oldest key is of {epochs:.1f} epochs ago" if epochs is not None else ""]
    size = f"the queue has {recipe.dictionary.size:,} keys"
    size += f" for {images:,} images" if images else ""
    return "; ".join([size, *filter(None, told)])


def still_queue(now: Moment) -> str | None:
    """The queue does not take in the keys it is given."""
    if now.recipe.mechanism != "queue":
        return None
    held, size = now.signal("queue_filled"), now.recipe.dictionary.size
    at = now.signals[-1].get("step") if now.signals else None
    if held is None or at is None:
        return None
    given = min(1.0, now.recipe.keys_stored(int(at)) / size)  # one step fewer, in case
    if held >= given - max(UNTOLD_KEYS, 3 * now.recipe.batch_size / size):
        return None
    return f"{100 * held:.0f} % of the queue hold keys, and {100 * given:.0f} % were given"


def waiting(now: Moment) -> str | None:
    """Much of the time goes into waiting for data."""
    shares = now.lately("waiting_share")
    if len(shares) < WATCHED_SIGNALS or min(shares) < LONGEST_WAIT:  # a cache that fills is none
        return None
    rate = now.signal("images_per_second")
    told = f", at {rate:.0f} images a second" if rate is not None else ""
    return f"{100 * shares[-1]:.0f} % of the time goes into waiting for data{told}"


def nothing_learnt(now: Moment) -> str | None:
    """The loss stays at chance for long, and none of the known reasons shows."""
    loss, chance = now.mean("loss"), now.recipe.chance_loss
    epochs = now.epochs_done
    if now.steps_done < PATIENCE_STEPS or now.filled < 1 or (epochs is not None and epochs < 1):
        return None
    if loss is None or loss < (1 - NEAR_CHANCE / 2) * chance:
        return None
    return f"after {now.steps_done:,} steps the loss is {loss:.3f}, chance {chance:.3f}"


def too_early(now: Moment) -> str | None:
    """There are no figures yet that tell health from sickness."""
    if now.steps_done < SETTLED_STEPS or not now.signals:
        missing = "" if now.signals else ", and no signals yet"
        return f"{now.steps_done} steps are done{missing}"
    return None


def filling(now: Moment) -> str | None:
    """The queue still holds random rows of the start."""
    if now.filled >= 1:
        return None
    loss = now.mean("loss")
    told = f"; the loss, {loss:.3f}, rises towards " if loss is not None else "; the loss rises to "
    return (
        f"{100 * now.filled:.0f} % of the queue hold keys{told}"
        f"{now.recipe.chance_loss:.3f}, which is ln(K+1), and falls later"
    )


def learning(now: Moment) -> str:
    """Return the figures of a run in which nothing is wrong."""
    loss, gap = now.mean("loss"), now.gap
    told = [f"loss {loss:.3f}, chance {now.recipe.chance_loss:.3f}" if loss is not None else ""]
    told += [f"own keys nearer than others by {gap:.3f}" if gap is not None else ""]
    deviation, rank = now.signal("feature_deviation"), now.signal("effective_rank")
    told += [f"feature deviation {deviation:.2f}" if deviation is not None else ""]
    told += [f"effective rank {rank:.1f}" if rank is not None else ""]
    return "; ".join(filter(None, told))
