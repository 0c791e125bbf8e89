"""`moco data check`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from rich.markup import escape

from moco.cli.json_file import write_json
from moco.cli.output import printable, say
from moco.cli.progress_lines import ProgressLines
from moco.cli.terminal import print_table
from moco.data.images import Images
from moco.data.sources.opening import open_images
from moco.data_tools.check import (
    Inspection,
    Problem,
    class_counts,
    count_of,
    inspect,
    left_out,
    left_out_lines,
)
from moco.data_tools.equal_images import Duplicates, Leaks, find_duplicates, find_leaks
from moco.data_tools.reading import reading_processes
from moco.data_tools.verdict import SIDES, verdict
from moco.data_tools.words import counted
from moco.errors import DataError

SHOWN_CLASSES = 20


def run_check(arguments: argparse.Namespace) -> int:
    """Print what was found; end in an error where training would."""
    images = open_images(arguments.source)
    tested = None if arguments.test is None else open_images(arguments.test)
    classes = class_counts(images)  # labels may be unusable: better known before the long work
    found = inspected(images, arguments, "checked")
    duplicates = find_duplicates(found)
    test = leaks = None
    if tested is not None:
        test = inspected(tested, arguments, "checked test images")
        leaks = find_leaks(found, test)
    show_table(str(arguments.source), found, duplicates, classes)
    show_problems(found)
    show_equal(duplicates, leaks)
    for line in verdict(found, duplicates, leaks):
        say(printable(line))
    write_json(arguments.json, figures(found, duplicates, classes, leaks, test))
    if not found.is_usable:
        raise DataError(refusal(found))
    if test is not None and not test.readable:
        raise DataError(f"of the test images {refusal(test)}")
    return 0


def inspected(images: Images, arguments: argparse.Namespace, what: str) -> Inspection:
    """Return what a source holds, with progress."""
    count = min(len(images), arguments.sample or len(images))
    with ProgressLines(what) as progress:
        return inspect(
            images,
            sample=arguments.sample,
            workers=reading_processes(arguments.workers, count),
            bad_limit=arguments.bad_limit,
            report=progress.report,
        )


def refusal(found: Inspection) -> str:
    """Return why training would stop."""
    total = len(found.image_ids)
    if not found.readable:
        return f"none of {total:,} images can be read; mend them, or name other images"
    return (
        f"{found.unusable:,} of {total:,} images cannot be used, more than the limit of "
        f"{found.most_unusable:,}; mend or remove them, or raise --bad-limit"
    )


def show_table(
    source: str, found: Inspection, duplicates: Duplicates, classes: Mapping[str, int] | None
) -> None:
    """Print the counts."""
    total, everything = len(found.image_ids), len(found.images)
    sampled = "" if total == everything else f", a sample of {everything:,}"
    rows = [
        ["read", f"{found.readable:,}"],
        ["unreadable", f"{total - found.readable:,}"],
        ["of another kind than most", f"{count_of(found.unfit):,}"],
    ]
    short = found.short_sides
    for name, axis in (("shorter side", None), ("height", 0), ("width", 1)):
        sizes = found.three_sizes(axis)
        if sizes:
            rows.append([f"{name}: smallest, median, largest", ", ".join(map(str, sizes))])
    if len(short):
        rows += [[f"shorter side below {side}", f"{int((short < side).sum()):,}"] for side in SIDES]
    rows += [
        [f"{counted(channels, 'channel')} of {depth}", f"{count:,}"]
        for (channels, depth), count in found.kinds.most_common(SHOWN_CLASSES)
    ]
    rows += [[name, f"{count:,}"] for name, count in found.suffixes.most_common(SHOWN_CLASSES)]
    rows.append(["duplicates", f"{duplicates.images:,} in {counted(duplicates.groups, 'group')}"])
    if classes:
        rows += class_rows(classes)
    print_table(f"{counted(total)}{sampled}: {source}", ["what", "images"], rows)


def class_rows(classes: Mapping[str, int]) -> list[list[str]]:
    """Return the rows about classes: how many, and the largest and smallest by name."""
    by_size = sorted(classes, key=lambda name: -classes[name])
    rows = [["classes", f"{len(classes):,}"]]
    shown = by_size
    if len(by_size) > SHOWN_CLASSES:
        shown = [*by_size[: SHOWN_CLASSES // 2], *by_size[-(SHOWN_CLASSES // 2) :]]
        rows[0][0] = f"classes, the largest and smallest {SHOWN_CLASSES // 2} below"
    rows += [[f"  {escape(printable(name))}", f"{classes[name]:,}"] for name in shown]
    return rows


def show_problems(found: Inspection) -> None:
    """Print why images cannot be used, and the names of the first."""
    for line in left_out_lines(found.images):
        say(printable(line))
    for what, problems in (("unreadable", found.unreadable), ("of another kind", found.unfit)):
        for reason, problem in by_count(problems):
            say(printable(f"{what}, {counted(problem.count)}: {reason}: {named(problem)}"))


def by_count(problems: Mapping[str, Problem]) -> list[tuple[str, Problem]]:
    """Return the problems, the most frequent first."""
    return sorted(problems.items(), key=lambda item: -item[1].count)


def named(problem: Problem) -> str:
    """Return the names that are known."""
    return ", ".join(problem.names) + (", ..." if problem.count > len(problem.names) else "")


def show_equal(duplicates: Duplicates, leaks: Leaks | None) -> None:
    """Print the first equal images by name."""
    for group in duplicates.first:
        say(printable(f"equal: {', '.join(group)}"))
    if leaks is not None:
        say(
            f"{leaks.images:,} of {leaks.tested:,} test images ({100 * leaks.share:.2f} %) are "
            "among the training images"
        )
        for name, equal in leaks.first:
            say(printable(f"in both: {name} is {equal}"))


def figures(
    found: Inspection,
    duplicates: Duplicates,
    classes: Mapping[str, int] | None,
    leaks: Leaks | None,
    test: Inspection | None,
) -> dict[str, object]:
    """Return what `--json` has."""
    total, short = len(found.image_ids), found.short_sides
    plain: dict[str, object] = {
        "images": len(found.images),
        "checked": total,
        "readable": found.readable,
        "unreadable": total - found.readable,
        "unfit": count_of(found.unfit),
        "usable": found.is_usable,
        "most_unusable": found.most_unusable,
        "reasons": reasons(found.unreadable),
        "unfit_reasons": reasons(found.unfit),
        "left_out": len(left_out(found.images)),
        "channels": {f"{channels} {depth}": n for (channels, depth), n in found.kinds.items()},
        "kinds": dict(found.suffixes),
        "duplicates": duplicates.images,
        "duplicate_groups": duplicates.groups,
        "first_duplicates": duplicates.first,
    }
    sizes = found.three_sizes()
    if sizes:
        named_sizes = zip(("smallest", "median", "largest"), sizes, strict=True)
        plain |= {f"short_side_{name}": size for name, size in named_sizes}
        plain |= {f"short_side_below_{side}": int((short < side).sum()) for side in SIDES}
    if classes:
        plain |= {"classes": len(classes), "class_images": dict(classes)}
        plain |= {"class_smallest": min(classes.values()), "class_largest": max(classes.values())}
    if leaks is not None and test is not None:
        plain |= {"test_images": len(test.image_ids), "test_readable": leaks.tested}
        plain |= {"leaks": leaks.images, "leak_share": leaks.share, "first_leaks": leaks.first}
    return plain


def reasons(problems: Mapping[str, Problem]) -> list[dict[str, object]]:
    """Return the problems as `--json` has them."""
    return [
        {"reason": reason, "count": problem.count, "names": problem.names}
        for reason, problem in by_count(problems)
    ]
