"""Identity of a plug-in's code: part of the name of every column that the plug-in makes.

The identity has the module that defines the object, those of its base classes, and all local
modules that these import, by a hash of their syntax trees: comments and formatting do not count.
Installed packages count by name and version, and an optional package that is missing counts as
missing. Imports are read from the source, also those within functions: nothing is run to find them.

Not covered is code that is found by its name at run time (``importlib.import_module``, ``exec``):
such calls are listed, so that a note can name them. Neither are files that the code reads, unless a
parameter names them (``paths``). Penstock's own modules do not count: their versions do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import FrozenImporter, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from penstock.errors import ScoringError
from penstock.examined_source import ExaminedSource, examine, with_parents
from penstock.own_modules import directory_of, hidden_neighbour
from penstock.own_sources import source_at

__all__ = [
    "ImportedCode",
    "PluginCode",
    "absent_packages",
    "code_notes",
    "code_of",
    "describe_code",
    "hidden_neighbours",
    "imported_by",
    "is_own_file",
]

_ABSENT = "not installed"

_OWN_FILES = f"{Path(__file__).resolve().parent}/"


@dataclass(frozen=True, slots=True)
class PluginCode:
    """The code behind an object; when it is unpickled elsewhere, it must be the same there."""

    roots: tuple[str, ...]
    """Modules that define the object and its base classes; none for Penstock's own."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each local module, by its dotted name."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Version of each installed package that is imported, by its name."""
    uncovered: tuple[str, ...] = ()
    """Calls that import by a name or run a text, as ``module: function``; sorted."""

    def identity(self) -> dict[str, Any]:
        """Return what an artefact's name has of it, as plain data.

        Names are values, not keys: in manifests the values of keys such as ``token`` are masked.
        """
        return {
            "modules": [list(pair) for pair in self.modules.items()],
            "packages": [list(pair) for pair in self.packages.items()],
            **({"uncovered": list(self.uncovered)} if self.uncovered else {}),
        }

    def check(self) -> None:
        """Compare with the code of this process.

        Raises:
            ScoringError: A module or a package is another one.
        """
        here = _code_of(self.roots)
        if here == self:
            return
        for noun, then, now in (
            ("module", self.modules, here.modules),
            ("package", self.packages, here.packages),
        ):
            for name in sorted(then.keys() | now.keys()):
                if then.get(name) != now.get(name):
                    raise ScoringError(
                        f"{', '.join(self.roots)}: the {noun} {name} is not the one that the run "
                        "began with",
                        expected=(then.get(name) or "none")[:12],
                        got=(now.get(name) or "none")[:12],
                        fix="give all machines the same code and packages (on Ray by runtime_env), "
                        "and run again",
                    )

    def __deepcopy__(self, memo: Any) -> PluginCode:
        return self

    def fields(self) -> tuple[Any, ...]:
        """Return the arguments that make this object, for a pickle that is checked later."""
        return self.roots, dict(self.modules), dict(self.packages), self.uncovered

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled_code, self.fields()


def _unpickled_code(*fields: Any) -> PluginCode:
    code = PluginCode(*fields)
    code.check()
    return code


def code_of(thing: Any, *modules: str) -> PluginCode:
    """Return the identity of the code that defines an object.

    Args:
        thing: A class, a function or another object.
        modules: Further modules, such as one that only imports the object.

    Raises:
        SelectorError: A module was edited after Python had imported it.
    """
    kinds = inspect.getmro(thing) if isinstance(thing, type) else ()
    named = [*modules, getattr(thing, "__module__", None)]
    if all(_counts(name) for name in named if name):  # a built-in class has bases elsewhere
        named += [one.__module__ for one in kinds if not _is_installed(_spec_of(one.__module__))]
    return _code_of(tuple(dict.fromkeys(name for name in named if name and _counts(name))))


def describe_code(identity: Mapping[str, Any]) -> str:
    """Describe code in one line: ``my_scorer, my_words (code 3f2a91c0), numpy 2.4.6``.

    Args:
        identity: As of :meth:`PluginCode.identity`.
    """
    modules = identity["modules"]
    digest = hashlib.sha256(repr([tuple(pair) for pair in modules]).encode()).hexdigest()[:8]
    names = ", ".join(name for name, _ in modules)
    return ", ".join([f"{names} (code {digest})", *map(" ".join, identity["packages"])])


