"""What was run: the facts of each run, and the settings that make it another than others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moco.recipe import Recipe
from moco.recipe_files import flat_fields
from moco.recipe_words import recipe_changes
from moco.recipes import RECIPES
from moco.report.browser_page import text
from moco.report.page import fact_table, paragraph, section
from moco.report.run_files import ReportedRun

LONGEST = 400
"""Letters of a text from a file; what is longer is no name or reason."""
NO_SETTINGS = ("name", "source")


def what_was_run(runs: Sequence[ReportedRun]) -> str:
    """Return the section of facts and settings."""
    rows = {title: [facts(run).get(title, "") for run in runs] for title in _titles(runs)}
    names = [run.name for run in runs] if len(runs) > 1 else []
    parts = [fact_table(rows, names, caption="The runs" if names else "The run")]
    if not names:
        parts = [
            f'<div class="beside"><div>{parts[0]}</div><div>{_from_a_paper(runs[0])}</div></div>'
        ]
    everything = {name: [in_words(value)] for name, value in flat_fields(runs[0].recipe).items()}
    for run in runs[1:]:
        for name, value in flat_fields(run.recipe).items():
            everything[name].append(in_words(value))
    table = fact_table(everything, names, caption="All settings")
    parts.append(f"<details><summary>All settings</summary>{table}</details>")
    return section("What was run", *parts, key="run")


def what_differs(runs: Sequence[ReportedRun]) -> str:
    """Return the section of settings that differ, nothing for one run."""
    if len(runs) < 2:
        return ""
    values = differing_settings(runs)
    rows = {name: [in_words(value) for value in each] for name, each in values.items()}
    names, title = [run.name for run in runs], "Settings that differ"
    table = fact_table(rows, names, caption=title) if rows else paragraph("None.")
    return section(title, table, key="differences")


def headline(run: ReportedRun) -> str:
    """Return in a line what a run is and how far it got."""
    images = f" of {run.images:,} images" if run.images else ""
    reason = _said(run.status, "reason") if run.state in ("failed", "interrupted") else ""
    why = f": {reason[:LONGEST]}" if reason else "."
    return f"Recipe {run.recipe.name}, {run.recipe.epochs:,} epochs{images}; {progress(run)}{why}"


def progress(run: ReportedRun) -> str:
    """Return how the run stands."""
    steps = run.status.get("steps")
    is_count = isinstance(steps, int) and not isinstance(steps, bool) and steps > 0
    far = f"{run.steps_done:,} of {steps:,} steps" if is_count else f"{run.steps_done:,} steps"
    match run.state:
        case "done":
            return f"done, {far}"
        case "running":
            return f"running, or ended without a word: {far} when this page was written"
        case "unknown":
            return f"{far}; no status.json tells how it ended"
        case state:
            return f"{state} after {far}"


def facts(run: ReportedRun) -> dict[str, str]:
    """Return what is worth knowing of a run, by its title; what no file tells is left out."""
    recipe, status = run.recipe, run.status
    per_epoch = f" of {run.steps_per_epoch:,.0f} steps" if run.steps_per_epoch else ""
    optimizer = recipe.optimizer
    found = {
        "state": progress(run),
        "reason": _said(status, "reason"),
        "recipe": f"{recipe.name} ({recipe.source})",
        "keys": _keys(recipe),
        "dictionary": recipe.dictionary_in_words,
        "temperature": f"{recipe.temperature:g}",
        "network": f"{recipe.encoder.backbone}, {recipe.encoder.head} head of {recipe.encoder.dim}",
        "views": f"{recipe.views.image_size} x {recipe.views.image_size} pixels",
        "optimizer": f"{optimizer.algorithm}, learning rate {optimizer.learning_rate:g}, "
        f"{optimizer.schedule.replace('_', ' ')}",
        "training": f"{recipe.epochs:,} epochs{per_epoch}, batch {recipe.batch_size:,}",
        "images": f"{run.images:,}" if run.images else "",
        "images left out": _said(status, "skipped_files", but=0),
        "seed": _said(run.identity, "seed"),
        "device": _said(status, "device"),
        "precision": _said(status, "precision"),
        "versions": _said(status, "versions"),
        "began from": _begun(status.get("start")),
        "last written": _said(status, "updated").replace("T", " "),
        "directory": str(run.path),
    }
    return {title: value[:LONGEST] for title, value in found.items() if value}


def nearest_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of a paper that the fewest settings tell it from."""
    named = RECIPES.get(recipe.name) or RECIPES.get(recipe.source.removesuffix(" with changes"))
    if named is not None:
        return named
    mine = flat_fields(recipe)

    def changes(other: Recipe) -> int:
        theirs = flat_fields(other)
        return sum(mine[name] != theirs[name] for name in mine if name not in NO_SETTINGS)

    return min(RECIPES.values(), key=changes)


def differing_settings(runs: Sequence[ReportedRun]) -> dict[str, list[Any]]:
    """Return the values of each setting that is not the same in all runs."""
    fields = [flat_fields(run.recipe) for run in runs]
    seeds = [run.identity.get("seed") for run in runs]
    found = {name: [each[name] for each in fields] for name in fields[0] if name != "source"}
    found["seed"] = seeds if None not in seeds else [None] * len(runs)
    return {name: values for name, values in found.items() if values != [values[0]] * len(runs)}


def in_words(value: Any) -> str:
    """Return a setting's value for people."""
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(in_words(each) for each in value) or "none"
        case float():
            return f"{value:g}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)[:LONGEST]


def _from_a_paper(run: ReportedRun) -> str:
    base = nearest_recipe(run.recipe)
    changes = [change.fields for change in recipe_changes(base, run.recipe)]
    rows = {
        name: [in_words(value) for value in both] for each in changes for name, both in each.items()
    }
    if not rows:
        return paragraph(f"All settings are those of the recipe {base.name}.", "soft")
    title = f"Settings that are not those of {base.name}"
    table = fact_table(rows, [base.name, "this run"], caption=title)
    return f'<h3 class="group">{text(title)}</h3>{table}'


def _titles(runs: Sequence[ReportedRun]) -> list[str]:
    return list(dict.fromkeys(title for run in runs for title in facts(run)))


def _keys(recipe: Recipe) -> str:
    match recipe.mechanism:
        case "queue" | "in_batch":
            ends = ", rising to 1" if recipe.key_momentum_schedule == "cosine" else ""
            return f"from a momentum encoder, m = {recipe.key_momentum:g}{ends}"
        case "end_to_end":
            return "from the encoder itself"
        case "memory_bank":
            return "from a memory bank, one stored vector an image"


def _begun(start: object) -> str:
    """Return where a run began by its status.json, empty where that says nothing."""
    if not isinstance(start, dict):
        return ""
    sha256 = str(start.get("sha256"))[:12]
    return f"{start.get('from')} as {start.get('as')}, sha256 {sha256}"


def _said(values: Mapping[str, Any], name: str, but: object = None) -> str:
    """Return what a file says under a name, empty where it says nothing or `but` that."""
    value = values.get(name)
    if value is None or value == but:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
