"""Parts of a recipe that are to be made again, by name: ``penstock curate --rescore NAME``.

A column, a rule and a rewriter are named by their code and parameters, so what these do not show,
such as a file that the code opens by itself, keeps the old results. Named here, they are deleted
first, with all that was made of them: two contents never have one name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, SelectorError, did_you_mean
from penstock.jobs.plan import Plan
from penstock.pipeline.cleaning.text_columns import stage_of
from penstock.pipeline.cleaning.verdicts import STAGE as VERDICTS
from penstock.pipeline.corpus import STAGE as CORPUS
from penstock.pipeline.edited_code import plain_identity
from penstock.pipeline.pool import Pool
from penstock.pipeline.scoring.rescoring import delete_made

__all__ = ["Remade", "forget_cleaning"]

_OF_CORPUS = (VERDICTS, "columns", "model", "embeddings", "cut", "shards")
"""Stages whose drafts may be of a corpus that is made again; inputs of drafts are not stored."""


@dataclass(frozen=True, slots=True)
class Remade:
    """What is made again."""

    columns: tuple[str, ...] = ()
    """Names under ``select``."""
    rules: tuple[str, ...] = ()
    """Names of users' functions under ``clean.rules``."""
    rewriters: tuple[str, ...] = ()
    """Names under ``rewrite``."""

    @classmethod
    def of(cls, plan: Plan, names: Sequence[str]) -> Remade:
        """Find the parts of a plan that are named.

        Args:
            plan: Plan of a recipe.
            names: Each ``mine``, which is every part of that name, or with its section, as
                ``select.mine``, ``clean.rules.mine``, ``rewrite.mine``.

        Raises:
            SelectorError: The recipe has no such part; key ``--rescore``.
        """
        parts = {
            "select": [column.name for column in plan.columns],
            "clean.rules": [own.rule for own in plan.clean.functions],
            "rewrite": [rewrite.name for rewrite in plan.rewrites],
        }
        known = {f"{section}.{name}" for section, own in parts.items() for name in own}
        for name in names:
            if name not in known and not any(name in own for own in parts.values()):
                short = [one for own in parts.values() for one in own]
                raise SelectorError(
                    key="--rescore",
                    expected="a selector that budget.rank or shards.carry names, a rule of your "
                    "own, or a rewriter",
                    got=repr(name),
                    fix=did_you_mean(name, [*dict.fromkeys(short)]).lstrip("; "),
                )
        columns, rules, rewriters = (
            tuple(one for one in own if one in names or f"{section}.{one}" in names)
            for section, own in parts.items()
        )
        return cls(columns, rules, rewriters)


def forget_cleaning(
    remade: Remade,
    plan: Plan,
    workspace: Workspace,
    progress: Callable[[str], None],
    deleting: Callable[[Artefact], object],
) -> None:
    """Delete what rules and rewriters made, and all that was made of it.

    Args:
        remade: What is made again; columns are left to the stage that has their pool.
        plan: Plan of the recipe.
        workspace: Holds the artefacts.
        progress: Called with a line for each that is deleted.
        deleting: Called with each finished artefact before it is deleted; those that are made of
            others come before these.

    Raises:
        LeaseError: Another driver holds the work directory.
    """
    if not remade.rules and not remade.rewriters:
        return
    workspace.hold()
    roots: set[str] = set()
    stages: set[str] = set()
    for own in plan.clean.functions:
        if own.rule in remade.rules:
            config = plain_identity(own.config())
            stages |= {stage_of(own.name), VERDICTS}
            roots |= {
                one.fingerprint
                for one in workspace.finished(stage_of(own.name))
                if one.manifest["config"] == config
            }
            judged = {"name": own.rule, **config}
            roots |= {
                one.fingerprint
                for one in workspace.finished(VERDICTS)
                if judged in one.manifest["config"].get("functions", ())
            }
    corpora = workspace.finished(CORPUS)
    for rewrite in plan.rewrites:
        if rewrite.name in remade.rewriters:
            identity = plain_identity(rewrite.identity())
            roots |= {
                one.fingerprint
                for one in corpora
                if one.manifest["config"].get("rewrite") == rewrite.name
                and one.manifest["config"]["identity"] == identity
            }
    if plan.rewrites and corpora:  # the corpus of the input files is finished
        stages |= {CORPUS, *_OF_CORPUS}
    drafts = sum(len(workspace.remove_unfinished(stage)) for stage in sorted(stages))
    delete_made(workspace, _with_pools(roots, workspace), drafts, progress, deleting)


def _with_pools(roots: set[str], workspace: Workspace) -> set[str]:
    """Add the names of the pools of all corpora that are made of the roots: columns have these."""
    found: set[str] = set()
    while more := roots - found:
        found |= more
        made = {one.fingerprint: one for one in workspace.made_of(found)}
        for verdicts in workspace.finished(VERDICTS):
            if corpus := made.get(verdicts.manifest["inputs"]["corpus"]):
                with suppress(ArtefactError):  # no command would open it
                    roots = {*roots, Pool.of(corpus, verdicts).fingerprint}
    return roots
