from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import ArtefactError
from penstock.recipe import Train
from penstock.trainers.data.batch import IGNORED
from penstock.trainers.data.loader import Loader
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group

TRAIN = Train(batch_tokens=10 * 32, tokens=2000)
"""62 and a half sequences of 37: 7 steps, into a second epoch."""


def loader(shards: Path, rank: int = 0, workers: int = 1, micro: int = 3) -> Loader:
    opened = ShardSet.open(shards)
    made = BatchPlan.of(TRAIN, opened, seed=5)
    return Loader(opened, made, Group(rank, workers), micro)


def read(made: Loader, start: int = 0) -> list[tuple[str, int, list[list[int]]]]:
    """For each step: its digest, its number of labels, the token ids of this rank's sequences."""
    return [
        (
            step.digest,
            step.predicted,
            [row for batch in step.micro_batches for row in batch.input_ids.tolist()],
        )
        for step in made.steps(start)
    ]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_any_number_of_workers_reads_the_same_global_batches(shards: Path, workers: int) -> None:
    expected = read(loader(shards))
    ranks = [read(loader(shards, rank, workers)) for rank in range(workers)]
    for number, (digest, predicted, rows) in enumerate(expected):
        together: list[list[int]] = [[]] * len(rows)
        for rank, steps in enumerate(ranks):
            mine = len(range(rank, len(rows), workers))
            assert steps[number][:2] == (digest, predicted)
            together[rank::workers] = steps[number][2][:mine]
        assert together == rows
    assert len({digest for digest, _, _ in expected}) == 7


def test_a_resumed_loader_continues_at_its_step(shards: Path) -> None:
    assert read(loader(shards), start=4) == read(loader(shards))[4:]


def test_a_token_of_difference_changes_the_digest(shards: Path) -> None:
    made = loader(shards)
    batch = made.plan.global_batch(0)
    digest = made._digest(batch)
    batch.counted[-1] -= 1
    assert made._digest(batch) != digest
    batch.counted[-1] += 1
    batch.sequences[:2] = batch.sequences[1::-1].copy()
    assert made._digest(batch) != digest


def test_the_last_sequence_counts_as_far_as_the_budget_reaches(shards: Path) -> None:
    made = loader(shards)
    (last,) = made.steps(6)
    labels = made.collate(last.batch, np.arange(3)).labels
    assert last.batch.counted.tolist() == [32, 32, 16]
    assert (labels[2, 16:] == IGNORED).all() and (labels[2, :16] != IGNORED).any()
    assert int((labels != IGNORED).sum()) == last.predicted


def test_labels_are_counted_without_reading_tokens(shards: Path) -> None:
    for step in loader(shards).steps():
        labels = [batch.labels for batch in step.micro_batches]
        assert sum(int((each != IGNORED).sum()) for each in labels) == step.predicted


def test_a_worker_without_sequences_gets_a_batch_without_labels(shards: Path) -> None:
    made = loader(shards, rank=7, workers=8)
    *_, last = ([*step.micro_batches] for step in made.steps())
    assert len(last) == 1 and bool((last[0].labels == IGNORED).all())


def test_an_error_while_reading_ahead_reaches_the_trainer(shards: Path) -> None:
    made = loader(shards)
    made.shards.sequence_length -= 1
    with pytest.raises(ArtefactError):
        read(made)


def test_a_closed_loader_ends_its_thread(shards: Path) -> None:
    steps = loader(shards).steps()
    next(steps)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    steps.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


@pytest.mark.parametrize("tokens", [1, 33, 319, 1185, 4001])
@pytest.mark.parametrize("micro", [1, 3, 16])
def test_all_workers_together_train_on_the_budget(shards: Path, tokens: int, micro: int) -> None:
    opened = ShardSet.open(shards)
    made = BatchPlan.of(TRAIN.model_copy(update={"tokens": tokens}), opened, seed=5)
    for workers in (1, 2, 4, 8):
        counted, predicted, labelled = 0, 0, 0
        for rank in range(workers):
            for step in Loader(opened, made, Group(rank, workers), micro).steps():
                labelled += sum(len(batch.labelled) for batch in step.micro_batches)
                if rank == 0:
                    counted += int(step.batch.counted.sum())
                    predicted += step.predicted
        assert (counted, labelled) == (tokens, predicted)
