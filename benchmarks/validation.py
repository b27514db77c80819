"""The cost of validating what Arrow has read, as a share of the CPU time of reading.

    python benchmarks/validation.py --json

One process reads the same files to documents (`read_batches`) with and without the validation, in
turns; without it the function is replaced by one that returns its argument. A pair is the sums over
ten turns. Figures are the median over pairs of the validation's share of CPU time, the share that
is counted inside of the function, and MB/s a core of text. Arrow and Parquet files are those of
pyarrow, with zstd in Parquet; JSON lines have no buffers from elsewhere, so only noise is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from common import docstrings

from penstock.columnar import arrow, parquet, validate
from penstock.pipeline.reading import hugging_face
from penstock.pipeline.reading.readers import read_batches
from penstock.recipe import CorpusSource

PAIRS = 7
TURNS = 10
BYTES = 32 << 20


def main() -> None:
    """Print the JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="penstock-validation-") as directory:
        files, size = _write(Path(directory))
        found = {path.suffix[1:]: _measure(path, size, arguments.pairs) for path in files}
    print(json.dumps(found))


def _write(directory: Path) -> tuple[list[Path], int]:
    """Write the same rows in each format; returns the files and the bytes of the texts."""
    rows, size = [], 0
    texts = list(docstrings())
    while size < BYTES:
        for text in texts:
            rows.append({"id": f"page-{len(rows)}", "text": text, "url": f"http://a/{len(rows)}"})
            size += len(text.encode())
    table = pa.Table.from_pylist(rows)
    files = [directory / f"a.{ending}" for ending in ("arrow", "parquet", "jsonl")]
    with pa.OSFile(str(files[0]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    pq.write_table(table, files[1], compression="zstd", row_group_size=100_000)
    files[2].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files, size


def _measure(path: Path, size: int, pairs: int) -> dict[str, Any]:
    _read(path)
    shares, inside, seconds = [], [], []
    for _ in range(pairs):
        taken = {True: 0.0, False: 0.0}
        for turn in range(TURNS):
            for validated in (True, False) if turn % 2 else (False, True):
                with (
                    contextlib.nullcontext()
                    if validated
                    else _instead(lambda data, utf8=True: data)
                ):
                    taken[validated] += _read(path)
        shares.append(1 - taken[False] / taken[True])
        seconds.append(taken[True] / TURNS)
        inside.append(_inside(path))
    return {
        "share": round(statistics.median(shares), 4),
        "shares": [round(share, 4) for share in sorted(shares)],
        "inside": round(statistics.median(inside), 4),
        "MB/s": round(size / 1e6 / statistics.median(seconds), 1),
    }


def _inside(path: Path) -> float:
    """Return the share of CPU time that is spent in the validation."""
    spent = 0.0

    def counted(data: Any, utf8: bool = True) -> Any:
        nonlocal spent
        start = time.process_time()
        validate(data, utf8)
        spent += time.process_time() - start
        return data

    with _instead(counted):
        total = sum(_read(path) for _ in range(TURNS))
    return spent / total


def _read(path: Path) -> float:
    """Read a file; returns seconds of CPU."""
    start = time.process_time()
    spec = CorpusSource(path=str(path))
    for _ in read_batches(path, spec):
        pass
    return time.process_time() - start


@contextlib.contextmanager
def _instead(function: Callable[..., Any]) -> Iterator[None]:
    """Validate by another function."""
    modules: list[Any] = [arrow, parquet, hugging_face]
    for module in modules:
        module.validate = function
    try:
        yield
    finally:
        for module in modules:
            module.validate = validate


if __name__ == "__main__":
    main()
