from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.cli.main import main
from moco.distributed import mean_over_processes, rank
from moco.errors import (
    DataError,
    FailedElsewhereError,
    LostProcessError,
    MocoError,
    StorageError,
    UsageError,
)
from moco.processes import (
    averaging_gradients,
    check_same,
    gather_lists,
    largest,
    launched_processes,
    limited_to,
    local_processes,
    naming_lost_processes,
    together,
    unhurried,
)

FAILURES = [
    {},
    {0: DataError("zero")},
    {1: StorageError("one"), 2: DataError("two")},
    {2: KeyError("two")},
]


def outcome(work: Callable[[], object]) -> str:
    try:
        return f"returned {work()}"
    except FailedElsewhereError as error:
        return f"elsewhere: {error} ({error.exit_code})"
    except Exception as error:  # noqa: BLE001  the text of any is compared
        return f"raised {type(error).__name__} {error}"


def work_that_fails_somewhere(failures: dict[int, Exception]) -> str:
    def work() -> int:
        if rank() in failures:
            raise failures[rank()]
        return rank()

    return outcome(lambda: together(work))


def agree() -> dict[str, Any]:
    return {
        "together": [work_that_fails_somewhere(failures) for failures in FAILURES],
        "same": outcome(lambda: check_same("images", "A")),
        "other": outcome(lambda: check_same("images", "B" if rank() == 2 else "A")),
        "largest": largest([rank(), -rank(), 1 << 40]),
        "lists": gather_lists([("file", rank())] * rank()),
        "mean": mean_over_processes(torch.tensor([float(rank()), 2.0])),
        "local": local_processes(),
    }


def test_processes_agree_on_what_happens(run_processes: Callable[..., list[Any]]) -> None:
    results = run_processes(3, agree)
    assert [result["together"] for result in results] == [
        [
            "returned 0",
            "raised DataError zero",
            "elsewhere: process 1 failed and says why (5)",
            "elsewhere: process 2 failed and says why (1)",
        ],
        [
            "returned 1",
            "elsewhere: process 0 failed and says why (3)",
            "raised StorageError one",
            "elsewhere: process 2 failed and says why (1)",
        ],
        [
            "returned 2",
            "elsewhere: process 0 failed and says why (3)",
            "elsewhere: process 1 failed and says why (5)",
            "raised KeyError 'two'",
        ],
    ]
    for place, result in enumerate(results):
        assert result["same"] == "returned None"
        assert ("raised UsageError" if place == 0 else "elsewhere") in result["other"]
        assert "process 2 has other images" in result["other"]
        assert result["largest"] == [2, 0, 1 << 40]
        assert result["lists"] == [("file", 1), ("file", 2), ("file", 2)]
        assert result["mean"].tolist() == [1.0, 2.0]
        assert result["local"] == 1  # torchrun's own variable says how many; nobody set it here


def limits() -> list[float]:
    """Return the group's own limit in seconds before, in and after blocks with others."""
    backend = torch.distributed.distributed_c10d._get_default_group()._get_backend(
        torch.device("cpu")
    )
    found = [backend.options._timeout.total_seconds()]
    with limited_to(7):
        found.append(backend.options._timeout.total_seconds())
        with unhurried():
            found.append(backend.options._timeout.total_seconds())
        found.append(backend.options._timeout.total_seconds())
    return [*found, backend.options._timeout.total_seconds()]


def test_a_step_has_a_limit_of_its_own_and_a_monitor_an_hour_more(
    run_processes: Callable[..., list[Any]],
) -> None:
    for before, step, monitor, step_again, after in run_processes(2, limits):
        assert before == after == 50  # of the tests' own group
        assert step == step_again == 7
        assert monitor == 3607


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e7"])
def test_a_limit_that_no_clock_takes_is_refused(
    seconds: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(photos), "--timeout", seconds]) == 2
    assert "timeout must be 1 to 1000000 seconds" in capsys.readouterr().err


def test_alone_nothing_is_asked() -> None:
    assert together(lambda: 7) == 7
    with pytest.raises(DataError):
        together(lambda: (_ for _ in ()).throw(DataError("mine")))
    check_same("images", "A")
    assert largest([3, -4]) == [3, -4]
    assert gather_lists([1]) == [1]
    layer = torch.nn.Linear(1, 1)
    assert averaging_gradients(layer) is layer


def test_an_environment_that_names_processes_and_no_place_to_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with launched_processes():
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(UsageError, match="MASTER_ADDR, MASTER_PORT not; launch with torchrun"),
        launched_processes(),
    ):
        pass


def test_one_that_comes_alone_gives_up_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("moco.processes.MEETING", timedelta(seconds=1))
    with (
        pytest.raises(LostProcessError, match=r"not all 2 processes came to 127\.0\.0\.1:29617"),
        launched_processes(),
    ):
        pass
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="RANK 2 is not below WORLD_SIZE 2"), launched_processes():
        pass


def test_only_what_torch_says_of_connections_counts_as_a_lost_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moco.processes.world_size", lambda: 2)
    cases: list[tuple[Exception, type[Exception]]] = [
        (RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error"), LostProcessError),
        (torch.distributed.DistBackendError("NCCL error"), LostProcessError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (MocoError("mine"), MocoError),
    ]
    for error, expected in cases:
        with pytest.raises(expected) as caught, naming_lost_processes():
            raise error
        assert type(caught.value) is expected
