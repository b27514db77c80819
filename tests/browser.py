"""A real headless Chromium, for tests of the pages that a person opens.

Playwright drives the browser that is installed on this machine; it downloads none. Where there is
none, tests are skipped; with ``PENSTOCK_BROWSER=required``, as in CI, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["NARROW", "WIDE", "Chromium", "OpenPage", "chromium_or_skip"]

WIDE, NARROW = 1280, 390
"""Widths in CSS pixels: a laptop, and a phone with a touch screen."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPage:
    """A page in the browser, and what it did since it was opened."""

    page: Page
    console: list[str] = field(default_factory=list)
    """Errors and warnings of the console, refusals of a Content-Security-Policy among them."""
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions."""
    requests: list[str] = field(default_factory=list)
    """The URL of each request, that of the page itself first; ``data:`` is none."""
    dialogs: list[str] = field(default_factory=list)
    """What ``alert`` and its like showed; each was dismissed."""

    def assert_quiet(self) -> None:
        """Assert that there were no errors and no dialogs."""
        assert (self.console, self.errors, self.dialogs) == ([], [], [])

    def assert_fits(self) -> None:
        """Assert that the page is no wider than the window: nobody scrolls sideways."""
        size: Any = self.page.viewport_size
        # A phone's own clientWidth grows with the content.
        assert self.page.evaluate("document.documentElement.scrollWidth") <= size["width"]


class Chromium:
    """A running browser; every page has a context of its own, without cookies of others."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(
        self, url: str | Path, width: int = WIDE, height: int = 800, **options: Any
    ) -> OpenPage:
        """Open a page and wait until it is loaded.

        Args:
            url: A URL, or the path of a file.
            width, height: Of the window, in CSS pixels; at :data:`NARROW` it is a phone's.
            options: Of Playwright's ``Browser.new_context``, such as ``color_scheme="dark"``,
                ``offline=True`` or ``java_script_enabled=False``.
        """
        phone = {"is_mobile": True, "has_touch": True} if width <= NARROW else {}
        size: Any = {"width": width, "height": height}
        context = self._browser.new_context(viewport=size, **{**phone, **options})
        context.set_default_timeout(30_000)
        self._contexts.append(context)
        opened = OpenPage(page=context.new_page())
        opened.page.on(
            "console",
            lambda line: (
                opened.console.append(f"{line.type}: {line.text}")
                if line.type in ("error", "warning")
                else None
            ),
        )
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))

        def dismiss(dialog: Any) -> None:
            opened.dialogs.append(dialog.message)
            dialog.dismiss()

        opened.page.on("dialog", dismiss)
        opened.page.goto(url.resolve().as_uri() if isinstance(url, Path) else url)
        return opened

    def close_pages(self) -> None:
        """Close all pages; the browser goes on."""
        while self._contexts:
            self._contexts.pop().close()


@contextmanager
def chromium_or_skip() -> Iterator[Chromium]:
    """Start the browser; skip the test where there is none, or fail it where one is required.

    While it runs, ``asyncio.run`` fails in this thread: Playwright's own loop runs in it.
    """
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        problem = f"no {', '.join(_NAMES)} on PATH; Debian: apt-get install chromium"
        if os.environ.get("PENSTOCK_BROWSER") == "required":
            pytest.fail(f"PENSTOCK_BROWSER=required, but {problem}")
        pytest.skip(problem)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Tests run as root in containers, where Chromium's sandbox cannot start.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield Chromium(browser)
        finally:
            browser.close()
