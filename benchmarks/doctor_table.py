"""Does the doctor name what is wrong? Sick and healthy runs, and what it said of each.

    python benchmarks/doctor_table.py IMAGES DIR [--out FILE.json] [--bands FILE.json]
        [--seeds N ...] [--epochs N] [--others] [--only CASE ...]

Trains each case of `doctor_runs` from each seed on a folder of images, by the ordinary
moco.pretrain, into DIR/SEED/CASE; what is done there already is not made again. Judges each run as
it stood after each row of its signals, as `moco doctor` would have then. Prints a row for each
case: what was last said of how many seeds, and the latest step after which it was first said.
--others adds healthy runs with other settings. --bands writes what the signals of the healthy cases
were from step 50 on, for src/moco/doctor/healthy_bands.json. One thread: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from doctor_runs import CASES, HEALTHY, OTHERS, SICK, make_run

from moco.data.sources.opening import open_images
from moco.doctor.bands import SIGNALS
from moco.doctor.diagnosis import diagnose_signs
from moco.doctor.signs import Signs, number, ordered, read_signs

CACHE_BYTES = 1 << 28
SETTLED_STEP = 50
NOT_SICK = ("healthy", "too early to say", "still filling")


@dataclass(frozen=True)
class Judged:
    """What was said of one run."""

    verdicts: list[tuple[int, str]]
    """After which step what was said, in order."""

    @property
    def last(self) -> str:
        """What was said at the end."""
        return self.verdicts[-1][1]

    def first_step(self, verdict: str) -> int | None:
        """Return the first step after which it was said, None where it never was."""
        return next((step for step, said in self.verdicts if said == verdict), None)

    def other_sick(self, verdict: str) -> list[str]:
        """Return what else was said on the way, and is a sickness."""
        return sorted({said for _, said in self.verdicts if said not in (*NOT_SICK, verdict)})


def judge(run: Path) -> Judged:
    """Judge a run as it stood after each row of its signals, and at its end."""
    signs = read_signs(run)
    said = []
    for moment in reversed(list(signs.moments())):
        until = replace(
            signs,
            metrics=rows_until(signs.metrics, moment.step),
            signals=rows_until(signs.signals, moment.step),
        )
        said.append((moment.step, diagnose_signs(until).verdict))
    return Judged(said)


def rows_until(rows: Iterable[Any], step: int) -> list[Any]:
    """Return the rows up to a step."""
    return [row for row in ordered(list(rows)) if row["step"] <= step]


def table_line(name: str, expected: str, judged: Sequence[Judged]) -> str:
    """Return the table's row of a case."""
    last = Counter(each.last for each in judged)
    counts = ", ".join(f"{verdict} {count}/{len(judged)}" for verdict, count in last.most_common())
    steps = [each.first_step(expected) for each in judged]
    known = [step for step in steps if step is not None]
    named = f"{max(known) + 1}" if len(known) == len(judged) else f"{len(known)}/{len(judged)} only"
    others = sorted({said for each in judged for said in each.other_sick(expected)})
    return f"| {name} | {expected} | {counts} | {named} | {', '.join(others) or '-'} |"


def bands_of(runs: dict[str, list[Signs]]) -> dict[str, dict[str, list[float]]]:
    """Return lowest and highest of each signal in the runs of each mechanism, once settled."""
    bands: dict[str, dict[str, list[float]]] = {}
    for mechanism, group in runs.items():
        rows = [
            row for signs in group for row in ordered(signs.signals) if row["step"] >= SETTLED_STEP
        ]
        for name in SIGNALS:
            values = [value for row in rows if (value := number(row.get(name))) is not None]
            if values and name not in ("images_per_second", "memory_bytes", "waiting_share"):
                ends = [min(values), max(values)]
                bands.setdefault(mechanism, {})[name] = [float(f"{end:.4g}") for end in ends]
    return bands


def main() -> None:
    """Train what is not there yet, judge all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bands", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    options = parser.parse_args()
    images = open_images(options.images, cache_bytes=CACHE_BYTES)
    names = options.only or [*SICK, *HEALTHY, *(OTHERS if options.others else ())]
    results: dict[str, list[Judged]] = {}
    healthy: dict[str, list[Signs]] = {}
    for name in names:
        for seed in options.seeds:
            run = options.folder / str(seed) / name.replace(" ", "-").replace(",", "")
            make_run(CASES[name], images, run, seed=seed, epochs=options.epochs)
            results.setdefault(name, []).append(judge(run))
            if name in HEALTHY:
                signs = read_signs(run)
                healthy.setdefault(signs.recipe.mechanism, []).append(signs)
            print(name, seed, results[name][-1].verdicts, file=sys.stderr, flush=True)
    print("| what was done | to be said | said at the end | by step | also said on the way |")
    print("|---|---|---|---|---|")
    for name, judged in results.items():
        print(table_line(name, CASES[name].verdict, judged))
    about = {
        "command": f"python benchmarks/doctor_table.py on {len(images)} images, "
        f"seeds {options.seeds}, {options.epochs} epochs",
        "images": len(images),
        "epochs": options.epochs,
        "seeds": options.seeds,
    }
    if options.out:
        cases = {
            name: {"expected": CASES[name].verdict, "verdicts": [each.verdicts for each in judged]}
            for name, judged in results.items()
        }
        options.out.write_text(json.dumps({**about, "cases": cases}, indent=1) + "\n")
    if options.bands:
        kept = {"source": about["command"], "bands": bands_of(healthy)}
        options.bands.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
