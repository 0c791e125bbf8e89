"""The curves of one run or several, over the same axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moco.report.browser_page import Part, data_block, packaged, text
from moco.report.charts import (
    COLOURS,
    Chart,
    Line,
    chart_html,
    chart_values,
    over_epochs,
    span_of,
)
from moco.report.figures import CONSISTENCY, CONSISTENCY_GROUP, GROUPS, Figure, Level
from moco.report.run_files import POINTS, ReportedRun
from moco.report.thinned import Curve, Thinned, number

DRAWN = [name for figures in GROUPS.values() for figure in figures for name in figure.lines]
"""Figures that a chart may have, of metrics.jsonl or signals.jsonl."""


def curves_part(
    runs: Sequence[ReportedRun], groups: Mapping[str, Sequence[Figure]] = GROUPS
) -> Part:
    """Return the section of those curves that the runs have figures for."""
    in_epochs = differ_in_epochs(runs)
    html, values = [], []
    for group, charts in _same_span(_charts(runs, groups, in_epochs)).items():
        drawn = "".join(chart_html(chart) for chart in charts)
        html.append(f'<h3 class="group">{text(group)}</h3><div class="charts">{drawn}</div>')
        values += [chart_values(chart) for chart in charts]
    block = data_block("curves-data", {"charts": values, "epochs": _epochs(runs, in_epochs)})
    return Part(
        f'<section id="curves"><h2>Curves</h2>{legend(runs)}{"".join(html)}{block}</section>',
        packaged("charts.js"),
        packaged("charts.css"),
        ("curves", "Curves"),
    )


def _charts(
    runs: Sequence[ReportedRun],
    groups: Mapping[str, Sequence[Figure]],
    in_epochs: bool,  # noqa: FBT001
) -> dict[str, list[Chart]]:
    """Return the charts that there are figures for, by group."""
    sampled, found = [_of_signals(run) for run in runs], {}
    for group, figures in groups.items():
        charts = [chart for each in figures if (chart := _chart(each, runs, sampled, in_epochs))]
        if group == CONSISTENCY_GROUP:
            charts = [*_consistency(runs), *charts]
        if charts:
            found[group] = charts
    return found


def _same_span(groups: Mapping[str, list[Chart]]) -> dict[str, list[Chart]]:
    """Return the charts with one span for all of an axis, so that a place is the same in all."""
    everything = [chart for charts in groups.values() for chart in charts]
    spans = {
        axis: span_of(chart for chart in everything if chart.axis == axis)
        for axis in {chart.axis for chart in everything}
    }
    return {
        group: [replace(chart, span=spans[chart.axis]) for chart in charts]
        for group, charts in groups.items()
    }


def legend(runs: Sequence[ReportedRun]) -> str:
    """Return a button for each run that hides and shows it, nothing for one run."""
    if len(runs) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" class="c{number % COLOURS}" data-toggle="{number}" '
        f'aria-pressed="true"><i class="swatch"></i>{text(run.name)}</button>'
        for number, run in enumerate(runs)
    )
    return f'<div class="legend" role="group" aria-label="Runs that are shown">{buttons}</div>'


def differ_in_epochs(runs: Sequence[ReportedRun]) -> bool:
    """Say whether steps of these runs are not the same share of an epoch, and epochs are known."""
    lengths = {run.steps_per_epoch for run in runs}
    return len(lengths) > 1 and None not in lengths


def _epochs(runs: Sequence[ReportedRun], in_epochs: bool) -> float | None:  # noqa: FBT001
    """Return the steps of an epoch, where the axis has steps and all runs agree."""
    lengths = {run.steps_per_epoch for run in runs}
    return None if in_epochs or len(lengths) > 1 else lengths.pop()


def _of_signals(run: ReportedRun) -> Thinned:
    curves = Thinned(POINTS)
    for row in run.signals:
        curves.add(
            row["step"],
            {name: value for name in DRAWN if (value := number(row.get(name))) is not None},
        )
    return curves


def _chart(
    figure: Figure,
    runs: Sequence[ReportedRun],
    sampled: Sequence[Thinned],
    in_epochs: bool,  # noqa: FBT001
) -> Chart | None:
    """Return a figure's chart, None where no run has a value for it."""
    lines = []
    for place, (run, signals) in enumerate(zip(runs, sampled, strict=True)):
        for dash, (name, title) in enumerate(figure.lines.items()):
            curve = run.metrics.curve(name)
            curve = curve if curve.at else signals.curve(name)
            if not curve.at:
                continue
            if in_epochs and run.steps_per_epoch:
                curve = over_epochs(curve, run.steps_per_epoch)
            lines.append(_line(title, curve, place, dash, runs, alone=len(figure.lines) == 1))
    if not lines:
        return None
    return Chart(
        figure.key,
        figure.title,
        figure.about,
        lines,
        axis="epoch" if in_epochs else "step",
        unit=figure.unit,
        levels=_levels(figure, runs),
        from_zero=figure.from_zero,
    )


def _line(
    title: str,
    curve: Curve,
    place: int,
    dash: int,
    runs: Sequence[ReportedRun],
    *,
    alone: bool,
) -> Line:
    """Return a line: told by colour of one run's others; of several runs colour tells the run."""
    if len(runs) == 1:
        return Line(title, curve, colour=dash)
    name = runs[place].name if alone else f"{runs[place].name}, {title}"
    return Line(name, replace(curve, low=curve.mean, high=curve.mean), place, place, dash)


def _levels(figure: Figure, runs: Sequence[ReportedRun]) -> list[tuple[str, float, int | None]]:
    if figure.level is None:
        return []
    owners: dict[Level, list[int]] = {}
    for place, run in enumerate(runs):
        owners.setdefault(figure.level(run.recipe), []).append(place)
    return [
        (name, value, those[0] if len(those) == 1 < len(runs) else None)
        for (name, value), those in owners.items()
        if number(value) is not None
    ]


def _consistency(runs: Sequence[ReportedRun]) -> Iterator[Chart]:
    lines = []
    for place, run in enumerate(runs):
        rows = [(row["step"], ages) for row in run.signals if (ages := _ages(row)).at]
        if len(runs) > 1:
            lines += [_line("", ages, place, 0, runs, alone=True) for _, ages in rows[-1:]]
            continue
        # of one run its last row, its middle and its first; of several each one's last
        chosen = sorted({len(rows) - 1, len(rows) // 2, 0}, reverse=True) if rows else []
        for colour, row in enumerate(chosen):
            step, ages = rows[row]
            lines.append(Line(f"after step {step + 1:,}", ages, colour=colour))
    if lines:
        figure = CONSISTENCY
        yield Chart(figure.key, figure.title, figure.about, lines, axis="key age in steps")


def _ages(row: Mapping[str, object]) -> Curve:
    pairs = row.get("consistency")
    found = []
    for pair in pairs[:POINTS] if isinstance(pairs, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            age, cosine = number(pair[0]), number(pair[1])
            if age is not None and cosine is not None:
                found.append((age, cosine))
    at, mean = zip(*sorted(found), strict=True) if found else ((), ())
    return Curve(at, mean, mean, mean)
