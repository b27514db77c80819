"""A tokenizer's files as data: its settings, its control tokens and the token that ends a text.

A ``tokenizer.json`` may hold settings that are wrong for a corpus: truncation and padding of the
last call, and dropout of merges, which makes another result in each run. They are switched off.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import tokenizers

from penstock.errors import InputError
from penstock.opening import read_plain
from penstock.tokenization.examining import examined

__all__ = ["END_OF_TEXT", "DeclaredTokens", "Definition", "end_of_text", "hub_file", "model_ids"]

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of a trained tokenizer; it stands before and after every document.

Before it, because nothing is predicted across documents: without it no model would learn how a text
begins, which evaluation tests. After it, so that a model learns to end. It costs one token a
document, 0.2 % of web text."""

_ENDS = (
    *(END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]"),
    *("<\uff5cend\u2581of\u2581sentence\uff5c>", "[SEP]"),  # the first is DeepSeek's
)
"""End-of-text tokens of published tokenizers, in the order they are tried."""

_KEYS = (
    *("bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token"),
    *("additional_special_tokens", "extra_special_tokens"),
)
"""Keys of ``tokenizer_config.json`` that name control tokens: one, a list or a mapping."""


@dataclass(frozen=True, slots=True)
class DeclaredTokens:
    """The control tokens that a ``tokenizer_config.json`` names."""

    end: str | None = None
    """Its ``eos_token``."""
    control: tuple[str, ...] = ()
    """All of them, sorted; the unknown token, which texts do give, is none."""

    @classmethod
    def read(cls, path: Path, key: str = "tokenizer") -> DeclaredTokens:
        """Read the file; one that does not exist declares nothing.

        Raises:
            InputError: It is not a JSON object, or a token is not text.
        """
        try:
            settings = json.loads(read_plain(path))
        except FileNotFoundError:
            return cls()
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(f"cannot be read: {error}", key=key, file=path) from None
        if not isinstance(settings, dict):
            raise InputError(key=key, file=path, expected="a JSON object")
        try:
            named = {name: tuple(_names(settings.get(name))) for name in _KEYS}
        except (TypeError, RecursionError) as error:
            raise InputError(
                key=key, file=path, expected="tokens as text or {content: text}", got=error
            ) from None
        ends = named["eos_token"]
        return cls(ends[0] if ends else None, tuple(sorted({*sum(named.values(), ())})))


def _names(value: Any) -> Iterable[str]:
    """Yield the tokens of a value: text, ``{"content": text}``, or several of them."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        yield value["content"]
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _names(each)
    elif value is not None and value is not False:
        raise TypeError(repr(value))


@dataclass(frozen=True, slots=True)
class Definition:
    """The settings of a tokenizer, as its library writes them."""

    settings: Mapping[str, Any]
    vocabulary: Mapping[str, int] = field(repr=False)
    """The id of each token; ids may have holes."""

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> Definition:
        """Take the settings of a tokenizer, without truncation, padding and dropout."""
        settings = json.loads(tokenizer.to_str())
        settings |= {"truncation": None, "padding": None}
        if settings["model"].get("dropout"):
            settings["model"]["dropout"] = None
        return cls(settings, tokenizer.get_vocab())

    @classmethod
    def read(cls, path: Path, key: str = "tokenizer", sha256: str | None = None) -> Definition:
        """Read a ``tokenizer.json``.

        Raises:
            InputError: It is not one, it claims more than a tokenizer needs, or its sha256 is not
                the one given.
        """
        text = examined(path, key, sha256)
        try:
            return cls.of(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises bare Exception
            raise InputError(
                f"not a tokenizer.json: {str(error)[:300]}", key=key, file=path
            ) from None

    @classmethod
    def parse(cls, text: str) -> Definition:
        """Take what :meth:`to_str` returned."""
        return cls.of(tokenizers.Tokenizer.from_str(text))

    @property
    def flagged(self) -> frozenset[str]:
        """The added tokens that the file flags special."""
        return frozenset(
            token["content"] for token in self.settings["added_tokens"] if token["special"]
        )

    def flag(self, names: Iterable[str]) -> Definition:
        """Flag tokens of the vocabulary special, so that the file alone says what they are."""
        wanted = {name for name in names if name in self.vocabulary}
        tokens = [
            {**token, "special": token["special"] or token["content"] in wanted}
            for token in self.settings["added_tokens"]
        ]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name in wanted - {token["content"] for token in tokens}:
            tokens.append({"id": self.vocabulary[name], "content": name, **flags, "special": True})
        tokens.sort(key=lambda token: token["id"])
        return Definition({**self.settings, "added_tokens": tokens}, self.vocabulary)

    def to_str(self) -> str:
        """Return the content of ``tokenizer.json``."""
        text = json.dumps(self.settings, ensure_ascii=False)
        return str(tokenizers.Tokenizer.from_str(text).to_str())


@overload
def hub_file(name: str, file: str) -> Path: ...


@overload
def hub_file(name: str, file: str, *, missing_ok: Literal[True]) -> Path | None: ...


def hub_file(name: str, file: str, *, missing_ok: bool = False) -> Path | None:
    """Fetch a file of a model on the hub; with ``missing_ok`` None if the model has no such file.

    Raises:
        Exception: The hub cannot be reached, or has no such model or file.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError:
        # Without a connection: the cache remembers files that a model lacks.
        if missing_ok and try_to_load_from_cache(name, file) is not None:
            return None
        raise
    except EntryNotFoundError:
        if missing_ok:
            return None
        raise


def model_ids(model: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of a model's own vocabulary, without added tokens."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: index for index, (piece, _) in enumerate(vocabulary)}  # Unigram


def end_of_text(definition: Definition, declared: DeclaredTokens) -> str:
    """Find the token that ends a text; no other token has its id, so no text contains it.

    It is the ``eos_token`` of ``tokenizer_config.json``, of any name; without one, a usual end of
    text that is flagged special: a token ``</s>`` without the flag may be markup. ``<|endoftext|>``
    is no markup of any format, so it needs no flag.

    Raises:
        InputError: There is none, or another token has the same id.
    """
    found = _named_end(definition, declared)
    number = definition.vocabulary[found]
    for token, other in definition.vocabulary.items():
        if other == number and token != found:
            raise InputError(
                f"two tokens have the id {number:,}",
                key="tokenizer",
                expected=f"an id for {found} alone: it is put between documents",
                got=repr(token)[:300],
                fix="give a file that the library `tokenizers` saved",
            )
    return found


def _named_end(definition: Definition, declared: DeclaredTokens) -> str:
    if declared.end is not None:
        if declared.end in definition.vocabulary:
            return declared.end
        raise InputError(
            key="tokenizer",
            expected="the eos_token of tokenizer_config.json in the vocabulary",
            got=repr(declared.end)[:300],
        )
    flagged = definition.flagged
    for token in _ENDS:
        if token in flagged:
            return token
    if END_OF_TEXT in definition.vocabulary:
        return END_OF_TEXT
    some = ", ".join(sorted(flagged)[:8])[:300] or "none"
    raise InputError(
        "no end-of-text token",
        key="tokenizer",
        expected=f"one of {', '.join(_ENDS)}, flagged special",
        got=f"special tokens: {some}",
        fix="name it as eos_token in a tokenizer_config.json beside the tokenizer.json",
    )
