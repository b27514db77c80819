"""Tiny real shards, a tiny real tokenizer, and one Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, FileRecord, Workspace
from penstock.hashing import sequence_checksums
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.run import train_all
from penstock.trainers.spec import RunResult, RunSpec
from tests.harness.training import Trainings

EOS = 0
VOCABULARY = 320
"""At least the tokenizer's; the shards declare it."""


def make_tokenizer() -> Any:
    """Train byte-level BPE on a few sentences: ids below VOCABULARY, every byte covered."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["water flows to the turbine through the penstock"] * 4, trainer)
    return made


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of :func:`make_tokenizer`."""
    return make_tokenizer()


def write_shards(
    root: Path,
    tokenizer: Any,
    *,
    sequences: int,
    length: int = 32,
    files: int = 2,
    seed: int = 0,
    dtype: Any = None,
    groups: Sequence[str | None] = (None, None),
    vocabulary: int = VOCABULARY,
) -> Artefact:
    """Write sequences of learnable documents: each repeats a short random phrase.

    ``groups`` has the source of each file, None where sources are packed together.
    """
    dtype = dtype or pa.uint16()
    random = np.random.default_rng(seed)
    facts = {
        "sequence_length": length,
        "sequences": sequences,
        "tokens": sequences * length,
        "vocab_size": vocabulary,
        "eos": EOS,
    }
    draft = Workspace(root).draft(
        "shards", 1, {"test": [sequences, length, files, seed, *groups]}, {}
    )
    parts = []
    for number, rows in enumerate(np.array_split(np.arange(sequences), files)):
        name = f"shard-{number:05d}.arrow"
        group = groups[number % len(groups)]
        _write_file(draft.path / name, len(rows), length, random, dtype, group or "web", vocabulary)
        parts.append(name)
        facts_of = {"sequences": len(rows), "group": group}
        draft.record(name, [FileRecord.found(draft.path, name, **facts_of)])
    (draft.path / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(draft.path / "tokenizer" / "tokenizer.json"))
    draft.record("tokenizer", [FileRecord.found(draft.path, "tokenizer/tokenizer.json")])
    return draft.publish([*parts, "tokenizer"], facts)


def _write_file(
    path: Path, rows: int, length: int, random: Any, dtype: Any, source: str, vocabulary: int
) -> None:
    tokens, starts = [], []
    for _ in range(rows):
        cuts = np.unique(random.integers(1, length, random.integers(1, 4)))
        spans = np.diff([0, *cuts, length])
        row = [np.resize(random.integers(1, vocabulary, 3), span) for span in spans]
        tokens.append(np.concatenate(row))
        starts.append(np.array([0, *cuts], np.int32))
    spans = [len(item) for item in starts]
    ids = [[f"{path.stem}-{row}-{span}" for span in range(n)] for row, n in enumerate(spans)]
    offsets = np.cumsum([0, *spans])
    sums = sequence_checksums(np.stack(tokens).astype(np.uint32), np.concatenate(starts), offsets)
    table = pa.table(
        {
            "tokens": pa.array(tokens, pa.list_(pa.field("item", dtype, nullable=False))),
            "doc_id": pa.array(ids, pa.list_(pa.string())),
            "doc_start": pa.array(starts, pa.list_(pa.int32())),
            "doc_offset": pa.array([[0] * n for n in spans], pa.list_(pa.int64())),
            "source": pa.array([[source] * n for n in spans], pa.list_(pa.string())),
            "carried": pa.array(
                [[float(len(name)) % 7 + at for at, name in enumerate(own)] for own in ids],
                pa.list_(pa.float32()),
            ),
            "score": pa.array([[0.0] * n for n in spans], pa.list_(pa.float32())),
            "checksum": sums,
        }
    )
    with pa.ipc.new_file(str(path), table.schema) as sink:
        for batch in table.to_batches(max_chunksize=max(1, rows // 2)):
            sink.write_batch(batch)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Write 37 sequences of 32 tokens: no power of two, no multiple of a batch."""
    return write_shards(tmp_path_factory.mktemp("shards"), tokenizer, sequences=37).path


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Fork workers of training runs from one process, which takes six seconds to start."""
    made = Trainings(tmp_path_factory.mktemp("trainings"))
    yield made
    made.close()


def recorded(directory: Path, names: Sequence[str]) -> VerifiedFiles:
    """Return what a back end's ``save`` wrote, as its checkpoint's manifest names it."""
    return VerifiedFiles.of(directory, [FileRecord.found(directory, name) for name in names])


def train(spec: RunSpec, workspace: Workspace) -> RunResult:
    """Make one run, or find it."""
    (result,) = train_all([spec], workspace)
    return result
