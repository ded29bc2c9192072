"""Pictures of every tab of the lab, as a visitor sees it after the tab's first button, without a network.

    python scripts/screenshot_lab.py http://127.0.0.1:7860 -o docs/assets --width 1280

The lab has to be running (`mechsteer lab`). Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, Route, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PRESSED = {
    "Playground": "Write",
    "Layers explained": "Read the layers",
    "Visualiser": "Show the change",
    "Equaliser": "Write with these gains",
    "Trajectory": "Show the trajectories",
    "Attribution": "Attribute",
}
"""Tab -> the button that fills it; a tab without one is taken as it opens."""
COLOURS = 48
DONE = (
    "#differences iframe, #lens iframe, #change iframe, #equaliser-page iframe, #trajectory iframe, #attribution iframe"
)


def picture(page: Page, tab: str, output: Path, patience: float) -> None:
    """Open a tab, press its button, wait for its frame, take the whole page."""
    shown = page.get_by_role("tab", name=tab, exact=True)
    if shown.count():
        shown.click()
    else:  # a narrow page has them in a menu
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=tab, exact=True).click()
    if button := PRESSED.get(tab):
        page.get_by_role("button", name=button, exact=True).click()
        page.locator(DONE).filter(visible=True).first.wait_for(timeout=patience)
    for frame in page.locator("iframe").filter(visible=True).all():
        frame.scroll_into_view_if_needed()  # what was never seen is not painted
    page.wait_for_timeout(1000)
    page.screenshot(path=output, full_page=True)
    with Image.open(output) as taken:
        small = taken.convert("RGB").quantize(COLOURS)
    small.save(output, optimize=True)  # a third of the size


def own_machine_only(route: Route) -> None:
    """Nothing but this machine is asked."""
    if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()


def main() -> int:
    """Parse, open the lab, write a picture per tab; 2 when it cannot be opened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of a running lab, such as http://127.0.0.1:7860")
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder (default: here)")
    parser.add_argument("--width", type=int, default=1280, help="pixels (default 1280)")
    parser.add_argument("--tabs", nargs="*", default=[], help="some of the tabs (default: all)")
    parser.add_argument("--patience", type=float, default=60, help="seconds that a tab may take (default 60)")
    args = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        print("no Chromium found\n\nhint: install one, for example apt-get install chromium", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": args.width, "height": 800})
        page.route("**/*", own_machine_only)
        page.goto(args.address)
        page.get_by_role("tab").first.wait_for()
        page.wait_for_timeout(1000)
        names = page.locator("[role=tab], .overflow-dropdown button").all_text_contents()
        for tab in args.tabs or [name.strip() for name in names]:
            output = args.output / f"lab-{tab.lower().replace(' ', '-')}.png"
            picture(page, tab, output, 1000 * args.patience)
            print(output)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
