"""Documents by what they cost a model that was trained on them: a run's losses, in the next cut.

A run with ``train.document_losses: true`` writes each document's mean loss per predicted token,
the logarithm of its perplexity, taken from the sequences it was packed in. Here it becomes a score
without any model being read again: ``high`` keeps what is still hard and leaves what was learnt,
``low`` the other way round, ``middle`` leaves both ends, which Marion et al. 2023 (*When Less is
More: Investigating Data Pruning for Pretraining LLMs at Scale*) found best for perplexity. Unlike
a reference model's, these losses are of a model that has seen the documents it judges.

A document is known by 64 bits of a hash of its id. A fitted selector takes 12 bytes a document, and
fitting it took 58 (slope from 3 to 12 million), so 10⁸ documents want 6 GB once. Of that many, two
collide with probability 3e-4, and then share the mean of both; a document that was not in the run
is taken for one that was with probability 5e-12.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord
from penstock.errors import ArtefactError, SelectorError, StorageError
from penstock.hashing import hash_ids, mix
from penstock.selectors.bands import Band
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import model_name, one_of
from penstock.storage import as_path

__all__ = ["DocumentLoss"]

FILE = "document_losses.parquet"

_KEY = mix("document-loss")

_SAMPLE = 2**20
"""Losses that quantiles are taken of, to within 0.1 %; also how many are worked on at a time."""


class DocumentLoss:
    """Scores documents by their loss in a run that was trained on them.

    Args:
        run: The run's directory or URI, as ``penstock train`` names it, trained with
            ``train.document_losses: true`` on documents of this pool.
        take: ``high``, ``low`` or ``middle`` losses: those that come first.
        missing: What becomes of a document that the run did not see, or saw no predicted token of:
            ``exclude`` it, or put it ``first``, before all others, or ``last``.
    """

    summary: ClassVar[str] = "documents by their loss in an earlier run of your own"
    paper: ClassVar[str] = "Marion et al. 2023, When Less is More; Ankner et al. 2024"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("run",)

    def __init__(self, *, run: str, take: str = "middle", missing: str = "exclude") -> None:
        self._run, self._record = _losses(model_name("run", run))
        self.band = Band(one_of("take", take, "low", "middle", "high"), "document-loss")
        self.missing = one_of("missing", missing, "exclude", "first", "last")
        self._hashes: np.ndarray | None = None
        self._scores = np.empty(0, np.float32)

    def identity(self) -> Mapping[str, Any]:
        """The losses by sha256, and how they are used."""
        return {
            "losses": self._record.sha256,
            "take": self.band.name,
            "missing": self.missing,
        }

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Read the run's losses and turn them into scores, sorted by hash of id.

        Raises:
            ArtefactError: The losses changed since they were written.
            SelectorError: They are not what a run writes, or no document has one.
        """
        hashes, losses = _sorted(*_read(self._run.verified(self._record)))
        if not len(losses):
            raise SelectorError(f"run: {self._run.path}: expected documents with a loss, got none")
        # In the order of hashes, any part is a sample.
        perplexities = self.band.place(losses[:_SAMPLE].astype(np.float64))
        for start in range(0, len(losses), _SAMPLE):
            piece = slice(start, start + _SAMPLE)
            losses[piece] = self.band.scores(losses[piece].astype(np.float64))
        self._hashes, self._scores = hashes, losses
        known = sum(
            int(self._known(batch.column("id"))[0].sum())
            for batch in fitting.sample(1000).to_batches()
        )
        return {"documents": len(hashes), "perplexity": perplexities, "of_sample": known}

    def score(self, documents: Documents) -> np.ndarray:
        """(n,) float32; NaN for a document to be excluded."""
        if self._hashes is None:
            raise SelectorError("document-loss: expected a fitted selector; call fit or load first")
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
        """Read back what :meth:`save` wrote."""
        try:
            hashes = np.load(directory / "hashes.npy", allow_pickle=False)
            scores = np.load(directory / "scores.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{directory}: not a fitted document-loss: {error}") from error
        if hashes.dtype != np.uint64 or scores.shape != hashes.shape or not len(hashes):
            raise ArtefactError(f"{directory}: expected a score for each hash")
        self._hashes, self._scores = hashes, scores

    def _known(self, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Which of (n,) ids have a loss, and where: (n,) bool, (n,) int64."""
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
    """A finished run and the record of its losses.

    Raises:
        SelectorError: There is no such run, or it wrote none.
    """
    try:
        artefact = Artefact.open(as_path(run))
    except (ArtefactError, StorageError) as error:
        raise SelectorError(
            f"run: expected the directory of a finished run, as `penstock train` names it: {error}"
        ) from None
    found = artefact.named(FILE)
    if not found:
        raise SelectorError(
            f"run: expected a run with {FILE}, got {run}; train with train.document_losses: true"
        )
    return artefact, found[0]


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of ids and losses, of the documents that have one: (n,) uint64, (n,) float32."""
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
            f"run: {file}: not the losses of a run ({error}); train again"
        ) from None
    return hashes[:start], losses[:start]


def _sorted(hashes: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By hash, each once, with the mean of its losses."""
    order = np.argsort(hashes, kind="stable")
    hashes, losses = hashes[order], losses[order]
    begins = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
    if len(begins) == len(hashes):
        return hashes, losses
    counts = np.diff(begins, append=len(hashes))
    means = np.add.reduceat(losses, begins, dtype=np.float64) / counts
    return hashes[begins], means.astype(np.float32)