def code_notes(key: str, identity: Mapping[str, Any], kept: bool) -> Iterator[str]:
    """Yield notes for the user on the code that made a column; none for code of Penstock's own.

    Args:
        key: The plug-in's key in the recipe, as ``select.mine``.
        identity: The plug-in's identity, which has that of its code under ``code``.
        kept: Whether the column was made by an earlier run.
    """
    code = identity.get("code")
    if not code or not code["modules"]:
        return
    yield f"{key}: {'kept, ' if kept else ''}made by {describe_code(code)}"
    for call in code.get("uncovered", ()):
        yield (
            f"{key}: {call}() runs code that is no part of the column's name; when that code "
            "changes, raise `version` of the class, or curate with --rescore"
        )


def absent_packages(code: PluginCode) -> list[str]:
    """Return packages that a plug-in imports, outside of ``try``, and that are not installed.

    Those that are imported at the top of a module are an error when it is imported; these are
    imported within a function, as far as the source shows it.

    Args:
        code: The plug-in's.
    """
    absent = {name for name, version in code.packages.items() if version == _ABSENT}
    if not absent:
        return []
    wanted = set()
    for _, _, found in _ImportWalk().modules(code.roots):
        if found is not None:
            wanted |= {name for name, _ in found.imports} - found.guarded
    return sorted(absent & wanted)


def hidden_neighbours(code: PluginCode) -> list[tuple[str, Path]]:
    """Find files beside a plug-in that its imports do not reach: others have their names.

    Python's own library and installed packages come before what lies beside a recipe.

    Args:
        code: The plug-in's.

    Returns:
        The name of the module and the file of each, sorted.
    """
    hidden = {}
    for name, spec, found in _ImportWalk().modules(code.roots):
        top = _spec_of(name.partition(".")[0])
        if found is None or not _has_place(spec) or top is None or _is_installed(spec):
            continue
        beside = directory_of(top)
        for imported in {one for one, _ in found.imports if one and "." not in one}:
            own = _spec_of(imported, beside)
            file = hidden_neighbour(imported, beside)
            if file is not None and own is not None and _place_of(own).parent != beside:
                hidden[imported] = file
    return sorted(hidden.items())


def imported_by(module: str, home: Path) -> ImportedCode:
    """Find what a module imports, of which nothing is imported here.

    Args:
        module: Its dotted name.
        home: The directory that holds it, or its package.
    """
    walk = _ImportWalk()
    places = {name: spec for name, spec, _ in walk.modules((module,), home) if "." not in name}
    return ImportedCode(
        {name: _place_of(spec) for name, spec in sorted(places.items())},
        dict(sorted(walk.packages.items())),
    )


@dataclass(frozen=True, slots=True)
class ImportedCode:
    """Local modules and installed packages that a module imports, and those import."""

    places: Mapping[str, Path]
    """The file, or the directory of the package, of each local top-level module, by its name."""
    packages: Mapping[str, str]
    """Version of each installed package, by its name."""


def _place_of(spec: ModuleSpec) -> Path:
    places = list(spec.submodule_search_locations or ())
    return Path(places[0] if places else str(spec.origin))


def _code_of(roots: tuple[str, ...]) -> PluginCode:
    walk = _ImportWalk()
    modules: dict[str, str] = {}
    uncovered: set[str] = set()
    for name, _, found in walk.modules(roots):
        if found is not None:
            modules[name] = found.sha256
            uncovered.update(f"{name}: {call}" for call in found.calls)
    return PluginCode(
        roots,
        dict(sorted(modules.items())),
        dict(sorted(walk.packages.items())),
        tuple(sorted(uncovered)),
    )


