"""Distillation of a static encoder from a sentence encoder, by model2vec with a pool's statistics.

model2vec (Tulkens & van Dongen 2024) needs no texts: each token goes through the teacher alone,
PCA shortens the outputs, and frequent tokens are weighted down by a / (a + p) of Arora et al. 2017
(*A Simple but Tough-to-Beat Baseline for Sentence Embeddings*, eq. 3). A selector has a pool, hence
two changes:

- p is the token's frequency in the pool. model2vec estimates it by Zipf's law from the order of the
  vocabulary, and BERT's lists a thousand single characters, most of them rare, before "the".
- The mean of the pool's vectors, which all texts have in common, is subtracted. Arora et al.
  subtract their first singular vector, model2vec nothing.

Mean rank correlation with the teacher's similarities, over 800 questions: 0.16 for model2vec, 0.29
with frequencies, 0.41 with both. Learned maps, vectors of words and other weights were tried, and
none was clearly better (``docs/lab.md``, ``benchmarks/agreement.py``). Trade-off: the encoder is
specific to the pool, and another pool needs another one.

The teacher's token vectors depend on the teacher alone (:class:`TokenVectors`), and are 37 of the
39 core-seconds of a distillation from all-MiniLM-L6-v2. So they are computed once and kept; a pool
adds weights and a centre.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.array_files import load_array
from penstock.errors import ArtefactError
from penstock.language_models.devices import one_thread
from penstock.selectors.base import ParallelMap, serial_map
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import StaticEncoder, token_ids
from penstock.tokenization.examining import examined

__all__ = ["DIM", "TokenVectors", "distil", "encode_vocabulary"]

DIM = 256
"""Dimensions of token vectors; 128, 256 and 384 agreed with the teacher equally well."""

_SIF = 1e-4
"""The constant a, as in model2vec."""

_TOKENS_AT_ONCE = 256
"""Tokens of a batch of the teacher: sequences of one length, so no padding. Bits were equal for 128
and 256, and for 1 and 2 threads; one thread is used nevertheless."""

_PART = 16 * _TOKENS_AT_ONCE
"""Tokens of an item of work: the 30,000 of BERT's English vocabulary are 8 items."""

_NOT_TEXT = re.compile(r"\[(unused\d+|PAD|UNK|CLS|SEP|MASK)\]|<.*>")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenVectors:
    """A teacher's vocabulary as vectors: the part of a distillation that no pool changes."""

    teacher: str
    """The teacher's name."""
    tokenizer: Any
    """The teacher's ``tokenizers.Tokenizer``, without truncation and padding."""
    ids: np.ndarray
    """(t,) int64, ascending: the tokens that texts can hold."""
    vectors: np.ndarray
    """(t, d) float64: the first d principal components of the teacher's outputs.

    In float64, since the weights of a pool are multiplied in before a table is rounded to float32:
    60 MB for BERT's English vocabulary."""

    def save(self, directory: Path) -> None:
        """Write ``vocabulary.json``, ``tokenizer.json`` and two arrays."""
        (directory / "vocabulary.json").write_text(json.dumps({"teacher": self.teacher}))
        self.tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
        np.save(directory / "ids.npy", self.ids)
        np.save(directory / "vectors.npy", self.vectors)

    @classmethod
    def load(cls, directory: Path) -> TokenVectors:
        """Read the files of :meth:`save`.

        Raises:
            ArtefactError: A file cannot be read, or the arrays do not fit together.
        """
        from tokenizers import Tokenizer

        try:
            teacher = json.loads((directory / "vocabulary.json").read_text())["teacher"]
            tokenizer = Tokenizer.from_str(examined(directory / "tokenizer.json"))
            ids = load_array(directory / "ids.npy")
            vectors = load_array(directory / "vectors.npy")
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ArtefactError(f"not token vectors: {error}", file=directory) from error
        known = np.fromiter(tokenizer.get_vocab().values(), np.int64)
        if vectors.ndim != 2 or ids.shape != vectors.shape[:1] or not np.isin(ids, known).all():
            raise ArtefactError("the arrays do not fit together", file=directory)
        return cls(teacher=teacher, tokenizer=tokenizer, ids=ids, vectors=vectors)


def encode_vocabulary(
    teacher: SentenceEncoder, *, dim: int = DIM, spread: ParallelMap = serial_map
) -> TokenVectors:
    """Encode each token of a teacher's vocabulary alone.

    Args:
        teacher: The encoder whose token outputs are taken.
        dim: Dimensions of the vectors, at most the teacher's.
        spread: Encodes tokens in parallel.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(teacher.model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = _text_tokens(tokenizer)
    parts = [ids[at : at + _PART] for at in range(0, len(ids), _PART)]
    outputs = np.concatenate(list(spread(_encode_tokens, parts, teacher)))
    vectors = _principal(outputs, dim)
    return TokenVectors(teacher=teacher.name, tokenizer=tokenizer, ids=ids, vectors=vectors)


def distil(vocabulary: TokenVectors, texts: pa.Array) -> StaticEncoder:
    """Distil a teacher into one vector a token, with a pool's weights and centre.

    Args:
        vocabulary: The teacher's token vectors.
        texts: (n,) large_string, some thousands of the pool's texts.
    """
    tokenizer, ids, vectors = vocabulary.tokenizer, vocabulary.ids, vocabulary.vectors
    size = max(tokenizer.get_vocab().values()) + 1
    counts = np.bincount(token_ids(tokenizer, texts)[0], minlength=size)
    frequencies = (counts + 0.5) / max(1, counts.sum())  # an unseen token is half a count
    weights = _SIF / (_SIF + frequencies)
    table = np.zeros((size, vectors.shape[1]))
    table[ids] = vectors * weights[ids, None]

    origin = np.zeros(vectors.shape[1])
    encoded = StaticEncoder(vocabulary.teacher, tokenizer, table, origin).encode(texts)
    centre = encoded.sum(axis=0, dtype=np.float64) / max(1, len(encoded))
    return StaticEncoder(vocabulary.teacher, tokenizer, table, centre)


def _text_tokens(tokenizer: Any) -> np.ndarray:
    """List the tokens that texts can hold, neither special nor ``[unused7]``: (t,) ascending."""
    special = {
        index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    return np.array(
        sorted(
            index
            for token, index in tokenizer.get_vocab().items()
            if index not in special and not _NOT_TEXT.fullmatch(token)
        )
    )


def _encode_tokens(ids: np.ndarray, teacher: SentenceEncoder) -> np.ndarray:
    """Encode single tokens by the teacher: (t,) ids to (t, d) float32.

    Each is between the teacher's special tokens, ``[CLS] token [SEP]`` in BERT. Returns the mean of
    the outputs.
    """
    import torch

    tokenizer = teacher.model.tokenizer
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    at = framed.index(alone[0])
    before, after = framed[:at], framed[at + len(alone) :]
    vectors = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(ids), _TOKENS_AT_ONCE):
            batch = ids[start : start + _TOKENS_AT_ONCE].tolist()
            tokens = torch.tensor([[*before, token, *after] for token in batch])
            features = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            output = teacher.model[0](features)["token_embeddings"]
            vectors.append(output.mean(dim=1).numpy())
    return np.concatenate(vectors)


def _principal(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Project (t, d) float32 on the first ``dim`` principal components: (t, min(dim, d)) float64.

    In float64 on one thread; each component's largest loading is positive.
    """
    with one_thread():
        centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dim]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        return np.asarray(centred @ axes)
