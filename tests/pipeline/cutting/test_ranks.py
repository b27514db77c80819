"""Ranks computed from a cut against a plain sort of all documents that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artefact import Artefact
from penstock.pipeline.cutting.ranks import first_ranked, rank_of
from penstock.storage import as_path
from tests.pools import Made, all_documents, documents, make, recipe_of, ties, write_jsonl

IDS = [f"d{number:04d}" for number in range(200)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several units; five documents of different units have one id."""
    directory = tmp_path_factory.mktemp("ranks")
    rows = documents(200, seed=3)
    for number in (4, 5, 90, 130, 199):
        rows[number]["id"] = "same"
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    return directory


def coarse(distinct: int) -> dict[str, float]:
    """Scores of few distinct values, so that the hash of the id decides; both zeros are there."""
    chance = np.random.default_rng(distinct)
    values = chance.integers(-(distinct // 2), distinct - distinct // 2, len(IDS) + 1)
    return {
        name: -0.0 if not value and number % 2 else float(value) / 4
        for number, (name, value) in enumerate(zip([*IDS, "same"], values))
    }


def sorted_by_hand(made: Made) -> list[tuple[int, int]]:
    """(unit, row) of every document taken: best score, best hash, then the corpus's order."""
    rows = made.taken()
    known = {(d.unit, d.row): d for d in all_documents(made.pool, made.tokenizer)}
    taken = [known[row["unit"], row["row"]] for row in rows]
    tie = ties(taken, made.recipe.draw_seed).tolist()
    order = sorted(range(len(rows)), key=lambda n: (-rows[n]["score"], -tie[n], n))
    return [(rows[n]["unit"], rows[n]["row"]) for n in order]


BUDGETS: dict[str, Any] = {
    "one column": {"rank": "s"},
    "one value": {"rank": "flat", "tokens": 10**6, "allow_short": True},
    "mixture": {"rank": {"s": 0.5, "flat": 0.2, "random": 0.3}},
    "noise": {"rank": "s", "draw": {"gumbel": {"temperature": 0.5}}, "seed": 9},
    "shares": {"rank": "s", "shares": {"wiki": 0.3, "code": 0.1}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_ranks_are_those_of_a_sort(pool: Path, name: str) -> None:
    budget = dict(BUDGETS[name])
    scores = {"s": coarse(7), "flat": coarse(1)}
    recipe = recipe_of(pool, 5_000, budget.pop("rank"), budget=budget)
    made = make(recipe, {key: scores[key] for key in recipe.select})
    expected = sorted_by_hand(made)
    assert [rank_of(made.cut, *place) for place in expected] == [*range(1, len(expected) + 1)]
    for count in (0, 1, 2, 7, len(expected) - 1, len(expected), 10**6):
        assert first_ranked(made.cut, count) == expected[:count]
    assert len({unit for unit, _ in expected[:20]}) > 2
    if name == "one value":
        assert sum(row["id"] == "same" for row in made.taken()) == 5, "no hashes were equal"


def test_a_cut_in_a_store_is_ranked_from_local_copies(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    made = make(recipe_of(pool, 3_000, "s"), {"s": coarse(7)})
    store = as_path(f"memory://{tmp_path.name}")
    for record in made.cut.files:
        (store / record.path).write_bytes((made.cut.path / record.path).read_bytes())
    remote = Artefact(store, made.cut.manifest, made.cut.files)
    expected = sorted_by_hand(made)
    assert first_ranked(remote, 9) == expected[:9]
    assert rank_of(remote, *expected[-1]) == len(expected) > 9
