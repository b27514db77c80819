"""The loader against litdata's TokensLoader and mosaicml-streaming, on the same tokens.

All three read the same packed sequences, in a shuffled order, in batches of int64 token ids, on one
core, and take turns. Ours also compares every sequence with its checksum and makes labels,
positions and document boundaries, which the peers leave to the trainer. The measure is CPU time of
the whole process, its prefetching included, over whole epochs of files that are in the page cache;
the peers run without worker processes, which would cost them more. They need their own environment:

    python -m venv /tmp/loaders
    /tmp/loaders/bin/pip install litdata mosaicml-streaming
    python benchmarks/loader.py --json --peer-python /tmp/loaders/bin/python
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import Side, refuse_without_peer, write_pool

from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Train
from penstock.recipe_file import parse_recipe
from penstock.trainers.data.loader import Loader
from penstock.trainers.data.plan import BatchPlan
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.group import Group

_PEER = """
import json, os, sys, time, zlib
import numpy as np
import torch

torch.set_num_threads(1)
kind, place, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = np.load(os.path.join(place, "rows.npy"), mmap_mode="r")
made = os.path.join(place, kind)

if kind == "litdata":
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.cache import Cache

    length = rows.shape[1]
    if not os.path.isdir(made):
        os.makedirs(made)
        cache = Cache(made, chunk_size=4 * 2**20 // length * length, item_loader=TokensLoader())
        for number, row in enumerate(rows):
            cache[number] = torch.from_numpy(row.copy())
        cache.done()
        cache.merge()
    data = StreamingDataset(
        made, item_loader=TokensLoader(block_size=length), shuffle=True, drop_last=False
    )
    loader = StreamingDataLoader(data, batch_size=batch, num_workers=0)
    batches = lambda: (ids.long() for ids in loader)
else:
    from streaming import MDSWriter, StreamingDataset

    if not os.path.isdir(made):
        kind_of = f"ndarray:{rows.dtype}:{rows.shape[1]}"
        with MDSWriter(out=made, columns={"tokens": kind_of}) as writer:
            for row in rows:
                writer.write({"tokens": np.ascontiguousarray(row)})
    data = StreamingDataset(local=made, shuffle=True, batch_size=batch)
    stack = lambda items: torch.from_numpy(np.stack([item["tokens"] for item in items])).long()
    loader = torch.utils.data.DataLoader(data, batch_size=batch, collate_fn=stack)
    batches = lambda: iter(loader)

sums = [zlib.crc32(row.numpy().astype("<u2").tobytes()) for ids in batches() for row in ids]
print(json.dumps({"sequences": len(sums), "sum": sum(sums)}), flush=True)
for line in sys.stdin:
    began, wall, tokens = time.process_time(), time.perf_counter(), 0
    for _ in range(int(line)):
        for ids in batches():
            tokens += ids.numel()
    told = {"cpu": time.process_time() - began, "wall": time.perf_counter() - wall}
    print(json.dumps({"tokens": tokens, **told}), flush=True)
"""

PEERS = ("litdata", "streaming")


def main() -> None:
    """Measure, and print the JSON object as the last line."""
    arguments = _arguments()
    if arguments.side:
        _serve(arguments.side, arguments.batch)
        return
    with tempfile.TemporaryDirectory(prefix="penstock-loader-") as place:
        result = _measure(arguments, Path(place))
    good = result.pop("good")
    print(json.dumps(result))
    if not good:
        sys.exit("the check failed: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", type=Path, help="a directory of .jsonl.zst files")
    parser.add_argument("--peer-python", help="an interpreter that has both peers")
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a batch")
    parser.add_argument("--epochs", type=int, default=20, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="the sides take turns")
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.side and not arguments.peer_python:
        refuse_without_peer("/tmp/loaders", "litdata mosaicml-streaming")
    return arguments


def _measure(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    shards = _shards(arguments, place)
    opened = ShardSet.open(shards)
    rows = opened.read(np.arange(len(opened)))[0].astype(np.uint16)
    np.save(place / "rows.npy", rows)
    script = place / "peer.py"
    script.write_text(_PEER)
    batch = str(arguments.batch)
    pinned = ["taskset", "--cpu-list", "0"]
    sides = {
        "ours": Side([*pinned, sys.executable, __file__, "--side", str(shards), "--batch", batch]),
        **{
            name: Side([*pinned, arguments.peer_python, str(script), name, str(place), batch])
            for name in PEERS
        },
    }
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        cost = {name: _turn(side, arguments.epochs) for name, side in sides.items()}
        print({name: round(value * 1e9, 2) for name, value in cost.items()}, file=sys.stderr)
        rounds.append(cost)
    for side in sides.values():
        side.close()
    expected = {"sequences": len(rows), "sum": sum(zlib.crc32(row.tobytes()) for row in rows)}
    seconds = {name: statistics.median(each[name] for each in rounds) for name in sides}
    ratios = {
        name: statistics.median(each[name] / each["ours"] for each in rounds) for name in PEERS
    }
    nearest = min(PEERS, key=lambda name: ratios[name])
    return {
        "name": "loader",
        "unit": f"tokens/s of CPU time, batches of {arguments.batch} x {arguments.length}",
        "ours": round(1 / seconds["ours"]),
        "peer": round(1 / seconds[nearest]),
        "ratio": round(ratios[nearest], 2),
        "checked": f"{len(rows):,} sequences of an epoch, CRC-32 of every one, equal on all sides",
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "good": all(side.first == expected for side in sides.values()),
    }


def _shards(arguments: argparse.Namespace, place: Path) -> Path:
    # Docstrings of installed packages: 4,000 files hold more than the 4 million tokens by default.
    pool = arguments.data or write_pool(place / "pool", arguments.tokens // 1000)
    recipe = parse_recipe(
        {
            "work": str(place / "work"),
            "corpus": [{"path": str(pool.resolve() / "*.jsonl.zst")}],
            "budget": {"tokens": arguments.tokens, "rank": "random"},
            "tokenizer": {"train": {"vocab_size": 8192}},
            "shards": {"sequence_length": arguments.length},
        },
        place,
    )
    with closing(LocalRunner()) as runner:
        return Path(str(curate(recipe, runner).shards.path))


def _turn(side: Side, epochs: int) -> float:
    """Let a side read epochs; return CPU seconds a token."""
    cost = side.ask(epochs)
    return float(cost["cpu"] / cost["tokens"])


def _serve(path: Path, batch: int) -> None:
    """Our side."""
    shards = ShardSet.open(path)
    seeds = iter(range(10**9))

    def batches() -> Iterator[np.ndarray]:
        train = Train(batch_tokens=2**19, micro_batch=batch)
        plan = BatchPlan.of(train, shards, next(seeds))
        loader = Loader(shards, plan, Group(), batch)
        for step in loader.steps():
            for made in step.micro_batches:
                yield made.input_ids.numpy()

    sums = [zlib.crc32(row.astype("<u2").tobytes()) for ids in batches() for row in ids]
    print(json.dumps({"sequences": len(sums), "sum": sum(sums)}), flush=True)
    for line in sys.stdin:
        began, tokens = time.process_time(), 0
        for _ in range(int(line)):
            for ids in batches():
                tokens += ids.size
        print(json.dumps({"tokens": tokens, "cpu": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main()
