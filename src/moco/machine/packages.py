"""Are Python and the packages there, as new as they must be, and without known holes?

What is asked for stands in the installed distribution's own list; no torch in here, so that a
broken one is told too.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

Verdict = Literal["ok", "warn", "bad"]
DISTRIBUTION = "moco-torch"
REQUIREMENT = re.compile(
    r"""^(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*(?P<range>[^;]*?)\s*
    (?:;.*extra\s*==\s*['"](?P<extra>[\w-]+)['"].*)?$""",
    re.VERBOSE,
)
KNOWN_HOLES = (
    ("torch", (2, 6), "CVE-2025-32434: a checkpoint can run code as it is loaded"),
    ("torch", (2, 10), "CVE-2026-24747: a checkpoint can break out of weights_only"),
)
"""Package, the first version without the hole, and the hole."""
MALICIOUS = {("lightning", "2.6.2"), ("lightning", "2.6.3")}
"""Releases that steal credentials (GHSA-w37p-236h-pfx3): moco uses none, but they run beside it."""
WHAT_FOR = {
    "elpv-dataset": "the photographs of moco demo",
    "imagecodecs": "TIFFs packed with LZW, zstd and others",
    "matplotlib": "the figures of moco study and moco compare",
    "opentsne": "the t-SNE map of moco report",
    "transformers": "moco export --to hf",
    "onnx": "moco export --to onnx",
    "onnxscript": "moco export --to onnx",
    "onnxruntime": "the check of moco export --to onnx",
    "pyarrow": "images and features in Parquet files",
    "scikit-image": "the made photographs of moco bench",
    "scikit-learn": "the made photographs of moco bench",
    "simplejpeg": "JPEGs are read 1.6 times as fast",
    "tensorboard": "moco pretrain --track tensorboard",
    "wandb": "moco pretrain --track wandb",
}
MAKES_FASTER = {"simplejpeg"}
FOR_DEVELOPERS = {"dev", "docs"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the thing, such as `torch` or `shared memory`.
        seen: what was found, in words.
        verdict: ok; warn: works, but slower, less safe or not for long; bad: runs will fail.
        remedy: what to do about it; may say what an optional part would bring where all is well.
    """

    name: str
    seen: str
    verdict: Verdict = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Needed:
    """A package that is asked for: `extra` is empty where moco cannot do without it."""

    name: str
    range: str
    extra: str = ""


def installed_version(name: str) -> str | None:
    """Return a package's version, None where it is not installed."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: a damaged installation
        return None


def needed_packages() -> list[Needed]:
    """Return what the installed distribution asks for, without what only developers need."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    found = [REQUIREMENT.match(line) for line in lines]
    needed = [Needed(m["name"], m["range"], m["extra"] or "") for m in found if m is not None]
    return [package for package in needed if package.extra not in FOR_DEVELOPERS]


def check_packages(
    needed: Iterable[Needed] | None = None,
    version_of: Callable[[str], str | None] = installed_version,
) -> list[Check]:
    """Return a check of Python, of each needed package and of each extra.

    Args:
        needed: what is asked for; None asks the installed distribution.
        version_of: gives a package's version.
    """
    needed = needed_packages() if needed is None else list(needed)
    checks = [_python_check()]
    if not needed:
        checks.append(
            Check(
                "packages",
                f"{DISTRIBUTION} is not installed, so nothing says which versions it needs",
                "warn",
                f"pip install {DISTRIBUTION}, or pip install -e . in its source",
            )
        )
    core = [package for package in needed if not package.extra]
    checks += [_core_check(package, version_of(package.name)) for package in core]
    checks += _pair_check(version_of("torch"), version_of("torchvision"))
    checks += [
        Check(name, f"{version} steals credentials", "bad", f"pip uninstall {name}; renew them")
        for name, version in sorted(MALICIOUS)
        if version_of(name) == version
    ]
    extras = sorted({package.extra for package in needed if package.extra})
    for extra in extras:
        checks.append(_extra_check(extra, [p for p in needed if p.extra == extra], version_of))
    return checks


def import_failure(module: str) -> Check | None:
    """Return a check that says why a package that is there cannot be imported; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  whatever a broken package raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Check(module, f"cannot be imported: {reason}", "bad", f"install {module} anew")
    return None


def release(version: str) -> tuple[int, ...]:
    """Return the numbers a version begins with: (2, 14, 1) for 2.14.1+cpu."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def is_before(version: str, other: tuple[int, ...]) -> bool:
    """Say whether a version is older than another; 2.10 and 2.10.0 are the same."""
    numbers = release(version)
    length = max(len(numbers), len(other))
    return _filled(numbers, length) < _filled(other, length)


def _filled(numbers: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*numbers, *(0 for _ in range(length - len(numbers))))


def out_of_range(version: str, wanted: str) -> Literal["", "old", "new"]:
    """Say whether a version is too old or too new for a range such as `>=2.10,<3`."""
    for part in filter(None, wanted.replace(" ", "").split(",")):
        if part.startswith(">=") and is_before(version, release(part[2:])):
            return "old"
        if (
            part.startswith("<")
            and part[1].isdecimal()
            and not is_before(version, release(part[1:]))
        ):
            return "new"
    return ""


def _python_check() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except (metadata.PackageNotFoundError, KeyError):
        wanted = None
    return Check(
        "python", f"{version} on {sys.platform}" + (f" (supported: {wanted})" if wanted else "")
    )


def _core_check(package: Needed, version: str | None) -> Check:
    wanted = f" (supported: {package.range})" if package.range else ""
    upgrade = f'pip install "{package.name}{package.range}"'
    if version is None:
        return Check(package.name, f"not installed{wanted}", "bad", upgrade)
    holes = [
        hole
        for name, safe, hole in KNOWN_HOLES
        if name == package.name and is_before(version, safe)
    ]
    if holes:
        return Check(package.name, f"{version}{wanted}; {holes[-1]}", "bad", upgrade)
    match out_of_range(version, package.range):
        case "old":
            return Check(package.name, f"{version}{wanted}: too old", "bad", upgrade)
        case "new":
            return Check(package.name, f"{version}{wanted}: newer than tried", "warn", upgrade)
    return Check(package.name, f"{version}{wanted}")


def _pair_check(torch: str | None, torchvision: str | None) -> list[Check]:
    """Each torchvision is built for one torch: 0.25 for 2.10, 0.26 for 2.11 and so on."""
    ours, theirs = release(torch or ""), release(torchvision or "")
    if ours[:1] != (2,) or theirs[:1] != (0,) or min(len(ours), len(theirs)) < 2:
        return []
    fitting = theirs[1] - 15
    if fitting == ours[1]:
        return []
    return [
        Check(
            "torch and torchvision",
            f"torchvision {torchvision} is built for torch 2.{fitting}, not {torch}",
            "warn",
            f"pip install torchvision==0.{ours[1] + 15}.*",
        )
    ]


def _extra_check(
    extra: str, packages: list[Needed], version_of: Callable[[str], str | None]
) -> Check:
    there = {package.name: version_of(package.name) for package in packages}
    words, missing, outdated = [], [], []
    for package in packages:
        version, what = there[package.name], WHAT_FOR.get(package.name.lower(), "")
        if version is None:
            missing.append(package.name)
            words.append(f"{package.name} is not installed" + (f" ({what})" if what else ""))
        elif out_of_range(version, package.range) == "old":
            outdated.append(package.name)
            words.append(f"{package.name} {version} is too old (supported: {package.range})")
        else:
            words.append(f"{package.name} {version}")
    is_slower = not MAKES_FASTER.isdisjoint(missing) and set(there) == MAKES_FASTER
    return Check(
        f"extra {extra}",
        ", ".join(words),
        "warn" if outdated or is_slower else "ok",
        f'pip install "{DISTRIBUTION}[{extra}]"' if missing or outdated else "",
    )
