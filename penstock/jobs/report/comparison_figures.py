"""Figures of a comparison: paired differences with intervals, and how the multiplier was read off.

They are drawn from ``comparison.json`` alone, so that a report needs neither the runs nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from penstock.jobs.comparison.multipliers import describe_need
from penstock.jobs.plan import SELECTED
from penstock.jobs.report.charts import (
    WIDTH,
    Scale,
    drawing,
    element,
    label,
    short_number,
)

__all__ = ["JudgedTarget", "judged_targets", "line_figure"]

_TARGETS, _ARMS = 12, 30
"""Evaluations and arms that are drawn; the tables of the page have as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTarget:
    """What a report shows on one evaluation."""

    target: str
    sentence: str
    """The verdict on the arm ``selected``."""
    words: str
    differences: Markup
    """Figure: of each arm the difference from the baseline, with its interval."""
    multiplier: Markup | None
    """Figure: the baseline's curve, what ``selected`` reached, and where the two meet; None where
    the baseline has one size only."""


def judged_targets(comparison: Mapping[str, Any]) -> list[JudgedTarget]:
    """Make the sentences and figures of a comparison, of its first twelve evaluations."""
    return [
        _judged(comparison, target) for target in list(comparison["token_multiplier"])[:_TARGETS]
    ]


def _judged(comparison: Mapping[str, Any], target: str) -> JudgedTarget:
    verdicts = {arm: own[target] for arm, own in comparison["verdict"].items() if target in own}
    arms, metric = comparison["arms"], comparison["metric"].replace("_", " ")
    baseline = next(name for name in arms if name not in comparison["verdict"])
    sentence, words = "", ""
    if own := verdicts.get(SELECTED):
        words = own["words"]
        than = "than" if words in _KINDS else "from"
        seeds = len(arms[SELECTED]["seeds"])
        ends = comparison["token_multiplier_interval"][target]
        need = describe_need(baseline, comparison["token_multiplier"][target], ends)
        sentence = (
            f"At {arms[SELECTED]['tokens']:,} tokens, {SELECTED} is {words} {than} {baseline}: "
            f"{_with_interval(own)} {metric}, {seeds} {'seed' if seeds == 1 else 'seeds'}. "
            f"{need}."
        )
    return JudgedTarget(
        target=target,
        sentence=sentence,
        words=words,
        differences=_differences(verdicts, baseline, metric),
        multiplier=_multiplier_figure(comparison, target, baseline, metric),
    )


def _with_interval(verdict: Mapping[str, Any]) -> str:
    ends = verdict["interval"]
    if not ends:
        return f"{verdict['difference']:+.4f}"
    return f"{verdict['difference']:+.4f} ± {(ends[1] - ends[0]) / 2:.4f}"


_KINDS = {"better": "better", "worse": "worse"}


def _differences(verdicts: Mapping[str, Any], baseline: str, metric: str) -> Markup:
    shown = dict(list(verdicts.items())[:_ARMS])
    ends = [end for own in shown.values() for end in (own["interval"] or [own["difference"]])]
    most = max([abs(end) for end in ends] or [1.0]) or 1.0
    scale = Scale(-1.1 * most, 1.1 * most, 2, WIDTH - 2)
    content: list[str] = []
    step, zero = 38.0, scale(0.0)
    for number, (arm, own) in enumerate(shown.items()):
        y, kind = number * step + 26, _KINDS.get(own["words"], "unclear")
        content.append(element("path", d=f"M{zero:.1f} {y - 8:.1f}v16", class_="axis"))
        content.append(label(arm, 0, y - 12, "strong"))
        content.append(label(f"{_with_interval(own)} · {own['words']}", WIDTH, y - 12, "n", "end"))
        if own["interval"]:
            low, high = map(scale, own["interval"])
            path = f"M{low:.1f} {y - 4:.1f}v8m0 -4H{high:.1f}m0 -4v8"
            content.append(element("path", d=path, class_=f"whisker {kind}"))
        x = scale(own["difference"])
        content.append(element("circle", cx=x, cy=y, r=4, class_=f"dot {kind}"))
    height = len(shown) * step
    for tick in scale.ticks(4):
        anchor = "start" if scale(tick) < 30 else "end" if scale(tick) > WIDTH - 30 else "middle"
        content.append(
            label(f"{tick:+.3g}" if tick else "0", scale(tick), height + 12, "tick", anchor)
        )
    name = f"differences from {baseline} in {metric}, with intervals"
    return drawing(height + 16, name, content)


def _points(
    arms: Mapping[str, Any], baseline: str, metric: str, target: str
) -> list[tuple[float, float, float]]:
    """Return tokens, mean and deviation of the baseline at each multiple."""
    own = arms[baseline]
    return [
        (float(one["tokens"]), found["mean"], found["std"] or 0.0)
        for one in own.get("multiples", [own])
        if (found := one[metric].get(target))
    ]


