"""The page in a real browser: a slider moves, and the counts are those of the next ``curate``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import penstock
from penstock.recipe_file import load_recipe, override, parse_recipe
from tests.browser import NARROW, WIDE, Chromium, OpenPage
from tests.jobs.browse.conftest import RECIPE, BrowsedProject
from tests.jobs.browse.test_server import Serving
from tests.pools import write_jsonl

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> & zebra "


@pytest.fixture(scope="module")
def hostile(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> BrowsedProject:
    """The pool with texts, ids and sources that are markup."""
    directory = tmp_path_factory.mktemp("hostile")
    for name in ("scorers_of_browse.py", "tokenizer.json"):
        (directory / name).write_bytes((pool / name).read_bytes())
    lines = (pool / "pool.jsonl").read_text().splitlines()[:400]
    rows: list[dict[str, Any]] = [yaml.safe_load(line) for line in lines]
    for row in rows[::10]:
        row["text"] = HOSTILE + row["text"]
        row["id"] = f"<b onclick=alert(3)>{row['id']}</b>"
        row["source"] = "<i>web</i>"
    write_jsonl(directory / "pool.jsonl", rows)
    return BrowsedProject(
        directory, {**RECIPE, "budget": {"tokens": 9_000, "rank": {"length": 0.5, "drawn": 0.5}}}
    )


@pytest.fixture(scope="module")
def serving(hostile: BrowsedProject) -> Iterator[Serving]:
    hostile.curate({})
    found = Serving(hostile)
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.fixture(params=[WIDE, NARROW])
def opened(
    serving: Serving, browser: Chromium, request: pytest.FixtureRequest
) -> Iterator[OpenPage]:
    found = browser.open(serving.url, request.param)
    settle(found)
    yield found
    found.assert_quiet()
    found.assert_fits()
    assert all(url.startswith(f"http://127.0.0.1:{serving.port}/") for url in found.requests)


def settle(opened: OpenPage) -> None:
    opened.page.wait_for_selector("html[data-settled=yes]")


def move(opened: OpenPage, key: str, value: float) -> None:
    """Move a slider as a hand does: by its input event."""
    slider = opened.page.locator(f'[data-key="{key}"]')
    slider.evaluate(
        "(own, to) => { own.value = to; own.dispatchEvent(new Event('input')); }", value
    )
    settle(opened)


def number(opened: OpenPage, name: str) -> int:
    return int(opened.page.locator(f"#n-{name} b").inner_text().replace(",", ""))


def rows_of(opened: OpenPage) -> dict[str, list[str]]:
    """The table of sources: kept, taken, in, out, tokens."""
    rows = opened.page.locator("#sources tr").all()[1:]
    cells = [row.locator("td:not(.bar)").all_text_contents() for row in rows]
    return {first: [cell.replace(",", "") for cell in rest[:5]] for first, *rest in cells}


def test_a_moved_slider_shows_what_curate_takes(opened: OpenPage, hostile: BrowsedProject) -> None:
    before = number(opened, "taken")
    move(opened, "tokens", 5_024)
    move(opened, "rank.drawn", 0.9)
    move(opened, "where.1", 20)
    command = opened.page.locator("#command").inner_text()
    words = shlex.split(command)
    assert words[:3] == ["penstock", "curate", str(hostile.path)]
    settings = words[4::2]
    assert settings[0] == "budget.tokens=5024" and len(settings) == 3
    assert words[3::2] == ["--set"] * 3
    recipe = load_recipe(hostile.path, settings)
    change = yaml.safe_load(opened.page.locator("#yaml").inner_text())
    pasted = parse_recipe(override(yaml.safe_load(hostile.path.read_text()), change),
                          hostile.path.parent)  # fmt: skip
    assert (pasted.budget, pasted.clean) == (recipe.budget, recipe.clean)
    curated = penstock.curate(hostile.path, settings=settings, runner="local", workers=1)
    assert opened.page.locator("#state").get_attribute("class") == "exact"
    assert number(opened, "taken") == curated.cut.facts["documents"] != before
    assert number(opened, "tokens") == curated.cut.facts["delivered"]
    assert number(opened, "kept") == curated.pool.documents["kept"]
    assert number(opened, "dropped") == curated.pool.documents["dropped"]
    taken = {name: [row[1], row[4]] for name, row in rows_of(opened).items() if row[1] != "0"}
    assert taken == {
        name: [str(own["documents"]), str(own["tokens"])]
        for name, own in curated.cut.facts["by_source"].items()
    }
    opened.page.locator("#reset").click()
    settle(opened)
    assert number(opened, "taken") == before and not opened.page.locator("#copy").is_visible()


def test_documents_are_searched_and_shown_as_text(opened: OpenPage) -> None:
    page = opened.page
    assert page.locator("article").count() == 20
    order = page.locator("article .head", has_text="mixture 0.").all_inner_texts()
    told = [float(own.split("mixture ")[1].split()[0]) for own in order]
    assert len(told) == 20 and told == sorted(told), "from the last that is taken upwards"
    page.locator("#text").fill("zebra")
    settle(opened)
    shown = page.locator("article").count()
    page.locator("#side").select_option("first")
    settle(opened)
    shown += page.locator("article").count()
    assert shown > 0
    text = page.locator("article p").first.text_content() or HOSTILE
    assert text.startswith(HOSTILE[:40])
    assert page.locator("article b b, article i, article img, article script").count() == 0
    assert page.locator("#sources i").count() == 0
    page.locator("#source").select_option("<i>web</i>")
    settle(opened)
    page.locator("#text").fill("no document has this")
    settle(opened)
    assert page.locator("article").count() == 0
    assert "searched" in page.locator("#found").inner_text()


def test_what_cannot_be_answered_is_said(opened: OpenPage) -> None:
    page = opened.page
    condition = page.locator("textarea")
    condition.fill("words >")
    condition.blur()
    settle(opened)
    assert page.locator("#warning").is_visible()
    assert "clean.where" in page.locator("#warning").inner_text()
    condition.fill("words > 20 or meta.stars < 2")
    condition.blur()
    settle(opened)
    assert "curate" in page.locator("#warning").inner_text()
    assert page.locator("#state").get_attribute("class") == "guess"
    opened.console.clear()  # the browser notes the status 400 of the first


def test_the_panel_and_the_table_of_sources_are_all_in_view(opened: OpenPage) -> None:
    """The part to copy stays in the window, and no column of the sources is cut off."""
    page = opened.page
    assert page.locator("#no-line").is_visible(), "a mixture has no line in the charts of scores"
    move(opened, "tokens", 5_024)
    size = page.viewport_size
    assert size and "rm --unused" in page.locator("#copy .note").inner_text()
    if size["width"] == WIDE:
        box = page.get_by_role("button", name="Copy command").bounding_box()
        assert box and box["y"] + box["height"] <= size["height"]
        assert page.locator("#inputs").evaluate("own => own.clientHeight") > 100
    table = page.locator("#sources")
    assert table.evaluate("own => own.parentElement.scrollWidth <= own.parentElement.clientWidth")
    assert {"kept", "tokens", "line"} <= set(
        table.locator("td[data-label]").evaluate_all("all => all.map(e => e.dataset.label)")
    )
    # The parameter of a draw that is not chosen is hidden.
    assert page.get_by_label("temperature", exact=True).is_hidden()


def test_charts_and_sliders_have_every_column(opened: OpenPage) -> None:
    page = opened.page
    names = page.locator("#charts figcaption b").all_inner_texts()
    assert names[:3] == ["drawn", "length", "bytes"] and {"meta.stars", "words"} < {*names}
    assert page.locator("#charts rect.taken").count() > 20
    assert page.locator("#rule-charts figure").count() > 3
    page.locator("#inputs summary").click()
    move(opened, "gopher_quality.min_words", 30)
    assert "min_words: 30" in page.locator("#yaml").inner_text()
    page.locator("select[aria-label=shares]").select_option("pool")
    page.locator("select[aria-label=draw]").select_option("keep")
    settle(opened)
    change = yaml.safe_load(page.locator("#yaml").inner_text())
    assert change["budget"] == {"draw": {"uniform": {"keep": 0.5}}, "shares": "pool"}
