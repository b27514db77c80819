"""The model to train: Llama-shaped from scratch, or one that exists.

Initial weights are drawn on the CPU in float32 from the seed alone, so every worker, whatever its
device and thread count, begins with the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from penstock.errors import InputError
from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.batch import IGNORED, Batch, collate
from penstock.trainers.data.shards import PackedSequence, ShardSet
from penstock.trainers.modelling.attention import register, span_arguments
from penstock.trainers.modelling.loss import (
    summed_cross_entropy,
    token_cross_entropy,
    weighted_cross_entropy,
)

__all__ = ["LanguageModel", "Windows", "build_model", "load_model"]

Describe = Callable[[Sequence[torch.Tensor], "torch.Tensor | None"], torch.Tensor]
"""Numbers for each sequence from its logits; as ``DescribingReweighter.describe``."""

MLP_MULTIPLE = 16
"""The MLP's width is rounded up to whole AVX-512 registers of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """``n`` rows of tokens, each a text of its own, padded on the right to length ``L``."""

    inputs: torch.Tensor
    """(n, L) int64."""
    targets: torch.Tensor
    """(n, L) int64: the token that follows each input, or IGNORED where it is not asked for."""


class LanguageModel(nn.Module):
    """A causal language model that answers a batch with its summed loss, to train on.

    Windows are answered with the loss of each target, to be judged by. Both go through
    :meth:`forward`, because that is where DeepSpeed gathers a partitioned model's weights.

    Args:
        causal: A transformers model with a language-modelling head.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        self.by_spans = False
        """Whether documents are kept apart by their spans, or by a dense mask."""
        self._plain_head = causal.config.model_type == "llama"

    @property
    def inner(self) -> nn.Module:
        """All that :meth:`forward` runs of the model: without the head where the loss has it."""
        inner: nn.Module = self.causal.model if self._plain_head else self.causal
        return inner

    def forward(
        self,
        batch: Batch | Windows,
        counts: torch.Tensor | None = None,
        *,
        tokens: bool = False,
        describe: Describe | None = None,
    ) -> Any:
        """What the batch's labels cost.

        Args:
            batch: Of n sequences of L tokens; or windows.
            counts: (n, L) float32, how much each label counts.
            tokens: Give each label's own nats, (n, L) float32 with gradient, 0 where there is no
                label.
            describe: With ``tokens``: called with each sequence's states, (L, width), 0 where
                nothing is predicted, and the head that makes logits of them, or with logits and
                None; what it gives comes second.

        Returns:
            The sum of -log p over the labels, () float32 in nats; with ``counts`` the weighted
            sum, and each label's own nats without gradient. Of windows, -log p of each target that
            is asked for: (targets,) float32.
        """
        if isinstance(batch, Windows):
            return self.token_nats(batch.inputs, batch.targets, batch.targets != IGNORED)
        states, labels, labelled = self._predicting(batch)
        hidden, targets, head = states[labelled], labels[labelled], self._head
        if tokens:
            nats = _spread(_nats(hidden, head, targets), labelled)
            if describe is None:
                return nats
            with torch.no_grad():
                real = torch.nn.functional.pad(states * labelled[..., None], (0, 0, 0, 1))
                return nats, describe(list(real), head)
        if counts is None:
            if head is not None:
                return summed_cross_entropy(hidden, head, targets)
            return nn.functional.cross_entropy(hidden.float(), targets, reduction="sum")
        own = counts[:, 1:][labelled]
        if head is not None:
            total, nats = weighted_cross_entropy(hidden, head, targets, own)
        else:
            nats = _nats(hidden, head, targets)
            total, nats = nats @ own, nats.detach()
        return total, _spread(nats, labelled)

    def label_nats(self, batch: Batch) -> torch.Tensor:
        """-log p of each of the batch's labelled tokens, row by row: (labelled,) float32."""
        states, labels, labelled = self._predicting(batch)
        return _nats(states[labelled], self._head, labels[labelled])

    def logits(self, batch: Batch) -> torch.Tensor:
        """What the model says of each next token, documents apart: (n, L, vocabulary)."""
        logits: torch.Tensor = self.causal(**self._inputs(batch), use_cache=False).logits
        return logits

    def attend_by_spans(self, wanted: bool) -> None:
        """Keep documents apart by their spans, or else by a dense mask.

        Raises:
            ValueError: The model lets nobody choose its attention.
        """
        self.causal.set_attn_implementation(register() if wanted else "sdpa")
        self.by_spans = wanted

    def token_nats(
        self, inputs: torch.Tensor, targets: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """-log p of targets, each given the inputs up to and with its own place.

        Args:
            inputs: (n, L) int64, padded on the right.
            targets: (n, L) int64, the token that follows each input.
            real: (n, L) bool, False for padding.

        Returns:
            (real tokens,) float32 in nats, row by row.
        """
        device = self.causal.device
        inputs, targets, real = inputs.to(device), targets.to(device), real.to(device)
        hidden = self._hidden(input_ids=inputs)[real]
        return _nats(hidden, self._head, targets[real])

    @property
    def _head(self) -> torch.Tensor | None:
        """What makes logits of :meth:`_hidden`, (vocabulary, width); None where it gives logits."""
        return self.causal.lm_head.weight if self._plain_head else None

    def _predicting(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """States, what follows each, and whether it is a label: (n, L - 1, …), twice (n, L - 1)."""
        labels = batch.labels[:, 1:]
        states = self._hidden(**self._inputs(batch))
        return states[:, :-1], labels, labels != IGNORED

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        apart = span_arguments(batch) if self.by_spans else {"attention_mask": batch.mask}
        return {"input_ids": batch.input_ids, "position_ids": batch.positions, **apart}

    def _hidden(self, **inputs: Any) -> torch.Tensor:
        """(n, L, width) for a plain head; (n, L, vocabulary) logits for any other."""
        found = self.inner(**inputs, use_cache=False)
        hidden: torch.Tensor = found.last_hidden_state if self._plain_head else found.logits
        return hidden


def _nats(hidden: torch.Tensor, head: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
    """(rows,) float32 from states and a head, or from logits."""
    if head is not None:
        return token_cross_entropy(hidden, head, targets)
    return nn.functional.cross_entropy(hidden.float(), targets, reduction="none")


def _spread(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Values of labels back to their places: (n, L), 0 elsewhere; (n, L - 1) bool says where."""
    placed = values.new_zeros(labelled.shape).masked_scatter(labelled, values)
    return nn.functional.pad(placed, (1, 0))


def build_model(model: ModelShape | ModelFrom, shards: ShardSet, seed: int) -> LanguageModel:
    """The model a recipe asks for, fit for the shards' vocabulary and length, in float32.

    Raises:
        InputError: The given model cannot be read, has another vocabulary, or lets a document
            see its neighbours.
    """
    if isinstance(model, ModelFrom):
        made = load_model(model.hf)
        _check_vocabulary(model.hf, made, shards)
        _keep_apart(model.hf, made, shards)
    else:
        made = LanguageModel(_llama(model, shards, seed))
        made.attend_by_spans(True)
    return made


def load_model(path: str | Path) -> LanguageModel:
    """A model saved by transformers; code that comes with it is never run.

    Raises:
        InputError: There is no such model, or it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    try:
        causal = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: not a causal language model I can load: {reason}") from None
    return LanguageModel(causal)


def _llama(shape: ModelShape, shards: ShardSet, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shards.vocab_size,
        hidden_size=shape.width,
        intermediate_size=-(-round(shape.width * shape.mlp_ratio) // MLP_MULTIPLE) * MLP_MULTIPLE,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shards.sequence_length,
        tie_word_embeddings=True,
        bos_token_id=shards.eos,
        eos_token_id=shards.eos,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _check_vocabulary(name: str, model: LanguageModel, shards: ShardSet) -> None:
    vocabulary = model.causal.get_input_embeddings().num_embeddings
    if vocabulary < shards.vocab_size:
        raise InputError(
            f"train.model.hf: {name}: expected a vocabulary of at least {shards.vocab_size}, as in "
            f"the shards, got {vocabulary}; set `tokenizer` to the model's own"
        )


def _keep_apart(name: str, model: LanguageModel, shards: ShardSet) -> None:
    """Find the way in which this model keeps documents apart: by spans, or else by a mask.

    Models differ in what they pass on to their attention, so both ways are tried on two documents,
    and spans are used where they say what the mask says.

    Raises:
        InputError: It honours neither.
    """
    batch = _two_documents(shards)
    model.eval()
    expected = _apart(model, batch)
    if expected is None:
        raise InputError(
            f"train.model.hf: {name}: does not honour a block-diagonal attention mask, so packed "
            "documents would see each other; choose a model with ordinary attention"
        )
    config = model.causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds <= _KNOWN_LAYERS:
        try:
            model.attend_by_spans(True)
            found = _apart(model, batch)
        except (NotImplementedError, TypeError, ValueError) as error:
            _log.info("%s: attention by a dense mask, since: %s", name, error)
        else:
            if found is not None and torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
                return
    model.attend_by_spans(False)


_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""Others, of chunks for one, differ from these only in sequences longer than those tried."""

_log = logging.getLogger(__name__)


def _two_documents(shards: ShardSet) -> Batch:
    """Two sequences of two documents, of which only the first differs."""
    length = min(16, shards.sequence_length)
    starts = np.array([0, length // 2], np.int32)
    first = np.arange(length, dtype=np.uint32) % shards.vocab_size
    second = first.copy()
    second[: length // 2] = (first[: length // 2] + 1) % shards.vocab_size
    return collate([PackedSequence(first, starts), PackedSequence(second, starts)])


def _apart(model: LanguageModel, batch: Batch) -> torch.Tensor | None:
    """The logits of :func:`_two_documents`, unless the second document saw the first's change."""
    with torch.inference_mode():
        logits = model.logits(batch)
    half = logits.shape[1] // 2
    equal = torch.allclose(logits[0, half:], logits[1, half:], rtol=1e-4, atol=1e-4)
    return logits if equal else None
