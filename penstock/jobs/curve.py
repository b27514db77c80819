"""Learning curves: the evaluations during training, as a picture for the report."""

from __future__ import annotations

import io
import json
from typing import Any

from penstock import extras
from penstock.artefact import Artefact, Workspace
from penstock.jobs.curate import Curated

__all__ = ["learning_curve"]

_METRICS = "metrics.jsonl"


def learning_curve(curated: Curated) -> bytes | None:
    """Draw every run on these shards that was evaluated during training; None without any.

    Returns:
        A PNG: for each target a panel of bits per byte, and one of accuracy where there is any.
    """
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    runs = {
        f"{run.fingerprint[:8]} seed {run.manifest['config']['seed']}": _evaluations(run)
        for run in workspace.artefacts()
        if run.manifest["stage"] == "run"
        and run.manifest["inputs"]["shards"] == curated.shards.digest
    }
    evaluated = {name: lines for name, lines in runs.items() if lines}
    return _draw(evaluated) if evaluated else None


def _evaluations(run: Artefact) -> list[dict[str, Any]]:
    (record,) = run.named(_METRICS)
    lines = map(json.loads, run.verified(record).read_bytes().splitlines())
    return [line for line in lines if "evaluation" in line]


def _draw(runs: dict[str, list[dict[str, Any]]]) -> bytes:
    with extras.named("train", "report"):
        from matplotlib.figure import Figure  # and not pyplot, which keeps state

    panels = sorted(
        {
            (target, measure)
            for lines in runs.values()
            for measure, scores in lines[-1]["evaluation"].items()
            for target in scores
        },
        key=lambda panel: (panel[0], panel[1] != "bits_per_byte"),
    )
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (target, measure) in zip(axes[0], panels):
        for name, lines in runs.items():
            scores = [line["evaluation"][measure][target] for line in lines]
            axis.errorbar(
                [line["tokens"] for line in lines],
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
