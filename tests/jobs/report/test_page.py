"""The report in a real browser: quiet, at rest with strangers' texts, searched and filtered."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from penstock.jobs.curate import Curated
from penstock.jobs.report.figures import bar_rows
from penstock.jobs.report.page import render, report_directory, write_report
from tests.browser import NARROW, WIDE, Chromium, OpenPage
from tests.pools import documents, make, recipe_of, write_jsonl
from tests.rewritten import RewrittenPool

EVIL = (
    "<script>alert('text')</script></script><img src=https://example.org/x onerror=alert(1)> "
    "{{ 7 * 7 }} &lt;b&gt; ]]> <!-- --> </style></title><svg onload=alert(2)> evilword"
)
SOURCE = "<b onclick=alert(3)>web"
SCORES = {f"d{number:04d}": float(number * 7 % 150) for number in range(150)}
SCORES |= {"</script><script>alert('id')</script>": 500.0, "bidi": 499.0, "line": 498.0}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    directory = tmp_path_factory.mktemp("page")
    rows = [
        *documents(150, seed=7),
        {"id": "</script><script>alert('id')</script>", "text": EVIL, "source": SOURCE},
        {"id": "bidi", "text": "a\u202eb\u2066c\x1b[2J\x00d " * 3, "source": "\u202eews"},
        {"id": "line", "text": "x" * 30_000, "source": "wiki"},
    ]
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    recipe = recipe_of(directory, 9_000, {"s": 0.5, "</style>": 0.5}, clean={"where": "bytes > 40"})
    half = {name: score % 11 if score < 490 else score for name, score in SCORES.items()}
    return make(recipe, {"s": SCORES, "</style>": half}).curated()


def _comparison() -> dict[str, Any]:
    """A comparison as ``compare --json`` prints it, with names of strangers."""

    def measured(mean: float) -> dict[str, Any]:
        return {
            "bits_per_byte": {
                target: {
                    "mean": mean,
                    "std": 0.01,
                    "values": [mean, mean],
                    "stderr": {"seeds": 0.01, "examples": 0.02},
                }
                for target in ("</script>arc", "piqa")
            }
        }

    multiples = [
        {"multiple": number, "tokens": 1000 * number, "runs": [], **measured(1.5 - 0.1 * number)}
        for number in (1, 2, 4)
    ]
    arms = {
        "selected": {**measured(1.25), "tokens": 1000, "runs": ["/nowhere/run"], "seeds": [1, 2]},
        "<i>other": {**measured(1.6), "tokens": 1000, "runs": [], "seeds": [1, 2]},
        "random": {**multiples[0], "seeds": [1, 2], "multiples": multiples},
    }
    better = {"difference": -0.15, "interval": [-0.2, -0.1], "words": "better"}
    unclear = {"difference": 0.2, "interval": None, "words": "not distinguishable"}
    targets = ["</script>arc", "piqa"]
    return {
        "arms": arms,
        "verdict": {
            "selected": dict.fromkeys(targets, better),
            "<i>other": dict.fromkeys(targets, unclear),
        },
        "metric": "bits_per_byte",
        "metrics": ["bits_per_byte"],
        "targets": targets,
        "token_multiplier": {"</script>arc": 2 * 2**0.25, "piqa": ">4"},
        "token_multiplier_interval": {"</script>arc": [2.1, ">4"], "piqa": None},
        "notes": ["below every validated scale"],
    }


@pytest.fixture(scope="module")
def report(curated: Curated) -> Path:
    directory = report_directory(curated)
    directory.mkdir(parents=True)
    (directory / "comparison.json").write_text(json.dumps(_comparison()))
    path = write_report(curated)
    assert isinstance(path, Path)
    return path


def _shown(opened: OpenPage) -> int:
    return opened.page.locator("article[data-group]:visible").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_is_quiet_requests_nothing_and_fits(
    browser: Chromium, report: Path, width: int, scheme: str
) -> None:
    opened = browser.open(report, width, color_scheme=scheme, offline=True)
    opened.page.wait_for_timeout(100)
    opened.assert_quiet()
    opened.assert_fits()
    assert opened.requests == [report.as_uri()]
    assert 20 < _shown(opened) <= 5 * 6
    opened.page.locator("#all").click()
    assert _shown(opened) > 60 and opened.page.locator("#all").is_hidden()
    opened.assert_fits()
    buttons = opened.page.locator("#find .groups button").all()
    boxes = [own.bounding_box() for own in buttons]
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    for section in ("flow", "scores", "comparison", "pool", "documents", "recipe"):
        opened.page.locator(f"nav a[href='#{section}']").click()
        assert opened.page.locator(f"#{section}").is_visible()
    opened.assert_quiet()


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_typing_and_clicking_change_what_is_shown(
    browser: Chromium, report: Path, width: int
) -> None:
    opened = browser.open(report, width)
    page, few = opened.page, _shown(opened)
    page.locator("#all").click()
    everything = _shown(opened)
    assert page.locator("#shown").inner_text() == f"{everything} of {everything} documents"
    assert few < everything
    status = page.locator("#shown")
    page.locator("body").press("/")
    page.keyboard.type("EvilWord alert")
    assert _shown(opened) == 1
    assert status.inner_text() == f"1 of {everything} documents"
    assert page.evaluate("CSS.highlights.get('found').size") >= 2
    page.keyboard.type(" nowhere")
    assert _shown(opened) == 0 and page.locator("#none").is_visible()
    page.get_by_role("button", name="Clear").click()
    assert _shown(opened) == everything
    counts = {}
    for name in ("Taken first", "Just above the cut", "Just below the cut", "Left", "Dropped"):
        button = page.locator("#find button[data-group]", has_text=name)
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        counts[name] = _shown(opened)
        groups = page.locator("article:visible").evaluate_all(
            "own => own.map(e => e.dataset.group)"
        )
        assert set(groups) == {button.get_attribute("data-group")}
    assert sum(counts.values()) == everything and all(counts.values())
    page.get_by_role("button", name="All", exact=True).click()
    page.select_option("#source", label="code")
    sources = page.locator("article:visible").evaluate_all("own => own.map(e => e.dataset.source)")
    assert set(sources) == {"code"} and 0 < len(sources) < everything
    page.get_by_role("button", name="Clear").click()
    page.locator("#flow button", has_text="wiki").click()
    assert page.locator("#source").input_value() == "wiki" and 0 < _shown(opened) < everything
    opened.assert_quiet()


def test_texts_of_strangers_are_texts(browser: Chromium, report: Path) -> None:
    opened = browser.open(report)
    page = opened.page
    evil = page.locator("article", has_text="evilword")
    assert evil.locator(".text").inner_text() == EVIL
    assert evil.locator("h4").inner_text() == "</script><script>alert('id')</script>"
    assert page.locator("article img, article script, article b[onclick], svg[onload]").count() == 0
    bidi = page.locator("article", has=page.locator("h4", has_text="bidi"))
    assert r"a\u202eb\u2066c\x1b[2J\x00d" in bidi.locator(".text").inner_text()
    line = page.locator("article", has=page.locator("h4", has_text=re.compile("^line$")))
    line.get_by_role("button", name="Show more").click()
    assert "28,500 more characters" in line.inner_text()
    opened.assert_quiet()
    opened.assert_fits()
    # Even a script that got into the page would not run, and could send nothing.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'x:y'}))"
    )
    page.wait_for_timeout(50)
    assert any("Content Security Policy" in own for own in opened.console)


def test_keys_and_names_reach_every_control(browser: Chromium, report: Path) -> None:
    page = browser.open(report, NARROW).page
    unnamed = page.locator("button, input, select, a, summary").evaluate_all(
        "all => all.filter(e => !(e.innerText || e.getAttribute('aria-label') || e.hidden)).length"
    )
    assert unnamed == 0
    drawings = page.locator("svg:not([aria-hidden=true])")
    assert drawings.count() > 2
    assert drawings.and_(page.locator(":not([role=img]), :not([aria-label])")).count() == 0
    page.locator("#all").click()
    page.locator("#query").focus()
    for wanted in ("source", "All"):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.id || document.activeElement.innerText")
        assert focused == wanted
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("article:visible").count() == 20


_CONTRAST = """
() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const own = getComputedStyle(e).backgroundColor;
      if (own !== "rgba(0, 0, 0, 0)") return own;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const texts = "p, li, td, th, h1, h2, h3, h4, a, button, dt, dd, .text, svg text";
  for (const e of document.querySelectorAll(texts)) {
    const style = getComputedStyle(e);
    const [a, b] = [light(e.closest("svg") ? style.fill : style.color), light(ground(e))];
    const name = `${e.tagName}.${e.getAttribute("class")}`;
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), name]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(browser: Chromium, report: Path, scheme: str) -> None:
    """WCAG 2 AA: at least 4.5 to 1."""
    found = browser.open(report, color_scheme=scheme).page.evaluate(_CONTRAST)
    assert len(found) > 300
    assert [own for own in found if own[0] < 4.5] == []


