"""The documents that a person is shown: really the first, really left out, the same every time."""

from __future__ import annotations

import pytest

from penstock.jobs.curate import Curated
from penstock.jobs.report.excerpts import Excerpt, first_taken, some_left
from tests.pools import all_documents, documents, make, recipe_of, write_jsonl

SCORES = {f"d{number:04d}": float((number * 7) % 150) for number in range(150)}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    directory = tmp_path_factory.mktemp("excerpts")
    write_jsonl(directory / "pool" / "a.jsonl", documents(150, seed=7))
    recipe = recipe_of(directory, 5_000, "s")
    return make(recipe, {"s": SCORES}).curated()


def test_the_first_taken_are_those_of_the_highest_scores(curated: Curated) -> None:
    best = sorted(SCORES, key=lambda name: -SCORES[name])
    known = {d.id: d for d in all_documents(curated.pool, curated.tokenizer)}
    assert len({known[name].unit for name in best[:12]}) > 1
    excerpts = first_taken(curated, 12)
    assert [excerpt.id for excerpt in excerpts] == best[:12]
    assert [excerpt.rank for excerpt in excerpts] == list(range(1, 13))
    for excerpt in excerpts:
        assert (excerpt.text, excerpt.source) == (known[excerpt.id].text, known[excerpt.id].source)
    everything = first_taken(curated, 10**6)
    assert [excerpt.id for excerpt in everything] == best[: curated.cut.facts["documents"]]
    assert first_taken(curated, 0) == []


def test_some_left_are_left_distinct_and_spread_over_the_pool(curated: Curated) -> None:
    taken = {excerpt.id for excerpt in first_taken(curated, 10**6)}
    known = {d.id: d for d in all_documents(curated.pool, curated.tokenizer)}
    excerpts = some_left(curated, 15)
    ids = [excerpt.id for excerpt in excerpts]
    assert len(set(ids)) == 15
    assert not taken & set(ids)
    assert len({known[name].unit for name in ids}) > 1
    assert excerpts == some_left(curated, 15)
    assert excerpts[:4] == some_left(curated, 4)
    assert {excerpt.id for excerpt in some_left(curated, 10**6)} == set(known) - taken
    assert all(excerpt.rank is None for excerpt in excerpts)


def test_an_excerpt_is_one_line_cut_between_words() -> None:
    excerpt = Excerpt(id="a", source="web", text="one two\n\n three\tfour " + "x" * 50)
    assert excerpt.excerpt(100) == "one two three four " + "x" * 50
    assert excerpt.excerpt(16) == "one two three …"
    assert "\n" not in excerpt.excerpt()
