"""Positions of documents in the order: by score, quantiles, random draw and Gumbel noise."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.hashing import hash_documents, mix, uniform
from penstock.pipeline.columns import Column, make_columns
from penstock.pipeline.cutting.ordering import OrderedUnit, batches, make_orders
from penstock.pipeline.cutting.radix import order_bits
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Models
from penstock.recipe import Budget
from penstock.selectors.adapter import as_selector
from tests.pools import Given, hashed, pool_of, recipe_of, scores_in_order, write_jsonl

RUNNER = LocalRunner(1)


def corpus_of(directory: Path, ids: list[str], sources: list[str] | None = None) -> Pool:
    rows = [
        {"id": name, "text": f"text of {name}", "source": (sources or ["web"] * len(ids))[place]}
        for place, name in enumerate(ids)
    ]
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    recipe = recipe_of(directory)
    return pool_of(recipe, Workspace(directory / "work"), RUNNER, 400)


def columns_of(
    corpus: Pool, directory: Path, scores: dict[str, dict[str, float]]
) -> dict[str, Artefact]:
    columns = [
        Column(name=name, selector=as_selector(Given(given))) for name, given in scores.items()
    ]
    return make_columns(
        columns,
        Models(pool=corpus, workspace=Workspace(directory / "work"), runner=RUNNER, seed=0),
    )


def ordered(
    corpus: Pool,
    directory: Path,
    budget: Budget,
    columns: dict[str, Artefact] | None = None,
    seed: int = 5,
    groups: tuple[str, ...] = (),
) -> list[OrderedUnit]:
    return make_orders(
        corpus, columns or {}, budget, seed, groups, directory / f"orders-{seed}", RUNNER
    )


def scores_of(orders: list[OrderedUnit]) -> np.ndarray:
    return np.concatenate([scores_in_order(unit) for unit in orders])


def test_one_column_orders_by_its_own_values(tmp_path: Path) -> None:
    ids = [f"d{number}" for number in range(60)]
    corpus = corpus_of(tmp_path, ids, ["wiki" if number % 3 else "web" for number in range(60)])
    given = {name: float(np.sin(place)) for place, name in enumerate(ids) if place % 10}
    given["d1"], given["d2"], given["d3"] = -0.0, 0.0, -1e-45
    orders = ordered(
        corpus,
        tmp_path,
        Budget(tokens=9, rank="given"),
        columns_of(corpus, tmp_path, {"given": given}),
        groups=("wiki",),
    )
    assert len(orders) > 1
    place = 0
    for unit in orders:
        order, sizes = unit.read()
        table = pq.read_table(unit.unit.path())
        names = table.column("id").to_pylist()
        assert sizes.tolist() == [len(text) for text in table.column("text").to_pylist()]
        assert order.tie.tolist() == hash_documents(of_unit(table), mix(5, "tie")).tolist()
        for row, name in enumerate(names):
            if place % 10 == 0:
                assert order.group[row] == -1, "a document without a score may be taken"
            else:
                assert order.group[row] == (0 if place % 3 else 1)
                assert order.key[row] == order_bits(np.float32([given[name]]))[0]
            place += 1
    keys = {n: k for u in orders for n, k in zip(_ids(u), u.read()[0].key.tolist())}
    assert keys["d1"] == keys["d2"] > keys["d3"]


def test_batches_are_consecutive_units_of_a_few_tasks_a_slot(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, [f"d{number}" for number in range(300)])
    orders = ordered(corpus, tmp_path, Budget(tokens=9, rank="random"))
    assert len(orders) > 12
    for slots in (1, 2):
        found = batches(orders, slots)
        assert [unit for batch in found for unit in batch] == orders
        assert 16 * slots >= len(found) >= min(len(orders), 4 * slots)
    assert [len(batch) for batch in batches(orders, 1000)] == [1] * len(orders)


def _ids(unit: OrderedUnit) -> list[str]:
    names: list[str] = pq.read_table(unit.unit.path()).column("id").to_pylist()
    return names


def test_a_mixture_weighs_quantiles_whatever_the_scales(tmp_path: Path) -> None:
    """Brute force: the share of the pool below a document, plus half of its equals."""
    ids = [f"d{number:02d}" for number in range(50)]
    corpus = corpus_of(tmp_path, ids)
    chance = np.random.default_rng(0)
    # Multiples of 1/16 are told apart by the top 24 bits, and many are equal.
    given = {
        "small": dict(zip(ids, chance.integers(-8, 8, 50) / 16)),
        "large": dict(zip(ids, chance.integers(0, 40, 50) * 1000.0)),
        "third": dict(zip(ids, -chance.integers(0, 5, 50) / 4)),
    }
    del given["large"]["d07"]
    weights = {"small": 0.7, "third": 0.1, "large": 0.2}
    budget = Budget(tokens=9, rank=weights)
    found = scores_of(ordered(corpus, tmp_path, budget, columns_of(corpus, tmp_path, given)))
    expected = np.zeros(50)
    for name in sorted(weights):
        values = np.array([given[name].get(i, np.nan) for i in ids])
        known = values[~np.isnan(values)]
        quantile = [((known < v).sum() + (known == v).sum() / 2) / len(known) for v in values]
        expected += np.where(np.isnan(values), np.nan, weights[name] * np.array(quantile))
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert np.isnan(found[7])


def test_a_mixture_is_the_same_in_whatever_order_it_is_written(tmp_path: Path) -> None:
    """Weights whose sum in float64 depends on the order, next to where float32 rounds."""
    corpus = corpus_of(tmp_path, ["a"])
    weights = {"a": 1.0, "b": 2.0**-53, "c": 2.0**-53, "d": 2.0**-24}
    assert np.float32(1.0 + 2.0**-53 + 2.0**-53 + 2.0**-24) != np.float32(
        2.0**-53 + 2.0**-53 + 1.0 + 2.0**-24
    )
    columns = columns_of(corpus, tmp_path, {name: {"a": 1.0} for name in weights})
    found = {
        scores_of(
            ordered(
                corpus,
                tmp_path,
                Budget(tokens=9, rank={name: weights[name] for name in order}),
                columns,
            )
        ).tobytes()
        for order in ("abcd", "bcad")
    }
    assert len(found) == 1


def test_random_is_uniform_reproducible_and_differs_by_seed(tmp_path: Path) -> None:
    ids = [f"d{number}" for number in range(400)]
    corpus = corpus_of(tmp_path, ids)
    budget = Budget(tokens=9, rank="random")
    one, again, other = (
        scores_of(ordered(corpus, tmp_path, budget, seed=seed)) for seed in (5, 5, 6)
    )
    assert one.tobytes() == again.tobytes()
    np.testing.assert_array_equal(
        one, np.float32(uniform(hash_documents(_all(corpus), mix(5, "random"))))
    )
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
    assert np.histogram(one, bins=4, range=(0, 1))[0].min() > 70


def of_unit(table: pa.Table) -> pa.Table:
    return hashed(table.column("id").to_pylist(), table.column("text").to_pylist())


def _all(corpus: Pool) -> pa.Table:
    return pa.concat_tables([of_unit(pq.read_table(unit.path())) for unit in corpus.units])


RACES = 3000
STRENGTH = {"a": 0.0, "b": 1.0, "c": 1.5, "d": -1.0}
TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def finishes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the orders of 3,000 draws among the same four scores."""
    directory = tmp_path_factory.mktemp("races")
    ids = [f"{name}{race}" for race in range(RACES) for name in STRENGTH]
    write_jsonl(directory / "pool" / "a.jsonl", [{"id": name, "text": name} for name in ids])
    corpus = pool_of(recipe_of(directory), Workspace(directory / "work"), RUNNER)
    columns = columns_of(corpus, directory, {"s": {name: STRENGTH[name[0]] for name in ids}})
    budget = Budget(tokens=9, rank="s", draw={"gumbel": {"temperature": TEMPERATURE}})
    noisy = scores_of(ordered(corpus, directory, budget, columns)).reshape(RACES, len(STRENGTH))
    return ["".join("abcd"[i] for i in np.argsort(-race)) for race in noisy]


