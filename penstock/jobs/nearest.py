"""The example of a target that is nearest to a document, for selectors that compare with examples.

Vectors of documents are those that were made for the pool, where they were made; else the document
is embedded, and so are the examples where the fitted selector has no vectors of them. That is done
by static encoders alone: a sentence encoder takes longer to load than all else that ``why`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, BadInput, UnmadeError
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.report.excerpts import excerpt
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Column, Models, make_embeddings, read_vectors
from penstock.selectors.base import Encoder, Nearness
from penstock.selectors.encoders.embedding import CHARACTERS, embed_texts

__all__ = ["ExampleSearch"]

_BYTES = 2**22
"""Most bytes of examples that are embedded: about a second of a static encoder on one core."""

_SHOWN = 200
"""Characters of an example's text that are shown."""

_LEFT_OUT = "its nearest example is left out"


class ExampleSearch:
    """Finds the nearest of the examples that a fitted selector compares documents with.

    Args:
        column: The column; its selector has its fitted state.
        nearness: That of the selector's requirements.
        facts: Facts of the selector's fit.
        curated: What is made of the recipe.
    """

    def __init__(
        self,
        column: Column,
        nearness: Nearness,
        facts: Mapping[str, Any],
        curated: Curated | PartiallyCurated,
    ) -> None:
        self._targets = column.target.examples
        self._nearness = nearness
        self._curated = curated
        self._name = nearness.encoder
        if self._name == "auto":
            self._name = str(facts.get("encoder_kind", "static"))
        self._rows = nearness.compared(self._targets, curated.recipe.seed)
        self._examples = nearness.vectors
        self._encoder = nearness.loaded
        self._pool_vectors: Artefact | None = None
        self._searched = False

    def find(self, fate: Mapping[str, Any], embeddings: str | None) -> dict[str, Any]:
        """Return ``nearest`` of a document, or ``problem``: why it is left out.

        Args:
            fate: An entry as of :func:`penstock.jobs.why.fates_of`, of a document with scores.
            embeddings: Fingerprint of the pool's vectors, where the column was made of them.

        Returns:
            ``nearest`` has ``text``, the beginning of the example; ``benchmark``; ``file``, from
            the recipe's directory on, and ``line``; and ``similarity``, the cosine of both vectors.
            Where the score is the document's best rank, ``ranked_by`` has the same of the example
            that gives it, and the ``rank`` from 1; of several the most similar. Beyond the last
            rank that is told apart there is ``last_rank`` instead. ``problem`` is one line.
        """
        try:
            vector = self._vector(fate, embeddings)
            examples = self._vectors()
        except UnmadeError:
            return {"problem": f"{_LEFT_OUT}: the encoder {self._name} is not there any more"}
        except (ArtefactError, BadInput) as error:
            return {"problem": f"{_LEFT_OUT}: {error}"}
        if len(examples) != len(self._rows):
            return {"problem": f"{_LEFT_OUT}: the examples are not those of the fit"}
        if not vector.any():
            return {"problem": f"{_LEFT_OUT}: the encoder knows no token of the text"}
        return self._found(vector, examples)

    def _found(self, vector: np.ndarray, examples: np.ndarray) -> dict[str, Any]:
        cosines = _cosines(vector, examples)
        nearest = {"nearest": self._example(int(cosines.argmax()), cosines)}
        if self._nearness.ranks is None:
            return nearest
        ranks = self._nearness.ranks(vector)
        rank, last = int(ranks.min()), self._nearness.last_rank
        if rank > last:
            return {**nearest, "last_rank": last}
        best = int(np.where(ranks == rank, cosines, -np.inf).argmax())
        return {**nearest, "ranked_by": {**self._example(best, cosines), "rank": rank}}

    def _example(self, best: int, cosines: np.ndarray) -> dict[str, Any]:
        example = self._targets[self._rows[best]]
        file, _, line = example.place.rpartition(":")
        return {
            "text": excerpt(example.text, _SHOWN),
            "benchmark": example.benchmark,
            "file": file.removeprefix(f"{self._curated.recipe.directory}/"),
            "line": int(line),
            "similarity": round(float(cosines[best]), 6),
        }

    def _vector(self, fate: Mapping[str, Any], embeddings: str | None) -> np.ndarray:
        """Return the vector of a document, (d,) int16 on the lattice."""
        characters = self._nearness.characters or CHARACTERS
        vectors = self._of_pool(embeddings) if characters == CHARACTERS else None
        if vectors is not None:
            unit = next(one for one in self._curated.pool.units if one.name == fate["unit"])
            place = int(np.searchsorted(unit.numbers(), fate["row"]))
            return np.array(read_vectors(vectors.path, vectors.files[unit.number])[place])
        text = pa.array([fate["text"]], pa.large_string())
        own: np.ndarray = embed_texts(text, self._fast_encoder(), characters=characters)[0]
        return own

    def _vectors(self) -> np.ndarray:
        """Return the vectors of the examples, (k, d) int16 on the lattice."""
        if self._examples is None:
            encoder = self._fast_encoder()
            texts = [self._targets[row].text for row in self._rows]
            characters = self._nearness.characters or CHARACTERS
            size = sum(min(len(text), characters) for text in texts)
            if size > _BYTES:
                raise BadInput(f"{size:,} characters of examples take long to embed")
            column = pa.array(texts, pa.large_string())
            self._examples = embed_texts(column, encoder, characters=characters)
        return self._examples

    def _of_pool(self, embeddings: str | None) -> Artefact | None:
        """Find the vectors of the pool's documents; None where they were not made."""
        if not self._searched:
            self._searched = True
            with closing(LocalRunner(1)) as runner:
                models = self._models(runner)
                try:
                    self._pool_vectors = (
                        make_embeddings(self._name, models)
                        if embeddings is None
                        else models.workspace.find("embeddings", embeddings)
                    )
                except UnmadeError:
                    self._pool_vectors = None
        return self._pool_vectors

    def _fast_encoder(self) -> Encoder:
        """Return the encoder, if it is one that loads fast."""
        if self._encoder is None:
            with closing(LocalRunner(1)) as runner:
                self._encoder = self._models(runner).load_encoder(self._name)
        if self._encoder.resources.slow:
            raise BadInput(f"the encoder {self._encoder.name} takes seconds to load")
        return self._encoder

    def _models(self, runner: LocalRunner) -> Models:
        recipe = self._curated.recipe
        return Models(
            pool=self._curated.pool,
            workspace=Workspace(recipe.work_directory, read_only=True),
            runner=runner,
            seed=recipe.seed,
        )


def _cosines(vector: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Return the similarity of each example: (d,) and (k, d) int16 to (k,) float64."""
    lengths = np.linalg.norm(examples.astype(np.float64), axis=1)
    products = (examples.astype(np.float32) @ vector.astype(np.float32)).astype(np.float64)
    lengths[lengths == 0] = np.inf  # nothing is near to an example without a token
    cosines: np.ndarray = products / lengths / np.linalg.norm(vector.astype(np.float64))
    cosines[np.isinf(lengths)] = -np.inf
    return cosines
