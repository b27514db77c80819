"""Parts of SVG drawings: elements with escaped texts, scales with round ticks, lines and bars.

A drawing is :data:`WIDTH` units wide and as wide as its place on the page. One made by
:func:`drawing` grows with its texts, up to a width; of one made by :func:`wide_drawing` the shapes
are stretched, and the texts keep their size, on a phone and on a wide page. Colours come from
classes of the page's style sheet, since the page's policy refuses ``style`` attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from penstock.display import printable

__all__ = [
    "WIDTH",
    "Scale",
    "drawing",
    "element",
    "label",
    "round_ticks",
    "short_number",
    "shown",
    "steps",
    "wide_drawing",
]

_LABEL = 44
"""Characters of a text in a drawing."""

WIDTH = 360
"""Units of a drawing's width; a character of text is about 6."""


def shown(text: str, most: int = 48) -> str:
    """Return a name without controls, shortened in the middle."""
    whole = printable(str(text))
    if len(whole) <= most:
        return whole
    return f"{whole[: most * 2 // 3]}…{whole[-(most // 3 - 1) :]}"


def element(name: str, *content: str, **attributes: object) -> Markup:
    """Return an element; ``_`` in the names of attributes is ``-``, and a last one is left out.

    Texts are escaped, unless they are ``Markup``; numbers have two digits after the point.
    """
    made = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(content)
    return Markup(f"<{name}{made}>") + inside + Markup(f"</{name}>")


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def label(text: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Markup:
    """Return a text, isolated so that its direction is its own."""
    return element(
        "text", shown(text, _LABEL), x=x, y=y, class_=f"t {class_}".strip(), text_anchor=anchor
    )


def wide_drawing(
    height: float, name: str, shapes: Iterable[str], labels: Iterable[tuple[str, float, float, str]]
) -> Markup:
    """Return a drawing that is as wide as its place and ``height`` pixels high.

    Args:
        height: Units of the shapes, which are pixels of the page.
        name: Describes the drawing to those who do not see it.
        shapes: Elements, which are stretched sideways: no circles.
        labels: Text, x in units, y, and classes of each; ``start``, ``middle`` or ``end`` as the
            last class is where the text has its x.
    """
    size = math.ceil(height)
    inside = element(
        "svg",
        *shapes,
        viewBox=f"0 0 {WIDTH} {size}",
        preserveAspectRatio="none",
        width="100%",
        height=size,
        aria_hidden="true",
    )
    texts = []
    for text, x, y, classes in labels:
        class_, _, anchor = classes.rpartition(" ")
        texts.append(
            element(
                "text",
                shown(text, _LABEL),
                x=f"{100 * x / WIDTH:.2f}%",
                y=y,
                class_=f"t {class_}".strip(),
                text_anchor=anchor,
            )
        )
    return element(
        "svg",
        inside,
        *texts,
        class_="wide",
        height=size,
        role="img",
        aria_label=shown(name, 200),
    )


def drawing(height: float, name: str, content: Iterable[str]) -> Markup:
    """Return a drawing; ``name`` describes it to those who do not see it."""
    return element(
        "svg",
        *content,
        viewBox=f"0 0 {WIDTH} {math.ceil(height)}",
        role="img",
        aria_label=shown(name, 200),
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic scale of values to units of a drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value; those outside are at the ends."""
        low, high, value = (self._of(one) for one in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value

    def ticks(self, most: int = 4) -> list[float]:
        """Return round values in the range."""
        return round_ticks(self.low, self.high, most, self.log)


def round_ticks(low: float, high: float, most: int = 4, log: bool = False) -> list[float]:
    """Return at most about ``most`` values, multiples of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        found = [m * 10.0**p for p in range(first, last + 1) for m in steps]
        found = [one for one in found if low * 0.999 <= one <= high * 1.001]
        return found[:: max(1, -(-len(found) // most))] or [low, high]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def short_number(value: float) -> str:
    """Format a number in about five characters, as 1.2M or 0.034."""
    size = abs(value)
    for bound, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= bound * 0.9995:
            return f"{value / bound:.3g}{unit}"
    return f"{value:.3g}"


def steps(scale: Sequence[float], heights: Sequence[float], base: float) -> str:
    """Return the path of a histogram: (n + 1) places of its edges, (n) of its tops."""
    path = [f"M{scale[0]:.1f} {base:.1f}"]
    for place, height in enumerate(heights):
        path.append(f"V{height:.1f}H{scale[place + 1]:.1f}")
    return "".join([*path, f"V{base:.1f}Z"])
