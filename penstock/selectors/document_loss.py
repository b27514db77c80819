"""Document loss: documents by their losses in a run that was trained on them.

A run with ``train.document_losses: true`` writes each document's mean loss per predicted token,
the logarithm of its perplexity, taken from the sequences it was packed in. Here it becomes a score
without any model being read again: ``high`` prefers documents of high loss, ``low`` of low loss,
``middle`` excludes both ends, which Marion et al. 2023 (*When Less is More: Investigating Data
Pruning for Pretraining LLMs at Scale*) found best for perplexity. Unlike those of a reference
model, these losses are of documents that the model was trained on.

A document is identified by 64 bits of a hash of its id. A fitted selector takes 12 bytes a
document, and fitting it took 58 (slope from 3 to 12 million), so 10⁸ documents need 6 GB once. Of
that many, two collide with probability 3e-4, and then share the mean of both. A document that was
not in the run is mistaken for one of the run with probability 5e-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

from penstock.artefact import Artefact, FileRecord
from penstock.errors import ArtefactError, SelectorError, StorageError
from penstock.hashing import hash_ids, mix
from penstock.selectors.algorithm import BuiltInScorer, read_array
from penstock.selectors.bands import Band, BandName
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import Location, fitted
from penstock.storage import as_path

__all__ = ["DocumentLoss"]

FILE = "document_losses.parquet"

_KEY = mix("document-loss")

_SAMPLE = 2**20
"""Losses from which quantiles are computed, to within 0.1 %; also the size of a block."""


class DocumentLoss(
    BuiltInScorer,
    name="document-loss",
    summary="documents by their loss in an earlier run of your own",
    paper="Marion et al. 2023, When Less is More; Ankner et al. 2024",
    version=1,
):
    """Scores documents by their loss in a run that was trained on them."""

    run: Location = Field(
        description="The run's directory or URI, as ``penstock train`` prints it, trained with "
        "``train.document_losses: true`` on documents of this pool.",
    )
    take: BandName = Field(
        default="middle",
        description="``high``, ``low`` or ``middle`` losses come first.",
    )
    missing: Literal["exclude", "first", "last"] = Field(
        default="exclude",
        description="For a document without a predicted token in the run: ``exclude`` it, or "
        "put it ``first``, before all others, or ``last``.",
    )

    _losses: tuple[Artefact, FileRecord] = PrivateAttr()
    _band: Band = PrivateAttr()
    _hashes: np.ndarray | None = None
    _scores: np.ndarray = PrivateAttr(default_factory=lambda: np.empty(0, np.float32))

    def model_post_init(self, context: Any) -> None:
        """Open the run.

        Raises:
            SelectorError: There is no such run, or it wrote no losses.
        """
        self._losses = _losses(self.run)
        self._band = Band(self.take, self.name)

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, with the sha256 of the run's losses."""
        return {**super().identity(), "run": self._losses[1].sha256}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read the run's losses and turn them into scores, sorted by hash of id.

        Raises:
            ArtefactError: The losses changed since they were written.
            SelectorError: They are not what a run writes, or no document has one.
        """
        artefact, record = self._losses
        hashes, losses = _sorted(*_read(artefact.verified(record)))
        if not len(losses):
            raise SelectorError(
                key="run", file=artefact.path, expected="documents with a loss", got="none"
            )
        # In the order of hashes, any part is a sample.
        perplexities = self._band.place(losses[:_SAMPLE].astype(np.float64))
        for start in range(0, len(losses), _SAMPLE):
            piece = slice(start, start + _SAMPLE)
            losses[piece] = self._band.scores(losses[piece].astype(np.float64))
        self._hashes, self._scores = hashes, losses
        known = sum(
            int(self._known(batch.column("id"))[0].sum())
            for batch in fitting.sample(1000).to_batches()
        )
        return {"documents": len(hashes), "perplexity": perplexities, "of_sample": known}

    def score(self, documents: Documents) -> np.ndarray:
        """Return the scores, (n,) float32; NaN excludes a document."""
        fitted(self._hashes, self.name)
        scores = np.full(len(documents), self._of_missing(), np.float32)
        known, places = self._known(documents.column("id"))
        scores[known] = self._scores[places[known]]
        return scores

    def save(self, directory: Path) -> None:
        """Write the hashes and their scores, 12 bytes a document."""
        assert self._hashes is not None
        np.save(directory / "hashes.npy", self._hashes)
        np.save(directory / "scores.npy", self._scores)

    def load(self, directory: Path) -> None:
        hashes = read_array(directory / "hashes.npy")
        scores = read_array(directory / "scores.npy")
        if hashes.dtype != np.uint64 or scores.shape != hashes.shape or not len(hashes):
            raise ArtefactError(file=directory, expected="a score for each hash")
        self._hashes, self._scores = hashes, scores

    def _known(self, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Look ids up: (n,) ids to (n,) bool, whether they have a loss, and (n,) int64
        positions."""
        assert self._hashes is not None
        hashes = hash_ids(ids, _KEY)
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        return self._hashes[places] == hashes, places

    def _of_missing(self) -> np.float32:
        if self.missing == "exclude":
            return np.float32(np.nan)
        end, beyond = (
            (self._scores.max(), np.inf)
            if self.missing == "first"
            else (self._scores.min(), -np.inf)
        )
        return np.nextafter(end, np.float32(beyond))


def _losses(run: str) -> tuple[Artefact, FileRecord]:
    """Open a finished run; return it with the record of its losses.

    Raises:
        SelectorError: There is no such run, or it wrote none.
    """
    try:
        artefact = Artefact.open(as_path(run))
    except (ArtefactError, StorageError) as error:
        raise SelectorError(
            key="run",
            expected=f"the directory of a finished run, as `penstock train` names it: {error}",
        ) from None
    found = artefact.named(FILE)
    if not found:
        raise SelectorError(
            key="run",
            expected=f"a run with {FILE}",
            got=run,
            fix="train with train.document_losses: true",
        )
    return artefact, found[0]


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the losses that are numbers: hashes of ids, (n,) uint64, and losses, (n,) float32."""
    try:
        with pq.ParquetFile(file) as opened:
            hashes = np.empty(opened.metadata.num_rows, np.uint64)
            losses = np.empty(len(hashes), np.float32)
            start = 0
            for batch in opened.iter_batches(columns=["doc_id", "loss"]):
                own = batch.column("loss").to_numpy()
                known = np.isfinite(own)
                stop = start + int(known.sum())
                hashes[start:stop] = hash_ids(batch.column("doc_id"), _KEY)[known]
                losses[start:stop] = own[known]
                start = stop
    except (pa.ArrowException, KeyError, OSError) as error:
        raise SelectorError(
            f"not the losses of a run ({error})", key="run", file=file, fix="train again"
        ) from None
    return hashes[:start], losses[:start]


def _sorted(hashes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort by hash; average the losses of equal hashes."""
    order = np.argsort(hashes, kind="stable")
    hashes, losses = hashes[order], losses[order]
    begins = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    if len(begins) == len(hashes):
        return hashes, losses
    counts = np.diff(begins, append=len(hashes))
    means = np.add.reduceat(losses, begins, dtype=np.float64) / counts
    return hashes[begins], means.astype(np.float32)
