"""Fuzz targets: Arrow and Parquet files from bytes. They may raise only PenstockError.

``python -m tests.columnar.fuzzing SECONDS [SEED]`` runs them in child processes and prints the
seeds that ended one. Without bytes of its own a target makes them of a seed (:func:`mutated`).
"""

from __future__ import annotations

import functools
import io
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.columnar import read_batches, read_parquet
from penstock.errors import PenstockError
from penstock.pipeline.reading.readers import read_batches as read_input
from penstock.recipe import CorpusSource
from tests.columnar.hostile import ATTACKS, arrow_bytes

__all__ = ["TARGETS", "arrow_file", "mutated", "parquet_file", "seeds"]

_CAP = 1 << 20
_SPEC = CorpusSource(path="x")
_NUMBERS = (0, 1, 7, 8, -1, -8, 255, 2**16, 2**30, 2**31 - 8, 2**31 - 1, -(2**31))
_LARGE = (*_NUMBERS, 2**33, 2**40, 2**61, 2**62, 2**63 - 8, 2**63 - 1, -(2**63))


def arrow_file(data: bytes) -> None:
    """Read an Arrow file as an input, and as a file of an artefact."""
    _read(data, "x.arrow")


def parquet_file(data: bytes) -> None:
    """Read a Parquet file as an input, and as a file of an artefact."""
    _read(data, "x.parquet")


TARGETS = {"arrow": arrow_file, "parquet": parquet_file}


def _read(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as at:
        path = Path(at, name)
        path.write_bytes(data)
        rows = 0
        for batch in read_input(path, _SPEC, cap=_CAP):
            rows += len(batch.documents) + len(batch.bad)
            for value in batch.documents.to_pylist():
                assert value["text"].encode() is not None
            if rows > 10_000:  # runs and nulls are many rows of few bytes
                break
        if rows <= 10_000:
            (read_batches if name == "x.arrow" else read_parquet)(path)


@functools.cache
def seeds(kind: str) -> list[bytes]:
    """Return sound files of every type, in all forms."""
    found = []
    count = 8
    columns = {
        name: pa.concat_arrays([column] * 8)[:count] for name, (column, *_) in ATTACKS.items()
    }
    columns |= {
        "map": pa.array([[("k", "v")]] * count, pa.map_(pa.string(), pa.string())),
        "fixed": pa.array([["a", "b"]] * count, pa.list_(pa.string(), 2)),
        "numbers": pa.array(np.linspace(0, 1, count)),
        "times": pa.array(range(count), pa.timestamp("ns", "UTC")),
        "decimal": pa.array([1] * count, pa.decimal128(9, 2)),
        "flags": pa.array([True, None] * (count // 2)),
        "nothing": pa.nulls(count),
    }
    texts = ["é" * 5, "", "plain", None, "text", "more", "x" * 90, "y"]
    names = list(columns)
    for text in (pa.string(), pa.large_string(), pa.string_view()):
        whole = {"text": pa.array(texts, text), "id": pa.array([*"abcdefgh"])}
        for first in range(0, len(names), 6):
            part = whole | {name: columns[name] for name in names[first : first + 6]}
            if kind == "arrow":
                for stream in (False, True):
                    found += [arrow_bytes(part, stream, how) for how in (None, "zstd", "lz4")]
            else:
                found += _parquets(part)
    return found


def _parquets(columns: dict[str, pa.Array]) -> list[bytes]:
    found = []
    kept = {
        name: column
        for name, column in columns.items()
        if not (pa.types.is_union(column.type) or pa.types.is_list_view(column.type))
        and not pa.types.is_run_end_encoded(column.type)
    }
    for version in ("1.0", "2.0"):
        for how in ("none", "zstd", "snappy"):
            for coded in (False, True):
                sink = io.BytesIO()
                pq.write_table(
                    pa.table(kept),
                    sink,
                    compression=how,
                    data_page_version=version,
                    use_dictionary=coded,
                    column_encoding=None if coded else {"id": "DELTA_BYTE_ARRAY"},
                    write_page_checksum=False,
                )
                found.append(sink.getvalue())
    return found


def mutated(kind: str, seed: int) -> bytes:
    """Return a file of which bits, bytes or numbers were changed, or that was cut."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(seeds(kind)))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        how, at = rng.random(), rng.randrange(len(data))
        if how < 0.35:
            data[at] ^= 1 << rng.randrange(8)
        elif how < 0.5:
            data[at] = rng.randrange(256)
        elif how < 0.72:
            at -= at % 4
            data[at : at + 4] = (rng.choice(_NUMBERS) % 2**32).to_bytes(4, "little")
        elif how < 0.94:
            at -= at % 8
            data[at : at + 8] = (rng.choice(_LARGE) % 2**64).to_bytes(8, "little")
        elif how < 0.97:
            del data[max(1, at) :]
        else:
            del data[at : at + rng.choice((1, 4, 8))]
        data = data or bytearray(1)
    return bytes(data)


def run(seconds: float, seed: int, most: int = 10**9) -> tuple[dict[str, int], list[str]]:
    """Run the targets in child processes: returns the cases of each, and what went wrong."""
    end, wrong, counts = time.monotonic() + seconds, [], dict.fromkeys(TARGETS, 0)
    with tempfile.NamedTemporaryFile() as progress:
        at = seed
        while time.monotonic() < end and at - seed < most:
            child = os.fork()
            if child == 0:
                os._exit(_children(at, end, seed + most, progress.fileno()))
            _, status = os.waitpid(child, 0)
            last = int(os.pread(progress.fileno(), 20, 0) or at)
            kinds = list(TARGETS)
            for number in range(at, last + 1):
                counts[kinds[number % len(kinds)]] += 1
            if status:
                wrong.append(f"{kinds[last % len(kinds)]} {last}: status {status}")
            at = last + 1
    return counts, wrong


def _children(at: int, end: float, last: int, progress: int) -> int:
    """Run cases from ``at`` on; returns 1 at one that raises another error or takes memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
    kinds = list(TARGETS)
    while at < last and time.monotonic() < end:
        os.pwrite(progress, b"%-20d" % at, 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        try:
            TARGETS[kinds[at % len(kinds)]](mutated(kinds[at % len(kinds)], at))
        except PenstockError:
            pass
        except BaseException as error:
            print(f"{kinds[at % len(kinds)]} {at}: {error!r}"[:500], flush=True)
            return 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > 600 << 10 or time.process_time() - started > 10:
            print(f"{kinds[at % len(kinds)]} {at}: {grown >> 10} MiB", flush=True)
            return 1
        at += 1
    return 0


if __name__ == "__main__":
    found, faults = run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(found, faults)
    sys.exit(bool(faults))
