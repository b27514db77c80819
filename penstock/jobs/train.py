"""Training jobs: a plan's training part and evaluation files as the specification of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock import extras
from penstock.errors import RecipeError
from penstock.jobs.evaluation_examples import evaluation_names
from penstock.jobs.plan import TrainSettings
from penstock.language_models.model_directory import check_model
from penstock.node_cache import local_file
from penstock.recipe import ModelFrom, Train
from penstock.selectors.targets import read_examples
from penstock.storage import AnyPath
from penstock.trainers.backends import BACKENDS, find_backend
from penstock.trainers.evaluation.examples import Evaluation, Example
from penstock.trainers.sessions.local import LocalSessions
from penstock.trainers.spec import RunSpec

__all__ = ["check_training", "read_evaluations", "run_spec", "training_modules"]


def read_evaluations(files: Sequence[AnyPath]) -> tuple[Evaluation, ...]:
    """Read ``evaluate`` files, each as an evaluation named as :func:`evaluation_names` says.

    Raises:
        InputError: A file has a line that is not an example.
    """
    return tuple(
        Evaluation(
            name=name,
            examples=tuple(
                Example(context=found.context, choices=found.choices, answer=found.answer)
                for found in read_examples(local_file(file))
            ),
        )
        for name, file in zip(evaluation_names(files), files)
    )


def run_spec(
    settings: TrainSettings, shards: AnyPath, evaluations: tuple[Evaluation, ...]
) -> RunSpec:
    """Return the specification of a run on these shards."""
    return RunSpec(
        train=settings.train,
        shards=shards,
        seed=settings.seed,
        evaluations=evaluations,
        reweighter=settings.reweighter,
    )


def training_modules(train: Train) -> list[str]:
    """Return the modules of the extra ``train`` that a run with these settings imports."""
    others = BACKENDS.keys() - {train.backend, "torch"}  # each is named as its library
    if LocalSessions.suffice():
        others.add("ray")
    return [module for module in extras.EXTRAS["train"] if module not in others]


def check_training(train: Train) -> None:
    """Check the libraries, the back end's settings and the model, before anything is made.

    Raises:
        BadInput: A library of the extra ``train`` is not installed.
        RecipeError: The back end refuses ``train``, or ``train.model.hf`` is a path, and nothing
            is there.
        InputError: The model of ``train.model.hf`` has pickled weights, or needs its own code.
    """
    extras.require("train", "train", training_modules(train))
    find_backend(train.backend).check(train)
    model = train.model
    if not isinstance(model, ModelFrom):
        return
    check_model(model.hf, key="train.model.hf")
    if model.hf.startswith(("/", ".", "~")) and not Path(model.hf).expanduser().is_dir():
        raise RecipeError(
            "no such directory",
            key="train.model.hf",
            file=model.hf,
            expected="one that save_pretrained wrote, or a name on the hub",
        )
