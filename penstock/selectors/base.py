"""What a selector is: something that turns documents into a column of float32.

Higher is taken earlier, NaN is never taken. The engine knows selectors only through these
protocols; a selector knows nothing of Ray, of paths, or of other selectors. Randomness comes
from a hash of (seed, document id) (:mod:`penstock.hashing`), never from time, thread or worker, so
a column is the same whoever computes it and in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from penstock.errors import SelectorError

__all__ = [
    "Documents",
    "EmbeddingScorer",
    "Encoder",
    "Fitting",
    "MergingSetSelector",
    "ParallelMap",
    "Partition",
    "Scorer",
    "SetSelector",
    "Target",
    "is_set_selector",
    "serial_map",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

Documents: TypeAlias = pa.RecordBatch
"""A batch with columns ``id``, ``text`` (large_string, no nulls) and ``source`` (string)."""


class ParallelMap(Protocol):
    """How a selector asks for work to be done side by side, without knowing by whom.

    ``spread(function, items, shared)`` yields ``function(item, shared)`` for each item, in the
    items' order. ``function`` is a module-level function; ``shared`` travels once to each worker.
    """

    def __call__(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], shared: Any = None
    ) -> Iterator[Result]: ...


def serial_map(
    function: Callable[[Any, Any], Result], items: Sequence[Any], shared: Any = None
) -> Iterator[Result]:
    """The :class:`ParallelMap` of a single process: a plain loop."""
    for item in items:
        yield function(item, shared)


class Encoder(Protocol):
    """Texts to vectors; travels to workers and lies in a directory as data."""

    name: str

    def encode(self, texts: pa.Array) -> np.ndarray:
        """(n,) large_string to (n, d) float32, L2-normalised; without a token, a zero vector."""
        ...

    def save(self, directory: Path) -> None: ...


def no_encoder(name: str) -> Encoder:
    """The :attr:`Fitting.encoder` of a fitting that has none."""
    raise SelectorError(f"encoder: expected a fitting that can make encoders, to make {name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An example of what the model should become good at."""

    benchmark: str
    text: str
    """Question and answer (and choices where the answer needs them), rendered as one text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What a selector may look at while it fits: never the ``evaluate`` files."""

    sample: Callable[[int], pa.Table]
    """``sample(n)``: about n documents drawn by hash of id, or the whole pool if it is smaller.

    Columns as :data:`Documents`; in the order of a hash of id, so that what is learned from it
    does not depend on where in the inputs a document stands.
    """
    pool_size: int
    """Documents in the pool."""
    target: Sequence[Target] = ()
    """The examples of the selector's ``target`` files, in file order."""
    seed: int = 0
    encoder: Callable[[str], Encoder] = no_encoder
    """``encoder(name)``: the one that the pool's documents are embedded with, made at most once
    for a corpus; names as in :mod:`penstock.selectors.encoders.encoders`."""
    spread: ParallelMap = serial_map
    progress: Callable[[str], None] = field(default=lambda line: None)
    """Tells the person who waits what is going on."""


