"""CRISP: importance weights, cluster budgets at every budget, and what exhausted clusters lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.base import Fitting, Partition, Target
from penstock.selectors.crisp import Crisp, importance, shortfall
from penstock.selectors.kernels.kmeans import Clusters, sample_vectors
from tests.selectors.kernels.test_kmeans import fitting_of


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def test_the_published_weights() -> None:
    pool, special = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
    weights = importance(pool, special)
    np.testing.assert_allclose(weights, [0.2, 1 / 3, 4])
    assert weights @ pool == pytest.approx(1)
    np.testing.assert_allclose(importance(pool, pool), 1)
    # Counts are shares, and a pseudo-count pulls towards equal clusters: (1+1)/(10+3)/.5 ...
    counts = np.array([1, 1, 8])
    np.testing.assert_allclose(importance(pool, counts), weights)
    np.testing.assert_allclose(
        importance(pool, counts, 1.0), [2 / 13 / 0.5, 2 / 13 / 0.3, 9 / 13 / 0.2]
    )


def test_the_shortfall_is_what_exceeds_each_cluster() -> None:
    shares, budgets = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
    assert shortfall(shares, budgets, 0.25) == pytest.approx(0)
    assert shortfall(shares, budgets, 0.5) == pytest.approx(0.2 / 0.5)  # .4 wanted of .2
    assert shortfall(shares, budgets, 1.0) == pytest.approx(0.6)


def crisp(budgets: Sequence[float], **parameters: Any) -> Crisp:
    """As if fitted."""
    selector = Crisp(**parameters)
    centroids = np.full((len(budgets), 2), 100, np.int16)
    selector._clusters = Clusters(centroids=centroids, spherical=False)
    selector._budgets = np.array(budgets, np.float64)
    return selector


def parts_of(sizes: Sequence[int], seed: int = 0) -> list[Partition]:
    random = np.random.default_rng(seed)
    return [
        Partition(
            number=number,
            hashes=np.sort(random.integers(0, 2**64, size=size, dtype=np.uint64)),
            vectors=np.full((size, 2), 100, np.int16),
            quality=None,
        )
        for number, size in enumerate(sizes)
    ]


def taken(selector: Crisp, parts: Sequence[Partition], count: int) -> list[int]:
    """Count the documents of each partition among the best ``count``."""
    scores = np.concatenate([selector.score(part) for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])][:count]
    return np.bincount(owner[order], minlength=len(parts)).tolist()


def poured(sizes: Sequence[int], budgets: Sequence[float], count: int) -> np.ndarray:
    """Fill clusters in proportion to their budgets until ``count``: (k,) float64 documents."""
    sizes, budgets = np.array(sizes, float), np.array(budgets, float)
    low, high = 0.0, 1e9
    for _ in range(200):
        depth = (low + high) / 2
        low, high = (
            (depth, high) if np.minimum(depth * budgets, sizes).sum() < count else (low, depth)
        )
    return np.minimum(high * budgets, sizes)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 50)), min_size=1, max_size=6),
    st.data(),
)
@settings(max_examples=60)
def test_clusters_are_drawn_from_in_proportion_until_they_are_exhausted(
    clusters: list[tuple[int, float]], data: st.DataObject
) -> None:
    sizes, budgets = [size for size, _ in clusters], [budget for _, budget in clusters]
    count = data.draw(st.integers(0, sum(sizes)))
    found = taken(crisp(budgets), parts_of(sizes, data.draw(st.integers(0, 99))), count)
    assert sum(found) == count
    assert np.abs(found - poured(sizes, budgets, count)).max() < len(sizes) + 1e-6


def test_a_cluster_of_no_weight_is_never_taken_and_draws_are_uniform() -> None:
    (part, other) = parts_of([3000, 10])
    selector = crisp([5.0, 0.0])
    assert np.isnan(selector.score(other)).all()
    scores = selector.score(part)
    ranks = np.argsort(np.argsort(-scores))
    # By a hash of its own: not in the order of the partition, which other draws use.
    assert abs(np.corrcoef(ranks, np.arange(3000))[0, 1]) < 0.06
    assert len(np.unique(scores)) == 3000 and scores.max() < 0
    assert selector.score(part).tobytes() == scores.tobytes()
    (nothing,) = parts_of([0])
    assert crisp([1.0]).score(nothing).shape == (0,)


def test_weights_are_of_the_clusters_as_they_are() -> None:
    """P(c) is counted: whatever the sample said, the mean over the pool is 1."""
    sizes, budgets = [50, 30, 20], [10.0, 10.0, 80.0]
    selector, parts = crisp(budgets, gives="weight"), parts_of(sizes)
    for part, weight in zip(parts, (0.2, 1 / 3, 4)):
        np.testing.assert_allclose(selector.score(part), weight, rtol=1e-6)
    assert crisp([0.0], gives="weight").score(parts[0]).tolist() == [0.0] * 50


def texts() -> list[str]:
    """Half of the texts are of a, a third of b, the others of c."""
    random = np.random.default_rng(3)
    return [
        letter * int(random.integers(30, 60)) + "d" * int(random.integers(0, 3))
        for letter in "a" * 50 + "b" * 30 + "c" * 20
    ]


def aimed(*letters: str) -> Fitting:
    examples = [Target(benchmark="t", text=letter * 9) for letter in letters]
    return fitting_of(texts(), target=examples)


SMALL: dict[str, Any] = {"encoder": "spectrum", "clusters": 3}


def test_a_fit_finds_the_golden_weights() -> None:
    selector = Crisp(**SMALL, pseudo_count=0, gives="weight")
    fitting = aimed(*"abcccccccc", "\u4e2d")
    facts = selector.fit(fitting)
    assert (facts["examples"], facts["without_a_token"]) == (11, 1)
    assert facts["weight"] == {"least": 0.2, "largest": 4.0}
    assert facts["clusters_without_examples"] == 0
    assert facts["shortfall"] == {"0.01": 0.0, "0.03": 0.0, "0.1": 0.0, "0.3": 0.1333}
    vectors = sample_vectors(fitting, "spectrum", 0)
    numbers = selector.assign(vectors, np.arange(100, dtype=np.uint64))
    weights = sorted(
        (float(selector.score(part)[0]), len(part)) for part in parts_of(np.bincount(numbers))
    )
    np.testing.assert_allclose(weights, [(0.2, 50), (1 / 3, 30), (4, 20)])


def test_an_exhausted_cluster_is_told() -> None:
    lines: list[str] = []
    fitting = aimed("c")
    fitting = Fitting(
        sample=fitting.sample, pool_size=100, target=fitting.target, encoder=fitting.encoder,
        progress=lines.append,
    )  # fmt: skip
    facts = Crisp(**SMALL, pseudo_count=0).fit(fitting)
    assert facts["clusters_without_examples"] == 2
    assert facts["shortfall"]["0.3"] == 0.3333  # 30 wanted of 20
    assert [line for line in lines if "30%" in line and "33%" in line]


@pytest.mark.parametrize("letters", ["", "\u4e2d"])
def test_examples_without_a_token_are_an_error(letters: str) -> None:
    with pytest.raises(SelectorError) as info:
        Crisp(**SMALL).fit(aimed(*letters))
    assert (info.value.key, info.value.got) == ("target", "none")


def test_save_and_load(tmp_path: Path) -> None:
    selector = Crisp(**SMALL)
    selector.fit(aimed("a", "c"))
    selector.save(tmp_path)
    loaded = Crisp(**SMALL)
    loaded.load(tmp_path)
    assert selector.partitions == loaded.partitions == 3
    for part in parts_of([7, 8, 9]):
        assert loaded.score(part).tobytes() == selector.score(part).tobytes()
    for wrong in (np.array([1.0, 2.0]), np.array([1.0, -1.0, 2.0]), np.array([1.0, np.nan, 2.0])):
        np.save(tmp_path / "budgets.npy", wrong)
        with pytest.raises(ArtefactError) as info:
            Crisp(**SMALL).load(tmp_path)
        assert info.value.file


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"pseudo_count": -0.1}, "pseudo_count"),
        ({"pseudo_count": float("nan")}, "pseudo_count"),
        ({"gives": "losses"}, "gives"),
        ({"clusters": 0}, "clusters"),
        ({"sample": 0}, "sample"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Crisp(**parameters)
    assert info.value.key == key
