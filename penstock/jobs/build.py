"""Build the selectors, rewriters and reweighter that a recipe names, and find its files."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from penstock.display import encodable
from penstock.errors import InputError, SelectorError
from penstock.jobs.evaluation_examples import EvaluationExamples, distinct_evaluations
from penstock.node_cache import local_file
from penstock.pipeline.cleaning.overlaps.overlaps import Overlaps
from penstock.pipeline.columns import in_dependence
from penstock.pipeline.rewriting.answers import Rewrite
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.scoring.models import Column
from penstock.recipe import Recipe
from penstock.rules import built_in as sets_of_rules
from penstock.selectors.adapter import class_of, paths_of
from penstock.selectors.base import Selector, Targets
from penstock.selectors.registry import build, build_rewriter
from penstock.selectors.reweighting.planned import PlannedReweighter
from penstock.selectors.targets import check_examples, read_texts, targets_in, texts_in
from penstock.storage import AnyPath, find_files, kind_of, sha256_file

__all__ = [
    "build_columns",
    "build_overlaps",
    "build_reweighter",
    "build_rewrites",
    "find_evaluation_files",
    "find_target_files",
]


def build_rewrites(recipe: Recipe) -> list[Rewrite | Edit]:
    """Build the recipe's rewriters and the models that answer them.

    Those without a model come first, so that no model sees what they mask; otherwise the order is
    that of the file.

    Raises:
        SelectorError: A rewriter, a model or a parameter is not known.
    """
    directories = [recipe.directory, Path.cwd()]
    edits: list[Rewrite | Edit] = []
    rewrites: list[Rewrite | Edit] = []
    for name, spec in recipe.rewrite.items():
        built, share, seed = build_rewriter(name, spec, directories), spec.share, recipe.seed
        if built[1] is None:
            edits.append(Edit(name=name, rewriter=built[0], share=share, seed=seed))
            continue
        rewriter, completions = built
        rewrites.append(
            Rewrite(name=name, rewriter=rewriter, completions=completions, share=share, seed=seed)
        )
    return edits + rewrites


def build_reweighter(recipe: Recipe) -> PlannedReweighter | None:
    """Build the reweighter of the recipe's training batches; None without one.

    Raises:
        SelectorError: There is no such reweighter, a parameter is not known, or it needs scores
            that the shards do not carry.
    """
    spec = recipe.train.reweight
    if spec is None:
        return None
    planned = PlannedReweighter(spec, [recipe.directory, Path.cwd()])
    if planned.needs_carried and recipe.shards.carry is None:
        raise SelectorError(
            f"`{spec.use}` needs a score of each document in the shards",
            key="train.reweight.use",
            fix="name a selector in shards.carry",
        )
    return planned


def build_columns(recipe: Recipe) -> list[Column]:
    """Build the selectors that ``budget.rank`` and ``shards.carry`` name and those that they depend
    on; read targets.

    Returns:
        Columns in an order in which each comes after those that it depends on.

    Raises:
        SelectorError: A selector or a parameter is not known.
        InputError: A target file cannot be used.
        RecipeError: An example of a target file is also in an ``evaluate`` file.
    """
    held_out = EvaluationExamples(find_evaluation_files(recipe))
    directories = [recipe.directory, Path.cwd()]
    for name, spec in recipe.select.items():
        if spec.use in sets_of_rules():
            raise SelectorError(
                f"{spec.use!r} is a set of rules, which keep and drop documents; a selector gives "
                "them scores",
                key=f"select.{name}.use",
                fix=f"write clean: {{rules: [{spec.use}]}}; `penstock selectors` lists selectors",
            )
    built = {name: build(name, spec, directories) for name, spec in recipe.select.items()}
    wanted = [*recipe.budget.ranks, *([recipe.shards.carry] if recipe.shards.carry else [])]
    for name in wanted:  # it grows by the columns that a column depends on
        upon = built[name].requirements.quality if name in built else None
        if upon is not None and upon not in wanted:
            wanted.append(upon)
    columns = []
    for name, spec in recipe.select.items():
        if name not in wanted:
            continue
        files = [
            file
            for pattern in spec.target
            for file in find_target_files(recipe, pattern, f"select.{name}.target")
        ]
        if not files and built[name].requirements.target:
            raise SelectorError(
                f"missing; `{spec.use}` needs examples",
                key=f"select.{name}.target",
                fix="write target: [examples.jsonl], lines of question and answer, or of text",
            )
        targets = [_targets_of(file) for file in files]
        for file, own in zip(files, targets):
            texts = [example.text for example in own.examples]
            held_out.refuse(texts, f"select.{name}.target", file)
        for parameter, named in built[name].requirements.examples.items():
            texts = [text for _, _, text in texts_in(Path(named), parameter)] if held_out else []
            held_out.refuse(texts, f"select.{name}.{parameter}", Path(named))
        target = Targets(
            examples=[example for own in targets for example in own.examples],
            hashes=[sha256 for own in targets for sha256 in own.hashes],
        )
        least = built[name].requirements.least_examples
        if files and len(target.examples) < least:
            raise SelectorError(
                key=f"select.{name}.target",
                expected=f"at least {least} examples, which `{spec.use}` needs",
                got=len(target.examples),
                fix="give more, or write use: dsir and per_ngram: true, which needs fewer",
            )
        files_of = _files_of(built[name], spec.parameters)
        columns.append(Column(name=name, selector=built[name], target=target, files=files_of))
    return in_dependence(columns)


def _files_of(selector: Selector, parameters: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the files and directories that a recipe gives to a class, by the parameter."""
    given = {key: parameters[key] for key in paths_of(class_of(selector)) if key in parameters}
    several = {key: own if isinstance(own, (list, tuple)) else [own] for key, own in given.items()}
    return {key: tuple(str(one) for one in own) for key, own in several.items()}


