"""Adapter of plug-ins: the one module that reads the attributes of a user's object.

The engine holds objects that have a whole protocol (:mod:`penstock.selectors.base`,
:mod:`penstock.selectors.rewriting.base`, :mod:`penstock.selectors.reweighting.base`). A plug-in is
a class that may have less of it:

- a scorer has ``score(documents)``, a set selector ``assign(vectors, hashes)``, ``partitions`` and
  ``score(partition)``; ``fit``, ``save``, ``load``, ``identity``, ``version``, ``summary`` and
  ``paper`` are optional;
- a rewriter has ``edit(texts)``, or ``requests`` and ``assemble``; ``identity``, ``version`` and
  ``replaces`` are optional;
- ``requirements`` is optional. Without it the attributes of Penstock 0.1 are read:
  ``wants_target``, ``quality``, ``needs``, ``encoder``, ``embeds`` with ``score_vectors``,
  ``classifier`` with ``finish``, ``candidates`` with ``merge``; of a reweighter ``features`` with
  ``describe``; and ``place`` for ``assign``;
- the class attribute ``paths`` names the parameters that are paths relative to the recipe.

An adapted selector's identity holds the class's name, its code (:mod:`penstock.plugin_code`), and
the result of the plug-in's ``identity``. A plug-in without ``identity`` is identified by its
parameters, of which ``paths`` count by the contents of the files.
"""

from __future__ import annotations

import inspect
from bdb import BdbQuit
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import PenstockError, ScoringError, SelectorError
from penstock.plugin_code import PluginCode, code_of
from penstock.plugin_frames import describe_error, fix_of_error
from penstock.resources import Resources
from penstock.selectors.base import (
    ClassifierScores,
    Documents,
    EmbeddingScores,
    Fitting,
    Merge,
    Partition,
    Requirements,
    Selector,
)
from penstock.selectors.functions import PluggedFunction
from penstock.selectors.parameters import Algorithm, Declared, located_fields
from penstock.selectors.reweighting.base import (
    BatchRequirements,
    Reweighter,
)
from penstock.selectors.rewriting.base import Editor, Rewriter
from penstock.storage import sha256_file

__all__ = [
    "Available",
    "as_editor",
    "as_reweighter",
    "as_rewriter",
    "as_selector",
    "class_of",
    "code_behind",
    "described",
    "is_users",
    "paths_of",
]

_COMPLETED = ("identity", "version", "replaces")
"""Members of a rewriter that have a default."""
_REWRITER = ("requests", "assemble")
_EDITOR = ("edit",)
_REWEIGHTER = ("identity", "version", "is_uniform", "weights", "facts", "state", "restore")


def as_selector(plug: Any, parameters: Mapping[str, Any] | None = None) -> Selector:
    """Return an object with a whole selector protocol: the plug-in itself, or an adapter of it.

    Args:
        plug: The plug-in.
        parameters: Keywords that it was made with; paths are located.

    Raises:
        SelectorError: It has no ``score``, or ``fit`` without ``save`` and ``load``; key ``use``.
    """
    if not _is_built_in(plug) and not callable(getattr(plug, "score", None)):
        raise SelectorError(
            key="use",
            expected="a Scorer or a SetSelector (see penstock.selectors.base) or a function",
            got=f"the class {type(plug).__qualname__}",
            fix="give it a method score(documents)",
        )
    lacks = [name for name in ("save", "load") if not callable(getattr(plug, name, None))]
    if lacks and callable(getattr(plug, "fit", None)):
        raise SelectorError(
            f"the class {type(plug).__qualname__} has fit, but no {' and no '.join(lacks)}",
            key="use",
            fix=f"define {' and '.join(lacks)}: workers load what was saved, since they do not fit",
        )
    own: Any = plug if _is_built_in(plug) else _AdaptedSelector(plug, parameters)
    return own


def as_rewriter(plug: Any, parameters: Mapping[str, Any] | None = None) -> Rewriter:
    """Return a whole rewriter: the plug-in itself, or an adapter that adds what it lacks.

    Args:
        plug: The plug-in.
        parameters: Keywords that it was made with; paths are located.

    Raises:
        SelectorError: It has no ``requests`` or no ``assemble``; key ``use``.
    """
    _check(plug, _REWRITER, "a Rewriter (see penstock.selectors.rewriting.base)")
    own: Any = _completed(plug, parameters)
    return own


def is_editor(plug: Any) -> bool:
    """Return whether a plug-in is a rewriter that needs no model."""
    return hasattr(plug, "edit")


def as_editor(plug: Any, parameters: Mapping[str, Any] | None = None) -> Editor:
    """Return a whole rewriter that needs no model, as :func:`as_rewriter`.

    Raises:
        SelectorError: It has no ``edit``, or adds texts; key ``use``.
    """
    _check(plug, _EDITOR, "an Editor (see penstock.selectors.rewriting.base)")
    own: Any = _completed(plug, parameters)
    if own.replaces is not True:
        raise SelectorError(key="use", expected="a rewriter with `replaces = True`", got="another")
    return own


