"""Find pages that an HTML parser takes more than linear time or memory for, before it gets them.

A compiled loop divides a page into tags, as a browser does (the HTML standard, section 13.2.5), and
counts what resiliparse 2.0 was measured to be quadratic in: attributes of one tag (18 s for
100,000), open ``div`` and ``article`` elements (1 s for 10,000), open elements of any name (a tag
may search all of them: 1.5 s for 30,000), options of a ``select`` (3.7 s for 30,000), and
formatting elements that are not closed: by the standard each paragraph gets a copy of all of them
(of equal ones, of three), so that a page of 50,000 bytes takes all memory. Where they are many,
tags of formatting, which have no text, are replaced by ``<wbr>``. Tags, a few hundred bytes of
memory each, have a limit, too.

Each count is an upper bound. An end tag closes an element only where it does so in each mode of the
parser: ``</div>`` is ignored in ``<div><object></div>``. Where the place of a tag depends on the
state of the tree (CDATA, scripts with comments and scripts in them, ``<`` in scripts and styles in
``svg`` and ``math`` or after ``select``, ``template`` or ``frameset``), the page is counted again:
each ``<`` before a letter is then a start tag, and no end tag closes anything.
"""

# mypy: disable-error-code="no-any-return"
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from penstock.arrow_text import read_only
from penstock.compiling import compiler

__all__ = ["Markup", "bounded", "measure"]

MOST_TAGS = 500_000
MOST_ATTRIBUTES = 2_000
"""Attributes of one tag: 7 ms."""
MOST_DEPTH = 4_000
"""Open ``div`` and ``article`` elements: 0.1 s."""
MOST_OPEN = 20_000
"""Open elements: 30 microseconds for each tag that searches them."""
MOST_STEPS = 1_000_000_000
"""Tags times open elements, of which ``div`` and ``article`` count as five: 2 s."""
MOST_OPTIONS = 10_000
"""Elements ``option``: 0.4 s in one ``select``."""
MOST_INDENTATION = 2**27
"""Characters by which the text of nested lists may be indented, two for each open list: 20,000
lists inside each other make 400 MB of 400 kB. From there on tags of lists are removed."""
MOST_COPIES = 500_000
"""Tags times formatting elements that may be open, from which on those are removed."""

_FORMATTING = (b"b", b"big", b"code", b"em", b"font", b"i", b"nobr", b"s", b"small", b"strike",
               b"strong", b"tt", b"u")  # fmt: skip
_FORMATTING_TAG = re.compile(
    rb"</?(?:%s)(?:[\s/][^>]*)?(?:>|\Z)" % b"|".join(_FORMATTING), re.IGNORECASE
)

_LIST_TAG = re.compile(rb"</?[uo]l(?:[\s/][^>]*)?(?:>|\Z)", re.IGNORECASE)

(_PLAIN, _NESTED, _FORMAT, _ROOT, _RAW, _TITLE, _FOREIGN, _MODE, _SELECT, _REST, _VOID, _BREAK,
 _BREAKS, _BLOCK, _P, _TABLE, _CELL, _OPTION, _HTML_IN_SVG, _HTML_IN_MATH) = range(20)  # fmt: skip
_ELEMENTS = {
    _NESTED: "div article",
    _ROOT: "html body",
    _RAW: "script style textarea xmp iframe noembed noframes",
    _TITLE: "title",
    _FOREIGN: "svg math",
    _MODE: "frameset template",
    _SELECT: "select",
    _REST: "plaintext",
    # elements without content, except in svg and math
    _VOID: "area base basefont bgsound col frame image input keygen link param source track wbr",
    # elements that end svg and math, without content and with
    _BREAK: "br embed hr img meta",
    _BREAKS: "h1 h2 h3 h4 h5 h6 head listing menu pre ruby span sub sup var"
    " annotation-xml mglyph malignmark",
    # elements that an end tag closes with an open p in them; table and cells with cells, too
    _BLOCK: "ul ol dl section blockquote center li dd dt",
    _P: "p",
    _TABLE: "table",
    _CELL: "td th tr tbody thead tfoot",
    _OPTION: "option",
    _HTML_IN_SVG: "desc foreignobject",
    _HTML_IN_MATH: "mi mo mn ms mtext",
}
_NAMES: dict[bytes, int] = dict.fromkeys(_FORMATTING, _FORMAT) | {
    name.encode(): kind for kind, names in _ELEMENTS.items() for name in names.split()
}
_KEYS = read_only(np.array([[int.from_bytes(n[:8], "little"), len(n)] for n in _NAMES], np.uint64))
_KINDS = read_only(np.array(list(_NAMES.values()), np.int64))


