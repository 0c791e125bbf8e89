"""R12: a step whose loss or gradient is not finite is left out everywhere, and changes nothing."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.checkpoint import load_newest
from moco.data.batches import Batch
from moco.distributed import rank
from moco.errors import DivergedError, InterruptedRunError, MocoError
from moco.nonfinite import KeptBuffers, LeftOut, is_finite_everywhere
from moco.plan import Plan, make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50
from moco.run_records import read_lines
from moco.session import Session
from moco.specs import ViewsSpec

pretraining = importlib.import_module("moco.pretraining")
STEPS = 12  # three epochs of four
PLACES = ["view a", "view b", "a gradient", "infinite"]


def recipe_of(name: str, tiny: list[str]) -> Recipe:
    if name == "moco-v3":
        tiny = [*tiny, "mechanism=in_batch", "optimizer.algorithm=lars"]
        tiny = [setting for setting in tiny if not setting.startswith("dictionary.size")]
    settings = [*tiny, "views.order=[crop, horizontal_flip]", "epochs=3", "warmup_epochs=0.5"]
    if name == "memory-bank":
        settings.append("mechanism=memory_bank")
    base = MOCO_V3_RESNET50 if name == "moco-v3" else MOCO_V2
    return set_fields(base, [*settings, "schedule=warmup_cosine"])


def plan_of(photos: Path, recipe: Recipe, run: Path) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)


class Spoiled:
    """Lets numbers go wrong at some steps, and keeps what a run holds after each step."""

    def __init__(self, patch: pytest.MonkeyPatch, *steps: int, place: str = "view a") -> None:
        self.steps, self.place = set(steps), place
        self.after: list[dict[str, Any]] = []
        self.session: Session | None = None
        to_device, after_step = pretraining.to_device, pretraining.after_step
        self.step = -1

        def broken(batch: Batch, views: ViewsSpec, device: torch.device) -> tuple[Tensor, ...]:
            view_a, view_b, image_ids = to_device(batch, views, device)
            self.step = batch.step
            factor = self.factor()
            if place in ("view a", "infinite"):
                view_a = view_a * factor
            if place == "view b":
                view_b = view_b * factor
            return view_a, view_b, image_ids

        def noted(session: Session, batch: Batch, stop: Any) -> None:
            self.after.append(content_of(session))
            after_step(session, batch, stop)

        build_optimizer = pretraining.build_optimizer

        def with_hook(spec: Any, contrast: nn.Module) -> Any:
            weight = next(iter(contrast.parameters()))
            if place == "a gradient":
                weight.register_hook(lambda gradient: gradient * self.factor())
            return build_optimizer(spec, contrast)

        patch.setattr(pretraining, "to_device", broken)
        patch.setattr(pretraining, "after_step", noted)
        patch.setattr(pretraining, "build_optimizer", with_hook)

    def factor(self) -> float:
        if self.step not in self.steps:
            return 1
        return math.inf if self.place == "infinite" else math.nan


def content_of(session: Session) -> dict[str, Any]:
    state = {name: value.clone() for name, value in session.contrast.state_dict().items()}
    for number, values in session.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            state[f"optimizer {number} {name}"] = torch.as_tensor(value).clone()
    return state


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_lines(run / "metrics.jsonl")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["moco-v2", "moco-v3", "memory-bank"])
def test_a_step_that_goes_wrong_changes_nothing_and_the_run_goes_on(
    name: str,
    place: str,
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "memory-bank" and place == "view b":
        pytest.skip("a memory bank takes no key from view b")
    run = tmp_path / "run"
    spoiled = Spoiled(monkeypatch, 5, place=place)
    pretraining.train(plan_of(photos, recipe_of(name, tiny_settings), run))
    assert differing(spoiled.after[5], spoiled.after[4]) == []
    for step in (1, 2, 3, 4, 6, 7):  # all others do change something
        assert differing(spoiled.after[step], spoiled.after[step - 1])
    assert all(value.isfinite().all() for value in spoiled.after[-1].values())
    rows = rows_of(run)
    assert [row["step"] for row in rows] == list(range(STEPS))
    if place != "a gradient":
        assert [row["step"] for row in rows if row["loss"] is None] == [5]
    (left_out,) = read_lines(run / "skipped_steps.jsonl")
    assert (left_out["step"], left_out["epoch"]) == (5, 1)
    assert len(left_out["files"]) == 16
    assert left_out["files"][0] == sorted_names(photos)[left_out["images"][0]]
    newest = load_newest(run)
    assert newest is not None
    assert newest.train_state["left_out"] == {"total": 1, "in_a_row": 0}


def sorted_names(photos: Path) -> list[str]:
    return sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))


def test_three_in_a_row_end_the_run_with_its_checkpoint_whole(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Session, "is_save_due", lambda session: session.step in (4, STEPS))
        Spoiled(patch, 5, 6, 7)
        with pytest.raises(DivergedError, match="3 steps in a row, 5 to 7; lower") as caught:
            pretraining.train(plan_of(photos, recipe_of("moco-v2", tiny_settings), run))
    assert caught.value.exit_code == 4
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 4)
    assert [row["step"] for row in read_lines(run / "skipped_steps.jsonl")] == [5, 6, 7]
    newest = load_newest(run)
    assert newest is not None
    assert newest.step == 4
    assert all(value.isfinite().all() for value in newest.model.values())
    pretraining.train(plan_of(photos, recipe_of("moco-v2", tiny_settings), run))
    assert read_lines(run / "skipped_steps.jsonl") == []  # those steps were taken after all
    assert all(row["loss"] is not None for row in rows_of(run))


def test_two_in_a_row_do_not_even_twice(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spoiled(monkeypatch, 2, 3, 5, 6)
    run = pretraining.train(plan_of(photos, recipe_of("moco-v2", tiny_settings), tmp_path / "run"))
    assert len(read_lines(run / "skipped_steps.jsonl")) == 4


def test_the_count_goes_on_after_a_stop(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, recipe = tmp_path / "run", recipe_of("moco-v2", tiny_settings)
    Spoiled(monkeypatch, 5, 6, 7)
    taken = iter(range(1, STEPS + 1))
    with pytest.raises(InterruptedRunError):  # between the second and the third
        pretraining.train(
            plan_of(photos, recipe, run), stop=lambda: 75 if next(taken) == 7 else None
        )
    with pytest.raises(DivergedError, match="5 to 7"):
        pretraining.train(plan_of(photos, recipe, run))
    assert [row["step"] for row in read_lines(run / "skipped_steps.jsonl")] == [5, 6, 7]


def train_with_one_spoiled(photos: Path, folder: Path, recipe: Recipe, steps: list[int]) -> Any:
    """In process 1 alone numbers go wrong; return what each step left here, and the error."""
    told = 0
    with pytest.MonkeyPatch.context() as patch:
        spoiled = Spoiled(patch, *(steps if rank() == 1 else []))
        try:
            pretraining.train(plan_of(photos, recipe, folder / "run"))
        except MocoError as error:
            told = error.exit_code
    return {"after": spoiled.after, "code": torch.tensor(told)}


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["moco-v2", "moco-v3"])
def test_numbers_of_one_process_stop_all_from_taking_the_step(
    name: str,
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    recipe = set_fields(recipe_of(name, tiny_settings), ["batch_norm_groups=1"])
    first, second = run_processes(2, train_with_one_spoiled, photos, tmp_path, recipe, [5])
    for result in (first, second):
        assert int(result["code"]) == 0
        assert differing(result["after"][5], result["after"][4]) == []
        assert differing(result["after"][6], result["after"][5])
    assert differing(first["after"][-1], second["after"][-1]) == []
    (left_out,) = read_lines(tmp_path / "run" / "skipped_steps.jsonl")
    assert len(left_out["images"]) == 16  # of both processes


def judge_with_one_loss_gone(gone: int) -> Tensor:
    weight = nn.Parameter(torch.ones(4))
    weight.grad = torch.ones(4)
    loss = torch.tensor(math.nan if rank() == gone else 1.0)
    return is_finite_everywhere(loss, [weight])


def test_all_processes_judge_alike(run_processes: Callable[..., list[Any]]) -> None:
    assert not any(run_processes(2, judge_with_one_loss_gone, 1))


def test_the_largest_gradients_that_are_numbers_are_no_reason() -> None:
    weight = nn.Parameter(torch.ones(4))
    weight.grad = torch.full((4,), torch.finfo(torch.float32).max)
    unused = nn.Parameter(torch.ones(2))
    assert is_finite_everywhere(torch.tensor(1.0), [weight, unused])
    weight.grad[2] = -math.inf
    assert not is_finite_everywhere(torch.tensor(1.0), [weight])
    weight.grad[2] = math.nan
    assert not is_finite_everywhere(torch.tensor(1.0), [weight])
    weight.grad[2] = 0
    assert not is_finite_everywhere(torch.tensor(math.nan), [weight])
    assert not is_finite_everywhere(torch.tensor(math.inf), [weight, unused])


@pytest.mark.parametrize("algorithm", ["sgd", "adamw", "lars"])
def test_a_first_step_that_is_left_out_leaves_no_trace(
    algorithm: str, photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    """The optimizer has no state yet, and must not take it up from memory that nobody wrote."""
    recipe = set_fields(
        recipe_of("moco-v2", tiny_settings), ["schedule=cosine", f"optimizer.algorithm={algorithm}"]
    )
    runs = []
    for spoiled in ([0, 1], []):
        with pytest.MonkeyPatch.context() as patch:
            watch = Spoiled(patch, *spoiled)
            pretraining.train(plan_of(photos, recipe, tmp_path / f"{len(spoiled)}"))
        runs.append(watch.after)
    of_two_left_out, plain = runs
    assert differing(of_two_left_out[1], of_two_left_out[0]) == []
    for name, value in of_two_left_out[2].items():  # the first step that is taken
        if name.startswith("optimizer") and not name.endswith(" step"):
            assert value.isfinite().all()
            assert value.abs().max() < 100 * max(plain[2][name].abs().max(), 1e-3)


def test_buffers_are_put_back_whatever_their_type_and_size() -> None:
    module = nn.BatchNorm1d(5)
    module.register_buffer("odd", torch.arange(7, dtype=torch.float64))
    before = {name: value.clone() for name, value in module.named_buffers()}
    kept = KeptBuffers(module, beside=None)
    for taken in (False, True):
        assert all(torch.equal(value, before[name]) for name, value in module.named_buffers())
        kept.keep()
        module(torch.full((4, 5), math.nan))
        kept.put_back(unless=torch.tensor(taken))
    assert module.running_mean is not None
    assert module.running_mean.isnan().all()
    assert module.num_batches_tracked == 1
    assert all(value.data_ptr() % 16 == 0 for value in module.buffers())


def test_a_good_step_ends_the_row() -> None:
    left_out = LeftOut()
    for is_finite in (False, False, True, False):
        left_out.count(is_finite=is_finite)
    assert (left_out.total, left_out.in_a_row) == (3, 1)
    assert LeftOut.from_state(left_out.state()) == left_out
