"""Facility location: our lazy greedy against apricot's, and a pool of any size in bounded memory.

Both pick 500 of 5,000 documents from the same matrix of similarities, float64, taking turns, one
thread each, CPU time of that thread. apricot 0.6.1 needs its own environment, with scikit-learn and
an older NumPy, so it runs under ``--peer-python`` and gets the matrix as a file. It compiles its
kernel anew in every ``fit``: ``ratio`` is of the ordinary ``fit``, ``ratio_without_compiling`` of a
``fit`` whose compiled kernel was kept by a patch.

    python -m venv /tmp/apricot
    /tmp/apricot/bin/pip install 'numpy<2' scikit-learn apricot-select
    python benchmarks/facility_location.py --json --peer-python /tmp/apricot/bin/python

    python benchmarks/facility_location.py --json --documents 200_000

The second form has no peer: it takes a pool through the selector itself, ``ingenious`` with
``draw: greedy``, partition by partition and then the merge, in one process with one thread, the
vectors being mapped from a file. Memory is the process's peak, in which the number of documents
must not show but for the 8 bytes of a hash and 4 of a score each, and the pages of the file that
the system leaves mapped.

Documents are directions drawn around 200 centres, unequally often, 256 wide: 5,000 of them gain
611 with the first pick and 0.55 with the 500th, where real documents under a static encoder gain
661 and 0.72. ``--vectors`` takes real ones instead: (n, d) int16 on the lattice, as .npy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import refuse_without_peer
from threadpoolctl import threadpool_limits

from penstock.hashing import hash_ids
from penstock.selectors.base import Fitting, Partition
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.ingenious import Ingenious
from penstock.selectors.kernels.facility_location import Similarities, lazy_greedy

WIDTH = 256
TOLERANCE = 1e-5


def main() -> None:
    """Run the measurements and print the results, the JSON object as the last line."""
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(_curated(arguments.side)))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-facility-", dir=arguments.scratch) as place:
        if arguments.documents:
            result = _pool(arguments, Path(place))
        else:
            result = _against_the_peer(arguments, Path(place))
    good = result.pop("good")
    print(json.dumps(result))
    if not good:
        sys.exit("the check failed: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--peer-python", help="an interpreter that has apricot-select")
    parser.add_argument("--size", type=int, default=5000, help="n, against the peer")
    parser.add_argument("--picks", type=int, default=500, help="k, against the peer")
    parser.add_argument("--rounds", type=int, default=5, help="the sides take turns")
    parser.add_argument("--documents", type=int, help="a pool of so many instead")
    parser.add_argument("--vectors", type=Path, help="real vectors, .npy of int16")
    parser.add_argument("--scratch", help="directory for 524 bytes a document of the pool")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (arguments.peer_python or arguments.documents or arguments.side):
        others = "; or give --documents for a pool without a peer"
        refuse_without_peer("/tmp/apricot", "'numpy<2' scikit-learn apricot-select", others)
    return arguments


def _vectors(count: int, given: Path | None, to: Path) -> np.ndarray:
    """Return vectors on the lattice, (count, d) int16, mapped from a file written here."""
    if given:
        real = np.load(given, mmap_mode="r")
        if len(real) < count:
            sys.exit(f"--vectors: expected at least {count} rows, got {len(real)}")
        np.save(to, real[:count])
        return np.load(to, mmap_mode="r")
    vectors = np.lib.format.open_memmap(to, "w+", np.int16, (count, WIDTH))
    often = 1 / np.arange(1, 201)
    centres = np.random.default_rng(0).normal(size=(200, WIDTH))
    for start in range(0, count, 10_000):
        chance = np.random.default_rng([1, start])
        some = min(10_000, count - start)
        drawn = centres[chance.choice(200, some, p=often / often.sum())]
        drawn = drawn + chance.normal(size=(some, WIDTH))
        drawn /= np.linalg.norm(drawn, axis=1)[:, None]
        vectors[start : start + some] = on_lattice(drawn.astype(np.float32))
    vectors.flush()
    return vectors


# -- against the peer -------------------------------------------------------------------------

_PEER = """
import functools, json, sys, time
import numpy as np
import apricot.functions.facilityLocation as module

matrix, picks = np.load(sys.argv[1]), int(sys.argv[2])
names = "calculate_gains", "calculate_gains_sieve"
fresh = {name: getattr(module, name) for name in names}
kept = {name: functools.lru_cache(fresh[name]) for name in names}

def fit(factories):
    vars(module).update(factories)
    selection = module.FacilityLocationSelection(picks, metric="precomputed", optimizer="lazy")
    start = time.thread_time()
    selection.fit(matrix)
    return time.thread_time() - start, selection

fit(kept)
print("ready", flush=True)
for _ in sys.stdin:
    compiling, selection = fit(fresh)
    compiled, _ = fit(kept)
    np.save(sys.argv[3], selection.gains)
    print(json.dumps({"peer": compiling, "compiled": compiled}), flush=True)
