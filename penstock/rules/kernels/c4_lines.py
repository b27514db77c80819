"""Lines that C4 keeps, and the sentences in them.

Raffel et al. 2020, section 2.2, and the code of the data set (``c4_utils.py`` of TensorFlow
Datasets), which has more rules than the paper. C4 judges a document by the lines it keeps, so
everything here is counted over those. Of each line of ``str.splitlines``, stripped:

1. A word (of ``str.split``) that is too long removes the line.
2. Citations, ``[12]``, ``[]``, ``[edit]`` and ``[citation needed]``, are cut out.
3. A line that does not end in ``. ? ! " '``, or ends in ``...``, is removed; so is one with too few
   words, counted before step 2.
4. Case is ignored from here on. A line with ``lorem ipsum`` counts against the document.
5. A line with ``javascript`` is removed. A line with ``{`` counts against the document. A line that
   speaks of cookies, terms of use or a privacy policy is removed.

A *sentence* begins with the first core (see :mod:`penstock.rules.kernels.words`) of a line, and
with the first core after a terminal character that is a symbol around a core, or between two. A
dot directly after a core of one letter, or after a core with a dot, ends none: ``J.``, ``U.S.``

Case: ``str.lower`` turns the Kelvin sign into ``k``, so that it is one here, too. No other
character outside of ASCII can complete one of the phrases.
"""

# mypy: disable-error-code="no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.arrow_text import read_only
from penstock.compiling import compiler
from penstock.rules import characters
from penstock.rules.characters import DIGIT, LETTER, SYMBOL, TERMINAL
from penstock.rules.kernels import lines, spans, words
from penstock.rules.kernels.lines import ends_in_dots
from penstock.rules.kernels.words import core_of, count_characters, find_pieces

__all__ = ["C4Limits", "LineCopy", "Phrases", "judge_line", "phrases"]

_compiled = compiler(arrow_text, characters, spans, lines, words)

_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_LOREM, _SCRIPT, _CURLY, _POLICY = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
_RARE = (
    ("lorem ipsum", 7, _LOREM),
    ("javascript", 0, _SCRIPT),
    ("{", 0, _CURLY),
    ("terms of use", 7, _POLICY),
    ("privacy policy", 3, _POLICY),
    ("cookie policy", 3, _POLICY),
    ("uses cookies", 8, _POLICY),
    ("use of cookies", 10, _POLICY),
    ("use cookies", 7, _POLICY),
)
"""Each phrase, the place of its rarest letter, at which it is looked for, and its flag."""

_CITATIONS = ("[edit]", "[citation needed]")
_OPEN, _CLOSE, _DOT = np.uint8(ord("[")), np.uint8(ord("]")), np.uint8(ord("."))
_LINE_ENDS = read_only(np.isin(np.arange(256), list(b".?!\"'")))


class C4Limits(NamedTuple):
    """Limits of C4's rules for lines."""

    min_words: int
    longest_word: int


class Phrases(NamedTuple):
    """Phrases in lower case, padded with zeros."""

    letters: np.ndarray  # (p, 20) uint8
    lengths: np.ndarray  # (p,) int64
    places: np.ndarray  # (p,) int64, of the rarest letter
    flags: np.ndarray  # (p,) uint8
    by_letter: np.ndarray  # (256,) uint32: bit k is set where a byte may be that letter of phrase k


class LineCopy(NamedTuple):
    """Buffers for one line without its citations."""

    bytes: np.ndarray  # (longest text,) uint8
    kinds: np.ndarray  # (longest text,) uint8
    edges: np.ndarray  # (longest text + 3,) int32, of its pieces

    @classmethod
    def of(cls, longest: int) -> LineCopy:
        """Allocate for texts of at most so many bytes."""
        return cls(
            np.empty(longest, np.uint8),
            np.empty(longest, np.uint8),
            np.empty(longest + 3, np.int32),
        )


def phrases() -> Phrases:
    """Return what C4 looks for in a line, and the citations at the end."""
    found = [*_RARE, *((text, 0, np.uint8(0)) for text in _CITATIONS)]
    letters = np.zeros((len(found), 20), np.uint8)
    by_letter = np.zeros(256, np.uint32)
    for number, (text, place, flag) in enumerate(found):
        letters[number, : len(text)] = list(text.encode())
        if flag:
            for letter in {text[place], text[place].upper()}:
                by_letter[ord(letter)] |= np.uint32(1 << number)
    return Phrases(
        read_only(letters),
        read_only(np.array([len(text) for text, _, _ in found])),
        read_only(np.array([place for _, place, _ in found])),
        read_only(np.array([flag for _, _, flag in found], np.uint8)),
        read_only(by_letter),
    )


