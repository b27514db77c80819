"""Stage a job: copy a recipe and the user's own modules into a directory for a cluster.

They are the modules of scorers, rules, rewriters and reweighters that the recipe names, and all
local modules that these import: some kilobytes. Paths are made absolute, so the recipe means the
same on every machine; data is not copied. Hidden files, links that lead out of a package, and what
looks like a key or a password stay here, each with a note.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.artefact import canonical
from penstock.errors import RecipeError
from penstock.jobs.staged_paths import absolute_paths, named_modules
from penstock.own_modules import check_module
from penstock.plugin_code import imported_by
from penstock.recipe import Recipe
from penstock.recipe_file import load_recipe
from penstock.storage import sha256_file

__all__ = ["Staged", "stage"]

_MAX_BYTES = 100 * 2**20
"""Largest request of Ray 2.60's job server (``DASHBOARD_CLIENT_MAX_SIZE``), although packages of up
to 512 MiB are allowed elsewhere."""


_SECRET = re.compile(
    r"(?i)(?:.*[._-])?(?:credentials?|secrets?|passwords?|passwd|tokens?|api[_-]?keys?|netrc)"
    r"(?:\.(?:json|ya?ml|toml|ini|cfg|conf|txt|csv|properties|xml|gz|zip))?"
    r"|(?:client_secret|service[_-]?account|id_(?:rsa|dsa|ecdsa|ed25519)).*"
    r"|.*\.(?:pem|key|p8|p12|pfx|jks|keystore|kdbx|ppk|gpg|asc|env|ovpn|htpasswd)"
)
"""Names of files, and of directories of files, that usually hold keys and passwords."""

_PRIVATE = re.compile(rb'PRIVATE KEY-----|"private_key"\s*:|aws_secret_access_key')
_HEAD = 2**14
"""Bytes of a file in which :data:`_PRIVATE` is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A directory with all files of a job."""

    directory: Path
    files: tuple[str, ...]
    """Paths of the files relative to the directory, sorted."""
    sizes: tuple[int, ...]
    """Bytes of each file."""
    digest: str
    """sha256 over the names and contents of the files: submissions of one digest are equal."""
    evaluates: bool
    """Whether the recipe names files to evaluate on."""
    opened: tuple[tuple[str, str], ...]
    """(key, absolute path or address) of what machines of the cluster open."""
    notes: tuple[str, ...]
    """Lines for the user about files that are not copied."""


def stage(recipe_path: Path, directory: Path, settings: Sequence[str] = ()) -> Staged:
    """Fill an empty directory with the recipe and the scorer modules it names.

    Raises:
        BadInput: The recipe is wrong, a scorer's module is not found or not safe to copy, or the
            files are larger than the job server takes.
    """
    recipe = load_recipe(recipe_path, settings)
    _ = recipe.work_directory  # raises where it cannot be used, before anything is sent
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    notes: list[str] = []
    found = {use: _find_source(use, recipe.directory, notes) for use in named_modules(tree)}
    sources = {use: source for use, source in found.items() if source is not None}
    opened = absolute_paths(recipe, tree, sources)
    notes[:0] = _relative_parameters(recipe, tree)
    every = _with_imports(sources, recipe.directory, notes)
    notes += _left_beside(every)
    _copy(every, directory, notes)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    (directory / "recipe.yaml").write_text(text, encoding="utf-8")
    files = sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    contents = [[name, sha256_file(directory / name)] for name in files]
    return Staged(
        directory=directory,
        files=tuple(files),
        sizes=tuple((directory / name).stat().st_size for name in files),
        digest=hashlib.sha256(canonical(contents)).hexdigest(),
        evaluates=bool(recipe.evaluate),
        opened=tuple(opened),
        notes=tuple(notes),
    )


def _left_beside(sources: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each single file of code that may read files beside it: these stay here."""
    for source in sources:
        if source.is_file() and re.search(rb"\b__file__\b", source.read_bytes()):
            yield (
                f"{source.name} names __file__: files beside it are not sent. Put both into a "
                "package (a directory with __init__.py), which is sent whole, or name them in "
                "`paths` of the class"
            )


