"""Names to selectors: built in, registered by a package, or a function of the user's.

A package registers a selector under the entry-point group ``penstock.selectors``: a class that is
a ``Scorer``, or a function as in :mod:`penstock.selectors.functions`. Modules are imported when a
selector is asked for, and import what is heavy (torch, faiss) when they need it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from penstock.errors import BadInput, SelectorError, did_you_mean
from penstock.recipe import ReweightSpec, RewriteSpec, SelectorSpec
from penstock.selectors.base import Scorer, SetSelector, is_set_selector
from penstock.selectors.functions import FunctionScorer, load_object
from penstock.selectors.reweighting import Reweighter, is_describing
from penstock.selectors.reweighting.functions import FunctionReweighter
from penstock.selectors.rewriting import Completions, Endpoint, LocalModel, Rewriter, VllmModel

__all__ = ["GROUP", "Available", "available", "build", "build_reweighter", "build_rewriter"]

GROUP = "penstock.selectors"
"""The entry-point group."""

_BUILT_IN = {
    "betr": "penstock.selectors.betr:Betr",
    "ccnet": "penstock.selectors.ccnet:NgramPerplexity",
    "d4": "penstock.selectors.d4:D4",
    "dclm": "penstock.selectors.dclm:DclmQuality",
    "document-loss": "penstock.selectors.document_loss:DocumentLoss",
    "dsir": "penstock.selectors.dsir:Dsir",
    "fasttext": "penstock.selectors.classifiers.classifier:FastTextScorer",
    "fineweb-edu": "penstock.selectors.fineweb_edu:FineWebEdu",
    "ingenious": "penstock.selectors.ingenious:Ingenious",
    "kmq": "penstock.selectors.kmq:Kmq",
    "perplexity": "penstock.selectors.perplexity:Perplexity",
    "preselect": "penstock.selectors.preselect:PreSelect",
    "semdedup": "penstock.selectors.semdedup:SemDeDup",
}

_REWRITERS = {
    "prox-chunk": "penstock.selectors.rewriting:ProxChunk",
    "prox-document": "penstock.selectors.rewriting:ProxDocument",
    "rewire": "penstock.selectors.rewriting:Rewire",
    "wrap": "penstock.selectors.rewriting:Wrap",
}
"""What a recipe may name under ``rewrite``."""

_REWEIGHTERS = {
    "loss": "penstock.selectors.reweighting:LossReweighter",
    "uds": "penstock.selectors.reweighting:Uds",
}
"""What a recipe may name under ``train.reweight``."""

_KINDS = {
    "selector": ("select", _BUILT_IN),
    "rewriter": ("rewrite", _REWRITERS),
    "reweighter": ("train.reweight", _REWEIGHTERS),
}
"""For each kind the recipe's key it goes under, and the built-in ones."""

_IN_PROCESS: Mapping[str, Callable[..., Completions]] = {"local": LocalModel, "vllm": VllmModel}
"""Who answers without a server, by the key that names the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """A selector, rewriter or reweighter that a recipe may name."""

    name: str
    summary: str
    kind: str = "selector"
    """``selector`` where it goes under ``select``, ``rewriter`` where under ``rewrite``,
    ``reweighter`` where under ``train.reweight``."""
    paper: str = ""
    doc: str = ""
    """What it is and what its parameters mean."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Keywords and their defaults; ``inspect.Parameter.empty`` where there is none."""


def available() -> list[Available]:
    """All selectors, rewriters and reweighters, built-in ones first.

    One that cannot be imported says so in its summary.
    """
    built_in = _all_built_in()
    found = [_described(name, partial(_imported, use)) for name, use in built_in.items()]
    found += [_described(name, point.load) for name, point in _registered().items()]
    return found


def build(name: str, spec: SelectorSpec, directories: Sequence[Path] = ()) -> Scorer | SetSelector:
    """The selector that ``select.<name>`` describes, with its parameters checked.

    Args:
        name: The key under ``select``, for messages.
        spec: What the recipe says there.
        directories: Where ``package.module:function`` and relative paths are looked for first.

    Raises:
        SelectorError: There is no such selector or parameter, or a value is wrong; the message
            begins with the recipe's key.
    """
    try:
        return _built(spec, directories)
    except BadInput as error:
        raise type(error)(f"select.{name}.{error}") from error.__cause__


