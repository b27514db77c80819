"""Training curves: the losses and evaluations of the runs that belong to a report.

These are the runs on the report's shards, and those of the arms of its comparison, each from its
``metrics.jsonl``. A run that was deleted since is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, StorageError
from penstock.jobs.curate import Curated
from penstock.jobs.report.comparison_figures import line_figure
from penstock.storage import as_path

__all__ = ["RunCurve", "curve_figures", "read_curves"]

_RUNS, _SERIES, _POINTS = 400, 10, 80
"""Runs that are read, series of a figure, and points of a series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    """What one run wrote while it trained."""

    arm: str
    """The arm of the comparison; of another run its name and seed."""
    tokens: np.ndarray
    """(steps,) float64."""
    loss: np.ndarray
    """(steps,) float64, nats per token."""
    evaluations: Sequence[Mapping[str, Any]]
    """Lines with ``tokens`` and ``evaluation``."""


def read_curves(curated: Curated, comparison: Mapping[str, Any] | None) -> list[RunCurve]:
    """Read the runs of a comparison's arms at equal tokens, and other runs on the same shards."""
    found, known = [], set()
    for arm, own in (comparison or {"arms": {}})["arms"].items():
        for path in own.get("runs", ()):
            try:
                run = Artefact.open(as_path(path))
                known.add(run.fingerprint)
                found.append(_curve(arm, run))
            except (ArtefactError, StorageError):
                continue
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    for run in workspace.artefacts():
        if (
            run.manifest["stage"] == "run"
            and run.manifest["inputs"]["shards"] == curated.shards.digest
            and run.fingerprint not in known
        ):
            seed = run.manifest["config"]["seed"]
            found.append(_curve(f"{run.fingerprint[:8]} seed {seed}", run))
    return found[:_RUNS]


def _curve(arm: str, run: Artefact) -> RunCurve:
    (record,) = run.named("metrics.jsonl")
    lines = [json.loads(line) for line in run.verified(record).read_bytes().splitlines()]
    trained = [line for line in lines if "loss" in line]
    return RunCurve(
        arm=arm,
        tokens=np.array([line["tokens"] for line in trained], np.float64),
        loss=np.array([line["loss"] for line in trained], np.float64),
        evaluations=[line for line in lines if "evaluation" in line],
    )


def curve_figures(curves: Sequence[RunCurve]) -> list[tuple[str, Markup]]:
    """Draw the losses, and each evaluation during training; the means of an arm's seeds.

    Returns:
        Titles and figures; of evaluations the first twelve with their first two measures.
    """
    arms: dict[str, list[RunCurve]] = {}
    for one in curves:
        arms.setdefault(one.arm, []).append(one)
    series = [(arm, own) for arm, runs in arms.items() if (own := _losses(runs))]
    figures = []
    if series:
        figures.append(("loss in training", line_figure(series[:_SERIES], "nats per token")))
    for target, measure in list(_measures(curves))[:24]:
        scored = [
            (arm, points)
            for arm, runs in arms.items()
            if (points := _scores(runs, target, measure))
        ]
        name = measure.replace("_", " ")
        figures.append((f"{target}: {name}", line_figure(scored[:_SERIES], name)))
    return figures


def _measures(curves: Sequence[RunCurve]) -> Iterator[tuple[str, str]]:
    found = {
        (target, measure): None
        for curve in curves
        for line in curve.evaluations
        for measure in ("bits_per_byte", "accuracy")
        for target in line["evaluation"][measure]
    }
    return iter(sorted(found, key=lambda own: (own[0], own[1] != "bits_per_byte")))


def _losses(runs: Sequence[RunCurve]) -> list[tuple[float, float, float]]:
    """Return the mean loss of some runs, each point the mean of neighbouring steps."""
    steps = min(len(run.loss) for run in runs)
    if not steps:
        return []
    loss = np.mean([run.loss[:steps] for run in runs], axis=0)
    parts = np.array_split(np.arange(steps), min(_POINTS, steps))
    return [
        (float(runs[0].tokens[own].mean()), float(loss[own].mean()), 0.0)
        for own in parts
        if np.isfinite(loss[own]).all()
    ]


def _scores(
    runs: Sequence[RunCurve], target: str, measure: str
) -> list[tuple[float, float, float]]:
    """Return the mean of a measure over some runs, and the error of that mean over examples."""
    values: dict[float, list[Mapping[str, float]]] = {}
    for run in runs:
        # A run may have been stopped, and gone on with other evaluations.
        for line in run.evaluations:
            if target in line["evaluation"][measure]:
                own = line["evaluation"][measure][target]
                values.setdefault(float(line["tokens"]), []).append(own)
    return [
        (
            tokens,
            float(np.mean([one["mean"] for one in own])),
            float(np.mean([one["stderr"] for one in own])),
        )
        for tokens, own in sorted(values.items())
    ]
