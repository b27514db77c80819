"""The losses of a document under the models that were trained on it.

A run with ``train.document_losses`` writes them for all documents of its shards
(:mod:`penstock.trainers.evaluation.documents`); here those of single documents are found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.artefact import Artefact, Workspace
from penstock.columnar import read_parquet
from penstock.jobs.curate import Curated, PartiallyCurated

__all__ = ["add_training_losses"]

_LOSSES = "document_losses"
"""The stage: :data:`penstock.trainers.evaluation.artefacts.LOSSES`, of which a copy is here, since
that module needs the trainers."""


def add_training_losses(
    curated: Curated | PartiallyCurated, fates: Sequence[dict[str, Any]]
) -> None:
    """Add ``training_losses`` to the fates of documents that runs were trained on.

    They have an entry for each model whose losses were read: ``run``, the directory of the run
    below the work directory, or None where it was deleted; ``loss``, mean nats of a predicted
    token, or None where none of the document is predicted; and ``tokens``, the predicted tokens.

    Args:
        curated: What is made of the recipe.
        fates: Entries as of :func:`penstock.jobs.why.fates_of`. Documents of one id are told
            apart by their sequences if all of them that were taken are among these.
    """
    taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for fate in fates:
        if fate["fate"] == "taken":
            taken[fate["id"]].append(fate)
    if not taken or not isinstance(curated, Curated):
        return
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    shards = curated.shards.digest
    for losses in workspace.finished(_LOSSES):
        if losses.manifest["inputs"]["shards"] == shards:
            _add(losses, _run_of(workspace, losses), taken)


def _add(losses: Artefact, run: str | None, taken: dict[str, list[dict[str, Any]]]) -> None:
    (record,) = losses.files
    file = losses.verified(record)
    ids = read_parquet(file, ["doc_id"]).column("doc_id")
    rows = np.flatnonzero(pc.is_in(ids, pa.array(list(taken), ids.type)).to_numpy())
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_parquet(file).take(pa.array(rows)).to_pylist():
        found[row["doc_id"]].append(row)
    for name, fates in taken.items():
        if len(found[name]) != len(fates):
            continue
        # The file has the documents in the order of their sequences.
        for fate, row in zip(sorted(fates, key=lambda one: one["sequences"]), found[name]):
            loss = row["loss"] if row["tokens"] else None
            entry = {"run": run, "loss": loss, "tokens": row["tokens"]}
            fate.setdefault("training_losses", []).append(entry)


def _run_of(workspace: Workspace, losses: Artefact) -> str | None:
    """Return the directory of the run whose model read the losses, from the work directory on."""
    for run in workspace.finished("run"):
        if run.digest_of("model/") == losses.manifest["inputs"]["model"]:
            return f"run/{run.path.name}"
    return None
