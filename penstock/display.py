"""Text for people: on a terminal, in JSON, names that UTF-8 can hold, and tables of HTML."""

from __future__ import annotations

import html
import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "encodable",
    "html_table",
    "json_line",
    "logger_of",
    "numbered",
    "printable",
    "shortened",
    "terminal_text",
    "text_table",
    "unescaped",
]


def encodable(text: str, backslash: str = "\\") -> str:
    """Return a text that UTF-8 can hold: ``caf\\xe9`` for the name of bytes that are not UTF-8.

    Python has those bytes as halves of surrogate pairs (``os.fsdecode``), which no encoder takes.

    Args:
        text: A text that may have a name of a file in it.
        backslash: Begins the escape; two backslashes in JSON that is encoded already.
    """
    return re.sub("[\ud800-\udfff]", lambda half: backslash + _escape(half[0]), text)


def printable(text: str, keep: str = "") -> str:
    """Return an encodable text without characters that control a terminal or its direction.

    Names in manifests are made by it, so that it is a part of their fingerprints;
    :func:`terminal_text` escapes more.

    Args:
        text: A text from elsewhere, such as the name of a file.
        keep: Controls that stay, such as the line feed of a text of several lines.
    """
    return re.sub(
        "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda own: own[0] if own[0] in keep else "\\" + _escape(own[0]),
        text,
    )


_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # controls, among them ESC, which begins commands for the terminal
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of what follows
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d"  # characters of no width
    "\u2060-\u2065\u3164\ufeff\uffa0"  # more of them
    "\u2028\u2029\ufff0-\ufffb\ufffe\uffff"  # ends of lines; annotations, noncharacters
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # of music; tags, which spell texts unseen
    "\ud800-\udfff"  # halves of pairs, which no encoder takes
    "]"
)


_ESCAPED = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def terminal_text(text: str, keep: str = "") -> str:
    """Return a text that a terminal shows as it is: nothing in it acts, hides or reorders.

    Ids, sources, names and errors come from strangers. Escape sequences in them could clear the
    screen, write to the clipboard, or print lines that look like ours.

    Args:
        text: Any text.
        keep: Characters that stay, such as the line feed of a text of several lines.
    """
    return _UNSAFE.sub(lambda own: own[0] if own[0] in keep else "\\" + _escape(own[0]), text)


def unescaped(text: str) -> str:
    """Return the text that :func:`terminal_text` shows so: the escapes are characters again.

    A backslash of the text itself is shown as it is, so that another text may be shown so, too.
    """
    return _ESCAPED.sub(_meant, text)


def _meant(escape: re.Match[str]) -> str:
    code = int(escape[0][2:], 16)
    if code > sys.maxunicode or 0xD800 <= code < 0xE000:
        return escape[0]
    return chr(code) if terminal_text(chr(code)) == escape[0] else escape[0]


def logger_of(name: str) -> logging.Logger:
    """Return a logger whose messages are shown as they are, by whatever handler prints them."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape_message)
    return logger


def _escape_message(record: logging.LogRecord) -> bool:
    record.msg, record.args = terminal_text(record.getMessage()), ()
    return True


def json_line(value: Any, encoding: str = "utf-8") -> str:
    """Return JSON in one line that is safe on a terminal and can be encoded.

    What :func:`terminal_text` would escape is escaped as JSON has it, so that its reader gets the
    same value; halves of surrogate pairs, which JSON cannot hold, as :func:`encodable` has them.

    Args:
        value: A value of JSON.
        encoding: Of the stream that it is written to.
    """
    text = encodable(json.dumps(value, ensure_ascii=False), backslash=r"\\")
    text = _UNSAFE.sub(lambda own: json.dumps(own[0])[1:-1], text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = re.sub("[^ -~]", lambda own: json.dumps(own[0])[1:-1], text)
    return text


def numbered(count: int, one: str, several: str = "") -> str:
    """Return a count with its noun: ``1 document``, ``2,000 documents``.

    Args:
        count: A count.
        one: The noun for one.
        several: The noun for others; with an ``s`` by default.
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"x{code:02x}" if code < 256 else f"u{code:04x}" if code < 65536 else f"U{code:08x}"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, in their order and at most 80 characters of each, and a count."""
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names[:most]]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(shown)}{more}"


_LONGEST = 80
"""Characters of a name that are shown."""


def text_table(title: str, lines: Iterable[str]) -> str:
    """Return a heading and lines for a terminal; each is shown as it is."""
    return "\n".join([title, *map(terminal_text, lines)])


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a heading and a table; all text is escaped, since names are untrusted data."""
    head = _row("th", names) if names else ""
    body = "".join(_row("td", row) for row in rows)
    return f"<p><b>{html.escape(title)}</b></p><table>{head}{body}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    # <bdi> keeps the direction of a text to itself.
    shown = (f"<{tag}><bdi>{html.escape(str(cell))}</bdi></{tag}>" for cell in cells)
    return f"<tr>{''.join(shown)}</tr>"
