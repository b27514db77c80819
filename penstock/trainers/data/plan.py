"""Global batches: which sequences make up a step, as a pure function of (shards, seed, step).

A run reads a stream of positions, one sequence each, until its token budget is spent exactly: of
the last sequence only the first tokens count. The mixture gives a position's source, counting gives
its index in that source's epoch, and the permutation of that epoch gives the sequence. A run that
continues another one adds the sequences that were read of each source. Nothing else is stored, so a
run resumes from a step's number alone, and the number of workers changes only which
worker takes which part of a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from penstock.errors import RecipeError
from penstock.hashing import mix
from penstock.recipe import MixturePhase, Train
from penstock.trainers.data.order import Mixture, Phase, permute
from penstock.trainers.data.position import DataPosition
from penstock.trainers.data.shards import ShardGroup, ShardSet

__all__ = ["BatchPlan", "GlobalBatch", "batch_length", "groups_of"]

ALL_SEQUENCES = "all"
"""The name of the one group that holds all sequences, where there is no mixture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalBatch:
    """The sequences that all workers together train on in a step."""

    step: int
    before: int
    """Tokens of all earlier steps."""
    tokens: int
    """Tokens of this step, within the budget."""
    sequences: np.ndarray
    """(n,) int64: numbers of sequences in the shards."""
    counted: np.ndarray
    """(n,) int64: how many tokens of each sequence count, from its beginning. It is less than the
    length only for a run's last sequence."""

    def __len__(self) -> int:
        return len(self.sequences)


class BatchPlan:
    """The global batches of a run.

    Args:
        groups: Ranges of sequences, each read in its own order; together, all that is read.
        mixture: Shares of the groups, in their order.
        tokens: The token budget.
        batch: Sequences in a global batch.
        length: Tokens in a sequence.
        seed: Seed of the order.
        start: Where the data goes on that an earlier run has read, by its groups; its ``order``
            replaces ``seed``. By default nothing was read.
    """

    def __init__(
        self,
        groups: Sequence[ShardGroup],
        mixture: Mixture,
        *,
        tokens: int,
        batch: int,
        length: int,
        seed: int,
        start: DataPosition | None = None,
    ) -> None:
        self.start = start or DataPosition(order=seed)
        self.groups = groups
        self.mixture = mixture
        self.tokens = tokens
        self.batch = batch
        self.length = length

    @classmethod
    def of(
        cls, train: Train, shards: ShardSet, seed: int, start: DataPosition | None = None
    ) -> BatchPlan:
        """Build the plan of a recipe's ``train`` part; ``start`` is as of the class.

        Raises:
            RecipeError: The mixture names a source that has no shards of its own, or its phases do
                not end in order within the budget.
        """
        tokens = train.tokens or shards.tokens
        length = shards.sequence_length
        groups = groups_of(train, shards)
        phases = [Phase(first=0, weights={ALL_SEQUENCES: 1.0})]
        if train.mixture:
            _check_sources(train.mixture, groups)
            phases = _phases(train.mixture, tokens, length)
        if start and start.weights == phases[0].weights:
            phases[0] = replace(phases[0], counted=start.counted)
        return cls(
            groups,
            Mixture(sources=[group.name for group in groups], phases=phases),
            tokens=tokens,
            batch=batch_length(train, shards) // length,
            length=length,
            seed=seed,
            start=start,
        )

    @property
    def positions(self) -> int:
        """Sequences that the run reads; the last may count in part."""
        return -(-self.tokens // self.length)

    @property
    def steps(self) -> int:
        """Number of global batches; the last may be smaller."""
        return -(-self.positions // self.batch)

    def global_batch(self, step: int) -> GlobalBatch:
        """Return the batch of ``step``."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        first = step * self.batch
        last = min(first + self.batch, self.positions)
        counted = np.full(last - first, self.length, np.int64)
        if last == self.positions:
            counted[-1] = self.tokens - (last - 1) * self.length
        return GlobalBatch(
            step=step,
            before=first * self.length,
            tokens=int(counted.sum()),
            sequences=self._sequences(first, last),
            counted=counted,
        )

    def epochs(self) -> dict[str, float]:
        """Compute how many times the run itself reads each group, by the group's name."""
        read = self.mixture.read(self.positions)
        return {group.name: count / group.size for group, count in zip(self.groups, read.tolist())}

    def repeated(self) -> int:
        """Count the tokens that the run reads a second time or more, in whole sequences.

        What an earlier run read in the same order, which this one goes on in, counts as read.
        """
        read = self.mixture.read(self.positions).tolist()
        again = 0
        for group, count in zip(self.groups, read):
            earlier = self.start.read.get(group.name, 0)
            again += max(0, earlier + count - max(group.size, earlier))
        return again * self.length

    def position_after(self, step: int) -> DataPosition:
        """Return the position in the data before ``step``, for a run that goes on from there."""
        positions = min(step * self.batch, self.positions)
        own = self.mixture.read(positions).tolist()
        weights, counted = self.mixture.shares_at(positions)
        return DataPosition(
            order=self.start.order,
            groups={group.name: group.size for group in self.groups},
            read={
                group.name: self.start.read.get(group.name, 0) + count
                for group, count in zip(self.groups, own)
            },
            weights=dict(weights),
            counted=counted,
        )

    def _sequences(self, first: int, last: int) -> np.ndarray:
        owner, rank = self.mixture.sources_at(first, last)
        sequences = np.empty(last - first, np.int64)
        for number in np.unique(owner).tolist():
            group = self.groups[number]
            mine = owner == number
            earlier = self.start.read.get(group.name, 0)
            epoch, place = np.divmod(rank[mine] + earlier, group.size)
            moved = np.empty(len(place), np.int64)
            for turn in np.unique(epoch).tolist():
                now = epoch == turn
                key = mix("order", self.start.order, turn, *_name(group))
                moved[now] = permute(place[now], group.size, key)
            sequences[mine] = group.first + moved
        return sequences


def batch_length(train: Train, shards: ShardSet) -> int:
    """Return the tokens of a global batch: ``batch_tokens`` in whole sequences, at least one."""
    length = shards.sequence_length
    return max(1, train.batch_tokens // length) * length


def groups_of(train: Train, shards: ShardSet) -> list[ShardGroup]:
    """Return the groups that a run reads: those of the shards with a mixture, else one of all."""
    return shards.groups if train.mixture else [ShardGroup(ALL_SEQUENCES, 0, len(shards))]


def _name(group: ShardGroup) -> tuple[str, ...]:
    return () if group.name == ALL_SEQUENCES else (group.name,)


def _phases(mixture: Sequence[MixturePhase], tokens: int, length: int) -> list[Phase]:
    """Convert phases to positions: one begins at the first sequence wholly after its count."""
    ends = [phase.ends_at(tokens) for phase in mixture]
    for before, end in itertools.pairwise([0, *ends]):
        if end <= before:
            raise RecipeError(
                key="train.mixture",
                expected=f"`until` to rise and to stay below the budget of {tokens:,} tokens",
                got=f"{end:,} after {before:,}",
            )
    starts = [0, *(-(-end // length) for end in ends[:-1])]
    return [Phase(first=first, weights=phase.weights) for first, phase in zip(starts, mixture)]


def _check_sources(mixture: Sequence[MixturePhase], groups: Sequence[ShardGroup]) -> None:
    names = [group.name for group in groups]
    for phase in mixture:
        for name in phase.weights:
            if name not in names:
                raise RecipeError(
                    key="train.mixture",
                    expected=f"sources with shards of their own (`budget.shares`), {names}",
                    got=repr(name),
                )
