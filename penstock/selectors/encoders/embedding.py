"""Encoders by name, and embeddings of a pool's texts on the lattice.

Only the beginning of a text is embedded: the first 2,048 characters are twice what MiniLM reads and
43 % of a web pool's text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.hashing import hash_ids, mix
from penstock.selectors.base import Encoder, ParallelMap, serial_map
from penstock.selectors.encoders.distillation import distil
from penstock.selectors.encoders.encoders import EncoderName, load_encoder
from penstock.selectors.encoders.hidden import HiddenEncoder
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder

__all__ = ["CHARACTERS", "beginning", "embed", "embed_texts", "make_encoder"]

CHARACTERS = 2048
"""Characters of a text that are embedded by default."""

_DISTIL_TEXTS = 8192
"""Texts that give a static encoder its token frequencies and mean direction."""

_STATIC_TEXTS, _SENTENCE_TEXTS = 2048, 64
"""Texts of an item of work: about a second for a static encoder, three for a sentence encoder.
Vectors depend on their text alone and products are exact, so the size changes no score."""


def make_encoder(
    name: str,
    sample: Callable[[int], pa.Table],
    seed: int,
    *,
    spread: ParallelMap = serial_map,
    progress: Callable[[str], None] = lambda line: None,
) -> Encoder:
    """Make the encoder of a name.

    Args:
        name: ``sentence`` (all-MiniLM-L6-v2), ``static`` (distilled from it on this pool), the
            directory of a sentence-transformers model or of a saved static encoder, a hub name.
            ``DIRECTORY@9`` is hidden layer 9 of a transformers model. With ``@cuda`` behind it, all
            but static encoders run on a GPU.
        sample: Texts for distillation, as :attr:`penstock.selectors.base.Fitting.sample`.
        seed: The seed of the choice of those texts.
        spread: Distils in parallel.
        progress: Called before a distillation.

    Raises:
        InputError: There is no such model.
    """
    parts = EncoderName.of(name)
    device = "cuda" if parts.gpu else "cpu"
    if parts.layer is not None:
        return HiddenEncoder(parts.base, parts.layer, device=device)
    if parts.base == "sentence":
        return SentenceEncoder(device=device)
    if (Path(name) / "encoder.json").is_file():
        return load_encoder(Path(name))
    if name != "static":
        return SentenceEncoder(parts.base, device=device)
    teacher = SentenceEncoder()
    progress(f"distilling a static encoder from {teacher.name}")
    drawn = sample(2 * _DISTIL_TEXTS)
    hashes = hash_ids(drawn["id"], mix(seed, "distil"))
    rows = np.sort(np.argsort(hashes, kind="stable")[:_DISTIL_TEXTS])
    return distil(teacher, beginning(drawn["text"].take(pa.array(rows))), spread=spread)


def beginning(texts: pa.Array | pa.ChunkedArray, characters: int = CHARACTERS) -> pa.Array:
    """Cut each text to its beginning, in an array of its own."""
    cut = pc.utf8_slice_codeunits(texts, 0, characters)
    return cut.combine_chunks() if isinstance(cut, pa.ChunkedArray) else cut


def embed(texts: pa.Array, encoder: Encoder) -> np.ndarray:
    """Embed whole texts: (n,) large_string to (n, d) int16 on the lattice."""
    return on_lattice(encoder.encode(texts))


def embed_texts(
    texts: pa.Array | pa.ChunkedArray,
    encoder: Encoder,
    *,
    characters: int = CHARACTERS,
    spread: ParallelMap = serial_map,
) -> np.ndarray:
    """Embed the beginnings of texts in parallel: (n, d) int16 on the lattice."""
    size = _STATIC_TEXTS if isinstance(encoder, StaticEncoder) else _SENTENCE_TEXTS
    if encoder.resources.gpus:
        size, spread = _STATIC_TEXTS, serial_map  # workers may see no GPU
    starts = range(0, max(1, len(texts)), size)  # the width is known only from a result
    blocks = [beginning(texts.slice(at, size), characters) for at in starts]
    return np.concatenate(list(spread(embed, blocks, encoder)))
