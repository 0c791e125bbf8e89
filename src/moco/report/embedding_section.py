"""The section of a page that shows images as a network sees them: map, neighbours, doubles."""

from __future__ import annotations

from PIL import Image

from moco.data.images import UnreadableImageError, spread
from moco.data.views import picture
from moco.data_tools.reading import Report
from moco.evaluation.neighbourhood import AlikeGroup, Neighbourhood
from moco.report.browser_page import Part, packaged, text
from moco.report.map_colours import CLASS_COLOURS, colour_variables, still_picture
from moco.report.map_data import Classes, classes_of, map_blocks, unit_places
from moco.report.mapped_images import MappedImages
from moco.report.page import Cell, neighbour_rows, paragraph, section
from moco.report.thumbnails import MISSING, shown_picture

ASKED, SHOWN_NEIGHBOURS = 6, 5
MOST_GROUPS, MOST_OF_GROUP = 12, 6
KEY = "map"


def embedding_part(mapped: MappedImages, *, workers: int = 0, report: Report | None = None) -> Part:
    """Return the section, with its script and style.

    Args:
        report: called with (pictures made, pictures in all).

    Raises:
        UsageError: Pictures of so many images do not fit on a page.
    """
    classes = classes_of(mapped.labels)
    blocks = map_blocks(mapped, classes, colours=len(CLASS_COLOURS), workers=workers, report=report)
    html = section(
        "Map of the images",
        paragraph(_about(mapped)),
        _figure(mapped, classes),
        paragraph(_axes(mapped), "soft"),
        *_before_and_after(mapped),
        *_near_duplicates(mapped),
        *_loners(mapped),
        blocks,
        key=KEY,
    )
    style = colour_variables() + packaged("embedding_map.css")
    return Part(html, packaged("embedding_map.js"), style, (KEY, "Map"))


def no_map(reason: str) -> Part:
    """Return what stands in the map's place, and why."""
    return Part(section("Map of the images", paragraph(f"There is none: {reason}.", "soft")))


def map_figures(mapped: MappedImages) -> dict[str, object]:
    """Return what `moco report --json` says of the map."""

    def named(rows: tuple[int, ...]) -> list[str]:
        return [mapped.images.name(row) for row in rows]

    return {
        "images": len(mapped.images),
        "of_images": mapped.total,
        "unreadable": mapped.unreadable,
        "network": mapped.network,
        "tsne": mapped.tsne is not None,
        "variance_shares": list(mapped.plane.shares),
        "same_class": mapped.same_class(mapped.trained),
        "same_class_untrained": mapped.same_class(mapped.untrained),
        "duplicate_similarity": mapped.least_similarity,
        "near_duplicates": [
            {"similarity": group.similarity, "images": named(group.rows)}
            for group in mapped.duplicates
        ],
        "outliers": [
            {"distance": distance, "image": mapped.images.name(row)}
            for row, distance in mapped.loners
        ],
    }


def _about(mapped: MappedImages) -> str:
    count = len(mapped.images)
    which = (
        f"All {count:,} images"
        if count == mapped.total
        else f"{count:,} of {mapped.total:,} images, spread over the source,"
    )
    left_out = f"; {mapped.unreadable:,} could not be read" if mapped.unreadable else ""
    return (
        f"{which} where the features of {mapped.network} put them{left_out}. Point at a dot, or go "
        "to the map with Tab and press the arrow keys: beside it stands the image with its nearest "
        "others, by cosine of all features and not by places on the map."
    )


def _axes(mapped: MappedImages) -> str:
    first, second = mapped.plane.shares
    words = (
        f"PCA: the two directions in which the features vary most, {100 * first:.0f} and "
        f"{100 * second:.0f} % of all variance; the rest is not seen."
    )
    if mapped.tsne is not None:
        words += (
            " t-SNE: near dots are alike; distances between groups, and their sizes, mean nothing."
        )
    return words


def _figure(mapped: MappedImages, classes: Classes) -> str:
    places = unit_places(mapped.plane.places if mapped.tsne is None else mapped.tsne)
    options = "".join(
        f'<option value="{number}">{text(f"{name:.60} ({count:,})")}</option>'
        for number, (name, count) in enumerate(zip(classes.names, classes.counts, strict=True))
    )
    chooser = (
        f'<label>Class<select class="map-class"><option value="">all</option>{options}</select>'
        "</label>"
        if options
        else ""
    )
    planes = (
        '<div role="group" aria-label="Laid out by"><button data-plane="tsne" aria-pressed="true">'
        't-SNE</button><button data-plane="pca" aria-pressed="false">PCA</button></div>'
        if mapped.tsne is not None
        else ""
    )
    return (
        f'<div class="map"><div class="map-tools" hidden>{planes}{chooser}'
        '<label>Find<input class="map-find" type="search" placeholder="part of a name"></label>'
        '<div role="group" aria-label="Zoom"><button data-zoom="+" aria-label="closer">+</button>'
        '<button data-zoom="-" aria-label="farther">&minus;</button>'
        '<button data-zoom="0">whole map</button></div></div>'
        '<div class="map-body"><div class="map-field" tabindex="0" role="application" '
        'aria-label="Map of the images: arrow keys go from dot to dot, plus and minus zoom">'
        f'<img class="map-still" alt="The images as dots" src="{still_picture(places, classes)}">'
        '<canvas class="dots" hidden></canvas><canvas class="marks" hidden></canvas></div>'
        '<div class="map-panel" hidden><div class="map-shown"><canvas></canvas>'
        '<div aria-live="polite"><b class="map-name"></b><p class="map-kind"></p></div></div>'
        '<h3>Nearest after training, by cosine</h3><div class="map-near" data-of="trained"></div>'
        '<h3>Nearest before training</h3><div class="map-near" data-of="untrained"></div>'
        f"</div></div>{_key(classes)}</div>"
    )


