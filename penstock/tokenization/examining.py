"""Look at a ``tokenizer.json`` of a stranger before the library `tokenizers` reads it.

The library allocates a table up to the highest id (11.8 GB for an id of 3·10⁹), and a pattern that
backtracks, or a table with false offsets, ends the process at the first text. Sizes and ids are
checked here, and where a definition has nothing but parts that take linear time, that is all: 0.2 s
for the 128,000 tokens of Llama 3. Any other is tried in a process with limits
(:mod:`penstock.tokenization.probing`), once in a process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.opening import open_plain
from penstock.tokenization import probing

__all__ = ["examined", "is_plain"]

_MOST_BYTES = 2**27
"""Largest ``tokenizer.json``; Gemma 3's has 33 MB."""

_HIGHEST_ID = 2**24
"""Ids are below this; the largest published vocabularies have 2¹⁸. A model has a row for each."""

_PATIENCE = 120
"""Seconds on the clock for the process that tries a tokenizer."""

_GROWTH = 64
"""Most characters that the replacements of a normaliser may make of one without being tried."""

_MOST_PARTS = 64
"""Most normalisers and pre-tokenizers that are not tried."""

_LONGEST_WORD = 1_000
"""Most characters of a word that WordPiece looks up, in quadratic time; its default is 100."""

_PLAIN = frozenset(
    [
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt"),
        *("BertNormalizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit", "Digits"),
        *("BertPreTokenizer", "Punctuation", "UnicodeScripts", "CharDelimiterSplit"),
        *("Sequence", "Split", "Replace", "Prepend"),
    ]
)
"""Kinds of normalisers and pre-tokenizers that take linear time for any settings, but for the
patterns and replacements of the last four."""

_ATOM = re.compile(
    r"\\[pPx]\{[^}]*\}|\\.|\[(?:[^\[\]\\]|\\.)*\]|\((?:\?[ims-]*[:=!>]|\?<[=!])?|[^\\\[]"
)
_QUANTIFIER = re.compile(r"[*+?][+?]?|(\{(\d*)(,?)(\d*)\})(\??)")
_ALTERNATIVE = 2
"""Unbounded repetitions in one alternative: the published patterns have no more. Three may need
cubic time."""

_MOST_WAYS = 64
"""Most ways in which the bounded choices of one alternative may be taken; o200k's has 16."""

_MANY = 100
"""A repetition of this many and more counts as unbounded."""


