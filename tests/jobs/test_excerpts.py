"""The documents that a person is shown: really the first, really left out, the same every time."""

from __future__ import annotations

import pytest

from penstock.jobs.curate import Curated
from penstock.jobs.excerpts import Excerpt, first_taken, some_left
from tests.pools import all_documents, documents, make, recipe_of, write_jsonl

SCORES = {f"d{number:04d}": float((number * 7) % 150) for number in range(150)}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    directory = tmp_path_factory.mktemp("looks")
    write_jsonl(directory / "pool" / "a.jsonl", documents(150, seed=7))
    recipe = recipe_of(directory, 5_000, "s")
    made = make(recipe, {"s": SCORES})
    return Curated(
        recipe=recipe,
        corpus=made.corpus,
        columns=made.columns,
        tokenizer=made.tokenizer,
        cut=made.cut,
        shards=made.cut,
    )


def test_the_first_taken_are_those_of_the_highest_scores(curated: Curated) -> None:
    best = sorted(SCORES, key=lambda name: -SCORES[name])
    known = {d.id: d for d in all_documents(curated.corpus, curated.tokenizer)}
    assert len({known[name].unit for name in best[:12]}) > 1
    looks = first_taken(curated, 12)
    assert [look.id for look in looks] == best[:12]
    assert [look.rank for look in looks] == list(range(1, 13))
    for look in looks:
        assert (look.text, look.source) == (known[look.id].text, known[look.id].source)
    everything = first_taken(curated, 10**6)
    assert [look.id for look in everything] == best[: curated.cut.facts["documents"]]
    assert first_taken(curated, 0) == []


def test_some_left_are_left_distinct_and_spread_over_the_pool(curated: Curated) -> None:
    taken = {look.id for look in first_taken(curated, 10**6)}
    known = {d.id: d for d in all_documents(curated.corpus, curated.tokenizer)}
    looks = some_left(curated, 15)
    ids = [look.id for look in looks]
    assert len(set(ids)) == 15
    assert not taken & set(ids)
    assert len({known[name].unit for name in ids}) > 1
    assert looks == some_left(curated, 15)
    assert looks[:4] == some_left(curated, 4)
    assert {look.id for look in some_left(curated, 10**6)} == set(known) - taken
    assert all(look.rank is None for look in looks)


def test_an_excerpt_is_one_line_cut_between_words() -> None:
    look = Excerpt(id="a", source="web", text="one two\n\n three\tfour " + "x" * 50)
    assert look.excerpt(100) == "one two three four " + "x" * 50
    assert look.excerpt(16) == "one two three …"
    assert "\n" not in look.excerpt()
