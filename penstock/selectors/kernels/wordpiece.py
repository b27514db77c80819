"""BERT's tokens from Arrow's buffers: the same ids as ``tokenizers``, 20 times as fast.

``tokenizers`` records the characters of every token, which takes nearly all of its time. A static
encoder (:mod:`penstock.selectors.encoders.static`) needs only the ids.

**The tables are the library's own.** BERT's normaliser (``clean_text``, ``handle_chinese_chars``,
``strip_accents``, ``lowercase``) and its pre-tokeniser treat one character at a time, but for the
order of combining marks in NFD. So each code point goes through the library once (0.4 s), and its
output is kept in a table, with a space on either side of a character that is a word by itself.
Python's ``unicodedata`` is not used: its version of Unicode differs from the library's, whose own
parts have different versions.

**The library still tokenises** texts with a code point from U+30000 on, a mark that NFD may move
and that is not then stripped (83 marks, none in the web's hundred most frequent languages), the
name of an added token such as ``[SEP]``, or bytes that are not UTF-8.

WordPiece (Wu et al. 2016, arXiv:1609.08144; BERT's longest match first) walks a double-array trie
(Aoe 1989): two loads and a comparison a byte, and no hash of a word.
"""

# mypy: disable-error-code="no-any-return, assignment, return-value"
# (numba's decorated functions are Any to mypy, and its integers of one kind)

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only, text_view
from penstock.compiling import compiler

__all__ = ["WordPiece"]

_KNOWN = 0x20000
"""Code points from here on are left to the library: unassigned, private, flags of Wales."""

_SURROGATES = range(0xD800, 0xE000)

_LIBRARY = 0xFF
_ADDED = 0x80
"""In place of a length: the library tokenises the text; an added token may begin here."""

_SPACE = np.uint8(0x20)
_BAR = "|"
"""The separator of characters that go through the library; it changes no other character."""

_FIRST = "\u0345"
"""The mark that NFD puts last: a mark that NFD puts before it is one that moves."""

_NODE = np.dtype([("base", np.int32), ("parent", np.int32), ("token", np.int32)])
"""A node's child for ``byte`` is node ``base + byte``, if its parent is this node."""

_WORD, _REST = 0, 1
"""Roots of the trie: tokens that begin a word, tokens that continue one."""

_NONE = -1
_FIRST_FREE = 256
"""The first index of children, so that no base is negative and a leaf's base, 0, has none."""

_ROOM = 1024
"""Spare nodes at first, beside one for each byte of the tokens, which is twice the need."""

_compiled = compiler()


class Characters(NamedTuple):
    """The normalised form of each code point: UTF-8, with words between spaces."""

    ascii: np.ndarray  # (128,) uint32, up to three bytes, the first lowest; above them the length
    starts: np.ndarray  # (_KNOWN,) int32, where in the pool
    lengths: np.ndarray  # (_KNOWN,) uint8, how many bytes there, or _LIBRARY, or with _ADDED
    pool: np.ndarray  # (bytes,) uint8


class NormalisedText(NamedTuple):
    """A buffer for a normalised text."""

    bytes: np.ndarray  # (n,) uint8
    windows: np.ndarray  # (n - 3,) uint32, a view: windows[i] has bytes[i] lowest

    @classmethod
    def of(cls, size: int) -> NormalisedText:
        text = np.empty(size + 4, np.uint8)
        return cls(text, np.ndarray((size + 1,), np.uint32, text, strides=(1,)))


