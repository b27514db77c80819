"""A planned reweighter: sent from a driver to its workers, which build it.

A reweighter has state, so each run needs its own. A class beside the recipe is not on a
worker's path, so the worker imports it itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.errors import ScoringError
from penstock.plugin_code import code_of
from penstock.recipe import ReweightSpec
from penstock.selectors.adapter import class_of
from penstock.selectors.registry import build_reweighter
from penstock.selectors.reweighting.base import Reweighter

__all__ = ["PlannedReweighter"]


class PlannedReweighter:
    """Builds the reweighter of ``train.reweight``, the same one wherever it is called.

    Args:
        spec: The recipe's entry.
        directories: Directories that are searched first for ``package.module:name``.

    Raises:
        SelectorError: There is no such reweighter or parameter; begins with ``train.reweight``.
    """

    def __init__(self, spec: ReweightSpec, directories: Sequence[Path] = ()) -> None:
        self.spec = spec
        self.directories = [Path(directory).absolute() for directory in directories]
        made = build_reweighter(spec, self.directories)
        self.identity: Mapping[str, Any] = _identity(spec, made)
        self.needs_carried = made.requirements.carried
        """True if the shards must carry a score of each document."""

    @property
    def code_identity(self) -> Mapping[str, Any]:
        """The identity of a user's code, under ``code``: of a class, or of a function."""
        function: Mapping[str, Any] = self.identity["parameters"]
        return {"code": self.identity["code"] or function.get("code")}

    def __call__(self) -> Reweighter:
        """Build a new one.

        Raises:
            ScoringError: The code here is not that of the driver.
        """
        # On another machine the recipe's directory is the job's working directory.
        made = build_reweighter(self.spec, [*self.directories, Path.cwd()])
        if _identity(self.spec, made) != self.identity:
            raise ScoringError(
                f"{self.spec.use}: this worker's code differs from the driver's",
                key="train.reweight.use",
                fix="give all machines the same code and run again",
            )
        return made


def _identity(spec: ReweightSpec, made: Reweighter) -> Mapping[str, Any]:
    """Return what a run's weights depend on: part of its fingerprint, so without paths."""
    kind = class_of(made)
    return {
        "kind": kind.__qualname__,
        "version": made.version,
        "parameters": dict(made.identity()),
        "sample": spec.sample,
        "code": code.identity() if (code := code_of(kind)).roots else {},
    }