def _relative_parameters(recipe: Recipe, tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each selector parameter that looks like a file and is relative still."""
    for name, spec in recipe.select.items():
        for key in spec.parameters:
            value = tree["select"][name].get(key)
            if not isinstance(value, str) or not re.search(r"[./]", value):
                continue
            if not Path(value).is_absolute() and recipe.resolve(value).exists():
                yield (
                    f"select.{name}.{key}: {value} is not copied; if it is a file, give its "
                    "absolute path"
                )


def _find_source(use: str, directory: Path, notes: list[str]) -> Path | None:
    """Find the file or package of a scorer that is not installed; None where nothing is copied."""
    module, colon, _ = use.partition(":")
    parts = module.split(".")
    top = parts[0]
    if not colon or top == "penstock":
        return None  # built in, or registered by a package that is installed
    if not all(part.isidentifier() for part in parts):
        raise RecipeError(key="use", expected="package.module:function", got=use)
    local = _module_at(directory, parts)
    if local is not None:
        _check(directory, parts, chosen=True)
    if top in sys.stdlib_module_names:
        if local is None:
            return None
        raise RecipeError(
            f"{use}: would replace the module of the standard library in every worker",
            key="use",
            file=local.name,
            fix="rename it",
        )
    if importlib.machinery.PathFinder.find_spec(top, _site_packages()) is not None:
        if local is not None:
            notes.append(f"{top}: installed here, so the cluster's own copy is used, not {local}")
        return None
    local = local or _importable(parts) or _current(parts)
    if local is None:
        raise RecipeError(
            f"no module {module} next to the recipe ({directory}), in the current directory, or "
            "installed",
            key="use",
            got=use,
            fix="put it next to the recipe",
        )
    return local


def _with_imports(sources: Mapping[str, Path], directory: Path, notes: list[str]) -> list[Path]:
    """Return the sources, and the local modules that they import; note the installed packages."""
    every = dict.fromkeys(sources.values())
    packages: dict[str, str] = {}
    for use, source in sources.items():
        imported = imported_by(use.partition(":")[0], source.parent)
        packages.update(imported.packages)
        for top, place in imported.places.items():
            if place in every:
                continue
            if str(place.parent) not in sys.path:
                _check(place.parent, [top], chosen=place.parent == directory)
            every[place] = None
    if packages:
        versions = ", ".join(" ".join(own) for own in sorted(packages.items()))
        notes.append(
            f"the modules import {versions}: the machines of the cluster need these packages, all "
            "in one version (see docs/cluster.md)"
        )
    return list(every)


def _module_at(root: Path, parts: Sequence[str]) -> Path | None:
    """Find the package ``root/top`` or ``root/top.py`` with the module, in Python's own order."""
    package, single = root / parts[0], root / f"{parts[0]}.py"
    inside = root.joinpath(*parts)
    holds = (inside / "__init__.py").is_file() or inside.with_suffix(".py").is_file()
    if package.is_dir() and holds and (len(parts) > 1 or (package / "__init__.py").is_file()):
        return package
    return single if len(parts) == 1 and single.is_file() else None


def _current(parts: Sequence[str]) -> Path | None:
    """Find the module in the current directory, behind all others, as a local run does."""
    local = _module_at(Path.cwd(), parts)
    if local is not None:
        _check(Path.cwd(), parts, chosen=False)
    return local


def _check(root: Path, parts: Sequence[str], chosen: bool) -> None:
    """Check that no other user can have put a module there: it is copied and run as the user's."""
    if spec := importlib.machinery.PathFinder.find_spec(parts[0], [str(root)]):
        check_module(spec, chosen)


def _importable(parts: Sequence[str]) -> Path | None:
    """Find the module where Python would import it from: PYTHONPATH, an editable install."""
    spec = importlib.util.find_spec(parts[0])  # of a top-level name: nothing is executed
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), spec.origin]
    return _module_at(Path(places[0]).parent, parts) if places[0] else None


def _site_packages() -> list[str]:
    roots = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return list(dict.fromkeys([*roots, site.getusersitepackages()]))


def _copy(sources: Iterable[Path], directory: Path, notes: list[str]) -> None:
    """Copy files and packages into a directory, up to one request of the job server."""
    left = _MAX_BYTES
    for source in sources:
        for file in _files_of(source, source, notes):
            left -= file.stat().st_size
            if left < 0:
                raise RecipeError(
                    "with this file the scorers' packages are larger than the "
                    f"{_MAX_BYTES // 2**20} MiB that a Ray job server takes",
                    file=file,
                    fix="keep data out of the package and name it by absolute paths",
                )
            target = directory / file.relative_to(source.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _files_of(source: Path, package: Path, notes: list[str]) -> Iterator[Path]:
    """Yield a file, or those of a package that are to be sent; note the others, but for caches."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.name in ("__pycache__", "venv") or path.name.endswith(".pyc"):
                continue
            if path.is_symlink() and path.is_dir():
                raise RecipeError(
                    "a link to a directory in a scorer's package",
                    file=path,
                    fix="put the files there, or name data by absolute paths",
                )
            yield from _files_of(path, package, notes)
    elif source == package and source.resolve().suffix != ".py":
        raise RecipeError(
            "a scorer's module that is a link to another file",
            file=source,
            got=source.resolve(),
            fix="put the file there",
        )
    elif source != package and (why := _left_behind(source, package)):
        notes.append(f"{source.relative_to(package.parent)}: left behind ({why})")
    else:
        yield source


def _left_behind(file: Path, package: Path) -> str | None:
    """Return why a file of a package is not sent to a cluster; None where it is sent.

    Modules are sent whatever their names and contents are, since the scorer may import them.
    """
    inside = file.relative_to(package).parts
    if any(part.startswith(".") for part in inside):
        why: str | None = "hidden"  # Ray obeys a ``.gitignore``, too
    elif not file.is_file():
        why = "no file"
    elif not file.resolve().is_relative_to(package.resolve()):
        why = "a link that leads out of the package"
    elif file.suffix == ".py":
        why = None
    elif _SECRET.fullmatch(file.name):
        why = "its name is that of a secret"
    elif any(map(_SECRET.fullmatch, inside[:-1])):
        why = "its directory's name is that of secrets"
    else:
        with open(file, "rb") as opened:
            why = "it holds a private key" if _PRIVATE.search(opened.read(_HEAD)) else None
    return why
