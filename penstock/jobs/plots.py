"""Plots: the arms of a comparison, and the evaluations during training."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from penstock import extras
from penstock.artefact import Artefact, Workspace
from penstock.jobs.curate import Curated
from penstock.storage import AnyPath, atomic_file

if TYPE_CHECKING:  # it imports PyTorch
    from penstock.jobs.comparison.results import Comparison

__all__ = ["learning_curve", "plot"]


def plot(comparison: Comparison, directory: AnyPath) -> list[AnyPath]:
    """Write ``comparison.png`` and ``comparison.svg``: means over seeds, bars of one deviation."""
    figure, axes = _figure("compare", len(comparison.judged), (5, 4))
    metric = comparison.metric
    baseline = comparison.baseline()
    arms = [[point] for point in comparison.at_equal_tokens() if point.arm != baseline[0].arm]
    for axis, target in zip(axes, comparison.judged):
        for points in (baseline, *arms):
            found = [own for one in points if (own := one.measured(target, metric))]
            axis.errorbar(
                [point.tokens for point in points],
                [own["mean"] for own in found],
                [own["std"] or 0.0 for own in found],
                marker="o" if points is baseline else "D",
                capsize=3,
                linestyle="-" if points is baseline else "none",
                label=points[0].arm,
            )
        axis.set(xscale="log", title=target, xlabel="tokens", ylabel=metric.replace("_", " "))
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    paths = [directory / "comparison.png", directory / "comparison.svg"]
    for path in paths:
        kind = path.suffix[1:]
        with atomic_file(path) as sink:
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(cast(IO[bytes], sink), format=kind, dpi=144, metadata=metadata)
    return paths


def learning_curve(curated: Curated) -> bytes | None:
    """Draw every run on these shards that was evaluated during training; None without any.

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
    if not runs:
        return None
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
        for name, lines in runs.items():
            # A run may have been stopped, and gone on with other evaluations.
            own = [line for line in lines if target in line["evaluation"][measure]]
            scores = [line["evaluation"][measure][target] for line in own]
            axis.errorbar(
                [line["tokens"] for line in own],
                [score["mean"] for score in scores],
                [score["stderr"] for score in scores],
                marker="o",
                capsize=3,
                label=name,
            )
        axis.set(title=target, xlabel="tokens", ylabel=measure.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=144)
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