def _key(classes: Classes) -> str:
    """Return which colour is which class."""
    shown = classes.names[: len(CLASS_COLOURS)]
    items = [
        f'<li><i class="k{number}"></i>{text(f"{name:.60}")}</li>'
        for number, name in enumerate(shown)
    ]
    if more := len(classes.names) - len(shown):
        items.append(f"<li><i></i>{more:,} other classes</li>")
    return f'<ul class="map-key">{"".join(items)}</ul>' if items else ""


def _before_and_after(mapped: MappedImages) -> list[str]:
    rows = []
    for row in spread(len(mapped.images), ASKED):
        both = (_cells(mapped, row, found) for found in (mapped.untrained, mapped.trained))
        before, after = both
        rows.append((_cell(mapped, row), before, after))
    words = "Left of each row the asked image, then its nearest others."
    trained, untrained = (mapped.same_class(of) for of in (mapped.trained, mapped.untrained))
    if trained is not None and untrained is not None:
        words += (
            f" Green frames: the same class; red: another. Of all images' "
            f"{mapped.trained.rows.shape[1]} nearest others {100 * trained:.1f} % are of the same "
            f"class, before training {100 * untrained:.1f} %."
        )
    return [_heading("Nearest before and after training"), neighbour_rows(rows), _soft(words)]


def _cells(mapped: MappedImages, row: int, found: Neighbourhood) -> list[Cell]:
    nearest = found.rows[row, :SHOWN_NEIGHBOURS].tolist()
    return [_cell(mapped, other, beside=row) for other in nearest]


def _cell(mapped: MappedImages, row: int, beside: int | None = None) -> Cell:
    labels, name = mapped.labels, mapped.images.name(row)
    is_same = labels[row] == labels[beside] if labels and beside is not None else None
    try:
        return Cell(picture(mapped.images.read(row)), name, is_same)
    except UnreadableImageError:  # it went away since its features were taken
        return Cell(_nothing(), name, is_same)


def _near_duplicates(mapped: MappedImages) -> list[str]:
    groups = mapped.duplicates
    heading = _heading("Near-duplicates")
    rule = (
        f"Images of cosine {mapped.least_similarity:.4f} or more, looked for among the "
        f"{mapped.trained.rows.shape[1]} nearest others of each. They are alike to this network: "
        "look before you delete one. If one of a pair is in a test set, scores on it are too high."
    )
    if not groups:
        return [heading, paragraph("None found."), _soft(rule)]
    images = sum(len(group.rows) for group in groups)
    found = f"{len(groups):,} {'group' if len(groups) == 1 else 'groups'} of {images:,} images"
    if len(groups) > MOST_GROUPS:
        found += f"; the {MOST_GROUPS} most alike are shown, --json names all"
    shown = "".join(_group(mapped, group) for group in groups[:MOST_GROUPS])
    return [heading, paragraph(f"{found}."), f'<div class="alike">{shown}</div>', _soft(rule)]


def _group(mapped: MappedImages, group: AlikeGroup) -> str:
    some = group.rows[:MOST_OF_GROUP]
    more = f", {len(group.rows) - len(some):,} more" if len(group.rows) > len(some) else ""
    pictures = "".join(_pick(mapped, row) for row in some)
    differ = " · classes differ" if len({*_labels(mapped, group.rows)}) > 1 else ""
    return f'<div><div class="row">{pictures}</div>{group.similarity:.4f}{more}{differ}</div>'


def _labels(mapped: MappedImages, rows: tuple[int, ...]) -> list[str]:
    return [mapped.labels[row] for row in rows] if mapped.labels else []


def _loners(mapped: MappedImages) -> list[str]:
    shown = "".join(
        f'<div><div class="row">{_pick(mapped, row)}</div>{distance:.3f}</div>'
        for row, distance in mapped.loners
    )
    words = (
        f"The images farthest from their {mapped.trained.rows.shape[1]} nearest others, by the "
        "mean of 1 - cosine: rare ones, damaged ones, or ones that do not belong here."
    )
    return [_heading("Far from all others"), f'<div class="alike">{shown}</div>', _soft(words)]


def _pick(mapped: MappedImages, row: int) -> str:
    """Return a picture that leads to its dot."""
    name = text(mapped.images.name(row))
    return (
        f'<button data-go="{row}" title="{name}"><img alt="{name}" '
        f'src="{shown_picture(mapped.images, row)}"></button>'
    )


def _heading(words: str) -> str:
    return f'<h3 class="group">{text(words)}</h3>'


def _soft(words: str) -> str:
    return paragraph(words, "soft")


def _nothing() -> Image.Image:
    return Image.new("RGB", (8, 8), (MISSING, MISSING, MISSING))
