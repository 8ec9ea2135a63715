"""The studio in headless Chromium: every tab, what goes wrong, two visitors, no request elsewhere."""

import io
import json
import shutil
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytest.importorskip("gradio", reason='the studio needs gradio: pip install -e ".[studio]"')
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

import sfumato  # noqa: E402
from sfumato.studio import jobs, studio  # noqa: E402
from sfumato.studio import latents_tab as latents  # noqa: E402
from sfumato.studio.choices import HERE  # noqa: E402

expect = sync_api.expect
expect.set_options(timeout=20_000)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def file(name, content):
    return {"name": name, "mimeType": "image/png", "buffer": content}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "pictures"
    for domain in ("cats", "dogs"):
        for i in range(2):
            (folder / domain).mkdir(parents=True, exist_ok=True)
            (folder / domain / f"{i}.png").write_bytes(png(i))
    (folder / "dogs" / "broken.png").write_bytes(png(9)[:500])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
            patch.setenv(name, "")
        runs = folder.parent / "runs"
        part = sfumato.find("diffusion")(domains=("one", "two"), net="tiny")
        sfumato.save(part, runs / "first", info={"size": 16})
        served = studio([folder, runs], port=0, wait=False)
        served.runs = runs
        yield served
        served.close()
        served.room.cleanup()


@pytest.fixture(scope="module")
def browser(opened):
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(opened, browser):
    """visit(path="", **how): a page of a visitor of one's own; at the end no request has gone elsewhere."""
    requests, contexts = [], []

    def visit(path="", width=1440, height=1000, **how):
        context = browser.new_context(viewport={"width": width, "height": height}, **how)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda socket: requests.append(socket.url))
        page.goto(opened.local_url + path)
        expect(page.get_by_role("button", name="Translate", exact=True)).to_be_visible()
        contexts.append(context)
        return page

    yield visit
    for context in contexts:
        context.close()
    home = urlsplit(opened.local_url).netloc
    elsewhere = {u for u in requests if urlsplit(u).scheme not in ("data", "blob", "about")
                 and urlsplit(u).netloc != home}  # fmt: skip
    assert len(requests) > 10
    assert not elsewhere


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def examples(page):
    """Shows the digits to pick from, in place of the folder that was named."""
    folder = page.get_by_label("folder", exact=True).filter(visible=True)
    if folder.input_value() != "examples: digits":
        folder.click()
        page.get_by_role("option", name="examples: digits", exact=True).click()
    shown = ".sfumato-examples:not(.sfumato-upload) button.thumbnail-item:visible"
    expect(page.locator(shown)).to_have_count(10)


def pick(page, index, domain):
    """Picks an example, and waits until it is there."""
    examples(page)
    page.locator(".sfumato-examples:not(.sfumato-upload) button.thumbnail-item:visible").nth(
        index
    ).click()
    expect(page.locator(".sfumato-upload img:visible")).not_to_have_count(0)
    expect(page.get_by_label("source").filter(visible=True)).to_have_value(domain)


def number(page, label, value):
    field = page.get_by_label(label, exact=True).filter(visible=True)
    for _ in range(5):  # a control that has just appeared takes its first value once more
        field.fill(str(value))
        field.press("Tab")
        page.wait_for_timeout(300)
        if field.input_value() == str(value):
            return
    raise AssertionError(f"{label} does not keep {value}")


def press(page, name):
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()


def says(page, text):
    expect(
        page.locator(".sfumato-said [role=status]:visible").filter(has_text=text).first
    ).to_be_visible()


def alerts(page, text):
    expect(page.get_by_role("alert").filter(visible=True, has_text=text)).to_have_count(1)


