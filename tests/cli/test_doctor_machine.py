from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moco.cli import doctor_machine
from moco.cli.doctor_machine import advice, show_machine
from moco.machine.packages import Check

CHECKS = [
    Check("torch", "2.9 [bold]x[/bold] \x1b[31m", "bad", "pip install torch"),
    Check("cores", "2 of 64", "warn", "export OMP_NUM_THREADS=2"),
    Check("extra viz", "matplotlib is not installed", "ok", 'pip install "moco-torch[viz]"'),
]


def test_the_table_shows_names_as_they_are_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_machine, "check_machine", lambda _: CHECKS)
    figures = show_machine()
    shown = capsys.readouterr().out
    assert "2.9 [bold]x[/bold] \\x1b[31m" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[-4:] == [
        "bad: torch: pip install torch",
        "warning: cores: export OMP_NUM_THREADS=2",
        'if you want it: extra viz: pip install "moco-torch[viz]"',
        "this machine is not fit for runs as it is",
    ]
    assert {key: figures[key] for key in ("verdict", "ok", "warn", "bad")} == {
        "verdict": "bad",
        "ok": 1,
        "warn": 1,
        "bad": 1,
    }
    assert advice(CHECKS[2:])[-1] == "this machine is fit for runs"


def test_the_command_checks_this_machine_and_loads_little_for_it(tmp_path: Path) -> None:
    program = """
import sys
from moco.cli.main import main
code = main(["doctor", "--json", "machine.json"])
slow = {"timm", "torchvision", "scipy"} & set(sys.modules)
sys.exit(f"loaded {slow}" if slow else code)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads((tmp_path / "machine.json").read_text())
    checks = {check["name"]: check for check in figures["checks"]}
    assert str(tmp_path) in checks["disk"]["seen"]
    assert sum(figures[verdict] for verdict in ("ok", "warn", "bad")) == len(checks)
    for name in checks:
        assert name in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]
