"""How large the page of many images is, and how soon it answers: in headless Chromium.

    moco report RUN --images SOURCE --most-images 50000 --out page.html
    python benchmarks/map_page.py page.html

Times are of the page's own clock: from a pointer event at a random place of the map to the end of
the script's answer, and of a frame drawn after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "report"))
from browser import DESKTOP, PHONE, Browser

POINTED = 200
POINT = """(async (count) => {
  const field = document.querySelector(".map-field"), box = field.getBoundingClientRect();
  const event = (name) => new PointerEvent(name, {pointerType: "mouse", bubbles: true,
    clientX: box.left + box.width * (0.2 + 0.6 * Math.random()),
    clientY: box.top + box.height * (0.2 + 0.6 * Math.random())});
  const [answers, frames, seen] = [[], [], new Set()];
  for (let turn = 0; turn < count; turn++) {
    const began = performance.now();
    field.dispatchEvent(event("pointermove"));
    answers.push(performance.now() - began);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    frames.push(performance.now() - began);
    seen.add(document.querySelector(".map-name").textContent);
  }
  const button = document.querySelector('[data-zoom="+"]'), began = performance.now();
  button.click();
  return {answers, frames, names: seen.size, zoom: performance.now() - began};
})"""


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page.resolve()
    figures: dict[str, object] = {"megabytes": round(page.stat().st_size / 1e6, 2)}
    with Browser() as browser:
        for name, size in (("desktop", DESKTOP), ("phone width", PHONE)):
            began = time.monotonic()
            tab = browser.open(page, *size)
            tab.wait_for("document.querySelectorAll('.map-near button').length")
            loaded = time.monotonic() - began
            found = tab.run(f"{POINT}({POINTED})")
            figures[name] = {
                "seconds until it answers": round(loaded, 2),
                "pointings": POINTED,
                "different images met": found["names"],
                "ms to answer, median": round(statistics.median(found["answers"]), 2),
                "ms to answer, most": round(max(found["answers"]), 2),
                "ms to the next frame, median": round(statistics.median(found["frames"]), 2),
                "ms to draw all dots anew": round(found["zoom"], 1),
                "errors": len(tab.errors),
                "requests beside the file": len(tab.requests) - 1,
            }
            tab.close()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
