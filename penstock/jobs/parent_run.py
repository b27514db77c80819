"""The run of ``train.continue_from`` where a recipe names it by another recipe, or by a path."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from penstock.artefact import Workspace
from penstock.errors import UnmadeError
from penstock.jobs.curate import PartiallyCurated, inspect
from penstock.jobs.plan import Plan
from penstock.jobs.train import run_spec
from penstock.pipeline.runner import Runner
from penstock.recipe_file import load_recipe
from penstock.recipe_training import REFERENCE
from penstock.trainers.run import resolved

__all__ = ["with_parent"]


def with_parent(plan: Plan, runner: Runner) -> Plan:
    """Return a plan whose ``train.continue_from`` names a run by its directory, or by digits.

    Nothing is made: the shards of a recipe that is named have to exist, its run may be unfinished.

    Args:
        plan: Plan of the recipe that continues.
        runner: Runs what is found by reading, such as hashes of inputs.

    Raises:
        RecipeError: The other recipe is missing or wrong.
        UnmadeError: Its shards are not made; the error names the command that makes them.
    """
    reference = plan.train.train.continue_from
    if reference is None:
        return plan
    found = REFERENCE.fullmatch(reference)
    assert found is not None, "checked by the recipe"
    run = found["run"]
    if run.endswith((".yaml", ".yml")):
        run = _run_of(Path(str(plan.recipe.resolve(run))), runner)
    elif "/" in run and not run.startswith("run/"):
        run = str(plan.recipe.resolve(run))
    train = plan.train.train.model_copy(update={"continue_from": f"{run}@{found['step']}"})
    return replace(plan, train=replace(plan.train, train=train))


def _run_of(path: Path, runner: Runner) -> str:
    """Return the directory of the run of a recipe."""
    own = with_parent(Plan.of(load_recipe(path)), runner)
    try:
        curated = inspect(own, runner)
        if isinstance(curated, PartiallyCurated):
            raise curated.lacks
    except UnmadeError as error:
        raise error.on_recipe(shlex.quote(str(path))) from None
    workspace = Workspace(own.work, read_only=True)
    spec = resolved([run_spec(own.train, curated.shards.path, ())], workspace)[0]
    return str(workspace.directory("run", spec.fingerprint))
