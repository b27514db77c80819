"""Names of recipes to selectors, rewriters and reweighters.

A built-in one is a class with a ``name`` in a file of :mod:`penstock.selectors`,
:mod:`penstock.selectors.rewriting` or :mod:`penstock.selectors.reweighting`: the folder gives its
kind, and a new file is found without an entry anywhere. The module named as the selector
(``document-loss`` in ``document_loss.py``) is tried first, so that building one imports no other.
Modules import heavy packages (torch, faiss) when they need them.

A package registers a plug-in under the entry-point group ``penstock.selectors``: a class or a
function, as in :mod:`penstock.selectors.adapter` and :mod:`penstock.selectors.functions`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.errors import BadInput, PenstockError, SelectorError, did_you_mean
from penstock.plugin_code import code_of, describe_code
from penstock.plugin_frames import describe_error
from penstock.recipe import ReweightSpec, RewriteSpec, SelectorSpec
from penstock.selectors.adapter import (
    Available,
    as_editor,
    as_reweighter,
    as_rewriter,
    as_selector,
    described,
    is_editor,
    paths_of,
)
from penstock.selectors.base import Selector
from penstock.selectors.functions import FunctionReweighter, FunctionScorer, load_object
from penstock.selectors.parameters import Algorithm, Declared
from penstock.selectors.reweighting.base import Reweighter
from penstock.selectors.rewriting.base import Completions, Editor, Rewriter
from penstock.selectors.rewriting.batched import VllmModel
from penstock.selectors.rewriting.completions import Endpoint
from penstock.selectors.rewriting.local import LocalModel

__all__ = [
    "GROUP",
    "Available",
    "available",
    "build",
    "build_reweighter",
    "build_rewriter",
    "built_in",
    "own_plug_in",
]

GROUP = "penstock.selectors"
"""The entry-point group."""


_PACKAGES = {
    "selector": "penstock.selectors",
    "rewriter": "penstock.selectors.rewriting",
    "reweighter": "penstock.selectors.reweighting",
}
"""The folder of the built-in ones, by kind."""

_KEYS = {"selector": "select", "rewriter": "rewrite", "reweighter": "train.reweight"}
"""The recipe's key, by kind."""

_COMPLETIONS: Mapping[str, type[Endpoint | LocalModel | VllmModel]] = {
    "url": Endpoint,
    "local": LocalModel,
    "vllm": VllmModel,
}
"""Sources of completions, by the key that selects one in a recipe."""


