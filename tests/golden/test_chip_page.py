"""The page of chips says what the chip files say, in both languages."""

from __future__ import annotations

import pytest

from kit import chip
from tests import chip_page
from tests.conftest import ROOT

PAGES = {"en": ROOT / "docs/chips.md", "zh": ROOT / "docs/chips_zh.md"}
SHIPPED = sorted(path.parent.name for path in (ROOT / "images").glob("*/chip.toml"))


@pytest.mark.parametrize("language", PAGES)
def test_page_is_made_from_the_data(language: str, request: pytest.FixtureRequest) -> None:
    text = chip_page.render([chip.load(name) for name in SHIPPED], language)
    if request.config.getoption("--update-golden"):
        PAGES[language].write_text(text, encoding="utf-8")
    assert text == PAGES[language].read_text(encoding="utf-8")
