"""A real browser for tests of pages: headless Chromium, driven through a pipe, no package needed.

    with Browser() as browser:
        tab = browser.open(page, *PHONE, dark=True)
        tab.hover("#loss", across=0.5)
        assert tab.text("#loss .reading") and not tab.errors and tab.requests == [page.as_uri()]

It speaks the DevTools protocol over file descriptors 3 and 4 (`--remote-debugging-pipe`): JSON, a
NUL behind each message. There is no port that another process could use.
"""

from __future__ import annotations

import base64
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

PHONE, DESKTOP = (390, 844), (1280, 900)
PATIENCE_SECONDS = 60.0
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
KEYS = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Home": 36,
    "End": 35,
    "Escape": 27,
    "Tab": 9,
    "Enter": 13,
    " ": 32,
}
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


class Tab:
    """A loaded page. `errors` and `requests` hold all since it was opened."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target
        self.errors: list[str] = []
        """What the console was told as an error or a warning, exceptions among it."""
        self._asked: dict[str, str] = {}
        self._loaded = False

    @property
    def requests(self) -> list[str]:
        """Addresses of all that was asked for, the page itself first; not data: and blob:.

        What the page's policy stopped before it left is not among them; `errors` has it.
        """
        return list(self._asked.values())

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command for this tab."""
        return self.browser.ask(method, self.session, **parameters)

    def begin(self, width: int, height: int, *, dark: bool) -> None:
        """Listen, and be a window of this size."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        is_phone = width < 600
        self.resize(width, height, mobile=is_phone)
        if is_phone:
            self.ask("Emulation.setTouchEmulationEnabled", enabled=True)
        self.show(dark=dark)

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Be a window of this size, a pixel for each of CSS."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.ask("Emulation.setDeviceMetricsOverride", **size, mobile=mobile)

    def show(self, *, dark: bool = False, printed: bool = False) -> None:
        """Be what the reader prefers: light, dark, or paper."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        media = "print" if printed else "screen"
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def load(self, address: str) -> None:
        """Go there and wait until all is loaded."""
        self._loaded = False
        self.ask("Page.navigate", url=address)
        self.browser.wait(lambda: self._loaded, f"load {address}")

    def hear(self, method: str, told: dict[str, Any]) -> None:
        """Take in what the browser says of itself."""
        match method:
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.errors.append(" ".join(str(part.get("value", "")) for part in told["args"]))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.errors.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                address = told["request"]["url"]
                if not address.startswith(("data:", "blob:")):
                    self._asked[told["requestId"]] = address
            case "Network.loadingFailed" if told.get("blockedReason") == "csp":
                self._asked.pop(told["requestId"], None)

    def run(self, script: str) -> Any:
        """Return what a script's expression gives, as plain values; promises are waited for."""
        done = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:2000])
        return done["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")

    def wait_for(self, script: str) -> Any:
        """Return what the expression gives, once that is true."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.run(script)):
            if time.monotonic() > until:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.02)
        return found

    def text(self, selector: str) -> str:
        """Return the text of the first such element as it is rendered."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def count(self, selector: str) -> int:
        """Return how many such elements are there and shown."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        is_shown = "each.checkVisibility() && each.getClientRects().length"
        return int(self.run(f"{found}.filter(each => {is_shown}).length"))

    def place(self, selector: str, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """Scroll the first such element into view; return a place in it, in pixels."""
        box = self.run(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            "it.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = it.getBoundingClientRect();"
            "return [box.x, box.y, box.width, box.height]; })()"
        )
        return box[0] + across * box[2], box[1] + down * box[3]

    def hover(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Move the mouse to a place of the element."""
        x, y = self.place(selector, across, down)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Press and release the mouse at a place of the element."""
        self.hover(selector, across, down)
        x, y = self.place(selector, across, down)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def tap(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Touch a place of the element with a finger."""
        x, y = self.place(selector, across, down)
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key, one of `KEYS` or a letter."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        down: dict[str, Any] = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.ask("Input.dispatchKeyEvent", **down, **about)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **about)
        self.settle()

    def screenshot(self, file: Path, *, whole: bool = True) -> Path:
        """Write a PNG of the whole page, or of what the window shows."""
        self.settle()
        taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))
        return file

    def pdf(self) -> bytes:
        """Return the page as it prints."""
        return base64.b64decode(self.ask("Page.printToPDF", preferCSSPageSize=True)["data"])

    def close(self) -> None:
        """Leave the page."""
        self.browser.ask("Target.closeTarget", targetId=self.target)


def _high(descriptor: int) -> int:
    """Return it under a number that the browser's 3 and 4 do not meet."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return high
