"""SemDeDup: the golden angles under both rules, and parity with every pair compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors import near_copies as module
from penstock.selectors.base import Partition
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.kernels.kmeans import Clusters
from penstock.selectors.near_copies import ClusterParameters, farthest_first, nearness
from penstock.selectors.semdedup import SemDeDup
from tests.selectors.kernels.test_kmeans import directions, fitting_of, unit


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def at_degrees(*degrees: float) -> np.ndarray:
    """(n, 2) int16 on the lattice."""
    angles = np.radians(degrees)
    return on_lattice(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def partition(vectors: np.ndarray, number: int = 0) -> Partition:
    hashes = np.arange(len(vectors), dtype=np.uint64)
    return Partition(number=number, hashes=hashes, vectors=vectors, quality=None)


def semdedup(
    *centroids: np.ndarray, eps: float = 0.004, rule: str = "chained", largest: int = 10**6
) -> SemDeDup:
    """As if fitted."""
    selector = SemDeDup(eps=eps, rule=rule, largest=largest)
    clusters = Clusters(centroids=np.concatenate(centroids), spherical=True)
    selector._clusters = clusters
    return selector


def near_copies(vectors: np.ndarray, order: np.ndarray, eps: float, rule: str) -> np.ndarray:
    """(m,) bool along ``order``."""
    near = nearness(vectors, order, rule, 1 - eps)
    assert near.dtype == np.float32 and near.shape == order.shape
    return near > np.float32(1 - eps)


def staying(selector: ClusterParameters, vectors: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(n,) bool: which documents stay, by sorting what the engine counts."""
    thinning = selector.requirements.thinning
    assert thinning is not None and (thinning.keep is None) != (thinning.limit is None)
    limit = thinning.limits[1] if thinning.limit is None else thinning.limit
    near = np.empty(len(vectors), np.float32)
    for number in range(selector.partitions):
        rows = np.flatnonzero(numbers == number)
        near[rows] = thinning.nearness(partition(vectors[rows], number), limit)
    if thinning.keep is not None:
        known = np.sort(near[~np.isnan(near)])
        limit = min(limit, float(known[math.ceil(thinning.keep * len(known)) - 1]))
    return near <= np.float32(limit)


def kept(selector: SemDeDup, vectors: np.ndarray) -> list[int]:
    rows = np.flatnonzero(staying(selector, vectors, np.zeros(len(vectors), np.int64)))
    scores = selector.score(partition(vectors[rows]))
    assert scores.dtype == np.float32 and scores.tolist() == [0] * len(rows)
    return rows.tolist()


def by_every_pair(vectors: np.ndarray, order: np.ndarray, eps: float, rule: str) -> list[bool]:
    """In the order given, document by document."""
    points = unit(vectors[order].astype(np.float64)).astype(np.float64)
    cosines = points @ points.T
    copies: list[bool] = []
    for row in range(len(order)):
        earlier = [at for at in range(row) if rule == "chained" or not copies[at]]
        copies.append(bool((cosines[row, earlier] > 1 - eps).any()))
    return copies


@pytest.mark.parametrize(("rule", "expected"), [("chained", [0, 3]), ("kept", [0, 2, 3])])
def test_golden_angles(rule: str, expected: list[int]) -> None:
    vectors = at_degrees(0, 5, 9, 60)
    copies = near_copies(vectors, np.arange(4), 0.004, rule)
    assert np.flatnonzero(~copies).tolist() == expected
    # Seen from a centroid at 90 degrees they come in just that order.
    assert kept(semdedup(at_degrees(90), rule=rule), vectors) == expected


def test_the_farthest_from_the_centroid_comes_first_and_stays() -> None:
    vectors = at_degrees(1, 3, -2, 0)
    order = farthest_first(vectors, at_degrees(0)[0])
    assert order.tolist() == [1, 2, 0, 3]
    assert kept(semdedup(at_degrees(0), eps=0.1), vectors) == [1]
    # Seen from the other side it is another.
    assert kept(semdedup(at_degrees(80), eps=0.1), vectors) == [2]


@pytest.mark.parametrize("rule", ["chained", "kept"])
@pytest.mark.parametrize("block", [16, 100, 1024])
@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_blocks_agree_with_every_pair(
    rule: str, block: int, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    vectors = directions(300, dim=12, groups=5, seed=4)
    vectors[[40, 41, 290]] = vectors[7]
    order = farthest_first(vectors, vectors[:50].mean(axis=0).astype(np.int16))
    copies = near_copies(vectors, order, eps, rule)
    assert copies.tolist() == by_every_pair(vectors, order, eps, rule)
    assert 0 < copies.sum() < 299


@pytest.mark.parametrize(("largest", "slices"), [(300, 1), (299, 2), (64, 5), (1, 300)])
def test_a_large_cluster_is_cut_by_distance(largest: int, slices: int) -> None:
    vectors = directions(300, dim=12, groups=5, seed=4)
    centroid = vectors[:50].mean(axis=0).astype(np.int16)
    order = farthest_first(vectors, centroid)
    parts = np.split(order, range(largest, 300, largest))
    assert len(parts) == slices
    expected = [row for p in parts for row in p[~np.array(by_every_pair(vectors, p, 0.1, "kept"))]]
    selector = semdedup(centroid[np.newaxis], eps=0.1, rule="kept", largest=largest)
    assert kept(selector, vectors) == sorted(expected)


def test_the_rules_differ_as_they_should() -> None:
    vectors = directions(300, dim=12, groups=5, seed=4)
    order = np.arange(300)
    chained = near_copies(vectors, order, 0.2, "chained")
    by_kept = near_copies(vectors, order, 0.2, "kept")
    assert not (by_kept & ~chained).any() and (chained & ~by_kept).any()
    # Under "kept" every excluded document is near one that stays.
    points = unit(vectors.astype(np.float64))
    near = (points @ points.T > 1 - 0.2)[:, ~by_kept].any(axis=1)
    assert near[by_kept].all()


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from(["chained", "kept"]))
@settings(max_examples=50, deadline=None)
def test_exact_copies_come_down_to_one(seed: int, count: int, rule: str) -> None:
    random = np.random.default_rng(seed)
    distinct = at_degrees(*(np.arange(count) * 9.0))
    vectors = distinct[random.integers(count, size=3 * count)]
    for eps in (1e-6, 0.012):  # the cosine of 9 degrees is 0.9877
        stays = kept(semdedup(at_degrees(33), eps=eps, rule=rule), vectors)
        assert len(stays) == len(np.unique(vectors, axis=0))
        assert len(np.unique(vectors[stays], axis=0)) == len(stays)
        # Of equally far ones, the first by hash.
        assert all(not (vectors[:one] == vectors[one]).all(axis=1).any() for one in stays)


