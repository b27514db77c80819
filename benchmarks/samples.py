"""A sample of a pool: bytes read and seconds, beside a scan of the whole pool.

A pool is written as by scale.py, and its corpus and verdicts are made. Then a sample is drawn: in
this process, to count the bytes that its system calls read, and by workers, for the time. The peer
is the scan of earlier versions: all texts are decoded in one process, and the drawn ones are taken.

    python benchmarks/samples.py --json --data 'pool/web-*.jsonl.zst' --size 1000000

``ratio`` is the scan's seconds over the sample's, both from the start of the call; workers that run
already are given, as within a curation. ``read_share`` is of the bytes of the corpus's files, and
``read_share_of_text`` of the pool's text.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scale import _write_pool


def main() -> None:
    """Print the JSON object as the last line."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="penstock-samples-", dir=arguments.scratch) as root:
        print(json.dumps(_measured(Path(root), arguments)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with id, source and text")
    parser.add_argument("--size", type=int, default=20_000, help="documents of the pool")
    parser.add_argument("--count", type=int, help="documents of the sample; a 1,000th by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", help="where the pool goes")
    return parser.parse_args()


def _measured(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from penstock.artefact import Workspace
    from penstock.pipeline.cleaning.settings import CleanSettings
    from penstock.pipeline.cleaning.verdicts import make_pool
    from penstock.pipeline.corpus import CorpusSettings, make_corpus
    from penstock.pipeline.runner import LocalRunner
    from penstock.pipeline.samples import sample_documents
    from penstock.recipe_file import parse_recipe

    text = _write_pool(root / "pool.jsonl", arguments.size, arguments.data)
    count = arguments.count or max(1, arguments.size // 1000)
    plain = {"corpus": [{"path": "pool.jsonl"}], "budget": {"tokens": 1, "rank": "random"}}
    recipe = parse_recipe(plain, root)
    with contextlib.closing(LocalRunner(arguments.workers)) as runner:
        workspace = Workspace(recipe.work_directory)
        corpus = make_corpus(CorpusSettings.of(recipe), workspace, runner)
        pool = make_pool(CleanSettings.of(recipe), corpus, workspace, runner)
        files = sum(record.bytes for record in corpus.files)
        sample_documents(pool, 1, 1, "warm")
        sample_documents(pool, 1, 1, "warm", runner)
        before, began = _bytes_read(), time.process_time()
        sample = sample_documents(pool, count, 1, "fit")
        read, processor = _bytes_read() - before, time.process_time() - began
        began = time.perf_counter()
        again = sample_documents(pool, count, 1, "fit", runner)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        scanned = _scan(pool, count)
        scan = time.perf_counter() - began
    assert sample.equals(again) and sample.equals(scanned.cast(sample.schema))
    return {
        "name": "samples",
        "unit": "seconds",
        "ours": round(seconds, 3),
        "peer": round(scan, 3),
        "ratio": round(scan / seconds, 2),
        "checked": f"the same {len(sample):,} of {pool.kept:,} documents, in the same order",
        "processor_seconds": round(processor, 3),
        "bytes_read": read,
        "read_share": round(read / files, 4),
        "read_share_of_text": round(read / text, 4),
        "corpus_bytes": files,
    }


def _scan(pool: Any, count: int) -> pa.Table:
    """Draw the same sample by reading all texts."""
    from penstock.hashing import hash_documents, mix
    from penstock.pipeline.samples import inside
    from penstock.pipeline.units import iter_documents

    batches = []
    for unit in pool.units:
        for batch in iter_documents(unit):
            drawn = inside(batch, count / pool.kept, 1, "fit")
            batches.append(batch.filter(pa.array(drawn)))
    sample = pa.Table.from_batches(batches)
    hashes = hash_documents(sample, mix(1, "fit", "order"))
    return sample.take(pa.array(np.argsort(hashes, kind="stable")))


def _bytes_read() -> int:
    """Return the bytes that this process has read by system calls (Linux)."""
    counters = Path("/proc/self/io").read_text().split()
    return int(counters[counters.index("rchar:") + 1])


if __name__ == "__main__":
    main()
