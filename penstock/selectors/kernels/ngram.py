"""An interpolated modified Kneser-Ney n-gram model over hashed words, and its tokeniser.

p(w | h) as in :mod:`penstock.selectors.ccnet`. Orders are counted with NumPy and kept as hash
tables one after another. Texts are read from Arrow's buffers, normalised and split into words in
one pass.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock import arrow_text, hashing
from penstock.array_files import load_array
from penstock.arrow_text import (
    decode_utf8,
    read_only,
    text_view,
)
from penstock.compiling import compiler
from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import FNV_OFFSET, FNV_PRIME, avalanche

__all__ = ["NgramModel", "hash_tokens"]

_STEPS = 2**20
"""Logarithms are integer multiples of its inverse."""

_FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where counts of counts give none: lmplz's --discount_fallback."""

_MOST_CELLS = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramModel:
    """An interpolated Kneser-Ney model, as log10 p and back-off of each n-gram."""

    cells: np.ndarray
    """(c, 2) int64: all orders' hash tables, with open addressing: a key, 0 where empty; and log10
    p and the back-off's log10, of 32 bits each, in units of 2^-20. A key is a word's hash, or
    the cell of all words but the last in the order before and the last word's plus one."""
    starts: np.ndarray
    """(order + 1,) int64: where each order's table begins."""
    unknown: int
    """log10 of the unknown word's p, in units of 2^-20."""

    @classmethod
    def of(cls, hashes: np.ndarray, order: int, prune: int = 0) -> tuple[NgramModel, dict]:
        """Estimate a model of a reference.

        Args:
            hashes: (t,) int64 of at least one line, as :func:`hash_tokens` returns.
            order: Words of the longest n-grams.
            prune: N-grams of three and more words are kept if they occur more often than this.

        Returns:
            The model, and facts: ``lines``, ``tokens``, ``ngrams`` by order, ``discounts`` by
            order, and the orders whose discounts are a ``fallback``.
        """
        levels, vocabulary = _count(hashes, order)
        kept = [
            np.ones(len(level.counts), bool) if k < 2 else level.counts > prune
            for k, level in enumerate(levels)
        ]
        sizes = [int(one.sum()) * 3 // 2 + 2 for one in kept]
        starts = np.cumsum([0, *sizes])
        if starts[-1] >= _MOST_CELLS:
            raise SelectorError(
                key="max_tokens",
                expected=f"at most {_MOST_CELLS * 2 // 3:,} n-grams",
                got=f"{sum(int(one.sum()) for one in kept):,}",
                fix="use fewer tokens, or prune",
            )
        found = [_discounts(level.adjusted) for level in levels]
        gammas = [
            level.gamma(discounts, keep, len(levels[k - 1].counts) if k else 1)
            for k, (level, (discounts, _), keep) in enumerate(zip(levels, found, kept))
        ]
        cells = np.zeros((starts[-1], 2), np.int64)
        # The empty context backs off to one of the words, the end, or the unknown word; the one <s>
        # is never predicted.
        lower = np.full(1, 1 / len(vocabulary))
        unknown = float(gammas[0][0] * lower[0])
        places: list[np.ndarray] = []
        for k, (level, (discounts, _), keep) in enumerate(zip(levels, found, kept)):
            p = level.probabilities(discounts, gammas[k], lower)
            backoffs = gammas[k + 1] if k + 1 < order else np.ones(len(p))
            if k == 0:
                p[_START - 1] = 1.0  # never read, but its logarithm is taken
                keys = vocabulary
            else:
                keys = places[k - 1][level.prefixes] << 32 | places[0][level.words] + 1
            values = _fixed(p) << 32 | _fixed(backoffs) & 0xFFFFFFFF
            own = np.full(len(p), -1)
            own[keep] = _insert(cells, starts[k], starts[k + 1], keys[keep], values[keep])
            places.append(own)
            lower = p
        model = cls(cells=cells, starts=starts, unknown=int(_fixed(np.array([unknown]))[0]))
        return model, {
            "lines": int((hashes == _END).sum()),
            "tokens": len(hashes),
            "ngrams": [int(one.sum()) for one in kept],
            "discounts": [[round(float(one), 4) for one in amounts[1:]] for amounts, _ in found],
            "fallback": [k for k, (_, degenerate) in enumerate(found, 1) if degenerate],
        }

    def log10_sums(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Sum log10 p over each document of (n,) large_string: (n,) float64.

        The second array, (n,) int64, is the number of terms: tokens and ends of sentence.
        """
        view = text_view(texts)
        sums, lengths = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        room = np.empty(view.longest + 1, np.int64)
        context = np.zeros(len(self.starts), np.int64)
        _read(
            view.data,
            view.offsets,
            _characters(),
            read_only(self.cells),
            self.starts,
            self.unknown,
            context,
            room,
            sums,
            lengths,
        )
        return sums / _STEPS, lengths

    def nats_per_token(self, texts: pa.Array) -> np.ndarray:
        """Compute the logarithm of each document's perplexity: (n,) float64; NaN without a word."""
        sums, lengths = self.log10_sums(texts)
        return -sums * math.log(10) / np.where(lengths, lengths, np.nan)

    def save(self, directory: Path) -> None:
        np.save(directory / "ngrams.npy", self.cells)
        state = {"starts": self.starts.tolist(), "unknown": self.unknown}
        (directory / "ngrams.json").write_text(json.dumps(state) + "\n")

    @classmethod
    def load(cls, directory: Path, order: int) -> NgramModel:
        """Read what :meth:`save` wrote; the tables stay in the file, shared by all processes."""
        try:
            state = json.loads((directory / "ngrams.json").read_text())
            starts, unknown = np.array(state["starts"], np.int64), int(state["unknown"])
            cells = load_array(directory / "ngrams.npy", "r")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"not a fitted ccnet: {error}", file=directory) from error
        if (
            cells.dtype != np.int64
            or starts.shape != (order + 1,)
            or starts[0] != 0
            or not (np.diff(starts) > 0).all()
            or cells.shape != (starts[-1], 2)
        ):
            raise ArtefactError(
                file=directory,
                expected=f"tables of {order} orders",
                got=f"{cells.dtype} of shape {cells.shape} split at {starts.tolist()}",
                fix="fit it again",
            )
        return cls(cells=cells, starts=starts, unknown=unknown)


_START, _END = 1, 2
"""The tokens for the beginning and the end of a sentence: below all hashes of words, so the first
two of the sorted vocabulary."""


@dataclass(slots=True, kw_only=True)
class _Level:
    """The n different n-grams of one order, sorted by (prefix, word)."""

    prefixes: np.ndarray
    """(n,) int32: all words but the last, as a row of the level before."""
    words: np.ndarray
    """(n,) int32: the last word, as a row of the first level."""
    suffixes: np.ndarray
    """(n,) int32: all words but the first, as a row of the level before."""
    counts: np.ndarray
    """(n,) int64: how often it occurs."""
    begins: np.ndarray
    """(n,) bool: whether it begins a sentence."""
    adjusted: np.ndarray
    """(n,) int64: the adjusted count; 0 for <s> alone."""

    def gamma(self, discounts: np.ndarray, kept: np.ndarray, contexts: int) -> np.ndarray:
        """Return each context's share for the order below: (contexts,) float64, 1 if empty."""
        left = np.where(kept, discounts[np.minimum(self.adjusted, 3)], self.adjusted)
        total = np.bincount(self.prefixes, self.adjusted, contexts)
        gamma = np.bincount(self.prefixes, left, contexts) / np.where(total > 0, total, 1)
        return np.where(total > 0, gamma, 1.0)

    def probabilities(
        self, discounts: np.ndarray, gamma: np.ndarray, lower: np.ndarray
    ) -> np.ndarray:
        """Return p of the last word after the others, (n,) float64; pruning shows in ``gamma``."""
        total = np.bincount(self.prefixes, self.adjusted, len(gamma))
        own = self.adjusted - discounts[np.minimum(self.adjusted, 3)]
        return own / total[self.prefixes] + gamma[self.prefixes] * lower[self.suffixes]


def _count(hashes: np.ndarray, order: int) -> tuple[list[_Level], np.ndarray]:
    """Count all orders' n-grams; return them and the sorted hashes of words, <s> and the end."""
    ends = np.flatnonzero(hashes == _END)
    line_starts = np.concatenate([[0], ends[:-1] + 1])
    words = np.insert(hashes, line_starts, _START)
    line_starts += np.arange(len(line_starts))
    vocabulary, words, counts = np.unique(words, return_inverse=True, return_counts=True)
    depths = np.arange(len(words))
    depths -= np.repeat(line_starts, np.diff(np.append(line_starts, len(words))))
    nothing = np.zeros(len(counts), np.int32)
    begins = np.arange(len(counts)) == _START - 1
    level = _Level(
        prefixes=nothing,
        words=np.arange(len(counts), dtype=np.int32),
        suffixes=nothing,
        counts=counts,
        begins=begins,
        adjusted=np.where(begins, 0, counts),
    )
    levels, grams = [level], words
    for k in range(1, order):
        ends_here = np.flatnonzero(depths >= k)
        keys = grams[ends_here - 1] * len(vocabulary) + words[ends_here]
        unique, rows, counts = np.unique(keys, return_inverse=True, return_counts=True)
        suffixes = np.empty(len(unique), np.int32)
        suffixes[rows] = grams[ends_here]
        prefixes = (unique // len(vocabulary)).astype(np.int32)
        before = levels[-1]
        level = _Level(
            prefixes=prefixes,
            words=(unique % len(vocabulary)).astype(np.int32),
            suffixes=suffixes,
            counts=counts,
            begins=before.begins[prefixes],
            adjusted=counts,
        )
        followed = np.bincount(suffixes, minlength=len(before.counts))
        before.adjusted = np.where(before.begins, before.adjusted, followed)
        levels.append(level)
        grams = np.full(len(words), -1)
        grams[ends_here] = rows
    return levels, vocabulary


def _discounts(adjusted: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return D of counts 0, 1, 2 and 3 or more, (4,) float64, and whether it is the fallback.

    Chen & Goodman 1998, equation 26. The fallback is used where counts of counts are 0, or give a
    discount that is not in (0, its count].
    """
    t = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(np.float64)
    if t[1:4].all():
        y = t[1] / (t[1] + 2 * t[2])
        found = np.array([k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)])
        if ((found > 0) & (found <= (1, 2, 3))).all():
            return np.concatenate([[0.0], found]), False
    return np.array([0.0, *_FALLBACK]), True


def _fixed(p: np.ndarray) -> np.ndarray:
    """Round log10 to units of 2^-20, which hides the last bits of a logarithm: (n,) int64."""
    return np.rint(np.log10(p) * _STEPS).astype(np.int64)


# Characters as the running Python classifies them: kind and normalised form in one table.

_SPACE, _WORD, _SINGLE, _NEWLINE, _DROPPED = range(5)
_THREE = 1 << 28
"""Marks the ellipsis, which is three full stops."""

_PUNCTUATION = {
    '"': "„”“«»」「《》",
    "'": "´’‘",
    ",": "，、",
    ".": "。．…",
    "-": "–—━►",
    ":": "∶：",
    ";": "；",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    "[": "【",
    "]": "】",
    "<": "〈",
    ">": "〉",
    "%": "％",
    "~": "～",
}
"""CCNet's replacements of punctuation beyond ASCII; and of the left single quote, unlike CCNet."""

_UNSPACED = ((0x3041, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_UNSPACED_ASTRAL = (0x20000, 0x323AF)
"""Kana and Han: scripts without spaces between words."""


@cache
def _characters() -> np.ndarray:
    """Tabulate code points' normalised forms, and their kinds from bit 24: (0x110000,) int32."""
    table = np.empty(0x110000, np.int32)
    for code in range(0x110000):
        table[code] = _normalised(chr(code))
    for mark, others in _PUNCTUATION.items():
        for other in others:
            table[ord(other)] = ord(mark) | _SINGLE << 24
    table[ord("…")] |= _THREE
    table[ord("\n")] = _NEWLINE << 24
    return table


def _normalised(character: str) -> int:
    """Return a character in lower case, without accents, 0 for a digit; with its kind.

    Characters are normalised one by one. Of the few that become several, a letter with accents
    becomes the letter; any other, as Hangul's, stays itself.
    """
    category = unicodedata.category(character)
    if character.isspace():
        return _SPACE << 24
    if category in {"Mn", "Cc", "Cf"}:
        return _DROPPED << 24
    code = ord(character)
    if category == "Nd":
        return ord("0") | _WORD << 24
    if category[0] not in "LNM":
        return code | _SINGLE << 24
    if not character.isascii():
        bare = unicodedata.normalize("NFD", character.lower())
        bare = "".join(one for one in bare if unicodedata.category(one) != "Mn")
        code = ord(bare) if len(bare) == 1 else code
    else:
        code = ord(character.lower())
    unspaced = any(low <= code <= high for low, high in (*_UNSPACED, _UNSPACED_ASTRAL))
    return code | (_SINGLE if unspaced else _WORD) << 24


def hash_tokens(texts: pa.Array, most: int) -> np.ndarray:
    """Hash the normalised tokens of one text after another, until they are ``most``: (t,) int64.

    An end of sentence, 2, follows each line with a token; lines end at a newline. A token is a run
    of letters, digits and combining marks other than accents; or one other mark or symbol; or one
    Han character or kana.
    """
    view = text_view(texts)
    room = np.empty(int(view.offsets[-1] - view.offsets[0]) + len(texts), np.int64)
    return room[: _hash_all(view.data, view.offsets, _characters(), most, room)].copy()


# The inner loops.

_compiled = compiler(arrow_text, hashing)


@_compiled
def _read(
    data: np.ndarray,
    offsets: np.ndarray,
    characters: np.ndarray,
    cells: np.ndarray,
    starts: np.ndarray,
    unknown: int,
    context: np.ndarray,
    room: np.ndarray,
    sums: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """Write each document's log10 p in units of 2^-20, (n,) int64, and its tokens, (n,) int64.

    ``context[j]`` is the cell of the last j words, of which the first ``known`` are in the tables:
    if an n-gram is there, so are all its suffixes. So orders are tried upwards until one fails.
    """
    order = len(starts) - 1
    sentence = _cell(cells, starts[0], starts[1], _START)
    for row in range(len(sums)):
        n_tokens = _tokenise(data, offsets[row], offsets[row + 1], characters, room, 0)
        total = 0
        known = min(1, order - 1)
        context[1] = sentence
        for i in range(n_tokens):
            word = _cell(cells, starts[0], starts[1], room[i])
            value = unknown << 32 if word < 0 else cells[word, 1]
            reached, carried = 1, context[1]
            if word >= 0:
                context[1] = word
                while reached <= known:
                    key = carried << 32 | word + 1
                    found = _cell(cells, starts[reached], starts[reached + 1], key)
                    if found < 0:
                        break
                    value = cells[found, 1]
                    reached += 1
                    if reached < order:
                        carried, context[reached] = context[reached], found
            total += value >> 32
            if reached <= known:  # contexts without this n-gram back off to shorter ones
                total += _backoff(cells[carried, 1])
                for j in range(reached + 1, known + 1):
                    total += _backoff(cells[context[j], 1])
            known = 0 if word < 0 else min(reached, order - 1)
            if room[i] == _END:
                known = min(1, order - 1)
                context[1] = sentence
        sums[row] = total
        lengths[row] = n_tokens


@_compiled
def _backoff(value: int) -> int:
    return value << 32 >> 32


@_compiled
def _cell(cells: np.ndarray, begin: int, end: int, key: int) -> int:
    """Return the index of a key in the table ``cells[begin:end]``, or -1."""
    place = _first_place(begin, end, key)
    while cells[place, 0] != key:
        if cells[place, 0] == 0:
            return -1
        place += 1
        if place == end:
            place = begin
    return place


@_compiled
def _first_place(begin: int, end: int, key: int) -> np.int64:
    high = avalanche(np.uint64(key)) >> np.uint64(32)
    return begin + np.int64(high * np.uint64(end - begin) >> np.uint64(32))


@_compiled
def _insert(
    cells: np.ndarray, begin: int, end: int, keys: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Insert distinct keys and their values into a table with room; return the cell of each."""
    # The keys' array is no longer needed, and becomes the result.
    for i in range(len(keys)):
        place = _first_place(begin, end, keys[i])
        while cells[place, 0] != 0:
            place += 1
            if place == end:
                place = begin
        cells[place, 0] = keys[i]
        cells[place, 1] = values[i]
        keys[i] = place
    return keys


@_compiled
def _hash_all(
    data: np.ndarray, offsets: np.ndarray, characters: np.ndarray, most: int, room: np.ndarray
) -> int:
    """Write the tokens of documents in turn until they are ``most``; return their number."""
    n_tokens = 0
    for row in range(len(offsets) - 1):
        if n_tokens >= most:
            break
        n_tokens = _tokenise(data, offsets[row], offsets[row + 1], characters, room, n_tokens)
    return n_tokens


@_compiled
def _tokenise(
    data: np.ndarray, at: int, end: int, characters: np.ndarray, room: np.ndarray, n_tokens: int
) -> int:
    """Write the tokens of ``data[at:end]``, valid UTF-8, to ``room[n_tokens:]``.

    An end follows each line that has a token. There is at most one token for each byte, and one.
    Returns the number of tokens in ``room``.
    """
    state = FNV_OFFSET
    inside = False  # of a word
    n_before = n_tokens
    while at < end:
        code, at = decode_utf8(data, at)
        entry = characters[code]
        kind = entry >> 24 & 7
        if kind == _DROPPED:
            continue
        if kind == _WORD:
            state = (state ^ np.uint64(entry & 0xFFFFFF)) * FNV_PRIME
            inside = True
            continue
        if inside:
            room[n_tokens] = _finished(state)
            n_tokens += 1
            state = FNV_OFFSET
            inside = False
        if kind == _SINGLE:
            for _ in range(3 if entry & _THREE else 1):
                room[n_tokens] = _finished((state ^ np.uint64(entry & 0xFFFFFF)) * FNV_PRIME)
                n_tokens += 1
        elif kind == _NEWLINE and n_tokens > n_before:
            room[n_tokens] = _END
            n_tokens += 1
            n_before = n_tokens
    if inside:
        room[n_tokens] = _finished(state)
        n_tokens += 1
    if n_tokens > n_before:
        room[n_tokens] = _END
        n_tokens += 1
    return n_tokens


@_compiled
def _finished(state: np.uint64) -> np.int64:
    """Finish a hash of 63 bits, so that it sorts as int64, above the tokens that are no word."""
    bits = np.int64(avalanche(state) >> np.uint64(1))
    return bits if bits > _END else np.int64(_END + 1)
