"""A page in the browser of `browser.py`: what a reader does with it, and what it did."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

PATIENCE_SECONDS = 60.0
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


class Speaks(Protocol):
    """The browser, as a tab needs it."""

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]: ...

    def wait(self, is_so: Callable[[], Any], what: str) -> None: ...


class Tab:
    """A loaded page. `errors` and `requests` hold all since it was opened."""

    def __init__(self, browser: Speaks, session: str, target: str) -> None:
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
