"""A diagnosis on the page: what is wrong, by which figures, and what to change."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from report_runs import made_run

from moco.report.run_files import read_runs
from moco.report.verdicts import verdicts_part


@dataclass(frozen=True)
class Found:
    name: str = "dictionary stale"
    is_sick: bool = True
    evidence: str = "cosine <0.2> & falling"
    remedy: str = "--set key_momentum=0.99"
    since_step: int | None = 1274
    reference: str = "arXiv:1911.05722"
    only_speed: bool = False


@dataclass(frozen=True)
class Diagnosed:
    verdict: str
    findings: tuple[Found, ...] = ()
    words: str = "In a sentence."


HEALTHY = Diagnosed("healthy", (replace(Found(), name="healthy", is_sick=False, remedy=""),))
STALE = Diagnosed("dictionary stale", (Found(), Found("low rank", since_step=None)))
SLOW = Diagnosed("healthy, data bound", (*HEALTHY.findings, Found("data bound", only_speed=True)))
FILLING = Diagnosed("still filling", (replace(Found(), name="still filling", is_sick=False),))


@pytest.mark.parametrize(
    ("diagnosis", "kind"), [(HEALTHY, "good"), (STALE, "bad"), (SLOW, "wait"), (FILLING, "wait")]
)
def test_only_what_harms_learning_is_red_and_only_health_is_green(
    diagnosis: Diagnosed, kind: str, tmp_path: Path
) -> None:
    html = verdicts_part(read_runs([made_run(tmp_path / "run")]), [diagnosis]).html
    assert re.findall('<article class="card (.*?)">', html) == [kind]
    assert f"<h2>{diagnosis.verdict.capitalize()}</h2>" in html


def test_evidence_and_remedy_stand_below_and_the_verdict_is_not_said_twice(tmp_path: Path) -> None:
    html = verdicts_part(read_runs([made_run(tmp_path / "run")]), [STALE]).html
    assert html.count("<dd>--set key_momentum=0.99</dd>") == 2
    assert html.count("<dd>cosine &lt;0.2&gt; &amp; falling</dd>") == 2
    assert html.count("<dd>step 1,274</dd>") == 1
    assert html.lower().count("dictionary stale") == 1
    assert "<h3>Low rank</h3>" in html
    assert "run:" not in html  # one run needs no name


def test_each_of_several_runs_has_its_card_and_without_a_doctor_there_is_none(
    tmp_path: Path,
) -> None:
    runs = read_runs([made_run(tmp_path / name) for name in ("a", "b", "c")])
    html = verdicts_part(runs, [HEALTHY, STALE, None]).html
    named = '<article class="card {}"><p class="kicker"><b>{}</b>: done, 200 of 200 steps</p>'
    assert named.format("good", "a") in html
    assert named.format("bad", "b") in html
    assert html.count("<article") == 2
    assert verdicts_part(runs, [None] * 3).html == ""
