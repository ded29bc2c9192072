"""A page as Chromium lays it out: what is wider than its box, and which tokens are broken across lines."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PROBE = """<script>addEventListener('load', () => setTimeout(() => {
  const found = {wide: [], broken: [], width: innerWidth, coloured: document.querySelectorAll('.colored-tokens').length};
  for (const d of document.querySelectorAll('details')) d.open = true;
  for (const e of document.querySelectorAll('body, .table, .forest, figure'))
    if (e.scrollWidth > e.clientWidth + 1) found.wide.push([e.getAttribute('aria-label') || e.tagName, e.scrollWidth]);
  for (const t of document.querySelectorAll('.token'))
    if (t.getClientRects().length > 1) found.broken.push(t.textContent);
  document.body.innerHTML = '<pre id="found"></pre>';
  document.getElementById('found').textContent = JSON.stringify(found);
}, 300))</script></body>"""


def laid_out(page: str, folder: Path, width: int) -> dict:
    """What a window of `width` pixels shows of a page: elements that are too wide, tokens on two lines."""
    return found_by(_PROBE, page, folder, width)


def found_by(probe: str, page: str, folder: Path, width: int = 900) -> dict:
    """What a script, put at the end of the page, writes as JSON into an element of the id "found"."""
    assert BROWSER is not None
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # for the script that measures
    path = folder / "page.html"
    path.write_text(page.replace("</body>", probe), encoding="utf-8")
    switches = "headless no-sandbox disable-gpu no-first-run disable-background-networking hide-scrollbars"
    command = [
        BROWSER,
        *(f"--{s}" for s in switches.split()),
        "--virtual-time-budget=4000",
        f"--window-size={width},900",
    ]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, check=False, timeout=120)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
