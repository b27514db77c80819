"""kMQ's iterative refinement: rounds of short runs that measure the value of each cluster.

Each round trains on documents that the current cluster weights choose from another part of the
pool. The change of the loss on each cluster's held-out documents gives the next weights
(:func:`penstock.selectors.kmq.refine`). The runs are artefacts like any other: made once, found
again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from penstock.artefact import Artefact, Workspace
from penstock.errors import BudgetError
from penstock.hashing import hash_ids, mix
from penstock.jobs.held_out import outside
from penstock.pipeline.runner import Runner, in_order
from penstock.pipeline.scoring.models import Column, Models
from penstock.pipeline.units import FIT, sample_documents
from penstock.recipe import ModelFrom, ModelShape, Recipe, Train
from penstock.recipe_file import parse_recipe
from penstock.selectors.base import ClusterWeights, SetSelector
from penstock.selectors.encoders.embedding import embed_texts
from penstock.trainers.evaluation.evaluator import Evaluation
from penstock.trainers.run import train_all
from penstock.trainers.spec import RunResult, RunSpec

__all__ = ["find_weights"]

_TRIFLE = 1e-9
"""The weight of a column that only excludes."""

Cut = Callable[[Recipe], Artefact]
"""Function from a recipe to its shards."""


def find_weights(recipe: Recipe, column: Column, cut: Cut, models: Models) -> None:
    """Run a column's rounds, or find them, and give its selector the weights.

    Raises:
        BudgetError: A part of the pool holds too few tokens for a round.
        UnmadeError: They have to be run, and this workspace is for looking only.
    """
    plan = column.selector.requirements.cluster_weights
    assert plan is not None
    fitted = plan.unweighted
    own = replace(column, selector=fitted)
    models.load(own, models.fitted(own))
    sample = plan.held_out * fitted.partitions
    evaluations = _held_out(fitted, sample, plan.held_out, models)
    weights = np.full(fitted.partitions, 1 / fitted.partitions)
    before: dict[str, float] = {}
    result: RunResult | None = None
    for number in range(plan.rounds):
        try:
            shards = cut(_round(recipe, column.name, plan, sample, number, weights))
        except BudgetError as error:
            raise BudgetError(f"select.{column.name}.{plan.replaces}.tokens: {error}") from None
        spec = RunSpec(
            train=_train(plan, result),
            shards=shards.path,
            seed=recipe.seed,
            evaluations=evaluations,
        )
        result = _run(spec, models.workspace, models.runner)
        after = {name: score["mean"] for name, score in result.bits_per_byte.items()}
        if before:
            gains = {name: before[name] - after[name] for name in after}
            usual = float(np.mean(list(gains.values())))
            signals = [gains.get(_name(cluster), usual) for cluster in range(len(weights))]
            weights = plan.update(weights.tolist(), signals)
            models.progress(
                f"{column.name}: round {number + 1}: losses fell by {min(signals):.3f} to "
                f"{max(signals):.3f} bits per byte; weights {weights.min():.4f} to "
                f"{weights.max():.4f}"
            )
        before = after
    plan.give(weights.tolist())


def _held_out(
    selector: SetSelector, count: int, each: int, models: Models
) -> tuple[Evaluation, ...]:
    """Return an evaluation for each cluster that has documents in the sample."""
    sample = sample_documents(models.corpus, count, models.seed, FIT)
    encoder = models.load_encoder(selector.requirements.encoder)
    vectors = embed_texts(sample["text"], encoder, spread=in_order(models.runner))
    numbers = selector.assign(vectors, hash_ids(sample["id"], mix(models.seed)))
    texts: dict[int, list[str]] = {}
    for number, text in zip(numbers.tolist(), sample["text"].to_pylist()):
        own = texts.setdefault(number, [])
        if len(own) < each:
            own.append(text)
    return tuple(
        Evaluation(name=_name(number), texts=tuple(own)) for number, own in sorted(texts.items())
    )


def _name(cluster: int) -> str:
    return f"cluster-{cluster:05d}"


def _round(
    recipe: Recipe, name: str, plan: ClusterWeights, sample: int, number: int, weights: np.ndarray
) -> Recipe:
    """Return the recipe of a round's cut: the selector with its weights, on part of the pool."""
    tree = recipe.model_dump(mode="json")
    spec = {key: value for key, value in tree["select"][name].items() if key != plan.replaces}
    tree["select"][name] = {**spec, "weights": weights.tolist()}
    tree["select"]["outside"] = outside(sample, part=number, parts=plan.rounds)
    tree["compare"] = {}
    tree["budget"] = {
        "tokens": plan.tokens,
        "rank": {name: 1.0, "outside": _TRIFLE},
        "seed": recipe.seed,
    }
    return parse_recipe(tree, recipe.directory)


def _train(plan: ClusterWeights, before: RunResult | None) -> Train:
    layers, width, heads = plan.shape
    model: ModelShape | ModelFrom = ModelShape(layers=layers, width=width, heads=heads)
    if before is not None:
        model = ModelFrom(hf=str(Artefact.open(before.path).local() / "model"))
    return Train(model=model, batch_tokens=plan.batch_tokens, lr=plan.lr)


def _run(spec: RunSpec, workspace: Workspace, runner: Runner) -> RunResult:
    if spec.find(workspace) is None:
        spec.draft(workspace)  # refuses where nothing may be made
        runner.close()
    (result,) = train_all([spec], workspace)
    return result
