"""The page in a browser: it fetches nothing and breaks nowhere, and all that moves can be moved by keyboard too.

Screenshots go to a temporary folder, or to that of RAYDD_SCREENSHOTS.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from raydd.cli import run
from raydd.evaluation.jobs import Outcome
from raydd.report.build import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by Playwright: install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 360, "height": 740}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed, such as by apt install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def runs(small_buffer, tmp_path_factory):
    """Two runs of two seeds with soft labels, several images a class, frames and their experts."""
    folder = tmp_path_factory.mktemp("browser")
    for seed in range(2):
        out = folder / f"seed-{seed}"
        words = ["distill", "--network", "MLP", "--method", "datm", "--ipc", "3", "--buffer", str(small_buffer)]
        words += ["--seed", str(seed), "--out", str(out)]
        for setting in ("steps=6", "student_steps=1", "span=1", "window.current=0", "window.high=2", "threads=1"):
            words += ["--set", setting]
        words += [
            "--set",
            "lr.images=5000",
            "--set",
            "evaluate_every=3",
            "--set",
            "evaluate_epochs=1",
            "--set",
            "evaluate_networks=1",
        ]
        assert run(words) == 0
    shutil.copytree(small_buffer, folder / "seed-0" / "buffer")
    return [folder / "seed-0", folder / "seed-1"]


@pytest.fixture(scope="module")
def pages(runs, pretend, tmp_path_factory):
    """The page of one run, and that of both."""
    pretend(lambda matrix, job: Outcome((0.05, 0.4, 0.95, 0.75, 0.6, 0.5)[job.row] + 0.01 * job.seed, 1.0))
    for folder in runs:
        flags = ["--nets", "MLP,LeNet", "--seeds", "2", "--out", str(folder / "scores.json")]
        assert run(["evaluate", str(folder), *flags]) == 0
    out = tmp_path_factory.mktemp("pages")
    return write_report(runs[:1], out / "one.html"), write_report(runs, out / "two.html")


class Visit:
    """A page that is open, and what went wrong on it or left it."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page, self.wrong, self.requests = self.context.new_page(), [], []
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.page.goto(self.url)

    def foreign(self):
        """What was fetched beside the file and what lies in it."""
        return [url for url in self.requests if url != self.url and not url.startswith("data:")]


@pytest.fixture
def visit(browser):
    """Opens a page; in the end nothing has gone wrong on any."""
    opened = []

    def visiting(path, **options):
        opened.append(Visit(browser, path, **options))
        return opened[-1].page

    yield visiting
    for one in opened:
        assert one.wrong == []
        assert one.foreign() == []
        one.context.close()


