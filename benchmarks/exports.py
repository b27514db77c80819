"""``penstock export --to parquet`` of a million documents against pyarrow alone, on one core.

    python benchmarks/exports.py --json

Docstrings of this machine are cut into documents of about 1,000 bytes, and a corpus, a column of
scores and a cut of all of them are made, which is not measured. Then each file is written by both
sides in turn: by the export, which compares the checksums of all that it reads, validates it,
joins scores and what the cut takes, finds licences, and hashes what it writes; and by pyarrow,
which reads the same units and writes ``id``, ``text`` and ``source`` of all rows with the same
compression. The figures are MB of text for each second of CPU time, all threads counted, so that
other work on the machine counts for little. Compared are ids and texts of the files of both, and
the bytes of text.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import docstrings

from penstock.artefact import FileRecord, Workspace
from penstock.jobs.documents import FIRST, LAST, TEXTS, TableUnit
from penstock.jobs.export.formats import TEXT_BYTES
from penstock.jobs.export.texts import DocumentFile, write_parquet
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.grouped import packed, write_scores
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe

_CHARACTERS = 1_000


def main() -> None:
    """Print the JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--scratch", help="where files and the work directory go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-exports-", dir=arguments.scratch) as place:
        print(json.dumps(_measure(Path(place), arguments.documents)))


def _texts() -> Iterator[str]:
    """Yield texts of about 1,000 characters, without end; no two are equal."""
    numbers = count()
    while True:
        for page in docstrings():
            for start in range(0, len(page), _CHARACTERS):
                yield f"{next(numbers)} {page[start : start + _CHARACTERS]}"


def _units(directory: Path, documents: int) -> list[TableUnit]:
    """Make a corpus, a column and a cut of all documents; return its units with their files."""
    (directory / "pool").mkdir()
    texts = islice(_texts(), documents)
    for number in count():
        lines = [
            json.dumps(
                {"id": f"page-{number}-{n}", "source": "docs", "license": "psf-2.0", "text": text}
            )
            for n, text in enumerate(islice(texts, 50_000))
        ]
        if not lines:
            break
        (directory / "pool" / f"{number:04d}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = parse_recipe(
        {"corpus": [{"path": "pool"}], "budget": {"tokens": 1, "rank": "random"}}, directory
    )
    workspace = Workspace(directory / "work")
    with closing(LocalRunner(2)) as runner:
        corpus = make_corpus(CorpusSettings.of(recipe), workspace, runner)
        pool = make_pool(CleanSettings.of(recipe), corpus, workspace, runner)
    assert pool.kept == documents, f"{pool.kept:,} documents kept"
    chance = np.random.default_rng(1)
    schema = pa.schema([*FIRST, pa.field("s", pa.float32(), nullable=False), *LAST, *TEXTS])
    units = []
    for unit in pool.units:
        tokens = chance.integers(100, 400, unit.documents)
        name = f"cut-{unit.name}.parquet"
        pq.write_table(pa.table({"row": unit.numbers(), "tokens": tokens}), directory / name)
        taken = FileRecord.found(
            directory, name, documents=unit.documents, tokens=[int(tokens.sum())]
        )
        scores = write_scores(directory, unit.name, chance.random(unit.documents, np.float32))
        units.append(
            TableUnit(
                unit=unit,
                cut=(directory, taken),
                scores={"s": (directory, scores)},
                schema=schema,
            )
        )
    return units


def _peer(item: DocumentFile, path: Path) -> None:
    """Read the units of a file and write them by pyarrow alone."""
    writer = None
    for unit in item.units:
        with pq.ParquetFile(unit.unit.corpus / unit.unit.record.path) as file:
            table = file.read(["id", "text", "source"])
        writer = writer or pq.ParquetWriter(
            path, table.schema, compression="zstd", compression_level=3, use_dictionary=["source"]
        )
        writer.write_table(table, row_group_size=32_000)
    assert writer is not None
    writer.close()


def _measure(directory: Path, documents: int) -> dict[str, Any]:
    units = _units(directory, documents)
    groups = list(packed(units, lambda unit: int(unit.unit.record.facts["bytes"]), TEXT_BYTES))
    seconds = {"ours": 0.0, "peer": 0.0}
    text_bytes = 0
    for number, group in enumerate(groups):
        item = DocumentFile(
            directory=directory, name=f"out-{number}.parquet", units=tuple(group), places={}
        )
        other = directory / f"peer-{number}.parquet"
        start = time.process_time()
        record = write_parquet(item, None)
        middle = time.process_time()
        _peer(item, other)
        seconds["ours"] += middle - start
        seconds["peer"] += time.process_time() - middle
        text_bytes += record.facts["text_bytes"]
        names = ["id", "text"]
        same = pq.read_table(directory / item.name, columns=names).equals(
            pq.read_table(other, columns=names).cast(
                pq.read_schema(directory / item.name).empty_table().select(names).schema
            )
        )
        assert same, "the sides wrote other documents"
        if sys.stderr.isatty():
            print(f"{number + 1} of {len(groups)} files", file=sys.stderr)
    expected = sum(unit.unit.record.facts["bytes"] for unit in units)
    assert text_bytes == expected, f"{text_bytes:,} bytes of text instead of {expected:,}"
    rates = {side: text_bytes / 1e6 / spent for side, spent in seconds.items()}
    return {
        "name": "export of Parquet",
        "unit": "MB of text a second of CPU time",
        "ours": round(rates["ours"], 1),
        "peer": round(rates["peer"], 1),
        "ratio": round(rates["ours"] / rates["peer"], 3),
        "documents": documents,
        "text_bytes": text_bytes,
        "file_bytes": sum(
            (directory / f"out-{n}.parquet").stat().st_size for n in range(len(groups))
        ),
        "checked": "ids and texts of both sides are equal, and their bytes those of the corpus",
    }


if __name__ == "__main__":
    main()
