"""What a report counts equals a count by hand, whatever the units, sources and budget."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from penstock.jobs.curate import Curated
from penstock.jobs.rank_correlation import mid_ranks
from penstock.jobs.report.counting import ScoreSample, count_pool, edges_of, sample_scores
from penstock.jobs.report.excerpts import about_the_cut, first_taken, some_dropped, some_left
from penstock.jobs.report.flow import document_flow
from penstock.jobs.report.page import render
from penstock.jobs.report.repeats import count_copies
from penstock.jobs.report.selector_agreement import selector_agreement
from tests.pools import all_documents, documents, make, recipe_of, write_jsonl

SCORES = {f"d{number:04d}": float(number * 7 % 150) for number in range(150)}
SCORES |= {f"d{number:04d}": math.nan for number in range(0, 150, 10)}
OTHER = {name: -score for name, score in SCORES.items()}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Several units; copies, short documents and unreadable lines beside 150 with scores."""
    directory = tmp_path_factory.mktemp("counting")
    docs = documents(150, seed=7)
    copies = [{**docs[number % 2], "id": f"copy{number}"} for number in range(9)]
    write_jsonl(directory / "pool" / "a.jsonl", [*docs, *copies])
    (directory / "pool" / "b.jsonl").write_text('{"text": 3}\n{"broken\n')
    recipe = recipe_of(
        directory, 5_000, "s", clean={"dedup": {"exact": True}, "where": "words > 9"}
    )
    return make(recipe, {"s": SCORES, "other": OTHER}).curated()


def test_every_document_is_in_one_step_of_the_flow(curated: Curated) -> None:
    counts = count_pool(curated, sample_scores(curated))
    flow = document_flow(curated, counts.excluded)
    losses = {own.name: own.documents for own in flow.losses}
    kept = {own.id for own in all_documents(curated.pool, curated.tokenizer)}
    assert flow.read == 161 and flow.added == 0
    assert losses["duplicate"] == 9
    assert sum(own.documents for own in flow.losses if own.kind == "quarantined") == 2
    assert sum(own.documents for own in flow.losses if own.kind == "unscored") == sum(
        math.isnan(SCORES[name]) for name in kept
    )
    assert losses["where"] == 150 - len(kept)
    assert flow.begun == sum(losses.values()) + flow.taken


def test_histograms_count_each_document_once_by_source_and_fate(curated: Curated) -> None:
    counts = count_pool(curated, sample_scores(curated), sources=2)
    known = all_documents(curated.pool, curated.tokenizer)
    taken = {one.id for one in first_taken(curated, 10**6)}
    assert counts.others == 1 and counts.labels[2] == "1 other sources"
    assert set(counts.sources) <= {"web", "wiki", "code"}
    by_source = Counter(
        (own.source if own.source in counts.sources else None, own.id in taken)
        for own in known
        if not math.isnan(SCORES[own.id])
    )
    for number, source in enumerate((*counts.sources, None)):
        left, chosen = counts.scores["s"][number].sum(axis=1).tolist()
        assert (left, chosen) == (by_source[source, False], by_source[source, True])
        mine = [SCORES[own.id] for own in known if own.id in taken]
        if source is not None:
            mine = [SCORES[o.id] for o in known if o.id in taken and o.source == source]
            assert counts.lowest["s"][number] == min(mine)
    # Bins of the highest scores are taken, of the lowest left, and no bin below the cut is taken.
    low = min(SCORES[name] for name in taken)
    for edge, chosen in zip(counts.edges["s"][1:], counts.scores["s"][:, 1].sum(axis=0)):
        assert edge >= low or chosen == 0
    assert counts.lengths.sum() == curated.pool.documents["read"] - 2
    assert counts.lengths[2].sum() == len(taken)
    assert counts.lengths[0].sum() == curated.pool.documents["dropped"]


