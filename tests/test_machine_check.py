from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest

from moco.machine import check, room
from moco.machine.check import check_machine, worst
from moco.machine.container import memory_limit, processor_quota
from moco.machine.devices import Gpu, Gpus, has_kernels, judge_cores, judge_gpus, nvidia_driver
from moco.machine.packages import (
    REQUIREMENT,
    WHAT_FOR,
    Check,
    Needed,
    check_packages,
    import_failure,
    is_before,
    out_of_range,
)
from moco.machine.room import (
    BATCH_BYTES,
    GB,
    check_disk,
    judge_memory,
    judge_open_files,
    judge_shared_memory,
    nearest_folder,
)

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
TORCH = Needed("torch", ">=2.10,<3")


def written(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize(
    ("version", "verdict", "words"),
    [
        ("2.14.1+cu130", "ok", "2.14.1+cu130"),
        ("2.10", "ok", "2.10"),
        ("2.9.1", "bad", "CVE-2026-24747"),
        ("2.5.0", "bad", "CVE-2026-24747"),
        ("3.0.0", "warn", "newer than tried"),
        (None, "bad", "not installed"),
    ],
)
def test_torch_is_judged_by_its_holes_and_its_range(
    version: str | None, verdict: str, words: str
) -> None:
    check = named(check_packages([TORCH], {"torch": version}.get), "torch")
    assert check.verdict == verdict
    assert words in check.seen
    assert (check.remedy == 'pip install "torch>=2.10,<3"') == (verdict != "ok")


def test_a_package_that_is_too_old_is_bad() -> None:
    needed = [Needed("timm", ">=1.0.20")]
    assert named(check_packages(needed, lambda _: "1.0.9"), "timm").verdict == "bad"
    assert named(check_packages(needed, lambda _: "1.0.20"), "timm").verdict == "ok"


@pytest.mark.parametrize(
    ("version", "wanted", "found"),
    [
        ("2.10", ">=2.10.0", ""),
        ("2.9", ">=2.10", "old"),
        ("2.10.0", "<3, >=2.10", ""),
        ("3", "<3,>=2.10", "new"),
        ("12.1", ">=12.2", "old"),
        ("5", "", ""),
        ("5", "<=4", ""),  # as nothing here is asked for
    ],
)
def test_ranges(version: str, wanted: str, found: str) -> None:
    assert out_of_range(version, wanted) == found


def test_versions_are_compared_as_numbers() -> None:
    assert is_before("2.9", (2, 10))
    assert not is_before("2.10", (2, 9))
    assert not is_before("2.10.0", (2, 10))


@pytest.mark.parametrize(
    ("torch", "torchvision", "is_told"),
    [("2.14.1", "0.29.1", False), ("2.14.1", "0.28.0", True), ("2.10.0", "0.25.0", False)],
)
def test_a_torchvision_for_another_torch_is_told(
    torch: str, torchvision: str, is_told: bool
) -> None:
    versions = {"torch": torch, "torchvision": torchvision}
    found = [c for c in check_packages([TORCH], versions.get) if c.name == "torch and torchvision"]
    assert [check.verdict for check in found] == ["warn"] * is_told


def test_extras_say_what_they_are_for() -> None:
    needed = [Needed("simplejpeg", ">=1.9", "fast"), Needed("matplotlib", ">=3.10", "viz")]
    missing = check_packages(needed, lambda _: None)
    assert named(missing, "extra fast").verdict == "warn"  # runs are slower
    viz = named(missing, "extra viz")
    assert viz.verdict == "ok"
    assert "moco study" in viz.seen
    assert viz.remedy == 'pip install "moco-torch[viz]"'
    there = check_packages(needed, lambda _: "9.0")
    assert {check.verdict for check in there} == {"ok"}
    assert not any(check.remedy for check in there)
    assert named(check_packages(needed, lambda _: "1.0"), "extra viz").verdict == "warn"


def test_a_release_that_steals_is_told() -> None:
    stolen = check_packages([TORCH], {"torch": "2.14.1", "lightning": "2.6.3"}.get)
    assert named(stolen, "lightning").verdict == "bad"
    other = check_packages([TORCH], {"torch": "2.14.1", "lightning": "2.6.1"}.get)
    assert "lightning" not in {check.name for check in other}


def test_without_an_installed_distribution_it_says_so() -> None:
    assert named(check_packages([], lambda _: None), "packages").verdict == "warn"


def test_every_package_of_an_extra_has_its_purpose() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for extra, lines in extras.items():
        for line in lines if extra not in ("dev", "docs") else []:
            name = REQUIREMENT.match(line)["name"]  # type: ignore[index]
            assert name.startswith("moco-torch") or name.lower() in WHAT_FOR, name


def test_a_torch_that_does_not_load_is_told_and_ends_the_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    failure = import_failure("broken_torch")
    assert failure is not None
    assert "libcudart" in failure.seen
    assert failure.verdict == "bad"
    monkeypatch.setattr(check, "import_failure", lambda _: failure)
    assert check_machine(tmp_path)[-1] == failure


def test_limits_of_a_container_of_version_2(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        proc__self__cgroup="0::/kubepods/pod1/box\n",
        sys__fs__cgroup__kubepods__cpu_dot_max="400000 100000\n",
        sys__fs__cgroup__kubepods__pod1__cpu_dot_max="150000 100000\n",
        sys__fs__cgroup__kubepods__pod1__box__cpu_dot_max="max 100000\n",
        sys__fs__cgroup__kubepods__pod1__box__memory_dot_max="4000000000\n",
        sys__fs__cgroup__kubepods__memory_dot_max="max\n",
    )
    assert processor_quota(root) == 1.5
    assert memory_limit(root) == 4_000_000_000


def test_limits_of_a_container_of_version_1(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        proc__self__cgroup="4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
        # its own folder is what is mounted: the path in /proc leads nowhere
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
    )
    cpu = root / "sys/fs/cgroup/cpu,cpuacct"
    cpu.mkdir(parents=True)
    (cpu / "cpu.cfs_quota_us").write_text("250000\n")
    (cpu / "cpu.cfs_period_us").write_text("100000\n")
    assert processor_quota(root) == 2.5
    assert memory_limit(root) is None
    (cpu / "cpu.cfs_quota_us").write_text("-1\n")
    assert processor_quota(root) is None


@pytest.mark.parametrize("text", ["", "0::/../../x\n", "\xff\xff:::\n0:cpu", "4:memory:/\n" * 2000])
def test_odd_control_groups_are_no_limit(tmp_path: Path, text: str) -> None:
    written(tmp_path, proc__self__cgroup=text)
    written(tmp_path, sys__fs__cgroup__cpu_dot_max="what 0\n")
    assert (processor_quota(tmp_path), memory_limit(tmp_path)) == (None, None)


def test_threads_beyond_the_quota_are_told() -> None:
    check = judge_cores(allowed=64, there=64, quota=2.0, threads=64)
    assert check.verdict == "warn"
    assert check.seen.startswith("2 usable of 64 (the container's quota is 2)")
    assert "OMP_NUM_THREADS=2" in check.remedy
    assert judge_cores(allowed=64, there=64, quota=2.0, threads=2).verdict == "ok"
    assert judge_cores(allowed=4, there=64, quota=None, threads=4).seen.startswith("4 usable of 64")


def test_one_thread_by_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert judge_cores(allowed=8, there=8, quota=None, threads=1).verdict == "warn"
    assert judge_cores(allowed=1, there=8, quota=None, threads=1).verdict == "ok"


CARD = Gpu("H100", 80 * GB, has_bfloat16=True, is_compiled_for=True)


def test_gpus_that_work() -> None:
    (one,) = judge_gpus(Gpus("CUDA 13.0", (CARD,), driver="580.1"))
    assert (one.name, one.verdict) == ("GPU 0", "ok")
    assert "80.0 GB" in one.seen
    assert "driver 580.1" in one.seen
    two = judge_gpus(Gpus("CUDA 13.0", (CARD, CARD), driver="580.1", nccl="2.30.7"))
    assert [check.verdict for check in two] == ["ok"] * 3
    assert judge_gpus(Gpus("CUDA 13.0", (CARD, CARD), driver="580.1"))[-1].verdict == "bad"


def test_gpus_that_do_not_work_are_told_with_the_reason() -> None:
    old = Gpu("K80", 12 * GB, has_bfloat16=False, is_compiled_for=False)
    assert judge_gpus(Gpus("CUDA 13.0", (old,)))[0].verdict == "bad"
    (none,) = judge_gpus(Gpus("CUDA 13.0"))
    assert none.verdict == "ok"
    (hidden,) = judge_gpus(Gpus("CUDA 13.0", driver="580.1", visible=""))
    assert "CUDA_VISIBLE_DEVICES" in hidden.remedy
    (without,) = judge_gpus(Gpus(None, driver="580.1"))
    assert without.verdict == "bad"
    assert "without CUDA" in without.seen
    (driver,) = judge_gpus(Gpus("CUDA 13.0", driver="470.1", failure="driver is too old"))
    assert driver.verdict == "bad"
    assert "driver is too old" in driver.seen


def test_which_gpus_a_torch_has_kernels_for() -> None:
    assert has_kernels((9, 0), ["sm_80", "sm_90"])
    assert has_kernels((8, 6), ["sm_80", "sm_90"])
    assert not has_kernels((7, 0), ["sm_75", "sm_80"])
    assert not has_kernels((12, 0), ["sm_80", "sm_90"])
    assert has_kernels((12, 0), ["sm_90", "compute_90"])
    assert has_kernels((12, 0), ["sm_120"])
    assert has_kernels((9, 4), ["gfx942"])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release\n", "570.86"),
        ("what\n", "of unknown version"),
    ],
)
def test_the_driver_is_read_where_linux_has_it(tmp_path: Path, text: str, version: str) -> None:
    assert nvidia_driver(tmp_path) is None
    written(tmp_path, proc__driver__nvidia__version=text)
    assert nvidia_driver(tmp_path) == version