def build_rewriter(
    name: str, spec: RewriteSpec, directories: Sequence[Path] = ()
) -> tuple[Rewriter, Completions]:
    """The rewriter that ``rewrite.<name>`` describes, and who answers it.

    Raises:
        SelectorError: As :func:`build`; the message begins with the recipe's key.
    """
    try:
        use, thing = _named(spec.use, "rewriter", directories)
        if not isinstance(thing, type):
            raise SelectorError(f"use: expected a class that is a Rewriter, got {use}")
        rewriter = _instance(thing, spec.parameters, directories)
        if not isinstance(rewriter, Rewriter):
            raise SelectorError(
                "use: expected a Rewriter (see penstock.selectors.rewriting.base), got the class "
                f"{thing.__qualname__}"
            )
    except BadInput as error:
        raise type(error)(f"rewrite.{name}.{error}") from error.__cause__
    try:
        return rewriter, _completions(spec.by, directories)
    except BadInput as error:
        raise type(error)(f"rewrite.{name}.by.{error}") from error.__cause__


def build_reweighter(spec: ReweightSpec, directories: Sequence[Path] = ()) -> Reweighter:
    """The reweighter that ``train.reweight`` describes, with its parameters checked.

    Raises:
        SelectorError: As :func:`build`; the message begins with the recipe's key.
    """
    try:
        return _reweighter(spec, directories)
    except BadInput as error:
        raise type(error)(f"train.reweight.{error}") from error.__cause__


def _completions(by: Mapping[str, Any], directories: Sequence[Path]) -> Completions:
    ways = [way for way in ("url", *_IN_PROCESS) if way in by]
    if len(ways) > 1:
        raise SelectorError(f"{ways[1]}: expected one of url, local and vllm, got {len(ways)}")
    if not ways:
        raise SelectorError(f"url: missing; expected url and model, local or vllm, got {dict(by)}")
    (way,) = ways
    if way in _IN_PROCESS:
        kind = _IN_PROCESS[way]
        own = {"model" if key == way else key: value for key, value in by.items()}
        own["model"] = _located(str(own["model"]), directories)
        _check_names(own, _keywords(kind).items())
        try:
            made: Completions = kind(**own)
        except SelectorError as error:
            raise SelectorError(str(error).replace("model:", f"{way}:", 1)) from None
        return made
    _check_names(by, _keywords(Endpoint).items())
    return Endpoint(**by)


def _built(spec: SelectorSpec, directories: Sequence[Path]) -> Scorer | SetSelector:
    use, thing = _named(spec.use, "selector", directories)
    if not isinstance(thing, type):
        if callable(thing):
            _check_names(spec.parameters, list(_keywords(thing).items())[1:])
        return FunctionScorer(use, directories, spec.parameters)
    selector = _instance(thing, spec.parameters, directories)
    if not isinstance(selector, Scorer) and not is_set_selector(selector):
        raise SelectorError(
            f"use: expected a Scorer or a SetSelector (see penstock.selectors.base) or a function, "
            f"got the class {thing.__qualname__}"
        )
    return selector


def _reweighter(spec: ReweightSpec, directories: Sequence[Path]) -> Reweighter:
    use, thing = _named(spec.use, "reweighter", directories)
    if not isinstance(thing, type):
        if callable(thing):
            _check_names(spec.parameters, list(_keywords(thing).items())[1:])
        return FunctionReweighter(use, directories, spec.parameters)
    reweighter = _instance(thing, spec.parameters, directories)
    if not isinstance(reweighter, Reweighter):
        raise SelectorError(
            "use: expected a Reweighter (see penstock.selectors.reweighting.base) or a function, "
            f"got the class {thing.__qualname__}"
        )
    if is_describing(reweighter) and spec.sample != "sequence":
        raise SelectorError(
            f"sample: expected sequence, since `{spec.use}` looks at logits of equal length, got "
            f"{spec.sample!r}"
        )
    return reweighter