@dataclass(frozen=True, eq=False)
class WordPiece:
    """A BERT tokeniser as plain arrays, which it pickles as and which may be read-only."""

    characters: Characters
    growth: int
    """The most bytes that one byte of text becomes."""
    nodes: np.ndarray
    """(n,) of ``_NODE``: the vocabulary."""
    unknown: int
    """The id of a word that no tokens make up."""
    max_characters: int
    """Characters of the longest word; a longer one is unknown."""
    added: np.ndarray
    """(bytes,) uint8: added tokens, one after another, which the library matches first."""
    added_starts: np.ndarray
    """(a + 1,) int64: where each begins."""

    @classmethod
    def of(cls, tokenizer: Any) -> WordPiece | None:
        """Convert a ``tokenizers.Tokenizer``, or return None if it is not BERT's.

        It is BERT's if the model is WordPiece, the pre-tokeniser BERT's, the normaliser BERT's or
        ``Lowercase`` or none, no added token is matched in the normalised text, and texts are
        neither truncated nor padded.
        """
        return _wordpiece(tokenizer.to_str())

    def token_ids(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokenise texts without special tokens.

        Args:
            texts: (n,) large_string without nulls.

        Returns:
            All texts' tokens, (t,) int32; where each text's begin, (n + 1,) int64; and the texts
            that the library must tokenise, ascending, int64: they have no tokens here.
        """
        view = text_view(texts)
        size = view.offsets[-1] - view.offsets[0]
        tokens = np.empty(size, np.int32)  # no character is two tokens
        ends = np.zeros(len(texts) + 1, np.int64)
        left = np.empty(len(texts), np.bool_)
        n = _tokenise(
            *view,
            Characters(*map(read_only, self.characters)),
            (read_only(self.added), read_only(self.added_starts)),
            read_only(self.nodes),
            (self.unknown, self.max_characters),
            NormalisedText.of(self.growth * view.longest),
            (tokens, ends, left),
        )
        return tokens[:n], ends, np.flatnonzero(left)


@lru_cache(maxsize=8)
def _wordpiece(serialised: str) -> WordPiece | None:
    settings = json.loads(serialised)
    model, added = settings["model"], settings["added_tokens"]
    normaliser = settings["normalizer"] or {"type": None}
    if (
        model["type"] != "WordPiece"
        or model["unk_token"] not in model["vocab"]
        or (settings["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer"
        or normaliser["type"] not in (None, "Lowercase", "BertNormalizer")
        or any(token["normalized"] for token in added)
        or settings["truncation"] is not None
        or settings["padding"] is not None
    ):
        return None
    tables = _characters(json.dumps(normaliser))
    if tables is None:
        return None
    characters, growth = tables
    names = [token["content"] for token in added if token["content"]]
    encoded = [name.encode() for name in names]
    return WordPiece(
        characters=_flagged(characters, {ord(name[0]) for name in names}),
        growth=growth,
        nodes=_trie(model["vocab"], model["continuing_subword_prefix"]),
        unknown=model["vocab"][model["unk_token"]],
        max_characters=model["max_input_chars_per_word"],
        added=np.frombuffer(b"".join(encoded), np.uint8),
        added_starts=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    )


@lru_cache(maxsize=8)
def _characters(serialised: str) -> tuple[Characters, int] | None:
    """Return the tables of a normaliser, and the most bytes that one byte becomes.

    None if an output breaks a limit of the compiled functions: three bytes for an ASCII character,
    127 for any other, and no more characters than the input has bytes. No version of Unicode so
    far breaks one.
    """
    from tokenizers import normalizers

    settings = json.loads(serialised)
    kind = settings.pop("type")
    codes = np.arange(_KNOWN)
    codes = codes[~np.isin(codes, [*_SURROGATES, ord(_BAR)])]
    normalised, moved = _BAR.join(map(chr, codes.tolist())), np.empty(0, np.int64)
    if kind == "BertNormalizer":
        strips = settings["strip_accents"]
        if strips or (strips is None and settings["lowercase"]):
            moved = codes[_moving(normalised)]
        normalised = normalizers.BertNormalizer(**settings).normalize_str(normalised)
    elif kind == "Lowercase":
        normalised = normalizers.Lowercase().normalize_str(normalised)
    spaced = f"{normalised.translate(_words(normalised))}{_BAR} {_BAR} "
    pool = np.frombuffer(spaced.encode(), np.uint8)
    bars = np.flatnonzero(pool == ord(_BAR))
    if len(bars) != len(codes) + 1:
        return None
    # The last bar is its own output.
    starts, lengths = np.zeros(_KNOWN, np.int32), np.zeros(_KNOWN, np.int64)
    starts[codes] = np.append(0, bars[:-2] + 1)
    starts[ord(_BAR)] = bars[-2] + 1
    lengths[codes] = bars[:-1] - starts[codes]
    lengths[ord(_BAR)] = 3

    widths = np.searchsorted([0x80, 0x800, 0x10000], np.arange(_KNOWN), "right") + 1
    begun = np.append(0, np.cumsum((pool & 0xC0 != 0x80) & (pool != _SPACE)))
    limits = np.where(np.arange(_KNOWN) < 128, 3, _ADDED - 1)
    if (lengths > limits).any() or (begun[starts + lengths] - begun[starts] > widths).any():
        return None
    growth = int((-(-lengths // widths)).max())
    moved = moved[lengths[moved] > 0]
    lengths[[*moved, *_SURROGATES]] = _LIBRARY
    ascii_bytes = [pool[starts[code] :][: lengths[code]].tobytes() for code in range(128)]
    packed = np.array([int.from_bytes(output, "little") for output in ascii_bytes], np.uint32)
    return Characters(packed, starts, lengths.astype(np.uint8), pool), growth


def _words(text: str) -> dict[int, str]:
    """Return a ``str.translate`` table that puts spaces around characters that are words."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    characters = [*({*text} - {_BAR})]
    pieces = BertPreTokenizer().pre_tokenize_str("a".join(["", *characters, ""]))
    kept = {*"".join(piece for piece, _ in pieces)}
    alone = {piece for piece, _ in pieces if len(piece) == 1 and piece != "a"}
    spaced = {ord(character): f" {character} " for character in alone}
    return spaced | {ord(character): " " for character in characters if character not in kept}


def _moving(text: str) -> np.ndarray:
    """Find the characters of ``text`` with a mark that NFD may move and that is not then stripped.

    The output for such a character depends on its neighbours. ``text`` has bars between characters.
    Returns (m,) int64, ascending.
    """
    from tokenizers.normalizers import NFD, BertNormalizer

    strip = BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
    )
    decomposed = NFD().normalize_str(text)
    parts = [*({*decomposed} - {_BAR})]
    overtaking = NFD().normalize_str(_BAR.join(_FIRST + part for part in parts)).split(_BAR)
    marks = [
        ord(part)
        for part, pair in zip(parts, overtaking, strict=True)
        if not pair.startswith(_FIRST) and strip.normalize_str(part)
    ]
    codes = np.frombuffer(decomposed.encode("utf-32-le"), "<u4")
    return np.unique(np.cumsum(codes == ord(_BAR))[np.isin(codes, marks)])


