"""The formats of exports: for each its files, the function that writes one, and the last files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.artefact import FileRecord
from penstock.jobs.curate import Curated
from penstock.jobs.documents import TableUnit
from penstock.jobs.export.arrays import write_arrays, write_megatron
from penstock.jobs.export.mds import index_file, plan_sequences, write_mds
from penstock.jobs.export.texts import (
    DocumentFile,
    saved_dataset_files,
    write_json_lines,
    write_parquet,
    write_saved_dataset,
)
from penstock.jobs.export.token_streams import TokenWriting, plan_files
from penstock.jobs.origins import Origins, part_of
from penstock.pipeline.grouped import packed
from penstock.pipeline.units import generations
from penstock.storage import AnyPath

__all__ = ["FORMATS", "ExportFormat", "Exporting"]

TEXT_BYTES = 256 * 2**20
"""Bytes of text of a file, about: files of several hundred MB suit readers and stores."""

TOKENS = 256 * 2**20
"""Tokens of a file, about: 512 MiB of uint16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporting:
    """What is exported, and where."""

    curated: Curated
    units: Sequence[TableUnit]
    """The units of the pool with the files of their columns, in order."""
    directory: AnyPath
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One format of exports."""

    summary: str
    """What it is, in a line."""
    reading: str
    """How its files are read, as Markdown; ``OUT`` is the directory of the export,
    ``DTYPE`` the type of its ids."""
    files: Callable[[Exporting], tuple[Mapping[str, Any], Any]]
    """Returns the items of the tasks by the name of their file, and what they share."""
    write: Callable[[Any, Any], FileRecord | Sequence[FileRecord]]
    """Runs in a task: writes the files of an item."""
    finish: Callable[[Exporting, Sequence[FileRecord]], Mapping[str, bytes]]
    """Returns the content of the last files, by name."""
    pattern: str | None = None
    """The files that ``datasets.load_dataset`` reads, as the card names them."""
    tokens: bool = False
    """Whether it has token ids instead of texts."""
    large_ids: str = "uint32"
    """The type of ids where the vocabulary has more than 65,536 entries."""


def _documents(name: str) -> Callable[[Exporting], tuple[Mapping[str, Any], Any]]:
    """Return a function that plans files of documents with this name and ending."""

    def files(exporting: Exporting) -> tuple[Mapping[str, Any], Any]:
        rate = exporting.curated.tokenizer.facts["bytes_per_token"]
        taken = [unit for unit in exporting.units if unit.cut[1].facts["documents"]]
        groups = list(
            packed(taken, lambda unit: int(sum(unit.cut[1].facts["tokens"]) * rate), TEXT_BYTES)
        )
        curated = exporting.curated
        places = Origins(generations(curated.corpus)[-1], curated.recipe).places()
        before, _, ending = name.partition("*")
        items = [
            DocumentFile(
                directory=exporting.directory,
                name=f"data/{before}{number:05d}-of-{len(groups):05d}{ending}",
                units=tuple(units),
                places={
                    part: places[part]
                    for unit in units
                    if (part := part_of(unit.unit.record)) in places
                },
            )
            for number, units in enumerate(groups)
        ]
        return {item.name: item for item in items}, None

    return files


def _shards(exporting: Exporting) -> TokenWriting:
    shards = exporting.curated.shards
    return TokenWriting(
        directory=exporting.directory,
        shards=shards.path,
        records=shards.named("shard-"),
        length=int(shards.facts["sequence_length"]),
    )


def _streams(exporting: Exporting) -> tuple[Mapping[str, Any], Any]:
    shared = _shards(exporting)
    items = plan_files(shared.records, shared.length, "data/tokens-", TOKENS)
    return {item.name: item for item in items}, shared


def _sequences(exporting: Exporting) -> tuple[Mapping[str, Any], Any]:
    shared = _shards(exporting)
    items = plan_sequences(shared.records, shared.length)
    return {item.name: item for item in items}, shared


def _nothing(exporting: Exporting, records: Sequence[FileRecord]) -> Mapping[str, bytes]:
    return {}


def _saved(exporting: Exporting, records: Sequence[FileRecord]) -> Mapping[str, bytes]:
    names = [record.path.removeprefix("data/") for record in records]
    columns, name = tuple(exporting.units[0].scores), exporting.fingerprint[:16]
    return {f"data/{k}": v for k, v in saved_dataset_files(names, columns, name).items()}


def _index(exporting: Exporting, records: Sequence[FileRecord]) -> Mapping[str, bytes]:
    return {"data/index.json": index_file(records, _shards(exporting).length)}


FORMATS: Mapping[str, ExportFormat] = {
    "parquet": ExportFormat(
        summary="documents as Parquet, compressed by zstd",
        reading='`datasets.load_dataset("OUT")`, or any reader of Parquet, of `data/*.parquet`.',
        files=_documents("train-*.parquet"),
        write=write_parquet,
        finish=_nothing,
        pattern="data/*.parquet",
    ),
    "jsonl": ExportFormat(
        summary="documents as lines of JSON, compressed by zstd",
        reading='`datasets.load_dataset("OUT")`; `zstd -dc OUT/data/*.jsonl.zst` writes the lines.',
        files=_documents("train-*.jsonl.zst"),
        write=write_json_lines,
        finish=_nothing,
        pattern="data/*.jsonl.zst",
    ),
    "datasets": ExportFormat(
        summary="documents as a saved dataset of Hugging Face's library",
        reading='`datasets.load_from_disk("OUT/data")`, which maps the files.',
        files=_documents("data-*.arrow"),
        write=write_saved_dataset,
        finish=_saved,
    ),
    "megatron": ExportFormat(
        summary="token ids as .bin and .idx, for Megatron-LM and NeMo",
        reading="Megatron-LM's `--data-path` and NeMo's `data_prefix` take the paths of "
        "`data/tokens-*` without their endings, as does "
        "`megatron.core.datasets.indexed_dataset.IndexedDataset`. Each document is between two "
        "ends of text.",
        files=_streams,
        write=write_megatron,
        finish=_nothing,
        tokens=True,
        large_ids="int32",
    ),
    "numpy": ExportFormat(
        summary="token ids as plain arrays, for OLMo and nanotron",
        reading='`numpy.memmap(path, dtype="DTYPE", mode="r")`: the files have no header. '
        "OLMo-core takes `data/*.npy`; a line of `.csv.gz` is where a document begins and ends. "
        "Each document is between two ends of text, so that OLMo-core's `bos_token_id` and "
        "`eos_token_id` are the same id. nanotron reads the same bytes from files that are named "
        "`*.ds`.",
        files=_streams,
        write=write_arrays,
        finish=_nothing,
        tokens=True,
    ),
    "mds": ExportFormat(
        summary="packed sequences as MDS, for mosaicml-streaming and LLM Foundry",
        reading='`streaming.StreamingDataset(local="OUT/data")`; a sample has `tokens` and '
        "`doc_start`, where documents begin in them.",
        files=_sequences,
        write=write_mds,
        finish=_index,
        tokens=True,
    ),
}
"""The formats by the names that ``--to`` takes."""
