"""The main job: recipe to shards, each stage found or made.

Everything that can be wrong with a recipe is looked at first: files, selectors and their
parameters, targets. Only then does work start.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.artefact import Artefact, Workspace
from penstock.errors import InputError, RecipeError, UnmadeError
from penstock.node_cache import local_file
from penstock.pipeline.columns import Column, in_dependence, make_columns
from penstock.pipeline.corpus import make_corpus
from penstock.pipeline.cut import make_cut
from penstock.pipeline.reading.inputs import find_inputs
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.documents import rewrite_corpus
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.shards import make_shards
from penstock.pipeline.tokenizer import find_tokenizer, make_tokenizer
from penstock.pipeline.tokens import TokenStore
from penstock.recipe import ModelShape, Recipe
from penstock.selectors.betr import filter_rate
from penstock.selectors.registry import build, build_rewriter
from penstock.selectors.targets import read_targets
from penstock.storage import Place, find_files, is_remote, sha256_file

__all__ = [
    "Begun",
    "Curated",
    "curate",
    "evaluation_files",
    "look",
    "ranked_columns",
    "rewrites_of",
    "said_of",
]

Note = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Curated:
    """What a recipe became."""

    recipe: Recipe
    corpus: Artefact
    columns: dict[str, Artefact]
    tokenizer: Artefact
    cut: Artefact
    shards: Artefact
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What ``penstock curate --json`` prints."""
        return {
            "cut": str(self.cut.path),
            "shards": str(self.shards.path),
            "documents": self.corpus.facts["documents"],
            **({"rewrites": rewrites} if (rewrites := self.corpus.facts.get("rewrites")) else {}),
            "tokens": {
                "requested": self.cut.facts["requested"],
                "delivered": self.cut.facts["delivered"],
            },
            "by_source": self.cut.facts["by_source"],
            "seconds": {stage: round(spent, 3) for stage, spent in self.seconds.items()},
            "digest": self.shards.digest,
            **({"filter_rate": rate} if (rate := self.filter_rate()) else {}),
        }

    def filter_rate(self) -> dict[str, float] | None:
        """What BETR's law would keep of the pool for this training run, and what the budget keeps.

        None where no BETR ranks, or where the model's size is not in the recipe.
        """
        model = self.recipe.train.model
        uses = {self.recipe.select[name].use for name in self.columns}
        if "betr" not in uses or not isinstance(model, ModelShape):
            return None
        tokens = self.cut.facts["delivered"]
        pool = sum(tally["bytes"] for tally in self.corpus.facts["by_source"].values())
        flops = 6.0 * model.parameters * tokens
        return {
            "flops": flops,
            "law": filter_rate(flops),
            "budget": min(1.0, tokens * self.tokenizer.facts["bytes_per_token"] / pool),
        }


@dataclass(slots=True, kw_only=True)
class Begun:
    """As much of a recipe as is made, where that is not all."""

    recipe: Recipe
    corpus: Artefact
    columns: dict[str, Artefact]
    """All of them, or none."""
    lacks: UnmadeError
    """Says what comes next, and how it is made."""


def curate(recipe: Recipe, runner: Runner, note: Note = lambda line: None) -> Curated:
    """Make, or find, everything from the corpus to the shards of a recipe.

    Args:
        recipe: Validated.
        runner: Who does the work.
        note: Told, line by line, what is going on.

    Raises:
        BadInput: Something the user gave cannot be used.
        Failure: The work did not succeed; what was finished is kept.
    """
    with Workspace.driving(recipe.work_directory) as workspace:
        return _curate(recipe, workspace, runner, note, {})


def look(recipe: Recipe, runner: Runner) -> Curated | Begun:
    """What is made of a recipe; nothing is made or written, whoever may be at work there.

    Raises:
        BadInput: Something the user gave cannot be used.
        UnmadeError: Not even the corpus is made.
    """
    made: dict[str, Any] = {}
    workspace = Workspace(recipe.work_directory, looking=True)
    try:
        return _curate(recipe, workspace, runner, lambda line: None, made)
    except UnmadeError as error:
        if "corpus" not in made:
            raise
        columns = made.get("columns", {})
        return Begun(recipe=recipe, corpus=made["corpus"], columns=columns, lacks=error)