def _completed(plug: Any, parameters: Mapping[str, Any] | None) -> Any:
    whole = all(hasattr(plug, name) for name in _COMPLETED)
    return plug if whole else _AdaptedRewriter(plug, parameters)


def as_reweighter(plug: Any) -> Reweighter:
    """Return a whole reweighter: the plug-in itself, or an adapter that adds requirements.

    Raises:
        SelectorError: It lacks a part of the protocol; key ``use``.
    """
    _check(plug, _REWEIGHTER, "a Reweighter (see penstock.selectors.reweighting.base)")
    own: Any = plug if hasattr(plug, "requirements") else _AdaptedReweighter(plug)
    return own


def class_of(plug: Any) -> type:
    """Return the class of a plug-in, also of one behind an adapter: its file holds the code."""
    adapted = isinstance(plug, (_AdaptedSelector, _AdaptedReweighter, _AdaptedRewriter))
    return type(plug.plug if adapted else plug)


def code_behind(plug: Any) -> PluginCode:
    """Return the code of a selector: of the class or the function behind it."""
    if isinstance(plug, PluggedFunction):
        return plug.code
    return code_of(class_of(plug))


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """A selector, rewriter or reweighter that a recipe may name."""

    name: str
    summary: str
    kind: str = "selector"
    """``selector`` for ``select``, ``rewriter`` for ``rewrite``,
    ``reweighter`` for ``train.reweight``."""
    paper: str = ""
    doc: str = ""
    """Description of the algorithm and of each parameter."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Keywords and their defaults; ``inspect.Parameter.empty`` where there is none."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Annotations of the keywords of a user's class or function, where it has some."""
    paths: tuple[str, ...] = ()
    """Keywords of a user's class that are paths relative to the recipe."""


def described(name: str, thing: Any) -> Available:
    """Describe a plug-in's class or function from its attributes, signature and docstring.

    A class is recognised by its methods; a function whose first argument is called ``losses`` is a
    reweighter.
    """
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    doc = inspect.cleandoc(own or "")  # not that of a base class
    given = {
        key: one
        for key, one in inspect.signature(thing).parameters.items()
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }
    parameters = {key: one.default for key, one in given.items()}
    types = {
        key: one.annotation
        if isinstance(one.annotation, str)
        else inspect.formatannotation(one.annotation)
        for key, one in given.items()
        if one.annotation is not one.empty
    }
    summary, paper = doc.partition("\n")[0], ""
    if isinstance(thing, type):
        summary, paper = getattr(thing, "summary", summary), getattr(thing, "paper", "")
        kind = "reweighter" if hasattr(thing, "is_uniform") else "selector"
        kind = "rewriter" if hasattr(thing, "assemble") or is_editor(thing) else kind
    else:
        first = next(iter(parameters), "")
        parameters.pop(first, None)
        kind = "reweighter" if first == "losses" else "selector"
    return Available(
        name=name,
        summary=summary,
        kind=kind,
        paper=paper,
        doc=doc,
        parameters=parameters,
        types={key: own for key, own in types.items() if key in parameters},
        paths=paths_of(thing) if isinstance(thing, type) else (),
    )


def paths_of(thing: Any) -> tuple[str, ...]:
    """Return the parameters of a class that are paths: declared so, or named in ``paths``."""
    if issubclass(thing, Declared):
        return tuple(located_fields(thing))
    own = getattr(thing, "paths", ())
    return (own,) if isinstance(own, str) else tuple(own)


def _is_built_in(plug: Any) -> bool:
    """Check for an algorithm of Penstock's own; a user's subclass of one is adapted."""
    own = type(plug).__module__.startswith("penstock.")
    return own and isinstance(plug, (Algorithm, PluggedFunction))


def is_users(plug: Any) -> bool:
    """Return whether a selector is a user's class or function."""
    return isinstance(plug, PluggedFunction) or not _is_built_in(plug)


def _version(plug: Any) -> Any:
    """Return the plug-in's version as it is, 1 by default; it goes into identities."""
    own = getattr(plug, "version", 1)
    return own if isinstance(own, (int, float, str)) else str(own)


def _contents(value: Any) -> Any:
    """Return the sha256 of a file, or of each file of a directory; any other value as it is."""
    if not isinstance(value, str):
        return value
    if Path(value).is_file():
        return sha256_file(Path(value))
    from penstock.selectors.encoders.embedding import contents_of  # when needed

    return contents_of(value)


def _hashed(parameters: Mapping[str, Any], thing: type) -> dict[str, Any]:
    """Return the parameters, with hashes of contents for files and directories."""
    hashed = dict(parameters)
    for key in hashed.keys() & {*paths_of(thing)}:
        value: Any = hashed[key]
        several = isinstance(value, (list, tuple))
        hashed[key] = [_contents(one) for one in value] if several else _contents(value)
    return hashed


