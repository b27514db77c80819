"""Text for people: names that UTF-8 can hold, and tables of HTML for notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

__all__ = ["encodable", "html_table", "numbered", "printable"]


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

    Args:
        text: A text from elsewhere, such as the name of a file.
        keep: Controls that stay, such as the line feed of a text of several lines.
    """
    return re.sub(
        "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda own: own[0] if own[0] in keep else "\\" + _escape(own[0]),
        text,
    )


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
    return f"x{code:02x}" if code < 256 else f"u{code:04x}"


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, in their order and at most 80 characters of each, and a count."""
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name in names[:most]]
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(shown)}{more}"


_LONGEST = 80
"""Characters of a name that are shown."""


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a heading and a table; all text is escaped, since names are untrusted data."""
    head = _row("th", names) if names else ""
    body = "".join(_row("td", row) for row in rows)
    return f"<p><b>{html.escape(title)}</b></p><table>{head}{body}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