def test_memory_is_what_is_free_and_what_the_container_gives() -> None:
    assert judge_memory(20 * GB, None).verdict == "ok"
    assert judge_memory(20 * GB, 3 * GB).verdict == "warn"
    assert judge_memory(1 * GB, 30 * GB).verdict == "bad"
    assert judge_memory(None, None).verdict == "ok"


def test_shared_memory_holds_what_loading_processes_have_in_store() -> None:
    docker = judge_shared_memory(64_000_000, workers=4)
    assert docker.verdict == "bad"
    assert "--shm-size=2g" in docker.remedy
    assert judge_shared_memory(16 * BATCH_BYTES, workers=4).verdict == "ok"
    assert judge_shared_memory(16 * BATCH_BYTES - 1, workers=4).verdict == "warn"


def test_open_files() -> None:
    found = [judge_open_files(limit).verdict for limit in (-1, 1 << 20, 1024, 1023, 255)]
    assert found == ["ok", "ok", "ok", "warn", "bad"]


def test_the_disk_is_the_one_that_runs_will_be_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nearest_folder(tmp_path / "no" / "such") == tmp_path
    asked, free = [], 2 * GB

    def usage(place: Path) -> object:
        asked.append(place)
        return type("Usage", (), {"free": free})

    monkeypatch.setattr(room.shutil, "disk_usage", usage)
    assert check_disk(tmp_path / "runs").verdict == "warn"
    assert asked == [tmp_path]
    free = GB - 1
    assert check_disk(tmp_path).verdict == "bad"
    free = 9 * GB
    assert check_disk(tmp_path).verdict == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in check_disk(tmp_path).seen


def test_this_machine_can_be_checked(tmp_path: Path) -> None:
    checks = check_machine(tmp_path)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "processor", "cores", "processes", "memory", "disk"} <= set(names)
    assert named(checks, "torch").verdict == "ok"
    assert sys.version.split()[0] in named(checks, "python").seen
    for each in checks:
        assert each.verdict == "ok" or each.remedy, each
    assert worst([]) == "ok"
    assert worst([Check("a", "", "warn"), Check("b", "", "bad"), Check("c", "")]) == "bad"
