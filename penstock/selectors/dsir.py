"""DSIR: documents weighted by how much likelier their n-grams are in the target than in the pool.

Xie et al. 2023, *Data Selection for Language Models via Importance Resampling*. Unigrams and
bigrams of lower-cased words and runs of punctuation fall into 10,000 buckets by SHA-256. With p
the target's shares of the buckets and q the pool's, a document's log importance weight is the sum
over its n-grams of log(p + 1e-8) - log(q + 1e-8) (section 4, and the authors' code). A draw with
Gumbel noise at temperature 1 then samples by importance, without replacement: that is the budget's
``draw: {gumbel: {temperature: 1}}``.

SHA-256 of every n-gram is what the time goes into. ``hashlib`` takes 560 ns for one, most of them
for the call; here a bigram is a slice of the normalised text, and 32 n-grams at a time go through
the rounds side by side, in vector registers: 26 ns each, and 14,000 documents a second on a core
for 1,200. No n-gram is remembered, so there is no table to hold or to ship.

What is traded away: targets are one mixture, where the authors can also draw for each in turn (a
selector for each does that). And the sum is not divided by length, as published: aimed at ARC-Easy
and OpenBookQA, 99.9 % of a pool of 65,686 documents weighed less than nothing, so the best 2 %
were those just above the least length (105 words in the median, 196 in all), and the noise of a
draw at temperature 1 hardly moved weights that lie thousands apart. See ``per_ngram``.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids, mix
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.parameters import flag, number, whole

__all__ = ["Dsir", "hash_buckets"]

_BLOCK = 4096
"""Documents that are counted at a time."""

_STEPS = 2.0**24
"""Log ratios are whole multiples of its inverse, so that sums of millions of them are exact, and
the last bit of a logarithm, which differs from processor to processor, shows in none of them."""

_MOST_BUCKETS = 2**29
"""Eight 32-bit words of a digest times remainders below this add up to less than 2^64."""


class Dsir:
    """Scores documents by their log importance weight under hashed n-grams.

    Where a default differs from the authors', theirs is given as "published", with the reason.

    Args:
        buckets: As published.
        ngrams: The longest n-grams, in tokens; all shorter ones count too, as published (2).
        min_tokens: Documents of fewer tokens are never taken, as published (100).
        smoothing: Added to every share before its logarithm, as published. A bucket that the
            target never met costs an n-gram about 9; facts say how many there are.
        sample: Documents that q is counted on, about. Published: all, up to ``max_ngrams``.
            100,000 are 10^8 n-grams, 10,000 a bucket, which knows an average share to 1 %.
        max_ngrams: Counting stops after the document in which this many n-grams are reached.
            Published: 100,000 for each bucket, which is the same for 10,000 buckets. Documents
            are taken in the order of a hash of their ids, not of the corpus.
        per_ngram: Divide a weight by its n-grams. Not published, and a draw then wants a much
            smaller temperature. On 261 pages that people labelled good or bad the area under
            the curve was 0.70, and 0.33 for sums.
    """

    summary: ClassVar[str] = "importance weights of hashed n-grams, target over pool"
    paper: ClassVar[str] = "Xie et al. 2023, DSIR: data selection via importance resampling"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        buckets: int = 10_000,
        ngrams: int = 2,
        min_tokens: int = 100,
        smoothing: float = 1e-8,
        sample: int = 100_000,
        max_ngrams: int = 1_000_000_000,
        per_ngram: bool = False,
    ) -> None:
        self.buckets = whole("buckets", buckets)
        if self.buckets > _MOST_BUCKETS:
            raise SelectorError(f"buckets: expected at most {_MOST_BUCKETS:,}, got {buckets}")
        self.ngrams = whole("ngrams", ngrams)
        self.min_tokens = whole("min_tokens", min_tokens, least=0)
        self.smoothing = number("smoothing", smoothing)
        self.sample = whole("sample", sample)
        self.max_ngrams = whole("max_ngrams", max_ngrams)
        self.per_ngram = flag("per_ngram", per_ngram)
        self.log_ratios_: np.ndarray | None = None

    @property
    def wants_target(self) -> bool:
        """Whether it is of no use without examples to aim at."""
        return True

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the version of Unicode that says what a letter is."""
        own = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return {**own, "unicode": unicodedata.unidata_version}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Count the n-grams of the target and of a sample of the pool.

        Returns:
            Facts: the n-grams counted of either, the documents of the sample, the share of them
            that is too short to be taken, and the buckets that the target never met.

        Raises:
            SelectorError: There are no n-grams to count in the target or in the sample.
        """
        target = np.zeros(self.buckets, np.int64)
        texts = pa.array([example.text for example in fitting.target], pa.large_string())
        self._count(texts, target, np.iinfo(np.int64).max)
        if not target.any():
            raise SelectorError("target: expected files with examples to aim at, got no words")

        sample = fitting.sample(self.sample)
        order = np.argsort(hash_ids(sample["id"], mix(fitting.seed, "dsir")), kind="stable")
        raw = np.zeros(self.buckets, np.int64)
        documents = short = 0
        for at in range(0, len(order), _BLOCK):
            block = sample["text"].take(pa.array(order[at : at + _BLOCK])).combine_chunks()
            tokens = self._count(block, raw, self.max_ngrams)
            documents += len(tokens)
            short += int((tokens < self.min_tokens).sum())
            if raw.sum() >= self.max_ngrams:
                break
        if not raw.any():
            raise SelectorError("sample: expected documents with text to fit on, got none")

        p, q = target / target.sum(), raw / raw.sum()
        log_ratios = np.log(p + self.smoothing) - np.log(q + self.smoothing)
        self.log_ratios_ = np.rint(log_ratios * _STEPS) / _STEPS
        return {
            "target_ngrams": int(target.sum()),
            "sample_ngrams": int(raw.sum()),
            "sample": documents,
            "short_share": round(short / documents, 4),
            "unseen_buckets": int((target == 0).sum()),
        }

    def score(self, documents: Documents) -> np.ndarray:
        """Log importance weights: (n,) float32; NaN for a document that is blank or too short."""
        if self.log_ratios_ is None:
            raise SelectorError("dsir: expected a fitted selector; call fit or load first")
        texts = documents.column("text")
        data, offsets = _lowered_buffers(texts)
        weights, tokens = np.empty(len(texts)), np.empty(len(texts), np.int64)
        room, ratios = Room.for_document_of(offsets, self.ngrams, self.buckets), self.log_ratios_
        _weigh(data, offsets, _characters(), self.ngrams, room, ratios, weights, tokens)
        if self.per_ngram:
            orders = np.arange(self.ngrams)
            weights /= np.maximum(np.maximum(tokens[:, None] - orders, 0).sum(axis=1), 1)
        taken = (tokens >= self.min_tokens) & ~blank(texts)
        return np.where(taken, weights, np.nan).astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write the buckets' log ratios, (buckets,) float64."""
        if self.log_ratios_ is not None:
            np.save(directory / "log_ratios.npy", self.log_ratios_)

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        try:
            log_ratios = np.load(directory / "log_ratios.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{directory}: not a fitted dsir: {error}") from error
        if log_ratios.dtype != np.float64 or log_ratios.shape != (self.buckets,):
            raise ArtefactError(
                f"{directory}: expected {self.buckets} log ratios, got {log_ratios.dtype} of "
                f"shape {log_ratios.shape}; fit it again"
            )
        self.log_ratios_ = log_ratios

    def _count(self, texts: pa.Array, counts: np.ndarray, most: int) -> np.ndarray:
        """Add the texts' n-grams to ``counts`` until they are ``most`` in all.

        Returns:
            (m,) int64: the tokens of each text that was read.
        """
        data, offsets = _lowered_buffers(texts)
        tokens = np.empty(len(texts), np.int64)
        room = Room.for_document_of(offsets, self.ngrams, self.buckets)
        read = _add(data, offsets, _characters(), self.ngrams, room, most, counts, tokens)
        return tokens[:read]


