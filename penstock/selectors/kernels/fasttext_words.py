"""The inner loops of fastText's dictionary: words of a text, their hashes, rows and n-grams.

The steps of one document, its words counted ``i``::

    _find_words         bytes                -> edges[2i], edges[2i + 1]  where word i begins, ends
    _read_first_bytes   edges                -> first_bytes[i]            its first eight bytes
    _hash_words         first_bytes          -> hashes[i]                 signed-byte FNV-1a
    _find_rows          first_bytes, hashes  -> rows[i]                   its row, or -1

One loop that finds, hashes and looks up words spends its time waiting: every word ends in a
mispredicted branch, and every look-up waits for memory. Here several small loops each go over one
document, without branches or only over the few words that need one, so the processor overlaps the
hashes and the cache misses of many words (25 to 35 ns a word).

Nothing here allocates. Integers are fixed-width and wrap as in fastText's C++
(``src/dictionary.cc``).
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from penstock import arrow_text
from penstock.arrow_text import is_white_space
from penstock.compiling import compiler

__all__ = [
    "EOS",
    "SLOT",
    "Text",
    "Vocabulary",
    "WordScratch",
    "begin_ngrams",
    "fill_slots",
    "find_buckets",
    "lengthen_ngrams",
    "look_up_document",
    "ngram_hash",
    "prefetch",
    "sign_extended",
]

EOS = b"</s>"
"""fastText's end-of-line token. A word of the text that equals it ends the document there."""

SLOT = np.dtype([("first_bytes", np.uint64), ("length", np.int32), ("row", np.int32)])
"""A slot of the open-addressing vocabulary: 16 bytes, four to a cache line. Length 0 is empty."""

_FNV_BASIS = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_USUAL_BUCKET = np.uint64(2_000_000)
"""fastText's default, which nearly every published model has."""

_NGRAM_FACTOR = np.uint64(116049371)
_EOS_BYTES = np.uint64(int.from_bytes(EOS, "little"))
_EIGHT_BITS = np.uint64(8)
_UNKNOWN = np.int32(-1)
_ELSEWHERE = np.int32(-2)
"""The row of a word whose slot holds another word: its row is found by probing."""

_compiled = compiler(arrow_text)


class Text(NamedTuple):
    """UTF-8 bytes, and every run of eight of them as one integer."""

    bytes: np.ndarray  # (n,) int8
    windows: np.ndarray  # (n - 7,) uint64, a view: windows[i] has bytes[i] lowest

    @classmethod
    def of(cls, text: np.ndarray) -> Text:
        """View (n,) int8 without a copy. Little-endian, like Arrow."""
        windows = np.ndarray((max(len(text) - 7, 0),), np.uint64, text, strides=(1,))
        windows.flags.writeable = False
        return cls(text, windows)


class Vocabulary(NamedTuple):
    """``V`` words and their rows, read-only."""

    words: Text  # most frequent first, without separators
    starts: np.ndarray  # (V + 1,) int64, where each word begins
    slots: np.ndarray  # (a power of two,) SLOT
    tails: np.ndarray  # (V,) uint64, the last eight bytes of each word
    label_prefix: np.ndarray  # (m > 0,) int8: words that begin with it are labels, and skipped
    eos_row: int  # -1 if there is no end-of-line row


class WordScratch(NamedTuple):
    """Buffers for the longest document of a batch: 21 bytes a byte of text, touched as used."""

    changes: np.ndarray  # (bytes,) bool, whether a word begins or ends at this byte
    edges: np.ndarray  # (2 words,) int32, begin and end of each word
    first_bytes: np.ndarray  # (words,) uint64, first eight bytes; afterwards running n-gram hashes
    hashes: np.ndarray  # (words,) uint32
    rows: np.ndarray  # (words,) int32; afterwards buckets
    long_words: np.ndarray  # (words,) int32, which words have more than eight bytes
    chunks: np.ndarray  # (words,) uint64, the next eight bytes of each long word
    states: np.ndarray  # (words,) uint32, and its hash so far

    @classmethod
    def for_document_of(cls, n_bytes: int) -> WordScratch:
        """Allocate: at most every other byte is a word, and the end of the line is one more."""
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


