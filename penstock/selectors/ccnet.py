"""CCNet's perplexity filter: documents that read like a reference text, by an n-gram model.

Wenzek et al. 2020, *CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data*,
section 3.3. A 5-gram model of Wikipedia reads each line of a document; over its lines the
perplexity is 10^(-sum of log10 p / sum of (tokens + 1)), one end of sentence a line. Lines are
stripped, lower-cased, freed of accents, with 0 for every digit and one form of each punctuation
mark. CCNet splits the pool at the 30th and 60th percentiles: head, middle, tail.

The model is interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3) as lmplz of KenLM
estimates it (Heafield et al. 2013), written anew. With a the adjusted count (for n-grams of the
highest order and those that begin a sentence how often they occur, else before how many different
words)::

    p(w | h) = (a(hw) - D(a(hw))) / sum_x a(hx) + gamma(h) p(w | h')

and p(w | nothing) interpolated with 1 / V, V being the words of the reference, the end of sentence
and the unknown word, which has no other count. CCNet's tokens are 65,536 pieces of SentencePiece;
ours are words, single punctuation marks and single characters of scripts without spaces between
words. Words need no second model, and their hashes no dictionary. Pieces would give an unknown
word a probability by its spelling; here it has the unknown word's probability, about 10^-6.

**Same bytes.** Words are represented by hashes of 63 bits. Every order is a hash table whose keys
are (place of the words before, place of the word), so no n-gram is mistaken for another. Logarithms
are whole multiples of 2^-20, so sums are exact.

A model of 2 million tokens of Wikipedia reads 8,400 documents (20 MB) a second on a core.

Trade-off: perplexity finds text that is worded like the reference, which may be neither true nor
useful. A line of one common word is easy, so stubs come early. Text of the reference itself is
memorised. With half of a pool's Wikipedia as reference, the median perplexity was 38 in that half
and 164 in the other (6 and 151 with ``prune: 0``). The 30th percentile of the whole pool was about
420. By ``low``, documents of ``source`` come first, as intended; but those that were counted come
before those that were not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from penstock.errors import InputError, SelectorError
from penstock.hashing import hash_documents, mix
from penstock.selectors.algorithm import BuiltInScorer
from penstock.selectors.bands import Band, BandName
from penstock.selectors.base import Documents, Fitting, Requirements
from penstock.selectors.classifiers.classifier import blank
from penstock.selectors.kernels.ngram import NgramModel, hash_tokens
from penstock.selectors.parameters import (
    File,
    Natural,
    Text,
    Whole,
    at_parameter,
    fitted,
)
from penstock.selectors.targets import lines_in, texts_in

__all__ = ["NgramPerplexity"]

_JUDGED = 10_000
"""Documents of the sample from which the pool's perplexities are estimated."""

_PERCENTS = (5, 30, 50, 60, 95)
"""Quantiles in the facts: among them CCNet's ends of head and middle."""

_BLOCK = 4096
"""Documents, or lines of a plain text, that are split into words at a time."""


