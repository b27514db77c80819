"""The selector protocols: a selector turns documents into a column of float32.

A higher score is taken earlier and NaN is never taken. The engine reaches selectors through these
protocols alone, and a selector uses neither Ray, nor artefacts, nor another selector. It states
its needs in one object, :class:`Requirements`. Randomness comes from a hash of
(seed, document id) (:mod:`penstock.hashing`), never from time, thread or worker, so a column is
the same on every machine and in any order of work.

A plug-in need not have all of a protocol: :mod:`penstock.selectors.adapter` completes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from penstock.errors import SelectorError
from penstock.resources import Resources

if TYPE_CHECKING:
    from penstock.selectors.classifiers.classifier import Texts
    from penstock.selectors.classifiers.fasttext import CollapsedFastText
    from penstock.selectors.rewriting.base import Answer, Completions, Prompter

__all__ = [
    "AnswerScores",
    "ClassifierScores",
    "ClusterWeights",
    "Documents",
    "EmbeddingScores",
    "Encoder",
    "FittedSelector",
    "Fitting",
    "MeanSelector",
    "Merge",
    "ModelLadder",
    "Nearness",
    "ParallelMap",
    "Partition",
    "Requirements",
    "Scorer",
    "Selector",
    "SetSelector",
    "Target",
    "Targets",
    "Thinning",
    "serial_map",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

Documents: TypeAlias = pa.RecordBatch
"""A batch with columns ``id``, ``text`` (large_string, no nulls) and ``source`` (string)."""


class ParallelMap(Protocol):
    """Run a function over items in parallel, on whatever workers the engine has.

    ``spread(function, items, shared)`` yields ``function(item, shared)`` for each item, in the
    items' order. ``function`` is a module-level function; ``shared`` is sent once to each worker.
    """

    def __call__(
        self, function: Callable[[Any, Any], Result], items: Sequence[Any], shared: Any = None
    ) -> Iterator[Result]: ...


def serial_map(
    function: Callable[[Any, Any], Result], items: Sequence[Any], shared: Any = None
) -> Iterator[Result]:
    """Run a :class:`ParallelMap` in a single process: a plain loop."""
    for item in items:
        yield function(item, shared)


class Encoder(Protocol):
    """Texts to vectors; it is sent to workers and stored in a directory as data."""

    name: str

    @property
    def resources(self) -> Resources:
        """Resources of a worker that encodes."""

    def encode(self, texts: pa.Array) -> np.ndarray:
        """Encode (n,) large_string as (n, d) float32, L2-normalised; zero without a token."""

    def save(self, directory: Path) -> None: ...


def no_encoder(name: str) -> Encoder:
    """Raise: the default of :attr:`Fitting.encoder`, for a fitting that cannot make encoders."""
    raise SelectorError(key="encoder", expected="a fitting that can make encoders", got=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An example of a task that the model should learn."""

    benchmark: str
    text: str
    """Question and answer (and choices where the answer needs them), rendered as one text."""
    place: str = field(default="", compare=False)
    """Its file and line, ``FILE:LINE``; empty for one that was read from no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The examples of a selector's ``target`` files, with what identifies them."""

    examples: Sequence[Target] = ()
    """Examples in file order."""
    hashes: Sequence[str] = ()
    """sha256 of the files, in the recipe's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """The inputs of a fit; the ``evaluate`` files are never among them."""

    sample: Callable[..., pa.Table]
    """``sample(n)``: about n documents drawn by hash of id, or the whole pool if it is smaller.

    Columns as :data:`Documents`; in the order of a hash of id, so that a model fitted on it
    does not depend on the positions of documents in the inputs. Keywords: ``source``, the source
    that all n are drawn of; ``characters``, the most of each text that is needed; ``shortest``, the
    least number of characters of a document; ``balanced``, true for equally many of each source, as
    far as it has them; ``most``, the share of a source's documents that is drawn at most.
    """
    pool_size: int
    """Documents in the pool."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Bytes of text of each source."""
    target: Sequence[Target] = ()
    """The examples of the selector's ``target`` files, in file order."""
    seed: int = 0
    encoder: Callable[[str], Encoder] = no_encoder
    """``encoder(name)``: the one that the pool's documents are embedded with, made at most once
    for a corpus; names as in :mod:`penstock.selectors.encoders.embedding`."""
    spread: ParallelMap = serial_map
    progress: Callable[[str], None] = field(default=lambda line: None)
    """Shows a line of progress to the user."""

    @property
    def note(self) -> Callable[[str], None]:
        """The name of :attr:`progress` in Penstock 0.1."""
        return self.progress


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingScores:
    """Scoring by vectors that the engine makes once for all selectors that use the encoder."""

    encoder: str
    """Encoder, by its name in :mod:`penstock.selectors.encoders.embedding`."""
    score: Callable[[Documents, np.ndarray], np.ndarray]
    """The scores of :meth:`Scorer.score`, (n,) float32, from (n, d) int16 vectors.

    Vectors are on the lattice (:func:`penstock.selectors.encoders.lattice.on_lattice`), of the
    first :data:`penstock.selectors.encoders.embedding.CHARACTERS` characters of each text.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearness:
    """The examples that a selector compares documents with, for ``penstock why``.

    No score is made of it: ``why`` computes the similarity of one document to these examples, and
    names the nearest.
    """

    encoder: str
    """Encoder of the documents and the examples, by its name in
    :mod:`penstock.selectors.encoders.embedding`; ``auto`` if the fact ``encoder_kind`` of the fit
    has it."""
    compared: Callable[[Sequence[Target], int], Sequence[int]]
    """The target's examples and the recipe's seed to the positions of the k that are compared."""
    vectors: np.ndarray | None = None
    """(k, d) int16 vectors of these on the lattice; None if the fitted state has none."""
    loaded: Encoder | None = None
    """The encoder, if the fitted state has it."""
    characters: int | None = None
    """Characters of a text that are embedded; None for
    :data:`penstock.selectors.encoders.embedding.CHARACTERS`."""
    ranks: Callable[[np.ndarray], np.ndarray] | None = None
    """A document's (d,) int16 vector to its rank at each example, (k,) int64 from 1; set if its
    score is the best of these ranks."""
    last_rank: int = 0
    """The last rank that is told apart; a document beyond it has the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierScores:
    """Scoring by a fastText classifier, which several scorers of one batch share in one pass.

    ``score(documents)`` equals ``finish(classifier.score(texts), Texts(texts))`` to the last bit,
    ``texts`` being the documents' column, since a column may be made either way.
    """

    classifier: CollapsedFastText
    """The classifier: the same object for every batch."""
    finish: Callable[[np.ndarray, Texts], np.ndarray]
    """(n,) float32 p(positive), not to be written to, to the scorer's own (n,) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScores:
    """Scoring by a language model's answers, which the engine requests once and keeps."""

    prompter: Prompter
    """The requests about each document."""
    completions: Completions
    """The model that answers."""
    score: Callable[[Sequence[Answer]], float]
    """A document's answers, in the order of its requests, to its score; NaN excludes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A second round of selection: the best of all partitions compete once more (GreeDi)."""

    candidates: Callable[[Partition, np.ndarray], np.ndarray]
    """The partition and its scores to (k,) int64 positions in it: the documents that compete.
    Those of all partitions together must fit a task."""
    merge: Callable[[Partition, np.ndarray], np.ndarray]
    """All candidates as one partition, and their scores, (m,) float32, to the (m,) float32 that
    replace them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinning:
    """Documents that are left out of every partition before a set selector scores the others."""

    nearness: Callable[[Partition, float], np.ndarray]
    """The partition and a limit to (n,) float32; documents above the limit are left out."""
    fit: Callable[[float, int, np.ndarray], Mapping[str, Any]]
    """Receives the limit, the number of documents that stay, and vectors of a sample of these,
    (m, d) int16 in the order of their hashes; returns facts of the column."""
    limits: tuple[float, float]
    """The lowest and the highest limit."""
    limit: float | None = None
    """The limit, or else ``keep``."""
    keep: float | None = None
    """The share of the partitions' documents that stay: the lowest limit with as many or more."""
    alone: bool = True
    """True if nearness does not depend on the limit, so that partitions are measured once and not
    at each step of a bisection."""
    sample: int = 0
    """Documents of the sample of those that stay, about; their vectors are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLadder:
    """Models to train before the fit: every shape on every budget, in order of their losses.

    They are trained on documents of the pool outside the selector's sample, as many bytes of each
    source, and put in order by their bits per byte on the selector's ``target`` files.
    """

    shapes: Sequence[tuple[int, int, int]]
    """(layers, width, heads) of each size."""
    tokens: Sequence[int]
    """Training budgets of each size."""
    batch_tokens: int
    lr: float
    share: float
    """Share of each source that the sample may be drawn of; the models are trained on the rest."""
    give: Callable[[Sequence[str]], None]
    """Receives the models' directories, from worst to best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWeights:
    """Rounds of short training runs before the fit, which find a weight for each partition.

    Each round trains the model of the round before on another part of the pool, chosen by the
    weights so far. A partition's signal is the loss on its own held-out documents less that of a
    reference, a model that is trained once without weights on the tokens of all rounds.
    """

    rounds: int
    tokens: int
    """Training tokens of a round."""
    shape: tuple[int, int, int]
    """(layers, width, heads) of the model."""
    batch_tokens: int
    lr: float
    held_out: int
    """Held-out documents of each partition, about."""
    unweighted: SetSelector
    """The selector without weights, which is fitted to find the partitions."""
    replaces: str
    """The parameter that turns the rounds on; a round's recipe has ``weights`` in its place."""
    update: Callable[[Sequence[float], Sequence[float]], np.ndarray]
    """(k,) weights of a round and (k,) signals to the next weights, (k,) float64, sum 1."""
    give: Callable[[Sequence[float]], None]
    """Receives the weights that were found, one for each partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """Requirements of a selector on the engine.

    The engine reads it before the fit, and again once the selector is fitted or loaded:
    ``embeddings``, ``classifier``, ``nearness`` and ``resources`` may depend on what was fitted.
    """

    target: bool = False
    """True if the selector needs ``target`` files; without them it is refused before any work."""
    least_examples: int = 1
    """Examples of its ``target`` that the selector needs, where it needs one."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """Files of examples that the fit reads, by the parameter that names each: as in ``target``, no
    example of an ``evaluate`` file may be there."""
    quality: str | None = None
    """Another column of the recipe that scores depend on (:attr:`Partition.quality`)."""
    quality_key: str = "quality"
    """The parameter that names that column, for errors."""
    resources: Resources = field(default_factory=Resources)
    """Resources of one worker that scores."""
    encoder: str = "static"
    """Encoder of a set selector's vectors, by its name in
    :mod:`penstock.selectors.encoders.embedding`."""
    embeddings: EmbeddingScores | None = None
    """Scores by shared vectors instead of by :meth:`Scorer.score`."""
    classifier: ClassifierScores | None = None
    """Scores by a classifier that shares a pass over the texts with others."""
    answers: AnswerScores | None = None
    """Scores by answers of a language model instead of by :meth:`Scorer.score`."""
    nearness: Nearness | None = None
    """The examples that documents are compared with, once the selector is fitted."""
    leave_out: Callable[[Documents], Scorer] | None = None
    """A batch of one document to this scorer without it, if scores are places among the documents
    of the fit: another text of a document is compared with the others alone."""
    merge: Merge | None = None
    """A set selector's second round."""
    thinning: Thinning | None = None
    """Documents that a set selector leaves out first."""
    model_ladder: ModelLadder | None = None
    """Models to train first."""
    cluster_weights: ClusterWeights | None = None
    """Weights of partitions to find first."""


