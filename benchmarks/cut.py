"""The cut under a token budget: our radix search against DuckDB's sort and window, on two cores.

Both get the same rows (score, hash, source, tokens) and leave the same table as Parquet: which
documents fill a budget of a tenth of the pool's tokens, the last one shortened. Ours is the
product's own path from the orders on: plan by bytes, candidates, search by tokens, one file a unit;
only the tokenizer is left out, token counts being given. DuckDB sorts
and sums over a window, ``threads=2``, ``memory_limit='4GB'``, from Parquet files and from a table
of its own, and is given the better of the two.

    python benchmarks/cut.py --json
    python benchmarks/cut.py --json --rows 100_000_000 --rounds 1

The sides take turns, each in a separate process, warmed up on a small pool (its workers started,
its kernels compiled), whose process tree is sampled ten times a second. Memory is the processes'
unique memory (USS; RSS, which counts mapped pages of the files too, is given beside it).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from common import peer_module

from penstock.artefact import Draft, FileRecord
from penstock.pipeline.cut import write_units
from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.ordering import OrderedUnit, write_order
from penstock.pipeline.cutting.radix import Order, order_bits
from penstock.pipeline.cutting.search import Candidates, search_budget
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.units import Unit

LENGTH = 2048
BYTES_PER_TOKEN = 4.3
GIB = 2**30


def main() -> None:
    """Run both sides and print what was found, the JSON object as the last line."""
    arguments = _arguments()
    peer_module("duckdb")  # before anything is made or timed
    if arguments.side:
        print(json.dumps(_side(arguments.side, Pool.read(arguments.directory))))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-cut-", dir=arguments.scratch) as directory:
        pool = Pool(Path(directory) / "pool", arguments.rows, arguments.groups)
        Pool(Path(directory) / "warm", 40_000, arguments.groups, unit_rows=1_000).make()
        print(f"making {pool.rows:,} rows", file=sys.stderr)
        pool.make()
        forms = ["parquet", "table"] if arguments.peer == "both" else [arguments.peer]
        rounds = [
            {name: _measured(name, pool) for name in ("ours", *forms)}
            for _ in range(arguments.rounds)
        ]
        seconds = {
            name: statistics.median(sides[name]["seconds"] for sides in rounds)
            for name in rounds[0]
        }
        form = min(forms, key=lambda name: seconds[name])
        taken, equal = _compared(pool, form)
    ratios = [sides[form]["seconds"] / sides["ours"]["seconds"] for sides in rounds]
    result = {
        "name": "cut",
        "unit": "million rows/s on two cores",
        "ours": round(pool.rows / seconds["ours"] / 1e6, 2),
        "peer": round(pool.rows / seconds[form] / 1e6, 2),
        "ratio": round(statistics.median(ratios), 2),
        "checked": f"{taken:,} of {pool.rows:,} documents in {pool.groups} group(s): unit, row, "
        f"score and tokens {'equal' if equal else 'DIFFERENT'}; the peer reads its {form}",
        "seconds": seconds,
        "memory_gib": {
            name: {
                key: max(sides[name]["memory"][key] for sides in rounds)
                for key in rounds[0][name]["memory"]
            }
            for name in seconds
        },
    }
    if not arguments.json:
        print(f"{result['ratio']} times DuckDB (rounds {min(ratios):.1f} to {max(ratios):.1f})")
    print(json.dumps(result))
    if not equal:
        sys.exit("the cuts differ: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=1, help="sources with a share each")
    parser.add_argument("--peer", choices=["both", "parquet", "table"], default="both")
    parser.add_argument("--rounds", type=int, default=3, help="the sides take turns")
    parser.add_argument("--scratch", help="directory for 140 bytes a row; a temporary one else")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# -- the rows ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """Rows on disk in the form that each side reads, and the budget of each group."""

    directory: Path
    rows: int
    groups: int
    unit_rows: int = 1_000_000

    @classmethod
    def read(cls, directory: Path) -> Pool:
        return cls(directory, **json.loads((directory / "pool.json").read_text())["pool"])

    @property
    def quotas(self) -> list[int]:
        """A tenth of the tokens; the groups' shares of it are as 1 : 2 : 3 ..."""
        tokens = json.loads((self.directory / "pool.json").read_text())["tokens"]
        shares = np.arange(1, self.groups + 1) / (self.groups * (self.groups + 1) / 2)
        return [int(0.1 * tokens * share / LENGTH) * LENGTH for share in shares]

    @property
    def orders(self) -> list[OrderedUnit]:
        return [
            OrderedUnit(
                Unit(
                    number=number,
                    name=f"unit-{number:05d}-000",
                    corpus=self.directory,
                    record=FileRecord(
                        path="", bytes=0, sha256="", facts={"documents": self._count(number)}
                    ),
                    rows=FileRecord(path="", bytes=0, sha256=""),
                ),
                self.directory / "scratch",
            )
            for number in range(-(-self.rows // self.unit_rows))
        ]

    def _count(self, number: int) -> int:
        return min(self.unit_rows, self.rows - number * self.unit_rows)

    def make(self) -> None:
        """Write orders and token counts for us, Parquet files and a table for the peer."""
        (self.directory / "peer").mkdir(parents=True)
        tokens = 0
        for ordered in self.orders:
            tokens += self._make_unit(ordered)
        pool = {"rows": self.rows, "groups": self.groups, "unit_rows": self.unit_rows}
        (self.directory / "pool.json").write_text(json.dumps({"pool": pool, "tokens": tokens}))
        with peer_module("duckdb").connect(str(self.directory / "peer.duckdb")) as peer:
            peer.execute("set threads=2; set memory_limit='4GB'")
            peer.execute(f"create table pool as from '{self.directory}/peer/*.parquet'")

    def _make_unit(self, ordered: OrderedUnit) -> int:
        number, count = ordered.unit.number, ordered.unit.documents
        chance = np.random.default_rng(number)
        # About 80,000 distinct scores: every one is tied, and the hash decides.
        score = np.round(chance.normal(size=count), 4).astype(np.float32) + np.float32(0)
        tie = _splitmix(np.arange(count, dtype=np.uint64) + np.uint64(number * self.unit_rows))
        group = chance.integers(0, self.groups, count).astype(np.int16)
        tokens = np.clip(chance.lognormal(6, 1, count), 1, 100_000).astype(np.int32)
        size = (tokens * chance.normal(BYTES_PER_TOKEN, 0.4, count).clip(1)).astype(np.int64)
        write_order(ordered, Order(order_bits(score), tie, group), size)
        np.save(_tokens(ordered), tokens)
        table = pa.table(
            {
                "unit": np.full(count, number, dtype=np.int32),
                "row": np.arange(count, dtype=np.int32),
                "grp": group,
                "score": score,
                "tie": tie,
                "tokens": tokens,
            }
        )
        path = self.directory / "peer" / f"{ordered.unit.name}.parquet"
        pq.write_table(table, path, use_dictionary=["unit", "grp"])
        return int(tokens.sum())


def _tokens(ordered: OrderedUnit) -> Path:
    return Path(str(ordered.path)).with_suffix(".npy")


def _splitmix(state: np.ndarray) -> np.ndarray:
    """Distinct for distinct rows, so that the order is total for both sides."""
    state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


# -- the sides --------------------------------------------------------------------------------


def _side(name: str, pool: Pool) -> dict[str, Any]:
    """Run one side, warmed up; in a process of its own."""
    warm = Pool.read(pool.directory.parent / "warm")
    if name == "ours":
        runner = LocalRunner(2)
        _ours(warm, runner)
        seconds = _timed(lambda: _ours(pool, runner))
        runner.close()
    else:
        _peer(warm, name)
        seconds = _timed(lambda: _peer(pool, name))
    return {"seconds": seconds}


def _timed(work: Any) -> float:
    print("begin", flush=True)
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)


@dataclass(frozen=True)
class KnownTokens:
    """Writes tables of candidates from token counts that are known, in place of a token store."""

    orders: list[OrderedUnit]

    def __call__(self, candidates: Candidates, runner: Runner) -> None:
        for _ in runner.run(_write_table, self.orders, candidates):
            pass


def _write_table(ordered: OrderedUnit, candidates: Candidates) -> None:
    rows = candidates.rows(ordered.unit)
    tokens = np.load(_tokens(ordered), mmap_mode="r")
    candidates.write(ordered.unit, rows, tokens[rows].astype(np.int64))


def _ours(pool: Pool, runner: Runner) -> None:
    orders = pool.orders
    quotas = [
        Quota(name=str(number), tokens=size, pool_bytes=10**18, pool_documents=0)
        for number, size in enumerate(pool.quotas)
    ]
    found = search_budget(
        orders,
        quotas,
        length=LENGTH,
        bytes_per_token=BYTES_PER_TOKEN,
        write=KnownTokens(orders),
        runner=runner,
        directory=pool.directory / "scratch",
        allow_short=False,
    )
    ours = pool.directory / "ours"
    shutil.rmtree(ours, ignore_errors=True)  # else the draft would find its parts done
    write_units(orders, found, Draft(ours, {}), runner, carried=())


_PEER = """
copy (
    with filled as (
        select *, sum(tokens) over fill - tokens as before
        from {source}
        window fill as ({partition} order by score desc, tie desc
                        rows between unbounded preceding and current row)
    ), taken as (
        select *, list_value({quotas})[grp + 1] as quota from filled where before < quota
    )
    select unit, row, score, least(tokens, quota - before) as tokens, grp as "group"
    from taken
) to '{target}' (format parquet, compression zstd)
"""


def _peer(pool: Pool, form: str) -> None:
    own = form == "table"
    statement = _PEER.format(
        source="pool" if own else f"'{pool.directory}/peer/*.parquet'",
        partition="" if pool.groups == 1 else "partition by grp",
        quotas=", ".join(map(str, pool.quotas)),
        target=pool.directory / f"{form}.parquet",
    )
    database = str(pool.directory / "peer.duckdb") if own else ":memory:"
    with peer_module("duckdb").connect(database, read_only=own) as peer:
        peer.execute("set threads=2; set memory_limit='4GB'; set preserve_insertion_order=false")
        peer.execute(f"set temp_directory='{pool.directory}/spill'")
        peer.execute(statement)


# -- measured and compared --------------------------------------------------------------------


def _measured(name: str, pool: Pool) -> dict[str, Any]:
    """Return a side's seconds, and its peak memory in GiB."""
    command = [sys.executable, __file__, "--side", name, "--directory", str(pool.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n", "the side failed; see above"
        tree = psutil.Process(process.pid)
        peak = {"uss": 0, "pss": 0, "rss": 0, "driver_uss": 0, "worker_uss": 0}
        while process.poll() is None:
            held = []
            for member in [tree, *tree.children(recursive=True)]:
                try:
                    held.append(member.memory_full_info())
                except psutil.Error:
                    continue
            if held:
                now = {key: sum(getattr(one, key) for one in held) for key in ("uss", "pss", "rss")}
                now["driver_uss"] = held[0].uss
                now["worker_uss"] = max((one.uss for one in held[1:]), default=0)
                peak = {key: max(peak[key], value) for key, value in now.items()}
            time.sleep(0.1)
        side = json.loads(process.stdout.read().splitlines()[-1])
    side["memory"] = {key: round(value / GIB, 2) for key, value in peak.items()}
    print(f"{name}: {side}", file=sys.stderr)
    return side


def _compared(pool: Pool, form: str) -> tuple[int, bool]:
    """Return the number of documents taken, and whether both sides took the same in each unit."""
    columns = ["unit", "row", "score", "tokens"]
    peer = pq.read_table(pool.directory / f"{form}.parquet", columns=columns)
    peer = peer.sort_by([("unit", "ascending"), ("row", "ascending")])
    start, equal = 0, True
    for ordered in pool.orders:
        path = pool.directory / "ours" / f"{ordered.unit.name}.parquet"
        mine = pq.read_table(path, columns=columns)
        other = peer.slice(start, len(mine))
        equal &= all(
            np.array_equal(mine.column(name).to_numpy(), other.column(name).to_numpy())
            for name in columns
        )
        start += len(mine)
    return start, equal and start == len(peer)


if __name__ == "__main__":
    main()
