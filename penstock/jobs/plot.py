"""The comparison as a picture: bits per byte against tokens, one panel for each target."""

from __future__ import annotations

from pathlib import Path

from penstock.jobs.compare import Comparison

__all__ = ["plot"]


def plot(comparison: Comparison, directory: Path) -> list[Path]:
    """Write ``comparison.png`` and ``comparison.svg``: means over seeds, bars of one deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    targets = comparison.targets
    figure, axes = pyplot.subplots(
        1, len(targets), figsize=(5 * len(targets), 4), squeeze=False, layout="constrained"
    )
    baseline = comparison.baseline()
    for axis, target in zip(axes[0], targets):
        axis.errorbar(
            [point.tokens for point in baseline],
            [point.mean(target) for point in baseline],
            [point.std(target) for point in baseline],
            marker="o",
            capsize=3,
            label=baseline[0].arm,
        )
        for point in comparison.at_equal_tokens():
            if point.arm != baseline[0].arm:
                axis.errorbar(
                    [point.tokens],
                    [point.mean(target)],
                    [point.std(target)],
                    marker="D",
                    capsize=3,
                    linestyle="none",
                    label=point.arm,
                )
        axis.set(xscale="log", title=target, xlabel="tokens", ylabel="bits per byte")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "comparison.png", directory / "comparison.svg"]
    for path in paths:
        figure.savefig(path, dpi=144, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths
