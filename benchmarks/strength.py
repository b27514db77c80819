"""Does predictive strength pay, before any classifier learns it? An ablation of PreSelect.

    python benchmarks/strength.py --data DIRECTORY [--work runs/results]

The data, the pool and the ladder are those of ``results.py``, and found again in its work
directory. Three figures:

1. the share of passages of strength 1 (published: 22 %);
2. reliability: the rank correlation, within sources, of the strengths by the odd models of the
   ladder and by the even ones, which share no model. Of noise it is 0;
3. the worth of the strength itself: PreSelect's own positives and negatives, as many of each source
   and all of one length, as two pools of their own. A model is trained on a draw from each, over
   five seeds, and on the mixture of both. No classifier takes part.

So it tells a ladder whose strengths are noise from strengths that say nothing of the tasks, and
both from a classifier that does not find them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from results import FULL, Bench
from results_data import split_tasks
from results_tables import arms_table

from penstock.artefact import Workspace
from penstock.hashing import hash_documents, mix
from penstock.jobs.compare import compare
from penstock.jobs.curate import curate
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.models import Column, Models
from penstock.recipe_file import parse_recipe
from penstock.selectors import preselect
from penstock.selectors.predictive_strength import choose_sides, pairs_in_order

TOKENS = 400_000
"""Tokens that each arm is trained on; the positives have more."""


class _Enough(Exception):
    """Raised when the models have read the sample."""


def main() -> None:
    """Read, measure, train; print the JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="as of results.py")
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    arguments = parser.parse_args()
    began = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {line}", file=sys.stderr, flush=True)

    work, data = arguments.work.resolve(), arguments.data.resolve()
    bench = Bench(
        data=data,
        work=work,
        tasks=split_tasks(data / "targets", work / "tasks"),
        settings=FULL,
        runner=LocalRunner(),
        progress=progress,
    )
    sample, nats, seed = _read(bench)
    pairs = pairs_in_order(nats)
    most = len(nats) * (len(nats) - 1) // 2
    groups = sample["source"].combine_chunks().dictionary_encode().indices.to_numpy()
    found: dict[str, Any] = {
        "passages": len(sample),
        "strength_one": round(float((pairs == most).mean()), 4),
        "reliability": _reliability(nats, groups),
    }
    progress(json.dumps(found))
    hashes = hash_documents(sample, mix(seed, "preselect"))
    sides = choose_sides(pairs, most, groups, hashes)
    size, lines = _trained(bench, sample, dict(zip(("positives", "negatives"), sides)))
    print("\n".join(lines))
    print(json.dumps({"name": "strength", **found, "arms": size}))


def _read(bench: Bench) -> tuple[pa.Table, np.ndarray, int]:
    """Return PreSelect's sample, each model's losses of it, (models, n) float64, and the seed."""
    recipe, selector = bench.read_by_ladder()
    first = {"betr": bench.selectors(None)["betr"]}
    pool = curate(bench.recipe(FULL.first, first, [], None), bench.runner).pool
    losses: list[np.ndarray] = []
    samples: list[pa.Table] = []
    plain = preselect.read_losses

    def read(*arguments: Any) -> Any:
        losses.append((own := plain(*arguments)).nats)
        return own

    def stop(_: Any, sample: pa.Table, *rest: Any) -> None:
        samples.append(sample)
        raise _Enough

    with (
        Workspace.driving(recipe.work_directory) as workspace,
        mock.patch.object(preselect, "read_losses", read),
        mock.patch.object(preselect.PreSelect, "_train", stop),
    ):
        models = Models(
            pool=pool,
            workspace=workspace,
            runner=bench.runner,
            seed=recipe.seed,
            progress=bench.progress,
        )
        column = Column(name="preselect", selector=selector)
        with contextlib.suppress(_Enough):
            selector.fit(models.fitting(column))
    return samples[0], np.stack(losses), recipe.seed


def _reliability(nats: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Correlate the strengths by two halves of the models, within sources, and step it up."""
    halves = [pairs_in_order(nats[start::2]).astype(np.float64) for start in (0, 1)]
    for half in halves:
        for group in np.unique(groups):
            half[groups == group] -= half[groups == group].mean()
    half_correlation = float(np.corrcoef(*halves)[0, 1])
    whole = 2 * half_correlation / (1 + half_correlation)  # Spearman and Brown
    return {"halves": round(half_correlation, 3), "whole": round(whole, 3)}


def _trained(
    bench: Bench, sample: pa.Table, sides: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """Train on both sides and on their mixture, the baseline; return figures and a table."""
    directory = bench.work / "strength"
    directory.mkdir(exist_ok=True)
    with open(directory / "passages.jsonl", "w", encoding="utf-8") as sink:
        for side, rows in sides.items():
            for row in sample.take(pa.array(rows)).to_pylist():
                own = {"id": row["id"], "source": row["source"], "text": row["text"], "side": side}
                sink.write(json.dumps(own) + "\n")
    first = {"betr": bench.selectors(None)["betr"]}
    tree = bench.recipe(FULL.first, first, [], None).model_dump(mode="json")
    tree["corpus"] = [{"path": str(directory / "passages.jsonl")}]
    tree["budget"] = {"tokens": TOKENS, "rank": "random"}
    tree["select"] = {}
    tree["clean"] = {}
    tree["compare"] = {
        "arms": {
            "random": {},
            **{side: {"clean": {"where": f"meta.side == '{side}'"}} for side in sides},
        },
        "seeds": [1, 2, 3, 4, 5],
        "baseline_multiples": [1],
    }
    size = compare(parse_recipe(tree, Path()), bench.runner, bench.progress)
    tasks = (bench.aimed, bench.others)
    lines = list(arms_table(size, *tasks, multiplier=False))
    figures = {
        point.arm: {task: round(point.mean(task), 4) for task in (*bench.aimed, *bench.others)}
        for point in size.at_equal_tokens()
    }
    return figures, lines


if __name__ == "__main__":
    main()