def test_without_scripts_everything_can_be_read(browser: Chromium, report: Path) -> None:
    opened = browser.open(report, java_script_enabled=False)
    assert opened.page.locator("#find").is_hidden()
    assert opened.page.locator("article:visible").count() > 60


def test_the_page_is_bounded_whatever_names_and_texts_there_are(
    browser: Chromium, tmp_path: Path
) -> None:
    """Many sources with long names, long ids, texts of which every character becomes six."""
    rows = [
        {
            "id": f"{number}&{'<' * 5_000}",
            "text": f"{number} " + "\u202e" * 4_000,
            "source": source,
        }
        for number, source in enumerate(f"{n}-{'&' * 3_000}" for n in range(40))
    ]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    made = make(recipe_of(tmp_path, 64)).curated()
    path = write_report(made)
    assert isinstance(path, Path) and path.stat().st_size < 2_000_000
    opened = browser.open(path, NARROW)
    opened.assert_quiet()
    opened.assert_fits()


class PageLinks(HTMLParser):
    """The addresses and scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            assert not name.startswith("on") and name != "style"
            if name in ("href", "src", "action", "data", "srcset"):
                self.found.append(str(value))


def test_the_page_has_one_script_and_no_address(report: Path) -> None:
    links = PageLinks(report.read_text())
    assert links.scripts == 1
    assert links.found and all(own.startswith("#") for own in links.found)


def test_the_comparison_is_drawn_from_its_summary(report: Path) -> None:
    page = report.read_text()
    assert "selected is better than random" in page
    assert "random needs 2.38 times as many tokens to equal it" in page
    assert "2.10 to more than 4" in page and "does not equal it with 4 times" in page
    assert page.count('class="guide"') == 2, "how each multiplier was read off"
    assert page.count('class="dot better"') == 2 and page.count('class="dot unclear"') == 2


_CROSSING = """
() => {
  const found = [];
  for (const step of document.querySelectorAll(".step")) {
    const [name, number] = [".name bdi", ".n"].map((own) => {
      const range = document.createRange();
      range.selectNodeContents(step.querySelector(own));
      return [...range.getClientRects()];
    });
    for (const a of name) for (const b of number) {
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) {
        found.push(step.textContent);
      }
    }
  }
  return found;
}
"""


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_wrap_and_figures_fill_their_cards(
    browser: Chromium, rewritten: RewrittenPool, tmp_path: Path, width: int
) -> None:
    """Long names of rules beside their counts; histograms and the flow from edge to edge."""
    rows = [("gopher: max_duplicate_paragraph_characters_and_more", "first for 1,234 of 5,678 that "
             "fail it", [(3.0, "dropped"), (2.0, "left")])] * 14  # fmt: skip
    page = render(rewritten.curated)
    start, end = (
        page.index('<div class="steps stacked"'),
        page.index("</figure>", page.index("<b>Rules")),
    )
    path = tmp_path / "report.html"
    path.write_text(page[:start] + str(bar_rows(rows, "rules", 5)) + page[end:])
    opened = browser.open(path, width)
    opened.page.locator("details.rest").evaluate_all("all => all.forEach(e => { e.open = true; })")
    assert opened.page.locator(".step").count() > 20
    assert opened.page.evaluate(_CROSSING) == []
    for figure in opened.page.locator("svg.wide, .steps").all():
        own = figure.bounding_box()
        card = figure.locator("xpath=ancestor::*[contains(@class, 'card')]").bounding_box()
        assert own and card and own["width"] >= card["width"] - 40
    opened.assert_fits()
    opened.assert_quiet()
    # Two selectors make a mixture: no line marks the cut, and no legend names one.
    assert opened.page.locator("svg .cut, .key .dash").count() == 0


def test_numbers_of_the_page_are_those_of_the_summary(curated: Curated, report: Path) -> None:
    page, summary = report.read_text(), curated.summary()
    assert summary["digest"] in page
    for number in (*summary["tokens"].values(), summary["documents"]["kept"]):
        assert f"{number:,}" in page
    assert not math.isnan(summary["tokens"]["delivered"])
