"""GOT-D: documents whose removal of mass from elsewhere moves the pool nearest to the target.

Kang et al. 2024, *Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs*
(GOT-D). Of the entropic optimal transport between candidates, uniform, and the target's examples,
the candidates' potentials f are the gradient of the distance in their masses. Masses sum to 1, so
the gradient is calibrated: g_i is f_i minus the mean of the others' f. The most negative are taken:
more of them brings the pool nearer to the target. Unlike the distance to the nearest example, f
accounts for what the pool has already: an example that many documents are near to attracts less.

Published: all candidates at once, two million of the two domains nearest to the target. Here the
potentials of the examples are solved for on a sample, and extended to any document by

    f(x) = -eps log sum_j b_j exp((g_j - c(x, y_j)) / eps)

(:mod:`penstock.selectors.kernels.transport`). For a document of the sample that is its own f. Then
the pool may have any size: a document costs a product with each example.

Trade-off: embeddings of a general encoder in place of a DistilBERT fine-tuned on the target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids, mix
from penstock.selectors.algorithm import BuiltInScorer, read_array, read_json
from penstock.selectors.base import (
    Documents,
    EmbeddingScores,
    Encoder,
    Fitting,
    Nearness,
    Requirements,
    Target,
)
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.encoders.embedding import beginning, embed, embed_texts, load_encoder
from penstock.selectors.kernels.kmeans import sample_vectors
from penstock.selectors.kernels.transport import calibrated, extend, target_potentials
from penstock.selectors.parameters import EncoderModel, Positive, Whole, fitted

__all__ = ["GotD"]

_STATE = "got_d.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _State:
    """The fitted state."""

    encoder: Encoder
    examples: np.ndarray
    """(m, d) int16 on the lattice."""
    potentials: np.ndarray
    """(m,) float64, g."""
    eps: float
    centre: float
    """The mean of f over the sample."""
    factor: float
    """n / (n - 1): the mean of the others is less the document itself."""


class GotD(
    BuiltInScorer,
    name="got-d",
    summary="documents that move the pool nearest to the target: optimal transport",
    meaning="by how much a little more weight on it brings the pool nearer to the target",
    paper="Kang et al. 2024, GOT-D: Get more for less",
    version=1,
):
    """Scores documents by minus the calibrated gradient of the pool's distance to the target.

    Where a default differs from the paper, the published value is given with the reason.
    """

    encoder: EncoderModel = Field(
        default="static",
        description="As in :mod:`penstock.selectors.encoders.embedding`. Published: DistilBERT, "
        "fine-tuned on the target.",
    )
    eps: Positive = Field(
        default=0.05,
        description="The entropic temperature, in units of the mean cost between the sample and "
        "the examples: ott-jax's default, by which the paper solves. A smaller one is nearer to "
        "exact transport and takes more iterations.",
    )
    sample: Whole = Field(
        default=10_000,
        description="Documents that the potentials are solved for on, about. Published: all "
        "candidates, 2 million. A pair of one and an example is 4 bytes.",
    )
    examples: Whole = Field(
        default=2048,
        description="Examples of the target, at most, drawn by hash. Published: all.",
    )
    tolerance: Positive = Field(
        default=1e-3,
        description="Iterations end where the masses that examples get differ from theirs by "
        "less in all, of 1: ott-jax's default.",
    )
    iterations: Whole = Field(
        default=1000,
        description="Of Sinkhorn's algorithm, at most. ott-jax's default is 2,000.",
    )

    _state: _State | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(
            target=True,
            embeddings=EmbeddingScores(encoder=self.encoder, score=self.score_vectors),
            nearness=self._nearness(),
        )

    def _nearness(self) -> Nearness | None:
        state = self._state
        if state is None:
            return None
        return Nearness(
            encoder=self.encoder,
            compared=self._compared,
            vectors=state.examples,
            loaded=state.encoder,
        )

    def _drawn(self, targets: Sequence[Target], seed: int) -> np.ndarray:
        """Draw the examples by hash: their positions, (m,) int64, ascending."""
        texts = pa.array([target.text for target in targets], pa.large_string())
        keys = hash_ids(texts, mix(seed, "got-d"))
        return np.sort(np.argsort(keys, kind="stable")[: self.examples])

    def _compared(self, targets: Sequence[Target], seed: int) -> Sequence[int]:
        """Return the positions of the drawn examples that have a token of the encoder."""
        state, drawn = fitted(self._state, self.name), self._drawn(targets, seed)
        if len(drawn) > len(state.examples):
            texts = pa.array([targets[row].text for row in drawn], pa.large_string())
            drawn = drawn[embed_texts(texts, state.encoder).any(axis=1)]
        return drawn.tolist()

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Solve for the potentials on a sample.

        Returns:
            Facts: the ``sample``; ``examples`` that were used, of how many (``of``), and those
            ``without_a_token``; ``eps`` in units of the cost; ``iterations``, and the ``error``
            that they left; the ``distance`` between the sample and the target, the mean of f and g.

        Raises:
            SelectorError: There are fewer than two documents with a token, or no such example.
        """
        self._state = None
        texts = pa.array([target.text for target in fitting.target], pa.large_string())
        drawn = self._drawn(fitting.target, fitting.seed)
        encoder = fitting.encoder(self.encoder)
        examples = embed_texts(texts.take(pa.array(drawn)), encoder, spread=fitting.spread)
        examples = examples[examples.any(axis=1)]
        if not len(examples):
            raise SelectorError(
                key="target", expected="examples with a token of the encoder", got="none"
            )
        documents = sample_vectors(fitting, self.encoder, self.sample)
        if len(documents) < 2:
            raise SelectorError(key="sample", expected="two documents with a token", got="one")
        fitting.progress(
            f"transport between {len(documents):,} documents and {len(examples):,} examples"
        )
        found = target_potentials(
            documents,
            examples,
            eps=self.eps,
            tolerance=self.tolerance,
            iterations=self.iterations,
        )
        if found.error >= self.tolerance:
            fitting.progress(
                f"after {found.iterations:,} iterations {found.error:.2g} of the mass is not where "
                "it belongs: raise eps or iterations"
            )
        count = len(documents)
        self._state = _State(
            encoder=encoder,
            examples=examples,
            potentials=found.examples,
            eps=found.eps,
            centre=float(found.documents.mean()),
            factor=count / (count - 1),
        )
        return {
            "sample": count,
            "examples": len(examples),
            "of": len(texts),
            "without_a_token": len(drawn) - len(examples),
            "encoder": encoder.name,
            "eps": round(found.eps, 6),
            "iterations": found.iterations,
            "error": round(found.error, 6),
            "distance": round(float(found.documents.mean() + found.examples.mean()), 4),
            "gradient": {
                "least": round(float(calibrated(found.documents).min()), 4),
                "largest": round(float(calibrated(found.documents).max()), 4),
            },
        }

    def score(self, documents: Documents) -> np.ndarray:
        """Return minus g, (n,) float32; NaN for a document without a token."""
        texts = beginning(documents.column("text"))
        return self.score_vectors(documents, embed(texts, fitted(self._state, self.name).encoder))

    def score_vectors(self, documents: Documents, vectors: np.ndarray) -> np.ndarray:
        """Compute the scores from vectors of the texts: (n, d) int16 to (n,) float32."""
        state = fitted(self._state, self.name)
        rows = np.flatnonzero(vectors.any(axis=1) & ~blank(documents.column("text")))
        scores = np.full(len(vectors), np.nan, np.float32)
        found = extend(vectors[rows], state.examples, state.potentials, state.eps)
        scores[rows] = (state.centre - found) * state.factor
        return scores

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the encoder."""
        return "the encoder knows no token of its text"

    def save(self, directory: Path) -> None:
        state = fitted(self._state, self.name)
        state.encoder.save(directory)
        np.save(directory / "examples.npy", state.examples)
        np.save(directory / "potentials.npy", state.potentials)
        numbers = {"eps": state.eps, "centre": state.centre, "factor": state.factor}
        (directory / _STATE).write_text(json.dumps(numbers) + "\n")

    def load(self, directory: Path) -> None:
        self._state = None
        examples = read_array(directory / "examples.npy")
        potentials = read_array(directory / "potentials.npy")
        numbers = {
            key: read_json(directory / _STATE, key, float) for key in ("eps", "centre", "factor")
        }
        good = examples.dtype == np.int16 and examples.ndim == 2 and len(examples)
        if (
            not good
            or potentials.dtype != np.float64
            or potentials.shape != examples.shape[:1]
            or not np.isfinite([*potentials, *numbers.values()]).all()
            or numbers["eps"] <= 0
        ):
            raise ArtefactError(
                file=directory,
                expected="examples (m, d) int16 and a finite potential of each",
                got=f"{examples.dtype} of shape {examples.shape}, "
                f"{potentials.dtype} of shape {potentials.shape}",
                fix="fit it again",
            )
        self._state = _State(
            encoder=load_encoder(directory), examples=examples, potentials=potentials, **numbers
        )