@runtime_checkable
class Scorer(Protocol):
    """Gives each document a score, looking at nothing but that document and its fitted state.

    Hyperparameters are the constructor's keywords. ``fit`` returns facts about the fit that go
    into the manifest and the report (accuracy, thresholds, what was chosen). Fitted state is
    saved as data: arrays, tables, model files; never a pickled object.

    A scorer that is of no use without a target has ``wants_target = True``, so that its absence is
    told before any work. A scorer that wants more than one CPU has an attribute ``needs``, a
    :class:`penstock.resources.Resources`: ``needs = Resources(gpus=1)``.
    """

    summary: ClassVar[str]
    """One line for ``penstock selectors``."""
    paper: ClassVar[str]
    """Where the algorithm is published."""
    version: ClassVar[int]
    """Raised whenever the same inputs would give other scores."""

    def identity(self) -> Mapping[str, Any]:
        """What the scores depend on besides the data: parameters, hashes of files and of code.

        Goes into fingerprints, so it holds no path and is the same on every machine.
        """
        ...

    def fit(self, fitting: Fitting) -> Mapping[str, Any]: ...

    def score(self, documents: Documents) -> np.ndarray:
        """One float32 per document, shape (n,); NaN excludes a document."""
        ...

    def save(self, directory: Path) -> None:
        """Write the fitted state as data files into an existing directory."""
        ...

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote, on an instance with the same hyperparameters."""
        ...


@runtime_checkable
class EmbeddingScorer(Scorer, Protocol):
    """A scorer of embeddings, which the engine has made once for all who want them."""

    @property
    def embeds(self) -> str | None:
        """What documents are embedded with, once fitted; names as in
        :mod:`penstock.selectors.encoders.encoders`. None where ``score`` has to be called."""
        ...

    def score_vectors(self, documents: Documents, vectors: np.ndarray) -> np.ndarray:
        """What ``score(documents)`` returns, from (n, d) int16 vectors of the texts' beginnings.

        Vectors are on the lattice (:func:`penstock.selectors.encoders.lattice.on_lattice`), of
        :data:`penstock.selectors.encoders.embedding.CHARACTERS` characters of each text.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The documents that a set selector sees together, in the order of their hashes."""

    number: int
    hashes: np.ndarray
    """(n,) uint64, ascending: of (seed, id). Ties and draws are by hash, never by position."""
    vectors: np.ndarray
    """(n, d) int16 on the lattice (:func:`penstock.selectors.encoders.lattice.on_lattice`); zero
    where
    the text has no token."""
    quality: np.ndarray | None
    """(n,) float32 of the column that :attr:`SetSelector.quality` names; NaN is never taken."""

    def __len__(self) -> int:
        return len(self.hashes)


class SetSelector(Protocol):
    """Gives each document a score that depends on the others: on its *partition* of the pool.

    Every document is placed in one of :attr:`partitions` by its vector or its hash, and a
    partition is scored as a whole, by one task. Scores of all partitions are one column, so they
    must be comparable: a rank within the partition over its size takes equally from each.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    version: ClassVar[int]

    encoder: str
    """What the vectors are made with; names as in :mod:`penstock.selectors.encoders.encoders`."""
    quality: str | None
    """Another column of the recipe that scores depend on."""

    @property
    def partitions(self) -> int:
        """How many there are, once fitted; about ``pool_size`` over what a task can hold."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """As :meth:`Scorer.identity`."""
        ...

    def fit(self, fitting: Fitting) -> Mapping[str, Any]: ...

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """(n, d) int16 and (n,) uint64 to the number of each document's partition, (n,) int64.

        It depends on a document alone, so the same for whatever batch it comes in.
        """
        ...

    def score(self, partition: Partition) -> np.ndarray:
        """One float32 for each document of the partition, shape (n,); NaN excludes it."""
        ...

    def save(self, directory: Path) -> None:
        """As :meth:`Scorer.save`."""
        ...

    def load(self, directory: Path) -> None:
        """As :meth:`Scorer.load`."""
        ...


def is_set_selector(selector: object) -> TypeGuard[SetSelector]:
    """Whether a selector sees documents together: whether it has a place for each."""
    return callable(getattr(selector, "assign", None))


@runtime_checkable
class MergingSetSelector(SetSelector, Protocol):
    """A set selector whose partitions' best compete once more, all together (GreeDi's merge)."""

    def candidates(self, partition: Partition, scores: np.ndarray) -> np.ndarray:
        """Who competes: (k,) int64 places in the partition, of which all together fit a task."""
        ...

    def merge(self, candidates: Partition, scores: np.ndarray) -> np.ndarray:
        """(m,) float32 in place of the candidates' scores in their own partitions, (m,) float32."""
        ...
