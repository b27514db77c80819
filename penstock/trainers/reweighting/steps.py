"""Reweighted steps: score the global batch, weigh its samples, train on those with a weight.

The loss of a step is the sum of ``w_i l_i`` over its samples: the weights w_i sum to 1 and have no
gradient, and l_i is a sample's mean loss over its predicted tokens. Each worker scores its part
without gradients; the losses are gathered in the order of the global batch, and every worker calls
the reweighter with all of them. So a step costs one more forward pass, except for its last
micro-batch: its scores are kept with their graph, and it is trained on first. Scoring a step of one
micro-batch costs only its logits, which are computed twice.

If at most half of the sequences have a weight, the others are left out, and the sequences with a
weight are split over the workers again. While weights are uniform by definition, and where they do
not depend on losses, nothing is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from penstock.recipe import ReweightSpec
from penstock.selectors.reweighting import (
    Reweighter,
    ScoredBatch,
    TrainingProgress,
    checked_weights,
)
from penstock.trainers.backends.base import Backend
from penstock.trainers.data.batch import Batch
from penstock.trainers.data.loader import LoadedStep, Loader, split_micro_batches
from penstock.trainers.reweighting.journal import WeightJournal, pack, unpack
from penstock.trainers.reweighting.samples import Samples

__all__ = ["Reweighted", "Reweighting"]

MAX_SHARE_SPLIT_AGAIN = 0.5
"""Up to this share of sequences with a weight, the others are left out. A forward pass costs 1, a
backward pass 2: with one micro-batch, which is scored with its graph, a new split is cheaper
below 2/3; with many, below 1. Above this share the existing graph is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reweighted:
    """Loss and facts of a step."""

    loss: float
    """Mean over the global batch's predicted tokens, as in a step that is not reweighted."""
    facts: Mapping[str, float]
    """For the metrics: ``weighted_loss``; ``effective_samples``, (1 / sum of w²) / n, the share of
    samples that equal weights of the same sum of squares would have; ``trained_tokens``, predicted
    tokens of samples with a weight; and the reweighter's own facts."""