def _multiplier_figure(
    comparison: Mapping[str, Any], target: str, baseline: str, metric: str
) -> Markup | None:
    arms = comparison["arms"]
    points = _points(arms, baseline, comparison["metric"], target)
    if len(points) < 2 or SELECTED not in arms:
        return None
    own = arms[SELECTED]
    reached, tokens = own[comparison["metric"]][target]["mean"], float(own["tokens"])
    multiple = comparison["token_multiplier"][target]
    values = [reached, *(v + d for _, v, d in points), *(v - d for _, v, d in points)]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.08
    x = Scale(min(tokens, points[0][0]) * 0.9, points[-1][0] * 1.1, 44, WIDTH - 8, log=True)
    y = Scale(low - room, high + room, 186, 18)
    content = list(_axes(x, y, 186, metric, [at for at, _, _ in points]))
    line = "M" + "L".join(f"{x(t):.1f} {y(v):.1f}" for t, v, _ in points)
    content.append(element("path", d=line, class_="line s0"))
    for at, value, spread in points:
        path = f"M{x(at):.1f} {y(value - spread):.1f}V{y(value + spread):.1f}"
        content.append(element("path", d=path, class_="whisker s0"))
        content.append(element("circle", cx=x(at), cy=y(value), r=3.5, class_="dot s0"))
    level = y(reached)
    if isinstance(multiple, str):
        end = x.end if multiple.startswith(">") else x.start
        content.append(element("path", d=f"M{x(tokens):.1f} {level:.1f}H{end:.1f}", class_="guide"))
    else:
        meet = x(multiple * tokens)
        path = f"M{x(tokens):.1f} {level:.1f}H{meet:.1f}V186"
        content.append(element("path", d=path, class_="guide"))
    content.append(element("circle", cx=x(tokens), cy=level, r=5, class_="dot s1"))
    shown = multiple if isinstance(multiple, str) else f"{multiple:.2f}"
    content.append(element("circle", cx=50, cy=226, r=4, class_="dot s1"))
    content.append(label(f"{SELECTED} at {short_number(tokens)} tokens", 60, 230))
    content.append(element("circle", cx=50, cy=244, r=4, class_="dot s0"))
    content.append(label(f"{baseline}; it equals {SELECTED} at {shown} × the tokens", 60, 248))
    return drawing(254, f"{metric} by tokens: {baseline} equals {SELECTED} at {shown}x", content)


def _axes(
    x: Scale, y: Scale, base: float, metric: str, ticks: Sequence[float] | None = None
) -> Iterator[Markup]:
    """Draw the axes of a figure of a metric by tokens; round ticks unless some are given."""
    yield label(metric, 0, 10, "tick")
    for tick in y.ticks(4):
        at = y(tick)
        yield element("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", class_="grid")
        yield label(short_number(tick), x.start - 6, at + 4, "tick", "end")
    yield element("path", d=f"M{x.start:.1f} {base}H{x.end:.1f}", class_="axis")
    for tick in x.ticks(5) if ticks is None else ticks:
        yield element("path", d=f"M{x(tick):.1f} {base}v4", class_="axis")
        yield label(short_number(tick), x(tick), base + 16, "tick", "middle")
    yield label("tokens", x.end, base + 28, "tick", "end")


def line_figure(
    series: Sequence[tuple[str, Sequence[tuple[float, float, float]]]], metric: str
) -> Markup:
    """Draw lines of a metric by tokens, of at most ten series, with a legend.

    Args:
        series: Name and points: tokens, value and its error, 0 for none.
        metric: The name of the value.
    """
    points = [one for _, own in series for one in own]
    values = [v for _, v, e in points for v in (v - e, v + e)]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.05
    most = max(t for t, _, _ in points)
    x = Scale(0, most or 1.0, 44, WIDTH - 8)
    y = Scale(low - room, high + room, 186, 18)
    content = list(_axes(x, y, 186, metric))
    for number, (name, own) in enumerate(series):
        line = "M" + "L".join(f"{x(t):.1f} {y(v):.1f}" for t, v, _ in own)
        content.append(element("path", d=line, class_=f"line s{number % 10}"))
        for at, value, error in own:
            if error:
                path = f"M{x(at):.1f} {y(value - error):.1f}V{y(value + error):.1f}"
                content.append(element("path", d=path, class_=f"whisker s{number % 10}"))
            if error or len(own) == 1:
                dot = element("circle", cx=x(at), cy=y(value), r=2.5, class_=f"dot s{number % 10}")
                content.append(dot)
        at = 228 + number * 16
        content.append(
            element("rect", x=44, y=at - 8, width=14, height=4, class_=f"s{number % 10}")
        )
        content.append(label(name, 64, at - 2))
    return drawing(228 + len(series) * 16, f"{metric} by tokens", content)
