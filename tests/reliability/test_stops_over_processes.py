"""R7 and R4: signals stop all ranks after one step, and two processes go on to the same bit."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import assert_bitwise_equal, losses_of, status_of

import moco.pretraining as pretraining
from moco.cli.signals import StopSignals
from moco.distributed import rank
from moco.errors import InterruptedRunError
from moco.plan import Plan, make_plan
from moco.session import Session

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT]
STOPS = 10
STEPS = 12  # three epochs of four

pytestmark = pytest.mark.timeout(150)


def plan_of(photos: Path, run: Path, tiny: list[str], **options: Any) -> Plan:
    options = {"epochs": 3, "workers": 0, **options}
    plain = ["views.order=[crop, horizontal_flip]", "key_momentum=0.9"]
    return make_plan(
        photos, recipe="moco-v2", settings=[*tiny, *plain], run=run, device="cpu", **options
    )


def signal_itself(number: int, after: float, seconds: float) -> threading.Thread:
    """Send a signal once some steps are done, twice if it is TERM: as launchers and users do."""

    def send() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), number)
        if number == signal.SIGTERM:
            time.sleep(after)
            os.kill(os.getpid(), number)  # may come while the run saves

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    return sender


def stop_often(photos: Path, folder: Path, tiny: list[str]) -> list[dict[str, Any]]:
    """Return for each trial the steps that this process saved, its exit code and its seconds."""
    draw = random.Random(rank())
    with pytest.MonkeyPatch.context() as patch:
        saved: list[int] = []
        save = Session.save

        def noted(session: Session) -> None:
            saved.append(session.step)
            save(session)

        patch.setattr(Session, "is_save_due", lambda _: False)
        patch.setattr(Session, "save", noted)
        found = []
        for trial in range(STOPS):
            plan = plan_of(photos, folder / f"run-{trial}", tiny, epochs=500)
            saved.clear()
            dist.barrier()
            began = time.monotonic()
            with StopSignals() as signals:
                # launchers signal one rank after the other
                number, seconds = SIGNALS[trial % len(SIGNALS)], 0.3 + draw.uniform(0, 0.3)
                sender = signal_itself(number, 0.005, seconds)
                with pytest.raises(InterruptedRunError) as caught:
                    pretraining.train(plan, stop=signals.asked)
                spent = time.monotonic() - began
                sender.join()
            found.append({"steps": [*saved], "code": caught.value.exit_code, "seconds": spent})
    return found


def test_ranks_signalled_at_different_moments_stop_after_the_same_step(
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    first, second = run_processes(2, stop_often, photos, tmp_path, tiny_settings)
    steps = [trial["steps"] for trial in first]
    assert steps == [trial["steps"] for trial in second]  # 10 of 10
    assert len({step for (step,) in steps}) > 1
    for trial in range(STOPS):
        status = status_of(tmp_path / f"run-{trial}")
        code = 130 if SIGNALS[trial % len(SIGNALS)] == signal.SIGINT else 75
        assert (status["state"], status["code"]) == ("interrupted", code)
        assert [status["step"]] == steps[trial]
        assert first[trial]["code"] == second[trial]["code"] == code
        assert first[trial]["seconds"] < 30


def hash_of(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> int | None:
        self.left -= 1
        return None if self.left else 75


def stop_everywhere(photos: Path, folder: Path, tiny: list[str]) -> list[tuple[int, str]]:
    """Return (step, hash) of encoder, key encoder and queue at each save of this process."""
    multiprocessing.set_start_method("fork", force=True)  # loading processes, as in a plain rank
    hashes: list[tuple[int, str]] = []
    save = Session.save

    def hashed(session: Session) -> None:
        hashes.append((session.step, hash_of(session.contrast.state_dict())))
        save(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "save", hashed)
        pretraining.train(plan_of(photos, folder / "unbroken", tiny))
        for steps, workers in CASES:
            plan = plan_of(photos, folder / f"run-{steps}-{workers}", tiny, workers=workers)
            for stop in (StopAfter(steps), StopAfter(1)):  # and once more, right after it
                with pytest.raises(InterruptedRunError):
                    pretraining.train(plan, stop=stop)
            pretraining.train(plan)
    return hashes


CASES = [(1, 0), (2, 0), (3, 2), (4, 0), (5, 0), (7, 2), (8, 0), (10, 0)]


def test_two_processes_stopped_at_any_step_go_on_to_the_same_bit(
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    hashes = run_processes(2, stop_everywhere, photos, tmp_path, tiny_settings)
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) >= 3 * len(CASES)
    at_end = {digest for step, digest in hashes[0] if step == STEPS}
    assert len(at_end) == 1
    for steps, workers in CASES:
        assert_bitwise_equal(tmp_path / f"run-{steps}-{workers}", tmp_path / "unbroken")


def train_noting_images(photos: Path, run: Path, tiny: list[str], steps: int) -> list[Any]:
    """Return the ids of this process's share of each step's images; stop after so many steps."""
    ids: list[torch.Tensor] = []
    to_device = pretraining.to_device

    def noted(batch: Any, *arguments: Any) -> Any:
        ids.append(batch.image_ids.clone())
        return to_device(batch, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "to_device", noted)
        try:
            pretraining.train(plan_of(photos, run, tiny, epochs=6), stop=StopAfter(steps))
        except InterruptedRunError:
            assert len(ids) == steps
    return ids


def order_of(shares: list[list[torch.Tensor]]) -> list[list[int]]:
    """Return each step's images in order, from what each process had."""
    return [torch.cat(parts).tolist() for parts in zip(*shares, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_goes_on_with_the_same_images_to_rounding(
    processes: int,
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    """R5: 4 steps in two processes, then 20 in one or in four."""
    tiny = [*tiny_settings, "batch_norm_groups=4"]
    two, other = tmp_path / "two", tmp_path / "other"
    images = order_of(run_processes(2, train_noting_images, photos, two, tiny, 24))
    run_processes(2, train_noting_images, photos, other, tiny, 4)
    shares = run_processes(processes, train_noting_images, photos, other, tiny, 20)
    assert order_of(shares) == images[4:]
    assert [step for step, _ in losses_of(other)] == list(range(24))
    losses = [torch.tensor([loss for _, loss in losses_of(run)]) for run in (two, other)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