@intrinsic
def prefetch(_: Any, array: Any, at: Any) -> Any:
    """Prefetch the cache line of ``array[at]``.

    A load would do the same, but a processor tracks only so many loads at a time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        items = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(items, [arguments[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        of = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, of, name)
        builder.call(function, [address, i32(0), i32(3), i32(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(array, at), generate


@_compiled
def fill_slots(words: Text, starts: np.ndarray, slots: np.ndarray, tails: np.ndarray) -> None:
    """Build the vocabulary in ``slots``, which come zeroed and at least twice as many as words.

    fastText sorts words by frequency, so frequent words get the slot of their hash itself.
    """
    mask = len(slots) - 1
    for row in range(len(starts) - 1):
        begin, end = starts[row], starts[row + 1]
        at = np.int64(_hash(_FNV_BASIS, words, begin, end)) & mask
        while slots[at].length != 0:
            at = (at + 1) & mask
        slots[at].first_bytes = _eight_bytes(words, begin, end)
        slots[at].length = end - begin
        slots[at].row = row
        tails[row] = _eight_bytes(words, max(end - 8, begin), end)


@_compiled
def look_up_document(text: Text, vocabulary: Vocabulary, scratch: WordScratch) -> int:
    """Fill ``hashes`` and ``rows``; return the number of words, the end-of-line token included."""
    n_found = _find_words(text.bytes, scratch.changes, scratch.edges)
    n_words, n_long = _read_first_bytes(text, n_found, vocabulary.label_prefix, scratch)
    _hash_words(n_words, scratch.first_bytes, scratch.hashes)
    _hash_long_words(text, n_long, scratch)
    _find_rows(n_words, scratch, vocabulary.slots)
    _check_long_words(text, n_long, scratch, vocabulary.tails)
    _find_remaining_rows(text, n_words, scratch, vocabulary)
    scratch.hashes[n_words] = _hash_eight(_FNV_BASIS, _EOS_BYTES)
    scratch.rows[n_words] = vocabulary.eos_row
    return n_words + 1


@_compiled
def _find_words(text: np.ndarray, changes: np.ndarray, edges: np.ndarray) -> int:
    """Write where words begin and end; return their number. Every byte is written, edges stay."""
    if len(text) == 0:
        return 0
    changes[0] = not is_white_space(text[0])
    for i in range(1, len(text)):
        changes[i] = is_white_space(text[i]) != is_white_space(text[i - 1])
    n = 0
    for i in range(len(text)):
        edges[n] = i
        n += changes[i]
    edges[n] = len(text)
    return (n + 1) // 2


@_compiled
def _read_first_bytes(
    text: Text, n_found: int, label_prefix: np.ndarray, scratch: WordScratch
) -> tuple[int, int]:
    """Drop labels, and the text from a ``</s>`` on; return (words kept, words of over 8 bytes)."""
    edges = scratch.edges
    n_words = n_long = 0
    for i in range(n_found):
        begin, end = edges[2 * i], edges[2 * i + 1]
        first_bytes = _eight_bytes(text, begin, end)
        if first_bytes == _EOS_BYTES:
            break
        if np.int8(first_bytes) == label_prefix[0] and _has_prefix(
            text.bytes[begin:end], label_prefix
        ):
            continue
        scratch.first_bytes[n_words] = first_bytes
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
    """Return up to eight bytes from ``begin``, the first lowest, and zeros from ``end`` on.

    No word has a zero byte, so different words of up to eight bytes give different results.
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
    """Take eight steps of FNV-1a over *signed* bytes, as C++'s char is; skip zero bytes."""
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
def _hash_words(n_words: int, first_bytes: np.ndarray, hashes: np.ndarray) -> None:
    """Hash the first eight bytes of each word, without a branch: eight words at a time in SIMD."""
    for i in range(n_words):
        hashes[i] = _hash_eight(_FNV_BASIS, first_bytes[i])


@_compiled
def _hash_long_words(text: Text, n_long: int, scratch: WordScratch) -> None:
    """Hash the rest of long words, eight bytes a round, again eight words at a time in SIMD."""
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
def _find_rows(n_words: int, scratch: WordScratch, slots: np.ndarray) -> None:
    """Look only in the slot of the hash; if it is empty the word is unknown.

    The first loop is so short that the processor loads many slots at once, and the second finds
    them in its cache: 5 ns a word instead of 8.
    """
    edges, first_bytes, hashes, rows = (
        scratch.edges,
        scratch.first_bytes,
        scratch.hashes,
        scratch.rows,
    )
    mask = np.uint32(len(slots) - 1)
    for i in range(n_words):
        prefetch(slots, np.uint64(hashes[i] & mask))
    for i in range(n_words):
        slot = hashes[i] & mask
        length = slots[slot].length
        is_it = (slots[slot].first_bytes == first_bytes[i]) & (
            length == edges[2 * i + 1] - edges[2 * i]
        )
        otherwise = _ELSEWHERE if length != 0 else _UNKNOWN
        rows[i] = slots[slot].row if is_it else otherwise


