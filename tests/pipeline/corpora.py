"""Corpora of small pools, and what is asked of them."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.pipeline.cleaning.fates import failed_rules, repeated_by
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.units import (
    SCHEMA,
    UNIT_BYTES,
    iter_documents,
)
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe


def recipe(directory: Path, *corpus: Any, **clean: Any) -> Recipe:
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in corpus]
    return parse_recipe(
        {
            "corpus": entries or [{"path": "pool"}],
            "clean": clean,
            "budget": {"tokens": 1, "rank": "random"},
        },
        directory,
    )


def make(
    directory: Path,
    *corpus: Any,
    runner: Runner | None = None,
    unit_bytes: int = UNIT_BYTES,
    work: str = "work",
    **clean: Any,
) -> Pool:
    settings = recipe(directory, *corpus, **clean)
    workspace, runner = Workspace(directory / work), runner or LocalRunner(1)
    made = make_corpus(CorpusSettings.of(settings, unit_bytes), workspace, runner)
    return make_pool(CleanSettings.of(settings), made, workspace, runner).checked()


COLUMNS = [*SCHEMA.names, "bytes", "line"]


def documents(made: Pool, columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
    return [
        row
        for unit in made.units
        for batch in iter_documents(unit, columns)
        for row in batch.to_pylist()
    ]


def texts(made: Pool) -> list[str]:
    return [row["text"] for row in documents(made)]


def dropped(made: Pool) -> list[dict[str, Any]]:
    """Every document of the corpus that the pool does not keep, with its reason."""
    found = []
    for unit in made.units:
        rows = pq.read_table(unit.path()).to_pylist()
        for row in np.setdiff1d(np.arange(len(rows)), unit.numbers()).tolist():
            of = repeated_by(made, unit, row)
            repeats = of and pq.read_table(of[0].path())["id"][of[1]].as_py()
            rule = failed_rules(made, unit, row).reason
            found.append({**rows[row], "rule": rule, "repeats": repeats})
    return found


def quarantined(made: Pool) -> list[dict[str, Any]]:
    corpus = made.corpus
    return [
        json.loads(line)
        for file in corpus.named("quarantine-")
        for line in corpus.verified(file).read_bytes().splitlines()
    ]


def raw(bad: Mapping[str, str]) -> bytes:
    return bad["raw"].encode() if "raw" in bad else base64.b64decode(bad["raw_base64"])


def check_accounting(made: Pool) -> dict[str, Any]:
    """read = kept + dropped + quarantined, and each number is what the files hold."""
    facts = made.documents
    assert facts["read"] == facts["kept"] + facts["dropped"] + facts["quarantined"]
    assert facts["kept"] == len(documents(made))
    assert facts["dropped"] == len(dropped(made)) == sum(facts["dropped_by"].values())
    assert facts["quarantined"] == len(quarantined(made))
    by_source = made.by_source.values()
    assert facts["kept"] == sum(tally["documents"] for tally in by_source)
    assert sum(tally["bytes"] for tally in by_source) == sum(
        len(text.encode()) for text in texts(made)
    )
    return dict(facts)


def jsonl(path: Path, rows: list[Any]) -> Path:
    """Objects as JSON lines; bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join(
            (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows
        )
    )
    return path


@contextmanager
def peak_memory(most: float) -> Iterator[None]:
    """Fails where the process grows by more than ``most`` MiB at any time."""
    reset = Path("/proc/self/clear_refs")

    def high() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])

    try:
        reset.write_text("5")  # the peak begins anew
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset here: {error}")
    before = high()
    yield
    grown = (high() - before) / 1024
    assert grown < most, f"{grown:.0f} MiB more"


BAD = [b"not json", b'{"text": "\xff"}', b'{"text": 3}']


def write_pool(tmp_path: Path) -> Path:
    """Write five files of four kinds, with repeats within and across them and bad records."""
    directory = tmp_path / "pool"
    for number in range(3):
        rows: list[Any] = [
            {"id": f"{number}-{k}", "text": f"document {number} {k} " + "w " * k, "n": k}
            for k in range(40)
        ]
        rows[5:5] = [{"id": f"r{number}", "text": "Everywhere  THE same\n"}, *BAD]
        rows.append({"text": rows[0]["text"].upper(), "id": f"within-{number}"})
        jsonl(directory / f"web-{number}.jsonl", rows)
    table = pa.table(
        {"text": ["everywhere the same", None, "only here", "  "], "source": ["wiki"] * 4}
    )
    pq.write_table(table, directory / "t.parquet")
    (directory / "book.txt.gz").write_bytes(gzip.compress(b"a whole book\n", mtime=0))
    return tmp_path


class Counting(LocalRunner):
    """Remembers which function was given which items."""

    def __init__(self) -> None:
        super().__init__(1)
        self.done: list[tuple[str, str]] = []

    def run(self, function: Any, items: Any, shared: Any = None, **options: Any) -> Any:
        for index, result in super().run(function, items, shared, **options):
            item = items[index]
            self.done.append((function.__name__, getattr(item, "part", str(item))))
            yield index, result