class NgramPerplexity(
    BuiltInScorer,
    name="ccnet",
    summary="documents an n-gram model of a reference finds easy, or hard",
    meaning="log perplexity, minus it, or minus its distance from the median, as `band` says",
    paper="Wenzek et al. 2020, CCNet; Chen & Goodman 1998 (Kneser-Ney)",
    version=2,
):
    """Scores documents so that a budget takes a band of n-gram perplexity.

    :mod:`penstock.selectors.bands` explains how a band becomes a score. Where a default differs
    from CCNet, theirs is given as "published", with the reason.
    """

    reference: File | None = Field(
        default=None,
        description="A file of reference text: JSON lines (``.jsonl``; text, or question and "
        "answer), or plain text, a sentence or a paragraph a line; optionally ``.gz`` or "
        "``.zst``. Published: Wikipedia. Examples of a benchmark are a poor reference: text "
        "that is worded like questions is neither good nor about their subjects.",
    )
    source: Text | None = Field(
        default=None,
        description="Instead, the pool's documents of this source. One of the two is needed.",
    )
    band: BandName = Field(
        default="low",
        description="``low`` (CCNet's head), ``middle`` or ``high``.",
    )
    order: Whole = Field(
        default=5,
        le=9,
        description="Of the longest n-grams, as published.",
    )
    prune: Natural = Field(
        default=1,
        description="N-grams of three words and more that occur this often or less are dropped, "
        "and their probability is left to shorter ones. Published: 0. Of 10 million tokens that "
        "is 479 MiB of n-grams, and 82 with 1, which reads 1.4 times as fast, ranked 261 pages "
        "that people labelled as well (0.705 for 0.698, area under the curve; 0.76 for the "
        "number of words alone), and memorises less.",
    )
    max_tokens: Whole = Field(
        default=10_000_000,
        description="Tokens of the reference that are counted, ends of sentence included; the "
        "document that reaches it is the last. 10 million are counted in 25 s on one core, in "
        "1.8 GB.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents among which those of ``source`` are looked for, about. The first "
        "10,000 give the quantiles of ``middle``, and of the facts.",
    )

    _band: Band = PrivateAttr()
    _model: NgramModel | None = None

    def model_post_init(self, context: Any) -> None:
        """Check that there is one reference.

        Raises:
            SelectorError: Both ``reference`` and ``source`` are given, or neither.
        """
        if self.reference is not None and self.source is not None:
            raise SelectorError(
                key="source",
                expected="no source beside `reference`",
                got=repr(self.source),
                fix="give one of the two",
            )
        if self.reference is None and self.source is None:
            raise SelectorError(
                key="reference",
                expected="a file of text to read like, or `source`, a source of the pool",
                got="neither",
                fix="write reference: wikipedia.txt.zst; `target` is not read: to read like its "
                "examples, name their file",
            )
        self._band = Band(self.band, self.name)

    @property
    def requirements(self) -> Requirements:
        lines = self.reference is not None and _is_json_lines(Path(self.reference))
        return Requirements(examples={"reference": str(self.reference)} if lines else {})

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, and the version of Unicode, which defines letters."""
        return {**super().identity(), "unicode": unicodedata.unidata_version}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Count the reference's n-grams, and read a sample of the pool.

        Returns:
            Facts: where the reference is from, its lines and tokens (ends of sentence included),
            n-grams and discounts by order; the band, the documents read and their perplexities.

        Raises:
            SelectorError: There is no reference or it has no words, or no document to read.
        """
        self._model = None
        origin, texts = self._reference(fitting)
        fitting.progress(f"counting n-grams of {origin}")
        hashes = self._hashes(texts)
        if not len(hashes):
            raise SelectorError(
                key="reference", expected="text to read like", got=f"no words in {origin}"
            )
        model, facts = NgramModel.of(hashes, self.order, self.prune)
        drawn = fitting.sample(min(self.sample, _JUDGED))["text"]
        drawn = drawn.filter(pa.array(~blank(drawn)))
        fitting.progress(f"reading {len(drawn):,} documents")
        nats = np.concatenate([np.empty(0), *map(model.nats_per_token, drawn.chunks)])
        nats = nats[~np.isnan(nats)]
        perplexities = self._band.place(nats, _PERCENTS)
        self._model = model
        return {
            "reference": origin,
            **facts,
            "band": self.band,
            "sample": len(nats),
            "perplexity": perplexities,
        }

    def score(self, documents: Documents) -> np.ndarray:
        """Return scores from log perplexity, (n,) float32; NaN for a document without a word."""
        texts = documents.column("text")
        nats = fitted(self._model, self.name).nats_per_token(texts)
        nats[blank(texts)] = np.nan
        return self._band.scores(nats)

    def save(self, directory: Path) -> None:
        if self._model is not None:
            self._model.save(directory)
            self._band.save(directory)

    def load(self, directory: Path) -> None:
        self._model = None
        self._band.load(directory)
        self._model = NgramModel.load(directory, self.order)

    def _reference(self, fitting: Fitting) -> tuple[str, Iterable[str]]:
        if self.reference is not None:
            return Path(self.reference).name, _texts_of(Path(self.reference))
        assert self.source is not None
        sample = fitting.sample(self.sample)
        own = sample.filter(pc.equal(sample["source"], self.source))
        if not len(own):
            known = pc.value_counts(sample["source"]).to_pylist()
            names = [one["values"] for one in sorted(known, key=lambda one: -one["counts"])]
            raise SelectorError(
                key="source",
                expected=f"documents of {self.source} among {len(sample):,} of the pool",
                got="none",
                fix=f"sources there are {', '.join(map(str, names[:8]))}",
            )
        hashes = hash_documents(own, mix(fitting.seed, "ccnet"))
        order = np.argsort(hashes, kind="stable")
        return self.source, (own["text"][int(row)].as_py() for row in order)

    def _hashes(self, texts: Iterable[str]) -> np.ndarray:
        """Hash the reference's words: (t,) int64, with an end after each line."""
        parts, left = [np.empty(0, np.int64)], self.max_tokens
        texts = iter(texts)
        while left > 0 and (block := list(islice(texts, _BLOCK))):
            parts.append(hash_tokens(pa.array(block, pa.large_string()), left))
            left -= len(parts[-1])
        return np.concatenate(parts)


def _is_json_lines(path: Path) -> bool:
    name = path.name.removesuffix(path.suffix) if path.suffix in {".gz", ".zst"} else path.name
    return name.endswith((".jsonl", ".json", ".ndjson"))


def _texts_of(path: Path) -> Iterator[str]:
    """Read the texts of a file of JSON lines, or a plain text line by line.

    Raises:
        SelectorError: A line is not UTF-8, or not an example.
    """
    if _is_json_lines(path):
        yield from (text for _, _, text in texts_in(path, "reference"))
        return
    try:
        yield from (text for _, text in lines_in(path))
    except InputError as error:
        raise at_parameter(error, "reference") from None