class Markup(NamedTuple):
    """Counts of a page."""

    tags: int
    attributes: int
    """Most of one tag; all tags ``body`` and ``html`` count as one."""
    depth: int
    """Most open ``div`` and ``article`` elements."""
    formatting: int
    """Most formatting elements that can be open: those with attributes, and three of each name."""
    open: int
    """Most open elements."""
    options: int
    """Elements ``option``."""


_inlined = compiler(inlined=True)
_compiled = compiler()


@_inlined
def _is_letter(byte: int) -> bool:
    return 97 <= byte | 32 <= 122


@_inlined
def _is_space(byte: int) -> bool:
    return (byte == 32) | (byte == 9) | (byte == 10) | (byte == 12) | (byte == 13)


@_compiled
def _find(data: np.ndarray, at: int, byte: int) -> int:
    while at < data.shape[0] and data[at] != byte:
        at += 1
    return at


@_compiled
def _skip_comment(data: np.ndarray, at: int) -> int:
    """Return the index behind the comment whose text begins at ``at``, after ``<!--``."""
    size = data.shape[0]
    if at < size and data[at] == 0x3E:  # <!-->
        return at + 1
    if at + 1 < size and data[at] == 0x2D and data[at + 1] == 0x3E:  # <!--->
        return at + 2
    while at < size:
        at = _find(data, at, 0x2D)
        if at + 2 < size and data[at + 1] == 0x2D:
            if data[at + 2] == 0x3E:
                return at + 3
            if data[at + 2] == 0x21 and at + 3 < size and data[at + 3] == 0x3E:
                return at + 4
        at += 1
    return size


@_compiled
def _skip_attributes(data: np.ndarray, at: int) -> tuple[int, int]:
    """Return the index behind the tag, and its attributes."""
    size = data.shape[0]
    count = 0
    while at < size:
        byte = data[at]
        if byte == 0x3E:
            return at + 1, count
        if byte == 0x2F or _is_space(byte):
            at += 1
            continue
        count += 1
        at += 1  # also an equals sign is the first character of a name
        while at < size:
            byte = data[at]
            if byte in (0x3D, 0x2F, 0x3E) or _is_space(byte):
                break
            at += 1
        while at < size and _is_space(data[at]):
            at += 1
        if at < size and data[at] == 0x3D:
            at += 1
            while at < size and _is_space(data[at]):
                at += 1
            if at < size and (data[at] == 0x22 or data[at] == 0x27):
                at = _find(data, at + 1, data[at]) + 1
            else:
                while at < size and data[at] != 0x3E and not _is_space(data[at]):
                    at += 1
    return size, count


@_inlined
def _lower(byte: int) -> int:
    return byte + 32 * (65 <= byte <= 90)


@_compiled
def _same_name(data: np.ndarray, one: int, other: int, length: int) -> bool:
    for k in range(length):
        if other + k >= data.shape[0] or _lower(data[one + k]) != _lower(data[other + k]):
            return False
    return True


@_compiled
def _skip_raw(data: np.ndarray, at: int, begin: int, length: int) -> tuple[int, bool, bool]:
    """Find the end tag of the element whose name is at ``begin``.

    Returns:
        Its index; whether there may be a tag or comment before it; and whether there is a comment
        and in it a start or end tag of the same name, which may change where the element ends.
    """
    size = data.shape[0]
    markup = comment = escaped = False
    while at < size:
        at = _find(data, at, 0x3C)
        if at + 2 + length >= size:
            return size, markup, escaped
        slash = data[at + 1] == 0x2F
        same = _same_name(data, begin, at + 1 + slash, length)
        if same and slash:
            after = data[at + 2 + length]
            if after in (0x2F, 0x3E) or _is_space(after):
                return at, markup, escaped
        escaped |= same and comment  # <script><!--<script>
        comment |= data[at + 1] == 0x21
        markup |= _is_letter(data[at + 1]) or data[at + 1] in (0x21, 0x2F, 0x3F)
        at += 1
    return size, markup, escaped


@_compiled
def _next_tag(data: np.ndarray, at: int) -> int:
    """Return the index of the name of the next tag, start or end.

    It is the size where there is none, and -1 at CDATA, which may be a comment or text.
    """
    size = data.shape[0]
    while True:
        at = _find(data, at, 0x3C) + 1
        if at >= size:
            return size
        if _is_letter(data[at]):
            return at
        if data[at] == 0x2F:
            at += 1
            if at < size and _is_letter(data[at]):
                return at
            at = _find(data, at, 0x3E)
        elif at + 2 < size and data[at] == 0x21 and data[at + 1] == 0x2D and data[at + 2] == 0x2D:
            at = _skip_comment(data, at + 3)
        elif at + 1 < size and data[at] == 0x21 and data[at + 1] == 0x5B:  # <![CDATA[
            return -1
        elif data[at] in (0x21, 0x3F):  # ! ?
            at = _find(data, at, 0x3E)


