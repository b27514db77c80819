"""Browse of a recipe with a rewriter: what was dropped before it is counted, listed and found."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from penstock.jobs.browse.preview import BrowsedRecipe
from penstock.jobs.browse.views import DocumentViews
from penstock.jobs.plan import Plan
from tests.rewritten import RewrittenPool


@pytest.fixture(scope="module")
def browsed(rewritten: RewrittenPool) -> BrowsedRecipe:
    return BrowsedRecipe(Plan.of(rewritten.curated.recipe), rewritten.curated)


@pytest.mark.parametrize("change", [{}, {"budget": {"tokens": 4_000}}])
def test_counts_are_those_of_both_verdicts(
    rewritten: RewrittenPool, browsed: BrowsedRecipe, change: dict[str, object]
) -> None:
    preview = browsed.answer(change).preview
    assert preview.dropped_by == rewritten.by_reason
    counts = rewritten.curated.pool.documents
    assert preview.kept == counts["kept"] and sum(preview.dropped_by.values()) == counts["dropped"]
    assert preview.exact and preview.taken > 0
    assert len(browsed.columns) == counts["read"] - counts["quarantined"]


def test_lists_and_searches_have_what_was_dropped_before_a_rewriter(
    rewritten: RewrittenPool, browsed: BrowsedRecipe
) -> None:
    views, answer = DocumentViews(browsed), browsed.base
    found = views.documents(answer, "dropped", count=10**6).documents
    assert {one.id: one.reason for one in found} == rewritten.dropped
    assert {one.id: one.bytes for one in found} == {
        name: rewritten.bytes[name] for name in rewritten.dropped
    }
    emptied = views.documents(answer, "dropped", text="EMPTIED by", count=50)
    assert sorted(one.id for one in emptied.documents) == ["gone0", "gone1", "gone2"]
    assert all("emptied by" in one.text for one in emptied.documents)
    assert emptied.complete and emptied.searched == len(rewritten.dropped)
    wiki = views.documents(answer, "dropped", source="wiki", count=10**6).documents
    assert len(wiki) == Counter(one.source for one in found)["wiki"] > 3
    taken = views.documents(answer, "first", count=10**6).documents
    assert len(taken) == answer.preview.taken
    assert all(one.reason is None and len(one.text.encode()) <= one.bytes for one in taken)


def test_documents_dropped_earlier_are_in_no_histogram(
    rewritten: RewrittenPool, browsed: BrowsedRecipe
) -> None:
    views = DocumentViews(browsed)
    shown = dict(zip((own.name for own in views.bins), views.histograms(browsed.base)))
    for name in ("bytes", "source", "length"):
        assert sum(shown[name]["kept"]) == browsed.base.preview.kept
    gone = np.flatnonzero(browsed.columns.reasons > 0)
    places = [browsed.columns.unit_at(row) for row in gone.tolist()]
    assert {unit.id_at(row) for unit, row in places} == set(rewritten.dropped)
