"""Which library encodes: gigatoken for byte-level BPE, after a check, and ``tokenizers`` else.

gigatoken encodes byte-level BPE 50 to 150 times as fast as ``tokenizers`` and gave the same ids for
all texts that were tried (``benchmarks/token_ids.py``), but it reads only a part of a
``tokenizer.json`` and passes over the rest. So it encodes only where three conditions hold:

- The settings are those that it reads (:func:`refusal_of`).
- Ids are equal on texts of the pool and on :func:`probes`. One difference, and ``tokenizers``
  encodes everything.
- A worker has the version that was checked.

A text with a code point that Python's tables do not know goes to ``tokenizers``, too: what is a
letter depends on the version of Unicode, which is 17 in gigatoken 0.10 and older in ``tokenizers``
0.23. All other code points are of the same classes in both (all were tried).

Ids are the same with and without it, so no fingerprint depends on it. Its cache of words has no
bound; the encoder is made anew after 32 MiB of text, which bounds the cache to 0.5 GB on words that
never repeat.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from penstock.display import logger_of
from penstock.tokenization.hiding import tokenizer_of

__all__ = ["FastEncoder", "find_encoder", "installed_version", "probes", "refusal_of"]

_log = logger_of("penstock.tokens")

_RENEWED = 2**25
"""Characters of text after which the encoder is made anew: 0.04 s for 16,000 tokens, 0.6 s for
128,000, where the text takes 0.3 to 0.4 s."""

_STRIDE = 257
"""Every so many code points is in the probes, each in the context of letters, digits and spaces."""


_PART = 2**18
"""Characters that are looked up at a time: 2 MiB."""


class FastEncoder:
    """Encodes texts by gigatoken, on the calling thread; those in doubt by ``tokenizers``.

    Args:
        settings: Of :func:`~penstock.tokenization.hiding.text_settings`, without a refusal.

    Raises:
        Exception: gigatoken cannot read them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._definition = json.dumps(_ranked(settings), ensure_ascii=False)
        self._encoder = self._made()
        self._encoded = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, (t,) uint32."""
        doubtful = _has_unassigned("".join(texts))
        return [
            self._by_reference(text)
            if doubtful and _has_unassigned(text)
            else self._by_gigatoken(text)
            for text in texts
        ]

    def _by_gigatoken(self, text: str) -> np.ndarray:
        if self._encoded > _RENEWED:
            self._encoder, self._encoded = self._made(), 0
        self._encoded += len(text)
        # A call for a batch would go through awkward arrays.
        return np.asarray(self._encoder.encode(text))

    def _by_reference(self, text: str) -> np.ndarray:
        (found,) = self._reference.encode_batch_fast([text], add_special_tokens=False)
        return np.array(found.ids, np.uint32)

    @functools.cached_property
    def _reference(self) -> tokenizers.Tokenizer:
        return tokenizer_of(self._settings)

    def _made(self) -> Any:
        import gigatoken

        return gigatoken.Tokenizer.from_json(self._definition)


def _has_unassigned(text: str) -> bool:
    """Return whether a text has a code point that this Python's Unicode does not assign."""
    if text.isascii():
        return False
    unassigned = _unassigned()
    for start in range(0, len(text), _PART):
        codes = np.frombuffer(text[start : start + _PART].encode("utf-32-le"), np.uint32)
        if unassigned[codes].any():
            return True
    return False


@functools.cache
def _unassigned() -> np.ndarray:
    """Return which code points have no category: (0x110000,) bool."""
    return np.array([unicodedata.category(chr(code)) == "Cn" for code in range(0x110000)])


def installed_version() -> str | None:
    """Return the version of gigatoken, None without it."""
    try:
        return importlib.metadata.version("gigatoken")
    except importlib.metadata.PackageNotFoundError:
        return None


