"""The pool's vectors: one pass over the text, shared by all selectors that want them.

A unit's vectors are int16 on the lattice
(:func:`penstock.selectors.encoders.lattice.on_lattice`), half
the size of float32 and exact in every product; rows without a token are zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.pipeline.accounting import check_sum
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.units import Unit, iter_documents, units_of
from penstock.selectors.base import Encoder
from penstock.selectors.encoders.embedding import CHARACTERS, beginning, embed
from penstock.storage import AnyPath, atomic_file

__all__ = ["make_embeddings", "read_vectors"]

_VERSION = 1


def make_embeddings(
    name: str, models: Models, progress: Callable[[str], None] = lambda line: None
) -> Artefact:
    """The vectors of a corpus under an encoder, found or made."""
    encoder = models.encoder(name)
    config = {"characters": CHARACTERS}
    inputs = {"corpus": models.corpus.fingerprint, "encoder": encoder.fingerprint}

    def work(draft: Draft) -> Artefact:
        units = units_of(models.corpus)
        left = [unit for unit in units if draft.done(unit.name) is None]
        state = (models.load_encoder(name), draft.path) if left else None
        needs = getattr(state[0], "needs", None) if state else None
        for index, record in models.runner.run(_embed_unit, left, state, _as_it_is, needs):
            draft.record(left[index].name, [record])
            progress(f"embedded {left[index].documents:,} documents of {left[index].name}")
        done = [record for unit in units for record in draft.done(unit.name) or ()]
        kept = models.corpus.facts["documents"]["kept"]
        embedded = sum(record.facts["documents"] for record in done)
        check_sum(f"{draft.path}", ("documents kept in the corpus", kept), {"embedded": embedded})
        width = max((record.facts["width"] for record in done), default=0)
        facts = {"encoder": encoder.facts["encoder"], "documents": embedded, "width": width}
        return draft.publish([unit.name for unit in units], facts)

    return models.workspace.make("embeddings", _VERSION, config, inputs, work)


def read_vectors(embeddings: AnyPath, record: FileRecord) -> np.ndarray:
    """A unit's vectors, after comparing the checksum: (n, d) int16, mapped, not copied."""
    path = Artefact(embeddings, {}, ()).verified(record)
    with pa.memory_map(str(path)) as source:
        vectors = pa.ipc.open_file(source).get_batch(0).column("vector")
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


def _as_it_is(state: tuple[Encoder, AnyPath]) -> tuple[Encoder, AnyPath]:
    """Setup of the pass: the encoder, kept loaded by each worker."""
    return state


def _embed_unit(unit: Unit, state: tuple[Encoder, AnyPath]) -> FileRecord:
    encoder, directory = state
    parts = [
        embed(beginning(documents.column("text")), encoder)
        for documents in iter_documents(unit, ("text",))
    ]
    vectors = np.concatenate(parts)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    batch = pa.record_batch({"vector": rows})
    name = f"{unit.name}.arrow"
    with atomic_file(directory / name) as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
    return FileRecord.of(name, sink, documents=len(vectors), width=vectors.shape[1])
