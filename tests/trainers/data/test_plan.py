from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.trainers.data.loader import split_micro_batches
from penstock.trainers.data.order import Mixture, Phase
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.position import DataPosition
from penstock.trainers.data.shards import ShardGroup, ShardSet
from penstock.trainers.group import Group
from tests.trainers.conftest import write_shards


def plan(size: int, tokens: int, batch: int = 7, seed: int = 1, length: int = 10) -> BatchPlan:
    whole = Mixture(sources=["all"], phases=[Phase(first=0, weights={"all": 1.0})])
    groups = [ShardGroup("all", 0, size)]
    return BatchPlan(groups, whole, tokens=tokens, batch=batch, length=length, seed=seed)


@settings(max_examples=50)
@given(tokens=st.integers(1, 3000), batch=st.integers(1, 40))
def test_the_budget_is_met_exactly(tokens: int, batch: int) -> None:
    made = plan(50, tokens, batch)
    steps = [made.global_batch(step) for step in range(made.steps)]
    assert sum(step.tokens for step in steps) == tokens
    assert [step.before for step in steps] == [
        sum(one.tokens for one in steps[:number]) for number in range(len(steps))
    ]
    assert all((step.counted == 10).all() for step in steps[:-1])
    assert (steps[-1].counted[:-1] == 10).all() and 1 <= steps[-1].counted[-1] <= 10


def test_each_epoch_reads_everything_once_in_its_own_order() -> None:
    made = plan(50, tokens=3 * 500, batch=7)
    read = np.concatenate([made.global_batch(step).sequences for step in range(made.steps)])
    epochs = [read[:50], read[50:100], read[100:]]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert made.epochs() == {"all": 3.0} and made.repeated() == 1000
    other = plan(50, tokens=1500, seed=2).global_batch(0).sequences
    assert not np.array_equal(other, read[:7])


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(0, 30), shares=st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_a_plan_goes_on_where_another_was(steps: int, shares: list[float]) -> None:
    """With the same shares the batches are those of one plan, with others each source's order is.

    Three sources, the first of which is read more than once; then a branch of the branch.
    """
    groups = [ShardGroup("a", 0, 9), ShardGroup("b", 9, 80), ShardGroup("c", 89, 70)]
    names = [group.name for group in groups]

    def made(start: DataPosition | None, tokens: int, weights: list[float]) -> BatchPlan:
        counted = start.counted if start and list(start.weights.values()) == weights else 0
        phase = Phase(first=0, weights=dict(zip(names, weights)), counted=counted)
        return BatchPlan(
            groups,
            Mixture(sources=names, phases=[phase]),
            tokens=tokens,
            batch=7,
            length=10,
            seed=1,
            start=start,
        )

    def read(one: BatchPlan, first: int, last: int) -> list[int]:
        found = [one.global_batch(step).sequences.tolist() for step in range(first, last)]
        return [sequence for batch in found for sequence in batch]

    whole = made(None, 60 * 70, shares)
    first = made(whole.position_after(steps), 60 * 70, shares)
    assert read(first, 0, 20) == read(whole, steps, steps + 20)
    second = made(first.position_after(5), 60 * 70, shares)
    assert read(second, 0, 9) == read(whole, steps + 5, steps + 14)
    turned = [shares[2] + 0.01, *shares[:2]]
    other = made(whole.position_after(steps), 60 * 70, turned)
    both = read(whole, 0, steps) + read(other, 0, 20)
    alone = read(whole, 0, 60)
    for group in groups:
        ours, theirs = (
            [one for one in some if group.first <= one < group.first + group.size]
            for some in (both, alone)
        )
        shorter = min(len(ours), len(theirs))
        assert ours[:shorter] == theirs[:shorter]
    position = other.position_after(20)
    assert sum(position.read.values()) == 7 * (steps + 20)
    assert position == DataPosition.parsed(json.loads(json.dumps(position.to_json())))


@settings(max_examples=50)
@given(count=st.integers(1, 300), workers=st.integers(1, 8), micro=st.integers(1, 7))
def test_the_number_of_workers_changes_only_the_split(count: int, workers: int, micro: int) -> None:
    shares = [split_micro_batches(count, Group(rank, workers), micro) for rank in range(workers)]
    assert len({len(share) for share in shares}) == 1
    assert max(len(piece) for share in shares for piece in share) <= micro
    places = np.concatenate([piece for share in shares for piece in share])
    assert sorted(places.tolist()) == list(range(count))


@pytest.fixture
def mixed(tmp_path: Path, tokenizer: object) -> ShardSet:
    """8 sequences of wiki, 32 of the rest."""
    groups = ["wiki", None, None, None, None]
    made = write_shards(tmp_path, tokenizer, sequences=40, files=5, groups=groups)
    return ShardSet.open(made.path)


def test_a_mixture_by_phases_of_the_budget(mixed: ShardSet) -> None:
    phases = [{"weights": {"rest": 1.0}, "until": 0.5}, {"weights": {"wiki": 3, "rest": 1}}]
    train = Train.model_validate({"tokens": 32 * 32 + 5, "batch_tokens": 160, "mixture": phases})
    made = BatchPlan.of(train, mixed, seed=3)
    read = np.concatenate([made.global_batch(step).sequences for step in range(made.steps)])
    # Half of 1,029 tokens is reached within the 17th sequence, so the 18th is of the next phase.
    assert len(read) == 33 and (read[:17] >= 8).all()
    assert (read[17:] < 8).sum() == 12
    again = Counter(read.tolist())
    assert set(again.values()) == {1, 2} and all(number < 8 for number, n in again.items() if n > 1)
    assert made.epochs() == {"wiki": 1.5, "rest": 21 / 32}
    assert made.repeated() == 4 * 32


def test_a_mixture_that_cannot_be_is_refused(mixed: ShardSet) -> None:
    with pytest.raises(RecipeError) as info:
        BatchPlan.of(Train.model_validate({"mixture": {"wikis": 1}}), mixed, seed=0)
    assert (info.value.key, info.value.got) == ("train.mixture", "'wikis'")
    assert "['wiki', 'rest']" in (info.value.expected or "")
    late = [{"weights": {"rest": 1}, "until": 99999}, {"weights": {"rest": 1}}]
    with pytest.raises(RecipeError) as info:
        BatchPlan.of(Train.model_validate({"mixture": late}), mixed, seed=0)
    assert (info.value.key, info.value.got) == ("train.mixture", "1,280 after 99,999")
