"""The model to train: Llama-shaped from scratch, or one that exists.

Initial weights are drawn on the CPU in float32 from the seed alone, so every worker, whatever its
device and thread count, begins with the same ones.
"""

from __future__ import annotations

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
from penstock.trainers.modelling.loss import summed_cross_entropy, token_cross_entropy

__all__ = ["LanguageModel", "Windows", "build_model", "load_model"]

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
        self._plain_head = causal.config.model_type == "llama"

    def forward(self, batch: Batch | Windows) -> torch.Tensor:
        """The sum of -log p over the batch's labelled tokens: () float32, in nats.

        Of windows, -log p of each target that is asked for: (targets,) float32, in nats.
        """
        if isinstance(batch, Windows):
            return self.token_nats(batch.inputs, batch.targets, batch.targets != IGNORED)
        labels = batch.labels[:, 1:]
        labelled = labels != IGNORED
        hidden = self._hidden(
            input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.positions
        )[:, :-1]
        if self._plain_head:
            weight = self.causal.lm_head.weight
            return summed_cross_entropy(hidden[labelled], weight, labels[labelled])
        return nn.functional.cross_entropy(
            hidden[labelled].float(), labels[labelled], reduction="sum"
        )

    def label_nats(self, batch: Batch) -> torch.Tensor:
        """-log p of each of the batch's labelled tokens, row by row: (labelled,) float32."""
        labels = batch.labels[:, 1:]
        labelled = labels != IGNORED
        hidden = self._hidden(
            input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.positions
        )[:, :-1][labelled]
        if self._plain_head:
            return token_cross_entropy(hidden, self.causal.lm_head.weight, labels[labelled])
        return nn.functional.cross_entropy(hidden.float(), labels[labelled], reduction="none")

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
        if self._plain_head:
            return token_cross_entropy(hidden, self.causal.lm_head.weight, targets[real])
        return nn.functional.cross_entropy(hidden.float(), targets[real], reduction="none")

    def _hidden(self, **inputs: torch.Tensor) -> torch.Tensor:
        """(n, L, width) for a plain head; (n, L, vocabulary) logits for any other."""
        hidden: torch.Tensor
        if self._plain_head:
            hidden = self.causal.model(**inputs, use_cache=False).last_hidden_state
        else:
            hidden = self.causal(**inputs, use_cache=False).logits
        return hidden


def build_model(model: ModelShape | ModelFrom, shards: ShardSet, seed: int) -> LanguageModel:
    """The model a recipe asks for, fit for the shards' vocabulary and length, in float32.

    Raises:
        InputError: The given model cannot be read, has another vocabulary, or lets a document
            see its neighbours.
    """
    if isinstance(model, ModelFrom):
        found = load_model(model.hf)
        _check_fits(model.hf, found, shards)
        return found
    return LanguageModel(_llama(model, shards, seed))


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


def _check_fits(name: str, model: LanguageModel, shards: ShardSet) -> None:
    vocabulary = model.causal.get_input_embeddings().num_embeddings
    if vocabulary < shards.vocab_size:
        raise InputError(
            f"train.model.hf: {name}: expected a vocabulary of at least {shards.vocab_size}, as in "
            f"the shards, got {vocabulary}; set `tokenizer` to the model's own"
        )
    if not _isolates(model, shards):
        raise InputError(
            f"train.model.hf: {name}: does not honour a block-diagonal attention mask, so packed "
            "documents would see each other; choose a model with ordinary attention"
        )


def _isolates(model: LanguageModel, shards: ShardSet) -> bool:
    """Whether a document's logits stay as they are when the document before it changes."""
    length = min(16, shards.sequence_length)
    starts = np.array([0, length // 2], np.int32)
    first = np.arange(length, dtype=np.uint32) % shards.vocab_size
    second = first.copy()
    second[: length // 2] = (first[: length // 2] + 1) % shards.vocab_size
    batch = collate([PackedSequence(first, starts), PackedSequence(second, starts)])
    with torch.inference_mode():
        logits = model.causal(
            input_ids=batch.input_ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).logits[:, length // 2 :]
    return torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)
