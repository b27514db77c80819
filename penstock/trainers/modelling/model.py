"""Language model: a batch to its summed loss, or to the nats of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from penstock.language_models.trees import TreeBatch
from penstock.trainers.data.batch import IGNORED, Batch
from penstock.trainers.modelling.attention import register, span_arguments
from penstock.trainers.modelling.loss import token_cross_entropy, weighted_cross_entropy

__all__ = ["LanguageModel"]

Describe = Callable[[Sequence[torch.Tensor], "torch.Tensor | None"], torch.Tensor]
"""Features of each sequence from its states and the head, or from its logits and None; as
``BatchRequirements.describe``."""


class LanguageModel(nn.Module):
    """A causal language model with its loss.

    A batch gives its summed loss, for training; trees give the loss of each target, for
    evaluation. Both go through :meth:`forward`, where a back end gathers partitioned weights.

    Args:
        causal: A transformers model with a language-modelling head.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        self.by_spans = False
        """True if documents are separated by spans, False if by a dense mask."""
        self.reads_branches = False
        """True if the losses of a tree's branches are those of separate windows."""
        self._plain_head = causal.config.model_type == "llama"

    @property
    def inner(self) -> nn.Module:
        """The part that :meth:`forward` runs: without the head, if the loss applies it."""
        inner: nn.Module = self.causal.model if self._plain_head else self.causal
        return inner

    def forward(
        self,
        batch: Batch | TreeBatch,
        counts: torch.Tensor | None = None,
        *,
        tokens: bool = False,
        describe: Describe | None = None,
    ) -> Any:
        """Compute the loss of the batch's labels.

        Args:
            batch: n sequences of L tokens; or trees.
            counts: (n, L) float32, the weight of each label.
            tokens: Return the nats of each label, (n, L) float32 with gradient, 0 where there is
                no label.
            describe: With ``tokens``: called with the states of each sequence, (L, width), 0 where
                nothing is predicted, and the head that turns them into logits; or with logits and
                None. Its result is returned second.

        Returns:
            The sum of -log p over the labels, () float32 in nats; with ``counts`` the weighted
            sum, and the nats of each label without gradient. For trees, -log p of each target
            that is not IGNORED: (targets,) float32.
        """
        if isinstance(batch, TreeBatch):
            counted = batch.targets != IGNORED
            hidden = self._hidden(**batch.arguments)[counted]
            return _nats(hidden, self._head, batch.targets[counted])
        states, labels, labelled = self._predicting(batch)
        hidden, targets, head = states[labelled], labels[labelled], self._head
        if tokens:
            nats = _spread(_nats(hidden, head, targets), labelled)
            if describe is None:
                return nats
            with torch.no_grad():
                real = torch.nn.functional.pad(states * labelled[..., None], (0, 0, 0, 1))
                return nats, describe(list(real), head)
        own = None if counts is None else counts[:, 1:][labelled]
        if head is not None:
            total, nats = weighted_cross_entropy(hidden, head, targets, own)
        elif own is None:
            return nn.functional.cross_entropy(hidden.float(), targets, reduction="sum")
        else:
            nats = _nats(hidden, head, targets)
            total, nats = nats @ own, nats.detach()
        return total if counts is None else (total, _spread(nats, labelled))

    def label_nats(self, batch: Batch) -> torch.Tensor:
        """Compute -log p of each labelled token of the batch, row by row: (labelled,) float32."""
        states, labels, labelled = self._predicting(batch)
        return _nats(states[labelled], self._head, labels[labelled])

    def logits(self, batch: Batch) -> torch.Tensor:
        """Compute the logits of each next token, documents kept apart: (n, L, vocabulary)."""
        logits: torch.Tensor = self.causal(**self._inputs(batch), use_cache=False).logits
        return logits

    def attend_by_spans(self, wanted: bool) -> None:
        """Keep documents apart by spans, or else by a dense mask.

        Raises:
            ValueError: The model does not support another attention.
        """
        self.causal.set_attn_implementation(register() if wanted else "sdpa")
        self.by_spans = wanted

    @property
    def _head(self) -> torch.Tensor | None:
        """The matrix from states to logits, (vocabulary, width); None if the model makes logits."""
        return self.causal.lm_head.weight if self._plain_head else None

    def _predicting(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states (n, L - 1, …), next tokens and whether each is a label, both (n, L - 1)."""
        labels = batch.labels[:, 1:]
        states = self._hidden(**self._inputs(batch))
        return states[:, :-1], labels, labels != IGNORED

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        apart = span_arguments(batch) if self.by_spans else {"attention_mask": batch.mask}
        return {"input_ids": batch.input_ids, "position_ids": batch.positions, **apart}

    def _hidden(self, **inputs: Any) -> torch.Tensor:
        """Compute states, (n, L, width), for a plain head; else logits, (n, L, vocabulary)."""
        found = self.inner(**inputs, use_cache=False)
        hidden: torch.Tensor = found.last_hidden_state if self._plain_head else found.logits
        return hidden


def _nats(hidden: torch.Tensor, head: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
    """Compute nats, (rows,) float32, from states and a head, or from logits."""
    if head is not None:
        return token_cross_entropy(hidden, head, targets)
    return nn.functional.cross_entropy(hidden.float(), targets, reduction="none")


def _spread(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Scatter values of labels, (n, L - 1) bool, to their tokens: (n, L), 0 elsewhere."""
    placed = values.new_zeros(labelled.shape).masked_scatter(labelled, values)
    return nn.functional.pad(placed, (1, 0))
