"""Language model: a batch to its summed loss, or to the nats of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
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
        self.vocabulary: int | None = None
        """Rows of the head and of the token table that stand for tokens; None if all do. The others
        are padding: they have no probability, and are not saved."""
        self.by_spans = False
        """True if documents are separated by spans, False if by a dense mask."""
        self.reads_branches = False
        """True if the losses of a tree's branches are those of separate windows."""
        self.plain_head = False
        """True if logits are states times the head's matrix, so that the loss can apply it."""

    @property
    def inner(self) -> nn.Module:
        """The part that :meth:`forward` runs: without the head, if the loss applies it."""
        inner: nn.Module = self.causal.base_model if self.plain_head else self.causal
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
            return self._nats(hidden, batch.targets[counted])
        states = self._states(batch)
        hidden, targets, head = _predicting(states, batch), batch.targets, self._head
        if tokens:
            nats = _spread(self._nats(hidden, targets), batch)
            if describe is None:
                return nats
            with torch.no_grad():
                real = torch.zeros_like(states.flatten(0, 1))
                real.index_copy_(0, batch.labelled - 1, hidden)
                known = None if head is None else head[: self.vocabulary]
                return nats, describe(list(real.view_as(states)), known)
        own = None if counts is None else counts.flatten().index_select(0, batch.labelled)
        if head is not None:
            total, nats = weighted_cross_entropy(hidden, head, targets, own, self.vocabulary)
        elif own is None:
            return nn.functional.cross_entropy(hidden.float(), targets, reduction="sum")
        else:
            nats = self._nats(hidden, targets)
            total, nats = nats @ own, nats.detach()
        return total if counts is None else (total, _spread(nats, batch))

    def label_nats(self, batch: Batch) -> torch.Tensor:
        """Compute -log p of each labelled token of the batch, row by row: (labelled,) float32."""
        return self._nats(_predicting(self._states(batch), batch), batch.targets)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Compute the logits of each next token, documents kept apart: (n, L, vocabulary)."""
        logits: torch.Tensor = self.causal(**self._inputs(batch), use_cache=False).logits
        return logits[..., : self.vocabulary]

    def save(self, directory: Path) -> None:
        """Write the model for transformers, without padding; all its weights are here."""
        weights = None
        if self.vocabulary is not None:
            weights = self.causal.state_dict()
            both = (self.causal.get_input_embeddings(), self.causal.get_output_embeddings())
            for name, own in self.causal.named_parameters(remove_duplicate=False):
                if any(own is module.weight for module in both):
                    weights[name] = own.detach()[: self.vocabulary]
        self.causal.save_pretrained(directory, state_dict=weights)

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
        return self.causal.get_output_embeddings().weight if self.plain_head else None

    def _states(self, batch: Batch) -> torch.Tensor:
        """Compute what :meth:`_hidden` returns, documents kept apart."""
        return self._hidden(**self._inputs(batch))

    def _nats(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Compute nats, (rows,) float32, from states or from logits."""
        if (head := self._head) is not None:
            return token_cross_entropy(hidden, head, targets, self.vocabulary)
        return nn.functional.cross_entropy(hidden.float(), targets, reduction="none")

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        apart = span_arguments(batch) if self.by_spans else {"attention_mask": batch.mask}
        return {"input_ids": batch.input_ids, "position_ids": batch.positions, **apart}

    def _hidden(self, **inputs: Any) -> torch.Tensor:
        """Compute states, (n, L, width), for a plain head; else logits, (n, L, vocabulary)."""
        found = self.inner(**inputs, use_cache=False)
        if self.plain_head:
            states: torch.Tensor = found.last_hidden_state
            return states
        logits: torch.Tensor = found.logits
        return logits[..., : self.vocabulary]


def _predicting(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the states, (n, L, …), from which the labels are predicted: (labels, …)."""
    return states.flatten(0, 1).index_select(0, batch.labelled - 1)


def _spread(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Put the values of labels at their tokens: (n, L), 0 elsewhere."""
    places = batch.input_ids
    return values.new_zeros(places.numel()).index_copy(0, batch.labelled, values).view_as(places)