class Reweighting:
    """One worker's part of reweighted steps.

    Args:
        spec: The recipe's ``train.reweight``.
        reweighter: A new one.
        backend: Back end of a :class:`~penstock.trainers.modelling.model.LanguageModel`.
        loader: Reads this worker's part.
        trained: Called with each micro-batch whose gradients were computed.
        directory: The run's, for the journal; None on all ranks but 0, which keep none.
    """

    def __init__(
        self,
        spec: ReweightSpec,
        reweighter: Reweighter,
        *,
        backend: Backend,
        loader: Loader,
        trained: Callable[[Batch], None],
        directory: Path | None = None,
    ) -> None:
        self.spec = spec
        self.reweighter = reweighter
        self.journal = WeightJournal(directory) if directory else None
        self._backend = backend
        self._loader = loader
        self._group = loader.group
        self._trained = trained

    def step(self, loaded: LoadedStep) -> Reweighted:
        """Accumulate the gradients of a step; the caller takes the optimiser's step.

        Raises:
            ScoringError: The weights are invalid; it names the step.
            FloatingPointError: A loss is not finite.
        """
        batch = loaded.batch
        samples = Samples.of(self._loader.shards, batch, self.spec.sample)
        moment = TrainingProgress(
            step=batch.step, tokens=batch.before, budget=self._loader.plan.tokens
        )
        uniform = not samples.real.any() or self.reweighter.is_uniform(moment)
        if uniform or not self.reweighter.requirements.losses:
            weights = samples.real / max(1, samples.real.sum())
            if not uniform:
                unknown = np.full(len(samples), np.nan)
                weights = self._weights(samples, unknown, loaded, moment, [])
            shares = self._shares(samples, weights)
            pairs = zip(loaded.pieces, loaded.micro_batches)
            nats = self._train(pairs, len(loaded.pieces), samples, shares)
            losses = self._losses(samples, nats)
        else:
            losses, weights = self._scored_step(loaded, samples, moment)
        if self.journal:
            places = samples.sequences
            self.journal.add(
                step=batch.step,
                position=batch.before // samples.length + places,
                sequence=batch.sequences[places],
                start=samples.starts,
                loss=losses,
                weight=weights,
            )
        return self._reweighted(samples, losses, weights, moment)

    def save(self) -> dict[str, bytes]:
        """Return the files of a checkpoint: the state of the reweighter and of the journal."""
        kept = {"reweighter.npz": pack(self.reweighter.state())}
        if self.journal:
            kept["weights.json"] = self.journal.save()
        return kept

    def restore(self, kept: Mapping[str, bytes]) -> None:
        """Restore the files that :meth:`save` returned on rank 0.

        Raises:
            TrainingError: A file of the journal is missing or changed.
        """
        self.reweighter.restore(unpack(kept["reweighter.npz"]))
        if self.journal:
            self.journal.restore(kept["weights.json"])

    def finish(self) -> None:
        """Write the rows that the journal holds in memory."""
        if self.journal:
            self.journal.flush()

    def _scored_step(
        self, loaded: LoadedStep, samples: Samples, moment: TrainingProgress
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score and train on a step; returns losses and weights: (S,) float64 each."""
        *others, last = loaded.pieces
        scored = []
        features: list[torch.Tensor] = []
        kept = torch.zeros(())
        for number, (places, own) in enumerate(zip(loaded.pieces, loaded.micro_batches)):
            with torch.set_grad_enabled(number == len(others)):
                kept = self._score(own, features)
            scored.append((places, kept.detach()))
        losses = self._losses(samples, scored)
        weights = self._weights(samples, losses, loaded, moment, features)
        shares = self._shares(samples, weights)
        counting = np.unique(samples.sequences[weights > 0])
        if len(counting) <= MAX_SHARE_SPLIT_AGAIN * len(loaded.batch):
            del kept
            split = split_micro_batches(len(counting), self._group, self._loader.micro_batch)
            pieces = [counting[piece] for piece in split]
            pairs = ((places, self._loader.collate(loaded.batch, places)) for places in pieces)
            self._train(pairs, len(pieces), samples, shares)
        else:
            counts = self._on_device(samples.over_tokens(shares, last))
            self._backward((kept * counts).sum(), samples, is_last=not others)
            self._trained(own)
            del kept
            pairs = ((places, self._loader.collate(loaded.batch, places)) for places in others)
            self._train(pairs, len(others), samples, shares)
        return losses, weights

    def _score(self, own: Batch, features: list[torch.Tensor]) -> torch.Tensor:
        """Compute (rows, length) nats of a micro-batch; append its features."""
        describe, own = self.reweighter.requirements.describe, own.to(self._group.device)
        if describe is None:
            nats: torch.Tensor = self._backend.forward(own, tokens=True)
            return nats
        nats, described = self._backend.forward(own, tokens=True, describe=describe)
        features.append(described)
        return nats

    def _train(
        self,
        pairs: Iterable[tuple[np.ndarray, Batch]],
        count: int,
        samples: Samples,
        shares: np.ndarray,
    ) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Accumulate the gradients of micro-batches, the last of them also the step's last.

        Returns:
            Their indices and (rows, length) nats.
        """
        found = []
        for number, (places, own) in enumerate(pairs):
            counts = self._on_device(samples.over_tokens(shares, places))
            total, nats = self._backend.forward(own.to(self._group.device), counts)
            self._backward(total, samples, is_last=number == count - 1)
            self._trained(own)
            found.append((places, nats))
        return found

    def _backward(self, total: torch.Tensor, samples: Samples, is_last: bool) -> None:
        self._backend.accumulate(total * (1 / max(1, int(samples.predicted.sum()))), last=is_last)

    def _shares(self, samples: Samples, weights: np.ndarray) -> np.ndarray:
        """Compute the weight of a token of each sample, 1 if all are equal: (S,) float64.

        Any float type can hold it; :meth:`_backward` divides by the number of tokens.
        """
        shares: np.ndarray = weights / np.maximum(1, samples.predicted) * samples.predicted.sum()
        return shares

    def _weights(
        self,
        samples: Samples,
        losses: np.ndarray,
        loaded: LoadedStep,
        moment: TrainingProgress,
        features: list[torch.Tensor],
    ) -> np.ndarray:
        described, pieces = None, loaded.pieces
        if features:
            rows = [own[: len(places)] for own, places in zip(features, pieces)]
            numbers = samples.of_places(np.concatenate(pieces))
            described = self._gathered(len(samples), numbers, torch.cat(rows)).astype(np.float32)
        real = samples.real
        carried = None
        if self.reweighter.requirements.carried:
            shards = self._loader.shards
            found = [shards.carried(index) for index in loaded.batch.sequences.tolist()]
            carried = np.concatenate(found)[real]
        batch = ScoredBatch(
            losses=losses[real],
            moment=moment,
            features=None if described is None else described[real],
            predicted=samples.predicted[real],
            carried=carried,
        )
        weights = np.zeros(len(samples))
        weights[real] = checked_weights(self.reweighter.weights(batch), batch, self.spec.use)
        return weights

    def _losses(
        self, samples: Samples, scored: list[tuple[np.ndarray, torch.Tensor]]
    ) -> np.ndarray:
        """Gather the mean loss of every sample: (S,) float64, NaN without a label."""
        nats = torch.cat([own for _, own in scored]).cpu().numpy()
        rows = np.concatenate([np.full(len(own), len(places) > 0) for places, own in scored])
        places = np.concatenate([places for places, _ in scored])
        sums = torch.from_numpy(samples.sums(nats[rows], places))
        gathered = self._gathered(len(samples), samples.of_places(places), sums[:, None])[:, 0]
        if not np.isfinite(gathered).all():
            mean = gathered.sum() / samples.predicted.sum()
            raise FloatingPointError(f"the loss is {mean}; lower train.lr or train.clip")
        with np.errstate(invalid="ignore"):
            losses: np.ndarray = gathered / samples.predicted
        return losses

    def _gathered(self, count: int, numbers: np.ndarray, rows: torch.Tensor) -> np.ndarray:
        """Gather rows of all workers by the numbers of their samples: (count, columns) float64.

        Each row comes from one worker, and all others add zeros. So the sums are exact and the same
        on every worker, in any order of addition.
        """
        device = self._group.device
        table = torch.zeros(count, rows.shape[1], dtype=torch.float64, device=device)
        table[torch.from_numpy(numbers).to(device)] = rows.to(device, torch.float64)
        return self._group.all_sum(table).cpu().numpy()

    def _reweighted(
        self, samples: Samples, losses: np.ndarray, weights: np.ndarray, moment: TrainingProgress
    ) -> Reweighted:
        real = samples.real
        losses, weights, predicted = losses[real], weights[real], samples.predicted[real]
        if not len(losses):
            return Reweighted(loss=0.0, facts={})
        return Reweighted(
            loss=float(losses @ predicted / predicted.sum()),
            facts={
                "weighted_loss": float(losses @ weights),
                "effective_samples": float(1 / (weights @ weights) / len(weights)),
                "trained_tokens": int(predicted[weights > 0].sum()),
                **self.reweighter.facts(moment),
            },
        )

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._group.device)
