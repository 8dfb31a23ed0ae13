"""A page in headless Chromium: its DOM after loading, and figures that only a browser knows."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install -y chromium (the page is checked without it elsewhere)"
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)

MEASURE = """<script>
addEventListener("load", function () {
  var squeezed = [], covered = [];
  document.querySelectorAll(".cell").forEach(function (cell) {
    var box = cell.getBoundingClientRect(), outer = cell.parentElement.getBoundingClientRect();
    var said = cell.textContent.trim().slice(0, 40);
    if (!box.width) return;
    if (box.right > outer.right + 1) covered.push(said);
    if (cell.textContent.trim().length > 12 && box.width < 70) squeezed.push(said);
  });
  var small = [].filter.call(document.querySelectorAll("svg text"), function (text) {
    return text.getClientRects().length && text.getBoundingClientRect().height < 9;
  }).length;
  var outside = [].filter.call(document.querySelectorAll("svg text"), function (text) {
    var box = text.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth);
  }).map(function (text) { return text.textContent; });
  parent.document.documentElement.setAttribute("data-measured", JSON.stringify({
    squeezed: squeezed, covered: covered, small: small, outside: outside,
    width: innerWidth, page_width: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor, pwned: window.pwned === true,
    requests: performance.getEntriesByType("resource").length,
    charts: [].filter.call(document.querySelectorAll("svg"), function (s) { return s.getClientRects().length; }).length
  }));
});
</script>"""


def load(page: Path, profile: Path, *, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> str:
    """The DOM of a page after it was loaded, as text."""
    command = [
        *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},1200"),
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measure(page: Path, folder: Path, *, width: int, scheme: Literal["light", "dark"]) -> dict[str, Any]:
    """Load a copy of a page that has a script of the test's own, and no policy that forbids scripts."""
    text = page.read_text(encoding="utf-8")
    text, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n', "", text)
    assert policies == 1
    folder.mkdir()
    copy = folder / "page.html"
    # In a frame, because no window is narrower than 500 pixels.
    inner = html.escape(text.replace("</body>", f"{MEASURE}</body>"))
    style = f"border: 0; width: {width}px; height: 1000px"
    head = '<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    copy.write_text(f'{head}<iframe style="{style}" srcdoc="{inner}"></iframe>', encoding="utf-8")
    dom = load(copy, folder / "profile", width=width + 100, scheme=scheme)
    found = re.search(r'data-measured="([^"]*)"', dom)
    assert found is not None, dom[:2000]
    return json.loads(found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&amp;", "&"))
