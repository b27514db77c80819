"""A causal language model from a transformers directory or the hub, loaded to read with.

Weights are safetensors and code that comes with a model never runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import InputError
from penstock.language_models.devices import check_gpu, no_progress_bars
from penstock.language_models.model_directory import check_model
from penstock.language_models.windows import IGNORED, WindowBatch
from penstock.panics import panics_as_errors
from penstock.tokenization.definition import hub_file
from penstock.tokenization.hiding import read_text_tokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedModel", "load_causal_model"]

PIECE = 2**22
"""Logits whose cross-entropy is taken at a time: 16 MiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in evaluation mode and its tokenizer."""

    causal: Any
    tokenizer: Any
    context: int | None
    """Tokens of the model's context; None without a limit, as in a recurrent model."""
    begin: int
    """The token that a text is conditioned on: the model's beginning of a text, or its end."""
    keeps_logits: bool
    """True if the model can leave out the logits of leading positions (``logits_to_keep``)."""

    def token_ids(self, strings: Sequence[str]) -> list[np.ndarray]:
        """Tokenise texts, each after :attr:`begin`: (1 + t,) int64 of each."""
        with panics_as_errors("model"):
            encoded = self.tokenizer.encode_batch_fast(list(strings), add_special_tokens=False)
        return [np.array([self.begin, *encoding.ids], np.int64) for encoding in encoded]

    def __call__(self, batch: WindowBatch) -> torch.Tensor:
        """Compute -ln p of each target that counts, row by row: (targets,) float32."""
        kept = batch.targets.shape[1]
        options: dict[str, Any] = {"logits_to_keep": kept} if self.keeps_logits else {}
        if batch.is_padded:
            options["attention_mask"] = batch.mask
        output = self.causal(input_ids=batch.inputs, use_cache=False, **options)
        counted = batch.targets != IGNORED
        return _cross_entropy(output.logits[:, -kept:][counted], batch.targets[counted])


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Compute (t,) float32 nats of (t, vocabulary) logits and (t,) int64 targets."""
    import torch

    rows = max(1, PIECE // logits.shape[1])
    pieces = [
        torch.nn.functional.cross_entropy(
            logits[start : start + rows].float(), targets[start : start + rows], reduction="none"
        )
        for start in range(0, len(targets), rows)
    ]
    return torch.cat(pieces)


def load_causal_model(name: str, *, key: str, device: str, dtype: str) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name: A directory with ``config.json``, ``tokenizer.json`` and safetensors, or a hub name.
        key: The recipe key of errors.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        InputError: The model or its tokenizer cannot be loaded, weights are missing, the tokenizer
            belongs to another model, or the config names no token to begin a text with.
    """
    import torch

    if device == "cuda":
        check_gpu("device")
    causal = _load_weights(name, key, getattr(torch, dtype)).to(device)
    config = causal.config.get_text_config()
    ends = _ids(getattr(config, "eos_token_id", None))  # configs of some models lack it
    tokenizer = _load_tokenizer(name, key, ends)
    entries = 1 + max(tokenizer.get_vocab().values(), default=-1)
    table = causal.get_input_embeddings().num_embeddings
    if entries > table:
        raise InputError(
            key=key,
            expected=f"the model's own tokenizer in {name}",
            got=f"one of {entries} tokens for a table of {table}",
        )
    begin = [*_ids(getattr(config, "bos_token_id", None)), *ends]
    if not begin:
        raise InputError(
            key=key,
            expected=f"a bos_token_id or an eos_token_id in the config.json of {name}, to begin "
            "texts with",
            got="neither",
        )
    return LoadedModel(
        causal=causal,
        tokenizer=tokenizer,
        context=getattr(config, "max_position_embeddings", None) or None,
        begin=begin[0],
        keeps_logits="logits_to_keep" in inspect.signature(causal.forward).parameters,
    )


def _ids(value: Any) -> list[int]:
    """Return the ids of a key of ``config.json``: one, several or none."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]


def _load_tokenizer(name: str, key: str, ends: Sequence[int]) -> Any:
    """Load a model's tokenizer, with which no text gives a control token or one of ``ends``."""
    path = Path(name) / "tokenizer.json"
    try:
        if not path.is_file():
            path = hub_file(name, "tokenizer.json")
            hub_file(name, "tokenizer_config.json", missing_ok=True)  # lies beside the other
        return read_text_tokenizer(path, ids=ends, key=key)
    except Exception as error:  # any transport or name error
        raise _cannot_load(name, key, error) from None


def _load_weights(name: str, key: str, dtype: torch.dtype) -> Any:
    """Load the model in evaluation mode, with every weight from its files."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    with check_model(name, key=key).bounding(key), no_progress_bars():
        try:
            causal, found = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _cannot_load(name, key, error) from None
    if found["missing_keys"]:  # transformers would draw them at random, and only warn
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise InputError(
            key=key,
            expected="a causal language model",
            got=f"{name}, whose files lack {missing}",
        )
    return causal


def _cannot_load(name: str, key: str, error: Exception) -> InputError:
    reason = str(error).strip().partition("\n")[0]
    return InputError(
        key=key,
        expected="a causal language model with safetensors and a tokenizer.json",
        got=f"{name}, which cannot be loaded ({reason})",
        fix="give a local directory",
    )
