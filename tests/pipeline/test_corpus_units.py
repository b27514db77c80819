"""Units of a corpus: their sizes, their batches, and disks on which they cannot be written."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.errors import ArtefactError, RecipeError, StorageError
from penstock.pipeline.corpus import CorpusSettings, make_corpus, unit_bytes_for
from penstock.pipeline.reading.records import Record
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import (
    BATCH,
    GIVEN,
    SCHEMA,
    Origin,
    UnitWriter,
    iter_documents,
    units_of,
)
from penstock.recipe_file import parse_recipe
from penstock.storage import Sink
from tests.pipeline.corpora import (
    documents,
    jsonl,
    make,
    write_pool,
)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path)


# -- units -----------------------------------------------------------------------------------------


def test_units_divide_a_file_and_change_no_document(pool: Path) -> None:
    whole, divided = make(pool), make(pool, unit_bytes=300)
    assert len(whole.units) == 1, "small files are one split"
    assert len(divided.units) > 15
    assert documents(divided, SCHEMA.names) == documents(whole, SCHEMA.names)
    for unit in divided.units:
        sizes = replace(unit, kept=None).read_rows(["bytes"])["bytes"].to_pylist()
        assert sum(sizes[:-1]) < 300, "a unit ends with the document that fills it"
        assert unit.of == len(sizes)
    numbers = [unit.number for unit in divided.units]
    assert numbers == list(range(len(numbers)))


def test_the_label_of_a_unit_has_its_name_and_size(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n:04d}" * 256} for n in range(1536)])
    (unit,) = make(tmp_path).units
    assert unit.label == "unit-00000-000 (1,536 documents, 1.5 MiB of text)"


def test_batches_are_full_but_the_last(tmp_path: Path) -> None:
    count = 5 * BATCH + 7
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": f"{n}"} for n in range(count)])
    (unit,) = make(tmp_path).units
    assert [len(batch) for batch in iter_documents(unit)] == [BATCH] * 5 + [7]


def test_a_changed_unit_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "pool" / "x.jsonl", [{"text": "x"}])
    (unit,) = make(tmp_path).units
    path = unit.corpus / unit.record.path
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtefactError, match="changed since it was written"):
        next(iter_documents(unit))


# -- where nothing more can be written -------------------------------------------------------------


@pytest.mark.parametrize("unit_bytes", [1, 700, 60_000, 2**40])
def test_units_do_not_depend_on_how_documents_are_divided(tmp_path: Path, unit_bytes: int) -> None:
    """One by one, in batches of any size, all at once: the same bytes."""
    chance = random.Random(unit_bytes)
    count = {1: 40, 700: 600}.get(unit_bytes, 8 * BATCH + 500)
    texts = ["w " * chance.choice([0, 1, 5, 9]) + str(number) for number in range(count)]
    sources = [chance.choice(["web", "wiki", "é"]) for _ in texts]
    sizes = [len(text) for text in texts]
    whole = pa.RecordBatch.from_pydict(
        {
            "id": [str(number) for number in range(count)],
            "text": texts,
            "source": sources,
            "meta": [None if number % 3 else '{"n":1}' for number in range(count)],
            "parent": [None] * count,
            "bytes": sizes,
            "input": [7] * count,
            "line": list(range(1, count + 1)),
        },
        schema=GIVEN,
    )
    made = []
    for step in (0, 1, 37, 5000):
        directory = tmp_path / str(step)
        directory.mkdir()
        with UnitWriter(directory, "00000", unit_bytes) as units:
            if step == 0:
                for row in whole.to_pylist():
                    record = Record(row["text"], None, row["source"], row["meta"] or "")
                    origin = Origin(7, row["line"])
                    units.add(row["id"], record, row["bytes"], row["parent"], origin)
            for start in range(0, count, step or count):
                units.write(whole.slice(start, step))
        made.append(units.records)
    assert all(records == made[0] for records in made)
    assert len(made[0]) == 2 * {1: 40, 2**40: 1}.get(unit_bytes, len(made[0]) // 2)
    tables = [
        pq.read_table(tmp_path / "37" / record.path)
        for record in made[0]
        if record.path.startswith("unit-")
    ]
    assert pa.concat_tables(tables)["text"].to_pylist() == texts
    facts = [record.facts for record in made[0] if record.path.startswith("unit-")]
    assert sum(own["bytes"] for own in facts) == sum(sizes)
    for source in set(sources):
        assert sum(own["sources"].get(source, {}).get("bytes", 0) for own in facts) == sum(
            size for size, own in zip(sizes, sources) if own == source
        )


def write_a_unit(directory: Path) -> None:
    with UnitWriter(directory, "00000", unit_bytes=100_000) as units:
        for number, text in enumerate(noise(400)):
            units.add(str(number), Record(text, None, "web", ""), len(text))


def noise(count: int) -> list[str]:
    """Texts that do not compress well."""
    chance = random.Random(3)
    return [" ".join(str(chance.random()) for _ in range(20)) for _ in range(count)]


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.ENOSPC, "no space is left; free some"),
        (errno.EFBIG, r"the file is larger than is allowed; raise the limit \(`ulimit -f`"),
    ],
)
@pytest.mark.parametrize("room", [0, 3_000, 40_000])
def test_a_file_that_cannot_be_written_is_named_and_not_left_half(
    room: int,
    number: int,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the error that is raised: not when Python tidies up, on stderr."""
    untidy: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", untidy.append)
    whole = Sink.write

    def full(self: Sink, data: Any) -> int:
        if self.bytes + len(data) > room:
            raise OSError(number, os.strerror(number))
        return whole(self, data)

    monkeypatch.setattr(Sink, "write", full)
    with pytest.raises(
        StorageError, match=rf"^{tmp_path}/[a-z]+-00000[-0]*\.parquet: {problem}"
    ) as caught:
        write_a_unit(tmp_path)
    assert "what is finished is kept" in str(caught.value)
    del caught
    gc.collect()
    assert not untidy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 16), (256, 16), (511, 16), (512, 32), (1000, 32), (1024, 64), (10**9, 64)],
)
def test_units_are_a_16th_of_the_pool(size: int, expected: int) -> None:
    assert unit_bytes_for(size << 20) == expected << 20


def test_the_recipe_sets_the_bytes_of_a_unit(tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"{number}{'a' * 999}"}) + "\n" for number in range(500))
    (tmp_path / "pool.jsonl").write_text("".join(lines))
    tree = {"corpus": {"path": "pool.jsonl"}, "budget": {"tokens": 1, "rank": "random"}}
    for key, units in ((None, 1), (2**17, 4)):
        wanted = parse_recipe({**tree, "unit_bytes": key, "work": f"work-{key}"}, tmp_path)
        space = Workspace(wanted.work_directory)
        made = make_corpus(CorpusSettings.of(wanted), space, LocalRunner(1))
        assert len(units_of(made)) == units
        assert made.manifest["config"]["unit_bytes"] == (key or 2**24)
    with pytest.raises(RecipeError) as info:
        parse_recipe({**tree, "unit_bytes": 1000}, tmp_path)
    assert info.value.key == "unit_bytes"