def _flagged(characters: Characters, begin_added: set[int]) -> Characters:
    """Add the lengths of ASCII, and mark the code points with which an added token begins."""
    lengths = characters.lengths.copy()
    lengths[[code for code in begin_added if code < _KNOWN]] |= _ADDED
    ascii_lengths = lengths[:128].astype(np.uint32) << np.uint32(24)
    return characters._replace(ascii=characters.ascii | ascii_lengths, lengths=lengths)


def _trie(vocabulary: dict[str, int], prefix: str) -> np.ndarray:
    """Build two tries in one array: of whole tokens, and of the rest of tokens with ``prefix``."""
    words = sorted((token.encode(), index) for token, index in vocabulary.items())
    mark = prefix.encode()
    rest = [(token[len(mark) :], index) for token, index in words if token.startswith(mark)]
    most = 1 + sum(len(token) for token, _ in words)
    size = most + _ROOM
    while True:
        nodes = np.zeros(size, _NODE)
        nodes["parent"] = nodes["token"] = _NONE
        free = _FIRST_FREE
        for root, entries in ((_WORD, words), (_REST, rest)):
            # A word is not empty and has no space in it.
            tokens = [entry for entry in entries if entry[0] and b" " not in entry[0]]
            free = _grow(
                np.frombuffer(b"".join(token for token, _ in tokens), np.uint8),
                np.cumsum([0, *(len(token) for token, _ in tokens)], dtype=np.int64),
                np.array([index for _, index in tokens], np.int32),
                root,
                free,
                np.empty((most, 4), np.int64),
                nodes,
            )
            if free < 0:
                break
        else:
            last = np.flatnonzero(nodes["parent"] != _NONE).max(initial=_FIRST_FREE)
            return nodes[: last + 257].copy()  # a base and any byte added to it are inside
        size *= 2


@_compiled
def _grow(
    text: np.ndarray,
    starts: np.ndarray,
    ids: np.ndarray,
    root: int,
    free: int,
    queue: np.ndarray,
    nodes: np.ndarray,
) -> int:
    """Add the sorted tokens ``text[starts[i]:starts[i + 1]]`` under ``root``, level by level.

    The children of a node go to the first place, from ``free`` on, where all of them fit. ``queue``
    holds for each node to come: itself, its first token, the one after its last, and its depth.
    Returns the first free place, or -1 if there are too few nodes.
    """
    head, tail = 0, 1
    queue[0, 0], queue[0, 1], queue[0, 2], queue[0, 3] = root, 0, len(ids), 0
    while head < tail:
        node, first, last, depth = queue[head]
        head += 1
        if first < last and starts[first] + depth == starts[first + 1]:
            nodes[node].token = ids[first]
            first += 1
        if first == last:
            continue
        begin = tail
        for i in range(first, last):
            byte = text[starts[i] + depth]
            if i == first or byte != text[starts[i - 1] + depth]:
                queue[tail, 0], queue[tail, 1], queue[tail, 3] = byte, i, depth + 1
                tail += 1
            queue[tail - 1, 2] = i + 1
        while free < len(nodes) and nodes[free].parent != _NONE:
            free += 1
        place = free
        while True:
            base = place - queue[begin, 0]
            if base + 257 > len(nodes):
                return -1
            fits = True
            for child in range(begin, tail):
                fits &= nodes[base + queue[child, 0]].parent == _NONE
            if fits:
                break
            place += 1
        nodes[node].base = base
        for child in range(begin, tail):
            queue[child, 0] += base
            nodes[queue[child, 0]].parent = node
    return free