def chi_square(observed: Counter[str], expected: dict[str, float]) -> float:
    return sum((observed[key] - n) ** 2 / n for key, n in expected.items())


def test_gumbel_first_place_has_softmax_frequencies(finishes: list[str]) -> None:
    weight = {name: math.exp(score / TEMPERATURE) for name, score in STRENGTH.items()}
    whole = sum(weight.values())
    expected = {name: RACES * w / whole for name, w in weight.items()}
    # 99.9 % of chi-square with 3 degrees of freedom.
    assert chi_square(Counter(order[0] for order in finishes), expected) < 16.27


def test_gumbel_top_two_are_successive_draws_without_replacement(finishes: list[str]) -> None:
    weight = {name: math.exp(score / TEMPERATURE) for name, score in STRENGTH.items()}
    whole = sum(weight.values())
    expected = {
        f"{one}{two}": RACES * weight[one] / whole * weight[two] / (whole - weight[one])
        for one, two in permutations(weight, 2)
    }
    # 99.9 % of chi-square with 11 degrees of freedom.
    assert chi_square(Counter(order[:2] for order in finishes), expected) < 31.26


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6])
def test_a_cold_draw_is_the_top(tmp_path: Path, temperature: float) -> None:
    """And does not overflow, which dividing scores by the temperature would."""
    ids = [f"d{number}" for number in range(40)]
    corpus = corpus_of(tmp_path, ids)
    columns = columns_of(corpus, tmp_path, {"s": {name: float(i) for i, name in enumerate(ids)}})
    budget = Budget(tokens=9, rank="s", draw={"gumbel": {"temperature": temperature}})
    found = scores_of(ordered(corpus, tmp_path, budget, columns))
    assert np.isfinite(found).all()
    assert np.argsort(found).tolist() == list(range(40))


def test_noise_does_not_bring_an_excluded_document_back(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["a", "b"])
    columns = columns_of(corpus, tmp_path, {"s": {"a": 1.0}})
    budget = Budget(tokens=9, rank="s", draw={"gumbel": {"temperature": 100.0}})
    groups = [
        g for unit in ordered(corpus, tmp_path, budget, columns) for g in unit.read()[0].group
    ]
    assert groups == [0, -1]
