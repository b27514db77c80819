"""PreSelect's ladder: small models of every shape and budget, from worst to best on the targets.

The models learn from documents that the selector's sample does not hold, so that what they find
easy there is not what they have seen. They are runs like any other: made once, found again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.cluster import cpus
from penstock.errors import BudgetError, SelectorError
from penstock.hashing import hash_ids, mix
from penstock.jobs.held_out import random_outside
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import Column
from penstock.recipe import ModelShape, Recipe, Train
from penstock.selectors.base import ModelLadder, Target
from penstock.trainers.evaluation.evaluator import Evaluation
from penstock.trainers.run import train_all
from penstock.trainers.spec import RunResult, RunSpec

__all__ = ["climb"]

_EXAMPLES = 1000
"""Examples of a benchmark, by hash: enough for 1 % of a bit; models differ by 10 %."""

Cut = Callable[[Recipe], Artefact]
"""Function from a recipe to its shards."""


def climb(
    recipe: Recipe,
    column: Column,
    cut: Cut,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None],
) -> None:
    """Train a column's ladder, or find it, and give its selector the models in order.

    Raises:
        SelectorError: There is no target to put models in order by.
        BudgetError: The pool holds too few tokens outside the sample.
        UnmadeError: They have to be trained, and this workspace is for looking only.
    """
    ladder = column.selector.requirements.model_ladder
    assert ladder is not None
    if not column.target.examples:
        raise SelectorError(
            f"select.{column.name}.target: missing; the models of a ladder are put in order by it"
        )
    evaluations = _evaluations(column.target.examples)
    specs = []
    for tokens in ladder.tokens:
        try:
            shards = cut(random_outside(recipe, ladder.sample, tokens))
        except BudgetError as error:
            raise BudgetError(
                f"select.{column.name}.ladder.tokens: expected {tokens:,} tokens of documents "
                f"that `sample` = {ladder.sample:,} leaves of the pool to train on, got fewer; "
                f"make either smaller ({error})"
            ) from None
        specs += _specs(ladder, shards, recipe.seed, evaluations)
    if missing := [spec for spec in specs if spec.find(workspace) is None]:
        missing[0].draft(workspace)  # refuses where nothing may be made
        runner.close()
        progress(f"{column.name}: training a ladder of {len(specs)} models, {len(missing)} to go")
    results = train_all(specs, workspace, parallel=max(1, cpus()))
    order = sorted(zip(results, specs), key=lambda rung: (-_bits(rung[0]), rung[1].fingerprint))
    for result, spec in order:
        shape = spec.train.model
        assert isinstance(shape, ModelShape)
        progress(
            f"{column.name}: {shape.layers} layers of {shape.width} on {result.tokens:,} tokens: "
            f"{_bits(result):.4f} bits per byte"
        )
    ladder.give([str(_directory(result)) for result, _ in order])


def _specs(
    ladder: ModelLadder, shards: Artefact, seed: int, evaluations: tuple[Evaluation, ...]
) -> list[RunSpec]:
    """Return one run for each shape; the recipe's settings are for other models and not used."""
    return [
        RunSpec(
            train=Train(
                model=ModelShape(layers=layers, width=width, heads=heads),
                batch_tokens=ladder.batch_tokens,
                lr=ladder.lr,
            ),
            shards=shards.path,
            seed=seed,
            evaluations=evaluations,
        )
        for layers, width, heads in ladder.shapes
    ]


def _evaluations(targets: Sequence[Target]) -> tuple[Evaluation, ...]:
    """Return the target's benchmarks as evaluations."""
    texts: dict[str, list[str]] = {}
    for target in targets:
        texts.setdefault(target.benchmark, []).append(target.text)
    found = []
    for name, all_of in sorted(texts.items()):
        hashes = hash_ids(pa.array(all_of, pa.large_string()), mix("ladder"))
        rows = np.sort(np.argsort(hashes, kind="stable")[:_EXAMPLES])
        found.append(Evaluation(name=name, texts=tuple(all_of[row] for row in rows)))
    return tuple(found)


def _bits(result: RunResult) -> float:
    """Return bits per byte, averaged over benchmarks."""
    return statistics.fmean(score["mean"] for score in result.bits_per_byte.values())


def _directory(result: RunResult) -> Path:
    """Return the directory of the model on this machine, after comparing its checksums."""
    return Artefact.open(result.path).local() / "model"
