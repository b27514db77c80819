"""The checkpoint of another run that a run continues from: ``train.continue_from``.

Such a run, a *branch*, begins with weights, moments and data position of its *parent*. It is named
by the parent's name and the step, not by bytes of the checkpoint, so a name can be computed while
the parent trains, and after the parent's checkpoint was deleted. A parent may be unfinished or
diverged: its checkpoints are all that is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.artefact import Workspace
from penstock.errors import RecipeError, StorageError
from penstock.recipe_training import REFERENCE
from penstock.storage import as_path, children_of, kind_of, store_of
from penstock.trainers.checkpoints.folder import Folder

__all__ = ["BranchPoint", "find_branch_point"]

KEY = "train.continue_from"

_DIGITS = 16
"""Digits of a run's name in the name of its directory."""

_NAME = re.compile(r"(?:run/)?([0-9a-f]{4,64})")

_SHOWN = 12
"""Checkpoints that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPoint:
    """A checkpoint of a run, by the run's name and the step."""

    run: str
    """The first 16 digits of the parent's fingerprint."""
    step: int
    """Steps that the parent had taken."""
    directory: Path
    """The parent's directory, which all workers see; it need not exist for the name."""

    @property
    def path(self) -> Path:
        """The checkpoint's directory."""
        return self.directory / "checkpoints" / f"step-{self.step:08d}"

    def check(self) -> None:
        """Check that the checkpoint exists; its bytes are compared when it is read.

        Raises:
            RecipeError: It does not; the error names those that exist.
        """
        there = _steps(self.directory)
        if self.step not in there:
            raise _missing(self.directory, str(self.step), there)


def find_branch_point(reference: str, workspace: Workspace) -> BranchPoint:
    """Find the run of a reference, and resolve ``last``.

    Args:
        reference: ``RUN@STEP``. RUN is a fingerprint, or at least four digits of its beginning;
            the same after ``run/``; or a run's directory.
        workspace: Where runs are looked for by name.

    Raises:
        RecipeError: There is no such run, several begin with these digits, or there is no
            checkpoint for ``last``.
    """
    found = REFERENCE.fullmatch(reference)
    assert found is not None, "checked by the recipe"
    run, directory = _directory(found["run"], workspace)
    if found["step"] != "last":
        return BranchPoint(run=run, step=int(found["step"]), directory=directory)
    there = _steps(directory)
    if not there:
        raise _missing(directory, "last", there)
    return BranchPoint(run=run, step=there[-1], directory=directory)


def _directory(run: str, workspace: Workspace) -> tuple[str, Path]:
    """Return the name of a run and its directory on this machine."""
    root = workspace.root / "run"
    named = _NAME.fullmatch(run)
    if named is None:
        path = as_path(run)
        if re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", path.name) is None:
            raise RecipeError(
                "not the directory of a run",
                key=KEY,
                expected="one below `run` of a work directory, named by 16 digits",
                got=run,
            )
    else:
        path = root / named[1][:_DIGITS]
        if len(named[1]) < _DIGITS:
            names = [one.name for one in children_of(root)] if kind_of(root) else []
            path = root / _completed(named[1], names, run)
    workspace.directory("run", path.name)  # so that `rm --unused` knows that it is used
    local = store_of(path).local(path)
    if local is None:
        raise RecipeError(
            "checkpoints of a run in a remote work directory cannot be continued from",
            key=KEY,
            file=path,
            fix="copy the run's directory below `run` of a local work directory",
        )
    return path.name, local


def _completed(digits: str, names: Sequence[str], run: str) -> str:
    matching = sorted(name for name in names if name.startswith(digits) and len(name) == _DIGITS)
    if len(matching) != 1:
        raise RecipeError(
            "several runs begin with these digits" if matching else "there is no such run",
            key=KEY,
            expected=f"one of {', '.join(matching)}"
            if matching
            else "the name of a run, as `penstock ls` lists it",
            got=run,
        )
    return matching[0]


def _steps(directory: Path) -> list[int]:
    """Return the steps of a run's checkpoints, ascending; their bytes are not read."""
    try:
        return sorted(found.step for found in Folder(directory / "checkpoints").committed())
    except StorageError:
        return []


def _missing(directory: Path, step: str, there: Sequence[int]) -> RecipeError:
    shown = [str(one) for one in there[-_SHOWN:]]
    more = "" if len(there) <= _SHOWN else f", and {len(there) - _SHOWN} before them"
    return RecipeError(
        "the run has no such checkpoint" if directory.is_dir() else "there is no such run",
        key=KEY,
        file=directory,
        expected=f"one of the checkpoints of steps {', '.join(shown)}{more}"
        if there
        else "a run with checkpoints",
        got=step,
        fix="train.checkpoint.at of that run pins checkpoints, which `keep` does not remove",
    )
