"""Runs: shards and settings in, a trained and evaluated model out, as an artefact.

A run that exists is not made again. Starting a training session costs some ten seconds (two new
processes that import PyTorch), so runs that follow each other share one: :func:`train_all` pays it
once for each lane of runs, not once for each run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Draft, Workspace, fingerprint, sha256_file
from penstock.recipe import ModelFrom, Train
from penstock.trainers.backend import check_overrides
from penstock.trainers.evaluate import Evaluation

__all__ = ["Progress", "RunResult", "RunSpec", "train", "train_all"]

STAGE = "run"
VERSION = 1

Progress = Callable[["RunSpec", dict[str, Any]], None]
"""Called with each line of ``metrics.jsonl`` as it is written, in the thread that waits."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run: what to train, on which shards, from which seed, and how to judge it."""

    train: Train
    shards: Path
    seed: int
    evaluations: tuple[Evaluation, ...] = ()

    @cached_property
    def tokens(self) -> int:
        """The budget: every token of the shards, once."""
        return int(Artefact.open(self.shards).facts["tokens"])

    @cached_property
    def fingerprint(self) -> str:
        """The name of the run's artefact."""
        return fingerprint(STAGE, VERSION, self._config(), self._inputs)

    def find(self, workspace: Workspace) -> RunResult | None:
        """The finished run, if there is one."""
        found = workspace.find(STAGE, self.fingerprint)
        return None if found is None else RunResult.of(found)

    def draft(self, workspace: Workspace) -> Draft:
        """Begin the run's artefact."""
        return workspace.draft(STAGE, VERSION, self._config(), self._inputs)

    def _config(self) -> dict[str, Any]:
        return {"train": self.train.model_dump(mode="json", exclude={"seed"}), "seed": self.seed}

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        return {
            "shards": Artefact.open(self.shards).digest,
            "evaluations": {item.name: _digest(item) for item in self.evaluations},
            "model": _model_files(self.train),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run."""

    path: Path
    tokens: int
    """Trained on."""
    loss: float
    """Of the last step, in nats per predicted token."""
    bits_per_byte: dict[str, dict[str, float]]
    """By evaluation: ``mean``, ``stderr`` over examples, ``bytes`` and ``examples``."""
    seconds: float
    """Of training and evaluation, without starting processes."""

    @classmethod
    def of(cls, artefact: Artefact) -> RunResult:
        """What the manifest of a run says."""
        facts = artefact.facts
        return cls(
            path=artefact.path,
            tokens=facts["tokens"],
            loss=facts["loss"],
            bits_per_byte=facts["bits_per_byte"],
            seconds=facts["seconds"],
        )

    @property
    def model(self) -> Path:
        """A directory that ``AutoModelForCausalLM.from_pretrained`` reads."""
        return self.path / "model"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


def train(spec: RunSpec, workspace: Workspace, progress: Progress | None = None) -> RunResult:
    """Make a run, or find it; may be called from several threads at once.

    Raises:
        TrainingError: A worker failed; its own message, in one line.
    """
    (result,) = train_all([spec], workspace, progress=progress)
    return result


def train_all(
    specs: Sequence[RunSpec],
    workspace: Workspace,
    *,
    parallel: int = 1,
    progress: Progress | None = None,
) -> list[RunResult]:
    """Make the runs that do not exist, up to ``parallel`` at a time; results in the order given.

    Runs that finish before another fails are kept, and found when this is called again.

    Raises:
        RecipeError: ``train.deepspeed`` contradicts the recipe; nothing was started.
        TrainingError: A worker failed; its own message, in one line.
    """
    for spec in specs:
        check_overrides(spec.train.deepspeed)
    missing = {spec.fingerprint: spec for spec in specs if spec.find(workspace) is None}
    if missing:
        from penstock.trainers.launch import launch

        launch(_lanes(list(missing.values()), parallel), workspace, progress)
    results = [spec.find(workspace) for spec in specs]
    assert all(results)
    return [result for result in results if result]


def _lanes(specs: Sequence[RunSpec], parallel: int) -> list[list[RunSpec]]:
    """Runs dealt to lanes so that all finish at about the same time: the longest first.

    A lane is one session, so its runs have equally many workers.
    """
    lanes: list[list[RunSpec]] = []
    for spec in sorted(specs, key=lambda spec: -spec.tokens):
        fitting = [lane for lane in lanes if lane[0].train.workers == spec.train.workers]
        if len(lanes) < parallel or not fitting:
            lanes.append([spec])
        else:
            min(fitting, key=lambda lane: sum(one.tokens for one in lane)).append(spec)
    return lanes


def _digest(evaluation: Evaluation) -> str:
    digest = hashlib.sha256()
    for text in evaluation.texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _model_files(train: Train) -> dict[str, str]:
    """Checksums of the model to continue from, when it is a directory here."""
    if not isinstance(train.model, ModelFrom) or not Path(train.model.hf).is_dir():
        return {}
    files = sorted(path for path in Path(train.model.hf).iterdir() if path.is_file())
    return {path.name: sha256_file(path) for path in files}
