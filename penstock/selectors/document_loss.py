"""Document loss: documents by their losses in a run that was trained on them.

A run with ``train.document_losses: true`` writes each document's mean loss per predicted token,
the logarithm of its perplexity, taken from the sequences it was packed in. Here it becomes a score
without any model being read again: ``high`` prefers documents of high loss, ``low`` of low loss,
``middle`` excludes both ends, which Marion et al. 2023 (*When Less is More: Investigating Data
Pruning for Pretraining LLMs at Scale*) found best for perplexity. Unlike those of a reference
model, these losses are of documents that the model was trained on.

A document is identified by 64 bits of a hash of its id. A fitted selector is 12 bytes a document of
files, which are mapped, not held: a machine's workers share them, and the system drops pages that
it needs. Fitting sorts them by parts of about a million documents, 256 at most, through 12 bytes a
document of temporary files. Of 10⁸ documents, two collide with probability 3e-4, and then share the
mean of both. A document that was not in the run is mistaken for one of the run with probability
5e-12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from penstock.artefact import Artefact, FileRecord, Workspace
from penstock.columnar import OwnParquet
from penstock.errors import ArtefactError, SelectorError, StorageError
from penstock.hashing import hash_ids, mix
from penstock.selectors.algorithm import BuiltInScorer, read_array
from penstock.selectors.bands import Band, BandName
from penstock.selectors.base import Documents, Fitting
from penstock.selectors.parameters import Location, fitted
from penstock.storage import as_path
from penstock.temporary import temporary_directory

__all__ = ["DocumentLoss"]

_STAGE = "document_losses"

_KEY = mix("document-loss")

_SAMPLE = 2**20
"""Losses from which quantiles are computed, to within 0.1 %; also the size of a block."""

_MOST_PARTS = 2**8
"""Parts of a run's documents, at most: each is two open files."""