@_compiled
def judge_line(
    text: np.ndarray,
    kinds: np.ndarray,
    edges: np.ndarray,
    begin: int,
    end: int,
    limits: C4Limits,
    edit: bool,
    known: Phrases,
    copy: LineCopy,
) -> tuple[int, bool, bool]:
    """Judge one line, which has at least one piece.

    Args:
        text: (n,) uint8, UTF-8.
        kinds: (n,) uint8, of :func:`penstock.rules.kernels.words.classify`.
        edges: Of all pieces, as :func:`penstock.rules.kernels.words.find_pieces` writes them.
        begin: First piece of the line.
        end: End of its pieces.
        limits: Of words.
        edit: Whether the text has a ``[`` or a Kelvin sign.
        known: Phrases and citations.
        copy: Scratch.

    Returns:
        The number of sentences, 0 if the line is removed; whether it has ``lorem ipsum``; whether
        it has a curly bracket.
    """
    start, stop = edges[2 * begin], edges[2 * end - 1]
    if end - begin < limits.min_words or not (edit or _LINE_ENDS[text[stop - 1]]):
        return 0, False, False
    if stop - start > limits.longest_word:
        for piece in range(begin, end):
            first, last = edges[2 * piece], edges[2 * piece + 1]
            long = last - first > limits.longest_word
            if long and count_characters(kinds, first, last) > limits.longest_word:
                return 0, False, False
    if edit:
        length = _copy_line(text, kinds, start, stop, known, copy)
        pieces = find_pieces(copy.kinds[:length], copy.edges)
        return _judge(copy.bytes, copy.kinds, copy.edges, 0, pieces, 0, length, known)
    return _judge(text, kinds, edges, begin, end, start, stop, known)


@_compiled
def _judge(
    text: np.ndarray,
    kinds: np.ndarray,
    edges: np.ndarray,
    begin: int,
    end: int,
    start: int,
    stop: int,
    known: Phrases,
) -> tuple[int, bool, bool]:
    """Judge a line without citations: bytes ``start`` to ``stop``, pieces ``begin`` to ``end``."""
    if start == stop or not _LINE_ENDS[text[stop - 1]] or ends_in_dots(text, start, stop):
        return 0, False, False
    found = _find_phrases(text, start, stop, known)
    lorem = (found & _LOREM) != 0
    if found & _SCRIPT:
        return 0, lorem, False
    curly = (found & _CURLY) != 0
    if found & _POLICY:
        return 0, lorem, curly
    return _count_sentences(text, kinds, edges, begin, end), lorem, curly


@_compiled
def _copy_line(
    text: np.ndarray, kinds: np.ndarray, start: int, stop: int, known: Phrases, copy: LineCopy
) -> int:
    """Copy a line without citations, and with ``k`` for the Kelvin sign; return its length."""
    at, length = start, 0
    while at < stop:
        byte = text[at]
        if byte == _OPEN:
            after = _end_of_citation(text, kinds, at, stop, known)
            if after > at:
                at = after
                continue
        if byte == 0xE2 and text[at + 1] == 0x84 and text[at + 2] == 0xAA:
            copy.bytes[length] = ord("k")
            copy.kinds[length] = LETTER
            at += 3
        else:
            copy.bytes[length] = byte
            copy.kinds[length] = kinds[at]
            at += 1
        length += 1
    return length


@_compiled
def _end_of_citation(
    text: np.ndarray, kinds: np.ndarray, start: int, stop: int, known: Phrases
) -> int:
    """Return the end of the citation that begins here, or ``start``."""
    at = start + 1
    while at < stop and kinds[at] & DIGIT:
        at += 1
    if at < stop and text[at] == _CLOSE:
        return at + 1
    for number in range(len(known.lengths)):
        if known.flags[number] == 0 and start + known.lengths[number] <= stop:
            length = known.lengths[number]
            equal = True
            for place in range(length):
                if text[start + place] != known.letters[number, place]:
                    equal = False
                    break
            if equal:
                return start + length
    return start


@_compiled
def _find_phrases(text: np.ndarray, start: int, stop: int, known: Phrases) -> int:
    """Return the flags of the phrases that occur, in any case."""
    found = np.uint8(0)
    for at in range(start, stop):
        candidates = known.by_letter[text[at]]
        if candidates == 0:
            continue
        for number in range(len(known.lengths)):
            if candidates >> np.uint32(number) & np.uint32(1):
                begin = at - known.places[number]
                inside = begin >= start and begin + known.lengths[number] <= stop
                if inside and _is_phrase(text, begin, number, known):
                    found |= known.flags[number]
    return found


@_compiled
def _is_phrase(text: np.ndarray, begin: int, number: int, known: Phrases) -> bool:
    for place in range(known.lengths[number]):
        byte = text[begin + place]
        if np.uint8(byte - 65) < np.uint8(26):
            byte |= np.uint8(32)
        if byte != known.letters[number, place]:
            return False
    return True


@_compiled
def _count_sentences(
    text: np.ndarray, kinds: np.ndarray, edges: np.ndarray, begin: int, end: int
) -> int:
    """Count sentences of a line that is not empty: at least one."""
    sentences, ended = 1, False
    for piece in range(begin, end):
        start, stop = edges[2 * piece], edges[2 * piece + 1]
        if not (kinds[start] | kinds[stop - 1]) & SYMBOL:
            sentences += ended
            ended = False
            continue
        first, last = core_of(kinds, start, stop)
        ended |= _any_terminal(kinds, start, first)
        if first < last:
            sentences += ended
            if last < stop and text[last] == _DOT and _is_abbreviation(text, kinds, first, last):
                last += 1
            ended = _any_terminal(kinds, last, stop)
    return sentences


@_compiled
def _is_abbreviation(text: np.ndarray, kinds: np.ndarray, first: int, last: int) -> bool:
    """Test whether a core is one letter, or has a dot in it."""
    if kinds[first] & LETTER and count_characters(kinds, first, last) == 1:
        return True
    dots = 0
    for place in range(first, last):
        dots += text[place] == _DOT
    return bool(dots > 0)


@_compiled
def _any_terminal(kinds: np.ndarray, start: int, stop: int) -> bool:
    found = np.uint8(0)
    for place in range(start, stop):
        found |= kinds[place] & TERMINAL
    return bool(found != 0)
