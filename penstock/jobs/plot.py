"""Plot a comparison: bits per byte against tokens, one panel for each target."""

from __future__ import annotations

from typing import IO, cast

from penstock import extras
from penstock.jobs.compare import Comparison
from penstock.storage import AnyPath, atomic_file

__all__ = ["plot"]


def plot(comparison: Comparison, directory: AnyPath) -> list[AnyPath]:
    """Write ``comparison.png`` and ``comparison.svg``: means over seeds, bars of one deviation."""
    with extras.named("train", "compare"):
        from matplotlib.figure import Figure  # and not pyplot, which keeps state

    targets = comparison.targets
    figure = Figure(figsize=(5 * len(targets), 4), layout="constrained")
    axes = figure.subplots(1, len(targets), squeeze=False)
    baseline = comparison.baseline()
    for axis, target in zip(axes[0], targets):
        axis.errorbar(
            [point.tokens for point in baseline],
            [point.mean(target) for point in baseline],
            [point.std(target) or 0.0 for point in baseline],
            marker="o",
            capsize=3,
            label=baseline[0].arm,
        )
        for point in comparison.at_equal_tokens():
            if point.arm != baseline[0].arm:
                axis.errorbar(
                    [point.tokens],
                    [point.mean(target)],
                    [point.std(target) or 0.0],
                    marker="D",
                    capsize=3,
                    linestyle="none",
                    label=point.arm,
                )
        axis.set(xscale="log", title=target, xlabel="tokens", ylabel="bits per byte")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    paths = [directory / "comparison.png", directory / "comparison.svg"]
    for path in paths:
        kind = path.suffix[1:]
        with atomic_file(path) as sink:
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(cast(IO[bytes], sink), format=kind, dpi=144, metadata=metadata)
    return paths
