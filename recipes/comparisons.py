"""The two comparisons that the docs show: digits 2 -> 3, and satellite -> shaded relief.

    python recipes/comparisons.py [--limit 96] [--picture docs/pictures/compare.png]

Needs `sfumato data digits data/digits`, `sfumato data earth data/earth`, and for the picture
Playwright's Python package and a Chromium.
"""

import argparse
import shutil
from pathlib import Path

from sfumato import compare

STRENGTHS = "strength=0.4,0.6,0.8"


def digits(out: Path) -> None:
    compare(
        "data/digits/test/2", out,
        ["ddib source=sfumato/digits:2 target=sfumato/digits:3",
         f"sdedit target=sfumato/digits:3 {STRENGTHS}"],
        target="data/digits/test/3", train="data/digits/train/3",
        groups="data/digits/digits.csv:source", seeds=4, round_trip=True,
    )  # fmt: skip


def earth(out: Path, limit: int) -> None:
    relief = "data/earth/test/relief"
    compare(
        "data/earth/test/satellite", out,
        ["label=paired_sde model=sfumato/earth_pairs",
         "ddib source=sfumato/earth:satellite target=sfumato/earth:relief recentre_means=true",
         f"sdedit target=sfumato/earth:relief {STRENGTHS}"],
        target=relief, truth=relief, train="data/earth/train/relief", task="land_water",
        seeds=8, limit=limit, round_trip=True,
    )  # fmt: skip


def screenshot(page: Path, picture: str) -> None:
    """Opens the page without network, sorts its table, switches a row, and takes a picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1500})
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        tab.click("#numbers thead th:nth-child(2) button")
        tab.click("#pictures tbody tr:nth-child(1) button[data-step='1']")
        tab.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--limit", type=int, default=96, help="Earth tiles")
    parser.add_argument("--picture", help="write a screenshot of the Earth page here")
    args = parser.parse_args()
    digits(args.out / "compare_digits")
    earth(args.out / "compare_earth", args.limit)
    if args.picture:
        screenshot(args.out / "compare_earth/index.html", args.picture)
