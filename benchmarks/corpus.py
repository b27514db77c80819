"""JSON lines to a corpus: one parse to columns against two passes over records, on the same files.

    git archive 680299d --prefix=two-passes/ | tar x -C /tmp
    python benchmarks/corpus.py --json --old-tree /tmp/two-passes
    python benchmarks/corpus.py --json --data 'pool/web-*.jsonl.zst' --old-tree /tmp/two-passes

The peer is Penstock itself before its corpus was made in one pass: records as Python objects, a
pass for the hashes of normalised texts, and one that writes units. Each side is a process that
makes the corpus in itself, without workers, from plain files and from zstd. The sides take turns;
the figures are CPU time, so MB/s a core of JSON lines. Hashing the input files is left out.

One side drops empty and repeated documents as it writes them, the other writes all and leaves that
to verdicts. Compared are the documents that are left, with id, source and other fields, in order,
and the bad records with place, error and bytes: every hundredth line is damaged in some way.
Without an old tree it prints its own MB/s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import zstandard
from common import Side, docstrings, jsonl

ROUNDS = 5
FORMS = ("plain", "zstd")


def main() -> None:
    """Print the JSON object as the last line."""
    arguments = _arguments()
    if arguments.child:
        _serve(Path(arguments.child))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-corpus-", dir=arguments.scratch) as directory:
        size = _write(Path(directory), arguments)
        print(json.dumps(_measure(Path(directory), size, arguments.old_tree)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files; docstrings if absent")
    parser.add_argument("--documents", type=int, default=10**9, help="at most so many")
    parser.add_argument("--old-tree", help="Penstock's source at a commit with two passes")
    parser.add_argument("--scratch", help="where files and work directories go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- input ------------------------------------------------------------------------------------


def _write(directory: Path, arguments: argparse.Namespace) -> int:
    """Write ``plain/`` and ``zstd/``, a file for 32 MB; returns the bytes of the lines."""
    rows: Iterator[dict[str, Any]]
    if arguments.data:
        rows = jsonl(arguments.data)
    else:
        rows = ({"id": f"page-{n}", "text": text} for n, text in enumerate(docstrings()))
    lines = _damaged(islice(rows, arguments.documents))
    for form in FORMS:
        (directory / form).mkdir()
    total = number = 0
    while part := b"".join(_up_to(32 << 20, lines)):
        (directory / "plain" / f"{number:03d}.jsonl").write_bytes(part)
        packed = zstandard.ZstdCompressor().compress(part)
        (directory / "zstd" / f"{number:03d}.jsonl.zst").write_bytes(packed)
        total += len(part)
        number += 1
    return total


def _up_to(size: int, lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line
        size -= len(line)
        if size <= 0:
            return


def _damaged(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Yield lines; each hundredth is followed by the same one repeated, emptied or damaged."""
    ways: list[Callable[[bytes], bytes]] = [
        lambda line: line,
        lambda line: b'{"text": " "}',
        lambda line: line[: len(line) // 2],
        lambda line: line.replace(b"e", b"\xff", 1),
        lambda line: line.replace(b'"text"', b'"body"'),
        lambda line: line.replace(b'"text"', b'"text": "first", "text"'),
        lambda line: line.replace(b'"text"', b'"te\\u0078t"'),
        lambda line: line.replace(b" ", b"\\ud83d", 3),
        lambda line: b" \t",
    ]
    for number, row in enumerate(rows):
        line = json.dumps(row, ensure_ascii=bool(number % 2)).encode()
        yield line + b"\n"
        if number % 100 == 0:
            yield ways[number // 100 % len(ways)](line) + b"\n"


# -- a side -----------------------------------------------------------------------------------


class InlineRunner:
    """Runs everything in this process, so that its CPU time is that of the work."""

    name = "inline"
    slots = 1

    def run(
        self,
        function: Callable[[Any, Any], Any],
        items: Sequence[Any],
        shared: Any = None,
        **_: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Yield the results in order."""
        for number, item in enumerate(items):
            yield number, function(item, shared)


def _serve(directory: Path) -> None:
    """Make the corpus of each form that is asked for; print seconds, and at first what is in it."""
    print(json.dumps({form: _made(directory, form) for form in FORMS}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": _corpus(directory, line.strip())[1]}), flush=True)


def _corpus(directory: Path, form: str) -> tuple[Any, float]:
    from penstock.artefact import Workspace
    from penstock.pipeline.corpus import CorpusSettings, make_corpus
    from penstock.recipe_file import parse_recipe

    budget = {"tokens": 1, "rank": "random"}
    recipe = parse_recipe({"corpus": [{"path": form}], "budget": budget}, directory)
    work = directory / f"work-{os.getpid()}"
    shutil.rmtree(work / "corpus", ignore_errors=True)  # hashes of the inputs stay beside it
    runner: Any = InlineRunner()
    settings = CorpusSettings.of(recipe)
    began = time.process_time()
    made = make_corpus(settings, Workspace(work), runner)
    return made, time.process_time() - began


def _made(directory: Path, form: str) -> dict[str, Any]:
    """Return numbers and digests of the documents that are left and of the bad records."""
    import pyarrow.parquet as pq

    from penstock.pipeline.units import units_of

    made, _ = _corpus(directory, form)
    documents, seen = hashlib.sha256(), set()
    for unit in units_of(made):
        for batch in pq.ParquetFile(unit.path()).iter_batches(1024):
            for row in batch.to_pylist():
                same = hashlib.sha256(" ".join(row["text"].lower().split()).encode()).digest()
                if row["text"].strip() and same not in seen:
                    seen.add(same)
                    fields = [row[name] for name in ("id", "text", "source", "meta")]
                    documents.update(json.dumps(fields).encode())
    bad = hashlib.sha256()
    count = 0
    for record in made.named("quarantine-"):
        for line in (Path(str(made.path)) / record.path).read_bytes().splitlines():
            fields = json.loads(line)
            for name in ("file", "row", "input", "id"):  # keys that are not in all versions
                fields.pop(name, None)
            bad.update(json.dumps(fields, sort_keys=True).encode())
            count += 1
    digests = [documents.hexdigest(), bad.hexdigest()]
    return {"documents": len(seen), "bad": count, "digests": digests}


# -- both sides -------------------------------------------------------------------------------


def _measure(directory: Path, size: int, old_tree: str | None) -> dict[str, Any]:
    ours = _side(directory, Path(__file__).parents[1])
    peer = _side(directory, Path(old_tree)) if old_tree else None
    seconds: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    for number in range(ROUNDS):
        for form in FORMS:
            sides = [ours, peer] if number % 2 else [peer, ours]
            found = {id(side): side.ask(form)["seconds"] for side in sides if side}
            seconds[form].append((found[id(ours)], found.get(id(peer), 0.0)))
    rates = {
        form: {
            "ours": round(size / 1e6 / statistics.median(mine for mine, _ in own), 1),
            **(
                {
                    "peer": round(size / 1e6 / statistics.median(its for _, its in own), 1),
                    "ratio": round(statistics.median(its / mine for mine, its in own), 2),
                }
                if peer
                else {}
            ),
        }
        for form, own in seconds.items()
    }
    counts = ours.first["plain"]
    result: dict[str, Any] = {"name": "corpus", "unit": "MB/s a core", "bytes": size, **rates}
    if peer:
        if ours.first != peer.first:
            sys.exit(f"the sides differ: {ours.first} {peer.first}")
        slower = min(FORMS, key=lambda form: rates[form]["ratio"])
        result |= rates[slower]
        result["checked"] = (
            f"{counts['documents']:,} documents and {counts['bad']:,} bad records are equal, "
            "plain and zstd"
        )
        peer.close()
    ours.close()
    return result


def _side(directory: Path, tree: Path) -> Side:
    run = f"import sys; sys.path[:0] = {[str(tree), str(Path(__file__).parent)]!r}; "
    run += f"sys.argv = ['corpus.py', '--child', {str(directory)!r}]; import corpus; corpus.main()"
    return Side([sys.executable, "-c", run])


if __name__ == "__main__":
    main()
