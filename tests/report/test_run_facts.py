"""What a page says of settings and images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from report_runs import RECIPE, made_run

from moco.data.sources.opening import open_images
from moco.recipes import CIFAR10_RESNET18, MOCO_V2, MOCO_V3_RESNET50
from moco.report.run_facts import (
    differing_settings,
    headline,
    nearest_recipe,
    what_differs,
    what_was_run,
)
from moco.report.run_files import read_runs
from moco.report.view_samples import views_section


def test_a_recipe_is_told_by_what_is_not_the_papers(tmp_path: Path) -> None:
    assert nearest_recipe(RECIPE) is MOCO_V2  # by its source
    mine = replace(MOCO_V3_RESNET50, name="mine", source="", batch_size=2048)
    assert nearest_recipe(mine) is MOCO_V3_RESNET50
    own = replace(CIFAR10_RESNET18, name="mine", source="moco-v2 with changes")
    assert nearest_recipe(own) is MOCO_V2
    html = what_was_run(read_runs([made_run(tmp_path / "run")]))
    ours = html.replace("<wbr>", "").partition("not those of moco-v2")[2].partition("</table>")[0]
    rows = [row.partition("</th>")[0].rpartition(">")[2] for row in ours.split("<tr>")[2:]]
    assert rows == ["dictionary.size", "epochs", "batch_size"]
    assert '<td class="long">65,536</td><td class="long">1,024</td>' in ours
    same = made_run(tmp_path / "same", recipe=MOCO_V2)
    assert "All settings are those of the recipe moco-v2." in what_was_run(read_runs([same]))


def test_the_headline_says_why_a_run_failed(tmp_path: Path) -> None:
    told = {"state": "failed", "reason": "the disk is full"}
    failed, done = made_run(tmp_path / "failed", status=told), made_run(tmp_path / "done")
    assert headline(read_runs([failed])[0]).endswith(
        "failed after 200 of 200 steps: the disk is full"
    )
    assert headline(read_runs([done])[0]).endswith("done, 200 of 200 steps.")


def test_runs_are_told_apart_by_settings_and_seed(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name) for name in "ab"]
    assert differing_settings(read_runs(runs)) == {}
    assert "None." in what_differs(read_runs(runs))
    assert what_differs(read_runs(runs[:1])) == ""
    for seed, run in enumerate(runs):
        (run / "checkpoints" / "step_00000200").mkdir(parents=True)
        about = {"seed": seed, "image_count": 3200, "image_fingerprint": "x"}
        (run / "checkpoints" / "step_00000200" / "recipe.json").write_text(json.dumps(about))
    assert differing_settings(read_runs(runs)) == {"seed": [0, 1]}


def test_views_of_other_images_than_the_runs_are_called_so(tmp_path: Path, photos: Path) -> None:
    images = open_images(photos)
    run = made_run(tmp_path / "run")
    about = run / "checkpoints" / "step_00000200" / "recipe.json"
    about.parent.mkdir(parents=True)
    for fingerprint, is_told in ((images.fingerprint(), False), ("another", True)):
        about.write_text(json.dumps({"image_fingerprint": fingerprint, "seed": 3}))
        html = views_section(read_runs([run]), images)
        assert html.count("<img") == 24
        assert ("not those that run trained on" in html) == is_told
    about.write_text(json.dumps({"image_fingerprint": "another", "seed": 4}))
    assert views_section(read_runs([run]), images) != html  # the run's seed draws its views


def test_a_run_that_began_from_a_file_says_so(tmp_path: Path) -> None:
    begun = {"from": "<x>.pth", "as": "backbone", "sha256": "0123456789abcdef", "step": 0}
    html = what_was_run(read_runs([made_run(tmp_path / "run", status={"start": begun})]))
    assert "&lt;x&gt;.pth as backbone, sha256 0123456789ab" in html.replace("<wbr>", "")
    odd = what_was_run(read_runs([made_run(tmp_path / "odd", status={"start": [3]})]))
    assert "began from" not in odd
