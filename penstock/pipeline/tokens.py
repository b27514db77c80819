"""Tokenizers, and the tokens of those documents that some cut has looked at.

Tokenising is slow (about 1.3 MB/s a core) and a cut takes a small part of a pool, so a document
is tokenised when its rank brings it near a budget, and never again: the store of (corpus,
tokenizer) grows by parts. Unlike other artefacts its manifest is rewritten as it grows; what it
says of a document never changes, so nothing that is made from it depends on its history.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, atomic_file, sha256_file
from penstock.errors import ArtefactError, InputError
from penstock.pipeline.runner import Runner
from penstock.pipeline.sample import sample_texts
from penstock.pipeline.units import Unit, iter_documents, units_of
from penstock.recipe import Recipe, TrainedTokenizer, TrainTokenizer

__all__ = ["END_OF_TEXT", "TokenStore", "TokensOf", "make_tokenizer"]

END_OF_TEXT = "<|endoftext|>"
"""Stands before and after every document: what a trained tokenizer calls it.

Before it, because nothing is predicted across documents: without it no model would learn how a
text begins, which evaluation asks. After it, so that a model learns to end. It costs one token
a document, 0.2 % of web text."""

_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""End-of-text tokens that loaded tokenizers use, in the order they are tried."""

_MEASURED_BYTES = 2**20
"""Text on which bytes per token are measured, to plan how much to tokenise."""

_BATCH_BYTES = 2**20
"""Text that is tokenised at a time: the library's result takes about 35 bytes for one of text."""


def make_tokenizer(recipe: Recipe, corpus: Artefact, workspace: Workspace) -> Artefact:
    """The recipe's tokenizer as an artefact: ``tokenizer.json`` and what was measured of it.

    A trained one is byte-level BPE, from documents drawn by hash of id.

    Raises:
        InputError: A tokenizer was named that cannot be loaded or has no end-of-text token.
    """
    choice = recipe.tokenizer
    if isinstance(choice, TrainTokenizer):
        config: dict[str, Any] = choice.model_dump(mode="json")

        def load() -> tokenizers.Tokenizer:
            texts = _sampled(corpus, choice.train.sample_bytes, recipe.seed, "tokenizer")
            return _train(texts, choice.train)
    else:
        path = _tokenizer_file(recipe, choice)
        config = {"sha256": sha256_file(path)}

        def load() -> tokenizers.Tokenizer:
            try:
                return tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises bare Exception
                raise InputError(f"tokenizer: {path}: not a tokenizer.json: {error}") from None

    def work(draft: Draft) -> Artefact:
        tokenizer = load()
        tokenizer.no_padding()
        tokenizer.no_truncation()
        end = _end_of_text(tokenizer)
        sample = list(_sampled(corpus, _MEASURED_BYTES, recipe.seed, "measure"))
        encoded = tokenizer.encode_batch_fast(sample, add_special_tokens=False)
        with atomic_file(draft.path / "tokenizer.json") as sink:
            sink.write(tokenizer.to_str().encode())
        draft.record("tokenizer", [FileRecord.of(draft.path, "tokenizer.json")])
        facts = {
            # Ids may have holes: what a trainer's table must hold is the highest of them.
            "vocab_size": 1 + max(tokenizer.get_vocab().values()),
            "eos": end,
            "bytes_per_token": round(
                sum(len(text.encode()) for text in sample)
                / sum(len(encoding.ids) + 2 for encoding in encoded),
                6,
            ),
        }
        return draft.publish(["tokenizer"], facts)

    inputs = {"corpus": corpus.fingerprint, "seed": recipe.seed}
    return workspace.make("tokenizer", 1, config, inputs, work)


def _sampled(corpus: Artefact, size: int, seed: int, purpose: str) -> Iterator[str]:
    """Texts of about ``size`` bytes; the first one where a few long ones leave none drawn."""
    nothing = True
    for text in sample_texts(corpus, size, seed, purpose):
        nothing = False
        yield text
    if nothing:
        batch = next(iter_documents(units_of(corpus)[0], ["text"]))
        yield batch.column("text")[0].as_py()


def _train(texts: Iterator[str], settings: TrainedTokenizer) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _tokenizer_file(recipe: Recipe, choice: str) -> Path:
    path = recipe.resolve(choice)
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.is_file():
        return path
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(choice, "tokenizer.json"))
    except Exception as error:  # any transport or name error
        raise InputError(
            f"tokenizer: {choice}: neither a tokenizer.json, nor a directory that holds one, nor "
            f"a name on the hub that can be reached ({type(error).__name__})"
        ) from None


def _end_of_text(tokenizer: tokenizers.Tokenizer) -> int:
    for token in _ENDS:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    raise InputError(
        f"tokenizer: no end-of-text token; expected one of {', '.join(_ENDS)} in its vocabulary"
    )