def _curate(
    recipe: Recipe, workspace: Workspace, runner: Runner, note: Note, made: dict[str, Any]
) -> Curated:
    """``made`` gets each stage as it is there, for who wants to know how far this came."""
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        note(f"{name} ...")
        yield
        seconds[name] = time.perf_counter() - start

    find_inputs(recipe)
    find_tokenizer(recipe)
    evaluation_files(recipe)
    rewrites = rewrites_of(recipe)
    wanted = ranked_columns(recipe, note)
    with stage("corpus"):
        made["corpus"] = corpus = make_corpus(recipe, workspace, runner)
        kept = corpus.facts["documents"]
        note(f"{kept['kept']:,} of {kept['read']:,} documents kept")
    for rewrite in rewrites:
        with stage(f"rewrite {rewrite.name}"):
            corpus = rewrite_corpus(rewrite, corpus, workspace, runner, note)
            made["corpus"] = corpus
            note(said_of(rewrite.name, corpus.facts["rewrites"][rewrite.name]))
    for column in wanted:
        if getattr(column.selector, "ladder", None) is not None:
            with stage(f"ladder {column.name}"):
                _climb(recipe, column, workspace, runner, note)
        if getattr(column.selector, "refinement", None) is not None:
            with stage(f"refinement {column.name}"):
                _refine(recipe, column, corpus, workspace, runner, note)
    with stage("columns"):
        made["columns"] = columns = make_columns(
            wanted, corpus, workspace, runner, recipe.seed, note
        )
    with stage("tokenizer"):
        tokenizer = make_tokenizer(recipe, corpus, workspace)
    with stage("cut"):
        tokens = TokenStore(corpus, tokenizer, workspace)
        cut = make_cut(recipe, corpus, columns, tokens, tokenizer, workspace, runner)
        taken = cut.facts
        note(f"{taken['documents']:,} documents, {taken['delivered']:,} tokens taken")
    with stage("shards"):
        shards = make_shards(recipe, cut, tokens, tokenizer, workspace, runner)
    return Curated(
        recipe=recipe,
        corpus=corpus,
        columns=columns,
        tokenizer=tokenizer,
        cut=cut,
        shards=shards,
        seconds=seconds,
    )


def _climb(
    recipe: Recipe, column: Column, workspace: Workspace, runner: Runner, note: Note
) -> None:
    """Have a selector's models trained."""
    from penstock.jobs.ladder import climb  # imports PyTorch

    def cut(outside: Recipe) -> Artefact:
        return _curate(outside, workspace, runner, lambda line: None, {}).shards

    climb(recipe, column, cut, workspace, runner, note)


def _refine(
    recipe: Recipe,
    column: Column,
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    note: Note,
) -> None:
    """Have a selector's weights found."""
    from penstock.jobs.refinement import find_weights  # imports PyTorch

    def cut(own: Recipe) -> Artefact:
        return _curate(own, workspace, runner, lambda line: None, {}).shards

    models = Models(corpus=corpus, workspace=workspace, runner=runner, seed=recipe.seed, note=note)
    find_weights(recipe, column, cut, models)


def rewrites_of(recipe: Recipe) -> list[Rewrite]:
    """The recipe's rewriters with those who answer them, in order.

    Raises:
        SelectorError: A rewriter, a model or a parameter is not known.
    """
    directories = [recipe.directory, Path.cwd()]
    found = []
    for name, spec in recipe.rewrite.items():
        rewriter, completions = build_rewriter(name, spec, directories)
        found.append(
            Rewrite(
                name=name,
                rewriter=rewriter,
                completions=completions,
                share=spec.share,
                seed=recipe.seed,
            )
        )
    return found


def said_of(name: str, made: Mapping[str, Any]) -> str:
    """What a rewriter made, in one line."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in made["rejected"].items())
    changed = f", {made['changed']:,} of them changed" if "changed" in made else ""
    return (
        f"{name}: {made['accepted']:,} texts from {made['documents']:,} documents{changed}; "
        f"{sum(made['rejected'].values()):,} rejected{f' ({reasons})' if reasons else ''}"
    )


def ranked_columns(recipe: Recipe, note: Note = lambda line: None) -> list[Column]:
    """The selectors that ``budget.rank`` names, and those whose columns they are made from.

    They are built, and their targets read.

    Raises:
        SelectorError: A selector or a parameter is not known.
        InputError: A target file cannot be used.
        RecipeError: A target file is also an ``evaluate`` file.
    """
    held_out = {_identity(path) for path in evaluation_files(recipe)}
    directories = [recipe.directory, Path.cwd()]
    built = {name: build(name, spec, directories) for name, spec in recipe.select.items()}
    wanted = list(recipe.budget.ranks)
    for name in wanted:  # which grows by what a column is made from
        upon = getattr(built.get(name), "quality", None)
        if upon is not None and upon not in wanted:
            wanted.append(upon)
    columns = []
    for name, spec in recipe.select.items():
        if name not in wanted:
            note(f"select.{name}: budget.rank does not name it, so it is not scored")
            continue
        files = [
            file
            for pattern in spec.target
            for file in _target_files(recipe, pattern, f"select.{name}.target")
        ]
        for file in files:
            if _identity(file) in held_out:
                raise RecipeError(
                    f"select.{name}.target: {file} is also listed under evaluate; a selector must "
                    "not see what it is judged by: remove it from one of them"
                )
        here = [local_file(file) for file in files]
        columns.append(
            Column(
                name=name,
                selector=built[name],
                target=[target for file in here for target in read_targets(file)],
                target_hashes=[sha256_file(file) for file in here],
            )
        )
    return in_dependence(columns)


def evaluation_files(recipe: Recipe) -> list[Place]:
    """The files that runs are judged on.

    Raises:
        InputError: One is missing, or a pattern matches none.
    """
    return [
        file for pattern in recipe.evaluate for file in _target_files(recipe, pattern, "evaluate")
    ]


def _identity(file: Place) -> str:
    return str(file if is_remote(file) else file.resolve())


def _target_files(recipe: Recipe, pattern: str, key: str) -> list[Place]:
    path = recipe.resolve(pattern)
    matches = find_files(path)
    if not matches:
        what = "the pattern matches no file" if glob.has_magic(pattern) else "no such file"
        raise InputError(f"{key}: {path}: {what}; paths are relative to the recipe")
    return matches
