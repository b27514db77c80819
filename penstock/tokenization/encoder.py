"""Ids of texts, by the library that was chosen for their tokenizer."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.display import logger_of
from penstock.panics import panics_as_errors
from penstock.tokenization.definition import Definition
from penstock.tokenization.fast import FastEncoder, installed_version
from penstock.tokenization.hiding import text_settings, tokenizer_of

__all__ = ["TextEncoder"]

_log = logger_of("penstock.tokens")


class TextEncoder:
    """Encodes documents; no id of a control token comes from a text."""

    def __init__(self, definition: str, eos: int, encoder: Mapping[str, Any]) -> None:
        """Read a tokenizer.

        Args:
            definition: A ``tokenizer.json`` of the tokenizer stage.
            eos: The id of the end of text, which stands around documents.
            encoder: The result of :func:`~penstock.tokenization.fast.find_encoder`.
        """
        parsed = Definition.parse(definition)
        names = [name for name, index in parsed.vocabulary.items() if index == eos]
        settings = text_settings(parsed, ends=names)
        self._eos = eos
        self._fast: FastEncoder | None = None
        if encoder["library"] == "gigatoken":
            if encoder["version"] == installed_version():
                try:
                    self._fast = FastEncoder(settings)
                except Exception as error:  # of an import, too; the ids are the same without it
                    _log.warning("gigatoken cannot be used, tokenizers encodes: %s", error)
            else:
                _log.info("gigatoken %s was checked and is not here", encoder["version"])
        self._slow = None if self._fast else tokenizer_of(settings)

    @classmethod
    @functools.lru_cache(maxsize=1)
    def shared(cls, definition: str, eos: int, encoder: str) -> TextEncoder:
        """Return the encoder of this process: a large vocabulary takes two seconds to read.

        Args:
            definition: As of the constructor.
            eos: As of the constructor.
            encoder: The constructor's, as JSON.
        """
        return cls(definition, eos, json.loads(encoder))

    def documents(self, texts: Sequence[str], dtype: str) -> list[np.ndarray]:
        """Return the ids of each text between two ends of text: (t + 2,) of a type."""
        with panics_as_errors("tokenizer"):
            if self._fast is not None:
                encoded: Sequence[Any] = self._fast.encode(texts)
            else:
                assert self._slow is not None
                found = self._slow.encode_batch_fast(list(texts), add_special_tokens=False)
                encoded = [encoding.ids for encoding in found]
        documents = []
        for ids in encoded:
            document = np.empty(len(ids) + 2, dtype=dtype)
            document[0] = document[-1] = self._eos
            document[1:-1] = ids
            assert not (document[1:-1] == self._eos).any(), "an end of text came from a text"
            documents.append(document)
        return documents
