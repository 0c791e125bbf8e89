"""A diagnosis on the page: what is wrong, by which figures, and what to change."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import made_run, signal_rows

from moco.doctor.diagnosis import Diagnosis, Finding
from moco.report.run_files import read_runs
from moco.report.verdicts import diagnosis_of, verdicts_part
from moco.run_records import replace_lines

STALE_KEYS = Finding(
    name="dictionary stale",
    is_sick=True,
    words="A sentence.",
    evidence="cosine <0.2> & falling",
    remedy="--set key_momentum=0.99",
    since_step=1274,
    until_step=None,
    reference="arXiv:1911.05722",
)


def diagnosed(verdict: str, *findings: Finding) -> Diagnosis:
    return Diagnosis(verdict, "In a sentence.", findings, 1999)


WELL = replace(STALE_KEYS, name="healthy", is_sick=False, remedy="")
HEALTHY = diagnosed("healthy", WELL)
LOW_RANK = replace(STALE_KEYS, name="low rank", since_step=None)
STALE = diagnosed("dictionary stale", STALE_KEYS, LOW_RANK)
BOUND = replace(STALE_KEYS, name="data bound", only_speed=True)
SLOW = diagnosed("healthy, data bound", WELL, BOUND)
FILLING = diagnosed("still filling", replace(WELL, name="still filling"))


@pytest.mark.parametrize(
    ("diagnosis", "kind"), [(HEALTHY, "good"), (STALE, "bad"), (SLOW, "wait"), (FILLING, "wait")]
)
def test_only_what_harms_learning_is_red_and_only_health_is_green(
    diagnosis: Diagnosis, kind: str, tmp_path: Path
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


def test_each_of_several_runs_has_its_card(tmp_path: Path) -> None:
    runs = read_runs([made_run(tmp_path / name) for name in ("a", "b")])
    html = verdicts_part(runs, [HEALTHY, STALE]).html
    named = '<article class="card {}"><p class="kicker"><b>{}</b>: done, 200 of 200 steps</p>'
    assert named.format("good", "a") in html
    assert named.format("bad", "b") in html
    assert html.count("<article") == 2


def test_the_doctor_sees_what_the_run_left(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    sick = [{**row, "feature_deviation": 0.0, "effective_rank": 1.0} for row in signal_rows(200)]
    assert diagnosis_of(read_runs([run])[0]).verdict == "healthy"
    replace_lines(run / "signals.jsonl", sick)
    assert diagnosis_of(read_runs([run])[0]).verdict == "collapsed"