@_compiled
def _kind_of(data: np.ndarray, at: int, stop: int, keys: np.ndarray, kinds: np.ndarray) -> int:
    """Return the kind of the element whose name is from ``at`` to ``stop``."""
    packed = np.uint64(0)
    for k in range(min(stop - at, 8)):
        packed |= np.uint64(_lower(data[at + k])) << np.uint64(8 * k)
    for k in range(keys.shape[0]):
        if keys[k, 0] == packed and keys[k, 1] == stop - at:
            return kinds[k]
    return 0


@_compiled
def _name_end(data: np.ndarray, at: int) -> int:
    size = data.shape[0]
    while at < size and data[at] != 0x2F and data[at] != 0x3E and not _is_space(data[at]):
        at += 1
    return at


@_compiled
def _closed(
    data: np.ndarray, begin: int, length: int, kind: int, sure: bool, stack: np.ndarray, top: int
) -> int:
    """Return how many elements an end tag closes in each mode of the parser.

    A start tag closes those that its end tag would close, and ``<dt>`` closes ``dd``, too.
    """
    through = kind in (_NESTED, _BLOCK, _TABLE, _CELL)
    term = data[begin - 1] != 0x2F and _is_term(data, begin, length)
    for k in range(1, min(top, 16) + 1):
        own, size, over = stack[top - k, 0], stack[top - k, 1], stack[top - k, 2]
        if size == length and (
            _same_name(data, begin, own, length) or (term and _is_term(data, own, size))
        ):
            return k
        cell = kind in (_TABLE, _CELL)
        option = over == _OPTION and kind == _SELECT
        if not (sure and (option or (through and (over == _P or (over == _CELL and cell))))):
            return 0
    return 0


@_inlined
def _is_term(data: np.ndarray, at: int, length: int) -> bool:
    """Return whether a name is dt or dd."""
    return length == 2 and data[at] | 32 == 0x64 and data[at + 1] | 32 in (0x64, 0x74)


@_inlined
def _is_item(data: np.ndarray, at: int, length: int) -> bool:
    """Return whether a name of the kind ``_BLOCK`` is li, dt or dd."""
    return length == 2 and data[at] | 32 in (0x64, 0x6C) and data[at + 1] | 32 != 0x6C


@_compiled
def _inner_space(kind: int, space: int, first: int) -> int:
    """Return 1 or 2 if the content of an element is SVG or MathML, else 0; -1: it ends SVG."""
    if space == 0:
        return (kind == _FOREIGN) * (1 + (first == 0x6D))
    if kind == (_HTML_IN_SVG if space == 1 else _HTML_IN_MATH) or (kind == _TITLE and space == 1):
        return 0
    return space if kind in (_PLAIN, _RAW, _VOID, _FOREIGN) else -1


@_inlined
def _closes_equal(data: np.ndarray, kind: int, at: int, length: int) -> bool:
    """Return whether a start tag closes an open element of its name: ``<li>`` after ``<li>``."""
    item = kind == _BLOCK and _is_item(data, at, length)
    return item or kind in (_P, _OPTION, _CELL)


