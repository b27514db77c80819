"""Estimates of a whole pool from a sample: text, tokens, time, memory and disk of ``curate``.

Rates are measured in this process on the sample, where it is large enough, and are else those of
docs/scale.md. Scoring is left out: what a selector costs is known only when it is fitted. Estimates
of time may be wrong by a factor of two, those of text by the sources' differences.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import tokenizers
import zstandard

from penstock.jobs.checking.conditions import Judged
from penstock.jobs.checking.sampling import InputSample
from penstock.pipeline.cleaning.settings import CleanSettings, StatisticsColumn
from penstock.pipeline.cutting.radix import is_ready
from penstock.pipeline.tokenizer import TokenizerSettings, train_tokenizer
from penstock.recipe import Recipe
from penstock.recipe_amounts import share_of
from penstock.tokenization.definition import Definition

__all__ = ["Estimate", "estimate", "measure_tokens"]

_PARSE, _TOKENS, _JUDGE, _SHARDS = 147e6, 1e6, 80e6, 88e6
"""Rates of a core in docs/scale.md: bytes of text parsed and written a second, tokens encoded
(by `tokenizers`; 3.1 million by gigatoken), bytes of text counted for rules, tokens packed."""

_MEASURED = 2**20
"""Bytes of a sample from which a rate is measured."""

_DRIVER, _WORKER = 400 * 2**20, 300 * 2**20
"""Bytes of memory of the driver and of a worker, measured in docs/scale.md."""

_ROW = 60
"""Bytes of a document in files of rows and verdicts: two hashes, ids, sizes, compressed."""

_STATISTICS = 40
"""Bytes of a document's statistics, compressed."""

_START = 8.0
"""Seconds of a command: starting, loading compiled loops, writing manifests."""


_COMPILING = 20.0
"""Seconds of CPU time in which the first ``penstock curate`` on a machine compiles loops: 21 s in
all for 200 documents with ``gopher`` and near-duplicates, and 2 s in all the second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimates for the whole pool; None where the inputs do not tell, as on the hub."""

    exact: bool
    """True if every record was read, so that counts of the inputs are exact."""
    documents: int | None
    """Records of the inputs."""
    text_bytes: int | None
    """UTF-8 bytes of their texts."""
    kept_share: float | None
    """Share of the text that rules and condition keep in the sample; duplicates are not known."""
    bytes_per_token: float | None
    """UTF-8 bytes of text of a token, the two control tokens of each document included."""
    tokens: int | None
    """Tokens of the documents that rules and condition keep; None where these cannot be built."""
    budget: int | None
    """Tokens of the budget; those of a share of the pool are estimated."""
    seconds: int | None
    """Seconds of ``penstock curate`` without scoring, with :attr:`workers`."""
    compiling_seconds: int
    """Seconds of CPU time, not in :attr:`seconds`, in which loops are compiled at first; 0 where a
    cut was made on this machine before."""
    workers: int
    memory_bytes: int
    """Memory of the driver and the workers, without models of selectors."""
    disk_bytes: int | None
    """Bytes of the work directory after ``penstock curate``, without embeddings and checkpoints."""
    not_included: Sequence[str]
    """Selectors and rewriters whose cost is not in the estimate."""

    def summary(self) -> dict[str, Any]:
        """Return the object ``estimate`` in the JSON of the command."""
        return {**asdict(self), "not_included": list(self.not_included)}


def measure_tokens(settings: TokenizerSettings, texts: Sequence[str]) -> tuple[float, float] | None:
    """Measure a recipe's tokenizer on a sample; one that is to be trained is trained on half of it.

    Args:
        settings: Settings of the tokenizer.
        texts: Documents, of at most about 2 MiB.

    Returns:
        Bytes per token, and tokens a second of one core; None without texts.
    """
    own = list(texts)
    if not own:
        return None
    if settings.train is None:
        assert settings.path is not None
        tokenizer = tokenizers.Tokenizer.from_str(Definition.read(settings.path).to_str())
        tokenizer.no_truncation()
    else:
        train = settings.train.train
        tokenizer = train_tokenizer(iter(own[::2]), train)
        own = own[1::2] or own
    begin = time.perf_counter()
    encoded = tokenizer.encode_batch_fast(own, add_special_tokens=False)
    spent = time.perf_counter() - begin
    count = sum(len(one.ids) + 2 for one in encoded)
    size = sum(len(text.encode()) for text in own)
    return size / count, count / max(spent, 1e-6)


