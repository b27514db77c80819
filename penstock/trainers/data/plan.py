"""Global batches: which sequences make up a step, as a pure function of (shards, seed, step).

A run reads a stream of positions, one sequence each, until its token budget is spent exactly: of
the last sequence only the first tokens count. The mixture gives a position's source, counting gives
its index in that source's epoch, and the permutation of that epoch gives the sequence. Nothing is
stored, so a run resumes from a step's number alone, and the number of workers changes only which
worker takes which part of a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.errors import RecipeError
from penstock.hashing import mix
from penstock.recipe import MixturePhase, Train
from penstock.trainers.data.order import Mixture, Phase, permute
from penstock.trainers.data.shards import ShardGroup, ShardSet

__all__ = ["BatchPlan", "GlobalBatch"]

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
    ) -> None:
        self.groups = groups
        self.mixture = mixture
        self.tokens = tokens
        self.batch = batch
        self.length = length
        self.seed = seed

    @classmethod
    def of(cls, train: Train, shards: ShardSet, seed: int) -> BatchPlan:
        """Build the plan of a recipe's ``train`` part.

        Raises:
            RecipeError: The mixture names a source that has no shards of its own, or its phases do
                not end in order within the budget.
        """
        tokens = train.tokens or shards.tokens
        length = shards.sequence_length
        groups: Sequence[ShardGroup] = [ShardGroup(ALL_SEQUENCES, 0, len(shards))]
        phases = [Phase(first=0, weights={ALL_SEQUENCES: 1.0})]
        if train.mixture:
            groups = shards.groups
            _check_sources(train.mixture, groups)
            phases = _phases(train.mixture, tokens, length)
        return cls(
            groups,
            Mixture(sources=[group.name for group in groups], phases=phases),
            tokens=tokens,
            batch=max(1, train.batch_tokens // length),
            length=length,
            seed=seed,
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
        """Compute how many times the run reads each group, by the group's name."""
        read = self.mixture.read(self.positions)
        return {group.name: count / group.size for group, count in zip(self.groups, read.tolist())}

    def repeated(self) -> int:
        """Count the tokens that the run reads a second time or more, in whole sequences."""
        read = self.mixture.read(self.positions).tolist()
        again = [max(0, count - group.size) for group, count in zip(self.groups, read)]
        return sum(again) * self.length

    def _sequences(self, first: int, last: int) -> np.ndarray:
        owner, rank = self.mixture.sources_at(first, last)
        sequences = np.empty(last - first, np.int64)
        for number in np.unique(owner).tolist():
            group = self.groups[number]
            mine = owner == number
            epoch, place = np.divmod(rank[mine], group.size)
            moved = np.empty(len(place), np.int64)
            for turn in np.unique(epoch).tolist():
                now = epoch == turn
                key = mix("order", self.seed, turn, *_name(group))
                moved[now] = permute(place[now], group.size, key)
            sequences[mine] = group.first + moved
        return sequences


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