@_compiled
def _check_long_words(text: Text, n_long: int, scratch: WordScratch, tails: np.ndarray) -> None:
    """Compare first bytes, tail and length, which identify words of up to 16 bytes exactly."""
    edges, rows = scratch.edges, scratch.rows
    for i in scratch.long_words[:n_long]:
        begin, end = edges[2 * i], edges[2 * i + 1]
        if rows[i] >= 0:
            is_it = (tails[rows[i]] == _eight_bytes(text, end - 8, end)) & (end - begin <= 16)
            rows[i] = rows[i] if is_it else _ELSEWHERE


@_compiled
def _find_remaining_rows(
    text: Text, n_words: int, scratch: WordScratch, vocabulary: Vocabulary
) -> None:
    rows = scratch.rows
    for i in range(n_words):
        if rows[i] == _ELSEWHERE:
            rows[i] = _find_row(text, i, scratch, vocabulary)


@_compiled
def _find_row(text: Text, i: int, scratch: WordScratch, vocabulary: Vocabulary) -> np.int32:
    """Return the row of word ``i``, with every byte compared, or _UNKNOWN."""
    slots = vocabulary.slots
    begin = scratch.edges[2 * i]
    length = scratch.edges[2 * i + 1] - begin
    mask = len(slots) - 1
    at = np.int64(scratch.hashes[i]) & mask
    while slots[at].length != 0:
        if slots[at].first_bytes == scratch.first_bytes[i] and slots[at].length == length:
            known = vocabulary.starts[slots[at].row]
            n_equal = 8
            while (
                n_equal < length
                and vocabulary.words.bytes[known + n_equal] == text.bytes[begin + n_equal]
            ):
                n_equal += 1
            if n_equal >= length:
                return slots[at].row
        at = (at + 1) & mask
    return _UNKNOWN


@_compiled
def sign_extended(word_hash: np.uint32) -> np.uint64:
    """Read a word's hash as int32 and widen it, as fastText does before it hashes n-grams."""
    return np.uint64(np.int64(np.int32(word_hash)))


@_compiled
def ngram_hash(running: np.uint64, word_hash: np.uint32) -> np.uint64:
    """Extend the hash of an n-gram by a word."""
    return running * _NGRAM_FACTOR + sign_extended(word_hash)


@_compiled
def begin_ngrams(n_words: int, scratch: WordScratch) -> None:
    """Begin ``h = h * 116049371 + next`` in uint64, over word hashes *sign-extended* from int32.

    ``running[i]`` is the hash of the n-gram that begins at word ``i``, a word longer each round.
    """
    hashes, running = scratch.hashes, scratch.first_bytes
    for i in range(n_words):
        running[i] = sign_extended(hashes[i])


@_compiled
def lengthen_ngrams(n_words: int, length: int, scratch: WordScratch) -> int:
    """Extend every hash by a word; return the number of n-grams of that length."""
    hashes, running = scratch.hashes, scratch.first_bytes
    n_ngrams = max(n_words - length + 1, 0)
    for i in range(n_ngrams):
        running[i] = ngram_hash(running[i], hashes[i + length - 1])
    return n_ngrams


@_compiled
def find_buckets(
    n_ngrams: int,
    bucket: np.uint64,
    weights: np.ndarray,
    table: np.uint64,
    stride: np.uint64,
    scratch: WordScratch,
) -> None:
    """Write each n-gram's bucket and prefetch its weights, so that all load before the sum."""
    running, buckets = scratch.first_bytes, scratch.rows
    if bucket == _USUAL_BUCKET:
        # By a constant the compiler multiplies; a division takes 5 % of a document's time.
        for i in range(n_ngrams):
            at = running[i] % _USUAL_BUCKET
            buckets[i] = at
            prefetch(weights, table + at * stride)
    else:
        for i in range(n_ngrams):
            at = running[i] % bucket
            buckets[i] = at
            prefetch(weights, table + at * stride)