def idle(seconds=5):
    """Whether the studio's work ends within so many seconds."""
    until = time.monotonic() + seconds
    while any(thread.name == jobs.NAME for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


# ---- translate ----------------------------------------------------------------------------------


def test_pick_translate_slide_download_and_look_at_the_way(visit):
    page = visit()
    pick(page, 2, "sfumato/digits:2")
    page.get_by_role("button", name="Options").click()
    number(page, "steps", 6)
    number(page, "seed", 5)
    press(page, "Translate")
    says(page, "1 translated by ddib, seed 5, 8 NFE")
    slider = page.locator("#before-after")
    expect(slider.locator("img")).to_have_count(2)
    handle = slider.locator(".inner, .outer, [role=slider]").first
    place = handle.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(place["x"] - 60, place["y"] + place["height"] / 2, steps=4)
    page.mouse.up()
    assert handle.bounding_box()["x"] < place["x"] - 30
    for name in ("00208.png", "run.json"):
        with page.expect_download() as download:
            page.locator(f'a[download="{name}"]').first.click()
        content = download.value.path().read_bytes()
        if name == "run.json":
            assert json.loads(content)["run"]["seed"] == 5
        else:
            assert Image.open(io.BytesIO(content)).size == (32, 32)

    tab(page, "Inside")
    says(page, "step 6, t = ")
    step = page.locator("#step input[type=range]")
    step.focus()
    before = page.locator(".sfumato-picture img:visible").first.get_attribute("src")
    for _ in range(3):
        step.press("ArrowLeft")
    says(page, "step 3, t = ")
    expect(page.locator(".sfumato-picture img:visible").first).not_to_have_attribute("src", before)
    expect(page.locator("canvas:visible, .vega-embed svg:visible")).to_have_count(3)  # no energy


def test_upload_of_several_and_of_bad_ones(visit):
    page = visit()
    upload = page.locator(".sfumato-upload input[type=file]").first
    bad = [file("truncated.png", png(0)[:900]), file("drawing.png", b"<svg/>")]
    upload.set_input_files([file("one.png", png(1)), *bad, file("two.png", png(2))])
    alerts(page, "truncated.png")
    alerts(page, "drawing.png is not an image")
    page.get_by_role("button", name="Options").click()
    number(page, "steps", 2)
    press(page, "Translate")
    says(page, "2 translated by ddib, seed 0, 4 NFE")
    expect(page.locator('a[download="one.png"]')).to_be_visible()
    expect(page.locator('a[download="two.png"]')).to_be_visible()


def test_cancel_preview_and_one_line_errors(visit):
    page = visit()
    press(page, "Translate")
    alerts(page, "no picture given: upload some, or pick an example")
    pick(page, 7, "sfumato/digits:7")
    page.get_by_role("button", name="Options").click()
    number(page, "steps", 1000)
    press(page, "Translate")
    says(page, "of 1000, t = ")  # while it samples
    expect(page.locator("#before-after img")).to_have_count(2)
    press(page, "Cancel")
    says(page, "Cancelled.")
    page.wait_for_timeout(1000)
    says(page, "Cancelled.")  # nothing comes after it
    assert idle()
    number(page, "steps", 2)
    press(page, "Translate")  # the place is free again at once
    says(page, "1 translated by ddib")
    page.get_by_label("method", exact=True).filter(visible=True).click()
    page.get_by_role("option", name="ilvr", exact=True).click()
    expect(page.get_by_label("source").filter(visible=True)).to_have_count(0)
    number(page, "factor", 777)
    press(page, "Translate")
    alerts(page, "factor 777")


def test_closing_the_page_stops_the_work(visit):
    page = visit()
    pick(page, 7, "sfumato/digits:7")
    page.get_by_role("button", name="Options").click()
    number(page, "steps", 1000)
    press(page, "Translate")
    says(page, "of 1000, t = ")
    assert not idle(seconds=0)
    page.close()
    assert idle(seconds=10)


# ---- the other tabs -----------------------------------------------------------------------------


def test_compare_shows_methods_side_by_side(visit):
    page = visit()
    tab(page, "Compare")
    pick(page, 4, "sfumato/digits:4")
    for name in ("ilvr", "egsde"):
        page.get_by_role("checkbox", name=name, exact=True).filter(visible=True).uncheck()
    page.get_by_role("checkbox", name="paired_sde").filter(visible=True).check()
    press(page, "Compare")
    says(page, "3 of 3 methods, seed 0")
    expect(page.locator("#compared img")).to_have_count(4)
    expect(page.get_by_role("cell", name="sdedit")).to_be_visible()


def test_latent_is_changed_by_a_slider_and_decoded_live(visit):
    page = visit()
    tab(page, "Inside")
    pick(page, 5, "sfumato/digits:5")
    number(page, "steps", 4)
    press(page, "Encode")
    says(page, "N(0, I)")
    decoded = page.locator("#latent-1 img")
    expect(decoded).to_be_visible()
    before = decoded.get_attribute("src")
    slider = page.get_by_role("slider", name="sigma").filter(visible=True)
    slider.focus()
    slider.press("Home")
    expect(decoded).not_to_have_attribute("src", before)
    expect(page.get_by_role("cell", name="kurtosis")).to_be_visible()
    for _ in range(25):
        slider.press("ArrowRight")
    file = next((HERE / "digits" / "5").glob("*.png"))
    expected = latents.change(
        latents._encoded(file, "sfumato/digits:5", 4), "blur",
        {"blur.sigma": 0.25, "blur.renormalise": False}, "", "sfumato/digits:6", "",
    )  # fmt: skip
    for name, *numbers in expected.rows:  # the last of the values that were passed is the one shown
        expect(page.get_by_role("row", name=" ".join([name, *numbers]), exact=True)).to_be_visible()
    slider.press("Home")
    press(page, "Keep this operation, add another")
    first = page.get_by_role("textbox", name="first").filter(visible=True)
    expect(first).to_have_value("blur sigma=0 renormalise=False")
    first.fill("slerp other=/etc/passwd")
    alerts(page, "slerp mixes in another latent")


def test_doctor_looks_at_a_folder_that_was_named(visit):
    page = visit()
    tab(page, "Data")
    press(page, "Examine")
    says(page, "Done.")
    expect(page.locator(".sfumato-text pre:visible").filter(has_text="broken.png")).to_have_count(1)


def test_about_names_models_cards_and_papers(visit):
    page = visit()
    tab(page, "About")
    expect(page.get_by_role("cell", name="sfumato/earth_pairs")).to_be_visible()
    expect(page.get_by_text("186,504 parameters")).to_be_visible()  # of the model that was named
    page.get_by_label("cite").click()
    page.get_by_role("option", name="sdedit", exact=True).click()
    expect(page.get_by_text("@inproceedings{meng2022sdedit")).to_be_visible()


def test_two_visitors_at_once_get_their_own(visit):
    one, two = visit(), visit()
    pick(one, 1, "sfumato/digits:1")
    pick(two, 8, "sfumato/digits:8")
    for page, seed in ((one, 11), (two, 22)):
        page.get_by_role("button", name="Options").click()
        number(page, "steps", 20)
        number(page, "seed", seed)
    press(one, "Translate")
    press(two, "Translate")
    says(one, "1 translated by ddib, seed 11")
    says(two, "1 translated by ddib, seed 22")
    expect(one.locator('a[download="00239.png"]')).to_be_visible()
    expect(two.locator('a[download="00285.png"]')).to_be_visible()
    assert not one.locator('a[download="00285.png"]').count()


# ---- for everybody --------------------------------------------------------------------------------

CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = css => {  // any CSS colour as red, green, blue in 0..255 and alpha
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat([1]);
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
  const seen = [];
  for (const e of document.querySelectorAll('h1, p, label span, button, input, td, th, pre, [role=tab],'
      + ' [data-testid=block-info], .sfumato-said div, a')) {
    const own = e.value || [...e.childNodes].filter(n => n.nodeType == 3).map(n => n.textContent).join('');
    if (!own.trim() || !e.checkVisibility() || e.disabled
        || ['range', 'checkbox', 'radio', 'file'].includes(e.type)) continue;
    const ground = behind(e), ink = over(parse(getComputedStyle(e).color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    seen.push([(a + 0.05) / (b + 0.05), e.tagName + ' ' + own.trim().slice(0, 40)]);
  }
  return seen.sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_text_is_that_of_wcag_aa(visit, scheme, report):
    page = visit(color_scheme=scheme)
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    worst = []
    for name in ("Translate", "Compare", "Inside", "Data", "About"):
        tab(page, name)
        page.wait_for_timeout(300)  # colours are in transition
        found = page.evaluate(CONTRAST)
        assert len(found) > 8
        worst += found[:5]
    report(f"studio: least contrast, {scheme}", min(worst)[0])
    assert not [(round(ratio, 2), what) for ratio, what in worst if ratio < 4.5]


def test_keyboard_alone_translates(visit):
    page = visit()
    examples(page)
    page.locator(".sfumato-unlabelled button.thumbnail-item:visible").nth(3).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("source").filter(visible=True)).to_have_value("sfumato/digits:3")
    reached = set()
    for _ in range(60):  # Tab comes to every kind of control, and to the button
        page.keyboard.press("Tab")
        what = page.evaluate(
            "[document.activeElement.id, document.activeElement.getAttribute('aria-label') || '',"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(what[1])
        if what[0] == "translate":
            break
    assert what[0] == "translate"
    assert what[2] != "none"  # the focus is seen
    page.keyboard.press("Enter")
    says(page, "1 translated by ddib")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(visit, width):
    page = visit(width=width, height=844)
    for name in ("Translate", "Inside", "Data"):
        if page.get_by_role("tab", name=name, exact=True).filter(visible=True).count():
            tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_shows_all_tabs_and_what_to_press(visit):
    page = visit(width=390, height=844)
    for name in ("Translate", "Compare", "Inside", "Data", "About"):
        expect(
            page.get_by_role("tab", name=name, exact=True).filter(visible=True)
        ).to_be_in_viewport()
    for name, button in (("Data", "Examine"), ("Inside", "Encode"), ("Compare", "Compare"),
                         ("Translate", "Translate")):  # fmt: skip
        tab(page, name)
        shown = page.get_by_role("button", name=button, exact=True).filter(visible=True)
        expect(shown).to_be_in_viewport(ratio=1)
        expect(shown).to_have_count(1)
    assert page.evaluate("scrollY") == 0
    pick(page, 2, "sfumato/digits:2")
    press(page, "Translate")
    says(page, "1 translated by ddib")
    expect(page.locator("#before-after")).to_be_in_viewport(ratio=0.5)


def test_a_model_that_was_saved_since_is_offered_after_refresh(visit, opened):
    page = visit()
    part = sfumato.find("diffusion")(domains=("cats", "dogs"), net="tiny")
    sfumato.save(part, opened.runs / "later", info={"size": 16})
    pick(page, 2, "sfumato/digits:2")
    press(page, "Refresh")
    page.wait_for_timeout(500)
    source = page.get_by_label("source").filter(visible=True)
    expect(source).to_have_value("sfumato/digits:2")  # what was chosen stays
    for label, domain in (("source", "cats"), ("target", "dogs")):
        page.get_by_label(label).filter(visible=True).click()
        page.get_by_role("option", name=f"later:{domain}").last.click()
        expect(page.get_by_role("option")).to_have_count(0)
    press(page, "Translate")
    says(page, "1 translated by ddib")
