"""A source file as Python reads it: the hash of its syntax tree, its imports, its dynamic calls.

Comments and formatting do not count. Nothing is run: imports within functions are found, too.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ExaminedSource", "defined_names", "examine", "with_parents"]

_CALLED = frozenset({"__import__", "eval", "exec", "import_module", "run_module", "run_path"})
"""Functions that run code of a name or text, called by their own name."""

_CALLED_OF = frozenset({"exec_module", "import_module", "load_module", "run_module", "run_path"})
"""The same, called as an attribute: ``model.eval()`` is another function."""

_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of a syntax tree that repeat others, or hold comments."""


@dataclass(frozen=True, slots=True)
class ExaminedSource:
    """What a source says without being run."""

    sha256: str
    """Of its syntax tree, 64 hex digits."""
    imports: tuple[tuple[str, bool], ...] = ()
    """Names of modules, with true, and false for one that may be another object of a package."""
    guarded: frozenset[str] = frozenset()
    """Top-level names that are imported within ``try`` alone: optional packages."""
    calls: tuple[str, ...] = ()


@functools.lru_cache(maxsize=1024)
def examine(source: bytes, name: str, is_package: bool) -> ExaminedSource:
    """Hash a source and list its imports; one that is not Python is hashed as it is."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ExaminedSource(hashlib.sha256(source).hexdigest())
    package = name if is_package else name.rpartition(".")[0]
    imports = dict.fromkeys(_imports(tree, package))
    calls = sorted({call for node in ast.walk(tree) if (call := _dynamic(node))})
    within = {id(node) for one in ast.walk(tree) if isinstance(one, ast.Try) for node in _body(one)}
    tops = {True: set[str](), False: set[str]()}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            tops[id(node) in within] |= {name for name, _ in _imports(node, package)}
    guarded = frozenset(tops[True] - tops[False])
    return ExaminedSource(_hash_of(tree), tuple(imports), guarded, tuple(calls))


def defined_names(source: bytes) -> list[str]:
    """Return the functions and classes of a module, in their order; none if it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [one.name for one in tree.body if isinstance(one, kinds) and one.name[0] != "_"]


def _body(tried: ast.Try) -> Iterator[ast.AST]:
    for statement in tried.body:
        yield from ast.walk(statement)


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
            yield from with_parents(base)
            for alias in node.names:
                if alias.name != "*":
                    yield f"{base}.{alias.name}", False
                    continue
                yield f"{base}.*", False


def with_parents(name: str) -> Iterator[tuple[str, bool]]:
    """Yield a module and the packages that hold it, each certainly a module: ``a``, ``a.b``."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count]), True


def _dynamic(node: ast.AST) -> str | None:
    """Return the name of a call that imports by a name or runs a text."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _CALLED:
            return node.func.id
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CALLED_OF:
            return node.func.attr
    return None


def _hash_of(tree: ast.AST) -> str:
    """Hash a syntax tree, without positions; iterative, since a long sum is as deep as long."""
    hashed = hashlib.sha256()
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.AST):
            hashed.update(f"({type(node).__name__}".encode())
            left.append(_END)
            if isinstance(node, ast.Constant):  # 1, 1.0 and True are equal and differ
                left.append(repr((type(node.value).__name__, node.value)))
                continue
            fields = [own for own in ast.iter_fields(node) if own[0] not in _LEFT_OUT]
            for key, value in reversed(fields):
                if value is not None and value != []:
                    left += [value, f".{key}"]
        elif isinstance(node, list):
            left += [_END, *reversed(node), "["]
        else:
            hashed.update(f"{node!r},".encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


_END = ")"
