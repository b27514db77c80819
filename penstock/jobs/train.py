"""Shards to runs: what the recipe says of training, and what runs are judged on."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import RecipeError
from penstock.jobs.asked import evaluation_files, reweighter_of
from penstock.jobs.curate import Curated
from penstock.node_cache import local_file
from penstock.recipe import ModelFrom, Recipe
from penstock.selectors.targets import read_choices, read_targets
from penstock.trainers.backends import find_backend
from penstock.trainers.evaluation.choices import Question
from penstock.trainers.evaluation.evaluator import Evaluation
from penstock.trainers.spec import RunSpec

__all__ = ["check_model", "evaluations_of", "run_spec"]


def evaluations_of(recipe: Recipe) -> tuple[Evaluation, ...]:
    """The examples of the ``evaluate`` files, each file an evaluation named by its stem.

    Raises:
        InputError: A file is missing, or has a line that is not an example.
    """
    return tuple(
        Evaluation(
            name=file.name.partition(".jsonl")[0],
            texts=tuple(target.text for target in read_targets(local_file(file))),
            questions=tuple(
                Question(context=found.context, choices=found.choices, answer=found.answer)
                for found in read_choices(local_file(file))
            ),
        )
        for file in evaluation_files(recipe)
    )


def run_spec(curated: Curated, evaluations: tuple[Evaluation, ...]) -> RunSpec:
    """The run of a recipe on its shards.

    Raises:
        SelectorError: ``train.reweight`` names no reweighter, or gives it a wrong parameter.
    """
    recipe = curated.recipe
    return RunSpec(
        train=recipe.train,
        shards=curated.shards.path,
        seed=recipe.train_seed,
        evaluations=evaluations,
        reweighter=reweighter_of(recipe),
    )


def check_model(recipe: Recipe) -> None:
    """Refuse a back end or a model that cannot be trained with, before anything is made.

    Raises:
        RecipeError: The back end refuses ``train``, or ``train.model.hf`` is a path, and nothing
            is there.
    """
    find_backend(recipe.train.backend).check(recipe.train)
    model = recipe.train.model
    if not isinstance(model, ModelFrom) or not model.hf.startswith(("/", ".", "~")):
        return
    if not Path(model.hf).expanduser().is_dir():
        raise RecipeError(
            f"train.model.hf: {model.hf}: no such directory; expected one that save_pretrained "
            "wrote, or a name on the hub"
        )
