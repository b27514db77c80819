"""Cost of a reweighted step, against a plain one of the same model on the same batches.

The runs take turns, step by step, in one process with one thread for arithmetic; the measure is CPU
time of the whole process. With one micro-batch a step, scoring costs the logits a second time; with
several, a forward pass of all but the last. Where few samples have a weight, the others are not
passed backward, and a step can cost less than a plain one.

    python benchmarks/reweighting.py --json

``--shards`` takes an artefact of ``penstock curate`` instead of docstrings of installed packages.

``ratio`` is of LinUpper at one micro-batch a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from common import write_pool

from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import ModelShape, ReweightSpec, Train
from penstock.recipe_file import parse_recipe
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.trainers.data.shards import ShardSet
from penstock.trainers.engine import Engine
from penstock.trainers.group import Group

WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "uniform": {"use": "loss", "strategy": "uniform"},
    "linupper": {"use": "loss", "warmup": 0},
    "uds": {"use": "uds", "share": 0.25},
}
PIECES = (1, 4)


def main() -> None:
    """Measure, and print the JSON object as the last line."""
    arguments = _arguments()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="penstock-reweighting-") as place:
        torch.distributed.init_process_group("gloo", f"file://{place}/store", rank=0, world_size=1)
        found = {pieces: _measure(arguments, pieces, Path(place)) for pieces in PIECES}
        torch.distributed.destroy_process_group()
    first = found[PIECES[0]]
    good = all(
        abs(loss - way["plain"]["first_loss"]) < 1e-4
        for way in found.values()
        for loss in [own["first_loss"] for own in way.values()]
    )
    result = {
        "name": "reweighting",
        "unit": "s of CPU a step",
        "ours": first["linupper"]["seconds"],
        "peer": first["plain"]["seconds"],
        "ratio": first["linupper"]["ratio"],
        "ratios": {
            f"{pieces} micro-batches": {name: own["ratio"] for name, own in way.items()}
            for pieces, way in found.items()
        },
        "checked": "losses of the first step equal to 1e-4" if good else "LOSSES DIFFER",
    }
    print(json.dumps(result))
    if not good:
        sys.exit("the check failed: the figures above mean nothing")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    parser.add_argument("--shards", type=Path, help="of penstock curate; made if not given")
    parser.add_argument("--steps", type=int, default=15, help="that are timed, of each way")
    parser.add_argument("--batch", type=int, default=32, help="sequences of a step")
    parser.add_argument(
        "--model", type=int, nargs=3, default=(2, 128, 4), help="layers width heads"
    )
    return parser.parse_args()


def _measure(arguments: argparse.Namespace, pieces: int, place: Path) -> dict[str, dict[str, Any]]:
    """Return CPU seconds of a step, and the ratio to the plain step of its round, for each way."""
    shards = ShardSet.open(arguments.shards or _make_shards(place))
    engines = {
        name: _engine(arguments, spec, pieces, shards, place / f"{name}-{pieces}")
        for name, spec in WAYS.items()
    }
    runs = {name: own.run() for name, own in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses = {}
    for number in range(arguments.steps + 2):
        for name, run in runs.items():
            began = time.process_time()
            metrics = next(run)
            seconds[name].append(time.process_time() - began)
            if number == 0:
                losses[name] = metrics.loss
    for name, run in runs.items():
        with closing(run):
            seconds[name] = seconds[name][2:]
        engines[name].close()
    return {
        name: {
            "seconds": statistics.median(own),
            "ratio": round(statistics.median(a / b for a, b in zip(own, seconds["plain"])), 3),
            "first_loss": losses[name],
        }
        for name, own in seconds.items()
    }


def _make_shards(place: Path) -> Path:
    """Curate docstrings of installed packages, once for all ways."""
    recipe = parse_recipe(
        {
            "work": str(place / "work"),
            "corpus": [{"path": str(write_pool(place / "pool", 1000) / "*.jsonl.zst")}],
            "budget": {"tokens": 400_000, "rank": "random", "allow_short": True},
            "tokenizer": {"train": {"vocab_size": 8192}},
            "shards": {"sequence_length": 256},
        },
        place,
    )
    with closing(LocalRunner(1)) as runner:
        return Path(str(curate(recipe, runner).shards.path))


def _engine(
    arguments: argparse.Namespace,
    reweight: dict[str, Any] | None,
    pieces: int,
    shards: ShardSet,
    journal: Path,
) -> Engine:
    spec = ReweightSpec.model_validate(reweight) if reweight else None
    layers, width, heads = arguments.model
    train = Train(
        model=ModelShape(layers=layers, width=width, heads=heads),
        batch_tokens=arguments.batch * shards.sequence_length,
        micro_batch=arguments.batch // pieces,
        reweight=spec,
    )
    return Engine(
        train,
        shards,
        1,
        Group(),
        reweighter=PlannedReweighter(spec)() if spec else None,
        journal=journal,
    )


if __name__ == "__main__":
    main()
