"""Previews, compared document by document with the ``curate`` that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from penstock.errors import PenstockError
from penstock.jobs.browse.changes import apply_change, as_settings, as_yaml
from penstock.jobs.browse.columns import UNKNOWN
from penstock.jobs.browse.exclusions import FirstOfEqual
from penstock.jobs.browse.preview import BrowsedRecipe, Previewed
from penstock.jobs.browse.views import DocumentViews
from penstock.jobs.curate import Curated
from penstock.recipe_file import load_recipe, override, parse_recipe
from tests.jobs.browse.conftest import RECIPE, BrowsedProject, taken_by

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "less": {"budget": {"tokens": 12_000}},
    "more": {"budget": {"tokens": 70_000}},
    "a share": {"budget": {"tokens": "20%"}},
    "one column": {"budget": {"rank": "drawn"}},
    "random": {"budget": {"rank": "random"}},
    "weights": {"budget": {"rank": {"length": 0.9, "drawn": 0.1}}},
    "weights with random": {"budget": {"rank": {"length": 0.2, "random": 0.8}}},
    "given shares": {"budget": {"shares": {"wiki": 0.5, "code": 0.25}}},
    "whole shares": {"budget": {"shares": {"wiki": 0.5, "web": 0.5}}},
    "pool": {"budget": {"shares": "pool", "tokens": 25_000}},
    "short": {"budget": {"shares": {"code": 0.9}, "allow_short": True}},
    "gumbel": {"budget": {"rank": "drawn", "draw": {"gumbel": {"temperature": 3.0}}}},
    "best": {"budget": {"draw": {"uniform": {"keep": 0.6}}}},
    "best of shares": {
        "budget": {"draw": {"uniform": {"keep": 0.7}}, "shares": {"web": 0.4}, "tokens": 20_000}
    },
    "above": {"budget": {"rank": "length", "draw": {"uniform": {"above": 40.0}}, "tokens": 15_000}},
    "condition": {"clean": {"where": "meta.stars >= 6 and words > 4"}},
    "condition of a column": {"clean": {"where": "meta.stars >= 3 and words > 30"}},
    "threshold": {"clean": {"rules": {"gopher_quality": {"min_words": 25}}}},
    "both": {
        "clean": {
            "where": "meta.stars > 3 and bytes > 100",
            "rules": {"gopher_quality": {"max_words": 100}},
        },
        "budget": {"tokens": 12_000, "rank": {"length": 0.3, "drawn": 0.7}, "shares": "pool"},
    },
}


def counted(browsed: BrowsedRecipe, change: dict[str, Any]) -> Previewed:
    """Previewed, and count tokens until the answer is exact."""
    answer = browsed.answer(change)
    for _ in range(20):
        if not answer.preview.uncounted:
            return answer
        assert not answer.preview.exact
        browsed.count_tokens(answer)
        answer = browsed.answer(change)
    raise AssertionError("tokens are never all counted")


def taken(browsed: BrowsedRecipe, answer: Previewed) -> dict[tuple[int, int], int]:
    assert answer.cut is not None
    places = [browsed.columns.unit_at(row) for row in answer.cut.rows.tolist()]
    return {
        (unit.number, row): tokens
        for (unit, row), tokens in zip(places, answer.cut.tokens.tolist(), strict=True)
    }


def check_pool(answer: Previewed, curated: Curated) -> None:
    """Compare the counts of what is kept with the accounting of ``curate``."""
    preview, counts = answer.preview, curated.pool.documents
    assert preview.kept == counts["kept"]
    assert dict(preview.dropped_by) == counts["dropped_by"]
    kept = {name: own.kept for name, own in preview.by_source.items() if own.kept}
    assert kept == {name: own["documents"] for name, own in curated.pool.by_source.items()}


def check_cut(answer: Previewed, curated: Curated) -> None:
    """Compare the counts of what is taken."""
    preview = answer.preview
    assert preview.taken == curated.cut.facts["documents"] > 0
    assert preview.delivered == curated.cut.facts["delivered"] > 0
    assert preview.requested == curated.cut.facts["requested"]
    by_source = {
        name: {"documents": own.taken, "tokens": own.tokens}
        for name, own in preview.by_source.items()
        if own.taken
    }
    assert by_source == curated.cut.facts["by_source"]
    groups = [{"source": own.source, "tokens": own.delivered} for own in preview.groups]
    assert groups == curated.cut.facts["groups"]


INEXACT = ("condition", "both")
"""Copies of documents that the condition now drops are kept, and were never scored."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_preview_takes_what_curate_takes(
    name: str, project: BrowsedProject, browsed: BrowsedRecipe
) -> None:
    change = CHANGES[name]
    answer = counted(browsed, change)
    before, now = taken(browsed, browsed.base), taken(browsed, answer)
    curated = project.curate(change)
    check_pool(answer, curated)
    assert answer.preview.came == len(now.keys() - before.keys())
    assert answer.preview.went == len(before.keys() - now.keys())
    assert answer.preview.came + answer.preview.went > 0 or not change
    assert answer.preview.exact == (name not in INEXACT)
    if answer.preview.exact:
        assert now == taken_by(curated)
        check_cut(answer, curated)
    else:
        assert any("no score" in own for own in answer.preview.needs)


