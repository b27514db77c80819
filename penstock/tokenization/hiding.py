"""Settings of a tokenizer with which no text gives the id of a control token.

The library leaves out *added* tokens that are flagged special (``encode_special_tokens``), but the
id may come by other ways: a token without the flag, a piece of Unigram, a word of WordPiece or
WordLevel, a merge of BPE that spells it (``</`` and ``s>``), ``ignore_merges``. So here control
tokens lose their names: each gets a random one of 128 bits, which no text holds, and merges that
make or use one are left out. All other ids stay. A text that spells ``</s>`` gets the tokens of its
letters.

A name of one letter, such as a padding token ``!``, stays: the letter could not be encoded without
it. An end of text that is a letter, or the token of unknown characters, is refused.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from penstock.errors import InputError
from penstock.tokenization.definition import DeclaredTokens, Definition, model_ids

__all__ = ["read_text_tokenizer", "text_settings", "text_tokenizer", "tokenizer_of"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def text_settings(
    definition: Definition, *, ends: Collection[str] = (), key: str = "tokenizer"
) -> dict[str, Any]:
    """Return settings that encode texts alone, and never as a control token.

    Args:
        definition: The tokenizer; its tokens that are flagged special are control tokens.
        ends: Control tokens that may not be unknown characters either, flagged or not.
        key: The recipe key of errors.

    Raises:
        InputError: A text cannot be encoded without an end, or an unknown word not at all.
    """
    model = dict(definition.settings["model"])
    known = model_ids(model)
    control = definition.flagged | {*ends}
    letters = {name for name in control if name in known and _is_letter(name, model)}
    for end in letters & {*ends}:
        # Without its name a letter is an unknown character, and most models of BPE drop those.
        if len(end) > 1 or _byte_level(definition.settings) or not _has_unknown(model):
            raise _refusal(end, "a letter of its alphabet", key)
    hidden = {
        name: f"control-{secrets.token_hex(16)}"
        for name in sorted((control - letters) | {*ends})
        if name in definition.vocabulary
    }
    _hide_in_model(model, known, hidden, ends, definition.settings, key)
    added = [
        {**token, **_FLAGS, "content": hidden[token["content"]], "special": True}
        if token["content"] in hidden
        else token
        for token in definition.settings["added_tokens"]
    ]
    return {**definition.settings, "model": model, "added_tokens": added, "post_processor": None}


def text_tokenizer(
    definition: Definition, *, ends: Collection[str] = (), key: str = "tokenizer"
) -> tokenizers.Tokenizer:
    """Make the tokenizer of :func:`text_settings`; it adds no tokens and cuts nothing.

    Raises:
        InputError: As :func:`text_settings`.
    """
    return tokenizer_of(text_settings(definition, ends=ends, key=key))


def tokenizer_of(settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Make the tokenizer of settings; special tokens with their own names are letters, too."""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"merges and vocabulary do not fit together ({str(error)[:300]})", key="tokenizer"
        ) from None
    tokenizer.encode_special_tokens = True
    for token in settings["added_tokens"]:
        # Ids of added tokens that the model lacks are counted by the library, not read.
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise InputError(
                key="tokenizer",
                expected=f"the id {token['id']} for an added token, as the file says",
                got=found,
                fix="give a file that the library `tokenizers` saved",
            )
    return tokenizer


def read_text_tokenizer(
    path: Path, *, ids: Collection[int] = (), key: str = "tokenizer"
) -> tokenizers.Tokenizer:
    """Read a ``tokenizer.json``, and the ``tokenizer_config.json`` beside it, to encode texts.

    Args:
        path: The file.
        ids: Ids of ends that neither file names. An id of a letter counts as no end: a model's
            config may hold ids of another tokenizer.
        key: The recipe key of errors.

    Raises:
        InputError: A file cannot be read, or as :func:`text_settings`.
    """
    definition = Definition.read(path, key)
    declared = DeclaredTokens.read(path.with_name("tokenizer_config.json"), key)
    model = definition.settings["model"]
    ends = {
        name
        for name, index in definition.vocabulary.items()
        if index in ids and not _is_letter(name, model)
    }
    if declared.end is not None:
        ends.add(declared.end)
    return text_tokenizer(definition.flag({*declared.control, *ends}), ends=ends, key=key)


def _hide_in_model(
    model: dict[str, Any],
    known: Mapping[str, int],
    hidden: Mapping[str, str],
    ends: Collection[str],
    settings: Mapping[str, Any],
    key: str,
) -> None:
    """Rename tokens in a model's vocabulary, and leave out merges that make or use them."""
    if isinstance(model["vocab"], list):  # Unigram
        unknown = model.get("unk_id")
        unknown = None if unknown is None else model["vocab"][unknown][0]
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        unknown = model.get("unk_token")
        model["vocab"] = {hidden.get(name, name): index for name, index in known.items()}
    if unknown in ends:
        if not _spells_every_byte(settings):
            raise _refusal(unknown, "its token of unknown characters", key)
        model["unk_token"] = unknown = None
    if "unk_token" in model:
        model["unk_token"] = None if unknown is None else hidden.get(unknown, unknown)
    if model["type"] in ("WordPiece", "WordLevel") and unknown not in known:
        raise InputError(
            "its unknown token is not in its vocabulary, so other words cannot be encoded",
            key=key,
            got=repr(unknown),
        )
    if model["type"] == "BPE":
        skip = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            pair
            for pair in model["merges"]
            if not (pair[0] in hidden or pair[1] in hidden or pair[0] + pair[1][skip:] in hidden)
        ]


def _is_letter(name: str, model: Mapping[str, Any]) -> bool:
    """Return whether a token is one character, or the byte ``<0x0A>`` of a model that uses it."""
    return len(name) == 1 or bool(model.get("byte_fallback") and _BYTE.fullmatch(name))


def _has_unknown(model: Mapping[str, Any]) -> bool:
    """Return whether a character that the vocabulary lacks is encoded, and not left out."""
    unknown = model.get("unk_token") is not None or model.get("unk_id") is not None
    return unknown or bool(model.get("byte_fallback"))


def _byte_level(settings: Mapping[str, Any]) -> bool:
    """Return whether texts are encoded as bytes, each a character of the vocabulary."""

    def has(part: Mapping[str, Any] | None) -> bool:
        if not part:
            return False
        inner = [*part.get("pretokenizers", ()), *part.get("normalizers", ())]
        return part["type"] == "ByteLevel" or any(map(has, inner))

    return has(settings.get("pre_tokenizer")) or has(settings.get("normalizer"))


def _spells_every_byte(settings: Mapping[str, Any]) -> bool:
    """Return whether no character is unknown: the vocabulary has every byte."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model = settings["model"]
    return model["type"] == "BPE" and _byte_level(settings) and {*alphabet} <= {*model["vocab"]}


def _refusal(end: str | None, what: str, key: str) -> InputError:
    return InputError(
        f"its end of text {end!r} is {what}, so documents would hold ends of text",
        key=key,
        fix="name another token of its vocabulary as eos_token in a tokenizer_config.json beside "
        "the tokenizer.json",
    )
