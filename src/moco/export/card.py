"""The model card: what the backbone is, how it was made, how to load it, what it is worth."""

from __future__ import annotations

from moco import __version__
from moco.export.card_text import fenced, in_markdown, in_yaml, table
from moco.export.check import Check
from moco.export.format_names import UNKNOWN_LICENSE
from moco.export.formats import Format
from moco.export.source import ExportSource
from moco.recipe_files import recipe_yaml
from moco.report.evaluation_tables import MEASURES, Evaluation, evaluations_in, measured

MOST_SHOWN = 4
"""Channels whose mean and deviation are told in the text; all of them are in the recipe."""


def model_card(source: ExportSource, kind: Format, check: Check, license_id: str) -> str:
    """Return README.md: front matter as the Hugging Face Hub reads it, then the page."""
    evaluations = [] if source.place is None else evaluations_in(source.place)
    found = [(each, *score) for each in evaluations for score in measured(each)]
    parts = [
        _front_matter(source, kind, license_id, _measures(found)),
        _title(source),
        f"A backbone without a classifier, written by moco {__version__} for {kind.library}.",
        "## Load it",
        "In this directory:",
        fenced(kind.snippet(source), "python"),
        _shapes(source),
        "## How it was made",
        table("", _history(source)),
        _license(license_id),
        "## Preprocessing",
        table("", _preprocessing(source)),
        "## What its features are worth",
        _worth(found),
        "## Checked",
        f"{in_markdown(check.words)}.",
    ]
    if source.recipe is not None:
        parts += ["## Recipe", fenced(recipe_yaml(source.recipe), "yaml")]
    return "\n\n".join(parts) + "\n"


def _title(source: ExportSource) -> str:
    name = in_markdown(source.encoder.backbone)
    how = "" if source.recipe is None else ", pre-trained by Momentum Contrast"
    return f"# {name}{how}"


def _measures(found: list[tuple[Evaluation, str, str]]) -> list[str]:
    names = {measure.partition(",")[0] for _, measure, _ in found}
    return sorted(names & set(MEASURES.values()))


def _front_matter(source: ExportSource, kind: Format, license_id: str, measures: list[str]) -> str:
    how = ["momentum-contrast", "moco", "self-supervised-learning"]
    tags = [*([] if source.recipe is None else how), source.encoder.backbone]
    lines = [
        f"license: {in_yaml(license_id)}",
        f"library_name: {in_yaml(kind.library)}",
        'pipeline_tag: "image-feature-extraction"',
        "tags:",
        *(f"- {in_yaml(tag)}" for tag in tags),
    ]
    if measures:
        lines += ["metrics:", *(f"- {in_yaml(measure)}" for measure in measures)]
    return "\n".join(["---", *lines, "---"])


def _shapes(source: ExportSource) -> str:
    channels, side = source.views.channels, source.views.evaluation_size
    size = "height, width" if source.dynamic_size else f"{side}, {side}"
    return (
        f"It takes images [N, {channels}, {size}], prepared as below, and gives "
        f"{source.features:,} features each."
    )


def _history(source: ExportSource) -> list[tuple[str, str]]:
    spec = source.encoder
    network = [spec.backbone]
    network += [f"{spec.width:g} times as wide"] if spec.width != 1.0 else []
    network += [f"{spec.stem} stem"] if spec.stem != "imagenet" else []
    rows = [("network", in_markdown(", ".join(network)))]
    if source.about:
        rows.append(("read from", in_markdown(source.about)))
    if source.recipe is not None:
        recipe = source.recipe
        rows += [
            ("recipe", f"{in_markdown(recipe.name)} ({in_markdown(recipe.source)})"),
            ("dictionary", in_markdown(recipe.dictionary_in_words)),
            ("training", f"{recipe.epochs:,} epochs planned, batch {recipe.batch_size:,}"),
        ]
    if source.checkpoint is not None:
        identity = source.checkpoint.identity
        rows += [
            ("steps done", f"{source.checkpoint.step:,}"),
            ("images", f"{identity.image_count:,}"),
            ("SHA-256 over the images' names", in_markdown(identity.image_fingerprint)),
            ("seed", in_markdown(identity.seed)),
        ]
    return rows


def _license(license_id: str) -> str:
    if license_id == UNKNOWN_LICENSE:
        return "Licence: not stated; `moco export --license ID` states one."
    return f"Licence: {in_markdown(license_id)}, as given at export."


def _preprocessing(source: ExportSource) -> list[tuple[str, str]]:
    views = source.views
    many = views.channels > MOST_SHOWN

    def shown(values: tuple[float, ...]) -> str:
        return "in the recipe" if many else ", ".join(f"{value:.9g}" for value in values)

    return [
        ("resize", f"short side to {views.evaluation_resize} pixels, bilinear, antialiased"),
        ("crop", f"the central {views.evaluation_size} x {views.evaluation_size}"),
        ("scale", "16-bit values count as 0 to 1" if views.deep else "0 to 255 become 0 to 1"),
        ("mean", shown(views.mean)),
        ("standard deviation", shown(views.std)),
    ]


def _worth(found: list[tuple[Evaluation, str, str]]) -> str:
    if not found:
        return "No evaluation's figures lay beside it."
    rows = [
        " | ".join(
            [
                f"| {in_markdown(each.kind)}",
                in_markdown(measure),
                in_markdown(score.replace("\n", " (") + (")" if "\n" in score else "")),
                f"{in_markdown(each.title)} |",
            ]
        )
        for each, measure, score in found
    ]
    head = ["| evaluation | measure | score (95 % interval) | file |", "|---|---|---|---|"]
    told = "By the files beside the run, which may be of another of its checkpoints."
    return "\n".join([told, "", *head, *rows])
