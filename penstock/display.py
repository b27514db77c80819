"""Results in a notebook: a title and a table of HTML, every cell escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["html_table"]


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a heading and a table; all text is escaped, since names are untrusted data."""
    head = _row("th", names) if names else ""
    body = "".join(_row("td", row) for row in rows)
    return f"<p><b>{html.escape(title)}</b></p><table>{head}{body}</table>"


def _row(tag: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
