"""A real browser for tests of pages: headless Chromium, driven through a pipe, no package needed.

    with Browser() as browser:
        tab = browser.open(page, *PHONE, dark=True)
        tab.hover("#loss", across=0.5)
        assert tab.text("#loss .reading") and not tab.errors and tab.requests == [page.as_uri()]

It speaks the DevTools protocol over file descriptors 3 and 4 (`--remote-debugging-pipe`): JSON, a
NUL behind each message. There is no port that another process could use.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from browser_tab import PATIENCE_SECONDS, Tab

PHONE, DESKTOP = (390, 844), (1280, 900)
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--remote-debugging-pipe",
        "--disable-gpu",
        "--no-first-run",
    ),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"),
    *("--disable-default-apps", "--disable-extensions", "--disable-sync", "--mute-audio"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-US"),
)
CONNECT = 'exec "$0" "$@" 3<&"$TO_BROWSER" 4>&"$FROM_BROWSER"'


def why_no_browser() -> str:
    """Return why no browser can be driven here, empty where one can."""
    if _program() is None:
        return "there is no Chromium here; on Debian: apt-get install chromium"
    return (
        "" if shutil.which("bash") else "there is no bash here, which connects the browser's pipes"
    )


def _program() -> str | None:
    plain = "/usr/lib/chromium/chromium"  # without Debian's wrapper
    names = ("chromium", "chromium-browser", "google-chrome")
    return (
        plain if os.access(plain, os.X_OK) else next(filter(None, map(shutil.which, names)), None)
    )


class Browser:
    """A Chromium process; `open` gives a tab."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(
            prefix="moco-browser-", ignore_cleanup_errors=True
        )
        their_in, self._to = (_high(end) for end in os.pipe())
        self._from, their_out = (_high(end) for end in os.pipe())
        place = {"TO_BROWSER": str(their_in), "FROM_BROWSER": str(their_out)}
        command = ["bash", "-c", CONNECT, str(_program()), *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._profile.name}", "about:blank"],
            env={**os.environ, **place, "HOME": self._profile.name},
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._unread, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._tabs: dict[str, Tab] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; nothing of it stays."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def open(
        self, page: Path, width: int, height: int, *, dark: bool = False, scripts: bool = True
    ) -> Tab:
        """Return a tab that has loaded the file, in a window of this size; phones have touch."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session, target)
        tab.begin(width, height, dark=dark)
        if not scripts:
            tab.ask("Emulation.setScriptExecutionDisabled", value=True)
        tab.load(page.resolve().as_uri())
        return tab

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its answer."""
        self._number += 1
        number, told = self._number, {"method": method, "params": parameters}
        message = {"id": number, **told, **({"sessionId": session} if session else {})}
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._to, left) :]
        self.wait(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def wait(self, is_so: Callable[[], Any], what: str) -> None:
        """Take in messages until it is so."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            left = until - time.monotonic()
            if left <= 0 or not self.take_in(left):
                raise TimeoutError(f"the browser did not get to: {what}")

    def take_in(self, seconds: float) -> bool:
        """Take in what the browser sends within some seconds; say whether it did."""
        if not select.select([self._from], [], [], seconds)[0]:
            return False
        part = os.read(self._from, 1 << 20)
        if not part:
            raise RuntimeError("the browser has ended")
        *messages, self._unread = (self._unread + part).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif tab := self._tabs.get(message.get("sessionId", "")):
                tab.hear(message["method"], message["params"])
        return True


def _high(descriptor: int) -> int:
    """Return it under a number that the browser's 3 and 4 do not meet."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return high
