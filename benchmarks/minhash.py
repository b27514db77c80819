"""Near-duplicates: signatures against rensa, all of it against datatrove, recall, memory.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install datatrove spacy orjson tokenizers 'xxhash<4' rensa
    python benchmarks/minhash.py --json --peer-python /tmp/peers/bin/python
    python benchmarks/minhash.py --json --parts recall --data 'pool/web-*.jsonl.zst'
    python benchmarks/minhash.py --json --parts scale --sizes 250000 1000000 --data ...

``signatures``: MB/s a core from texts to band hashes, 117 functions, word 5-grams; the peer is
rensa's ``digest_matrix_from_token_sets``, in CPU time and in turns: once with the making of its
n-grams in Python, and once without (``digest_only``), which leaves out what most of our time is.

``whole``: from JSON lines to files of documents without near-duplicates, on one core: corpus,
signatures, components, verdicts and the writing of what is kept, against datatrove's four stages
with the same 14 bands of 8 rows. Half of the documents are edited copies of the others. ``ratio``
is that of CPU times.

``recall``: 20,000 documents, half of them copies with more or fewer words changed. The similarity
of every pair that shares an n-gram is computed from the sets; at thresholds of 0.5 to 0.9 the
number of pairs found is compared with the sum of 1 - (1 - s^r)^b over all pairs.

``scale``: memory of the driver and its workers together, corpus included, and whether planted
copies are found, for pools of rising size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Side, docstrings, jsonl, refuse_without_peer

from penstock.artefact import Workspace
from penstock.pipeline.cleaning.duplicates import NearDuplicates
from penstock.pipeline.cleaning.minhash.signatures import Signatures, band_hashes, shingle_sets
from penstock.pipeline.cleaning.minhash.threshold import Banding
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.units import iter_documents
from penstock.recipe_file import parse_recipe

ROUNDS = 3
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
PARTS = ("signatures", "whole", "recall", "scale")
_ROWS = 4096

_PEER = """
import json, os, shutil, sys, time

place, work = sys.argv[1:]
print(json.dumps({"rensa": False}), flush=True)


