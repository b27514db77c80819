"""The browser of the tests reports what a page does, so that tests of pages can fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.browser import NARROW, WIDE, Chromium, chromium_or_skip

_HEAD = '<!doctype html><meta name="viewport" content="width=device-width"><title>Page</title>'


def _page(tmp_path: Path, body: str, head: str = "") -> Path:
    path = tmp_path / "page.html"
    path.write_text(_HEAD + head + body, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_harmless_page_is_quiet_at_the_width_that_was_asked_for(
    browser: Chromium, tmp_path: Path, width: int
) -> None:
    path = _page(tmp_path, "<h1>Hello</h1>")
    opened = browser.open(path, width)
    opened.assert_quiet()
    opened.assert_fits()
    assert opened.page.evaluate("window.innerWidth") == width
    assert opened.requests == [path.as_uri()]


def test_errors_dialogs_requests_and_width_are_seen(browser: Chromium, tmp_path: Path) -> None:
    script = "console.error('one'); alert('two'); setTimeout(() => { throw Error('three') })"
    wide = '<div style="width: 2000px; height: 1px"></div>'
    body = f'{wide}<img src="gone.png"><script>{script}</script>'
    opened = browser.open(_page(tmp_path, body), NARROW)
    until = time.monotonic() + 5
    while not opened.errors and time.monotonic() < until:
        opened.page.wait_for_timeout(100)
    assert opened.dialogs == ["two"]
    assert opened.errors == ["three"]
    assert any("one" in line for line in opened.console)
    assert [url.rpartition("/")[2] for url in opened.requests] == ["page.html", "gone.png"]
    with pytest.raises(AssertionError):
        opened.assert_quiet()
    with pytest.raises(AssertionError):
        opened.assert_fits()


def test_what_a_policy_refuses_is_an_error_of_the_console(
    browser: Chromium, tmp_path: Path
) -> None:
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    opened = browser.open(_page(tmp_path, "<script>alert(1)</script>", policy))
    assert opened.dialogs == []
    assert any("Content Security Policy" in line for line in opened.console)


def test_a_missing_browser_skips_and_fails_where_one_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PENSTOCK_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="chromium"), chromium_or_skip():
        pass
    monkeypatch.setenv("PENSTOCK_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match="PENSTOCK_BROWSER"), chromium_or_skip():
        pass