class _AdaptedSelector:
    """Completes a plug-in; members that it lacks have a default."""

    def __init__(self, plug: Any, parameters: Mapping[str, Any] | None = None) -> None:
        self.plug = plug
        self.parameters = dict(parameters or {})
        self.kind = "set" if _assign(plug) else "scorer"
        self._code = code_of(type(plug))  # behind the plug: it is unpickled, and checked, later

    @property
    def version(self) -> Any:
        """Version of the plug-in, 1 by default."""
        return _version(self.plug)

    def identity(self) -> Mapping[str, Any]:
        """Return the class, its code, and the plug-in's identity or else its parameters."""
        own = getattr(self.plug, "identity", None)
        parameters = dict(own() or {}) if own else _hashed(self.parameters, type(self.plug))
        code = self._code.identity()
        return {"class": type(self.plug).__qualname__, "code": code, "parameters": parameters}

    @property
    def requirements(self) -> Requirements:
        """Requirements of the plug-in, or those of its single attributes."""
        plug = self.plug
        own = getattr(plug, "requirements", None)
        if own is not None:
            return own
        embeds = getattr(plug, "embeds", None)
        scores_vectors = isinstance(embeds, str) and callable(getattr(plug, "score_vectors", None))
        classifier = getattr(plug, "classifier", None) if hasattr(plug, "finish") else None
        merges = all(hasattr(plug, name) for name in ("candidates", "merge"))
        return Requirements(
            target=bool(getattr(plug, "wants_target", False)),
            quality=getattr(plug, "quality", None),
            resources=getattr(plug, "needs", None) or Resources(),
            encoder=getattr(plug, "encoder", "static"),
            embeddings=EmbeddingScores(encoder=str(embeds), score=plug.score_vectors)
            if scores_vectors
            else None,
            classifier=classifier and ClassifierScores(classifier=classifier, finish=plug.finish),
            merge=Merge(candidates=plug.candidates, merge=plug.merge) if merges else None,
        )

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        return self._called("fit", fitting) or {}

    def save(self, directory: Path) -> None:
        self._called("save", directory)

    def load(self, directory: Path) -> None:
        self._called("load", directory)

    def score(self, batch: Documents | Partition) -> np.ndarray:
        """Return the plug-in's scores, checked by the engine."""
        return self._called("score", batch)

    def _called(self, method: str, given: Any) -> Any:
        """Call a method of the plug-in, or nothing where it has none.

        Raises:
            ScoringError: It raised; the message names the class, and the lines of its file.
        """
        try:
            return getattr(self.plug, method, _nothing)(given)
        except PenstockError:
            raise
        except BdbQuit:  # ``q`` in the debugger
            raise KeyboardInterrupt from None
        except (Exception, SystemExit) as error:  # it is a user's code
            name = f"{type(self.plug).__module__}:{type(self.plug).__qualname__}"
            raise ScoringError(
                f"{name} raised {describe_error(error)}", fix=fix_of_error(error)
            ) from error

    @property
    def partitions(self) -> int:
        return int(self.plug.partitions)

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Return the plug-in's partition of each document, checked by the engine."""
        return _assign(self.plug)(vectors, hashes)


def _nothing(given: Any) -> None:
    """Do nothing: the default of ``fit``, ``save`` and ``load``."""


class _AdaptedReweighter:
    """Completes a reweighter of Penstock 0.1, which has no requirements; all else is its own."""

    def __init__(self, plug: Any) -> None:
        self.plug = plug

    def __getattr__(self, name: str) -> Any:
        if name == "plug":  # not yet there, while it is unpickled
            raise AttributeError(name)
        return getattr(self.plug, name)

    @property
    def version(self) -> Any:
        return _version(self.plug)

    @property
    def requirements(self) -> BatchRequirements:
        """Features of logits, where the plug-in has ``describe``."""
        describe = getattr(self.plug, "describe", None)
        return BatchRequirements(describe=describe if callable(describe) else None)


class _AdaptedRewriter:
    """Completes a rewriter that lacks a version, an identity or ``replaces``."""

    def __init__(self, plug: Any, parameters: Mapping[str, Any] | None = None) -> None:
        self.plug = plug
        self.parameters = dict(parameters or {})

    def __getattr__(self, name: str) -> Any:
        if name == "plug":  # not yet there, while it is unpickled
            raise AttributeError(name)
        return getattr(self.plug, name)

    @property
    def version(self) -> Any:
        return _version(self.plug)

    @property
    def replaces(self) -> bool:
        """True without a model; with one, texts are added to their parents."""
        return bool(getattr(self.plug, "replaces", is_editor(self.plug)))

    def identity(self) -> Mapping[str, Any]:
        """Return the plug-in's identity or else its parameters."""
        own = getattr(self.plug, "identity", None)
        return dict(own() or {}) if own else _hashed(self.parameters, type(self.plug))


def _assign(plug: Any) -> Any:
    """Return the method that assigns documents to partitions, by its present or former name."""
    return getattr(plug, "assign", None) or getattr(plug, "place", None)


def _check(plug: Any, members: tuple[str, ...], expected: str) -> None:
    lacks = [name for name in members if not hasattr(plug, name)]
    if lacks:
        raise SelectorError(
            key="use",
            expected=expected,
            got=f"the class {type(plug).__qualname__} without {', '.join(lacks)}",
        )
