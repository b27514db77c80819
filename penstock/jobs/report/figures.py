"""Figures of a report: the flow of documents, scores by source, lengths, bars by name.

Rows with bars are HTML, so that long names wrap and never lie over a number; only the bars and the
histograms are drawings, and all are as wide as their card.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from penstock.jobs.report.charts import (
    WIDTH,
    Scale,
    element,
    short_number,
    shown,
    steps,
    wide_drawing,
)
from penstock.jobs.report.counting import PoolCounts
from penstock.jobs.report.flow import DocumentFlow

__all__ = ["FATES", "bar_rows", "flow_figure", "length_figure", "score_figure"]

FATES = ("dropped", "left", "taken")
"""Classes of the fates, in the order of :attr:`PoolCounts.lengths`."""

_NAME = 60
"""Characters of a name in a row."""

_OPEN_ROWS = 10
"""Rows of rules or languages that are open; more are folded."""


def flow_figure(flow: DocumentFlow) -> Markup:
    """Draw the way from read to taken, a row for each step with what is lost there."""
    begun = "read" if not flow.added else "read, and added by rewriters"
    named = [loss for loss in flow.losses if loss.kind == "dropped"]
    folded = named[_OPEN_ROWS:] if len(named) > _OPEN_ROWS + 2 else []
    left = flow.begun
    rest: list[Markup] = []
    rows = [_flow_row(flow, begun, flow.begun, [(flow.begun, "taken")], "strong")]
    for loss in flow.losses:
        left -= loss.documents
        row = _loss_row(flow, loss.name, loss.documents, left, loss.kind)
        (rest if loss in folded else rows).append(row)
        if folded and loss is folded[-1]:
            count = sum(own.documents for own in folded)
            whole = _loss_row(flow, f"{len(folded):,} more, together", count, left, "dropped")
            rows.append(_folded(whole, rest))
    rows.append(_flow_row(flow, "taken", flow.taken, [(flow.taken, "taken")], "strong"))
    return element("div", *rows, class_="steps")


def _loss_row(flow: DocumentFlow, name: str, count: int, left: int, kind: str) -> Markup:
    return _flow_row(flow, f"− {name}", count, [(left, "trunk"), (count, kind)], "")


def _flow_row(
    flow: DocumentFlow, name: str, count: int, parts: Sequence[tuple[float, str]], class_: str
) -> Markup:
    text = f"{count:,} · {count / max(1, flow.begun):.1%}"
    return _row(name, text, parts, max(1, flow.begun), class_)


def _row(
    name: str, text: str, parts: Sequence[tuple[float, str]], most: float, class_: str = ""
) -> Markup:
    """Return a name, a text and a bar of parts, (value, class), that are side by side."""
    scale, x, bars = Scale(0, most or 1, 0, WIDTH), 0.0, []
    for value, kind in parts:
        width = scale(value)
        if value:
            bars.append(element("rect", x=x, y=0, width=max(1.5, width), height=10, class_=kind))
        x += width
    bar = element(
        "svg",
        *bars,
        class_="bar",
        viewBox=f"0 0 {WIDTH} 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return element(
        "div",
        element("span", element("bdi", shown(name, _NAME)), class_="name"),
        bar,
        element("span", text, class_="n"),
        class_=f"step {class_}".strip(),
    )


def _folded(summary: Markup, rows: Sequence[Markup]) -> Markup:
    return element("details", element("summary", summary), *rows, class_="rest")


def score_figure(name: str, counts: PoolCounts, marks: Sequence[float | None]) -> Markup:
    """Draw the scores in a column, for each source two histograms: all documents above a line, and
    those that are taken below it, each of its own height, since they may be few.

    Args:
        name: The column.
        counts: The counts.
        marks: By source the lowest score that is taken, where the cut is by this score alone.
    """
    edges, both = counts.edges[name], counts.scores[name]
    axis = Scale(float(edges[0]), float(edges[-1]), 1, WIDTH - 1)
    places = [axis(edge) for edge in edges.tolist()]
    content: list[str] = []
    labels: list[tuple[str, float, float, str]] = []
    y, height, depth = 0.0, 30.0, 18.0
    for number, source in enumerate(counts.labels):
        left, taken = both[number]
        base, both_fates = y + 18 + height, left + taken
        tops = [base - height * one / max(1, both_fates.max()) for one in both_fates.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_="left"))
        tops = [base + depth * one / max(1, taken.max()) for one in taken.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_="taken"))
        content.append(element("path", d=f"M0 {base:.1f}H{WIDTH}", class_="axis"))
        if (mark := marks[number]) is not None:
            x = axis(mark)
            content.append(
                element("path", d=f"M{x:.1f} {y + 16:.1f}V{base + depth:.1f}", class_="cut")
            )
        labels.append((source, 0, y + 12, "strong start"))
        text = f"{int(taken.sum()):,} of {int(both_fates.sum()):,} taken"
        labels.append((text, WIDTH, y + 12, "n end"))
        y = base + depth + 8
    for tick in axis.ticks():
        content.append(element("path", d=f"M{axis(tick):.1f} {y - 8:.1f}v4", class_="axis"))
        labels.append((short_number(tick), axis(tick), y + 9, f"tick {_anchor(axis(tick))}"))
    return wide_drawing(y + 14, f"scores in {name} by source", content, labels)


def _anchor(x: float) -> str:
    return "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"


def length_figure(counts: PoolCounts) -> Markup:
    """Draw the lengths of documents in bytes, on a logarithmic axis, stacked by fate."""
    some = np.flatnonzero(counts.lengths.sum(axis=0))
    first, last = (int(some[0]), int(some[-1]) + 1) if len(some) else (0, 1)
    edges = counts.length_edges[first : last + 1].tolist()
    axis = Scale(float(edges[0]), float(edges[-1]), 1, WIDTH - 1, log=True)
    places = [axis(edge) for edge in edges]
    stacked = np.cumsum(counts.lengths[::-1, first:last], axis=0)[::-1]
    top, base, height = max(1, int(stacked.max())), 146.0, 136.0
    content: list[str] = []
    for fate, row in zip(FATES, stacked):
        tops = [base - height * one / top for one in row.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_=fate))
    content.append(element("path", d=f"M0 {base}H{WIDTH}", class_="axis"))
    labels = []
    for tick in axis.ticks(6):
        content.append(element("path", d=f"M{axis(tick):.1f} {base}v4", class_="axis"))
        labels.append((short_number(tick), axis(tick), base + 17, f"tick {_anchor(axis(tick))}"))
    return wide_drawing(base + 22, "lengths of documents in bytes", content, labels)


def bar_rows(
    rows: Sequence[tuple[str, str, Sequence[tuple[float, str]]]], name: str, most: float
) -> Markup:
    """Draw horizontal bars, a row for each: its name, a text, and parts as (value, class).

    Args:
        rows: Name, text beside it and the parts, side by side; those after the tenth are folded.
        name: Describes the figure.
        most: The value that is as wide as the figure.
    """
    drawn = [_row(own, text, parts, most) for own, text, parts in rows]
    few = drawn[:_OPEN_ROWS] if len(drawn) > _OPEN_ROWS + 2 else drawn
    rest = drawn[len(few) :]
    if rest:
        few.append(_folded(Markup(f"{len(rest):,} more"), rest))
    return element("div", *few, class_="steps stacked", role="group", aria_label=shown(name, 200))
