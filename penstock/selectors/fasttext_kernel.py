"""The inner loops of fastText scoring, over Arrow's own buffers.

fastText's ``predict`` gathers a ``dim``-wide row for every word and word n-gram of a document
(400 bytes each at the usual 100 dimensions). A binary classifier needs one float of each
(:mod:`penstock.selectors.fasttext`), which leaves finding the words, hashing them and looking
them up. One loop that does all three runs at 4 times ``predict``'s speed: every word ends in a
mispredicted branch, and every look-up waits for memory. Several small loops over one document at
a time, each free of branches or over the few words that need one, run at 10 to 14 times, because
the processor overlaps the hashes and the cache misses of many words (25 to 35 ns a word).

What a document passes through, its words counted ``i``::

    _find_words         bytes          -> edges[2i], edges[2i + 1]  where word i begins and ends
    _read_heads         edges          -> heads[i]                  its first eight bytes
    _hash_words         heads          -> hashes[i]                 signed-byte FNV-1a
    _find_rows          heads, hashes  -> rows[i]                   its row in the table, or -1
    _sum_words          rows           -> sum, count
    _sum_ngrams         hashes         -> sum, count

Nothing here allocates: the functions are compiled without numba's reference counting
(``_nrt=False``), which made helpers that take arrays four times slower. Integers are fixed-width
and wrap as in fastText's C++ (``src/dictionary.cc``). Sums are float64 in text order, so a score
does not depend on the batch it was computed in. All is in one file, since numba's cache does not
see that a function of another file has changed.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["EOS", "SLOT", "Scratch", "Table", "Text", "fill_slots", "score_documents"]

EOS = b"</s>"
"""fastText's end-of-line token. A word of the text that equals it ends the document there."""

SLOT = np.dtype([("head", np.uint64), ("length", np.int32), ("row", np.int32)])
"""A slot of the open-addressing vocabulary: 16 bytes, four to a cache line. Length 0 is empty."""

_FNV_BASIS = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_USUAL_BUCKET = np.uint64(2_000_000)
"""fastText's default, which nearly every published model has."""

_NGRAM_FACTOR = np.uint64(116049371)
_EOS_HEAD = np.uint64(int.from_bytes(EOS, "little"))
_EIGHT_BITS = np.uint64(8)
_UNKNOWN = np.int32(-1)
_ELSEWHERE = np.int32(-2)

_compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)


class Text(NamedTuple):
    """UTF-8 bytes, and every run of eight of them as one integer."""

    bytes: np.ndarray  # (n,) int8
    windows: np.ndarray  # (n - 7,) uint64, a view: windows[i] has bytes[i] lowest

    @classmethod
    def of(cls, text: np.ndarray) -> Text:
        """(n,) int8, not copied. Little-endian, like Arrow."""
        windows = np.ndarray((max(len(text) - 7, 0),), np.uint64, text, strides=(1,))
        windows.flags.writeable = False
        return cls(text, windows)


class Table(NamedTuple):
    """A collapsed model of ``V`` words and ``bucket`` hashed n-grams, read-only."""

    weights: np.ndarray  # (V + bucket,) float32, each row's part in the logit
    words: Text  # the vocabulary, most frequent first, without separators
    starts: np.ndarray  # (V + 1,) int64, where each word begins
    slots: np.ndarray  # (a power of two,) SLOT
    tails: np.ndarray  # (V,) uint64, the last eight bytes of each word
    label_prefix: np.ndarray  # (m > 0,) int8: words that begin with it are labels, and skipped
    bucket: np.uint64
    word_ngrams: int
    eos_row: int  # -1 if the model has no end-of-line row


