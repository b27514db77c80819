"""Plots of the arms of a comparison, as files for papers and slides.

Names of files and arms are drawn as they are: a ``$`` in one begins no formula. A plot that cannot
be drawn is a warning, since the figures that it shows were paid for and are in JSON.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock import extras
from penstock.display import logger_of, printable
from penstock.errors import PenstockError
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it imports PyTorch
    from penstock.jobs.comparison.results import Comparison

__all__ = ["plot"]

_log = logger_of("penstock.plots")

_CHARACTERS = 40
"""Most characters of a name that are drawn."""


def plot(comparison: Comparison, directory: AnyPath) -> list[AnyPath]:
    """Write ``comparison.png`` and ``comparison.svg``: means over seeds, bars of one deviation.

    Returns:
        The files; none where they cannot be drawn, which is a warning.
    """
    drawn = {
        directory / f"comparison.{kind}": _drawn(lambda: _arms(comparison), kind)
        for kind in ("png", "svg")
    }
    for path, picture in drawn.items():
        if picture is not None:
            with atomic_file(path) as sink:
                sink.write(picture)
    return [path for path, picture in drawn.items() if picture is not None]


def _arms(comparison: Comparison) -> Any:
    """Draw the arms of a comparison."""
    figure, axes = _figure("compare", len(comparison.judged), (5, 4))
    metric = comparison.metric
    baseline = comparison.baseline()
    arms = [[point] for point in comparison.at_equal_tokens() if point.arm != baseline[0].arm]
    for axis, target in zip(axes, comparison.judged):
        for points in (baseline, *arms):
            found = [(one.tokens, own) for one in points if (own := one.measured(target, metric))]
            axis.errorbar(
                [tokens for tokens, _ in found],
                [own["mean"] for _, own in found],
                [own["std"] or 0.0 for _, own in found],
                marker="o" if points is baseline else "D",
                capsize=3,
                linestyle="-" if points is baseline else "none",
            )
        axis.set(xscale="log", xlabel="tokens")
        axis.grid(alpha=0.3, which="both")
        names = [points[0].arm for points in (baseline, *arms)]
        _name(axis, target, metric.replace("_", " "), names)
    return figure


def _name(axis: Any, title: str, measure: str, names: Sequence[str], **form: Any) -> None:
    """Name a panel, its axis and its lines, with texts in which nothing is markup."""
    axis.set_ylabel(_text(measure), parse_math=False)
    axis.set_title(_text(title), parse_math=False)
    # A label that begins with "_" would be left out, so names are set afterwards.
    legend = axis.legend(axis.containers, list(map(str, range(len(names)))), **form)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=_text(name), parse_math=False)


def _text(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= _CHARACTERS else f"{shown[: _CHARACTERS - 1]}…"


def _drawn(draw: Callable[[], Any], kind: str) -> bytes | None:
    """Return a figure as a PNG or SVG; None where it cannot be drawn, which is a warning."""
    picture = io.BytesIO()
    try:
        metadata = {"Date": None} if kind == "svg" else None
        draw().savefig(picture, format=kind, dpi=144, metadata=metadata)
    except (PenstockError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever a library makes of names and numbers
        _log.warning("a plot was not drawn (%s: %s)", type(error).__name__, error)
        return None
    return picture.getvalue()


def _figure(command: str, panels: int, size: tuple[int, int]) -> tuple[Any, Sequence[Any]]:
    """Make a figure with panels of a width and a height in inches, side by side."""
    with extras.named("train", command):
        from matplotlib.figure import Figure  # and not pyplot, which keeps state
    width, height = size
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]