def hash_buckets(text: str, buckets: int = 10_000, ngrams: int = 2) -> np.ndarray:
    r"""The bucket of each n-gram of a text, unigrams first, in text order: (m,) int32.

    Tokens are what ``\w+|[^\w\s]+`` finds in the lower-cased text; an n-gram's tokens are joined
    by spaces; its bucket is the SHA-256 of its UTF-8, as one integer, modulo ``buckets``.
    """
    data, offsets = _lowered_buffers(pa.array([text], pa.large_string()))
    room = Room.for_document_of(offsets, ngrams, buckets)
    tokens = _tokenise(data, 0, offsets[-1], _characters(), room)
    return room.buckets[: _hash_ngrams(tokens, ngrams, buckets, room)].copy()


# Characters, as the running Python knows them: class and lower case in one table.

_SPACE, _WORD, _MARK = 0, 1, 2


@cache
def _characters() -> np.ndarray:
    """(0x110000,) int32: of each code point the lower case, and its class from bit 24 on."""
    characters = "".join(map(chr, range(0x110000)))
    lower = characters.replace("\u03a3", "\u03c3").replace("\u0130", "i").lower()
    table = np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), np.int32)
    kinds = np.full(len(table), _MARK, np.int32)
    for kind, pattern in ((_WORD, r"\w+"), (_SPACE, r"\s+")):
        for match in re.finditer(pattern, characters):
            kinds[slice(*match.span())] = kind
    return table | kinds << 24