class Scratch(NamedTuple):
    """Room for the longest document of a batch: 21 bytes for each of its bytes, touched as used."""

    changes: np.ndarray  # (bytes,) bool, whether a word begins or ends at this byte
    edges: np.ndarray  # (2 words,) int32, begin and end of each word
    heads: np.ndarray  # (words,) uint64, first eight bytes; afterwards running n-gram hashes
    hashes: np.ndarray  # (words,) uint32
    rows: np.ndarray  # (words,) int32; afterwards buckets
    long_words: np.ndarray  # (words,) int32, which words have more than eight bytes
    chunks: np.ndarray  # (words,) uint64, the next eight bytes of each long word
    states: np.ndarray  # (words,) uint32, and its hash so far

    @classmethod
    def for_document_of(cls, n_bytes: int) -> Scratch:
        """At most every other byte is a word, and the end of the line is one more."""
        n_words = n_bytes // 2 + 2
        return cls(
            np.empty(n_bytes, np.bool_),
            np.empty(2 * n_words, np.int32),
            np.empty(n_words, np.uint64),
            np.empty(n_words, np.uint32),
            np.empty(n_words, np.int32),
            np.empty(n_words, np.int32),
            np.empty(n_words, np.uint64),
            np.empty(n_words, np.uint32),
        )


@_compiled
def score_documents(
    text: Text, offsets: np.ndarray, table: Table, scratch: Scratch, out: np.ndarray
) -> None:
    """Write p(positive) of each document to ``out``, (n,) float32.

    ``offsets`` is (n + 1,) int64. A document none of whose words, n-grams and
    end-of-line token has a row scores NaN: ``predict`` gives it no label.
    """
    for i in range(len(out)):
        begin, end = offsets[i], offsets[i + 1]
        document = Text(text.bytes[begin:end], text.windows[begin:])
        n_words = _look_up_document(document, table, scratch)
        word_sum, word_count = _sum_words(n_words, scratch, table)
        ngram_sum, ngram_count = _sum_ngrams(n_words, scratch, table)
        count = word_count + ngram_count
        mean = (word_sum + ngram_sum) / count if count > 0 else np.nan
        out[i] = 1.0 / (1.0 + np.exp(-mean))


@_compiled
def fill_slots(words: Text, starts: np.ndarray, slots: np.ndarray, tails: np.ndarray) -> None:
    """Build the vocabulary in ``slots``, which come zeroed and at least twice as many as words.

    fastText sorts words by frequency, so frequent ones get the very slot their hash names.
    """
    mask = len(slots) - 1
    for row in range(len(starts) - 1):
        begin, end = starts[row], starts[row + 1]
        at = np.int64(_hash(_FNV_BASIS, words, begin, end)) & mask
        while slots[at].length != 0:
            at = (at + 1) & mask
        slots[at].head = _eight_bytes(words, begin, end)
        slots[at].length = end - begin
        slots[at].row = row
        tails[row] = _eight_bytes(words, max(end - 8, begin), end)


@_compiled
def _look_up_document(text: Text, table: Table, scratch: Scratch) -> int:
    """Fill ``hashes`` and ``rows``; the number of words, the end-of-line token included."""
    n_found = _find_words(text.bytes, scratch.changes, scratch.edges)
    n_words, n_long = _read_heads(text, n_found, table.label_prefix, scratch)
    _hash_words(n_words, scratch.heads, scratch.hashes)
    _hash_long_words(text, n_long, scratch)
    _find_rows(n_words, scratch, table.slots)
    _check_long_words(text, n_long, scratch, table.tails)
    _find_remaining_rows(text, n_words, scratch, table)
    scratch.hashes[n_words] = _hash_eight(_FNV_BASIS, _EOS_HEAD)
    scratch.rows[n_words] = table.eos_row
    return n_words + 1


@_compiled
def _is_whitespace(byte: np.int8) -> bool:
    """The seven bytes at which fastText splits. Unicode's other spaces are part of a word."""
    is_tab_to_return = np.uint8(byte - 9) < np.uint8(5)  # \t \n \v \f \r
    return is_tab_to_return | (byte == 32) | (byte == 0)


@_compiled
def _find_words(text: np.ndarray, changes: np.ndarray, edges: np.ndarray) -> int:
    """A change between whitespace and word is an edge: every byte is stored, an edge is kept."""
    if len(text) == 0:
        return 0
    changes[0] = not _is_whitespace(text[0])
    for i in range(1, len(text)):
        changes[i] = _is_whitespace(text[i]) != _is_whitespace(text[i - 1])
    n = 0
    for i in range(len(text)):
        edges[n] = i
        n += changes[i]
    edges[n] = len(text)
    return (n + 1) // 2


