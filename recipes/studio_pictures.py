"""The pictures of docs/how-to/studio.md: every tab at 1440 and 390 pixels, by headless Chromium.

python recipes/studio_pictures.py [docs/pictures]
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from sfumato.studio import studio

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


def main(out: Path) -> None:
    opened = studio(port=0, wait=False)
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        for width, scheme in ((1440, "light"), (390, "light"), (1440, "dark")):
            size = {"width": width, "height": 900}
            context = chromium.new_context(viewport=size, color_scheme=scheme)
            page = context.new_page()
            page.goto(opened.local_url)
            page.get_by_role("button", name="Translate", exact=True).wait_for()
            page.set_default_timeout(120_000)
            for name, work in WORK.items():
                if scheme == "dark" and name not in ("Translate", "Inside"):
                    continue
                tab(page, name)
                work(page)
                page.wait_for_timeout(4000)
                dark = "_dark" if scheme == "dark" else ""
                keep(page, out / f"studio_{name.lower()}_{width}{dark}.png")
            context.close()
        chromium.close()
    opened.close()


def tab(page, name):
    found = page.get_by_role("tab", name=name, exact=True).filter(visible=True)
    if not found.count():  # in a narrow window the last tabs are in a menu
        page.locator(".overflow-menu > button").click()
        found = page.locator(".overflow-dropdown button").filter(has_text=name)
    found.first.click()


def pick(page, index):
    page.locator(".sfumato-examples:not(.sfumato-upload) button.thumbnail-item:visible").nth(
        index
    ).click()
    page.locator(".sfumato-upload img:visible").first.wait_for()
    page.wait_for_timeout(1500)


def press(page, name, said):
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()
    page.locator(".sfumato-said [role=status]:visible").filter(has_text=said).first.wait_for()


def translate(page):
    pick(page, 2)
    press(page, "Translate", "1 translated")


def compare(page):
    pick(page, 7)
    press(page, "Compare", "of 4 methods")


def inside(page):
    tab(page, "Translate")  # by a method with energies
    page.get_by_label("method", exact=True).filter(visible=True).click()
    page.get_by_role("option", name="egsde", exact=True).click()
    press(page, "Translate", "by egsde")
    tab(page, "Inside")
    pick(page, 5)
    press(page, "Encode", "N(0, I)")
    sigma = page.get_by_role("slider", name="sigma").filter(visible=True)
    sigma.focus()
    sigma.press("Home")
    for _ in range(40):
        sigma.press("ArrowRight")
    page.mouse.move(0, 0)


WORK = {
    "Translate": translate, "Compare": compare, "Inside": inside,
    "Data": lambda page: press(page, "Examine", "Done."), "About": lambda page: None,
}  # fmt: skip


def keep(page, file):
    """The whole page, in few colours: below 300 kB."""
    page.evaluate("scrollTo(0, 0)")
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file, f"{file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"))