class _ImportWalk:
    """Follows the imports of modules, without running any."""

    def __init__(self) -> None:
        self.packages: dict[str, str] = {}
        """Version of each installed package that was met."""

    def modules(
        self, roots: Sequence[str], home: Path | None = None
    ) -> Iterator[tuple[str, ModuleSpec, ExaminedSource | None]]:
        """Yield each local module; a directory without ``__init__.py`` has no source."""
        left: list[tuple[str, Path | None, bool]] = [
            (one, home, True) for name in roots for one, _ in with_parents(name)
        ]
        # A module that is named is looked for beside the recipe first; what it imports, last.
        own_tops = {name.partition(".")[0] for name in roots} if home else set()
        seen = set()
        while left:
            name, home, certain = left.pop()
            if name in seen or not _counts(name):
                continue
            top = name.partition(".")[0]
            spec = _spec_of(name, home, top in own_tops)
            if spec is None:
                if certain and name == top:
                    seen.add(name)
                    self.packages[name] = _version_of(name) or _ABSENT
                continue
            seen.add(name)
            if _is_installed(spec):
                versions = _distributions_of(top)
                self.packages.update(versions)
                if versions and name not in roots:
                    continue
            if spec.origin is None or not spec.has_location:
                if _has_place(spec):
                    yield name, spec, None
                continue
            source = source_at(spec.origin, sys.modules.get(name))
            found = examine(source, name, spec.submodule_search_locations is not None)
            yield name, spec, found
            own = _spec_of(top, home, top in own_tops)
            beside = directory_of(own) if own is not None and _has_place(own) else home
            for one, sure in found.imports:
                names = [one]
                if one.endswith(".*"):  # it imports the modules that ``__all__`` names
                    names = [loaded for loaded in sys.modules if loaded.startswith(one[:-1])]
                left += [(imported, beside, sure) for imported in names]


def _counts(name: str) -> bool:
    """Return whether a module is neither Python's nor Penstock's.

    One that has the name of one of Python's is told by its file: a directory in ``sys.path`` may
    come before Python's own library.
    """
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return top != "penstock"
    if top in sys.builtin_module_names or FrozenImporter.find_spec(top) is not None:
        return False
    spec = _spec_of(top)
    return spec is not None and not _is_installed(spec)


def _spec_of(name: str, home: Path | None = None, at_home: bool = False) -> ModuleSpec | None:
    """Find a module as an import finds it: what is imported, ``sys.path``, then its neighbours.

    Args:
        name: Its dotted name.
        home: The directory of its neighbours.
        at_home: Look for it there alone, whatever is imported.
    """
    module = None if at_home else sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return spec
    if file := getattr(module, "__file__", None):  # a script
        return importlib.util.spec_from_file_location(name, file)
    parent, _, _ = name.rpartition(".")
    if parent:
        above = _spec_of(parent, home, at_home)
        places = None if above is None else above.submodule_search_locations
        return None if places is None else PathFinder.find_spec(name, list(places))
    found = None if at_home else PathFinder.find_spec(name)
    if home is not None and (found is None or found.origin is None):
        found = PathFinder.find_spec(name, [str(home)]) or found
    return found


def _has_place(spec: ModuleSpec) -> bool:
    return spec.has_location or bool(spec.submodule_search_locations)


@functools.cache
def _installed_at() -> tuple[str, ...]:
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [sysconfig.get_path(key) for key in keys]
    places += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(f"{Path(place).resolve()}/" for place in places)


def _is_installed(spec: ModuleSpec | None) -> bool:
    """Return whether a module lies where packages are installed: its version stands for it."""
    if spec is None:
        return False
    places = list(spec.submodule_search_locations or ())
    file = spec.origin if spec.has_location else next(iter(places), None)
    return file is None or str(Path(file).resolve()).startswith(_installed_at())


def is_own_file(file: str) -> bool:
    """Return whether a file of code is neither installed nor Penstock's own."""
    path = str(Path(file).resolve())
    return not path.startswith((*_installed_at(), _OWN_FILES)) and not file.startswith("<")


@functools.cache
def _distributions_of(top: str) -> dict[str, str]:
    """Return the versions of the packages that have a top-level module, by their names."""
    if own := _version_of(top):
        return {top: own}
    names = _names_of_distributions().get(top, ())
    return {name: _version_of(name) or _ABSENT for name in sorted(set(names))}


@functools.cache
def _names_of_distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # it reads the files of all packages: 0.3 s for 200


@functools.cache
def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