def estimate(
    recipe: Recipe,
    sample: InputSample,
    judged: Judged | None,
    clean: CleanSettings | None,
    tokens: tuple[float, float] | None,
    workers: int,
) -> Estimate:
    """Estimate the whole from a sample.

    Args:
        recipe: The recipe.
        sample: The sample.
        judged: Its verdicts; None where the rules cannot be built: what they keep is not known.
        clean: Settings of cleaning; None where they cannot be built.
        tokens: Of :func:`measure_tokens`.
        workers: Processes that ``curate`` would have.
    """
    text, records = sample.text_total, sample.records_total
    per_token = tokens[0] if tokens else None
    kept = None if judged is None else judged.kept_share
    held = None
    if text is not None and per_token and kept is not None:
        held = int(text * kept / per_token)
    not_included = [f"select.{name}" for name in recipe.select]
    not_included += [f"rewrite.{name}" for name in recipe.rewrite]
    seconds = disk = None
    share = share_of(recipe.budget.tokens)
    asked = recipe.budget.count if share is None else (None if held is None else int(share * held))
    budget = min(asked or 0, held) if held else asked or 0
    if text is not None and records is not None:
        counts = clean is not None and any(
            column.name == StatisticsColumn.name for column in clean.text_columns()
        )
        work = text / _parse_rate(sample)
        if counts and clean is not None:
            work += text / _judge_rate(sample, clean)
        work += budget * 1.05 / (tokens[1] if tokens else _TOKENS) + budget / _SHARDS
        seconds = round(_START + work / workers)
        width = 2 if _vocabulary(recipe) <= 2**16 else 4
        disk = round(
            text * _compressed(sample)
            + records * (_ROW + 4 * len(recipe.select) + _STATISTICS * counts)
            + budget * width * 2.05
        )
    return Estimate(
        exact=sample.whole,
        documents=None if records is None else round(records),
        text_bytes=None if text is None else round(text),
        kept_share=None if kept is None else round(kept, 4),
        bytes_per_token=None if per_token is None else round(per_token, 3),
        tokens=held,
        budget=asked,
        seconds=seconds,
        compiling_seconds=0 if is_ready() else round(_COMPILING),
        workers=workers,
        memory_bytes=_DRIVER + workers * _WORKER,
        disk_bytes=disk,
        not_included=not_included,
    )


def _vocabulary(recipe: Recipe) -> int:
    tokenizer = recipe.tokenizer
    return 2**16 if isinstance(tokenizer, str) else tokenizer.train.vocab_size


def _parse_rate(sample: InputSample) -> float:
    """Return bytes of text a second of one core that reads, hashes and writes documents."""
    read = sum(one.text_bytes for one in sample.files)
    spent = sum(one.seconds for one in sample.files)
    # Reading is about half of the stage; the other half, hashes and Parquet, has a known rate.
    return 1 / (spent / read + 0.5 / _PARSE) if read >= _MEASURED and spent > 0 else _PARSE


def _judge_rate(sample: InputSample, clean: CleanSettings) -> float:
    """Return bytes of text a second of one core that counts statistics."""
    texts = sample.documents["text"].combine_chunks()[:500]
    size = pc.sum(pc.binary_length(texts)).as_py() or 0
    if size < _MEASURED // 4:
        return _JUDGE
    column = next(one for one in clean.text_columns() if one.name == StatisticsColumn.name)
    return size / max(_seconds(lambda: column.compute(texts)), 1e-6)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _compressed(sample: InputSample) -> float:
    """Return the bytes that a byte of text has with zstd at level 3."""
    raw = "\n".join(sample.documents["text"].slice(0, 2000).to_pylist()).encode()[: 2**22]
    return len(zstandard.compress(raw, 3)) / len(raw) if raw else 0.4