def rensa_digests(begin, end, functions):
    import rensa

    texts = [json.loads(line)["text"] for line in open(place, encoding="utf-8")][begin:end]
    began = time.process_time()
    grams = []
    for text in texts:
        words = text.lower().split()
        grams.append([" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))])
    made = time.process_time()
    rensa.RMinHash.digest_matrix_from_token_sets(grams, functions, 42)
    ended = time.process_time()
    return {"cpu": ended - began, "digest_only": ended - made}


def datatrove_kept():
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup import MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.logging import logger

    logger.remove()
    shutil.rmtree(work, ignore_errors=True)
    folder, name = os.path.split(place)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)

    def documents():
        return JsonlReader(folder, glob_pattern=name, compression=None).run(rank=0, world_size=1)

    sign = MinhashDedupSignature(work + "/signatures", config=config)
    sign.get_shingles("a text to load the tokenizer")
    began = time.process_time()
    sign.run(documents())
    for bucket in range(14):
        MinhashDedupBuckets(work + "/signatures", work + "/buckets", config=config).run(
            rank=bucket, world_size=14
        )
    MinhashDedupCluster(work + "/buckets", work + "/removed", config=config).run()
    kept = MinhashDedupFilter(work + "/removed").run(documents())
    with JsonlWriter(work + "/kept", compression=None) as writer:
        ids = []
        for document in kept:
            writer.write(document)
            ids.append(int(document.id))
    return {"cpu": time.process_time() - began, "kept": ids}


for request in sys.stdin:
    name, *arguments = json.loads(request)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""


def main() -> None:
    """Measure the parts, and print the JSON object as the last line."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_measured(Path(arguments.child), arguments.workers)))
        return
    result: dict[str, Any] = {"name": "minhash", "unit": "documents/s a core"}
    with tempfile.TemporaryDirectory(prefix="penstock-minhash-", dir=arguments.scratch) as at:
        place = Path(at)
        if {"signatures", "whole"} & set(arguments.parts):
            result |= _against_peers(place, arguments)
        if "recall" in arguments.parts:
            result["recall"] = _recall(_texts(arguments, 10_000))
        if "scale" in arguments.parts:
            result["scale"] = [_scale(place, size, arguments) for size in arguments.sizes]
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--data", help="glob of .jsonl.zst files with `text`; docstrings if absent")
    parser.add_argument("--documents", type=int, default=4000, help="documents against peers")
    parser.add_argument("--peer-python", help="an interpreter that has datatrove, spacy and rensa")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 8_000], help="of scale")
    parser.add_argument("--workers", type=int, default=2, help="of scale")
    parser.add_argument("--scratch", help="where files go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer_python and not Path(arguments.peer_python).exists():
        refuse_without_peer("/tmp/peers", "datatrove spacy orjson tokenizers 'xxhash<4' rensa")
    return arguments


def _texts(arguments: argparse.Namespace, count: int) -> list[str]:
    """Return documents that differ in a tenth of their n-grams at least, for most."""
    found = (row["text"] for row in jsonl(arguments.data)) if arguments.data else docstrings()
    return list(islice((text for text in found if text.split()), count))


def _edited(text: str, share: float, rng: np.random.Generator) -> str:
    """Return a text with a share of its words replaced."""
    words = text.split(" ")
    for at in np.flatnonzero(rng.random(len(words)) < share):
        words[at] = f"w{rng.integers(10**9)}"
    return " ".join(words)


# -- against peers ----------------------------------------------------------------------------


def _against_peers(place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    originals = _texts(arguments, arguments.documents // 2)
    texts = [*originals, *(_edited(text, rng.choice([0.0, 0.005]), rng) for text in originals)]
    order = rng.permutation(len(texts))
    texts = [texts[at] for at in order]
    array = pa.array(texts, pa.large_string())
    size = array.nbytes / 1e6
    lines = [json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)]
    (place / "texts.jsonl").write_text("".join(lines))
    (place / "peer.py").write_text(_PEER)
    peer = arguments.peer_python and Side(
        [
            arguments.peer_python,
            *map(str, (place / "peer.py", place / "texts.jsonl", place / "peer")),
        ]
    )
    result: dict[str, Any] = {"documents": len(texts), "megabytes": round(size, 1)}
    if "signatures" in arguments.parts:
        result["signatures"] = _signatures(array, size, peer)
    if "whole" in arguments.parts:
        result |= _whole(place, texts, order, peer)
    return result


def _signatures(texts: pa.Array, size: float, peer: Side | None) -> dict[str, Any]:
    column = Signatures(threshold=0.8)
    functions = column.banding.bands * column.banding.rows
    column.compute(texts[:10])
    if peer:
        peer.ask(json.dumps(["rensa_digests", 0, 10, functions]))
    rounds = []
    for _ in range(ROUNDS * 3):
        began = time.process_time()
        for start in range(0, len(texts), _ROWS):
            column.compute(texts[start : start + _ROWS])
        mine = time.process_time() - began
        told = peer and peer.ask(json.dumps(["rensa_digests", 0, len(texts), functions]))
        rounds.append((mine, told["cpu"], told["digest_only"]) if told else (mine, 0.0, 0.0))
    mine, whole, digest = (statistics.median(side) for side in zip(*rounds))
    found: dict[str, Any] = {
        "megabytes_a_second": round(size / mine, 1),
        "documents_a_second": round(len(texts) / mine),
        "functions": functions,
    }
    if peer:
        found["rensa"] = {
            "documents_a_second": round(len(texts) / whole),
            "ratio": round(whole / mine, 2),
            "ratio_to_digest_only": round(digest / mine, 2),
        }
    return found


def _whole(
    place: Path, texts: Sequence[str], order: np.ndarray, peer: Side | None
) -> dict[str, Any]:
    """Compare the time and the decisions of all stages."""
    seconds, kept = [], np.zeros(0, np.int64)
    peers: dict[str, Any] = {}
    for number in range(1 + ROUNDS):
        began = time.process_time()
        with contextlib.closing(LocalRunner(1)) as runner:
            pool = _make_pool(place, place / f"work-{number}", _Fixed(), runner)
            kept = np.array(_write_kept(pool, place / f"kept-{number}.parquet"))
        mine = time.process_time() - began
        if peer and number:
            peers = peer.ask(json.dumps(["datatrove_kept"]))
            print(f"{mine:.2f} s, {peers['cpu']:.1f} s", file=sys.stderr)
        if number:  # the first compiles
            seconds.append((mine, peers["cpu"] if peers else 0.0))
    spent, theirs = (statistics.median(side) for side in zip(*seconds))
    found = {
        "ours": round(len(texts) / spent),
        "kept": len(kept),
    }
    if peers:
        pairs = _pairs_of(order)
        mine, other = (_both_kept(pairs, side) for side in (kept, np.array(peers["kept"])))
        found |= {
            "peer": round(len(texts) / theirs),
            "ratio": round(statistics.median(peer / own for own, peer in seconds), 1),
            "checked": f"kept {len(kept):,} here, {len(peers['kept']):,} there; of {len(pairs):,} "
            f"planted pairs both stay for {mine.sum():,} here, {other.sum():,} there, "
            f"{(mine & other).sum():,} in both",
        }
    return found


class _Fixed(Signatures):
    """Signatures with datatrove's 14 bands of 8 rows."""

    @property
    def banding(self) -> Banding:
        """The bands."""
        return Banding(bands=14, rows=8)


def _pairs_of(order: np.ndarray) -> np.ndarray:
    """Return the places of each document and its copy: (n, 2)."""
    places = np.argsort(order)
    return places.reshape(2, -1).T


def _both_kept(pairs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.isin(pairs, kept).all(axis=1)


# -- the engine -----------------------------------------------------------------------------------


def _make_pool(place: Path, work: Path, column: Signatures | None, runner: Runner) -> Pool:
    """Make the corpus of ``texts.jsonl``, and the pool that near-duplicates leave."""
    tree = {
        "corpus": [{"path": "texts.jsonl"}],
        "clean": {"dedup": {"minhash": {}}},
        "budget": {"tokens": 1, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
    }
    recipe, workspace = parse_recipe(tree, place), Workspace(work)
    settings = CleanSettings.of(recipe)
    if column is not None:
        settings = replace(settings, near=NearDuplicates(signatures=column))
    corpus = make_corpus(CorpusSettings.of(recipe), workspace, runner)
    return make_pool(settings, corpus, workspace, runner)


def _write_kept(pool: Pool, path: Path) -> list[int]:
    """Write the documents that are kept, and return their numbers."""
    numbers: list[int] = []
    writer = None
    for unit in pool.units:
        for batch in iter_documents(unit, ["id", "text"]):
            writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_batch(batch)
            numbers += map(int, batch.column("id").to_pylist())
    if writer is not None:
        writer.close()
    return numbers


# -- recall and precision -------------------------------------------------------------------------


def _recall(originals: Sequence[str]) -> dict[str, Any]:
    """Compare the pairs found with the similarities of all pairs."""
    rng = np.random.default_rng(1)
    shares = rng.random(len(originals)) ** 2 / 5
    texts = pa.array(
        [*originals, *(_edited(text, share, rng) for text, share in zip(originals, shares))],
        pa.large_string(),
    )
    one, other, similarity = _true_pairs(shingle_sets(texts, 5))
    found: dict[str, Any] = {"documents": len(texts), "pairs": len(one)}
    for threshold in THRESHOLDS:
        column = Signatures(threshold=threshold)
        hashes = band_hashes(column.compute(texts).column("bands"))
        candidate = np.zeros(len(one), bool)
        for band in range(hashes.shape[1]):
            candidate |= hashes[one, band] == hashes[other, band]
        strangers = _candidates(hashes) - int(np.count_nonzero(candidate))
        chance = column.banding.probability(similarity)
        alike = similarity >= threshold
        found[str(threshold)] = {
            "bands": column.banding.bands,
            "rows": column.banding.rows,
            "alike": int(alike.sum()),
            "recall": round(float(candidate[alike].mean()), 4),
            "recall_expected": round(float(chance[alike].mean()), 4),
            "precision": round(float(alike[candidate].mean()), 4),
            "precision_expected": round(float(chance[alike].sum() / chance.sum()), 4),
            "found": int(candidate.sum()),
            "found_expected": round(float(chance.sum()), 1),
            "deviation": round(float(np.sqrt((chance * (1 - chance)).sum())), 1),
            "without_a_common_n_gram": strangers,
            "curve": _curve(similarity, candidate, chance),
        }
    return found


def _true_pairs(sets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all pairs that share an n-gram, and their Jaccard similarity, by brute force."""
    from scipy.sparse import csr_matrix

    sizes = np.array([len(own) for own in sets])
    _, columns = np.unique(np.concatenate(sets), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = csr_matrix((np.ones(len(columns), np.int32), columns, starts))
    turned = rows.T.tocsr()
    pairs = []
    for begin in range(0, len(sets), 500):
        block = (rows[begin : begin + 500] @ turned).tocoo()
        one, other, common = block.row + begin, block.col, block.data
        own = one < other
        one, other, common = one[own], other[own], common[own]
        pairs.append((one, other, common / (sizes[one] + sizes[other] - common)))
    one, other, similarity = (np.concatenate(side) for side in zip(*pairs))
    return one, other, similarity


def _candidates(hashes: np.ndarray) -> int:
    """Count the different pairs that agree in a band."""
    found = set()
    for band in hashes.T:
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for group in np.split(order, cuts):
            if len(group) > 1 and band[group[0]]:
                one, other = np.triu_indices(len(group), 1)  # groups are ascending
                found.update((group[one].astype(np.int64) << 32 | group[other]).tolist())
    return len(found)


def _curve(similarity: np.ndarray, candidate: np.ndarray, chance: np.ndarray) -> list[list[float]]:
    """Return for each tenth from 0.3: its lower end, pairs, share found, share expected."""
    tenth = (similarity * 10).astype(int).clip(0, 9)
    return [
        [at / 10, int(own.sum()), *(round(float(side[own].mean()), 4) for side in sides)]
        for sides in [(candidate, chance)]
        for at in range(3, 10)
        if (own := tenth == at).any()
    ]


# -- scale --------------------------------------------------------------------------------------


def _scale(place: Path, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Deduplicate a pool of ``size`` documents in a separate process; a tenth are copies."""
    at = place / f"scale-{size}"
    at.mkdir()
    with open(at / "texts.jsonl", "w", encoding="utf-8") as sink:
        for number, text in enumerate(islice(_planted(arguments.data), size)):
            sink.write(json.dumps({"id": str(number), "text": text}) + "\n")
    command = [sys.executable, __file__, "--child", str(at), "--workers", str(arguments.workers)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    point = {"size": size, **json.loads(answer.stdout.splitlines()[-1])}
    print(json.dumps(point), file=sys.stderr)
    subprocess.run(["rm", "-rf", str(at)], check=True)
    return point


def _planted(data: str | None) -> Iterator[str]:
    """Yield documents without end; of each ten the last is the first but for its last word.

    Documents are as long as those of the data, and unlike each other: their words are drawn.
    """
    rng = np.random.default_rng(2)
    vocabulary = np.array([f"v{number:x}" for number in rng.integers(16, 16**5, 50_000)])
    lengths = [len(text.split()) for text in islice(_forever(data), 20_000)]
    while True:
        texts = []
        for length in rng.choice(lengths, 9):
            texts.append(" ".join(vocabulary[rng.integers(0, len(vocabulary), max(60, length))]))
        yield from texts
        yield texts[0].rsplit(" ", 1)[0] + " changed"


def _forever(data: str | None) -> Iterator[str]:
    while True:
        yield from (row["text"] for row in jsonl(data)) if data else docstrings()


def _measured(at: Path, workers: int) -> dict[str, Any]:
    """Deduplicate with workers; return the time, the memory, and what was found."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], _memory())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    with contextlib.closing(LocalRunner(workers)) as runner:
        pool = _make_pool(at, at / "work", None, runner)
    seconds = time.perf_counter() - began
    ended.set()
    thread.join()
    documents = int(pool.documents["read"])
    dropped = np.ones(documents, bool)
    for unit in pool.units:
        dropped[[int(name) for name in unit.read_rows(["id"])["id"].to_pylist()]] = False
    copies = np.arange(9, documents, 10)
    found = dropped[copies] ^ dropped[copies - 9]
    return {
        "seconds": round(seconds, 1),
        "microseconds_a_document": round(seconds / documents * 1e6, 1),
        "peak_mib": peak[0] >> 20,
        "planted": len(copies),
        "found": int(found.sum()),
        "dropped": int(dropped.sum()),
    }


def _memory() -> int:
    """Return the proportional resident memory of this process and its children, in bytes."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{entry}/stat").read_text()
                parents[int(entry)] = int(status.rsplit(")", 1)[1].split()[1])
    own = {os.getpid()}
    while added := {one for one, parent in parents.items() if parent in own} - own:
        own |= added
    total = 0
    for one in own:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


if __name__ == "__main__":
    main()
