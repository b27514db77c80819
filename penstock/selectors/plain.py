"""Base class of a scorer of one's own; only ``score`` has to be written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from penstock.selectors.base import Documents, Fitting

__all__ = ["PlainScorer"]


class PlainScorer(ABC):
    """Scores documents by a method ``score``.

    Parameters are the keywords of ``__init__``. A class that learns from the pool has ``fit``,
    ``save`` and ``load``: the command's object loads what was saved, and workers get copies of it.
    """

    paths: ClassVar[tuple[str, ...]] = ()
    """Parameters that are paths relative to the recipe; their contents name the column."""

    version: int = 1
    """To be raised when scores change for a reason that the code does not show."""

    def __init_subclass__(cls) -> None:
        """Refuse a class that fits and does not keep what it fitted.

        Raises:
            TypeError: It defines ``fit``, but not both of ``save`` and ``load``.
        """
        lacks = [name for name in ("save", "load") if getattr(cls, name) is vars(PlainScorer)[name]]
        if cls.fit is not PlainScorer.fit and lacks:
            raise TypeError(
                f"{cls.__qualname__} has fit, but no {' and no '.join(lacks)}: workers load what "
                "was saved, since they do not fit"
            )

    @abstractmethod
    def score(self, documents: Documents) -> Sequence[float]:
        """Return one number for each document; NaN excludes it.

        Args:
            documents: Up to 1,024 (128 without ``slow``), with the columns ``id``, ``text`` and
                ``source``, string.
        """

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Learn from a sample of the pool, ``fitting.sample(n)``, and ``fitting.target``.

        Returns:
            Facts of the fit for the report, of plain data.
        """
        return {}

    def save(self, directory: Path) -> None:
        """Write what was learnt as data files into an existing directory."""

    def load(self, directory: Path) -> None:
        """Read what :meth:`save` wrote."""
