"""Figures of a report: the flow of documents, scores by source, lengths, bars by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from penstock.jobs.report.charts import (
    WIDTH,
    Scale,
    drawing,
    element,
    label,
    short_number,
    steps,
)
from penstock.jobs.report.counting import PoolCounts
from penstock.jobs.report.flow import DocumentFlow

__all__ = ["FATES", "bar_rows", "flow_figure", "length_figure", "score_figure"]

FATES = ("dropped", "left", "taken")
"""Classes of the fates, in the order of :attr:`PoolCounts.lengths`."""

_NAME, _ROW = 34, 44
"""Characters of a name, units of a row."""


def flow_figure(flow: DocumentFlow) -> Markup:
    """Draw the way from read to taken: a trunk that narrows, and each loss beside it."""
    scale = Scale(0, max(1, flow.begun), 0, WIDTH)
    step, bar, top = 40.0, 12.0, 20.0
    rows = [("read" if not flow.added else "read, and added by rewriters", flow.begun, "whole")]
    rows += [(loss.name, loss.documents, loss.kind) for loss in flow.losses]
    rows += [("taken", flow.taken, "taken")]
    content, trunk = [], [f"M0 {top}H{WIDTH}V{top + bar}"]
    left = flow.begun
    for number, (name, count, kind) in enumerate(rows):
        y = top + number * step
        before, left = left, left - (count if kind not in ("whole", "taken") else 0)
        x = scale(left)
        if kind not in ("whole", "taken"):
            trunk.append(f"H{scale(before):.1f}V{y:.1f}H{x:.1f}V{y + bar:.1f}")
            width = max(1.5, scale(before) - x)
            content.append(
                element("rect", x=x, y=y, width=width, height=bar, class_=f"f {kind}", rx=1.5)
            )
        sign = "" if kind in ("whole", "taken") else "− "
        strong = "strong" if kind in ("whole", "taken") else ""
        content.append(label(f"{sign}{name}", 0, y - 5, strong))
        share = f"{count / max(1, flow.begun):.1%}"
        content.append(label(f"{count:,} · {share}", WIDTH, y - 5, f"n {strong}", "end"))
    end = top + (len(rows) - 1) * step
    whole = f"{''.join(trunk)}V{end:.1f}H0Z"
    last = element(
        "rect", x=0, y=end, width=max(1.5, scale(flow.taken)), height=bar, class_="taken"
    )
    name = f"{flow.begun:,} documents, of which {flow.taken:,} are taken"
    shapes = [element("path", d=whole, class_="trunk"), *content, last]
    return drawing(end + bar + 2, name, shapes)


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
    y, height, depth = 0.0, 26.0, 15.0
    for number, source in enumerate(counts.labels):
        left, taken = both[number]
        base, both_fates = y + 16 + height, left + taken
        tops = [base - height * one / max(1, both_fates.max()) for one in both_fates.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_="left"))
        tops = [base + depth * one / max(1, taken.max()) for one in taken.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_="taken"))
        content.append(element("path", d=f"M0 {base:.1f}H{WIDTH}", class_="axis"))
        if (mark := marks[number]) is not None:
            x = axis(mark)
            content.append(
                element("path", d=f"M{x:.1f} {y + 15:.1f}V{base + depth:.1f}", class_="cut")
            )
        content.append(label(source, 0, y + 11, "strong"))
        text = f"{int(taken.sum()):,} of {int(both_fates.sum()):,} taken"
        content.append(label(text, WIDTH, y + 11, "n", "end"))
        y = base + depth + 8
    for tick in axis.ticks():
        x = axis(tick)
        content.append(element("path", d=f"M{x:.1f} {y - 8:.1f}v4", class_="axis"))
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        content.append(label(short_number(tick), x, y + 8, "tick", anchor))
    return drawing(y + 12, f"scores in {name} by source", content)


def length_figure(counts: PoolCounts) -> Markup:
    """Draw the lengths of documents in bytes, on a logarithmic axis, stacked by fate."""
    some = np.flatnonzero(counts.lengths.sum(axis=0))
    first, last = (int(some[0]), int(some[-1]) + 1) if len(some) else (0, 1)
    edges = counts.length_edges[first : last + 1].tolist()
    axis = Scale(float(edges[0]), float(edges[-1]), 1, WIDTH - 1, log=True)
    places = [axis(edge) for edge in edges]
    stacked = np.cumsum(counts.lengths[::-1, first:last], axis=0)[::-1]
    top, base, height = max(1, int(stacked.max())), 126.0, 116.0
    content: list[str] = []
    for fate, row in zip(FATES, stacked):
        tops = [base - height * one / top for one in row.tolist()]
        content.append(element("path", d=steps(places, tops, base), class_=fate))
    content.append(element("path", d=f"M0 {base}H{WIDTH}", class_="axis"))
    for tick in axis.ticks(6):
        x = axis(tick)
        anchor = "start" if x < 20 else "end" if x > WIDTH - 20 else "middle"
        content.append(element("path", d=f"M{x:.1f} {base}v4", class_="axis"))
        content.append(label(short_number(tick), x, base + 16, "tick", anchor))
    return drawing(base + 22, "lengths of documents in bytes", content)


def bar_rows(
    rows: Sequence[tuple[str, str, Sequence[tuple[float, str]]]], name: str, most: float
) -> Markup:
    """Draw horizontal bars, a row for each: its name, a text, and parts as (value, class).

    Args:
        rows: Name, text beside it and the parts, side by side.
        name: Describes the figure.
        most: The value that is as wide as the figure.
    """
    scale = Scale(0, most or 1, 0, WIDTH)
    content: list[str] = []
    for number, (own, text, parts) in enumerate(rows):
        y, x = number * 32.0, 0.0
        content.append(label(own, 0, y + 12))
        content.append(label(text, WIDTH, y + 12, "n", "end"))
        content.append(element("rect", x=0, y=y + 17, width=WIDTH, height=8, class_="ground", rx=2))
        for value, kind in parts:
            width = scale(value)
            if value:
                content.append(
                    element("rect", x=x, y=y + 17, width=max(1.0, width), height=8, class_=kind)
                )
            x += width
    return drawing(len(rows) * 32 + 2, name, content)