@dataclass(frozen=True, slots=True)
class TokensOf:
    """The tokens of a unit, as far as the store has them."""

    rows: np.ndarray
    """(k,) int64, ascending."""
    sizes: np.ndarray
    """(k,) int64, tokens of each, the ends of text included."""
    read: Callable[[int], np.ndarray]
    """``read(row)``: (size,) uint16 or uint32, mapped, not copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    tokenizer: str
    eos: int
    dtype: str
    directory: Path


@dataclass(frozen=True, slots=True)
class _Job:
    unit: Unit
    rows: np.ndarray
    part: str


class TokenStore:
    """What is tokenised of a corpus with one tokenizer, and the way to add to it."""

    def __init__(self, corpus: Artefact, tokenizer: Artefact, workspace: Workspace) -> None:
        self.corpus = corpus
        self.vocab_size = int(tokenizer.facts["vocab_size"])
        self.eos = int(tokenizer.facts["eos"])
        self.bytes_per_token = float(tokenizer.facts["bytes_per_token"])
        self.dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self._tokenizer = tokenizer
        inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
        self._draft = workspace.draft("tokens", 1, {}, inputs)
        self._parts: dict[str, tuple[FileRecord, ...]] = {}
        # By record, not by manifest: what was finished before a crash is not done again.
        for unit in units_of(corpus):
            while found := self._draft.done(self._next_part(unit)):
                self._parts[unit.name] = (*self.parts(unit), *found)

    def _next_part(self, unit: Unit) -> str:
        return f"{unit.name}-{len(self.parts(unit)):03d}"

    def parts(self, unit: Unit) -> tuple[FileRecord, ...]:
        """The files that hold tokens of ``unit``; hand them to :func:`open_tokens` in a task."""
        return self._parts.get(unit.name, ())

    @property
    def directory(self) -> Path:
        return self._draft.path

    def add(self, wanted: Mapping[int, np.ndarray], runner: Runner) -> int:
        """Tokenise documents that are not yet there.

        Args:
            wanted: Rows by unit number, ascending.
            runner: Who does it.

        Returns:
            Documents tokenised now.
        """
        units = units_of(self.corpus)
        jobs = [
            _Job(units[number], rows, self._next_part(units[number]))
            for number, rows in sorted(wanted.items())
            if len(rows)
        ]
        path = self._tokenizer.verified(self._tokenizer.files[0])
        shared = _Shared(
            tokenizer=path.read_text(encoding="utf-8"),
            eos=self.eos,
            dtype=self.dtype,
            directory=self.directory,
        )
        for index, record in runner.run(_tokenise, jobs, shared):
            unit = jobs[index].unit
            self._draft.record(jobs[index].part, [record])
            self._parts[unit.name] = (*self.parts(unit), record)
        if jobs:
            names = [Path(record.path).stem for parts in self._parts.values() for record in parts]
            self._draft.publish(sorted(names), {})
        return sum(len(job.rows) for job in jobs)


def open_tokens(directory: Path, parts: Sequence[FileRecord], dtype: str) -> TokensOf:
    """Map the tokens of one unit from its parts, after comparing checksums."""
    artefact = Artefact(directory, {}, ())
    rows: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    sizes: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    views: list[tuple[np.ndarray, np.ndarray]] = []
    part_of: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for record in parts:
        with pa.memory_map(str(artefact.verified(record))) as source:
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                tokens = batch.column("tokens")
                offsets = tokens.offsets.to_numpy()
                rows.append(batch.column("row").to_numpy())
                sizes.append(np.diff(offsets))
                count = len(batch)
                part_of.append(np.stack([np.full(count, len(views)), np.arange(count)], axis=1))
                views.append((offsets, tokens.values.to_numpy()))
    all_rows, all_sizes = np.concatenate(rows), np.concatenate(sizes)
    where = np.concatenate(part_of)
    order = np.argsort(all_rows, kind="stable")
    sorted_rows = all_rows[order]

    def read(row: int) -> np.ndarray:
        place = int(np.searchsorted(sorted_rows, row))
        if place == len(sorted_rows) or sorted_rows[place] != row:
            raise ArtefactError(
                f"{directory}: the tokens of a document that was cut are gone; delete the cut and "
                "run again to make both anew"
            )
        view, position = where[order[place]]
        offsets, values = views[view]
        return values[offsets[position] : offsets[position + 1]]

    return TokensOf(sorted_rows, all_sizes[order], read)


def _tokenise(job: _Job, shared: _Shared) -> FileRecord:
    """Tokenise some rows of a unit into one Arrow file, a batch of documents at a time."""
    tokenizer = tokenizers.Tokenizer.from_str(shared.tokenizer)
    # A stranger who writes <|endoftext|> gets its letters, not the token.
    tokenizer.encode_special_tokens = True
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("tokens", pa.large_list(pa.field("item", token_type, nullable=False))),
        ]
    )
    name = f"{job.part}.arrow"
    total = 0
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for rows, texts in _texts_of(job):
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            documents = [
                np.asarray([shared.eos, *encoding.ids, shared.eos], dtype=shared.dtype)
                for encoding in encoded
            ]
            offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
            values = pa.array(np.concatenate(documents), token_type)
            lists = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), values, type=schema.field("tokens").type
            )
            writer.write_batch(pa.record_batch([pa.array(rows), lists], schema=schema))
            total += int(offsets[-1])
    return FileRecord.of(
        shared.directory, name, unit=job.unit.name, documents=len(job.rows), tokens=total
    )


def _texts_of(job: _Job) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The rows of a job with their texts, reading only the row groups that hold any."""
    with pq.ParquetFile(job.unit.path()) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = job.rows[(job.rows >= start) & (job.rows < start + count)]
            if len(inside):
                table = file.read_row_group(group, ["text", "bytes"])
                table = table.take(pa.array(inside - start))
                filled = np.cumsum(table.column("bytes").to_numpy()) // _BATCH_BYTES
                edges = [0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(inside)]
                for first, last in itertools.pairwise(edges):
                    texts = table.column("text").slice(first, last - first)
                    yield inside[first:last], texts.to_pylist()
            start += count