def _lowered_buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The texts' bytes, (b,) uint8, and (n + 1,) int64 offsets into them.

    Only sigma, whose small form depends on its neighbours, and the dotted capital I, which
    becomes two characters, cannot be lower-cased one by one; texts that hold them are here.
    """
    texts = texts.cast(pa.large_string())
    special = pc.match_substring_regex(texts, "[\u03a3\u0130]")
    if pc.any(special).as_py():
        lowered = [text.lower() for text in texts.filter(special).to_pylist()]
        texts = pc.replace_with_mask(texts, special, pa.array(lowered, pa.large_string()))
    if len(texts) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = texts.buffers()
    own = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data or b"", np.uint8), own


# The inner loops. Integers are fixed-width; numba widens uint32 to 64 bits, hence the casts. All
# is in one file, since numba's cache does not see that a function of another file has changed.

_compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)

_U32 = np.uint32
_LANES = 32
"""N-grams that are hashed side by side: 26 ns each with 32, 30 with 16, 160 with 8, which the
compiler leaves unvectorised."""

_ROUNDS = 4
"""Rounds between a load and a store of the state; 8 are as fast, and with 16 it is 160 ns again."""


def _fractions(root: int, count: int) -> np.ndarray:
    """The first 32 bits of the fractions of the primes' roots: FIPS 180-4, 4.2.2 and 5.3.3."""
    primes = [n for n in range(2, 312) if all(n % m for m in range(2, n))][:count]
    bits = []
    for prime in primes:
        low, high = 0, prime << 32  # of the root times 2^32, by bisection
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**root <= prime << 32 * root else (low, middle)
        bits.append(low & 0xFFFFFFFF)
    return np.array(bits, np.uint32)


_CONSTANTS = _fractions(3, 64)
_INITIAL = _fractions(2, 8)


class Room(NamedTuple):
    """Room for the longest document of a batch, touched as used."""

    text: np.ndarray  # (2 bytes + 8,) uint8: tokens in lower case, one space between two
    windows: np.ndarray  # a view of it: windows[i] is the four bytes from i as one uint32
    starts: np.ndarray  # (bytes,) int64: where each token begins
    ends: np.ndarray  # (bytes,) int64: where it ends
    buckets: np.ndarray  # (ngrams x bytes,) int32: of each n-gram
    schedule: np.ndarray  # (64, _LANES) uint32: the words of a block
    state: np.ndarray  # (8, _LANES) uint32
    working: np.ndarray  # (8, _LANES) uint32
    powers: np.ndarray  # (8,) uint64: what each word of a digest counts, modulo the buckets

    @classmethod
    def for_document_of(cls, offsets: np.ndarray, ngrams: int, buckets: int) -> Room:
        """A character of one byte may be a token, and of two bytes may have three in lower case."""
        n_bytes = int(np.diff(offsets).max(initial=0))
        text = np.empty(2 * n_bytes + 8, np.uint8)
        return cls(
            text,
            np.ndarray((len(text) - 3,), np.uint32, text, strides=(1,)),
            np.empty(n_bytes, np.int64),
            np.empty(n_bytes, np.int64),
            np.empty(ngrams * n_bytes, np.int32),
            np.empty((64, _LANES), np.uint32),
            np.empty((8, _LANES), np.uint32),
            np.empty((8, _LANES), np.uint32),
            np.array([pow(2, 32 * (7 - i), buckets) for i in range(8)], np.uint64),
        )