def built_in(kind: str) -> dict[str, type[Algorithm]]:
    """Return the built-in algorithms of a kind by name; import every module of its folder."""
    package = importlib.import_module(_PACKAGES[kind])
    found: dict[str, type[Algorithm]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            found.update(_algorithms(f"{package.__name__}.{module.name}"))
    return dict(sorted(found.items()))


def available() -> list[Available]:
    """List all selectors, rewriters and reweighters, built-in ones first.

    The summary of one that cannot be imported gives the reason.
    """
    found = [
        Available(
            name=name,
            summary=one.summary,
            kind=kind,
            paper=one.paper,
            doc=_documentation(one),
            parameters={
                key: inspect.Parameter.empty if own.is_required() else own.default
                for key, own in one.model_fields.items()
            },
        )
        for kind in _PACKAGES
        for name, one in built_in(kind).items()
    ]
    own = {one.name for one in found}
    return found + [
        _plug_in(name, point) for name, point in _registered().items() if name not in own
    ]


def own_plug_in(use: str, directories: Sequence[Path]) -> Available:
    """Describe the class or function that ``package.module:name`` names.

    Args:
        use: What it names.
        directories: Searched first for the module.

    Raises:
        SelectorError: It cannot be imported, or is neither a class nor a function; key ``use``.
    """
    thing = load_object(use, directories)
    if not callable(thing):
        got = f"{use}, a {type(thing).__name__}"
        raise SelectorError(key="use", expected="a class or a function", got=got)
    found = described(use, thing)
    code = describe_code(code_of(thing, use.partition(":")[0]).identity())
    lacks = sorted(getattr(thing, "__abstractmethods__", ()))
    doc = f"{found.doc}\n\nCode: {code}"
    if lacks:
        doc += f"\nIt cannot be used yet: the class has no {', '.join(lacks)}."
    return replace(found, doc=doc.lstrip("\n"))


def build(name: str, spec: SelectorSpec, directories: Sequence[Path] = ()) -> Selector:
    """Build the selector of ``select.<name>``, with its parameters checked.

    Args:
        name: The key under ``select``, for messages.
        spec: The recipe's entry.
        directories: Searched first for ``package.module:function`` and relative paths.

    Raises:
        SelectorError: There is no such selector or parameter, or a value is wrong; the key begins
            with ``select.<name>``.
    """
    try:
        use, thing = _named(spec.use, "selector", directories)
        if not isinstance(thing, type):
            _check_keywords(spec.parameters, thing, skip=1)
            return FunctionScorer(use, directories, spec.parameters)
        selector = _instance(thing, spec.parameters, directories)
        return as_selector(selector, _with_located(spec.parameters, thing, directories))
    except BadInput as error:
        raise error.under(f"select.{name}") from error.__cause__


def build_rewriter(
    name: str, spec: RewriteSpec, directories: Sequence[Path] = ()
) -> tuple[Rewriter, Completions] | tuple[Editor, None]:
    """Build the rewriter of ``rewrite.<name>``, and the source of its completions.

    Raises:
        SelectorError: As :func:`build`; the key begins with ``rewrite.<name>``. Or a rewriter that
            needs a model has none, or one that needs none has one; the key is ``by``.
    """
    try:
        use, thing = _named(spec.use, "rewriter", directories)
        if not isinstance(thing, type):
            raise SelectorError(key="use", expected="a class that is a Rewriter", got=use)
        own = _instance(thing, spec.parameters, directories)
        given = _with_located(spec.parameters, thing, directories)
        if is_editor(own):
            if spec.by != "none":
                raise SelectorError(
                    f"{spec.use!r} needs no model", key="by", fix="write `by: none`"
                )
            return as_editor(own, given), None
        rewriter = as_rewriter(own, given)
    except BadInput as error:
        raise error.under(f"rewrite.{name}") from error.__cause__
    try:
        if isinstance(spec.by, str):
            raise SelectorError(
                f"{spec.use!r} needs a model",
                expected="{url: ..., model: ...}, {local: ...} or {vllm: ...}",
                got=spec.by,
            )
        return rewriter, _completions(spec.by, directories)
    except BadInput as error:
        raise error.under(f"rewrite.{name}.by") from error.__cause__


def build_reweighter(spec: ReweightSpec, directories: Sequence[Path] = ()) -> Reweighter:
    """Build the reweighter of ``train.reweight``, with its parameters checked.

    Raises:
        SelectorError: As :func:`build`; the key begins with ``train.reweight``.
    """
    try:
        use, thing = _named(spec.use, "reweighter", directories)
        if not isinstance(thing, type):
            _check_keywords(spec.parameters, thing, skip=1)
            return FunctionReweighter(use, directories, spec.parameters)
        reweighter = as_reweighter(_instance(thing, spec.parameters, directories))
        if reweighter.requirements.describe and spec.sample != "sequence":
            raise SelectorError(
                key="sample",
                expected=f"sequence, since `{spec.use}` uses logits of equal length",
                got=repr(spec.sample),
            )
        if reweighter.requirements.carried and spec.sample != "document":
            raise SelectorError(
                key="sample",
                expected=f"document, since `{spec.use}` weighs documents",
                got=repr(spec.sample),
            )
        return reweighter
    except BadInput as error:
        raise error.under("train.reweight") from error.__cause__


def _completions(by: Mapping[str, Any], directories: Sequence[Path]) -> Completions:
    ways = [way for way in _COMPLETIONS if way in by]
    if len(ways) != 1:
        raise SelectorError(
            key=ways[1] if ways else "url",
            expected="url and model, or local, or vllm",
            got=", ".join(ways) or repr(dict(by)),
        )
    (way,) = ways
    own = dict(by)
    if way != "url":
        own["model"] = own.pop(way)
    try:
        return _COMPLETIONS[way](**_with_located(own, _COMPLETIONS[way], directories))
    except SelectorError as error:
        if way != "url" and error.key == "model":
            error.key = way
        raise


@cache
def _algorithms(module: str) -> dict[str, type[Algorithm]]:
    """Return the algorithms that a module defines."""
    values = vars(importlib.import_module(module)).values()
    return {
        value.name: value
        for value in values
        if isinstance(value, type)
        and issubclass(value, Algorithm)
        and value.__module__ == module
        and "name" in vars(value)
    }


def _built_in_named(use: str, kind: str) -> type[Algorithm] | None:
    """Return the built-in algorithm of a name, from the module of that name or another one."""
    module = f"{_PACKAGES[kind]}.{use.replace('-', '_')}"
    if use.replace("-", "_").isidentifier() and find_spec(module):
        found = _algorithms(module).get(use)
        if found is not None:
            return found
    return built_in(kind).get(use)


def _named(use: str, kind: str, directories: Sequence[Path]) -> tuple[str, Any]:
    """Return the object that ``use`` names, and its ``package.module:name``."""
    if ":" in use:
        return use, load_object(use, directories)
    own = _built_in_named(use, kind)
    if own is not None:
        return f"{own.__module__}:{own.__qualname__}", own
    registered = _registered()
    if use in registered:
        use = registered[use].value
        return use, load_object(use, ())
    for other, key in _KEYS.items():
        if use in built_in(other):
            raise SelectorError(
                f"{use!r} is a {other}", key="use", fix=f"it goes under `{key}` of a recipe"
            )
    raise SelectorError(
        key="use",
        expected=f"a {kind} or package.module:name",
        got=repr(use),
        fix=did_you_mean(use, [*built_in(kind), *registered]).lstrip("; "),
    )


def _instance(thing: Any, parameters: dict[str, Any], directories: Sequence[Path]) -> Any:
    """Call a class with a recipe's parameters, of which some are paths."""
    if not issubclass(thing, Declared):
        _check_keywords(parameters, thing)
    if lacks := sorted(getattr(thing, "__abstractmethods__", ())):
        raise SelectorError(
            f"the class {thing.__qualname__} has no {', '.join(lacks)}",
            key="use",
            fix=f"define {', '.join(lacks)} in the class",
        )
    try:
        return thing(**_with_located(parameters, thing, directories))
    except PenstockError:
        raise
    except Exception as error:  # it is a plug-in's code
        raise SelectorError(
            f"{thing.__qualname__}() raised {describe_error(error)}", key="use"
        ) from error


def _with_located(
    parameters: Mapping[str, Any], thing: Any, directories: Sequence[Path]
) -> dict[str, Any]:
    own = dict(parameters)
    for key in paths_of(thing):
        value = own.get(key)
        if isinstance(value, str):
            own[key] = _located(value, directories)
        elif isinstance(value, (list, tuple)):
            own[key] = [
                _located(item, directories) if isinstance(item, str) else item for item in value
            ]
    return own


def _keywords(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(thing).parameters)
    except ValueError:  # compiled code may have no signature
        return {}


def _check_keywords(parameters: Mapping[str, Any], thing: Any, skip: int = 0) -> None:
    """Refuse unknown and missing keywords of a plug-in, with the nearest name."""
    if not callable(thing):
        return
    known = dict(list(_keywords(thing).items())[skip:])
    if any(keyword.kind is keyword.VAR_KEYWORD for keyword in known.values()):
        return
    for key in parameters:
        if key not in known:
            fix = did_you_mean(key, known).lstrip("; ") or "there are none"
            raise SelectorError("unknown parameter", key=key, fix=fix)
    for key, keyword in known.items():
        required = keyword.default is keyword.empty and keyword.kind is not keyword.VAR_POSITIONAL
        if required and key not in parameters:
            raise SelectorError("missing; it is required", key=key)


def _located(path: str, directories: Sequence[Path]) -> str:
    """Return the path in the first directory that has it, else as it is.

    A bare word is no path.
    """
    if not re.search(r"[./\\]", path):
        return path
    # An encoder's layer may follow an @, or the @ is part of a name.
    base, at, rest = path.partition("@")
    for name, behind in ((path, ""), (base, at + rest)):
        for directory in directories:
            if (Path(directory) / Path(name).expanduser()).exists():
                return str((Path(directory) / Path(name).expanduser()).absolute()) + behind
    return path


def _registered() -> dict[str, EntryPoint]:
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return {point.name: point for point in points}


def _documentation(one: type[Algorithm]) -> str:
    """Return the class's docstring, and the description of each parameter."""
    lines = [inspect.getdoc(one) or "", "", "Parameters:"]
    for key, own in one.model_fields.items():
        lines.append(f"    {key}: {(own.description or '').strip()}".replace("\n", "\n        "))
    return "\n".join(lines)


def _plug_in(name: str, point: EntryPoint) -> Available:
    try:
        return described(name, point.load())
    except Exception as error:  # one faulty package must not hide the other selectors
        return Available(name=name, summary=f"cannot be imported: {error}")
