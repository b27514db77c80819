"""A report of a recipe with a rewriter adds up the verdicts before it and after it."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from penstock.jobs.report.counting import count_pool, sample_scores
from penstock.jobs.report.excerpts import some_dropped
from penstock.jobs.report.page import render
from penstock.jobs.report.repeats import count_copies
from tests.rewritten import RewrittenPool


def test_the_pool_has_every_kind_of_loss(rewritten: RewrittenPool) -> None:
    late = Counter(rewritten.dropped[name] for name in rewritten.dropped.keys() - rewritten.earlier)
    early = Counter(rewritten.dropped[name] for name in rewritten.earlier)
    assert late["duplicate"] == 4 and early["duplicate"] == 8
    assert late["gopher_quality: min_words"] == 5 < early["gopher_quality: min_words"]
    assert early["where"] > 20 and early["tidy: blank"] == 3
    assert rewritten.by_reason == rewritten.curated.pool.documents["dropped_by"]


def test_histograms_count_each_dropped_document_once(rewritten: RewrittenPool) -> None:
    counts = count_pool(rewritten.curated, sample_scores(rewritten.curated))
    own = [rewritten.bytes[name] for name in rewritten.dropped]
    wanted = np.histogram(own, [*counts.length_edges[:-1].tolist(), np.inf])[0]
    assert counts.lengths[0].tolist() == wanted.tolist()
    read = rewritten.curated.pool.documents["read"] - 1
    assert counts.lengths.sum() == read
    assert counts.lengths[1:].sum() == counts.kept == read - len(rewritten.dropped)


def test_dropped_documents_are_drawn_from_both_verdicts(rewritten: RewrittenPool) -> None:
    found = some_dropped(rewritten.curated, 10**6)
    assert {one.id: one.reason for one in found} == rewritten.dropped
    assert len(found) == len(rewritten.dropped)
    texts = {one.id: one.text for one in found}
    assert "emptied" in texts["gone0"], "as it was before the rewriter"
    assert "mark" not in texts["short0"], "as the second verdict saw it"
    few = some_dropped(rewritten.curated, 8)
    assert Counter(one.reason for one in few) == dict.fromkeys(rewritten.by_reason, 2)


def test_copies_of_both_verdicts_go_to_the_document_that_stays(rewritten: RewrittenPool) -> None:
    copies = count_copies(rewritten.curated)
    assert copies.dropped == rewritten.by_reason["duplicate"] == 12
    # Two have copies before the rewriter, one of them and three others after it; of these the
    # last one's copy had a copy before.
    assert sorted((count for _, count in copies.largest), reverse=True) == [4, 4, 2, 1, 1]
    assert copies.stay == 5 and all(name.startswith("d0") for name, _ in copies.largest)
    assert dict(copies.sizes) == {"1": 2, "2": 1, "3 to 5": 2}


def test_the_page_says_what_both_verdicts_say(rewritten: RewrittenPool) -> None:
    page = render(rewritten.curated)
    assert "5 stayed in their place; a later rule may have dropped some" in page
    for rule in ("min_words", "min_lettered_words"):
        name = f"gopher_quality: {rule}"
        first, alone = rewritten.by_reason[name], rewritten.alone[name]
        found = re.search(rf"{name}</\w+>.*?first for ([\d,]+) of ([\d,]+)", page, re.DOTALL)
        assert found and found.groups() == (f"{first:,}", f"{max(alone, first):,}")
    taken = rewritten.curated.cut.facts["documents"]
    facts = rewritten.curated.corpus.facts["rewrites"]["tidy"]
    assert re.search(rf"<h1>[\d,]+ tokens from {taken} documents</h1>", page)
    assert re.search(r"Records read</dt><dd>421<small>1 not readable</small>", page)
    assert facts["changed"] == 9 < facts["accepted"]
    assert re.search(r"of these changed</td><td class=\"n\">9</td>", page)
    assert page.count('<article data-group="dropped"') == 20