def find_encoder(
    settings: Mapping[str, Any], texts: Sequence[str], expected: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Decide which library encodes, by comparing both.

    Args:
        settings: Of :func:`~penstock.tokenization.hiding.text_settings`.
        texts: (n,) texts of the pool.
        expected: (n,) the ids of each by ``tokenizers``.

    Returns:
        For the manifest: ``library`` and ``version``; for gigatoken the ``checked`` texts and
        their ``bytes``, else the ``reason``.
    """
    slow = {"library": "tokenizers", "version": tokenizers.__version__}
    reason = refusal_of(settings)
    if reason is not None:
        return {**slow, "reason": reason}
    version = installed_version()
    if version is None:
        _log.info("ids would be made 50 times as fast by pip install 'penstock[tokens]'")
        return {**slow, "reason": "gigatoken is not installed"}
    try:
        fast = FastEncoder(settings)
    except Exception as error:  # it raises bare exceptions for settings that it does not know
        return {**slow, "reason": f"gigatoken {version}: {error}"}
    tried = list(probes(settings))
    reference = tokenizer_of(settings).encode_batch_fast(tried, add_special_tokens=False)
    wanted = [*expected, *(encoding.ids for encoding in reference)]
    tried = [*texts, *tried]
    for text, ids, found in zip(tried, wanted, fast.encode(tried)):
        if found.tolist() != list(ids):
            reason = f"gigatoken {version} encodes {text[:80]!r} otherwise"
            _log.warning("%s: tokenizers encodes all documents", reason)
            return {**slow, "reason": reason}
    return {
        "library": "gigatoken",
        "version": version,
        "checked": len(tried),
        "bytes": sum(len(text.encode()) for text in tried),
    }


def refusal_of(settings: Mapping[str, Any]) -> str | None:
    """Return why gigatoken would encode some text otherwise; None if it reads these settings."""
    model, normalizer = settings["model"], settings["normalizer"]
    if model["type"] != "BPE" or model["byte_fallback"]:
        return "not byte-level BPE"
    alphabet = {*tokenizers.pre_tokenizers.ByteLevel.alphabet()}
    control = [token for token in settings["added_tokens"] if token["special"]]
    plain = [token for token in settings["added_tokens"] if not token["special"]]
    matched = {token["normalized"] for token in plain}
    refusals = {
        "prefixes or suffixes of words": model["continuing_subword_prefix"]
        or model["end_of_word_suffix"],
        "a normalizer other than NFC": normalizer and normalizer["type"] != "NFC",
        "a pre-tokenizer other than ByteLevel, or Split by an expression and ByteLevel": not _reads(
            settings["pre_tokenizer"]
        ),
        "a vocabulary of other letters than the 256 bytes": not alphabet <= {*model["vocab"]}
        or not {*"".join(model["vocab"])} <= alphabet,
        "added tokens that strip spaces or are words": any(
            token[flag] for token in plain for flag in ("single_word", "lstrip", "rstrip")
        ),
        "added tokens that are matched after normalization": len(matched) > 1
        or (normalizer and True in matched),
        # Hidden ones have long names.
        "a control token of one letter": any(len(token["content"]) < 16 for token in control),
    }
    return next((reason for reason, holds in refusals.items() if holds), None) or _clash(model)


def _clash(model: Mapping[str, Any]) -> str | None:
    """Return why merges would be made in another order; gigatoken takes the first of equal ones."""
    if len({*map(tuple, model["merges"])}) < len(model["merges"]):
        return "a merge that is listed twice"
    return None


def _ranked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by whose merges gigatoken ranks pairs, and not by the ids of their tokens.

    It takes ids for ranks where they ascend. Llama 3 lists all pairs that make a token, so ids do
    not tell which of two comes first. The first merge, listed again at the end, has a lower id than
    the one before, and no effect.
    """
    merges = settings["model"]["merges"]
    return {**settings, "model": {**settings["model"], "merges": [*merges, *merges[:1]]}}


def _reads(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Return whether it is ByteLevel, or Splits by expressions and ByteLevel."""
    if pre_tokenizer is None:
        return False
    parts = [pre_tokenizer]
    if pre_tokenizer["type"] == "Sequence":
        parts = pre_tokenizer["pretokenizers"]
    *splits, last = parts or [{"type": "none"}]
    return (
        last["type"] == "ByteLevel"
        and not last["add_prefix_space"]
        and last["use_regex"] == (not splits)
        and all(
            split["type"] == "Split"
            and "Regex" in split["pattern"]
            and split["behavior"] == "Isolated"
            and not split["invert"]
            for split in splits
        )
    )


_PIECES = (
    *(" ", "  ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u3000", "\u200b", "\u2028", "\x00"),
    *("a", "B", "the", "don't", "I'LL", "'s", "'S", "\u017f", "'\u017f", "\u212a", "\ufeff"),
    *("1", "12", "1234", "\u0663", "\u00b2", "\u2163", ".", "...", "--", "'", '"', "/", "_", "<|"),
    *("\u00e9", "e\u0301", "\u0301", "\u0e33", "\u4e2d\u6587", "\u3042", "\uac00", "\u1100\u1161"),
    *("\U0001f468\u200d\U0001f469", "\U0001f1e9", "\ufe0f", "\U000e0041", "\ue000", "\U0010ffff"),
)
"""Texts at which pre-tokenizers divide or do not: spaces, contractions, numbers, marks, scripts."""


def probes(settings: Mapping[str, Any], count: int = 500) -> Iterator[str]:
    """Yield hostile texts: code points of all planes, mixed pieces, and added tokens in them."""
    for code in range(0, 0x30000, _STRIDE):
        if not 0xD800 <= code < 0xE000:
            letter = chr(code)
            yield f"a{letter}1 {letter} {letter}{letter}'s {letter}\n{letter}"
    chance = random.Random(17)
    added = [token["content"] for token in settings["added_tokens"] if not token["special"]]
    pieces = [*_PIECES, *added[:100]]
    for _ in range(count):
        yield "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 16)))
