"""Tiny Llama models in directories as Penstock and transformers save them, random or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from penstock.language_models.devices import one_thread

CONTEXT = 48
VOCABULARY = 360


def byte_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE with an end-of-text token, as Penstock trains them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4,  # tables are often rounded up
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def write_model(
    directory: Path,
    tokenizer: Any,
    seed: int = 0,
    training_texts: list[str] | None = None,
    steps: int = 40,
    **changes: Any,
) -> Path:
    """A Llama of two layers of width 16, drawn from the seed and trained on texts, if any.

    Random weights are large, so that the model has opinions.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.05 if training_texts else 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**settings))
    if training_texts:
        with one_thread():
            _train(model, tokenizer, training_texts, seed, steps)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def _train(model: Any, tokenizer: Any, training_texts: list[str], seed: int, steps: int) -> None:
    ids = [token for text in training_texts for token in [0, *tokenizer.encode(text).ids]]
    stream = torch.tensor(ids)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        starts = random.integers(0, len(ids) - CONTEXT, 8)
        batch = torch.stack([stream[at : at + CONTEXT] for at in starts])
        optimiser.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
    model.eval()