def test_chained_retention_falls_with_eps() -> None:
    vectors = directions(250, dim=8, seed=6)
    before = np.ones(250, bool)
    for eps in (1e-6, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        stays = ~near_copies(vectors, np.arange(250), eps, "chained")
        assert not (stays & ~before).any()
        before = stays
    assert before.sum() == 1


def test_clusters_know_nothing_of_each_other_and_one_alone_stays() -> None:
    selector = semdedup(at_degrees(0), at_degrees(90), eps=0.5)
    vectors = at_degrees(44, 46, 44.5)
    numbers = selector.assign(vectors, np.arange(3, dtype=np.uint64))
    assert numbers.tolist() == [0, 1, 0] and selector.partitions == 2
    assert staying(selector, vectors, numbers).tolist() == [False, True, True]
    assert kept(selector, vectors[:0]) == []


def test_documents_without_a_token_are_excluded_and_no_copies() -> None:
    vectors = at_degrees(0, 20, 40, 60)
    vectors[[1, 2]] = 0
    assert kept(semdedup(at_degrees(0)), vectors) == [0, 3]
    assert kept(semdedup(at_degrees(0)), vectors * 0) == []


# Fitting


def similar_texts(count: int) -> list[str]:
    """Texts of four letters, most of them unlike each other."""
    random = np.random.default_rng(3)
    numbers = random.dirichlet([0.6] * 4, size=count)
    return [
        "".join(letter * round(400 * part) for letter, part in zip("abcd", row)) for row in numbers
    ]


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_the_limit_of_a_share_to_keep(keep: float, tmp_path: Path) -> None:
    fitting = fitting_of(similar_texts(400))
    selector = SemDeDup(keep=keep, encoder="spectrum", clusters=8)
    facts = selector.fit(fitting)
    assert selector.kind == "set" and (facts["sample"], facts["clusters"]) == (400, 8)
    vectors = on_lattice(
        fitting.encoder("spectrum").encode(fitting.sample(0)["text"].combine_chunks())
    )
    numbers = selector.assign(vectors, np.arange(400, dtype=np.uint64))
    stays = staying(selector, vectors, numbers)
    assert stays.sum() == math.ceil(keep * 400)

    selector.save(tmp_path)
    loaded = SemDeDup(keep=keep, encoder="spectrum", clusters=8)
    with pytest.raises(SelectorError) as info:
        staying(loaded, vectors, numbers)
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    assert staying(loaded, vectors, numbers).tolist() == stays.tolist()


def test_the_bound_is_told() -> None:
    texts = similar_texts(200)
    selector = SemDeDup(eps=0.02, encoder="spectrum")
    selector.fit(fitting_of(texts))
    thinning = selector.requirements.thinning
    assert thinning is not None and (thinning.limit, thinning.keep) == (0.98, None)
    assert thinning.fit(0.98, 7, np.empty((0, 4), np.int16)) == {"eps": 0.02}
    by_default = SemDeDup(encoder="spectrum").requirements.thinning
    assert by_default is not None and by_default.limit == 0.95
    by_kept = SemDeDup(keep=0.5, rule="kept").requirements.thinning
    assert by_kept is not None and (by_kept.keep, by_kept.alone) == (0.5, False)


def test_more_exact_copies_than_may_go_take_the_least_eps() -> None:
    vectors = at_degrees(*np.tile(np.arange(10) * 9.0, 20))
    selector = SemDeDup(keep=0.9)
    selector._clusters = Clusters(centroids=at_degrees(33), spherical=True)
    assert len(kept(selector, vectors)) == 10


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as info:
        SemDeDup().load(tmp_path)
    assert info.value.file
    np.save(tmp_path / "clusters.npy", np.ones((2, 3), np.float32))
    with pytest.raises(ArtefactError) as info:
        SemDeDup().load(tmp_path)
    assert info.value.expected == "centroids (k, d) int16"


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"eps": 0}, "eps"),
        ({"eps": 2}, "eps"),
        ({"keep": 1}, "keep"),
        ({"eps": 0.1, "keep": 0.5}, "keep"),
        ({"rule": "paper"}, "rule"),
        ({"clusters": 0}, "clusters"),
        ({"encoder": ""}, "encoder"),
        ({"sample": "all"}, "sample"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        SemDeDup(**parameters)
    assert info.value.key == key


def test_identity_is_the_parameters() -> None:
    identity = SemDeDup().identity()
    assert identity["eps"] == 0.05 and not any(name.endswith("_") for name in identity)
    assert SemDeDup(keep=0.5).identity() != identity != SemDeDup(rule="kept").identity()