def _named(use: str, kind: str, directories: Sequence[Path]) -> tuple[str, Any]:
    """What ``use`` names, and its ``package.module:name``."""
    registered = _registered()
    _, own = _KINDS[kind]
    if use in own:
        return own[use], _imported(own[use])
    if use in registered:
        use = registered[use].value
        return use, load_object(use, ())
    if ":" in use:
        return use, load_object(use, directories)
    for key, others in _KINDS.values():
        if use in others:
            raise SelectorError(f"use: {use!r} goes under `{key}` of a recipe")
    raise SelectorError(
        f"use: expected a {kind} or package.module:name, got {use!r}"
        f"{did_you_mean(use, [*own, *registered])}"
    )


def _instance(thing: Any, parameters: dict[str, Any], directories: Sequence[Path]) -> Any:
    """Call a class with a recipe's parameters, of which some are paths."""
    _check_names(parameters, _keywords(thing).items())
    for key in getattr(thing, "paths", ()):
        value = parameters.get(key)
        if isinstance(value, str):
            parameters[key] = _located(value, directories)
        elif isinstance(value, (list, tuple)):
            parameters[key] = [
                _located(item, directories) if isinstance(item, str) else item for item in value
            ]
    return thing(**parameters)


def _keywords(thing: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(thing).parameters)
    except ValueError:  # compiled code may have no signature
        return {}


def _check_names(
    parameters: Mapping[str, Any], keywords: Iterable[tuple[str, inspect.Parameter]]
) -> None:
    """Refuse unknown and missing keywords, naming the nearest."""
    known = dict(keywords)
    if any(keyword.kind is keyword.VAR_KEYWORD for keyword in known.values()):
        return
    for key in parameters:
        if key not in known:
            hint = did_you_mean(key, known) or "; it has none"
            raise SelectorError(f"{key}: unknown parameter{hint}")
    for key, keyword in known.items():
        required = keyword.default is keyword.empty and keyword.kind is not keyword.VAR_POSITIONAL
        if required and key not in parameters:
            raise SelectorError(f"{key}: missing; it is required")


def _located(path: str, directories: Sequence[Path]) -> str:
    """The path in the first directory that has it, else as it is; a bare word is no path."""
    if not re.search(r"[./\\]", path):
        return path
    # What is behind an @ may be an encoder's layer, or part of a name.
    base, at, rest = path.partition("@")
    for name, behind in ((path, ""), (base, at + rest)):
        for directory in directories:
            if (Path(directory) / Path(name).expanduser()).exists():
                return str((Path(directory) / Path(name).expanduser()).absolute()) + behind
    return path


def _registered() -> dict[str, EntryPoint]:
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    built_in = _all_built_in()
    return {point.name: point for point in points if point.name not in built_in}


def _all_built_in() -> dict[str, str]:
    return {name: use for _, own in _KINDS.values() for name, use in own.items()}


def _imported(use: str) -> Any:
    module, _, name = use.partition(":")
    return getattr(importlib.import_module(module), name)


def _described(name: str, load: Callable[[], Any]) -> Available:
    try:
        thing = load()
    except Exception as error:  # a package of a stranger's must not hide the other selectors
        return Available(name=name, summary=f"cannot be imported: {error}")
    keywords = list(_keywords(thing).items())
    kind = _kind(thing)
    if isinstance(thing, type):
        summary, paper = getattr(thing, "summary", ""), getattr(thing, "paper", "")
    else:
        summary, paper = (inspect.getdoc(thing) or "").partition("\n")[0], ""
        keywords = keywords[1:]
    defaults = {key: keyword.default for key, keyword in keywords}
    doc = inspect.getdoc(thing) or ""
    return Available(
        name=name, summary=summary, kind=kind, paper=paper, doc=doc, parameters=defaults
    )


def _kind(thing: Any) -> str:
    """What a class has methods for; a function that takes losses is a reweighter."""
    if isinstance(thing, type):
        if hasattr(thing, "assemble"):
            return "rewriter"
        return "reweighter" if hasattr(thing, "is_uniform") else "selector"
    return "reweighter" if next(iter(_keywords(thing)), "") == "losses" else "selector"
