from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from penstock.recipe import Train
from penstock.trainers.data.batch import IGNORED
from penstock.trainers.data.loader import Loader
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group
from penstock.trainers.reweighting.samples import Samples

TOKENS = 35 * 32 + 9
"""The last sequence counts for nine tokens only."""


@pytest.fixture(scope="module")
def loader(shards: Path) -> Loader:
    opened = ShardSet.open(shards)
    plan = BatchPlan.of(Train(tokens=TOKENS, batch_tokens=9 * 32), opened, seed=1)
    return Loader(opened, plan, Group(), 4)


@pytest.mark.parametrize("sample", ["sequence", "document"])
@pytest.mark.parametrize("step", [0, 3])
def test_against_labels_one_by_one(loader: Loader, sample: str, step: int) -> None:
    batch = loader.plan.global_batch(step)
    samples = Samples.of(loader.shards, batch, sample)
    labels = loader.collate(batch, np.arange(len(batch))).labels.numpy()
    documents = [loader.shards.starts(index) for index in batch.sequences.tolist()]
    assert max(map(len, documents)) > 1
    owner = []  # (index of the sequence, first, end) of every sample, by hand
    for place, starts in enumerate(documents):
        cuts = [*starts.tolist(), 32] if sample == "document" else [0, 32]
        owner += [(place, first, end) for first, end in itertools.pairwise(cuts)]
    assert len(samples) == len(owner)
    counted = [(labels[place, first:end] != IGNORED).sum() for place, first, end in owner]
    np.testing.assert_array_equal(samples.predicted, counted)
    np.testing.assert_array_equal(samples.sequences, [place for place, *_ in owner])
    np.testing.assert_array_equal(samples.starts, [first for _, first, _ in owner])
    assert samples.predicted.sum() == loader.shards.predicted(batch.sequences, batch.counted).sum()
    if step == 3 and sample == "document":
        assert not samples.real.all(), "no document lies after the end of the budget"

    random = np.random.default_rng(0)
    places = random.permutation(len(batch))[:5]
    values = random.normal(size=(5, 32)).astype(np.float32)
    shares = random.random(len(samples))
    numbers = samples.of_places(places)
    rows = {place: row for row, place in enumerate(places.tolist())}
    mine = [number for place in places for number, own in enumerate(owner) if own[0] == place]
    np.testing.assert_array_equal(numbers, mine)
    sums = [
        values[rows[owner[number][0]], owner[number][1] : owner[number][2]].sum(dtype=np.float64)
        for number in mine
    ]
    np.testing.assert_allclose(samples.sums(values, places), sums, rtol=1e-12)
    spread = samples.over_tokens(shares, places)
    assert spread.dtype == np.float32
    for number in mine:
        place, first, end = owner[number]
        assert (spread[rows[place], first:end] == np.float32(shares[number])).all()


def test_no_sequences(loader: Loader) -> None:
    samples = Samples.of(loader.shards, loader.plan.global_batch(0), "document")
    none = np.zeros(0, np.int64)
    assert samples.of_places(none).shape == (0,)
    assert samples.sums(np.zeros((0, 32)), none).shape == (0,)
    np.testing.assert_array_equal(samples.over_tokens(np.ones(99), none), np.zeros((1, 32)))
