"""What is measured of a trained model, as separate artefacts.

An evaluation is named by the model's files, the examples and the version of the metrics, and the
losses of documents by the model's files and the shards. So neither is part of a run's name: a run
that is finished gets what it lacks without training, and nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Workspace, fingerprint
from penstock.storage import AnyPath
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.evaluation.scores import ExampleScores

__all__ = [
    "EVALUATION",
    "LOSSES",
    "MODEL",
    "Measurement",
    "evaluation_of",
    "evaluations_of",
    "losses_of",
    "read_examples",
]

EVALUATION = "evaluation"
LOSSES = "document_losses"

MODEL = "model/"
"""Where the files of a run's model are."""

_VERSIONS = {EVALUATION: 1, LOSSES: 1}
"""Raised when the metrics change, or the way that losses are read."""

_PART = "values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The name of an artefact that is made with a trained model."""

    stage: str
    inputs: Mapping[str, Any]

    def find(self, workspace: Workspace) -> Artefact | None:
        """Return the artefact, or None where it was not made."""
        version = _VERSIONS[self.stage]
        return workspace.find(self.stage, fingerprint(self.stage, version, {}, self.inputs))

    def make(
        self,
        workspace: Workspace,
        write: Callable[[Path], object],
        facts: Mapping[str, Any],
        generation: int = 0,
    ) -> Artefact:
        """Make the artefact, of one file.

        Args:
            workspace: Where it is made.
            write: Called with the path of the file, a Parquet file.
            facts: Values of the artefact.
            generation: Number of the driver's lease: part of the file's name, so that a worker
                of an earlier driver that goes on writes another file.
        """
        draft = workspace.draft(self.stage, _VERSIONS[self.stage], {}, self.inputs)
        name = f"{self.stage}-{generation:08d}.parquet"
        write(draft.staging() / name)
        draft.record(_PART, draft.adopt([name]))
        return draft.publish([_PART], facts)


def evaluation_of(run: Artefact, evaluation: Evaluation) -> Measurement:
    """Return the measurement of a run's model on these examples, under any name."""
    return Measurement(
        stage=EVALUATION, inputs={"model": run.digest_of(MODEL), "examples": evaluation.digest}
    )


def losses_of(run: Artefact) -> Measurement:
    """Return the measurement of the losses of a run's documents."""
    shards = run.manifest["inputs"]["shards"]
    return Measurement(stage=LOSSES, inputs={"model": run.digest_of(MODEL), "shards": shards})


def evaluations_of(run: Artefact) -> dict[str, Artefact]:
    """Return all evaluations of a run's model in its work directory, by name.

    Of those on different examples under one name, each but the first has a part of the examples'
    digest in its name.
    """
    found: dict[str, Artefact] = {}
    model = run.digest_of(MODEL)
    for artefact in Workspace(run.path.parent.parent, read_only=True).finished(EVALUATION):
        if artefact.manifest["inputs"]["model"] == model:
            name = artefact.facts["name"]
            if name in found:
                name = f"{name} {artefact.manifest['inputs']['examples'][:8]}"
            found[name] = artefact
    return found


def read_examples(path: AnyPath) -> ExampleScores:
    """Read the values of an evaluation's examples from its directory.

    Raises:
        ArtefactError: The file is missing, or is not the one that was recorded.
    """
    artefact = Artefact.open(path)
    return ExampleScores.read(artefact.verified(artefact.files[0]))