@_compiled
def _weigh(
    data: np.ndarray,
    offsets: np.ndarray,
    characters: np.ndarray,
    ngrams: int,
    room: Room,
    log_ratios: np.ndarray,
    weights: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Write each document's sum of log ratios, (n,) float64, and its tokens, (n,) int64."""
    for row in range(len(weights)):
        tokens[row] = _tokenise(data, offsets[row], offsets[row + 1], characters, room)
        total = 0.0
        for i in range(_hash_ngrams(tokens[row], ngrams, len(log_ratios), room)):
            total += log_ratios[room.buckets[i]]
        weights[row] = total


@_compiled
def _add(
    data: np.ndarray,
    offsets: np.ndarray,
    characters: np.ndarray,
    ngrams: int,
    room: Room,
    most: int,
    counts: np.ndarray,
    tokens: np.ndarray,
) -> int:
    """Count documents' n-grams until there are ``most``; the number of documents read."""
    total = 0
    for count in counts:
        total += count
    for row in range(len(tokens)):
        if total >= most:
            return row
        tokens[row] = _tokenise(data, offsets[row], offsets[row + 1], characters, room)
        n_ngrams = _hash_ngrams(tokens[row], ngrams, len(counts), room)
        for i in range(n_ngrams):
            counts[room.buckets[i]] += 1
        total += n_ngrams
    return len(tokens)


@_compiled
def _tokenise(data: np.ndarray, begin: int, end: int, characters: np.ndarray, room: Room) -> int:
    """Write the lower-case tokens of ``data[begin:end]``, valid UTF-8; how many there are."""
    n_tokens = size = 0
    kind_before = _SPACE
    while begin < end:
        code, begin = _decode(data, begin)
        entry = characters[code]
        kind = entry >> 24
        if kind != kind_before:
            if kind_before != _SPACE:
                room.ends[n_tokens - 1] = size
            if kind != _SPACE:
                if n_tokens > 0:
                    room.text[size] = 32
                    size += 1
                room.starts[n_tokens] = size
                n_tokens += 1
            kind_before = kind
        if kind != _SPACE:
            size = _encode(entry & 0xFFFFFF, room.text, size)
    if kind_before != _SPACE:
        room.ends[n_tokens - 1] = size
    return n_tokens


@_compiled
def _decode(data: np.ndarray, at: int) -> tuple[int, int]:
    """The code point at ``at``, and where the next begins."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    second = data[at + 1] & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, at + 2
    third = data[at + 2] & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, at + 3
    fourth = data[at + 3] & 0x3F
    return (first & 0x07) << 18 | second << 12 | third << 6 | fourth, at + 4


@_compiled
def _encode(code: int, text: np.ndarray, at: int) -> int:
    """Write a code point at ``at``; where the next goes."""
    if code < 0x80:
        text[at] = code
        return at + 1
    if code < 0x800:
        text[at] = 0xC0 | code >> 6
        text[at + 1] = 0x80 | code & 0x3F
        return at + 2
    if code < 0x10000:
        text[at] = 0xE0 | code >> 12
        text[at + 1] = 0x80 | code >> 6 & 0x3F
        text[at + 2] = 0x80 | code & 0x3F
        return at + 3
    text[at] = 0xF0 | code >> 18
    text[at + 1] = 0x80 | code >> 12 & 0x3F
    text[at + 2] = 0x80 | code >> 6 & 0x3F
    text[at + 3] = 0x80 | code & 0x3F
    return at + 4


@_compiled
def _hash_ngrams(n_tokens: int, ngrams: int, n_buckets: int, room: Room) -> int:
    """Write the bucket of each n-gram of the tokens, unigrams first; how many there are."""
    n_done = 0
    for order in range(1, ngrams + 1):
        n_ngrams = max(n_tokens - order + 1, 0)
        for first in range(0, n_ngrams, _LANES):
            n_lanes = min(n_ngrams - first, _LANES)
            _hash_side_by_side(first, order, n_lanes, n_buckets, room, n_done + first)
        n_done += n_ngrams
    return n_done


@_compiled
def _hash_side_by_side(
    first: int, order: int, n_lanes: int, n_buckets: int, room: Room, at: int
) -> None:
    """SHA-256 of the n-grams that begin at the tokens from ``first`` on, a lane each.

    A lane whose message is over goes on with blocks of zeros, unread. Nearly all n-grams are at
    most 55 bytes, so one block.
    """
    n_blocks = 1
    for lane in range(n_lanes):
        length = room.ends[first + lane + order - 1] - room.starts[first + lane]
        n_blocks = max(n_blocks, (length + 8) // 64 + 1)
    for i in range(8):
        room.state[i, :] = _INITIAL[i]
    for block in range(n_blocks):
        room.schedule[:16] = 0
        for lane in range(n_lanes):
            begin, end = room.starts[first + lane], room.ends[first + lane + order - 1]
            _fill_block(room, lane, begin, end, block)
        _compress(room.state, room.working, room.schedule)
        for lane in range(n_lanes):
            length = room.ends[first + lane + order - 1] - room.starts[first + lane]
            if (length + 8) // 64 == block:
                room.buckets[at + lane] = _remainder(room, lane, n_buckets)


@_compiled
def _fill_block(room: Room, lane: int, begin: int, end: int, block: int) -> None:
    """The big-endian words of a block of a message: FIPS 180-4, 5.1.1 and 5.2.1."""
    from_here = begin + 64 * block
    if from_here <= end:
        n_whole = min((end - from_here) // 4, 16)
        for k in range(n_whole):
            room.schedule[k, lane] = _swapped(room.windows[from_here + 4 * k])
        if n_whole < 16:  # up to three bytes more, then one bit
            n_bits = _U32(8 * ((end - from_here) % 4))
            last = _swapped(room.windows[from_here + 4 * n_whole])
            kept = last & ~(_U32(0xFFFFFFFF) >> n_bits)
            room.schedule[n_whole, lane] = kept | _U32(0x80000000) >> n_bits
    if (end - begin + 8) // 64 == block:
        n_bits_in_all = np.uint64(8 * (end - begin))
        room.schedule[14, lane] = n_bits_in_all >> np.uint64(32)
        room.schedule[15, lane] = n_bits_in_all & np.uint64(0xFFFFFFFF)


@_compiled
def _swapped(word: np.uint32) -> np.uint32:
    return _U32(word << _U32(24) | (word & _U32(0xFF00)) << _U32(8)) | _U32(
        word >> _U32(8) & _U32(0xFF00) | word >> _U32(24)
    )


@_compiled
def _compress(state: np.ndarray, working: np.ndarray, schedule: np.ndarray) -> None:
    """FIPS 180-4, 6.2.2, steps 1 to 4, of every lane."""
    for t in range(16, 64):
        for lane in range(_LANES):
            x, y = schedule[t - 15, lane], schedule[t - 2, lane]
            small_0 = _rotated(x, 7) ^ _rotated(x, 18) ^ x >> _U32(3)
            small_1 = _rotated(y, 17) ^ _rotated(y, 19) ^ y >> _U32(10)
            schedule[t, lane] = _U32(
                schedule[t - 16, lane] + small_0 + schedule[t - 7, lane] + small_1
            )
    for i in range(8):
        for lane in range(_LANES):
            working[i, lane] = state[i, lane]
    for start in range(0, 64, _ROUNDS):
        for lane in range(_LANES):
            a, b, c, d = working[0, lane], working[1, lane], working[2, lane], working[3, lane]
            e, f, g, h = working[4, lane], working[5, lane], working[6, lane], working[7, lane]
            for t in range(start, start + _ROUNDS):
                large_1 = _rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25)
                choice = g ^ (e & (f ^ g))
                step = _U32(h + large_1 + choice + _CONSTANTS[t] + schedule[t, lane])
                large_0 = _rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)
                majority = (a & b) | (c & (a | b))
                h, g, f, e = g, f, e, _U32(d + step)
                d, c, b, a = c, b, a, _U32(step + large_0 + majority)
            working[0, lane], working[1, lane], working[2, lane], working[3, lane] = a, b, c, d
            working[4, lane], working[5, lane], working[6, lane], working[7, lane] = e, f, g, h
    for i in range(8):
        for lane in range(_LANES):
            state[i, lane] = _U32(state[i, lane] + working[i, lane])


@_compiled
def _rotated(word: np.uint32, n_bits: int) -> np.uint32:
    return _U32(word >> _U32(n_bits) | word << _U32(32 - n_bits))


@_compiled
def _remainder(room: Room, lane: int, n_buckets: int) -> int:
    """The digest, 256 bits with the first highest, modulo ``n_buckets``."""
    total = np.uint64(0)
    for i in range(8):
        total += np.uint64(room.state[i, lane]) * room.powers[i]
    return int(total % np.uint64(n_buckets))
