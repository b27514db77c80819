"""Text for people: names that UTF-8 can hold, and tables of HTML for notebooks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

__all__ = ["html_table", "printable"]


def printable(text: str, backslash: str = "\\") -> str:
    """Return a text that UTF-8 can hold: ``caf\\xe9`` for the name of bytes that are not UTF-8.

    Python has those bytes as halves of surrogate pairs (``os.fsdecode``), which no encoder takes.

    Args:
        text: A text that may have a name of a file in it.
        backslash: Begins the escape; two backslashes in JSON that is encoded already.
    """
    return re.sub("[\ud800-\udfff]", lambda half: backslash + _escape(ord(half[0])), text)


def _escape(code: int) -> str:
    return f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}"


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a heading and a table; all text is escaped, since names are untrusted data."""
    head = _row("th", names) if names else ""
    body = "".join(_row("td", row) for row in rows)
    return f"<p><b>{html.escape(title)}</b></p><table>{head}{body}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
