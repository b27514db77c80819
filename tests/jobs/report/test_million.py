"""A report on a million documents: small, quick to open, and counted to the document."""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path

import pytest

from penstock.jobs.curate import Curated, curate
from penstock.jobs.report.page import write_report
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import load_recipe
from tests.browser import NARROW, WIDE, Chromium

DOCUMENTS = 1_000_000

RECIPE = """
corpus: [{path: pool/*.jsonl}]
clean: {where: "words > 5", dedup: {exact: true}}
select: {length: {use: "mine:length"}, spread: {use: "mine:spread"}}
budget: {tokens: 6_000_000, rank: {length: 0.7, spread: 0.3}}
tokenizer: {train: {vocab_size: 2048}}
"""

SCORERS = """
import zlib

def length(texts):
    return [len(t) ** 0.5 + zlib.crc32(t.encode()) % 1000 / 300 for t in texts]

def spread(texts):
    return [len(t) ** 0.4 + zlib.adler32(t.encode()) % 997 / 200 for t in texts]
"""

WEIGHTS = {"web": 40, "wiki": 20, "code": 10, "books": 8, "forums": 6, "news": 5, "papers": 4}


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    directory = tmp_path_factory.mktemp("million")
    chance = random.Random(5)
    words = [f"w{chance.randrange(10**6):x}" for _ in range(5000)] + ["the", "of", "and"] * 200
    (directory / "pool").mkdir()
    for file in range(8):
        with (directory / "pool" / f"{file}.jsonl").open("w") as sink:
            for number in range(DOCUMENTS // 8):
                text = " ".join(chance.choices(words, k=int(chance.lognormvariate(2.7, 0.7)) + 1))
                if number % 50 == 0:
                    text = f"a copy {chance.randrange(3000)} of what is said often in this pool"
                if number % 1000 == 1:
                    text = f"<script>alert(1)</script> {text}"
                source = chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
                row = {"id": f"d{file}-{number}", "text": text, "source": source}
                sink.write(json.dumps(row) + "\n")
    (directory / "mine.py").write_text(SCORERS)
    (directory / "recipe.yaml").write_text(RECIPE)
    return curate(load_recipe(directory / "recipe.yaml"), LocalRunner(1))


@pytest.mark.whole
@pytest.mark.timeout(1800)
def test_a_report_on_a_million_documents_opens_at_once(browser: Chromium, million: Curated) -> None:
    """At most 5 MB and, in the median of five, 2 s until the page has filtered its documents."""
    path = write_report(million)
    assert isinstance(path, Path) and path.stat().st_size <= 5_000_000
    assert "1,000,000 · 100.0%" in path.read_text()
    for width in (WIDE, NARROW):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            opened = browser.open(path, width)
            opened.page.wait_for_selector("#find:visible")
            seconds.append(time.perf_counter() - start)
            opened.assert_quiet()
            assert opened.requests == [path.as_uri()]
        assert statistics.median(seconds) <= 2, seconds
