"""The inner loops of fastText scoring, over Arrow's own buffers.

fastText's ``predict`` gathers a ``dim``-wide row for every word and word n-gram of a document
(400 bytes each at the usual 100 dimensions). A binary classifier needs one float of each
(:mod:`penstock.selectors.classifiers.fasttext`), which leaves finding the words, hashing them and
looking
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

Several models (a :class:`Panel`) share all of it but the additions: their vocabularies are merged
into one, and what a row adds to each of them lies side by side, so that it comes with one cache
miss. Each model's additions are those it would do alone, in the same order.

Nothing here allocates: the functions are compiled without numba's reference counting
(``_nrt=False``), which made helpers that take arrays four times slower. Integers are fixed-width
and wrap as in fastText's C++ (``src/dictionary.cc``). Sums are float64 in text order, so a score
does not depend on the batch it was computed in. All is in one file, since numba's cache does not
see that a function of another file has changed.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

__all__ = [
    "BLOCK",
    "EOS",
    "LANES",
    "SLOT",
    "Panel",
    "Scratch",
    "Table",
    "Tally",
    "Text",
    "Vocabulary",
    "fill_slots",
    "score_documents",
    "score_documents_together",
]

EOS = b"</s>"
"""fastText's end-of-line token. A word of the text that equals it ends the document there."""

SLOT = np.dtype([("head", np.uint64), ("length", np.int32), ("row", np.int32)])
"""A slot of the open-addressing vocabulary: 16 bytes, four to a cache line. Length 0 is empty."""

LANES = 4
"""Models whose sums one loop keeps: about as many additions as begin while one is finished."""

BLOCK = np.dtype(
    [
        ("word_ngrams", np.int64),
        ("bucket", np.uint64),
        ("table", np.uint64),
        ("stride", np.uint64),
        ("lane", np.uint64),
    ]
)
"""``LANES`` models of a :class:`Panel` whose n-grams are alike: n-gram ``h`` adds the weights from
``table + (h % bucket) * stride + lane`` on. The blocks of one table are one after another."""

_FNV_BASIS = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_USUAL_BUCKET = np.uint64(2_000_000)
"""fastText's default, which nearly every published model has."""

_NGRAM_FACTOR = np.uint64(116049371)
_EOS_HEAD = np.uint64(int.from_bytes(EOS, "little"))
_EIGHT_BITS = np.uint64(8)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
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


class Vocabulary(NamedTuple):
    """``V`` words and their rows, read-only."""

    words: Text  # most frequent first, without separators
    starts: np.ndarray  # (V + 1,) int64, where each word begins
    slots: np.ndarray  # (a power of two,) SLOT
    tails: np.ndarray  # (V,) uint64, the last eight bytes of each word
    label_prefix: np.ndarray  # (m > 0,) int8: words that begin with it are labels, and skipped
    eos_row: int  # -1 if there is no end-of-line row


class Table(NamedTuple):
    """A collapsed model of ``V`` words and ``bucket`` hashed n-grams, read-only."""

    vocabulary: Vocabulary
    weights: np.ndarray  # (V + bucket,) float32, each row's part in the logit
    bucket: np.uint64
    word_ngrams: int


class Panel(NamedTuple):
    """Collapsed models side by side, ``LANES`` to a block, read-only; a lane may be empty."""

    vocabulary: Vocabulary  # the words that any of them knows
    word_weights: np.ndarray  # ((V + 1) * lanes,) float32, a row of zeros before word 0's
    known: np.ndarray  # ((V + 1) * blocks,) uint8, a bit for each lane that knows the word
    ngram_weights: np.ndarray  # (tables,) float32
    blocks: np.ndarray  # (lanes / LANES,) BLOCK
    lanes: np.ndarray  # (K,) int64, where each model is


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


class Tally(NamedTuple):
    """Room for the sums of a :class:`Panel` over one document."""

    known: np.ndarray  # (words,) uint8, a block's bits of each word
    word_sums: np.ndarray  # (lanes,) float64
    ngram_sums: np.ndarray  # (lanes,) float64
    counts: np.ndarray  # (lanes,) int64, words and n-grams

    @classmethod
    def of(cls, n_lanes: int, scratch: Scratch) -> Tally:
        return cls(
            np.empty(len(scratch.rows), np.uint8),
            np.empty(n_lanes, np.float64),
            np.empty(n_lanes, np.float64),
            np.empty(n_lanes, np.int64),
        )


