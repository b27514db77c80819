"""Compare the arms of a recipe: trained at equal tokens, evaluated on held-out text.

The arm ``selected`` is the recipe itself; the others are named overrides of it. Every arm is cut
for each seed, and trained with initial weights and a data order of that seed; corpus, columns and
the recipe's own tokenizer are shared. The baseline is also trained at multiples of the budget, each
with its own full schedule; the token multiplier is read from these runs: measured, not
extrapolated. No run repeats text to reach a multiple: one that the pool cannot fill is left out,
and named with the figures. The arms may be compared at more sizes, the rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from penstock.artefact import Workspace
from penstock.errors import BudgetError, RecipeError
from penstock.jobs.comparison.announcing import TimeEstimate, describe_runs
from penstock.jobs.comparison.arms import ArmsAtSize, Point, UnfilledMultiple
from penstock.jobs.comparison.results import Comparison
from penstock.jobs.curate import Curated, Progress, curate
from penstock.jobs.parent_run import with_parent
from penstock.jobs.plan import SELECTED, Arm, Plan, plan_arms
from penstock.jobs.train import check_training, read_evaluations, run_spec
from penstock.pipeline.runner import Runner
from penstock.recipe import Recipe
from penstock.trainers.evaluation.examples import Evaluation
from penstock.trainers.run import device_words, room_for, train_all
from penstock.trainers.spec import OnMetrics, RunResult

__all__ = ["compare", "curate_arms"]


def compare(
    recipe: Recipe,
    runner: Runner,
    progress: Progress = lambda line: None,
    on_metrics: OnMetrics | None = None,
    free: Callable[[], None] = lambda: None,
) -> Comparison:
    """Cut, train and evaluate every arm for every seed.

    Args:
        recipe: The recipe with its arms.
        runner, progress, free: As of :func:`penstock.jobs.curate.curate`.
        on_metrics: Called with the run and each line of its ``metrics.jsonl``.

    Raises:
        RecipeError: There is nothing to evaluate on, or an arm's override is wrong.
        BadInput, Failure: As :func:`penstock.jobs.curate.curate` and training do.
    """
    if not recipe.evaluate:
        raise RecipeError(key="evaluate", expected="at least one held-out file", got="none")
    plans = plan_arms(recipe)
    plan = next(iter(plans.values()))
    for own in plans.values():
        check_training(own.train.train)
    evaluations = read_evaluations(plan.evaluate)
    _check_metric(recipe, evaluations)
    progress(describe_runs({arm: own.recipe for arm, own in plans.items()}))
    with Workspace.driving(plan.work) as workspace:
        plans = {arm: with_parent(own, runner) for arm, own in plans.items()}
        curated, left_out = curate_arms(plans, runner, progress, free)
        free()
        specs = [
            run_spec(plans[arm].train, own.shards.path, evaluations) for arm, own in curated.items()
        ]
        parallel = recipe.compare.parallel or min(room_for(spec.train) for spec in specs)
        where = device_words(specs[0].train)
        progress(f"train: {len(specs)} runs {where}, {parallel} at a time")
        if on_metrics is not None:
            on_metrics = TimeEstimate(
                specs=specs, parallel=parallel, progress=progress, follow=on_metrics
            )
        trained = train_all(specs, workspace, parallel=parallel, on_metrics=on_metrics)
    results = dict(zip(curated, trained))
    targets = tuple(item.name for item in evaluations)
    return Comparison(
        recipe=recipe,
        selected=curated[Arm(SELECTED, 1.0, recipe.compare.seeds[0])],
        targets=targets,
        points=_points(0, curated, results),
        left_out=tuple(left_out),
        rungs=tuple(
            ArmsAtSize(
                recipe=_recipe_of(number, plans, recipe),
                targets=targets,
                points=_points(number, curated, results),
            )
            for number, _ in enumerate(recipe.compare.rungs, 1)
        ),
    )


def _recipe_of(rung: int, plans: Mapping[Arm, Plan], recipe: Recipe) -> Recipe:
    """Return the recipe of the arm ``selected`` at a rung, with the settings of the comparison."""
    own = next(plan.recipe for arm, plan in plans.items() if arm.rung == rung)
    return own.model_copy(update={"compare": recipe.compare})


def _points(
    rung: int, curated: Mapping[Arm, Curated], results: Mapping[Arm, RunResult]
) -> tuple[Point, ...]:
    points: dict[tuple[str, float], list[Arm]] = {}
    for arm in curated:
        if arm.rung == rung:
            points.setdefault((arm.name, arm.multiple), []).append(arm)
    return tuple(
        Point(
            arm=name,
            multiple=multiple,
            tokens=results[arms[0]].tokens,
            seeds=tuple(arm.seed for arm in arms),
            runs=tuple(results[arm] for arm in arms),
            shards=tuple(curated[arm].shards.path for arm in arms),
        )
        for (name, multiple), arms in points.items()
    )


def _check_metric(recipe: Recipe, evaluations: Sequence[Evaluation]) -> None:
    """Refuse a metric of choices where no evaluation has any."""
    metric = recipe.compare.metric
    chosen = any(len(own.choices) > 1 for item in evaluations for own in item.examples)
    if "bits" not in metric and not chosen:
        raise RecipeError(
            f"no example under evaluate has choices, which {metric} is of",
            key="compare.metric",
            fix="name bits_per_byte, or add choices to the examples",
        )


def curate_arms(
    plans: Mapping[Arm, Plan],
    runner: Runner,
    progress: Progress = lambda line: None,
    free: Callable[[], None] = lambda: None,
) -> tuple[dict[Arm, Curated], list[UnfilledMultiple]]:
    """Curate every arm with one tokenizer: the recipe's own, of the first arm.

    An arm that cleans otherwise has another pool, on which another tokenizer would be trained, and
    its tokens would be other ones. An arm that names a tokenizer has that.

    Returns:
        The artefacts of the arms, and the multiples of the baseline that the pool cannot fill.

    Raises:
        BudgetError: The pool cannot fill the budget of an arm, or that of a rung.
    """
    curated: dict[Arm, Curated] = {}
    left_out: list[UnfilledMultiple] = []
    shared: Curated | None = None
    for arm, plan in plans.items():
        own_plan = plan
        if shared is not None:
            own_plan = plan.as_arm(arm.multiple, shared.recipe, shared.cut.facts["requested"])
        tokens = own_plan.cut.budget.count or 0
        if left_out and not arm.rung and arm.multiple >= left_out[0].multiple:
            if arm.multiple > left_out[-1].multiple:
                left_out.append(UnfilledMultiple(arm.multiple, tokens, left_out[0].reason))
            continue
        size = f", rung {arm.rung}" if arm.rung else ""
        progress(f"cut: arm {arm.name} at {arm.multiple:g}x, seed {arm.seed}{size}")
        same = shared is not None and plan.recipe.tokenizer == shared.recipe.tokenizer
        tokenizer = shared.tokenizer if shared is not None and same else None
        try:
            own = curate(own_plan, runner, free=free, tokenizer=tokenizer)
            reason = "" if arm.multiple == 1 else _shortage(own)
        except BudgetError as error:
            if arm.rung:
                raise error.under(f"compare.rungs.{arm.rung - 1}") from error.__cause__
            if arm.multiple == 1:  # a multiple of a budget that was met can only be too large
                raise
            reason = error.problem
        if reason:
            left_out.append(UnfilledMultiple(arm.multiple, tokens, reason))
            progress(f"left out: {arm.name} at {left_out[-1]}")
            continue
        curated[arm] = own
        shared = shared or own
    return curated, left_out


def _shortage(curated: Curated) -> str:
    """Describe what a cut lacks of its budget (``allow_short``); empty where it has all."""
    length, facts = curated.recipe.shards.sequence_length, curated.cut.facts
    if facts["delivered"] == facts["requested"] // length * length:
        return ""
    return f"the pool holds {facts['delivered']:,} that may be taken"
