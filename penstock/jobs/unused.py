"""Find and delete the artefacts of work directories that none of some recipes reaches.

A recipe reaches the artefacts that its commands look for: those of ``curate`` and of every arm of
``compare``, also unfinished ones. With them stay the artefacts that they are made of, by the inputs
of manifests; what their verdicts are made of (statistics, languages, signatures, components,
overlaps), so that ``penstock why`` has the values; the tokens of their texts; runs, evaluations,
losses of documents and exports that are made of them; and runs that these continue from.
What cannot be read is kept. Links are never followed nor deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from penstock import extras
from penstock.artefact import Artefact, Entry, Workspace
from penstock.artefact.journal import JournalEntry, read_journal
from penstock.display import encodable, numbered
from penstock.errors import ArtefactError, BadInput, BudgetError, InputError, UnmadeError
from penstock.jobs.curate import Curated, PartiallyCurated, inspect
from penstock.jobs.dependencies import closure, texts_in
from penstock.jobs.plan import Plan, plan_arms
from penstock.lease import Lease
from penstock.pipeline.cleaning.verdicts import find_evidence
from penstock.pipeline.pool import Pool, pools_of
from penstock.pipeline.runner import Runner, open_runner
from penstock.recipe import Recipe
from penstock.recipe_file import command_words, load_recipe
from penstock.storage import AnyPath, delete, kind_of

__all__ = ["SettingsRun", "Unused", "UnusedArtefact", "find_unused", "remove_unused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedArtefact:
    """An artefact that no recipe reaches."""

    name: str
    """``stage/`` and the first 16 digits of the fingerprint."""
    path: AnyPath
    state: str
    """``finished`` or ``unfinished``."""
    bytes: int
    recipes: tuple[str, ...]
    """Files of the recipes that used it, by the journal, the last one first."""
    last_used: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsRun:
    """Runs of a recipe with the same ``--set``, by the journal, and what stays for them alone."""

    recipe: str
    settings: tuple[str, ...]
    artefacts: int
    bytes: int

    @property
    def command(self) -> str:
        """The recipe and its ``--set``, as a shell takes them."""
        return command_words(self.recipe, self.settings)


@dataclass(slots=True, kw_only=True)
class Unused:
    """What the work directories of some recipes hold."""

    unused: list[UnusedArtefact] = field(default_factory=list)
    kept: int = 0
    """Artefacts that are reached, or cannot be read."""
    kept_by_settings: list[SettingsRun] = field(default_factory=list)
    """Runs with ``--set`` of the recipes, which used artefacts that nothing else reaches."""
    notes: list[str] = field(default_factory=list)

    def summary(self, deleted: bool) -> dict[str, Any]:
        """Return the object that ``penstock rm --json`` prints."""
        return {
            "unused": [
                {
                    "artefact": one.name,
                    "path": str(one.path),
                    "state": one.state,
                    "bytes": one.bytes,
                    "recipes": list(one.recipes),
                    "last_used": one.last_used,
                }
                for one in self.unused
            ],
            "bytes": sum(one.bytes for one in self.unused),
            "kept": self.kept,
            "kept_by_settings": [asdict(one) for one in self.kept_by_settings],
            "notes": list(self.notes),
            "deleted": deleted,
        }


def find_unused(recipes: Sequence[Path], settings: Sequence[str] | None = None) -> Unused:
    """Find the artefacts that none of these recipes reaches; nothing is written.

    Args:
        recipes: Files of recipes, of one or several work directories.
        settings: ``key.path=value`` overrides: what each recipe reaches with all of them stays,
            too, and what its other runs with overrides used does not. By default all that the
            journal names of such runs stays.

    Raises:
        BadInput: A recipe, or an input that it names, cannot be read: what it reaches is not known.
    """
    return _unused(_plans(recipes, settings), settings is None)


def remove_unused(recipes: Sequence[Path], settings: Sequence[str] | None = None) -> Unused:
    """Delete the artefacts that none of these recipes reaches.

    The leases of the work directories are held meanwhile, so no driver begins to use an artefact.

    Args:
        recipes, settings: As of :func:`find_unused`.

    Raises:
        BadInput: As :func:`find_unused`.
        LeaseError: A driver is at work in one of the directories.
    """
    plans = _plans(recipes, settings)
    with ExitStack() as stack:
        for root in dict.fromkeys(own.plan.work for own in plans):
            if kind_of(root) == "directory":
                stack.enter_context(Workspace.driving(root)).hold()
        found = _unused(plans, settings is None, held=True)
        for one in found.unused:
            # The manifest first: a half-deleted artefact is invisible and is not resumed.
            delete(one.path / "manifest.json")
            delete(one.path / "records")
            delete(one.path)
    return found


class _RecipePlan(NamedTuple):
    file: Path
    plan: Plan
    settings: tuple[str, ...] = ()


def _plans(recipes: Sequence[Path], settings: Sequence[str] | None) -> list[_RecipePlan]:
    runs = [(), tuple(settings)] if settings else [()]
    return [
        _RecipePlan(path, Plan.of(load_recipe(path, own)), own) for path in recipes for own in runs
    ]


def _unused(recipes: Sequence[_RecipePlan], keeps_settings: bool, held: bool = False) -> Unused:
    found = Unused()
    by_root: dict[str, list[_RecipePlan]] = {}
    for recipe in recipes:
        by_root.setdefault(str(recipe.plan.work), []).append(recipe)
    for own in by_root.values():
        root = own[0].plan.work
        if kind_of(root) != "directory":
            found.notes.append(f"{root}: no such directory, so that nothing is unused there")
            continue
        if not held and (driver := Lease(root).driver()):
            found.notes.append(
                f"{root}: {driver} is at work; nothing is deleted before it has ended"
            )
        _add(found, root, own, keeps_settings)
    return found


def _add(
    found: Unused, root: AnyPath, recipes: Sequence[_RecipePlan], keeps_settings: bool
) -> None:
    """Add the unused artefacts of one work directory."""
    used: set[str] = set()
    texts: set[str] = set()
    with closing(open_runner("local", 1)) as runner:
        for recipe in recipes:
            found.notes += _reach(recipe, runner, used, texts)
    entries = {f"{entry.stage}/{entry.path.name}": entry for entry in Workspace(root).entries()}
    artefacts: dict[str, Artefact] = {}
    for name, entry in entries.items():
        if entry.finished:
            try:
                artefacts[name] = Artefact.open(entry.path)
            except ArtefactError as error:
                used.add(name)
                found.notes.append(f"kept, since it cannot be read: {error}")
    used |= closure(used, texts, artefacts)
    uses: dict[str, list[JournalEntry]] = {}
    runs: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    files = {encodable(os.path.abspath(recipe.file)) for recipe in recipes}
    for use in read_journal(root):
        uses.setdefault(use.artefact, []).append(use)
        if use.settings and use.recipe in files:
            runs.setdefault((use.recipe, use.settings), set()).add(use.artefact)
    if keeps_settings:
        used |= _keep_runs(found, runs, used, entries, artefacts)
    for name, entry in entries.items():
        if name in used:
            found.kept += 1
        elif _is_link(root, entry):
            found.kept += 1
            found.notes.append(f"{entry.path}: unused, and a link or below one; delete it yourself")
        else:
            own = uses.get(name, [])
            found.unused.append(
                UnusedArtefact(
                    name=name,
                    path=entry.path,
                    state="finished" if entry.finished else "unfinished",
                    bytes=sum(entry.sizes.values()),
                    recipes=tuple(dict.fromkeys(use.recipe for use in own)),
                    last_used=own[0].last if own else None,
                )
            )


def _keep_runs(
    found: Unused,
    runs: Mapping[tuple[str, tuple[str, ...]], set[str]],
    used: set[str],
    entries: Mapping[str, Entry],
    artefacts: Mapping[str, Artefact],
) -> set[str]:
    """Return the artefacts that runs with ``--set`` used, and what these are made of.

    Args:
        found: Gets the runs for which artefacts stay that nothing else reaches.
        runs: The names that each run used, by recipe and overrides.
        used: The names that stay without them.
        entries, artefacts: All of the work directory.
    """
    kept: set[str] = set()
    for (recipe, settings), names in sorted(runs.items()):
        own = ((names & entries.keys()) | closure(names, set(), artefacts)) - used
        kept |= own
        if own:
            size = sum(sum(entries[name].sizes.values()) for name in own)
            run = SettingsRun(recipe=recipe, settings=settings, artefacts=len(own), bytes=size)
            found.kept_by_settings.append(run)
            found.notes.append(
                f"kept, since a run with --set used it: {numbered(len(own), 'artefact')} of "
                f"{size:,} bytes, of {run.command}"
            )
    return kept


def _reach(recipe: _RecipePlan, runner: Runner, used: set[str], texts: set[str]) -> Iterator[str]:
    """Add the names of the artefacts that the commands of a recipe look for.

    Args:
        recipe: The recipe's plan, and its file.
        runner: Runs what is read.
        used: Gets the names.
        texts: Gets the names of the texts of its corpora, by which tokens are kept.

    Yields:
        A note where not all that the recipe made can be told.

    Raises:
        InputError: Nothing of the recipe is made from its inputs as they are.
    """
    file, plan, settings = recipe
    words = command_words(file, settings)
    try:
        first = inspect(plan, runner, used=used)
    except UnmadeError as error:
        if settings:
            yield f"nothing is known to be made of {words}: {error.on_recipe(words)}"
            return
        raise InputError(
            f"nothing is known to be made of this recipe ({error.on_recipe(words)}), so that "
            "everything would be unused",
            file=file,
            fix=f"run `penstock curate {words}` first, or leave this recipe out",
        ) from None
    _add_evidence(plan, first.pool, used)
    used.update(_named_in(plan.recipe))
    texts.add(first.corpus.facts["text"])
    if isinstance(first, PartiallyCurated):
        lacks = first.lacks.on_recipe(words)
        yield f"{words}: not all is made: {lacks}; what was made beyond that counts as unused"
        return
    plans = [(plan, first)]
    for arm, own in plan_arms(plan.recipe).items():
        planned = own.as_arm(arm.multiple, first.recipe, first.cut.facts["requested"])
        same = planned.recipe.tokenizer == first.recipe.tokenizer
        with contextlib.suppress(UnmadeError, BudgetError):  # it was never compared
            made = inspect(planned, runner, first.tokenizer if same else None, used)
            _add_evidence(planned, made.pool, used)
            texts.add(made.corpus.facts["text"])
            if isinstance(made, Curated):
                plans.append((planned, made))
    yield from _add_runs(words, plans, runner, used)


def _add_runs(
    words: str, plans: Sequence[tuple[Plan, Curated]], runner: Runner, used: set[str]
) -> Iterator[str]:
    """Add the names of the runs of plans, and of those that they continue from.

    Finished runs are found by their shards, too; one that is unfinished has no manifest.

    Yields:
        A note where a run cannot be named; unfinished runs are then kept.
    """
    try:
        with extras.named("train", "train"):
            from penstock.jobs.parent_run import with_parent
            from penstock.jobs.train import run_spec
            from penstock.trainers.run import resolved

            for plan, curated in plans:
                workspace = Workspace(plan.work, read_only=True, used=used)
                train = with_parent(plan, runner).train
                for spec in resolved([run_spec(train, curated.shards.path, ())], workspace):
                    workspace.directory("run", spec.fingerprint)
    except (BadInput, UnmadeError) as error:
        workspace = Workspace(plans[0][0].work)
        unfinished = [
            f"run/{entry.path.name}"
            for entry in workspace.entries()
            if entry.stage == "run" and not entry.finished
        ]
        used.update(unfinished)
        if unfinished:
            yield f"{words}: unfinished runs are kept, since its own cannot be named: {error}"


def _named_in(recipe: Recipe) -> Iterator[str]:
    """Yield the names of artefacts in the texts of a recipe, as ``run: work/run/0123…``."""
    for text in texts_in(recipe.model_dump(mode="json")):
        yield from _ARTEFACT.findall(text)


_ARTEFACT = re.compile(r"(?:(?<=/)|^)([a-z_]+/[0-9a-f]{16})(?=[/@]|$)")


def _add_evidence(plan: Plan, pool: Pool, used: set[str]) -> None:
    """Add the names of what the verdicts about a pool and those before it are made of."""
    workspace = Workspace(plan.work, read_only=True, used=used)
    for own in pools_of(pool):
        find_evidence(plan.clean, own.corpus, workspace)


def _is_link(root: AnyPath, entry: Entry) -> bool:
    """Return whether the directory of an artefact or of its stage is a link."""
    if not isinstance(entry.path, Path) or not isinstance(root, Path):
        return False
    return entry.path.is_symlink() or (root / entry.stage).is_symlink()
