"""A million documents: time for each, memory, and what the engine itself costs.

Pools of rising size are made from a smaller one, each document repeated in variations that
deduplication does not remove, as one big JSON-lines file. Each is curated from scratch in a
separate process. Printed for each size: seconds, microseconds a document, peak resident memory of
the driver and of the largest worker, and the share of the machine's time that went to neither a
stage's function nor a fit: scheduling, records, manifests, and idle workers.

    python benchmarks/scale.py --json --data 'pool/web-*.jsonl.zst' --target arc.train.jsonl

``ratio`` is the time a document at the smaller of the two largest sizes over that at the largest:
1 or more means that a document does not cost more in a larger pool. The cost of a fit on a sample
and of the tokenizer's training does not depend on the pool and is reported separately.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from common import docstrings, jsonl

_MIB = 2**20


def main() -> None:
    """Curate each size, print the curve and the JSON object as the last line."""
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_curate(arguments.child, arguments.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-scale-", dir=arguments.scratch) as directory:
        curve = [_measured(size, Path(directory), arguments) for size in arguments.sizes]
    small, large = curve[-2:]
    result = {
        "name": "scale",
        "unit": "microseconds a document",
        "ours": large["each"],
        "peer": small["each"],
        "ratio": round(small["each"] / large["each"], 3),
        "checked": f"{large['kept']:,} documents kept, {large['delivered']:,} tokens delivered; "
        f"driver {large['driver_mib'] / small['driver_mib']:.3f} and largest worker "
        f"{large['worker_mib'] / small['worker_mib']:.3f} times the memory at {small['size']:,}",
        "curve": curve,
    }
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--data", help="glob of .jsonl.zst files with id, source and text")
    parser.add_argument("--target", help="a target file to aim at")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", help="where pools and work directories go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(size: int, directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one point of the curve."""
    pool = directory / f"pool-{size}.jsonl"
    text = _write_pool(pool, size, arguments.data)
    recipe = {
        "work": str(directory / f"work-{size}"),
        "corpus": [{"path": str(pool)}],
        "select": _select(arguments.target),
        # One token in twenty of what the pool holds, at some four bytes each.
        "budget": {"tokens": text // 80, "rank": "betr" if arguments.target else "random"},
        "tokenizer": {"train": {"vocab_size": 4096, "sample_bytes": 8_000_000}},
        "shards": {"sequence_length": 256},
    }
    path = directory / f"recipe-{size}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, __file__, "--child", str(path), "--workers", str(arguments.workers)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    point = {"size": size, "bytes": text, **json.loads(answer.stdout.splitlines()[-1])}
    pool.unlink()
    subprocess.run(["rm", "-rf", recipe["work"]], check=True)
    print(json.dumps(point), file=sys.stderr)
    return point


def _select(target: str | None) -> dict[str, Any]:
    if target is None:
        return {}
    return {"betr": {"use": "betr", "target": str(Path(target).absolute())}}


def _write_pool(path: Path, size: int, data: str | None) -> int:
    """Write ``size`` documents; the bytes of their text."""
    total = 0
    with open(path, "wb") as sink:
        for number, document in zip(range(size), _forever(data)):
            text = document["text"]
            # Another beginning for each copy: no two are equal, all are as long and as likely.
            turn = number * 7919 % max(1, len(text))
            text = f"{number} {text[turn:]} {text[:turn]}"
            total += len(text.encode())
            sink.write(json.dumps({**document, "id": f"d{number}", "text": text}).encode() + b"\n")
    return total


def _forever(data: str | None) -> Iterator[dict[str, str]]:
    while True:
        yield from jsonl(data) if data else _pages()


def _pages() -> Iterator[dict[str, str]]:
    for text in docstrings():
        yield {"source": "docs", "text": text}


# -- in a process of its own ------------------------------------------------------------------


def _curate(recipe: str, workers: int) -> dict[str, Any]:
    from penstock.artefact import Draft
    from penstock.jobs.curate import curate
    from penstock.lease import Lease
    from penstock.pipeline.runner import LocalRunner
    from penstock.pipeline.runners.schedule import Usage
    from penstock.pipeline.scoring.models import Models
    from penstock.recipe_file import load_recipe

    fitting, keeping = _Watch(), _Watch()
    Models.fitted = fitting.around(Models.fitted)  # type: ignore[method-assign]
    for owner, names in ((Draft, ("record", "publish", "done")), (Lease, ("hold", "release"))):
        for name in names:
            setattr(owner, name, keeping.around(getattr(owner, name)))

    busy: Counter[str] = Counter()
    idle: Counter[str] = Counter()
    peaks = [0]

    class Counted(LocalRunner):
        """Tells the functions of the stages apart."""

        def run(self, function: Any, items: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
            self.usage = usage = Usage()
            try:
                yield from super().run(function, items, *arguments, **named)
            finally:
                name = getattr(function, "func", function).__name__
                busy[name] += usage.busy_seconds
                peaks.append(usage.peak_worker_bytes)
                if not fitting.inside:
                    idle[name] += workers * usage.wall_seconds - usage.busy_seconds

    runner = Counted(workers)
    began = time.perf_counter()
    with contextlib.closing(runner):
        curated = curate(
            load_recipe(Path(recipe), ()), runner, lambda line: print(line, file=sys.stderr)
        )
        seconds = time.perf_counter() - began
    facts = curated.pool.documents
    fixed = fitting.seconds + curated.seconds["tokenizer"]
    return {
        "kept": facts["kept"],
        "delivered": curated.cut.facts["delivered"],
        "seconds": round(seconds, 2),
        "fits": round(fixed, 2),
        "each": round((seconds - fixed) / facts["read"] * 1e6, 2),
        "each_with_fits": round(seconds / facts["read"] * 1e6, 2),
        "stages": {name: round(spent, 2) for name, spent in curated.seconds.items()},
        "busy": {name: round(spent, 2) for name, spent in busy.items()},
        "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "worker_mib": max(peaks) // _MIB,
        "idle": {name: round(spent, 2) for name, spent in idle.items()},
        "idle_share": round(sum(idle.values()) / (workers * (seconds - fixed)), 4),
        "records_share": round(keeping.seconds / seconds, 4),
    }


class _Watch:
    """Adds up the time spent in functions, the outermost call only."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            if self.inside:
                return function(*arguments, **named)
            self.inside, began = True, time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.inside = False
                self.seconds += time.perf_counter() - began

        return watched


if __name__ == "__main__":
    main()
