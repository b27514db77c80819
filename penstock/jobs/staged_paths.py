"""Paths of a recipe that is sent to a cluster: made absolute, so that they mean the same there.

Which parameters of a class are paths is read from its source, where ``paths`` is a literal: nothing
of the user's is imported to send it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.recipe import Recipe
from penstock.selectors.adapter import paths_of
from penstock.selectors.registry import built_in

__all__ = ["absolute_paths", "named_modules"]

# ``*`` is any key of a mapping, or any item of a list.
_PATHS = (
    "work",
    "corpus.path",
    "corpus.*.path",
    "rewrite.*.by.local",
    "select.*.target.*",
    "evaluate.*",
    "clean.decontaminate.files.*",
)
_PATHS_OR_NAMES = ("tokenizer", "train.model.hf", "select.*.run")
_USES = ("clean.rules.*.use", "select.*.use", "rewrite.*.use", "train.reweight.use")
_KINDS = {"select": "selector", "rewrite": "rewriter", "train": "reweighter"}
"""Kinds of the classes that a recipe names, by the first key; rules are functions."""


def named_modules(tree: dict[str, Any]) -> list[str]:
    """Return each ``use`` of a recipe and of its arms, once.

    Args:
        tree: The recipe as plain data.
    """
    return list(dict.fromkeys(node[key] for _, node, key in _strings_at(tree, _USES)))


def absolute_paths(
    recipe: Recipe, tree: dict[str, Any], sources: Mapping[str, Path]
) -> list[tuple[str, str]]:
    """Make the paths of a recipe absolute, those of its arms included.

    Args:
        recipe: The recipe.
        tree: The recipe as plain data, which is changed.
        sources: The file, or the directory of the package, of each ``use`` that is sent.

    Returns:
        (key, path or address) of each that machines of the cluster open.
    """

    def path(value: str) -> str:
        if value.startswith("hf:"):
            local = recipe.resolve(value.removeprefix("hf:"))
            return f"hf:{local}" if local.is_dir() else value
        return value if re.match(r"[a-z0-9]+://", value) else str(recipe.resolve(value))

    def path_or_name(value: str) -> str:
        local = recipe.resolve(value)
        meant = value.startswith((".", "~", "/")) or value.endswith(".json")
        return str(local) if meant or local.exists() else value

    def parameter(value: str) -> str:  # as the registry locates them: a bare word is no path
        local = recipe.resolve(value) if re.search(r"[./\\]", value) else None
        return str(local) if local is not None and local.exists() else value

    def reference(value: str) -> str:
        run, _, step = value.rpartition("@")
        return f"{path_or_name(run)}@{step}"

    changes: list[tuple[Sequence[str], Callable[[str], str]]] = [
        (_PATHS, path),
        (_PATHS_OR_NAMES, path_or_name),
        (("train.continue_from",), reference),
        (list(_declared(tree, sources)), parameter),
    ]
    found = {}
    for patterns, change in changes:
        for dotted, node, key in _strings_at(tree, patterns):
            node[key] = change(node[key])
            if node[key].removeprefix("hf:").startswith("/") or "://" in node[key]:
                found[dotted] = node[key].rpartition("@")[0] if change is reference else node[key]
    return list(found.items())


def _declared(tree: dict[str, Any], sources: Mapping[str, Path]) -> Iterator[str]:
    """Yield patterns of the parameters that the classes of a recipe declare as paths."""
    for dotted, node, key in _strings_at(tree, _USES):
        keys = dotted.split(".")
        kind = _KINDS.get(keys[0] if keys[0] != "compare" else keys[3])
        if kind is None:
            continue
        use = node[key]
        if use in sources:
            module, _, name = use.partition(":")
            declared = _paths_in(_file_of(sources[use], module.split(".")), name)
        else:
            own = None if ":" in use else built_in(kind).get(use)
            declared = () if own is None else paths_of(own)
        for parameter in declared:
            value = node.get(parameter)
            yield ".".join([*keys[:-1], parameter, *(["*"] if isinstance(value, list) else [])])


def _file_of(source: Path, parts: Sequence[str]) -> Path:
    """Return the file of a module, by the file or the package of its first name."""
    if source.is_file():
        return source
    inside = source.joinpath(*parts[1:])
    return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")


def _paths_in(file: Path, name: str) -> tuple[str, ...]:
    """Return the literal ``paths`` of a class in a source, or of its bases in the same source."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ()
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    left, seen = [name], set()
    while left:
        one = classes.get(left.pop(0))
        if one is None or one.name in seen:
            continue
        seen.add(one.name)
        for node in one.body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "paths" for target in targets):
                return tuple(_texts(node.value))
        left += [base.id for base in one.bases if isinstance(base, ast.Name)]
    return ()


def _texts(node: ast.expr | None) -> Iterator[str]:
    """Yield the texts of a literal text, tuple or list."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, (ast.Tuple, ast.List)):
        for element in node.elts:
            yield from _texts(element)


def _strings_at(tree: dict[str, Any], patterns: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield key, container and last key of each string at patterns, in the recipe and its arms."""
    for pattern in patterns:
        for prefix in ("", "compare.arms.*."):
            nodes: list[tuple[str, Any]] = [("", tree)]
            *keys, last = (prefix + pattern).split(".")
            for key in keys:
                nodes = [
                    (f"{dotted}{own}.", node[own])
                    for dotted, node in nodes
                    for own in _keys(node, key)
                ]
            for dotted, node in nodes:
                for own in _keys(node, last):
                    if isinstance(node[own], str):
                        yield f"{dotted}{own}", node, own


def _keys(node: Any, key: str) -> Sequence[Any]:
    """Return the keys of a mapping, or indices of a list, that a part of a pattern names."""
    if isinstance(node, list) and key == "*":
        return range(len(node))
    if not isinstance(node, dict):
        return ()
    return [own for own in node if key in ("*", own)]
