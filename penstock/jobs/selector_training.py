"""Train the models that a selector needs before its fit: PreSelect's ladder and kMQ's rounds.

*Ladder*: small models of every shape and budget, put in order from worst to best on the targets.
They learn from as many bytes of each source, of documents that the selector's sample does not hold,
so that what they find easy there is neither what they have seen nor what most of the pool is. All
begin with the same weights and read the same sequences in the same order, a longer run more of
them, so that they differ by what more training teaches and less by chance.

*Rounds*: short runs that measure the value of each cluster. Each round trains on documents that the
current cluster weights choose from another part of the pool. The loss on each cluster's held-out
documents, less that of a reference model, gives the next weights
(:func:`penstock.selectors.kmq.refine`).

The runs are artefacts like any other: made once, found again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.errors import BudgetError, SelectorError
from penstock.hashing import hash_documents, hash_ids, mix
from penstock.jobs.held_out import cut_outside
from penstock.pipeline.runner import in_order
from penstock.pipeline.samples import FIT, sample_documents
from penstock.pipeline.scoring.models import Column, Models
from penstock.recipe import ModelFrom, ModelShape, Recipe, Train
from penstock.selectors.base import SetSelector, Target
from penstock.selectors.encoders.embedding import embed_texts
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.run import resolved, train_all
from penstock.trainers.spec import RunResult, RunSpec

__all__ = ["climb", "find_weights"]

_EXAMPLES = 1000
"""Examples of a benchmark, by hash: enough for 1 % of a bit; models differ by 10 %."""

_TRIFLE = 1e-9
"""The weight of a column that only excludes."""

Cut = Callable[[Recipe], Artefact]
"""Function from a recipe to its shards."""

Progress = Callable[[str], None]


def climb(
    recipe: Recipe,
    column: Column,
    cut: Cut,
    workspace: Workspace,
    progress: Progress,
    free: Callable[[], None],
) -> None:
    """Train a column's ladder, or find it, and give its selector the models in order.

    Args:
        recipe, column: The recipe and the column of its selector.
        cut: Makes shards of documents outside the sample.
        workspace: Where the runs are made.
        progress: Called with each line of progress.
        free: Called before the training, to free CPUs and memory.

    Raises:
        SelectorError: There is no target to put models in order by.
        BudgetError: The pool holds too few tokens outside the sample.
        UnmadeError: They have to be trained, and this workspace is read-only.
    """
    ladder = column.selector.requirements.model_ladder
    assert ladder is not None
    if not column.target.examples:
        raise SelectorError(
            "missing; it puts the models of a ladder in order", key=f"select.{column.name}.target"
        )
    evaluations = _evaluations(column.target.examples)
    most = max(ladder.tokens)
    try:
        shards = cut(cut_outside(recipe, most, share=ladder.share, balanced=True))
    except BudgetError as error:
        raise BudgetError(
            key=f"select.{column.name}.ladder.tokens",
            expected=f"{most:,} tokens of the documents that are left to train on, "
            f"{1 - ladder.share:.0%} of the pool",
            got=f"fewer ({error})",
            fix="make it smaller",
        ) from None
    specs = [  # the recipe's settings are for other models and not used
        RunSpec(
            train=Train(
                model=ModelShape(layers=layers, width=width, heads=heads),
                tokens=tokens,
                batch_tokens=ladder.batch_tokens,
                lr=ladder.lr,
            ),
            shards=shards.path,
            seed=recipe.seed,
            evaluations=evaluations,
        )
        for tokens in ladder.tokens
        for layers, width, heads in ladder.shapes
    ]
    results = _run(specs, workspace, column.name, progress, free)
    order = sorted(zip(results, specs), key=lambda rung: (-_bits(rung[0]), rung[1].fingerprint))
    for result, spec in order:
        shape = spec.train.model
        assert isinstance(shape, ModelShape)
        progress(
            f"{column.name}: {shape.layers} layers of {shape.width} on {result.tokens:,} tokens: "
            f"{_bits(result):.4f} bits per byte"
        )
    ladder.give([_model(result) for result, _ in order])


def find_weights(
    recipe: Recipe, column: Column, cut: Cut, models: Models, free: Callable[[], None]
) -> None:
    """Run a column's rounds, or find them, and give its selector the weights.

    Args:
        recipe, column, cut, free: As of :func:`climb`.
        models: Fits and loads the selector, which partitions the held-out documents.

    Raises:
        BudgetError: A part of the pool holds too few tokens for a round.
        UnmadeError: They have to be run, and this workspace is read-only.
    """
    plan = column.selector.requirements.cluster_weights
    assert plan is not None
    fitted = plan.unweighted
    own = replace(column, selector=fitted)
    models.load(own, models.fitted(own))
    sample = plan.held_out * fitted.partitions
    evaluations = _held_out(fitted, sample, plan.held_out, models)
    weights = np.full(fitted.partitions, 1 / fitted.partitions)
    layers, width, heads = plan.shape
    model: ModelShape | ModelFrom = ModelShape(layers=layers, width=width, heads=heads)
    select = recipe.model_dump(mode="json")["select"]
    unweighted = select[column.name]
    unweighted.pop(plan.replaces, None)

    def train(start: ModelShape | ModelFrom, tokens: int, **part: int) -> RunResult:
        select[column.name] = {**unweighted, "weights": weights.tolist()}
        rank = {column.name: 1.0, "outside": _TRIFLE}
        try:
            shards = cut(cut_outside(recipe, tokens, rank, select, sample=sample, **part))
        except BudgetError as error:
            key = f"select.{column.name}.{plan.replaces}.tokens"
            raise BudgetError(str(error), key=key) from None
        spec = RunSpec(
            train=Train(model=start, batch_tokens=plan.batch_tokens, lr=plan.lr),
            shards=shards.path,
            seed=recipe.seed,
            evaluations=evaluations,
        )
        (result,) = _run([spec], models.workspace, column.name, models.progress, free)
        return result

    reference = train(model, plan.rounds * plan.tokens).means("bits_per_byte")
    for number in range(plan.rounds):
        result = train(model, plan.tokens, part=number, parts=plan.rounds)
        model = ModelFrom(hf=_model(result))
        signals = _behind(result.means("bits_per_byte"), reference, len(weights))
        weights = plan.update(weights.tolist(), signals)
        models.progress(
            f"{column.name}: round {number + 1}: {min(signals):.3f} to {max(signals):.3f} bits "
            f"per byte behind the reference; weights {weights.min():.4f} to {weights.max():.4f}"
        )
    plan.give(weights.tolist())


def _behind(
    losses: Mapping[str, float], reference: Mapping[str, float], clusters: int
) -> list[float]:
    """Return each cluster's loss less the reference's, in bits per byte; of a cluster without
    held-out documents the mean of the others."""
    behind = {name: loss - reference[name] for name, loss in losses.items()}
    usual = statistics.fmean(behind.values())
    return [behind.get(_name(cluster), usual) for cluster in range(clusters)]


def _run(
    specs: Sequence[RunSpec],
    workspace: Workspace,
    name: str,
    progress: Progress,
    free: Callable[[], None],
) -> list[RunResult]:
    """Make the runs of a column that do not exist; return the results of all."""
    specs = resolved(specs, workspace)
    if missing := [spec for spec in specs if spec.find(workspace) is None]:
        missing[0].draft(workspace)  # refuses where nothing may be made
        free()
        progress(f"{name}: training {len(specs)} models, {len(missing)} to go")
    return train_all(specs, workspace)


def _evaluations(targets: Sequence[Target]) -> tuple[Evaluation, ...]:
    """Return the target's benchmarks as evaluations."""
    texts: dict[str, list[str]] = {}
    for target in targets:
        texts.setdefault(target.benchmark, []).append(target.text)
    found = []
    for name, all_of in sorted(texts.items()):
        hashes = hash_ids(pa.array(all_of, pa.large_string()), mix("ladder"))
        rows = np.sort(np.argsort(hashes, kind="stable")[:_EXAMPLES])
        found.append(Evaluation.of_texts(name, *(all_of[row] for row in rows)))
    return tuple(found)


def _bits(result: RunResult) -> float:
    """Return bits per byte, averaged over benchmarks."""
    return statistics.fmean(score["mean"] for score in result.bits_per_byte.values())


def _model(result: RunResult) -> str:
    """Return the directory of the model on this machine, after comparing its checksums."""
    return str(Artefact.open(result.path).local() / "model")


def _held_out(
    selector: SetSelector, count: int, each: int, models: Models
) -> tuple[Evaluation, ...]:
    """Return an evaluation for each cluster that has documents in the sample."""
    sample = sample_documents(models.pool, count, models.seed, FIT, models.runner)
    encoder = models.load_encoder(selector.requirements.encoder)
    vectors = embed_texts(sample["text"], encoder, spread=in_order(models.runner))
    numbers = selector.assign(vectors, hash_documents(sample, mix(models.seed)))
    texts: dict[int, list[str]] = {}
    for number, text in zip(numbers.tolist(), sample["text"].to_pylist()):
        texts.setdefault(number, []).append(text)
    return tuple(
        Evaluation.of_texts(_name(number), *own[:each]) for number, own in sorted(texts.items())
    )


def _name(cluster: int) -> str:
    return f"cluster-{cluster:05d}"
