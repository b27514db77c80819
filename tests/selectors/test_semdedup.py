"""SemDeDup: the golden angles under both rules, and parity with every pair compared."""

from __future__ import annotations

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
from penstock.selectors.near_copies import farthest_first, near_copies
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
    selector._deduplicator = selector._made(clusters, eps)
    return selector


def kept(selector: SemDeDup, vectors: np.ndarray) -> list[int]:
    scores = selector.score(partition(vectors))
    assert scores.dtype == np.float32 and scores.shape == (len(vectors),)
    assert set(scores[~np.isnan(scores)].tolist()) <= {0.0}
    return np.flatnonzero(~np.isnan(scores)).tolist()


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
    assert kept(selector, vectors[[1]]) == [0]
    assert kept(selector, vectors[[0, 2]]) == [1]
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


@pytest.mark.parametrize("rule", ["chained", "kept"])
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_eps_is_found_for_the_share_to_keep(rule: str, keep: float, tmp_path: Path) -> None:
    texts = similar_texts(400)
    fitting = fitting_of(texts)
    selector = SemDeDup(keep=keep, rule=rule, encoder="spectrum", clusters=8)
    facts = selector.fit(fitting)
    assert selector.kind == "set"
    assert facts["sample_kept"] == pytest.approx(keep, abs=0.02)
    # The sample is the pool here, so this is what it keeps of the pool.
    vectors = on_lattice(
        fitting.encoder("spectrum").encode(fitting.sample(0)["text"].combine_chunks())
    )
    placed = selector.assign(vectors, np.arange(400, dtype=np.uint64))
    parts = [partition(vectors[placed == number], number) for number in range(selector.partitions)]
    scores = [selector.score(part) for part in parts]
    left = sum(int((~np.isnan(part)).sum()) for part in scores)
    assert left / 400 == pytest.approx(facts["sample_kept"], abs=0.02)

    selector.save(tmp_path)
    loaded = SemDeDup(keep=keep, rule=rule, encoder="spectrum", clusters=8)
    with pytest.raises(SelectorError) as info:
        loaded.score(parts[0])
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    for part, expected in zip(parts, scores):
        assert loaded.score(part).tobytes() == expected.tobytes()


def test_eps_that_is_given_is_used() -> None:
    texts = similar_texts(200)
    facts = SemDeDup(eps=0.02, encoder="spectrum").fit(fitting_of(texts))
    assert facts["eps"] == 0.02 and 0 < facts["sample_kept"] < 1
    assert SemDeDup(encoder="spectrum").fit(fitting_of(texts))["eps"] == 0.05


def test_more_exact_copies_than_may_go_take_the_least_eps() -> None:
    texts = similar_texts(10) * 20
    facts = SemDeDup(keep=0.9, encoder="spectrum", clusters=1).fit(fitting_of(texts))
    assert facts["eps"] == pytest.approx(2**-17, abs=1e-6) and facts["sample_kept"] == 0.05


def test_a_share_of_a_sample_keeps_less_of_the_pool() -> None:
    lines: list[str] = []
    texts = similar_texts(100)
    SemDeDup(keep=0.8, encoder="spectrum").fit(
        fitting_of(texts, pool_size=900, progress=lines.append)
    )
    assert any("less than 0.8 of it will be kept" in line for line in lines)
    lines.clear()
    SemDeDup(keep=0.8, encoder="spectrum").fit(fitting_of(texts, progress=lines.append))
    assert lines and not any("less than" in line for line in lines)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError) as info:
        SemDeDup().load(tmp_path)
    assert info.value.file
    np.save(tmp_path / "clusters.npy", np.ones((2, 3), np.int16))
    for text in ("", "[]", '{"eps": null}'):
        (tmp_path / "deduplicator.json").write_text(text)
        with pytest.raises(ArtefactError) as info:
            SemDeDup().load(tmp_path)
        assert info.value.file


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
