"""Optimizer states between our numbering of weights and the official one.

The official scripts hand the optimizer every parameter, frozen ones and the key encoder's too, so
its state dict numbers them all; ours numbers what trains. Files of torch before 1.6 name weights by
their addresses instead: a weight is found by its place in the list of its group, whatever it is
called there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from moco.foreign.official_names import Named, official_weights, trained_weights

OFFICIAL_WORDS = {"velocity": "mu", "sgd_momentum": "momentum", "trust": "trust_coefficient"}
"""Of our LARS and MoCo v3's."""
OWN_WORDS = {official: own for own, official in OFFICIAL_WORDS.items()}
LARS_STATE, LARS_GROUP = "velocity", "trust"


def official_optimizer(state: Mapping[str, Any], tensors: Sequence[Named]) -> dict[str, Any]:
    """Return our optimizer's state dict as the official scripts load it.

    Args:
        state: what `Optimizer.state_dict` gives, one group of all weights that train.
        tensors: as `official_tensors` gives them.
    """
    places = {named.own: place for place, named in enumerate(official_weights(tensors))}
    trained = trained_weights(tensors)
    values = {
        places[trained[number].own]: {
            OFFICIAL_WORDS.get(name, name): of for name, of in own.items()
        }
        for number, own in state["state"].items()
    }
    (group,) = state["param_groups"]
    is_lars = LARS_GROUP in group
    options = {
        OFFICIAL_WORDS.get(name, name) if is_lars else name: value
        for name, value in group.items()
        if name != "params"
    }
    if "fused" in options:
        options["fused"] = None  # as the official scripts make theirs
    return {
        "state": dict(sorted(values.items())),
        "param_groups": [{**options, "params": list(range(len(places)))}],
    }


def own_optimizer_state(official: object, tensors: Sequence[Named]) -> dict[int, dict[str, Any]]:
    """Return the state of our optimizer, by number of weight, out of an official state dict.

    Raises:
        ValueError: It is of other weights, with what does not fit.
    """
    by_place = _by_place(official, len(official_weights(tensors)))
    places = {named.own: place for place, named in enumerate(official_weights(tensors))}
    found: dict[int, dict[str, Any]] = {}
    for number, named in enumerate(trained_weights(tensors)):
        values = by_place.get(places[named.own])
        if values is None:
            raise ValueError(f"the optimizer has nothing on {named.official}")
        found[number] = {
            OWN_WORDS.get(name, name) if LARS_STATE not in values else name: value
            for name, value in values.items()
        }
        _check(found[number], named)
    return found


def _by_place(official: object, count: int) -> dict[int, dict[str, Any]]:
    """Return what the optimizer holds by place of weight, in the order of its groups."""
    groups = dict.get(official, "param_groups") if isinstance(official, dict) else None
    state = dict.get(official, "state") if isinstance(official, dict) else None
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise ValueError("the optimizer's state is laid out in another way")
    names: list[Any] = []
    for group in groups:
        listed = dict.get(group, "params") if isinstance(group, dict) else None
        if not isinstance(listed, list) or not all(isinstance(name, int) for name in listed):
            raise ValueError("the optimizer's state lists no weights")
        names += listed
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"the optimizer lists {len(names)} weights, and {count} are expected")
    found: dict[int, dict[str, Any]] = {}
    for place, name in enumerate(names):
        values = dict.get(state, name)
        if isinstance(values, dict):
            found[place] = {str(word): value for word, value in dict.items(values)}
    return found


def _check(values: Mapping[str, Any], named: Named) -> None:
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if value.ndim and tuple(value.shape) != named.shape:
            raise ValueError(
                f"the optimizer's {name:.40} of {named.official} has shape {list(value.shape)}, "
                f"and {list(named.shape)} is expected"
            )
    if not any(value.ndim == len(named.shape) for value in tensors.values()):
        raise ValueError(f"the optimizer has no tensor for {named.official}")
