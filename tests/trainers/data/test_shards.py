from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError
from penstock.trainers.data.shards import Group, ShardSet
from tests.trainers.conftest import write_shards


def test_sequences_are_the_rows_in_manifest_order(shards: Path) -> None:
    opened = ShardSet.open(shards)
    rows = [
        row
        for record in Artefact.open(shards).named("shard-")
        for row in pa.ipc.open_file(str(shards / record.path)).read_all().to_pylist()
    ]
    assert len(opened) == len(rows) == 37
    for index, row in enumerate(rows):
        assert opened[index].tokens.tolist() == row["tokens"]
        assert opened[index].starts.tolist() == row["doc_start"]
    with pytest.raises(IndexError):
        opened[37]


def test_tokens_are_views_of_the_mapped_file(shards: Path) -> None:
    allocated = pa.total_allocated_bytes()
    sequence = ShardSet.open(shards)[5]
    assert pa.total_allocated_bytes() == allocated
    assert sequence.tokens.dtype == np.uint16
    assert not sequence.tokens.flags.owndata and not sequence.tokens.flags.writeable


def test_wide_vocabularies_keep_their_type(tmp_path: Path, tokenizer: object) -> None:
    made = write_shards(tmp_path, tokenizer, sequences=3, files=1, dtype=pa.uint32())
    assert ShardSet.open(made.path)[2].tokens.dtype == np.uint32


@pytest.mark.parametrize("counted", [32, 31, 17, 1])
def test_predicted_counts_all_but_each_documents_first_token(shards: Path, counted: int) -> None:
    opened = ShardSet.open(shards)
    for index in (0, 36, 7):
        first = set(opened[index].starts.tolist())
        by_hand = sum(place not in first for place in range(counted))
        assert opened.predicted(index, counted) == by_hand < counted


def test_groups_are_the_shards_of_a_source(tmp_path: Path, tokenizer: object) -> None:
    groups = ["wiki", "wiki", None]
    made = write_shards(tmp_path, tokenizer, sequences=13, files=3, groups=groups)
    assert ShardSet.open(made.path).groups == [Group("wiki", 0, 9), Group("rest", 9, 4)]


@pytest.mark.parametrize("column", ["tokens", "doc_start"])
def test_a_bit_that_flips_after_opening_is_seen_before_it_is_used(
    shards: Path, tmp_path: Path, column: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    opened = ShardSet.open(copy)
    assert opened[20].tokens is not None
    path = copy / "shard-00001.arrow"
    values = getattr(opened[20], {"tokens": "tokens", "doc_start": "starts"}[column])
    at = path.read_bytes().index(values.tobytes()) + values.nbytes - values.itemsize
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(ArtefactError, match=r"shard-00001.*expected CRC-32"):
        opened[20]
    assert opened[0].tokens is not None


def test_a_flipped_byte_is_refused(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    path = copy / "shard-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="changed since it was written"):
        ShardSet.open(copy)


def test_another_stage_is_refused(tmp_path: Path) -> None:
    made = Workspace(tmp_path).draft("cut", 1, {}, {}).publish([], {})
    with pytest.raises(ArtefactError, match="expected an artefact of stage 'shards', got 'cut'"):
        ShardSet.open(made.path)