@pytest.fixture
def shoot(tmp_path):
    """Takes a screenshot of the whole page; an empty one would be small."""

    def shooting(page, name):
        folder = Path(os.environ.get("RAYDD_SCREENSHOTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 20_000

    return shooting


def column(table, number):
    return table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()


def leading(texts):
    return [float(re.match(r"[-+\d.]+", text)[0]) for text in texts]


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_opens_and_fetches_nothing(visit, pages, shoot, which):
    page = visit(pages[which])
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, f"light-{which + 1}")


def test_the_slider_moves_by_keys_and_changes_the_images(visit, pages):
    page = visit(pages[0])
    slider, output, image = page.locator("input[type=range]"), page.locator(".slider output"), page.locator("image")
    cell = page.locator(".cell").first
    last, shown, drawn = output.inner_text(), image.get_attribute("href"), cell.screenshot()
    assert "result" in last
    slider.focus()
    page.keyboard.press("Home")
    assert output.inner_text() == "step 0 of 6"
    assert slider.get_attribute("aria-valuetext") == "step 0 of 6"
    assert image.get_attribute("href") != shown
    assert cell.screenshot() != drawn
    page.keyboard.press("ArrowRight")
    assert output.inner_text() == "step 1 of 6"
    page.keyboard.press("End")
    assert (output.inner_text(), image.get_attribute("href")) == (last, shown)
    assert cell.screenshot() == drawn


STEP_2 = """() => new Promise((seen, missed) => {
  const output = document.querySelector(".slider output");
  const look = () => { if (output.textContent === "step 2 of 6") seen(); };
  new MutationObserver(look).observe(output, { childList: true, characterData: true, subtree: true });
  setTimeout(() => missed(new Error(output.textContent)), 10000);
  look();
})"""
"""Waits for a step, of which none is missed between two looks."""


def test_the_frames_play_unless_motion_is_not_wanted(visit, pages):
    page = visit(pages[0])
    output, play = page.locator(".slider output"), page.locator(".play")
    last = output.inner_text()
    play.click()
    assert play.inner_text() == "Pause"
    page.evaluate(STEP_2)
    play.click()
    assert play.inner_text() == "Play"
    stopped = output.inner_text()
    page.wait_for_timeout(500)
    assert output.inner_text() == stopped != last
    still = visit(pages[0], reduced_motion="reduce")
    assert still.locator(".play").is_hidden()
    assert still.locator("input[type=range]").is_visible()


def test_an_image_shows_its_label(visit, pages):
    page = visit(pages[0])
    tip, cells = page.locator("#tip"), page.locator(".cell")
    assert tip.is_hidden()
    cells.nth(4).hover()
    assert tip.inner_text().startswith("class 1, image 2")
    assert len(re.findall(r"\d+\.\d %", tip.inner_text())) == 5
    page.mouse.move(0, 0)
    assert tip.is_hidden()
    page.locator("input[type=range]").focus()
    page.keyboard.press("Tab")
    assert tip.inner_text().startswith("class 0, image 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert tip.inner_text().startswith("class 1, image 2")
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.cell')") is None  # one stop of Tab for all images


def test_a_table_sorts_by_number_with_mouse_and_keys(visit, pages):
    page = visit(pages[0])
    table = page.locator("section[aria-labelledby=scores] table.sortable").first
    titles = table.locator("thead th").all_inner_texts()
    number = next(index for index, title in enumerate(titles, 1) if title.startswith("MLP"))
    head = table.locator(f"thead th:nth-child({number})")
    before = leading(column(table, number))
    assert any(len(str(value)) != len(str(before[0])) for value in before)  # as words they would sort otherwise
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert leading(column(table, number)) == sorted(before)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert leading(column(table, number)) == sorted(before, reverse=True)
    first = table.locator("thead th").first
    first.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(table, 1) == sorted(column(table, 1), key=str.casefold)


def test_what_has_no_number_stands_last_either_way(visit, pages):
    page = visit(pages[0])
    table = page.locator("section[aria-labelledby=scores] table.sortable").first
    titles = table.locator("thead th").all_inner_texts()
    number = next(index for index, title in enumerate(titles, 1) if title.startswith("images a class"))
    button = table.locator(f"thead th:nth-child({number}) button")
    button.click()
    assert column(table, number)[-1] == "all"  # the whole data
    button.click()
    assert column(table, number)[-1] == "all"
    assert table.locator(f"thead th:nth-child({number})").get_attribute("aria-sort") == "descending"


def test_the_theme_is_the_systems_until_the_button_says_otherwise(visit, pages, shoot):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit(pages[0]), visit(pages[0], color_scheme="dark")
    bright, gloomy = light.evaluate(ground), dark.evaluate(ground)
    assert bright != gloomy
    shoot(dark, "dark-1")
    button = light.locator("#theme")
    assert button.inner_text() == "Dark"
    button.focus()
    light.keyboard.press("Space")
    assert light.evaluate(ground) == gloomy
    assert button.inner_text() == "Light"
    button.click()
    assert light.evaluate(ground) == bright


@pytest.mark.parametrize("which", [0, 1])
def test_a_phone_needs_no_sideways_scroll(visit, pages, shoot, which):
    page = visit(pages[which], viewport=PHONE, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter((one) =>
            !one.closest(".scroll table, .chart *, pre, .skip, svg *")
            && one.getBoundingClientRect().right > innerWidth + 1
        ).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert page.locator(".scroll").first.evaluate("one => getComputedStyle(one).overflowX") == "auto"
    shoot(page, f"phone-{which + 1}")


def test_paper_shows_the_last_images_and_nothing_to_press(visit, pages, shoot):
    page = visit(pages[0], color_scheme="dark")
    image = page.locator("image")
    last = image.get_attribute("href")
    page.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    page.emulate_media(media="print")
    playwright.expect(image).to_have_attribute("href", last)
    for gone in ("#theme", ".slider", "nav", ".skip", ".code button"):
        assert page.locator(gone).first.is_hidden(), gone
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 251)"
    shoot(page, "print-1")
    page.emulate_media(media="screen")
    playwright.expect(image).not_to_have_attribute("href", last)


def test_everything_to_press_is_reached_and_seen(visit, pages):
    page = visit(pages[1])
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("one => one === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    button = page.locator("thead button").first
    page.locator("#theme").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert button.evaluate("one => one.tabIndex") == 0
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, summary, [role=img], [role=region]")].filter((one) =>
            !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length)).length"""
    )
    assert unnamed == 0


def test_a_chart_tells_its_values_where_it_is_pointed_at(visit, pages):
    page = visit(pages[0])
    chart = page.locator(".chart svg:has([data-axes] .curve)").first
    chart.scroll_into_view_if_needed()
    chart.hover()
    assert re.search(r"at [\d.]+", page.locator("#tip").inner_text())
    assert chart.locator(".reader").count() == 1
    page.mouse.move(0, 0)
    assert chart.locator(".reader").count() == 0


def test_a_command_is_copied_whole(visit, pages):
    page = visit(pages[0], permissions=["clipboard-read", "clipboard-write"])
    block = page.locator("section[aria-labelledby=made] .code").first
    block.locator("button").click()
    playwright.expect(block.locator("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == block.locator("code").inner_text()