@_compiled
def _measure(
    data: np.ndarray, keys: np.ndarray, kinds: np.ndarray, stack: np.ndarray, counts: np.ndarray
) -> bool:
    """Count markup; return False where a parser may see other tags.

    ``stack`` has the name of each open element, the length of the name, its kind, 1 or 2 where its
    content is SVG or MathML, and 1 for formatting with attributes. Where it is full, counting
    stops.
    """
    size = data.shape[0]
    tags = most = depth = deepest = formatting = copied = plain = root = top = highest = foreign = 0
    strict = broken = select = False
    at = _next_tag(data, 0)
    while 0 <= at < size and top < stack.shape[0]:
        begin, ends = at, data[at - 1] == 0x2F
        stop = _name_end(data, at)
        length = stop - begin
        kind = _kind_of(data, begin, stop, keys, kinds)
        at, attributes = _skip_attributes(data, stop)
        tags += 1
        strict |= kind == _MODE
        select |= kind == _SELECT
        sure = not (strict or foreign)
        space = stack[top - 1, 3] if top else 0
        close = push = inner = marked = 0
        if ends:
            close = _closed(data, begin, length, kind, sure, stack, top)
            broken |= close == 0
        else:
            root += attributes * (kind == _ROOT)
            marked = (kind == _FORMAT) * (attributes > 0)
            plain += (kind == _FORMAT) * (attributes == 0)
            inner = _inner_space(kind, space, data[begin] | 32)
            broken |= inner < 0
            push = kind != _BREAK and (kind != _VOID or (foreign > 0 and (broken or space > 0)))
            if space > 0 and not broken and data[at - 2] == 0x2F:
                push = 0
            elif sure and _closes_equal(data, kind, begin, length):
                close = _closed(data, begin, length, kind, True, stack, top)
            counts[5] += kind == _OPTION
            if kind == _REST:
                return False
            if kind in (_RAW, _TITLE):
                at, markup, escaped = _skip_raw(data, at, begin, length)
                if escaped or (markup and (strict or select or foreign > 0)):
                    return False
        most = max(most, attributes, root)
        for k in range(top - close, top):
            depth -= stack[k, 2] == _NESTED
            foreign -= stack[k, 2] == _FOREIGN
            formatting -= stack[k, 4]
        top -= close
        if push:
            stack[top, 0], stack[top, 1], stack[top, 2] = begin, length, kind
            stack[top, 3], stack[top, 4] = inner, marked
            depth, foreign = depth + (kind == _NESTED), foreign + (kind == _FOREIGN)
            formatting, copied = formatting + marked, max(copied, formatting + marked)
            top, highest, deepest = top + 1, max(highest, top + 1), max(deepest, depth)
        broken &= foreign > 0
        at = _next_tag(data, at)
    counts[:5] = (tags, most, deepest, copied + min(plain, 3 * 13), highest)
    return at >= 0


@_compiled
def _measure_all(data: np.ndarray, keys: np.ndarray, kinds: np.ndarray, counts: np.ndarray) -> None:
    """Count each ``<`` before a letter as a start tag, wherever it is."""
    size = data.shape[0]
    counts[:] = 0
    root = plain = read = 0
    at = _find(data, 0, 0x3C) + 1
    while at < size:
        if _is_letter(data[at]):
            stop = _name_end(data, at)
            kind = _kind_of(data, at, stop, keys, kinds)
            attributes = size
            if read <= 16 * size:  # tags in the attributes of tags
                behind, attributes = _skip_attributes(data, stop)
                read += behind - at
            root += attributes * (kind == _ROOT)
            counts[1] = max(counts[1], attributes, root)
            counts[2] += kind == _NESTED
            counts[3] += (kind == _FORMAT) * (attributes > 0)
            plain += (kind == _FORMAT) * (attributes == 0)
            counts[4] += 1
            counts[5] += kind == _OPTION
            counts[0] += 1
        elif data[at] == 0x2F:
            counts[0] += 1
        at = _find(data, at, 0x3C) + 1
    counts[3] += min(plain, 3 * 13)


def measure(page: bytes) -> Markup:
    """Count the markup of a page in UTF-8; each count is an upper bound."""
    counts = np.zeros(6, np.int64)
    data = read_only(np.frombuffer(page, np.uint8))
    stack = np.empty((MOST_OPEN + 1, 5), np.int64)
    if not _measure(data, _KEYS, _KINDS, stack, counts):
        _measure_all(data, _KEYS, _KINDS, counts)
    return Markup(*counts.tolist())


def bounded(page: str) -> str:
    """Return a page whose parsing costs linear time and memory: itself, with rare exceptions.

    Raises:
        ValueError: There is none; the message is the reason.
    """
    data = page.encode("utf-8", "surrogatepass")
    found = measure(data)
    for count, most, what in (
        (found.tags, MOST_TAGS, "tags"),
        (found.attributes, MOST_ATTRIBUTES, "attributes in one tag"),
        (found.depth, MOST_DEPTH, "nested div and article elements"),
        (found.open, MOST_OPEN, "elements that may be open at once"),
        (found.tags * (found.open + 4 * found.depth), MOST_STEPS, "tags times open elements"),
        (found.options, MOST_OPTIONS, "option elements"),
    ):
        if count > most:
            raise ValueError(f"{count:,} {what}, more than the {most:,} that are parsed")
    removed = data
    if found.tags * found.formatting > MOST_COPIES:
        removed = _FORMATTING_TAG.sub(b"<wbr>", removed)
    lists = min(found.open, sum(1 for _ in _LIST_TAG.finditer(data)))
    if 2 * found.tags * lists > MOST_INDENTATION:
        removed = _LIST_TAG.sub(b"<wbr>", removed)
    return page if removed is data else removed.decode("utf-8", "surrogatepass")