@_compiled
def _read_heads(
    text: Text, n_found: int, label_prefix: np.ndarray, scratch: Scratch
) -> tuple[int, int]:
    """Drop labels, and everything from a ``</s>`` in the text on: (words kept, long words)."""
    edges = scratch.edges
    n_words = n_long = 0
    for i in range(n_found):
        begin, end = edges[2 * i], edges[2 * i + 1]
        head = _eight_bytes(text, begin, end)
        if head == _EOS_HEAD:
            break
        if np.int8(head) == label_prefix[0] and _has_prefix(text.bytes[begin:end], label_prefix):
            continue
        scratch.heads[n_words] = head
        edges[2 * n_words], edges[2 * n_words + 1] = begin, end
        scratch.long_words[n_long] = n_words
        n_long += end - begin > 8
        n_words += 1
    return n_words, n_long


@_compiled
def _has_prefix(word: np.ndarray, prefix: np.ndarray) -> bool:
    n_equal = 0
    while n_equal < min(len(word), len(prefix)) and word[n_equal] == prefix[n_equal]:
        n_equal += 1
    return n_equal == len(prefix)


@_compiled
def _eight_bytes(text: Text, begin: int, end: int) -> np.uint64:
    """Up to eight bytes from ``begin``, the first lowest, and zeros from ``end`` on.

    No word has a zero byte, so this tells words of up to eight bytes apart exactly.
    """
    if begin < len(text.windows):
        n_unused_bits = np.uint64(8 * max(8 - (end - begin), 0))
        return (text.windows[begin] << n_unused_bits) >> n_unused_bits
    packed = np.uint64(0)
    for i in range(min(end, begin + 8) - 1, begin - 1, -1):
        packed = (packed << _EIGHT_BITS) | np.uint64(np.uint8(text.bytes[i]))
    return packed


@_compiled
def _hash_eight(state: np.uint32, packed: np.uint64) -> np.uint32:
    """Eight steps of FNV-1a over *signed* bytes, as C++'s char is. Padding changes nothing."""
    for _ in range(8):
        byte = np.int8(packed)
        step = np.uint32((state ^ np.uint32(byte)) * _FNV_PRIME)
        state = step if byte != 0 else state
        packed >>= _EIGHT_BITS
    return state


@_compiled
def _hash(state: np.uint32, text: Text, begin: int, end: int) -> np.uint32:
    for at in range(begin, end, 8):
        state = _hash_eight(state, _eight_bytes(text, at, end))
    return state


@_compiled
def _hash_words(n_words: int, heads: np.ndarray, hashes: np.ndarray) -> None:
    """No branch: the compiler does this for eight words at a time."""
    for i in range(n_words):
        hashes[i] = _hash_eight(_FNV_BASIS, heads[i])


@_compiled
def _hash_long_words(text: Text, n_long: int, scratch: Scratch) -> None:
    """Go on by eight bytes a round with the words that have them, again eight words at a time."""
    edges, hashes, chunks, states = scratch.edges, scratch.hashes, scratch.chunks, scratch.states
    unfinished = scratch.rows  # not in use yet
    for k in range(n_long):
        unfinished[k] = scratch.long_words[k]
    n_unfinished = n_long
    at = 8
    while n_unfinished > 0:
        for k in range(n_unfinished):
            i = unfinished[k]
            chunks[k] = _eight_bytes(text, edges[2 * i] + at, edges[2 * i + 1])
            states[k] = hashes[i]
        for k in range(n_unfinished):
            states[k] = _hash_eight(states[k], chunks[k])
        at += 8
        n = 0
        for k in range(n_unfinished):
            i = unfinished[k]
            hashes[i] = states[k]
            unfinished[n] = i
            n += edges[2 * i + 1] - edges[2 * i] > at
        n_unfinished = n


