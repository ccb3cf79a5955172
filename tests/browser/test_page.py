"""Report pages in a real browser: tables in both languages, sorting, filtering, print, accessibility, phone and desk, hostile names.

Chromium comes from the system (`chromium` of Debian); nothing is fetched. CHIPASSAY_SCREENSHOTS=DIR keeps the pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.report import body, compare, html, words
from kit.report.blocks import Table
from kit.report.source import Source, read
from tests import hostile, synthetic
from tests.unit.test_report import AUDIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: report and comparison in both languages, and the hostile one."""
    folder = tmp_path_factory.mktemp("pages")
    plain = Source(json.loads(json.dumps(synthetic.result().document())), {})
    full = Source(json.loads(json.dumps(synthetic.result(full_baseline=True).document())), {})
    pages = {}
    for language in words.LANGUAGES:
        pages[f"report-{language}"] = body.page(plain, words.load(language))
        pages[f"full-{language}"] = body.page(full, words.load(language))
        pages[f"compare-{language}"] = compare.page([plain, full, read(Path("a100-report-0.2.1"))], words.load(language))
        pages[f"audit-{language}"] = body.page(replace(plain, audit=AUDIT), words.load(language))
        pages[f"hostile-{language}"] = body.page(Source(hostile.document(), {}, hostile.MARKUP), words.load(language))
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(html.render(page), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


class Shown:
    """A page that was opened, and what the browser complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.complaints.append(request.url) if not request.url.startswith("file:") else None)
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.complaints == []


NAMES = [f"{kind}-{language}" for kind in ("report", "full", "compare", "hostile", "audit") for language in words.LANGUAGES]


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_table_is_there_with_and_without_script(browser: Any, files: dict[str, Path], language: str, script: bool) -> None:
    expected = body.page(Source(json.loads(json.dumps(synthetic.result().document())), {}), words.load(language))
    with Shown(browser, files[f"report-{language}"], java_script_enabled=script) as page:
        for block in expected.blocks:
            if isinstance(block, Table):
                assert page.locator(f'[id="{block.anchor}"] tbody tr').count() == len(block.rows)
                assert page.locator(f'[id="{block.anchor}"]').is_visible()
        first = page.locator('[id="table-communication"] tbody tr').first.inner_text()
        assert "126.905" in first
        assert "2148.34" in first


def column(page: Any, table: str, at: int) -> list[str]:
    return [row.strip() for row in page.locator(f'[id="{table}"] tbody tr:visible td:nth-child({at})').all_inner_texts()]


def test_sorting_by_keyboard_and_mouse(browser: Any, files: dict[str, Path]) -> None:
    with Shown(browser, files["report-en"]) as page:
        before = [float(text) for text in column(page, "table-communication", 7)]
        button = page.locator('[id="table-communication"] thead th:not(.group) button').nth(6)
        head = page.locator('[id="table-communication"] th[aria-sort]')
        buttons = page.locator('[id="table-communication"] thead button').all_inner_texts()
        assert buttons.count("baseline") == 3
        button.click()
        assert head.count() == 1
        page.locator('[id="table-communication"] thead tr:nth-child(2) button').nth(1).focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(text) for text in column(page, "table-communication", 7)] == sorted(before)
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(text) for text in column(page, "table-communication", 7)] == sorted(before, reverse=True)


def test_filtering(browser: Any, files: dict[str, Path]) -> None:
    with Shown(browser, files["report-zh"]) as page:
        box = page.locator('.table:has([id="table-text_generation"]) input')
        box.fill("7B")
        assert page.locator('[id="table-text_generation"] tbody tr:visible').count() == 35
        box.fill("nothing fits this")
        assert page.locator('[id="table-text_generation"] tbody tr:visible').count() == 0
        box.fill("")
        assert page.locator('[id="table-text_generation"] tbody tr:visible').count() == 84
        page.locator('.table:has([id="table-communication"])').wait_for()
        assert page.locator('.table:has([id="table-communication"]) input').count() == 0


def test_comparison_sorts_and_filters(browser: Any, files: dict[str, Path]) -> None:
    with Shown(browser, files["compare-en"]) as page:
        page.locator('.table:has([id="table-metrics"]) input').fill("first_token_latency")
        assert page.locator('[id="table-metrics"] tbody tr:visible').count() == 84
        page.locator('[id="table-scores"] thead button').nth(1).click()
        shown = column(page, "table-scores", 2)
        assert shown == sorted(shown, key=str.lower)


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_the_audit_stands_in_its_slot(browser: Any, files: dict[str, Path], language: str) -> None:
    say = words.load(language).say
    with Shown(browser, files[f"audit-{language}"], java_script_enabled=False) as page:
        headings = page.locator("main h1, main h2, main h3, main h4, main h5").all_inner_texts()
        assert say("heading.audit") in headings
        row = page.locator('[id="table-audit"] tbody tr')
        assert row.count() == 1
        assert row.locator("td, th").all_inner_texts()[-4:] == ["97.9", "0.0015", "0.02", say("decision.pass")]


@pytest.mark.parametrize(
    ("name", "scheme"), [("report-en", "light"), ("full-zh", "dark"), ("compare-en", "dark"), ("hostile-zh", "light"), ("audit-zh", "dark")]
)
def test_nothing_to_complain_about_accessibility(browser: Any, files: dict[str, Path], name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with Shown(browser, files[name], color_scheme=scheme, bypass_csp=True) as page:
        found = Axe().run(page)
        assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found.response["violations"]] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_page_fits_its_width_and_has_a_picture(browser: Any, files: dict[str, Path], name: str, width: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("CHIPASSAY_SCREENSHOTS", tmp_path))
    with Shown(browser, files[name], WIDTHS[width]) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        picture = folder / f"{name}-{width}.png"
        page.screenshot(path=str(picture))
        assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_printing_keeps_every_number_and_no_controls(browser: Any, files: dict[str, Path], language: str, tmp_path: Path) -> None:
    with Shown(browser, files[f"report-{language}"]) as page:
        page.pdf(path=str(tmp_path / "p.pdf"), format="A4", prefer_css_page_size=True)
    text = subprocess.run(["pdftotext", "-layout", str(tmp_path / "p.pdf"), "-"], capture_output=True, text=True, check=True).stdout
    for number in ("126.905", "2148.34", "1587.6", "0.975"):
        assert number in text
    assert words.load(language).say("filter") not in text


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_hostile_names_do_nothing(browser: Any, files: dict[str, Path], language: str) -> None:
    with Shown(browser, files[f"hostile-{language}"]) as page:
        assert page.title().startswith(words.load(language).say("title.report"))
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 1
        page.locator('[id="table-findings"] thead button').first.click()


def test_policy_stops_foreign_script(browser: Any, files: dict[str, Path]) -> None:
    """The policy is real: the same page with a script slipped in does not run it."""
    broken = files["report-en"].with_name("broken.html")
    text = files["report-en"].read_text(encoding="utf-8")
    broken.write_text(text.replace("</main>", "</main><script>document.title = 'broken'</script>"), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(broken.as_uri())
    assert page.title() != "broken"
    context.close()
