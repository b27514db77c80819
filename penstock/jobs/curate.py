"""Curate: run a plan's stages from corpus to shards, each found or made."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from penstock.activity import step
from penstock.artefact import Artefact, Workspace
from penstock.display import html_table, numbered, text_table
from penstock.errors import InputError, UnmadeError
from penstock.jobs.column_warnings import constant_columns, length_columns
from penstock.jobs.documents import DocumentTable
from penstock.jobs.plan import Plan
from penstock.jobs.prerequisites import check_prerequisites, describe_hidden
from penstock.jobs.remaking import Remade, forget_cleaning
from penstock.jobs.stage_lines import describe_cut, describe_overlap, describe_rewrite
from penstock.pipeline.checking import largest_sources, sum_by_source
from penstock.pipeline.cleaning.fates import file_overlaps
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.columns import Column, forget_columns, make_columns
from penstock.pipeline.corpus import make_corpus
from penstock.pipeline.cut import STAGE, check_budget, make_cut
from penstock.pipeline.pool import Pool
from penstock.pipeline.rewriting.documents import rewrite_corpus
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.shards import make_shards
from penstock.pipeline.tokenizer import make_tokenizer
from penstock.pipeline.tokens import TokenStore
from penstock.recipe import ModelShape, Recipe
from penstock.selectors.betr import filter_rate
from penstock.storage import delete

__all__ = ["Curated", "PartiallyCurated", "Progress", "curate", "inspect"]

Progress = Callable[[str], None]

_NOTHING = Remade()

_SHOWN = 20
"""Most sources in a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """The artefacts of a recipe, from its corpus to its shards."""

    recipe: Recipe
    pool: Pool
    columns: dict[str, Artefact]
    tokenizer: Artefact
    cut: Artefact
    shards: Artefact
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def corpus(self) -> Artefact:
        """Every readable record, kept or not."""
        return self.pool.corpus

    def __repr__(self) -> str:
        return text_table("Curated", (f"  {name}: {value}" for name, value in self._rows()))

    def _repr_html_(self) -> str:
        sources = html_table(
            "sources",
            ("source", "of the pool", "of the cut", "documents"),
            (
                (row["source"], f"{row['pool']:.1%}", f"{row['cut']:.1%}", f"{row['documents']:,}")
                for row in self.source_shares()
            ),
        )
        return html_table("Curated", (), self._rows()) + sources

    def _rows(self) -> list[tuple[str, str]]:
        counts, cut = self.pool.documents, self.cut.facts
        return [
            ("documents", f"{counts['kept']:,} of {counts['read']:,} kept"),
            ("taken", f"{cut['documents']:,}"),
            ("tokens", f"{cut['delivered']:,} of {cut['requested']:,} delivered"),
            ("ranked by", ", ".join(self.recipe.budget.ranks)),
            ("shards", str(self.shards.path)),
            ("digest", self.shards.digest),
        ]

    def source_shares(self) -> list[dict[str, Any]]:
        """Return each source's share of the pool's bytes and of the cut's tokens, largest first.

        Up to 20 sources; one more row, the last, is of all others.
        """
        taken = sum_by_source(self.cut.files)
        none = {"tokens": 0, "documents": 0}
        both = {
            source: {"bytes": tally["bytes"], **taken.get(source, none)}
            for source, tally in self.pool.by_source.items()
        }
        largest = largest_sources(both, "tokens", _SHOWN)
        all_bytes, delivered = self.pool.bytes, max(1, self.cut.facts["delivered"])
        rows = [
            {
                "source": source,
                "pool": tally["bytes"] / all_bytes,
                "cut": tally["tokens"] / delivered,
                "documents": tally["documents"],
            }
            for source, tally in largest.items()
        ]
        return sorted(rows, key=lambda row: (row["source"] not in both, -row["cut"], row["source"]))

    def documents(self, text: bool = False) -> DocumentTable:
        """Return a table of the pool's documents: id, source, score in each column, taken.

        Nothing is read yet: its methods ``batches``, ``arrow``, ``pandas``, ``duckdb`` and ``ray``
        read it.

        Args:
            text: Whether the table has texts, too.

        Raises:
            InputError: A selector has the name of one of the table's own columns.
        """
        return DocumentTable(self.pool, self.columns, self.cut, text)

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock curate --json`` prints."""
        return {
            "cut": str(self.cut.path),
            "shards": str(self.shards.path),
            "documents": dict(self.pool.documents),
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
        """Return the share of the pool that BETR's law keeps, and the share that the budget keeps.

        None where no BETR ranks, or where the model's size is not in the recipe.
        """
        model = self.recipe.train.model
        uses = {self.recipe.select[name].use for name in self.columns}
        if "betr" not in uses or not isinstance(model, ModelShape):
            return None
        tokens = self.cut.facts["delivered"]
        flops = 6.0 * model.parameters * tokens
        return {
            "flops": flops,
            "law": filter_rate(flops),
            "budget": min(1.0, tokens * self.tokenizer.facts["bytes_per_token"] / self.pool.bytes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PartiallyCurated:
    """The artefacts of a recipe of which not all are made."""

    recipe: Recipe
    pool: Pool
    columns: dict[str, Artefact]
    """All columns of the recipe, or none."""
    lacks: UnmadeError | InputError
    """Names the first artefact that is missing, and the command that makes it; or says that no
    document is kept."""

    @property
    def corpus(self) -> Artefact:
        """Every readable record, kept or not."""
        return self.pool.corpus

    def documents(self, text: bool = False) -> DocumentTable:
        """Raise the error that names what is missing: which documents are taken is not known.

        Raises:
            UnmadeError: Not all artefacts are made; ``fix`` names the command that makes them.
            InputError: No document is kept.
        """
        raise self.lacks

    def __repr__(self) -> str:
        return f"PartiallyCurated: {', '.join(('corpus', *self.columns))}; {self.lacks}"


def curate(
    plan: Plan | Recipe,
    runner: Runner,
    progress: Progress = lambda line: None,
    free: Callable[[], None] = lambda: None,
    tokenizer: Artefact | None = None,
    rescore: Sequence[str] = (),
) -> Curated:
    """Find or make everything from the corpus to the shards.

    Args:
        plan: Plan of a recipe, or a recipe to plan.
        runner: Runs the tasks of the stages.
        progress: Called with a line for each event.
        free: Called before models are trained. It stops the workers of a runner that was started
            for this command; those of a runner of the caller's are left alone.
        tokenizer: A tokenizer that is used instead of the recipe's.
        rescore: Selectors, rules of users and rewriters whose results are deleted first, with all
            that was made of them; a name, or one with its section, as ``clean.rules.mine``.

    Raises:
        BadInput: Something the user gave cannot be used.
        Failure: The work did not succeed; what was finished is kept.
    """
    plan = _planned(plan)
    remade = Remade.of(plan, rescore)
    check_prerequisites(plan)
    for _, line in describe_hidden(plan.columns):
        progress(line)
    with Workspace.driving(plan.work) as workspace:
        return _curate(plan, workspace, runner, progress, {}, free, tokenizer, remade)


def inspect(
    plan: Plan | Recipe,
    runner: Runner,
    tokenizer: Artefact | None = None,
    used: set[str] | None = None,
) -> Curated | PartiallyCurated:
    """Return the finished artefacts of a recipe; write nothing, also while a driver works there.

    Args:
        plan: Plan of a recipe, or a recipe to plan.
        runner: Runs what is found by reading, such as hashes of inputs.
        tokenizer: As of :func:`curate`.
        used: Gets the names of the artefacts that are looked for, made or not
            (:attr:`Workspace.used`), also where an error is raised.

    Raises:
        BadInput: Something the user gave cannot be used.
        UnmadeError: Not even the documents are judged.
    """
    plan = _planned(plan)
    made: dict[str, Any] = {}
    workspace = Workspace(plan.work, read_only=True, used=used)
    try:
        return _curate(plan, workspace, runner, lambda line: None, made, tokenizer=tokenizer)
    except (UnmadeError, InputError) as error:
        is_empty = "pool" in made and not made["pool"].kept
        if not is_empty and ("pool" not in made or isinstance(error, InputError)):
            raise
        return PartiallyCurated(
            recipe=plan.recipe,
            pool=made["pool"],
            columns=made.get("columns", {}),
            lacks=error,
        )


def _planned(plan: Plan | Recipe) -> Plan:
    return plan if isinstance(plan, Plan) else Plan.of(plan)


def _curate(
    plan: Plan,
    workspace: Workspace,
    runner: Runner,
    progress: Progress,
    made: dict[str, Any],
    free: Callable[[], None] = lambda: None,
    tokenizer: Artefact | None = None,
    remade: Remade = _NOTHING,
) -> Curated:
    """Run the stages; ``made`` gets the pool and the columns as soon as they exist."""
    seconds: dict[str, float] = {}
    stage = partial(_stage, seconds, progress)

    for name in plan.unranked:
        progress(f"select.{name}: budget.rank does not name it, so it is not scored")
    forget_cleaning(remade, plan, workspace, progress, _delete_report)
    with stage("corpus"):
        corpus = make_corpus(plan.corpus, workspace, runner, progress)
    with stage("clean"):
        made["pool"] = pool = make_pool(plan.clean, corpus, workspace, runner, progress)
        pool.checked()
        kept = pool.documents
        progress(f"{kept['kept']:,} of {numbered(kept['read'], 'document')} kept")
        for overlap in file_overlaps(pool):
            progress(describe_overlap(overlap))
    added = [rewrite.name for rewrite in plan.rewrites if not rewrite.rewriter.replaces]
    # Before hours of rewriting: the sources are known from here on.
    check_budget(plan.cut, pool, added, quotas=False)
    for rewrite in plan.rewrites:
        with stage(f"rewrite {rewrite.name}"):
            corpus = rewrite_corpus(rewrite, pool, workspace, runner, progress)
            made["pool"] = pool = make_pool(plan.clean, corpus, workspace, runner, progress)
            pool.checked()
            counts = corpus.facts["rewrites"][rewrite.name]
            progress(describe_rewrite(rewrite.name, counts))
        if rewrite.name in plan.cut.budget.named_shares and not counts["accepted"]:
            raise InputError(
                key=f"rewrite.{rewrite.name}",
                expected=f"texts for budget.shares.{rewrite.name}",
                got="none: every answer was rejected",
                fix=f"look into {corpus.path}/rejected-*",
            )
    check_budget(plan.cut, pool, added, not workspace.read_only)  # before hours of scoring

    def shards_of(recipe: Recipe) -> Artefact:
        own = plan.derive(recipe)
        return _curate(own, workspace, runner, lambda line: None, {}, free).shards

    with stage("columns"):
        models = Models(
            pool=pool,
            workspace=workspace,
            runner=runner,
            seed=plan.recipe.seed,
            progress=progress,
        )
        wanted = _wanted(plan.columns, models, remade.columns)
        for column in wanted:
            needs = column.selector.requirements
            if needs.model_ladder or needs.cluster_weights:
                from penstock.jobs import selector_training  # imports PyTorch

                arguments = (plan.recipe, column, shards_of)
                if needs.model_ladder:
                    selector_training.climb(*arguments, workspace, progress, free)
                if needs.cluster_weights:
                    selector_training.find_weights(*arguments, models, free)
        made["columns"] = columns = _make_columns(plan, wanted, models)
    with stage("tokenizer"):
        tokenizer = tokenizer or make_tokenizer(plan.tokenizer, pool, workspace, runner)
    with stage("cut"):
        tokens = TokenStore(pool, tokenizer, workspace)
        own = _columns_of_cut(plan, columns)
        cut = make_cut(plan.cut, pool, own, tokens, tokenizer, workspace, runner)
        for line in describe_cut(cut, pool, plan.cut.budget):
            progress(line)
    with stage("shards"):
        carried = columns.get(plan.shards.carry or "")
        shards = make_shards(plan.shards, cut, tokens, tokenizer, workspace, runner, carried)
    return Curated(
        recipe=plan.recipe,
        pool=pool,
        columns=columns,
        tokenizer=tokenizer,
        cut=cut,
        shards=shards,
        seconds=seconds,
    )


@contextmanager
def _stage(seconds: dict[str, float], progress: Progress, name: str) -> Iterator[None]:
    """Announce a stage, and put its time into ``seconds`` if it succeeds."""
    start = time.perf_counter()
    progress(f"{name} ...")
    with step(name):
        yield
    seconds[name] = time.perf_counter() - start


def _wanted(columns: Sequence[Column], models: Models, rescore: Sequence[str]) -> list[Column]:
    """Copy columns, since models are loaded into selectors; delete those to make again."""
    copies = [replace(column, selector=copy.deepcopy(column.selector)) for column in columns]
    forget_columns(rescore, copies, models, _delete_report)
    return copies


def _make_columns(plan: Plan, wanted: Sequence[Column], models: Models) -> dict[str, Artefact]:
    """Find or make the columns, and warn of those that are no selection, unless only looking."""
    columns = make_columns(wanted, models)
    if not models.workspace.read_only:
        ranked = _columns_of_cut(plan, columns)  # one that is only carried takes no document
        for line in (*constant_columns(ranked), *length_columns(models.pool, ranked)):
            models.progress(line)
    return columns


def _delete_report(artefact: Artefact) -> None:
    """Delete the report and the comparison of a cut, whose directory has the cut's name."""
    if artefact.manifest["stage"] == STAGE:
        delete(artefact.path.parent.parent / "report" / artefact.path.name)


def _columns_of_cut(plan: Plan, columns: Mapping[str, Artefact]) -> dict[str, Artefact]:
    """Leave out a column that is only carried: it is no part of the cut's name."""
    ranks, carry = plan.cut.budget.ranks, plan.shards.carry
    return {name: own for name, own in columns.items() if name in ranks or name != carry}
