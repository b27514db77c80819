"""Agreement of static encoders with the sentence encoder that they are distilled from.

For each target, the sample's best tenth by BETR (best rank under any example, ties by the mean of
1 / rank) is found twice, with the vectors of all-MiniLM-L6-v2 and with those of a static variant.
``agreement`` is the share of the first that is in the second; chance is 0.1. ``correlation`` is the
mean over examples of the rank correlation of their similarities to the documents.

    python benchmarks/agreement.py --json --data 'pool/web-*.jsonl.zst' \
        --target arc_easy.train.jsonl --target openbookqa.train.jsonl

``ours`` is the agreement of the encoder that ``static`` names, ``peer`` that of model2vec's recipe,
both as means over the targets. Documents are drawn by a hash of their ids, the texts that variants
are fitted on after them. The sentence encoder takes 65 ms of CPU time a document, so ``--cache``
keeps its vectors.

Without ``--data`` documents are docstrings of installed source files, and the first 300 characters
of every tenth are the examples instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import docstrings, jsonl

from penstock.language_models.devices import one_thread
from penstock.selectors.encoders.distillation import TokenVectors, distil, encode_vocabulary
from penstock.selectors.encoders.embedding import embed_texts
from penstock.selectors.encoders.lattice import normalised, on_lattice
from penstock.selectors.encoders.sentence import SentenceEncoder
from penstock.selectors.encoders.static import token_ids
from penstock.selectors.targets import read_targets

CHARACTERS = 2048
FITTED_TEXTS = 8192
SIF = 1e-4
TEACHERS_TOKENS = 256

Encode = Callable[[pa.Array], np.ndarray]
"""Texts (n,) large_string to vectors (n, d) float32, L2-normalised."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A static encoder's vectors in parts that can be changed one at a time."""

    sif: float = SIF
    """The constant a of a token's weight a / (a + p)."""
    zipf: bool = False
    """Whether p is guessed from the vocabulary's order, as model2vec does."""
    dim: int = 256
    centred: bool = True
    """Whether the mean of the texts' vectors is subtracted."""
    tokens: int | None = None
    """The most tokens of a text; all of them by default."""
    damped: bool = False
    """Whether a token counts by the root of its number in a text."""
    removed: int = 0
    """First principal components of the texts' vectors that are removed."""
    whitening: float = 0
    """Principal components are divided by their variance to the power of half of this."""

    def fit(self, vocabulary: TokenVectors, texts: pa.Array) -> Encode:
        """Fit the weights, the centre and the components on texts."""
        tokenizer, ids = vocabulary.tokenizer, vocabulary.ids
        size = max(tokenizer.get_vocab().values()) + 1
        if self.zipf:
            places = 1 / np.arange(1, len(ids) + 1)
            frequencies = places / places.sum()
        else:
            counts = np.bincount(token_ids(tokenizer, texts)[0], minlength=size)
            frequencies = ((counts + 0.5) / counts.sum())[ids]
        table = np.zeros((size, self.dim))
        table[ids] = (
            vocabulary.vectors[:, : self.dim] * (self.sif / (self.sif + frequencies))[:, None]
        )

        def directions(some: pa.Array) -> np.ndarray:
            return normalised(self._sums(table, *token_ids(tokenizer, some)))

        sample = directions(texts)
        centre = sample.mean(axis=0, dtype=np.float64) * self.centred
        turned = np.eye(self.dim)
        if self.removed or self.whitening:
            centred = normalised(sample - centre).astype(np.float64)
            variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
            scales = np.maximum(variances, 1e-9) ** (-self.whitening / 2)
            scales[len(scales) - self.removed :] = 0  # eigh's are ascending
            turned = axes * scales
        return lambda some: normalised((directions(some) - centre) @ turned)

    def _sums(self, table: np.ndarray, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(offsets) - 1, table.shape[1]))
        for row, (start, end) in enumerate(pairwise(offsets)):
            part = tokens[start:end][: self.tokens]
            if self.damped:
                part, counts = np.unique(part, return_counts=True)
                sums[row] = np.sqrt(counts) @ table[part]
            else:
                sums[row] = table[part].sum(axis=0)
        return sums


VARIANTS = {
    "model2vec's recipe": Variant(zipf=True, centred=False),
    "frequencies, no centre": Variant(centred=False),
    "a = 3e-5": Variant(sif=3e-5),
    "384 dimensions": Variant(dim=384),
    "roots of counts": Variant(damped=True),
    "256 tokens": Variant(tokens=TEACHERS_TOKENS),
    "3 components removed": Variant(removed=3),
    "whitened by 0.5": Variant(whitening=0.5),
    "whitened by 1": Variant(whitening=1),
    "256 tokens, 3 components removed": Variant(tokens=TEACHERS_TOKENS, removed=3),
    "256 tokens, whitened by 0.5": Variant(tokens=TEACHERS_TOKENS, whitening=0.5),
}


