"""A real browser: Playwright's own Chromium (`playwright install chromium`) or the system's; else its tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        if not own.exists() and installed is None:
            pytest.skip("no Chromium here: neither Playwright's own (playwright install chromium) nor the system's")
        try:
            started = playwright.chromium.launch(
                executable_path=None if own.exists() else installed,
                args=["--no-sandbox", "--disable-gpu"],
                timeout=120_000,
            )
        except Error as error:
            pytest.skip(f"Chromium does not start here: {error}")
        yield started
        started.close()
