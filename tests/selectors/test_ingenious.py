"""INGENIOUS: golden weights, the draw's frequencies, and the merge by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids
from penstock.selectors.base import Fitting, Partition
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.ingenious import Ingenious, taylor_weights
from penstock.selectors.kernels.facility_location import Similarities, lazy_greedy


def pool(count: int, seed: int = 1) -> Partition:
    """Documents about a few things, unequally often, in the order of their hashes."""
    random = np.random.default_rng(seed)
    often = 1 / np.arange(1, 16)
    centres = random.normal(size=(15, 24))[random.choice(15, count, p=often / often.sum())]
    vectors = centres + random.normal(size=(count, 24)) * 0.6
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    hashes = hash_ids(pa.array([f"doc-{row}" for row in range(count)]), 17)
    return partition(on_lattice(vectors.astype(np.float32)), np.sort(hashes))


def partition(vectors: np.ndarray, hashes: np.ndarray, number: int = 0) -> Partition:
    return Partition(number=number, hashes=hashes, vectors=vectors, quality=None)


def rows_of(whole: Partition, rows: np.ndarray, number: int = 0) -> Partition:
    return partition(whole.vectors[rows], whole.hashes[rows], number)


def fitted(size: int, **parameters: Any) -> Ingenious:
    selector = Ingenious(**parameters)
    selector.fit(Fitting(sample=lambda count: pa.table({}), pool_size=size))
    return selector


def by_score(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


def taylor_softmax(gains: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = taylor_weights(gains, temperature)
    return weights / weights.sum()


def test_golden_taylor_weights() -> None:
    gains = np.array([2.1, 0.8, 0.1])
    expected = np.array([5.305, 2.12, 1.105]) / 8.53
    np.testing.assert_allclose(taylor_softmax(gains), expected, atol=1e-12)
    np.testing.assert_allclose(taylor_softmax(gains), [0.622, 0.249, 0.130], atol=5e-4)
    assert (taylor_softmax(np.linspace(-9, 9, 99)) > 0).all()
    warm = taylor_softmax(gains, temperature=2.0)
    np.testing.assert_allclose(
        warm * (1 + 1.05 + 1.05**2 / 2) / warm[0], 1 + gains / 2 + gains**2 / 8
    )


def test_draws_come_with_the_weights_of_the_gains() -> None:
    """Successive draws without replacement, over 2,000 redraws of the golden documents."""
    gains, hashes = np.array([2.1, 0.8, 0.1]), np.array([11, 22, 33], np.uint64)
    weights = taylor_softmax(gains)
    orders = np.array([Ingenious(redraw=at)._drawn(gains, hashes) for at in range(2000)])
    first = np.bincount(orders[:, 0], minlength=3)
    assert ((first - 2000 * weights) ** 2 / (2000 * weights)).sum() < 13.8  # chi-square, p = 0.001
    second = orders[orders[:, 0] == 0, 1]
    share = weights[1] / (weights[1] + weights[2])
    assert abs((second == 1).mean() - share) < 4 * math.sqrt(share * (1 - share) / len(second))


@pytest.mark.slow
def test_greedy_scores_are_the_ranks_of_the_picks() -> None:
    one = pool(400)
    selector = fitted(400, draw="greedy")
    assert selector.requirements.merge is not None
    scores = selector.score(one)
    assert scores.dtype == np.float32
    order = lazy_greedy(Similarities.of(one.vectors, neighbours=1)).order
    np.testing.assert_array_equal(by_score(scores), order)
    np.testing.assert_array_equal(np.sort(-scores), np.arange(400, dtype=np.float32) / 400)


def test_a_copy_comes_after_everything_that_adds_and_nothing_is_never_taken() -> None:
    one = pool(60)
    one.vectors[40:50] = one.vectors[:10]
    one.vectors[55] = 0
    for greedy in ("exact", "lazier"):
        scores = fitted(60, draw="greedy", greedy=greedy).score(one)
        assert np.flatnonzero(np.isnan(scores)).tolist() == [55]
        assert np.nanmin(scores) == np.float32(-58 / 59)
    scores = fitted(60, draw="greedy").score(one)
    assert (scores[40:50] < np.delete(scores, [*range(40, 50), 55]).min()).all()
    assert (np.diff(scores[40:50]) < 0).all()  # equal gains, so by hash
    zero = partition(np.zeros((3, 8), np.int16), np.arange(3, dtype=np.uint64))
    assert np.isnan(fitted(3).score(zero)).all()
    assert fitted(3).score(partition(zero.vectors[:0], zero.hashes[:0])).shape == (0,)


def test_a_redraw_is_another_draw_and_the_same_one_the_same_bytes() -> None:
    one = pool(500)
    drawn = {at: fitted(500, redraw=at).score(one) for at in (0, 1)}
    assert fitted(500, redraw=1).score(one).tobytes() == drawn[1].tobytes()
    again = rows_of(one, np.arange(500), number=7)
    assert fitted(500, redraw=1).score(again).tobytes() == drawn[1].tobytes()
    tops = [set(by_score(scores)[:125]) for scores in drawn.values()]
    assert 20 < len(tops[0] & tops[1]) < 90
    # The head of the gains is in every draw, nearly.
    head = by_score(fitted(500, draw="greedy").score(one))[:4]
    assert all(len(top & set(head)) >= 3 for top in tops)
    assert Ingenious(redraw=0).identity() != Ingenious(redraw=1).identity()


def test_lazier_greedy_draws_by_hash() -> None:
    one = pool(300)
    lazier = fitted(300, draw="greedy", greedy="lazier")
    assert lazier.score(one).tobytes() == lazier.score(one).tobytes()
    assert (lazier.score(one) != fitted(300, draw="greedy").score(one)).mean() > 0.9


def test_partitions_are_by_hash_alone_and_each_gives_its_share() -> None:
    one = pool(3000)
    selector = fitted(3000, partition_size=1000, draw="greedy", union=0)
    numbers = selector.assign(one.vectors, one.hashes)
    assert selector.partitions == 3 and numbers.dtype == np.int64
    assert (np.bincount(numbers, minlength=3) > 900).all()
    few = np.arange(0, 3000, 7)
    np.testing.assert_array_equal(
        selector.assign(one.vectors[:0:-1], one.hashes[few]), numbers[few]
    )
    scores = np.empty(3000, np.float32)
    for number in range(3):
        rows = np.flatnonzero(numbers == number)
        scores[rows] = selector.score(rows_of(one, rows, number))
        assert len(selector.candidates(rows_of(one, rows, number), scores[rows])) == 0
    taken = by_score(scores)[:300]
    shares = np.bincount(numbers[taken]) / np.bincount(numbers)
    np.testing.assert_allclose(shares, 0.1, atol=0.002)
    whole = Similarities.of(one.vectors, neighbours=1)
    best = whole.value(lazy_greedy(whole, 300).order)
    gap = best - whole.value(np.arange(300))  # to a random tenth
    assert 0 < best - whole.value(taken) < 0.5 * gap


def test_candidates_are_the_best_of_each_partition() -> None:
    one = pool(40)
    selector = fitted(100, draw="greedy", partition_size=40, union=17)
    assert selector.fit(Fitting(sample=lambda count: pa.table({}), pool_size=100)) == {
        "partitions": 3,
        "documents": 33,
        "candidates": 5,
        "similarities": "all",
    }
    scores = selector.score(one)
    assert selector.candidates(one, scores).tolist() == sorted(by_score(scores)[:5])
    scores[by_score(scores)[3:]] = np.nan
    assert len(selector.candidates(one, scores)) == 3
    assert len(fitted(100, partition_size=40).candidates(one, scores)) == 0  # a draw
    assert len(fitted(40, draw="greedy").candidates(one, scores)) == 0  # one partition
    assert len(fitted(100, draw="greedy", union=2, partition_size=40).candidates(one, scores)) == 0


def test_the_merged_order_is_that_of_greedy_over_all_candidates() -> None:
    one = pool(1200)
    selector = fitted(1200, draw="greedy", partition_size=400, union=300)
    numbers = selector.assign(one.vectors, one.hashes)
    scores, competing = np.empty(1200, np.float32), []
    for number in range(3):
        rows = np.flatnonzero(numbers == number)
        scores[rows] = selector.score(rows_of(one, rows, number))
        competing.append(rows[selector.candidates(rows_of(one, rows, number), scores[rows])])
    rows = np.sort(np.concatenate(competing))
    assert len(rows) == 300
    union = rows_of(one, rows)
    merged = selector.merge(union, scores[rows])
    order = lazy_greedy(Similarities.of(union.vectors, neighbours=1)).order
    np.testing.assert_array_equal(by_score(merged), order)
    before = by_score(scores)[:60]
    scores[rows] = merged
    assert set(by_score(scores)[:300]) == set(rows) and merged.min() > 0
    whole = Similarities.of(one.vectors, neighbours=1)
    assert whole.value(by_score(scores)[:60]) > whole.value(before)


def test_the_best_partition_goes_first_where_it_is_better_than_the_merged_order() -> None:
    """Two clusters and one document between them, which greedy takes first and needs no more."""
    east, north, between = [4087, 0], [0, 4087], [2890, 2890]
    own = {0: [east, north], 1: [between, east], 2: [north, east], 3: [north, east]}
    vectors = np.array([vector for pair in own.values() for vector in pair], np.int16)
    hashes = np.array([number + 4 * at for number in own for at in (1, 2)], np.uint64)
    rows = np.argsort(hashes)
    selector = fitted(32, draw="greedy", partition_size=8, union=8)
    assert selector.partitions == 4
    union = partition(vectors[rows], hashes[rows])
    scores = np.where(hashes[rows] < 8, np.float32(0), np.float32(-0.125))
    order = by_score(selector.merge(union, scores))
    assert lazy_greedy(Similarities.of(union.vectors, neighbours=1)).order[0] == 1  # between
    assert union.hashes[order[:2]].tolist() == [4, 8]  # the first partition's, in its own order
    assert sorted(order) == list(range(8))
    assert order[2] == 1  # and then whatever gains most


def test_nobody_competes_without_harm() -> None:
    nobody = partition(np.empty((0, 8), np.int16), np.empty(0, np.uint64))
    assert len(fitted(9).merge(nobody, np.empty(0, np.float32))) == 0


def test_large_partitions_keep_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    one = pool(300)
    of, sparse = Similarities.of, []

    def seen(vectors: np.ndarray, *, neighbours: int) -> Similarities:
        sparse.append(of(vectors, neighbours=neighbours, dense=299))
        return sparse[-1]

    monkeypatch.setattr(Similarities, "of", seen)
    scores = fitted(300, draw="greedy", neighbours=9).score(one)
    assert len(sparse[0].dense) == 0 and len(sparse[0].rows) == 2700
    np.testing.assert_array_equal(by_score(scores), lazy_greedy(sparse[0]).order)
    facts = Ingenious(partition_size=20_000).fit(
        Fitting(sample=lambda count: pa.table({}), pool_size=10**6)
    )
    assert facts["similarities"] == "nearest" and facts["partitions"] == 50


def test_saved_and_loaded(tmp_path: Path) -> None:
    one = pool(90)
    selector = fitted(900, partition_size=100)
    selector.save(tmp_path)
    loaded = Ingenious(partition_size=100)
    with pytest.raises(SelectorError) as info:
        loaded.assign(one.vectors, one.hashes)
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    assert loaded.partitions == 9 and loaded.identity() == selector.identity()
    assert loaded.score(one).tobytes() == selector.score(one).tobytes()
    (tmp_path / "ingenious.json").write_text('{"partitions": 0}')
    with pytest.raises(ArtefactError) as info:
        loaded.load(tmp_path)
    assert info.value.file
    with pytest.raises(ArtefactError) as info:
        loaded.load(tmp_path / "nowhere")
    assert info.value.file


def test_identity_is_the_hyperparameters_and_the_encoders_contents(tmp_path: Path) -> None:
    (tmp_path / "encoder.json").write_text("1")  # of a saved encoder
    one = Ingenious(encoder=str(tmp_path)).identity()
    assert str(tmp_path) not in str(one) and one["partition_size"] == 8192
    (tmp_path / "encoder.json").write_text("2")
    assert Ingenious(encoder=str(tmp_path)).identity() != one
    assert fitted(5).identity() == Ingenious().identity()


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"encoder": ""}, "encoder"),
        ({"draw": "top"}, "draw"),
        ({"greedy": "naive"}, "greedy"),
        ({"temperature": 0}, "temperature"),
        ({"redraw": -1}, "redraw"),
        ({"redraw": 2, "draw": "greedy"}, "redraw"),
        ({"temperature": 2, "draw": "greedy"}, "temperature"),
        ({"partition_size": 0}, "partition_size"),
        ({"neighbours": True}, "neighbours"),
        ({"union": -1}, "union"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Ingenious(**parameters)
    assert info.value.key == key


@pytest.mark.parametrize(("size", "told"), [(3 * 10**8, True), (10**8, False)])
def test_a_merge_without_candidates_is_told(size: int, told: bool) -> None:
    lines: list[str] = []
    selector = Ingenious(draw="greedy")
    given = Fitting(sample=lambda n: pa.table({}), pool_size=size, progress=lines.append)
    facts = selector.fit(given)
    assert (facts["candidates"] == 0) == told
    assert [line for line in lines if f"{facts['partitions']:,}" in line] == lines
    assert len(lines) == told