@intrinsic
def _prefetch(_: Any, array: Any, at: Any) -> Any:
    """Ask for ``array[at]``'s cache line and go on.

    A load would do the same, but the processor has room for only so many that have not arrived.
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
        n_words = _look_up_document(document, table.vocabulary, scratch)
        word_sum, word_count = _sum_words(n_words, scratch, table)
        ngram_sum, ngram_count = _sum_ngrams(n_words, scratch, table)
        out[i] = _probability(word_sum, ngram_sum, word_count + ngram_count)


@_compiled
def score_documents_together(
    text: Text,
    offsets: np.ndarray,
    panel: Panel,
    scratch: Scratch,
    tally: Tally,
    out: np.ndarray,
) -> None:
    """Write p(positive) by each of K models to ``out``, (K, n) float32.

    Bit for bit what :func:`score_documents` writes for each alone.
    """
    for i in range(out.shape[1]):
        begin, end = offsets[i], offsets[i + 1]
        document = Text(text.bytes[begin:end], text.windows[begin:])
        n_words = _look_up_document(document, panel.vocabulary, scratch)
        _sum_words_together(n_words, scratch, panel, tally)
        _sum_ngrams_together(n_words, scratch, panel, tally)
        for k in range(out.shape[0]):
            at = panel.lanes[k]
            out[k, i] = _probability(tally.word_sums[at], tally.ngram_sums[at], tally.counts[at])


@_compiled
def _probability(word_sum: float, ngram_sum: float, count: int) -> float:
    mean = (word_sum + ngram_sum) / count if count > 0 else np.nan
    return 1.0 / (1.0 + np.exp(-mean))


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
def _look_up_document(text: Text, vocabulary: Vocabulary, scratch: Scratch) -> int:
    """Fill ``hashes`` and ``rows``; the number of words, the end-of-line token included."""
    n_found = _find_words(text.bytes, scratch.changes, scratch.edges)
    n_words, n_long = _read_heads(text, n_found, vocabulary.label_prefix, scratch)
    _hash_words(n_words, scratch.heads, scratch.hashes)
    _hash_long_words(text, n_long, scratch)
    _find_rows(n_words, scratch, vocabulary.slots)
    _check_long_words(text, n_long, scratch, vocabulary.tails)
    _find_remaining_rows(text, n_words, scratch, vocabulary)
    scratch.hashes[n_words] = _hash_eight(_FNV_BASIS, _EOS_HEAD)
    scratch.rows[n_words] = vocabulary.eos_row
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
        _prefetch(slots, np.uint64(hashes[i] & mask))
    for i in range(n_words):
        slot = hashes[i] & mask
        length = slots[slot].length
        is_it = (slots[slot].head == heads[i]) & (length == edges[2 * i + 1] - edges[2 * i])
        otherwise = _ELSEWHERE if length != 0 else _UNKNOWN
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
def _find_remaining_rows(
    text: Text, n_words: int, scratch: Scratch, vocabulary: Vocabulary
) -> None:
    rows = scratch.rows
    for i in range(n_words):
        if rows[i] == _ELSEWHERE:
            rows[i] = _find_row(text, i, scratch, vocabulary)


@_compiled
def _find_row(text: Text, i: int, scratch: Scratch, vocabulary: Vocabulary) -> np.int32:
    """The row of word ``i``, every byte compared, or _UNKNOWN."""
    slots = vocabulary.slots
    begin = scratch.edges[2 * i]
    length = scratch.edges[2 * i + 1] - begin
    mask = len(slots) - 1
    at = np.int64(scratch.hashes[i]) & mask
    while slots[at].length != 0:
        if slots[at].head == scratch.heads[i] and slots[at].length == length:
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
    buckets = scratch.rows
    weights = table.weights[len(table.vocabulary.starts) - 1 :]
    total = 0.0
    count = 0
    _begin_ngrams(n_words, scratch)
    for length in range(2, table.word_ngrams + 1):
        n_ngrams = _lengthen_ngrams(n_words, length, scratch)
        _find_buckets(n_ngrams, table.bucket, weights, np.uint64(0), np.uint64(1), scratch)
        for i in range(n_ngrams):
            total += weights[buckets[i]]
        count += n_ngrams
    return total, count


@_compiled
def _begin_ngrams(n_words: int, scratch: Scratch) -> None:
    """``h = h * 116049371 + next`` in uint64, over word hashes *sign-extended* from int32.

    ``running[i]`` is the hash of the n-gram that begins at word ``i``, a word longer each round.
    """
    hashes, running = scratch.hashes, scratch.heads
    for i in range(n_words):
        running[i] = _sign_extended(hashes[i])


@_compiled
def _lengthen_ngrams(n_words: int, length: int, scratch: Scratch) -> int:
    """How many n-grams of that length there are."""
    hashes, running = scratch.hashes, scratch.heads
    n_ngrams = max(n_words - length + 1, 0)
    for i in range(n_ngrams):
        running[i] = running[i] * _NGRAM_FACTOR + _sign_extended(hashes[i + length - 1])
    return n_ngrams


@_compiled
def _find_buckets(
    n_ngrams: int,
    bucket: np.uint64,
    weights: np.ndarray,
    table: np.uint64,
    stride: np.uint64,
    scratch: Scratch,
) -> None:
    """Hash to bucket, and ask for its weights: they are all on their way when they are added."""
    running, buckets = scratch.heads, scratch.rows
    if bucket == _USUAL_BUCKET:
        # By a constant the compiler multiplies; a division takes 5 % of a document's time.
        for i in range(n_ngrams):
            at = running[i] % _USUAL_BUCKET
            buckets[i] = at
            _prefetch(weights, table + at * stride)
    else:
        for i in range(n_ngrams):
            at = running[i] % bucket
            buckets[i] = at
            _prefetch(weights, table + at * stride)


@_compiled
def _sign_extended(word_hash: np.uint32) -> np.uint64:
    return np.uint64(np.int64(np.int32(word_hash)))


@_compiled
def _sum_words_together(n_words: int, scratch: Scratch, panel: Panel, tally: Tally) -> None:
    """:func:`_sum_words` in each lane."""
    rows, known = scratch.rows, tally.known
    n_blocks = np.uint64(len(panel.blocks))
    stride = n_blocks * np.uint64(LANES)
    for i in range(n_words):
        _prefetch(panel.word_weights, _after(rows[i]) * stride)
    tally.word_sums[:] = 0.0
    for block in range(len(panel.blocks)):
        first = block * LANES
        sums = tally.word_sums[first : first + LANES]
        _add_rows(n_words, rows, panel.word_weights, stride + np.uint64(first), stride, sums)
        for i in range(n_words):
            known[i] = panel.known[_after(rows[i]) * n_blocks + np.uint64(block)]
        for lane in range(LANES):
            count = 0
            for i in range(n_words):
                count += (known[i] >> lane) & 1
            tally.counts[first + lane] = count


@_compiled
def _after(row: np.int32) -> np.uint64:
    """Where ``row`` is in a table that begins with a row for unknown words, which are row -1."""
    return np.uint64(np.int64(row) + 1)


@_compiled
def _sum_ngrams_together(n_words: int, scratch: Scratch, panel: Panel, tally: Tally) -> None:
    """:func:`_sum_ngrams` in each lane."""
    blocks, weights = panel.blocks, panel.ngram_weights
    longest = 0
    for block in range(len(blocks)):
        longest = max(longest, blocks[block].word_ngrams)
    _begin_ngrams(n_words, scratch)
    tally.ngram_sums[:] = 0.0
    for length in range(2, longest + 1):
        n_ngrams = _lengthen_ngrams(n_words, length, scratch)
        for block in range(len(blocks)):
            bucket, table = blocks[block].bucket, blocks[block].table
            stride, lane = blocks[block].stride, blocks[block].lane
            if blocks[block].word_ngrams < length:
                continue
            if lane == 0:
                _find_buckets(n_ngrams, bucket, weights, table, stride, scratch)
            first = block * LANES
            sums = tally.ngram_sums[first : first + LANES]
            _add_rows(n_ngrams, scratch.rows, weights, table + lane, stride, sums)
            for k in range(first, first + LANES):
                tally.counts[k] += n_ngrams


@_compiled
def _add_rows(
    n_rows: int,
    rows: np.ndarray,
    weights: np.ndarray,
    begin: np.uint64,
    stride: np.uint64,
    sums: np.ndarray,
) -> None:
    """Add ``weights[begin + row * stride + lane]`` to ``sums[lane]``, row after row.

    Four names, since the compiler keeps an array's items in memory: that doubles the time.
    """
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    for i in range(n_rows):
        at = begin + np.uint64(np.int64(rows[i])) * stride
        a += weights[at]
        b += weights[at + _ONE]
        c += weights[at + _TWO]
        d += weights[at + _THREE]
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d