class FittedSelector(Protocol):
    """What a scorer and a set selector share.

    Hyperparameters are the constructor's keywords. ``fit`` returns facts about the fit that go
    into the manifest and the report (accuracy, thresholds, what was chosen). Fitted state is
    saved as data: arrays, tables, model files; never a pickled object.
    """

    @property
    def version(self) -> int:
        """Version of the algorithm, raised whenever the same inputs would give other scores."""

    @property
    def requirements(self) -> Requirements:
        """Requirements on the engine, with the present parameters."""

    def identity(self) -> Mapping[str, Any]:
        """Return what scores depend on besides the data: parameters, hashes of files and code.

        Fingerprints include it, so it holds no path and is the same on every machine.
        """

    def fit(self, fitting: Fitting) -> Mapping[str, Any]: ...

    def save(self, directory: Path) -> None:
        """Write the fitted state as data files into an existing directory."""

    def load(self, directory: Path) -> None:
        """Read the files of :meth:`save`, on an instance with the same hyperparameters."""


class Scorer(FittedSelector, Protocol):
    """Scores each document from that document and the fitted state alone."""

    kind: ClassVar[Literal["scorer"]]

    def score(self, documents: Documents) -> np.ndarray:
        """Return one float32 per document, shape (n,); NaN excludes a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The documents that a set selector scores together, in the order of their hashes."""

    number: int
    hashes: np.ndarray
    """(n,) uint64, ascending: of (seed, id). Ties and draws are by hash, never by position."""
    vectors: np.ndarray
    """(n, d) int16 on the lattice (:func:`penstock.selectors.encoders.lattice.on_lattice`); zero
    where the text has no token."""
    quality: np.ndarray | None
    """(n,) float32 of the column :attr:`Requirements.quality`; NaN is never taken."""
    quality_scale: float = 1.0
    """The robust standard deviation of that column over the whole pool, the same in all partitions:
    the distance of its quartiles over 1.349; 0 where no two documents differ."""

    def __len__(self) -> int:
        return len(self.hashes)


class SetSelector(FittedSelector, Protocol):
    """Scores each document by the others in its *partition* of the pool.

    Every document is assigned to one of :attr:`partitions` by its vector or its hash, and a
    partition is scored as a whole, by one task. Scores of all partitions are one column, so they
    must be comparable: a rank within the partition over its size takes equally from each.
    """

    kind: ClassVar[Literal["set"]]

    @property
    def partitions(self) -> int:
        """Number of partitions, once fitted; about ``pool_size`` / documents that fit a task."""

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign documents to partitions: (n, d) int16 and (n,) uint64 to (n,) int64.

        A document's partition depends on that document only, so it is the same in any batch.
        """

    def score(self, partition: Partition) -> np.ndarray:
        """Return one float32 per document of the partition, (n,); NaN excludes a document."""


class MeanSelector(FittedSelector, Protocol):
    """Gives each document the mean of another column, :attr:`Requirements.quality`, in its group.

    The engine computes the means.
    """

    kind: ClassVar[Literal["mean"]]

    @property
    def by(self) -> Literal["source", "length"]:
        """The groups: sources, or twentieths of length."""


Selector: TypeAlias = Scorer | SetSelector | MeanSelector
"""A scorer, a set selector or a mean, as ``selector.kind`` states."""
