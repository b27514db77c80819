"""Models to train: Llama-shaped from scratch, or loaded.

Initial weights are drawn on the CPU in float32 from the seed alone, so they are the same for any
device and number of threads. PyTorch's normal distribution rounds differently with AVX2: on a CPU
without it weights of standard deviation 0.02 differ by up to 4.1e-8 (docs/lab.md).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.errors import InputError
from penstock.recipe import ModelFrom, ModelShape
from penstock.trainers.data.batch import Batch, collate
from penstock.trainers.data.shards import PackedSequence, ShardSet
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["build_model", "load_model"]

_log = logging.getLogger(__name__)

MLP_MULTIPLE = 16
"""The MLP's width is rounded up to whole AVX-512 registers of float32."""

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
"""Layer types for which 16 tokens are a sufficient trial. Others, such as chunked attention, differ
from these only in sequences longer than those that are tried."""


def build_model(model: ModelShape | ModelFrom, shards: ShardSet, seed: int) -> LanguageModel:
    """Build the model of a recipe in float32, for the shards' vocabulary and length.

    Raises:
        InputError: A given model cannot be loaded, its vocabulary is too small, or it cannot keep
            documents apart.
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
    """Load a model saved by transformers; code that comes with it is never run.

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
        raise InputError(
            f"cannot be loaded as a causal language model: {reason}",
            key="train.model.hf",
            file=path,
        ) from None
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
            key="train.model.hf",
            file=name,
            expected=f"a vocabulary of at least {shards.vocab_size}, as in the shards",
            got=vocabulary,
            fix="set `tokenizer` to the model's own",
        )


def _keep_apart(name: str, model: LanguageModel, shards: ShardSet) -> None:
    """Choose how this model keeps documents apart: by spans, or else by a mask.

    Models differ in the keywords that they pass on to their attention. So both ways are tried on
    two documents, and spans are used if their logits equal those of the mask.

    Raises:
        InputError: Neither way keeps documents apart.
    """
    batch = _two_documents(shards)
    model.eval()
    expected = _apart(model, batch)
    if expected is None:
        raise InputError(
            "does not honour a block-diagonal attention mask, so packed documents would attend to "
            "each other",
            key="train.model.hf",
            file=name,
            fix="choose a model with ordinary attention",
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


def _two_documents(shards: ShardSet) -> Batch:
    """Build two sequences of two documents; the sequences differ in the first document only."""
    length = min(16, shards.sequence_length)
    starts = np.array([0, length // 2], np.int32)
    first = np.arange(length, dtype=np.uint32) % shards.vocab_size
    second = first.copy()
    second[: length // 2] = (first[: length // 2] + 1) % shards.vocab_size
    return collate([PackedSequence(first, starts), PackedSequence(second, starts)])


def _apart(model: LanguageModel, batch: Batch) -> torch.Tensor | None:
    """Compute the logits of :func:`_two_documents`; None if the second documents differ."""
    with torch.inference_mode():
        logits = model.logits(batch)
    half = logits.shape[1] // 2
    equal = torch.allclose(logits[0, half:], logits[1, half:], rtol=1e-4, atol=1e-4)
    return logits if equal else None
