"""Runs: shards and settings in, a trained and evaluated model out, as an artefact.

A run that exists is not made again. The start of a training session takes some ten seconds (two new
processes that import PyTorch), so consecutive runs share one: :func:`train_all` starts one session
for each lane of runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.artefact import Workspace
from penstock.trainers.backends import find_backend
from penstock.trainers.launch import launch
from penstock.trainers.spec import OnMetrics, RunResult, RunSpec

__all__ = ["train", "train_all"]


def train(spec: RunSpec, workspace: Workspace, on_metrics: OnMetrics | None = None) -> RunResult:
    """Make a run, or find it; thread-safe.

    Raises:
        TrainingError: A worker failed; its own message, in one line.
    """
    (result,) = train_all([spec], workspace, on_metrics=on_metrics)
    return result


def train_all(
    specs: Sequence[RunSpec],
    workspace: Workspace,
    *,
    parallel: int = 1,
    on_metrics: OnMetrics | None = None,
) -> list[RunResult]:
    """Make the runs that do not exist, up to ``parallel`` at a time.

    Runs that finish before another fails are kept, and found by the next call.

    Returns:
        Results in the order of ``specs``.

    Raises:
        RecipeError: The back end refuses the settings or the machine, or the model to continue
            has another tokenizer than the shards; nothing was started.
        TrainingError: A worker failed; its own message, in one line.
    """
    for spec in specs:
        find_backend(spec.train.backend).check(spec.train)
    missing = {spec.fingerprint: spec for spec in specs if spec.find(workspace) is None}
    for spec in missing.values():
        spec.check_tokenizer()
    if missing:
        launch(_lanes(list(missing.values()), parallel), workspace, on_metrics)
    results = [spec.find(workspace) for spec in specs]
    assert all(results)
    return [result for result in results if result]


def _lanes(specs: Sequence[RunSpec], parallel: int) -> list[list[RunSpec]]:
    """Deal runs to lanes, the longest first, so that all lanes finish at about the same time.

    A lane is one session, so its runs have equal numbers of workers and of CPUs for each.
    """
    lanes: list[list[RunSpec]] = []
    for spec in sorted(specs, key=lambda spec: -spec.tokens):
        fitting = [lane for lane in lanes if _resources(lane[0]) == _resources(spec)]
        if len(lanes) < parallel or not fitting:
            lanes.append([spec])
        else:
            min(fitting, key=lambda lane: sum(one.tokens for one in lane)).append(spec)
    return lanes


def _resources(spec: RunSpec) -> tuple[int, int]:
    return spec.train.workers, spec.train.cpus