def main() -> None:
    """Measure the variants, print a line for each, and the JSON object as the last line."""
    arguments = _arguments()
    documents, fitted, targets = _texts(arguments)
    teacher = SentenceEncoder()
    by_teacher = {
        name: _cached(arguments.cache, texts, lambda some: embed_texts(some, teacher))
        for name, texts in {"": documents, **targets}.items()
    }
    true_ranks = {name: ranks(by_teacher[name], by_teacher[""]) for name in targets}
    vocabulary = _vocabulary(arguments.cache, teacher)
    static = _narrowed(vocabulary, Variant().dim)
    encoders: dict[str, Callable[[], Encode]] = {
        "static": lambda: distil(static, fitted).encode,
        **{name: lambda one=one: one.fit(vocabulary, fitted) for name, one in VARIANTS.items()},
    }
    found = {}
    for name, make in encoders.items():
        start = time.process_time()
        with one_thread():
            encode = make()
        fit_seconds = time.process_time() - start
        vectors = on_lattice(encode(documents))
        found[name] = {
            target: agreement(ranks(on_lattice(encode(texts)), vectors), true_ranks[target])
            for target, texts in targets.items()
        }
        if not arguments.json:
            each = ", ".join(f"{key} {a:.3f} ({r:.3f})" for key, (a, r) in found[name].items())
            print(f"{name}: {each}; fitted in {fit_seconds:.1f} s of CPU time", flush=True)
    ours, peer = (
        statistics.mean(a for a, _ in found[name].values())
        for name in ("static", "model2vec's recipe")
    )
    result = {
        "name": "agreement",
        "unit": "share of the best tenth",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ours / peer, 2),
        "checked": f"{len(documents)} documents; "
        + ", ".join(f"{len(texts)} examples of {name}" for name, texts in targets.items()),
        "agreement": {
            name: {t: round(a, 4) for t, (a, _) in one.items()} for name, one in found.items()
        },
        "correlation": {
            name: {t: round(r, 4) for t, (_, r) in one.items()} for name, one in found.items()
        },
    }
    print(json.dumps(result))


def agreement(judged: np.ndarray, true_ranks: np.ndarray) -> tuple[float, float]:
    """Compute the agreement of the best tenth and the mean rank correlation.

    Args:
        judged: (e, n), each document's rank under each example by the encoder that is judged.
        true_ranks: (e, n), the same by the teacher.
    """
    best, true_best = _best_tenth(judged), _best_tenth(true_ranks)
    n = judged.shape[1]
    middle, variance = (n + 1) / 2, (n * n - 1) / 12
    products = np.einsum("en,en->", judged, true_ranks) / judged.size  # exact: integers
    shared = len(np.intersect1d(best, true_best)) / len(true_best)
    return shared, float((products - middle**2) / variance)


def ranks(examples: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return each document's rank under each example, from 1: (e, n) int64."""
    similarities = examples.astype(np.float32) @ documents.astype(np.float32).T
    order = np.argsort(-similarities, axis=1, kind="stable")
    places = np.empty(order.shape, np.int64)
    np.put_along_axis(places, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    return places


def _best_tenth(ranked: np.ndarray) -> np.ndarray:
    order = np.lexsort((-(1 / ranked).mean(axis=0), ranked.min(axis=0)))
    return order[: max(1, len(order) // 10)]


def _narrowed(vocabulary: TokenVectors, dim: int) -> TokenVectors:
    """Keep the first components, as a vocabulary of that width has them."""
    return TokenVectors(
        teacher=vocabulary.teacher,
        tokenizer=vocabulary.tokenizer,
        ids=vocabulary.ids,
        vectors=vocabulary.vectors[:, :dim],
    )


def _texts(arguments: argparse.Namespace) -> tuple[pa.Array, pa.Array, dict[str, pa.Array]]:
    """Draw the documents that are judged, those that are fitted on, and the examples."""
    if arguments.data:
        pages = ((one["id"], one["text"]) for one in jsonl(arguments.data))
    else:
        pages = ((text, text) for text in docstrings())
    drawn = sorted(
        ((_hash("1" + key), text[:CHARACTERS]) for key, text in pages if text.strip()),
        key=lambda pair: pair[0],
    )
    texts = [text for _, text in drawn]
    if not arguments.target:
        targets = {"beginnings": _array(text[:300] for text in texts[::10])}
        texts = [text for place, text in enumerate(texts) if place % 10]
    else:
        targets = {
            path.name.split(".")[0]: _array(
                sorted({target.text for target in read_targets(path)}, key=_hash)
            )
            for path in arguments.target
        }
    judged = arguments.documents
    return (
        _array(texts[:judged]),
        _array(texts[judged : judged + FITTED_TEXTS]),
        {name: some[: arguments.examples] for name, some in targets.items()},
    )


def _array(texts: Iterable[str]) -> pa.Array:
    return pa.array(list(texts), pa.large_string())


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _cached(cache: Path | None, texts: pa.Array, encode: Encode) -> np.ndarray:
    """Encode texts, or read their vectors from the cache."""
    if cache is None:
        return encode(texts)
    digest = _hash(json.dumps(texts.to_pylist())).hex()
    file = cache / f"{digest[:32]}.npy"
    if not file.exists():
        print(f"the sentence encoder reads {len(texts)} texts", file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, encode(texts))
    return np.load(file)


def _vocabulary(cache: Path | None, teacher: SentenceEncoder) -> TokenVectors:
    """Encode the vocabulary in all dimensions, or read it from the cache."""
    widest = max(one.dim for one in VARIANTS.values())
    if cache is None:
        return encode_vocabulary(teacher, dim=widest)
    directory = cache / "vocabulary"
    if not directory.exists():
        directory.mkdir(parents=True)
        encode_vocabulary(teacher, dim=widest).save(directory)
    return TokenVectors.load(directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with `id` and `text`")
    parser.add_argument("--target", type=Path, action="append", help="a file of examples")
    parser.add_argument("--documents", type=int, default=4000, help="how many are ranked")
    parser.add_argument("--examples", type=int, default=800, help="of a target, at most")
    parser.add_argument("--cache", type=Path, help="directory of the sentence encoder's vectors")
    return parser.parse_args()


if __name__ == "__main__":
    main()