"""


def _against_the_peer(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    size, picks = arguments.size, arguments.picks
    vectors = _vectors(size, arguments.vectors, place / "vectors.npy")
    cosines = Similarities.of(vectors, neighbours=size, dense=size)
    matrix = np.maximum(cosines.dense, 0).astype(np.float64) / cosines.unit  # apricot wants no less
    np.save(place / "matrix.npy", matrix)
    del cosines
    lazy_greedy(Similarities.given(matrix[:9, :9].copy()), 2)  # compiles

    files = [str(place / "matrix.npy"), str(picks), str(place / "gains.npy")]
    command = [arguments.peer_python, "-W", "ignore", "-c", _PEER, *files]
    rounds = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        assert peer.stdin is not None and peer.stdout is not None
        assert peer.stdout.readline() == "ready\n", "the peer failed; see above"
        for _ in range(arguments.rounds):
            print("go", file=peer.stdin, flush=True)
            seconds = json.loads(peer.stdout.readline())
            start = time.thread_time()
            ours = lazy_greedy(Similarities.given(matrix), picks)
            seconds["ours"] = time.thread_time() - start
            print({name: round(value, 3) for name, value in seconds.items()}, file=sys.stderr)
            rounds.append(seconds)
        peer.stdin.close()
    theirs = np.load(place / "gains.npy")
    difference = float(np.abs(ours.gains - theirs).max())
    seconds = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    ratios = [each["peer"] / each["ours"] for each in rounds]
    if not arguments.json:
        print(
            f"{statistics.median(ratios):.1f} times apricot ({min(ratios):.1f} to "
            f"{max(ratios):.1f}), compiling included"
        )
    return {
        "name": "facility-location",
        "unit": f"picks/s per core, {picks} of {size}",
        "ours": round(picks / seconds["ours"]),
        "peer": round(picks / seconds["peer"]),
        "ratio": round(statistics.median(ratios), 2),
        "checked": f"{picks} gains from {theirs[0]:.1f} to {theirs[-1]:.3f}, "
        f"largest difference {difference:.1e}",
        "ratio_without_compiling": round(
            statistics.median(each["compiled"] / each["ours"] for each in rounds), 2
        ),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "good": difference <= TOLERANCE,
    }


# -- a pool -----------------------------------------------------------------------------------


def _pool(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    count = arguments.documents
    vectors = _vectors(count, arguments.vectors, place / "vectors.npy")
    command = [sys.executable, __file__, "--side", str(place)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    told = json.loads(printed.splitlines()[-1])
    scores = np.load(place / "scores.npy")
    order = np.argsort(-scores, kind="stable")
    tenth = order[: count // 10]
    covered = _mean_similarity(vectors, tenth)
    at_random = _mean_similarity(vectors, np.arange(count // 10))
    good = bool(np.isfinite(scores).all()) and covered > at_random
    if not arguments.json:
        print(f"{count:,} documents in {told['seconds']:.0f} s and {told['peak_gib']} GiB")
    return {
        "name": "facility-location-pool",
        "unit": "documents/s of CPU time on one core",
        "ours": round(count / told["cpu_seconds"]),
        "peer": None,
        "ratio": None,
        "checked": f"{count:,} finite scores; mean similarity to the nearest of a tenth of them "
        f"{covered:.4f}, of a random tenth {at_random:.4f}",
        **told,
        "good": good,
    }


def _curated(place: Path) -> dict[str, Any]:
    """Run the selector over the mapped vectors, after a warm-up, in a separate process."""
    vectors = np.load(place / "vectors.npy", mmap_mode="r")
    selector = Ingenious(draw="greedy")
    with threadpool_limits(1):
        few = pa.array(np.arange(64).astype(str))
        warm = Partition(
            number=0, hashes=np.sort(hash_ids(few, 0)), vectors=vectors[:64].copy(), quality=None
        )
        Similarities.of(warm.vectors, neighbours=4, dense=0)
        selector.fit(Fitting(sample=lambda count: pa.table({}), pool_size=64))
        selector.merge(warm, selector.score(warm))
        begun = _peak()
        start, cpu = time.perf_counter(), time.process_time()
        scores, parts = _scored(selector, vectors)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    np.save(place / "scores.npy", scores)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_by_part": {name: round(value, 1) for name, value in parts.items()},
        "partitions": selector.partitions,
        "peak_gib": _peak(),
        "imports_gib": begun,
    }


def _scored(selector: Ingenious, vectors: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Return scores, (n,) float32 in the order of the vectors, and seconds."""
    selector.fit(Fitting(sample=lambda count: pa.table({}), pool_size=len(vectors)))
    ids = pa.array([f"doc-{row}" for row in range(len(vectors))])
    hashes = hash_ids(ids, 17)
    numbers = selector.assign(vectors[:0], hashes)
    scores = np.empty(len(vectors), np.float32)
    competing = []
    began = time.perf_counter()
    for number in range(selector.partitions):
        partition, rows = _gathered(np.flatnonzero(numbers == number), hashes, vectors)
        scores[rows] = selector.score(partition)
        competing.append(rows[selector.candidates(partition, scores[rows])])
    between = time.perf_counter()
    union, rows = _gathered(np.concatenate(competing), hashes, vectors)
    scores[rows] = selector.merge(union, scores[rows])
    return scores, {"partitions": between - began, "merge": time.perf_counter() - between}


def _gathered(
    rows: np.ndarray, hashes: np.ndarray, vectors: np.ndarray
) -> tuple[Partition, np.ndarray]:
    """Some documents in the order of their hashes, and their rows in that order."""
    rows = rows[np.argsort(hashes[rows])]
    return Partition(number=0, hashes=hashes[rows], vectors=vectors[rows], quality=None), rows


def _peak() -> float:
    """Return the peak memory of this process, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _mean_similarity(vectors: np.ndarray, taken: np.ndarray) -> float:
    """Return the mean similarity of a sample of documents to the nearest one that is taken."""
    some = vectors[:: max(1, len(vectors) // 4096)].astype(np.float32)
    some /= np.maximum(1, np.linalg.norm(some, axis=1))[:, None]
    nearest = np.zeros(len(some), np.float32)
    for start in range(0, len(taken), 4096):
        block = vectors[taken[start : start + 4096]].astype(np.float32)
        block /= np.maximum(1, np.linalg.norm(block, axis=1))[:, None]
        np.maximum(nearest, (some @ block.T).max(axis=1), out=nearest)
    return float(nearest.mean(dtype=np.float64))


if __name__ == "__main__":
    main()