def test_the_order_is_by_tokens_that_are_counted(project: BrowsedProject) -> None:
    """Tokens of documents beyond the recipe's own cut are estimated, then counted in memory."""
    browsed = project.browsed()
    columns = browsed.columns
    columns.tokens[~browsed.base.taken] = UNKNOWN
    change = CHANGES["more"]
    first = browsed.answer(change)
    assert first.preview.uncounted > 0 and not first.preview.exact
    left = browsed.count_tokens(first, most_bytes=10_000)
    assert 0 < left < first.preview.uncounted
    last = counted(browsed, change)
    assert taken(browsed, last) == taken_by(project.curate(change))


def test_of_the_document_in_which_the_budget_ends_both_numbers_are_shown(
    project: BrowsedProject,
) -> None:
    browsed = project.browsed()
    answer = browsed.answer({})
    views = DocumentViews(browsed)
    some = [
        *views.documents(answer, "above").documents,
        *views.documents(answer, "below").documents,
    ]
    cut = taken_by(project.curate({}))
    units = browsed.curated.pool.units
    rows = {
        name: (unit.number, row)
        for unit in units
        for row, name in zip(unit.numbers().tolist(), unit.read_rows(["id"])["id"].to_pylist())
    }
    for one in some:
        assert one.taken_tokens == cut.get(rows[one.id])
    (last,) = [one for one in some if one.taken and one.taken_tokens != one.tokens]
    assert 0 < last.taken_tokens < last.tokens


def test_a_trained_tokenizer_and_a_fitted_selector_need_curate(pool: Path) -> None:
    (pool / "target.jsonl").write_text('{"text": "water turbine gate"}\n' * 20)
    tree = {
        **RECIPE,
        "tokenizer": {"train": {"vocab_size": 384}},
        "select": {"near": {"use": "dsir", "target": ["target.jsonl"], "sample": 500}},
        "budget": {"tokens": 20_000, "rank": "near"},
    }
    project = BrowsedProject(pool, tree)
    browsed = project.browsed()
    change = {"clean": {"where": "meta.stars >= 3 and words > 30"}}
    answer = browsed.answer(change)
    check_pool(answer, project.curate(change))
    assert len(answer.preview.needs) == 2 and not answer.preview.exact
    less = counted(browsed, CHANGES["less"])
    assert less.preview.exact
    assert taken(browsed, less) == taken_by(project.curate(CHANGES["less"]))
    BrowsedProject(pool, RECIPE)  # the file as other tests have it


def test_near_duplicates_need_curate_where_the_pool_changes(pool: Path) -> None:
    tree = {**RECIPE, "clean": {**RECIPE["clean"], "dedup": {"minhash": {}}}}
    project = BrowsedProject(pool, tree)
    browsed = project.browsed()
    assert counted(browsed, CHANGES["less"]).preview.exact
    answer = browsed.answer(CHANGES["threshold"])
    assert not answer.preview.exact and answer.preview.needs
    assert answer.preview.kept < browsed.base.preview.kept
    BrowsedProject(pool, RECIPE)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"budget": {"tokens": -1}}, "budget.tokens"),
        ({"budget": {"seed": 1}}, "budget.seed"),
        ({"select": {"length": None}}, "select"),
        ({"clean": {"where": "stars >"}}, "clean.where"),
        ({"clean": {"where": "language == 'en'"}}, "clean.where"),
        ({"clean": {"rules": {"c4": {}}}}, "clean.rules"),
        ({"clean": {"rules": {"gopher_quality": {"min_word": 3}}}}, "clean.rules"),
        ({"budget": {"rank": "nothing"}}, "budget.rank"),
        ({"budget": 3}, "budget"),
    ],
)
def test_a_wrong_change_names_its_key(
    browsed: BrowsedRecipe, change: dict[str, Any], key: str
) -> None:
    with pytest.raises(PenstockError) as caught:
        browsed.answer(change)
    assert (caught.value.key or "").startswith(key)


def test_a_budget_that_the_pool_lacks_is_a_problem_and_no_error(browsed: BrowsedRecipe) -> None:
    preview = counted(browsed, {"budget": {"tokens": 10_000_000}}).preview
    assert preview.problem and preview.taken == 0 and not preview.exact
    nothing = browsed.answer({"clean": {"where": "words > 100000"}}).preview
    assert nothing.problem and nothing.kept == 0


@pytest.mark.parametrize("name", CHANGES)
def test_a_copied_change_is_the_recipe_of_the_preview(name: str, project: BrowsedProject) -> None:
    change = CHANGES[name]
    recipe = load_recipe(project.path)
    wanted = apply_change(recipe, change)
    assert load_recipe(project.path, as_settings(change)).budget == wanted.budget
    tree = yaml.safe_load(project.path.read_text())
    pasted = parse_recipe(
        override(tree, yaml.safe_load(as_yaml(change)) or {}), project.path.parent
    )
    for other in (pasted, load_recipe(project.path, as_settings(change))):
        assert (other.budget, other.clean.where) == (wanted.budget, wanted.clean.where)
        assert other.clean.rules == wanted.clean.rules


def test_the_first_of_equal_texts_that_is_not_excluded_stays() -> None:
    chance = np.random.default_rng(3)
    hashes = chance.integers(0, 40, (500, 2)).astype(np.uint64)
    hashes[:, 1] %= np.uint64(3)  # equal halves are not equal hashes
    excluded = chance.random(500) < 0.4
    seen: set[tuple[int, ...]] = set()
    wanted = []
    for row, key in enumerate(map(tuple, hashes.tolist())):
        if not excluded[row]:
            wanted += [row] if key in seen else []
            seen.add(key)
    equal = FirstOfEqual.of(hashes)
    assert equal.repeats(excluded).tolist() == wanted != []
    assert equal.repeats(np.ones(500, bool)).tolist() == []
