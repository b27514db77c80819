"""Hidden states of a language model as vectors of texts: the features of INGENIOUS.

The states of one layer are averaged over the text's tokens, including those that the tokenizer adds
(Renduchintala et al. 2023: layer 9 of BERT-base, layer 12 of GPT-2). Trade-off against a sentence
encoder: the model was not trained to put texts of similar meaning near each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.errors import InputError
from penstock.language_models.devices import check_gpu, one_thread
from penstock.language_models.model_directory import check_model
from penstock.selectors.encoders.lattice import normalised
from penstock.selectors.encoders.sentence import ModelEncoder
from penstock.tokenization.examining import examined

__all__ = ["HiddenEncoder"]


class HiddenEncoder(ModelEncoder):
    """A layer of a transformers model; weights are safetensors, and its own code never runs.

    Args:
        name: A directory with ``config.json``, ``tokenizer.json`` and safetensors.
        layer: 0 for the embeddings, 1 for the output of the first layer, and so on.
        max_tokens: Tokens read of a text.
        device: ``cpu`` or ``cuda``.
    """

    saved: ClassVar[Sequence[str]] = ("name", "layer", "max_tokens", "device")

    def __init__(self, name: str, layer: int, max_tokens: int = 512, device: str = "cpu") -> None:
        super().__init__(name, max_tokens, device)
        self.layer = layer

    def encode(self, texts: pa.Array) -> np.ndarray:
        """Encode (n,) large_string as (n, d) float32, L2-normalised; blank texts as zeros.

        Raises:
            InputError: The model cannot be loaded, or has no such layer.
        """
        import torch

        if self._loaded is None:
            self._loaded = self._load()
        model, tokenizer = self._loaded
        vectors = np.zeros((len(texts), model.config.get_text_config().hidden_size), np.float32)
        # One at a time: padding and other texts of a batch change the last bits.
        with one_thread() if self.device == "cpu" else nullcontext(), torch.inference_mode():
            for row, text in enumerate(texts.to_pylist()):
                ids = tokenizer.encode(text).ids[: self.max_tokens]
                if not ids or not text.strip():
                    continue
                inputs = torch.tensor([ids], device=model.device)
                states = model(input_ids=inputs, output_hidden_states=True).hidden_states
                vectors[row] = states[self.layer][0].float().mean(dim=0).cpu().numpy()
        return normalised(vectors)

    def _load(self) -> tuple[Any, Any]:
        from tokenizers import Tokenizer
        from transformers import AutoModel

        if self.device == "cuda":
            check_gpu("encoder")
        files = check_model(self.name, key="encoder")
        try:
            with files.bounding("encoder"):
                definition = examined(Path(self.name) / "tokenizer.json", "encoder")
                tokenizer = Tokenizer.from_str(definition)
                model = AutoModel.from_pretrained(
                    self.name, trust_remote_code=False, use_safetensors=True, local_files_only=True
                )
        except InputError:
            raise
        except Exception as error:  # tokenizers raises bare Exceptions
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                key="encoder",
                expected="a directory with a transformers model and its tokenizer.json",
                got=f"{self.name}, which cannot be loaded ({reason})",
            ) from None
        layers = model.config.get_text_config().num_hidden_layers
        if self.layer > layers:
            raise InputError(
                key="encoder", expected=f"a layer from 0 to {layers} of {self.name}", got=self.layer
            )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return model.eval().to(self.device), tokenizer
