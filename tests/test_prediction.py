"""What is concluded from the rates of a run's parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moco.prediction import Machine, Rates, expected_rate, remedy

CPU = Machine(is_cpu=True, cores=8, workers=2, threads=6, precision="float32")
GPU = replace(CPU, is_cpu=False, cores=16, workers=15, precision="bfloat16")


@pytest.mark.parametrize(
    ("decode", "copy", "compute", "slowest"),
    [
        (100, 900, 500, "decode"),
        (900, 100, 500, "copy"),
        (900, 500, 100, "compute"),
        (100, None, 500, "decode"),
        (900, None, 500, "compute"),
    ],
)
def test_the_slowest_part_binds_and_sets_the_pace(
    decode: float, copy: float | None, compute: float, slowest: str
) -> None:
    rates = Rates(decode, copy, compute, 90.0)
    assert rates.slowest() == slowest
    assert expected_rate(rates, GPU) == pytest.approx(min(decode, compute, copy or 1e9))


def test_without_loading_processes_a_cpu_does_one_thing_after_another() -> None:
    rates = Rates(300.0, None, 150.0, 90.0)
    assert expected_rate(rates, replace(CPU, workers=0)) == pytest.approx(100.0)


def test_without_loading_processes_a_gpu_goes_on_while_a_batch_is_made() -> None:
    rates = Rates(300.0, 600.0, 250.0, 90.0)
    assert expected_rate(rates, replace(GPU, workers=0)) == pytest.approx(200.0)
    rates = replace(rates, compute=150.0)
    assert expected_rate(rates, replace(GPU, workers=0)) == pytest.approx(150.0)


def test_a_gpu_that_cuts_the_images_itself_takes_turns() -> None:
    machine = replace(GPU, workers=0, resident=True)
    assert expected_rate(Rates(300.0, None, 150.0, 90.0), machine) == pytest.approx(100.0)


def test_loading_and_training_that_share_processors_slow_each_other() -> None:
    rates = Rates(200.0, None, 150.0, 90.0)
    few = replace(CPU, cores=2, threads=1)
    assert few.shares_cores()
    # an image takes two loaders 1/200 s each and a thread 1/150 s: 1/60 s of two processors
    assert expected_rate(rates, few) == pytest.approx(120.0)
    assert not CPU.shares_cores()
    assert expected_rate(rates, CPU) == pytest.approx(150.0)
    assert not replace(few, is_cpu=False).shares_cores()


@pytest.mark.parametrize(
    ("rates", "machine", "said"),
    [
        (Rates(100, 900, 500, 90), replace(GPU, workers=0), "--workers 15"),
        (Rates(100, 900, 500, 90), replace(GPU, workers=4), "--workers 15"),
        (Rates(100, 900, 500, 90), GPU, "moco data pack"),
        (Rates(100, 900, 500, 90), GPU, "--resident"),
        (Rates(100, 900, 500, 90), replace(CPU, workers=7), "more processors"),
        (Rates(100, None, 500, 90), replace(GPU, workers=0, resident=True), "instead of --res"),
        (Rates(900, 100, 500, 90), GPU, "--resident"),
        (Rates(900, 500, 100, 90), replace(GPU, precision="float32"), "--precision bfloat16"),
        (Rates(900, 500, 100, 90), GPU, "torchrun"),
        (Rates(900, None, 100, 90), replace(CPU, cores=2, threads=1), "--workers 1"),
        (Rates(110, None, 100, 90), replace(CPU, cores=2, threads=1), "a GPU"),
    ],
)
def test_the_remedy_is_one_for_what_binds(rates: Rates, machine: Machine, said: str) -> None:
    assert said in remedy(rates, machine)
