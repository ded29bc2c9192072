"""Take a picture of a report as a reader without a network sees it.

python scripts/screenshot.py report.html -o report.png --width 1400 --height 1000
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def main() -> int:
    """Parse, run the browser, say where the picture lies; 2 when it cannot be taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="HTML file")
    parser.add_argument("-o", "--output", type=Path, help="PNG file (default: beside the report)")
    parser.add_argument("--width", type=int, default=1400, help="pixels (default 1400)")
    parser.add_argument("--height", type=int, default=1000, help="pixels (default 1000: the first screen)")
    args = parser.parse_args()
    output = (args.output or args.report.with_suffix(".png")).resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium found\n\nhint: install one, for example apt-get install chromium", file=sys.stderr)
        return 2
    if not args.report.is_file():
        print(f"no file {args.report}\n\nhint: give the path of a report.html", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as profile:
        switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        switches += " disable-component-update disable-sync hide-scrollbars virtual-time-budget=5000"
        command = [
            browser,
            *(f"--{switch}" for switch in switches.split()),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--window-size={args.width},{args.height}",
            f"--screenshot={output}",
            args.report.resolve().as_uri(),
        ]
        output.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode or not output.is_file():
        print(f"{browser} took no picture\n\nhint: it said: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
