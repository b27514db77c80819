"""Plots: the arms of a comparison, and the evaluations during training.

Names of files and arms are drawn as they are: a ``$`` in one begins no formula. A plot that cannot
be drawn is a warning, since the figures that it shows were paid for and are in JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock import extras
from penstock.artefact import Artefact, Workspace
from penstock.display import logger_of, printable
from penstock.errors import PenstockError
from penstock.jobs.curate import Curated
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it imports PyTorch
    from penstock.jobs.comparison.results import Comparison

__all__ = ["learning_curve", "plot"]

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


def learning_curve(curated: Curated) -> bytes | None:
    """Draw every run on these shards that was evaluated during training.

    None without any, and where they cannot be drawn, which is a warning.

    Returns:
        A PNG: for each target a panel of bits per byte, and one of accuracy where there is any.
    """
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    runs = {
        f"{run.fingerprint[:8]} seed {run.manifest['config']['seed']}": lines
        for run in workspace.artefacts()
        if run.manifest["stage"] == "run"
        and run.manifest["inputs"]["shards"] == curated.shards.digest
        and (lines := _evaluations(run))
    }
    return _drawn(lambda: _curves(runs), "png") if runs else None


def _curves(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Draw the evaluations of runs."""
    panels = sorted(
        {
            (target, measure)
            for lines in runs.values()
            for line in lines
            for measure in ("bits_per_byte", "accuracy")
            for target in line["evaluation"][measure]
        },
        key=lambda panel: (panel[0], panel[1] != "bits_per_byte"),
    )
    figure, axes = _figure("report", len(panels), (4, 3))
    for axis, (target, measure) in zip(axes, panels):
        for lines in runs.values():
            # A run may have been stopped, and gone on with other evaluations.
            own = [line for line in lines if target in line["evaluation"][measure]]
            scores = [line["evaluation"][measure][target] for line in own]
            axis.errorbar(
                [line["tokens"] for line in own],
                [score["mean"] for score in scores],
                [score["stderr"] for score in scores],
                marker="o",
                capsize=3,
            )
        axis.set(xlabel="tokens")
        axis.grid(alpha=0.3)
        _name(axis, target, measure.replace("_", " "), list(runs), fontsize="small")
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


def _evaluations(run: Artefact) -> list[dict[str, Any]]:
    (record,) = run.named("metrics.jsonl")
    lines = map(json.loads, run.verified(record).read_bytes().splitlines())
    return [line for line in lines if "evaluation" in line]