def test_a_sample_has_every_kth_document_over_all_units(curated: Curated) -> None:
    whole = sample_scores(curated)
    assert whole.step == 1 and len(curated.pool.units) > 2
    few = sample_scores(curated, 50)
    assert few.step == -(-curated.pool.kept // 50)
    np.testing.assert_array_equal(few.scores["s"], whole.scores["s"][:: few.step])
    assert len(few.scores["other"]) == len(few.scores["s"]) <= 50


@pytest.mark.parametrize(
    "values",
    [
        [],
        [3.0],
        [3.0, 3.0],
        [math.nan],
        [0.0, 1e38, -3e38],
        [1.0, 1.0 + 2**-23],
        [5.0] * 999 + [6.0],
    ],
)
def test_edges_rise_whatever_the_scores_are(values: list[float]) -> None:
    edges = edges_of(np.array(values, np.float32), 10)
    assert len(edges) == 11 and np.isfinite(edges).all() and (np.diff(edges) > 0).all()


def test_a_few_extreme_scores_do_not_empty_a_histogram() -> None:
    values = np.r_[np.linspace(0, 1, 10_000), 1e9].astype(np.float32)
    edges = edges_of(values)
    assert edges[-1] < 1.1


def test_agreement_is_that_of_ranks_with_ties_at_their_mean() -> None:
    np.testing.assert_array_equal(mid_ranks(np.array([5, 1, 5, 2])), [3.5, 1, 3.5, 2])
    assert len(mid_ranks(np.empty(0))) == 0
    chance = np.random.default_rng(3)
    one = chance.normal(size=500).astype(np.float32).round(1)
    other = (one + chance.normal(size=500)).astype(np.float32).round(1)
    other[::7] = np.nan
    (pair,) = selector_agreement(ScoreSample(step=1, scores={"one": one, "other": other}))
    stats = pytest.importorskip("scipy.stats")
    both = ~np.isnan(other)
    assert pair.documents == both.sum()
    assert pair.correlation == pytest.approx(stats.spearmanr(one[both], other[both]).statistic)
    scores = {"a": one, "b": one, "c": -one, "d": np.zeros(500, np.float32)}
    pairs = selector_agreement(ScoreSample(step=1, scores=scores))
    found = {(own.first, own.second): own for own in pairs}
    assert found["a", "b"].correlation == pytest.approx(1)
    assert found["a", "c"].correlation == pytest.approx(-1)
    assert found["a", "c"].overlap == 0
    assert found["a", "d"].correlation is None
    assert found["a", "d"].overlap == pytest.approx(0.1), "by chance, of equal documents"


def test_documents_about_the_cut_are_its_neighbours(curated: Curated) -> None:
    taken = [one.id for one in first_taken(curated, 10**6)]
    above, below = about_the_cut(curated, 6)
    assert [one.id for one in above] == taken[-6:]
    kept = {own.id for own in all_documents(curated.pool, curated.tokenizer)}
    left = [own for own in kept - set(taken) if not math.isnan(SCORES[own])]
    assert [one.id for one in below] == sorted(left, key=lambda name: -SCORES[name])[:6]
    assert all(one.scores["s"] == SCORES[one.id] for one in [*above, *below])
    everything = about_the_cut(curated, 10**6)
    assert [one.id for one in everything[0]] == taken
    assert {one.id for one in everything[1]} == set(left)


def test_with_shares_each_group_has_its_own_neighbours(tmp_path: object, curated: Curated) -> None:
    recipe = curated.recipe.model_copy(
        update={"budget": curated.recipe.budget.model_copy(update={"shares": {"wiki": 0.5}})}
    )
    made = make(recipe, {"s": SCORES}).curated()
    taken = {one.id: one for one in first_taken(made, 10**6)}
    above, below = about_the_cut(made, 4)
    for group in (above, below):
        assert Counter(one.source == "wiki" for one in group) == {True: 2, False: 2}
    for wiki in (True, False):
        lowest = min(SCORES[name] for name, one in taken.items() if (one.source == "wiki") == wiki)
        assert min(o.scores["s"] or 0 for o in above if (o.source == "wiki") == wiki) == lowest
        assert all((o.scores["s"] or 0) <= lowest for o in below if (o.source == "wiki") == wiki)


def test_dropped_documents_are_shown_with_their_rule(curated: Curated) -> None:
    found = some_dropped(curated, 6)
    assert Counter(one.reason for one in found) == {"duplicate": 3, "where": 3}
    assert found == some_dropped(curated, 6)
    everything = some_dropped(curated, 10**6)
    assert len(everything) == curated.pool.documents["dropped"]
    assert {one.id for one in everything if one.reason == "duplicate"} == {
        f"copy{number}" for number in range(9)
    }
    assert all(one.reason is None and one.scores for one in some_left(curated, 5))


def test_copies_are_counted_for_each_document_that_stays(curated: Curated) -> None:
    copies = count_copies(curated)
    assert (copies.dropped, copies.stay, copies.near) == (9, 2, None)
    assert copies.largest == (("d0000", 5), ("d0001", 4))
    assert dict(copies.sizes) == {"3 to 5": 2}


@pytest.mark.slow
def test_languages_are_counted_by_fate(tmp_path: Path) -> None:
    english = "The water flows through the gate to the turbine, and the river is wide and cold."
    german = "Das Wasser fließt durch das Tor zur Turbine, und der Fluss ist breit und kalt."
    rows = [{"id": f"e{n}", "text": f"{english} {n}", "source": "web"} for n in range(20)]
    rows += [{"id": f"g{n}", "text": f"{german} {n}", "source": "web"} for n in range(10)]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    made = make(recipe_of(tmp_path, 160, clean={"where": "language == 'en'"})).curated()
    counts = count_pool(made, sample_scores(made))
    taken = made.cut.facts["documents"]
    assert counts.languages == {"en": (0, 20 - taken, taken), "de": (10, 0, 0)}
    assert "<b>Languages</b>" in render(made)