def examined(path: Path, key: str | None = "tokenizer", sha256: str | None = None) -> str:
    """Read a ``tokenizer.json`` and return it as JSON that the library can take without harm.

    Raises:
        InputError: It cannot be read, is too large, or reading or encoding by it needs more time or
            memory than a tokenizer may take; or its sha256 is another than the one given.
    """
    try:
        with open_plain(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", key=key, file=path) from None
    if len(content) > _MOST_BYTES:
        raise InputError(
            key=key,
            file=path,
            expected=f"a tokenizer.json of at most {_MOST_BYTES:,} bytes",
            got="more",
        )
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise InputError("changed since its bytes were hashed", key=key, file=path, fix="run again")
    try:
        definition = json.loads(content)
        problem = _problem(definition)
        # Written again: the library may take the other of two equal keys.
        text = json.dumps(definition)
        if problem is None and not is_plain(definition):
            problem = _trial(text)
    except (ValueError, RecursionError) as error:
        problem = str(error) or type(error).__name__
    if problem is not None:
        raise InputError(
            f"not a tokenizer.json that can be used: {problem}",
            key=key,
            file=path,
            fix="give a file that the library `tokenizers` saved",
        )
    return text


def _problem(definition: Any) -> str | None:
    """Return what is wrong with the ids; None if they are in range."""
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        return "expected an object with a model"
    vocabulary = definition["model"].get("vocab")
    if isinstance(vocabulary, list):
        ids: Any = [len(vocabulary), definition["model"].get("unk_id") or 0]
    elif isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
    else:
        return "expected a vocabulary"
    added = definition.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        return "expected a list of added tokens"
    ids += [token.get("id", 0) for token in added]
    for number in ids:
        if type(number) is not int or not 0 <= number < _HIGHEST_ID:
            return f"expected ids below {_HIGHEST_ID:,}, got {str(number)[:40]}"
    return None


def is_plain(definition: Mapping[str, Any]) -> bool:
    """Return whether a definition has nothing but parts that take linear time for every text."""
    model = definition["model"]
    if model.get("type") == "WordPiece":
        longest = model.get("max_input_chars_per_word")
        if type(longest) is not int or not 0 <= longest <= _LONGEST_WORD:
            return False
    elif model.get("continuing_subword_prefix"):
        return False
    parts = [*_parts(definition.get("normalizer")), *_parts(definition.get("pre_tokenizer"))]
    growth = 1
    for part in parts:
        pattern = part.get("pattern", {})
        regex = pattern.get("Regex", "") if isinstance(pattern, dict) else ""
        if part.get("type") not in _PLAIN or not isinstance(regex, str) or not _is_linear(regex):
            return False
        if part["type"] in ("Replace", "Prepend"):
            growth *= max(1, len(str(part.get("content", part.get("prepend", "")))))
    return growth <= _GROWTH and len(parts) <= _MOST_PARTS


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the normalisers or pre-tokenizers of a sequence, or of one."""
    if isinstance(node, dict):
        yield node
        for name in ("normalizers", "pretokenizers"):
            below = node.get(name, [])
            for one in below if isinstance(below, list) else [below]:
                yield from _parts(one)
    elif node is not None:
        yield {}


def _is_linear(pattern: str) -> bool:
    """Return whether a pattern repeats no group, refers to none, and has few ways to match.

    Ways multiply within an alternative and add up over the alternatives of a group.
    """
    place = repeated = 0
    added, ways = [0], [1]  # of each open group: ways of earlier alternatives, of this one
    while place < len(pattern):
        found = _ATOM.match(pattern, place)
        if found is None or (found[0][0] == "\\" and found[0][1:2] in "123456789kgKGX"):
            return False
        atom, place = found[0], found.end()
        inside = 1
        if (atom == ")" and len(ways) == 1) or (atom[0] == "(" and pattern.startswith("?", place)):
            return False  # not open; or a name, a condition, a group of Oniguruma's own
        if atom[0] == "(":
            added.append(0)
            ways.append(1)
            continue
        if atom == "|":
            added[-1], ways[-1] = added[-1] + ways[-1], 1
            repeated = repeated if len(ways) > 1 else 0
            continue
        if atom == ")":
            inside = added.pop() + ways.pop()
        if (quantifier := _QUANTIFIER.match(pattern, place)) is not None:
            place = quantifier.end()
            again = _QUANTIFIER.match(pattern, place) is not None
            if again or (atom == ")" and quantifier[0][0] != "?"):
                return False  # a repetition of a repetition, or of a group
            unbounded, choices = _repetition(quantifier)
            repeated += unbounded
            inside = inside + 1 if atom == ")" else choices
        ways[-1] *= inside
        if repeated > _ALTERNATIVE or ways[-1] > _MOST_WAYS:
            return False
    return True


def _repetition(quantifier: re.Match[str]) -> tuple[bool, int]:
    """Return whether a repetition is unbounded, and else how many numbers of times it allows."""
    braces, least, comma, most, lazy = quantifier.groups()
    if braces is None:
        return quantifier[0][0] != "?", 2 if quantifier[0][0] == "?" else 1
    low = int(least[:4] or 0)
    high = int(most[:4] or _MANY) if comma else low
    if high >= _MANY:
        return True, 1
    return False, abs(high - low) + 1 + bool(lazy)


_failures: dict[bytes, str | None] = {}
"""How each definition that was tried failed, by its sha256."""


def _trial(text: str) -> str | None:
    """Try a definition in a process with limits, once; return how it failed, or None."""
    digest = hashlib.sha256(text.encode()).digest()
    if digest not in _failures:
        _failures[digest] = _tried(text)
    return _failures[digest]


def _tried(text: str) -> str | None:
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, probing.__file__],
            input=text.encode(),
            capture_output=True,
            env=environment,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_PATIENCE} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return (
            f"reading it or encoding by it needs more than {probing.SECONDS} s or "
            f"{probing.MEMORY:,} bytes, or crashes (signal {-done.returncode})"
        )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit status {done.returncode}"