@_compiled
def _tokenise(
    text: np.ndarray,
    offsets: np.ndarray,
    characters: Characters,
    added: tuple[np.ndarray, np.ndarray],
    nodes: np.ndarray,
    model: tuple[int, int],
    scratch: NormalisedText,
    out: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """Fill ``out``: tokens, (n + 1,) ends, (n,) bool for the library. Return the tokens' number."""
    tokens, ends, left = out
    n = 0
    for i in range(len(left)):
        size = _normalise(text, offsets[i], offsets[i + 1], characters, added, scratch)
        left[i] = size < 0
        n = _walk(scratch.bytes, max(size, 0), nodes, model, tokens, n)
        ends[i + 1] = n
    return n


@_compiled
def _normalise(
    text: np.ndarray,
    begin: int,
    end: int,
    characters: Characters,
    added: tuple[np.ndarray, np.ndarray],
    scratch: NormalisedText,
) -> int:
    """Write words between spaces to ``scratch``; return the bytes, or -1 for the library."""
    n = 0
    at = begin
    while at < end:
        if text[at] < 0x80:
            entry = characters.ascii[text[at]]
            length = np.int64(entry >> np.uint32(24))
            if length >= _ADDED:
                if length == _LIBRARY or _begins_added(text, at, end, added):
                    return -1
                length -= _ADDED
            # Four bytes at once; the next character overwrites those beyond ``length``.
            scratch.windows[n] = entry
            n += length
            at += 1
            continue
        code, width = _code_point(text, at, end)
        if code >= _KNOWN:
            return -1
        length = np.int64(characters.lengths[code])
        if length >= _ADDED:
            if length == _LIBRARY or _begins_added(text, at, end, added):
                return -1
            length -= _ADDED
        start = characters.starts[code]
        for i in range(length):
            scratch.bytes[n + i] = characters.pool[start + i]
        n += length
        at += width
    return n


@_compiled
def _code_point(text: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """Decode two to four bytes of UTF-8; return 0x110000, which is none, where they are not."""
    lead = np.int64(text[at])
    width = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    if lead < 0xC2 or lead > 0xF4 or at + width > end:
        return 0x110000, 1
    code = lead & (0x7F >> width)
    for i in range(1, width):
        byte = np.int64(text[at + i])
        if byte & 0xC0 != 0x80:
            return 0x110000, 1
        code = code << 6 | byte & 0x3F
    least = 0x80 if width == 2 else 0x800 if width == 3 else 0x10000
    return code if code >= least else 0x110000, width


@_compiled
def _begins_added(
    text: np.ndarray, at: int, end: int, added: tuple[np.ndarray, np.ndarray]
) -> bool:
    names, starts = added
    for k in range(len(starts) - 1):
        length = starts[k + 1] - starts[k]
        n_equal = 0
        while n_equal < min(length, end - at) and text[at + n_equal] == names[starts[k] + n_equal]:
            n_equal += 1
        if n_equal == length:
            return True
    return False


@_compiled
def _walk(
    text: np.ndarray,
    size: int,
    nodes: np.ndarray,
    model: tuple[int, int],
    tokens: np.ndarray,
    n: int,
) -> int:
    """Write the tokens of ``text[:size]`` from ``tokens[n]`` on; return the index of the next."""
    unknown, max_characters = model
    text[size] = _SPACE
    at = 0
    while at < size:
        if text[at] == _SPACE:
            at += 1
            continue
        begin, n_before, root, known = at, n, _WORD, True
        while known and text[at] != _SPACE:
            # The longest token that begins here.
            node, token, stop = root, _NONE, at
            while True:
                child = nodes[node].base + text[at]
                if nodes[child].parent != node:
                    break
                node = child
                at += 1
                ends = nodes[node].token != _NONE
                token = nodes[node].token if ends else token
                stop = at if ends else stop
            tokens[n] = token
            n += 1
            at = stop
            root = _REST
            known = token != _NONE
        while text[at] != _SPACE:
            at += 1
        if not known or (at - begin > max_characters and _count(text, begin, at) > max_characters):
            tokens[n_before] = unknown
            n = n_before + 1
    return n


@_compiled
def _count(text: np.ndarray, begin: int, end: int) -> int:
    """Count the characters of UTF-8."""
    n = 0
    for i in range(begin, end):
        n += text[i] & 0xC0 != 0x80
    return n