def _targets_of(file: AnyPath) -> Targets:
    """Read the examples of a file; places name it, and not its copy on this machine."""
    local = local_file(file)
    read = targets_in([local])
    if str(local) == str(file):
        return read
    named = [replace(one, place=f"{file}:{one.place.rpartition(':')[2]}") for one in read.examples]
    return replace(read, examples=named)


def build_overlaps(recipe: Recipe) -> list[Overlaps]:
    """Find the evaluation files of which no document of the pool may hold a copy.

    Raises:
        InputError: One is missing, or a pattern matches none.
    """
    settings = recipe.clean.decontaminate
    if settings.action == "off":
        return []
    files = [
        file
        for pattern in settings.files
        for file in find_target_files(recipe, pattern, "clean.decontaminate.files")
    ]
    found: dict[str, Overlaps] = {}
    for file in files or find_evaluation_files(recipe):
        local = local_file(file)
        sha256 = sha256_file(local)
        names = {one.file for one in found.values()}
        name = encodable(file.name)
        name = f"{name} ({sha256[:8]})" if name in names else name
        found.setdefault(
            sha256,
            Overlaps(
                file=name,
                sha256=sha256,
                read=partial(read_texts, local, sha256),
                ngram=settings.ngram,
            ),
        )
    return list(found.values())


def find_evaluation_files(recipe: Recipe) -> list[AnyPath]:
    """Find the files that runs are evaluated on.

    Raises:
        InputError: One is missing, or a pattern matches none.
        RecipeError: Two have the same name.
    """
    return distinct_evaluations(
        file
        for pattern in recipe.evaluate
        for file in find_target_files(recipe, pattern, "evaluate")
    )


def find_target_files(recipe: Recipe, pattern: str, key: str) -> list[AnyPath]:
    """Find the files of examples that a path or pattern of the recipe names.

    Args:
        recipe: The recipe, from whose directory paths start.
        pattern: The path or pattern.
        key: The key or option that gives it, for errors.

    Raises:
        InputError: There is none, or it is a directory.
    """
    path = recipe.resolve(pattern)
    matches = find_files(path)
    if not matches and kind_of(path) == "directory":
        raise InputError(
            key=key,
            file=path,
            expected="a file of examples, or a pattern",
            got="a directory",
            fix=f"name its files, as in {pattern.rstrip('/')}/*.jsonl",
        )
    if not matches:
        problem = "the pattern matches no file" if glob.has_magic(pattern) else "no such file"
        raise InputError(problem, key=key, file=path, fix="paths are relative to the recipe")
    for file in matches:
        if kind_of(file) is None:
            raise InputError("a link that leads to no file", key=key, file=file, fix="fetch it")
        try:
            check_examples(local_file(file))
        except InputError as error:
            raise error.under(key) from None
    return matches
