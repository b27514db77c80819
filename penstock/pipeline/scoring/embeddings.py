"""The embeddings stage: vectors of the pool, in one pass over the text for all selectors.

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
    """Find or make the vectors of a corpus under an encoder."""
    encoder = models.encoder(name)
    config = {"characters": CHARACTERS}
    inputs = {"corpus": models.corpus.fingerprint, "encoder": encoder.fingerprint}

    def work(draft: Draft) -> Artefact:
        units = {unit.name: unit for unit in units_of(models.corpus)}
        state = None
        if any(draft.done(part) is None for part in units):
            state = (models.load_encoder(name), draft.path)
        records = draft.fill(
            models.runner.run,
            _embed_unit,
            units,
            state,
            lambda unit, _: progress(f"embedded {unit.documents:,} documents of {unit.name}"),
            keep_state=True,
            needs=state[0].resources if state else None,
        )
        kept = models.corpus.facts["documents"]["kept"]
        embedded = sum(record.facts["documents"] for record in records)
        check_sum(f"{draft.path}", ("documents kept in the corpus", kept), {"embedded": embedded})
        width = max((record.facts["width"] for record in records), default=0)
        facts = {"encoder": encoder.facts["encoder"], "documents": embedded, "width": width}
        return draft.publish(units, facts)

    return models.workspace.make("embeddings", _VERSION, config, inputs, work)


def read_vectors(embeddings: AnyPath, record: FileRecord) -> np.ndarray:
    """Map a unit's vectors, after comparing the checksum: (n, d) int16, not copied."""
    with pa.memory_map(str(record.verified(embeddings))) as source:
        vectors = pa.ipc.open_file(source).get_batch(0).column("vector")
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


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