@_compiled
def _find_rows(n_words: int, scratch: Scratch, slots: np.ndarray) -> None:
    """Look only where the hash points: an empty slot there settles the matter, too.

    The first loop is so short that the processor waits for many slots at once, and the second
    finds them in its cache: 5 ns a word instead of 8.
    """
    edges, heads, hashes, rows = scratch.edges, scratch.heads, scratch.hashes, scratch.rows
    mask = np.uint32(len(slots) - 1)
    for i in range(n_words):
        rows[i] = slots[hashes[i] & mask].length
    for i in range(n_words):
        slot = hashes[i] & mask
        is_it = (slots[slot].head == heads[i]) & (rows[i] == edges[2 * i + 1] - edges[2 * i])
        otherwise = _ELSEWHERE if rows[i] != 0 else _UNKNOWN
        rows[i] = slots[slot].row if is_it else otherwise


@_compiled
def _check_long_words(text: Text, n_long: int, scratch: Scratch, tails: np.ndarray) -> None:
    """Head, tail and length settle words of up to 16 bytes. The rest are compared in full."""
    edges, rows = scratch.edges, scratch.rows
    for i in scratch.long_words[:n_long]:
        begin, end = edges[2 * i], edges[2 * i + 1]
        if rows[i] >= 0:
            is_it = (tails[rows[i]] == _eight_bytes(text, end - 8, end)) & (end - begin <= 16)
            rows[i] = rows[i] if is_it else _ELSEWHERE


@_compiled
def _find_remaining_rows(text: Text, n_words: int, scratch: Scratch, table: Table) -> None:
    rows = scratch.rows
    for i in range(n_words):
        if rows[i] == _ELSEWHERE:
            rows[i] = _find_row(text, i, scratch, table)


@_compiled
def _find_row(text: Text, i: int, scratch: Scratch, table: Table) -> np.int32:
    """The row of word ``i``, every byte compared, or _UNKNOWN."""
    slots = table.slots
    begin = scratch.edges[2 * i]
    length = scratch.edges[2 * i + 1] - begin
    mask = len(slots) - 1
    at = np.int64(scratch.hashes[i]) & mask
    while slots[at].length != 0:
        if slots[at].head == scratch.heads[i] and slots[at].length == length:
            known = table.starts[slots[at].row]
            n_equal = 8
            while (
                n_equal < length
                and table.words.bytes[known + n_equal] == text.bytes[begin + n_equal]
            ):
                n_equal += 1
            if n_equal >= length:
                return slots[at].row
        at = (at + 1) & mask
    return _UNKNOWN


@_compiled
def _sum_words(n_words: int, scratch: Scratch, table: Table) -> tuple[float, int]:
    """Unknown words add nothing themselves. Their hashes do, in n-grams."""
    total = 0.0
    count = 0
    for i in range(n_words):
        row = scratch.rows[i]
        weight = table.weights[max(row, 0)]
        total += weight if row >= 0 else 0.0
        count += row >= 0
    return total, count


@_compiled
def _sum_ngrams(n_words: int, scratch: Scratch, table: Table) -> tuple[float, int]:
    """``h = h * 116049371 + next`` in uint64, over word hashes *sign-extended* from int32.

    ``running[i]`` is the hash of the n-gram that begins at word ``i``, a word longer each round.
    """
    hashes, running, buckets = scratch.hashes, scratch.heads, scratch.rows
    weights = table.weights[len(table.starts) - 1 :]
    total = 0.0
    count = 0
    for i in range(n_words):
        running[i] = _sign_extended(hashes[i])
    for length in range(2, table.word_ngrams + 1):
        n_ngrams = max(n_words - length + 1, 0)
        for i in range(n_ngrams):
            running[i] = running[i] * _NGRAM_FACTOR + _sign_extended(hashes[i + length - 1])
        if table.bucket == _USUAL_BUCKET:
            # By a constant the compiler multiplies; a division takes 5 % of a document's time.
            for i in range(n_ngrams):
                buckets[i] = running[i] % _USUAL_BUCKET
        else:
            for i in range(n_ngrams):
                buckets[i] = running[i] % table.bucket
        for i in range(n_ngrams):
            total += weights[buckets[i]]
        count += n_ngrams
    return total, count


@_compiled
def _sign_extended(word_hash: np.uint32) -> np.uint64:
    return np.uint64(np.int64(np.int32(word_hash)))