class DocumentLoss(
    BuiltInScorer,
    name="document-loss",
    summary="documents by their loss in an earlier run of your own",
    meaning="mean loss per token in the run, or minus it, as `band` says",
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
    _of_missing: np.float32 = PrivateAttr(default=np.float32(np.nan))

    def model_post_init(self, context: Any) -> None:
        """Open the run.

        Raises:
            SelectorError: There is no such run, or its documents were not read.
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
        # Files that are mapped outlive their names.
        with temporary_directory("losses-") as directory:
            if not _sort(artefact.verified(record), directory):
                raise SelectorError(
                    key="run", file=artefact.path, expected="documents with a loss", got="none"
                )
            hashes = np.memmap(directory / "hashes", np.uint64, "r")
            losses = np.memmap(directory / "losses", np.float32, "r")
            # In the order of hashes, any part is a sample.
            perplexities = self._band.place(losses[:_SAMPLE].astype(np.float64))
            with open(directory / "scores", "wb") as file:
                for start in range(0, len(losses), _SAMPLE):
                    piece = losses[start : start + _SAMPLE].astype(np.float64)
                    file.write(self._band.scores(piece).astype(np.float32).data)
            self._use(hashes, np.memmap(directory / "scores", np.float32, "r"))
        known = sum(
            int(self._known(batch.column("id"))[0].sum())
            for batch in fitting.sample(1000).to_batches()
        )
        return {"documents": len(hashes), "perplexity": perplexities, "of_sample": known}

    def score(self, documents: Documents) -> np.ndarray:
        """Return the scores, (n,) float32; NaN excludes a document."""
        fitted(self._hashes, self.name)
        scores = np.full(len(documents), self._of_missing, np.float32)
        known, places = self._known(documents.column("id"))
        scores[known] = self._scores[places[known]]
        return scores

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the run."""
        return f"no token of it was predicted in the run {self.run} (missing: {self.missing})"

    def save(self, directory: Path) -> None:
        """Write the hashes and their scores, 12 bytes a document."""
        assert self._hashes is not None
        np.save(directory / "hashes.npy", self._hashes)
        np.save(directory / "scores.npy", self._scores)

    def load(self, directory: Path) -> None:
        hashes = read_array(directory / "hashes.npy", mapped=True)
        scores = read_array(directory / "scores.npy", mapped=True)
        if hashes.dtype != np.uint64 or scores.shape != hashes.shape or not len(hashes):
            raise ArtefactError(file=directory, expected="a score for each hash")
        self._use(hashes, scores)

    def _use(self, hashes: np.ndarray, scores: np.ndarray) -> None:
        # As plain arrays, which are sent to workers without a copy in memory.
        self._hashes, self._scores = np.asarray(hashes), np.asarray(scores)
        if self.missing != "exclude":
            first = self.missing == "first"
            end = scores.max() if first else scores.min()
            self._of_missing = np.nextafter(end, np.float32(np.inf if first else -np.inf))

    def _known(self, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Look ids up: (n,) ids to (n,) bool, whether they have a loss, and (n,) int64
        positions."""
        assert self._hashes is not None
        hashes = hash_ids(ids, _KEY)
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        return self._hashes[places] == hashes, places


def _losses(run: str) -> tuple[Artefact, FileRecord]:
    """Open the losses of a finished run, and return them with the record of their file.

    They lie in the run's work directory, and are named by its model and its shards.

    Raises:
        SelectorError: There is no such run, or its documents were not read.
    """
    try:
        artefact = Artefact.open(as_path(run))
    except (ArtefactError, StorageError) as error:
        raise SelectorError(
            key="run",
            expected=f"the directory of a finished run, as `penstock train` names it: {error}",
        ) from None
    if artefact.manifest["stage"] == _STAGE:
        return artefact, artefact.files[0]
    inputs = {
        "model": artefact.digest_of("model/"),
        "shards": artefact.manifest["inputs"].get("shards"),
    }
    for other in Workspace(artefact.path.parent.parent, read_only=True).finished(_STAGE):
        if other.manifest["inputs"] == inputs:
            return other, other.files[0]
    raise SelectorError(
        key="run",
        expected="a run of which the losses of documents were read",
        got=run,
        fix="run `penstock train` with train.document_losses: true; it trains nothing again",
    )


def _sort(file: Path, directory: Path) -> int:
    """Sort the losses that are numbers by hash of id, with bounded memory.

    Returns:
        Documents of the files ``hashes``, uint64, and ``losses``, float32, in the directory.
    """
    count = 0
    parts = _divide(file, directory)
    with open(directory / "hashes", "wb") as hashes, open(directory / "losses", "wb") as losses:
        for part in parts:
            own_hashes, own_losses = _sorted(
                np.fromfile(part[0], np.uint64), np.fromfile(part[1], np.float32)
            )
            for path in part:
                path.unlink()
            hashes.write(own_hashes.data)
            losses.write(own_losses.data)
            count += len(own_hashes)
    return count


def _divide(file: Path, directory: Path) -> list[tuple[Path, Path]]:
    """Write the hashes and losses of a run by the first bits of the hash: files of each part."""
    try:
        with OwnParquet(file) as opened, ExitStack() as stack:
            rows = opened.metadata.num_rows
            bits = min(max(1, rows // _SAMPLE).bit_length(), _MOST_PARTS.bit_length()) - 1
            parts = [
                (directory / f"hashes-{part}", directory / f"losses-{part}")
                for part in range(1 << bits)
            ]
            sinks = [[stack.enter_context(open(path, "wb")) for path in part] for part in parts]
            for hashes, losses in _read(opened):
                _write(sinks, bits, hashes, losses)
    except (ArtefactError, pa.ArrowException, KeyError, OSError) as error:
        raise SelectorError(
            f"not the losses of a run ({error})", key="run", file=file, fix="train again"
        ) from None
    return parts


def _read(opened: OwnParquet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the losses that are numbers: hashes of ids, (n,) uint64, and losses, (n,) float32."""
    for batch in opened.iter_batches(columns=["doc_id", "loss"]):
        losses = batch.column("loss").to_numpy()
        known = np.isfinite(losses)
        yield hash_ids(batch.column("doc_id"), _KEY)[known], losses[known].astype(np.float32)


def _write(
    sinks: Sequence[Sequence[BinaryIO]], bits: int, hashes: np.ndarray, losses: np.ndarray
) -> None:
    """Append documents to the files of their parts, in order."""
    numbers = (hashes >> np.uint64(63 - bits) >> np.uint64(1)).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(sinks) + 1))
    for (own_hashes, own_losses), start, end in zip(sinks, starts, starts[1:]):
        rows = order[start:end]
        own_hashes.write(hashes[rows].data)
        own_losses.write(losses[rows].data)


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
