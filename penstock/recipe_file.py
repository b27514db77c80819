"""Read a recipe's file: YAML to a validated recipe, and its problems in the recipe's words.

A problem is one line: the key, the file, what was expected, what came, and the nearest valid name.
Pydantic finds the problems; :func:`_explain` words them, and one table in the tests pins the words.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from penstock.errors import PenstockError, RecipeError, StorageError, did_you_mean
from penstock.recipe import Recipe, SelectorSpec
from penstock.recipe_yaml import MOST_BYTES, read_yaml
from penstock.storage import open_file

__all__ = [
    "command_words",
    "find_problems",
    "joined_problems",
    "load_recipe",
    "naming",
    "override",
    "parse_recipe",
    "read_tree",
    "validate",
]

_RECIPE = "a recipe in YAML"

_READ_PROBLEMS, _MOST_PROBLEMS = 200, 20
"""Problems of one recipe that are worded, and that are listed."""

_SHOWN = 300
"""Characters of a wrong value or key that are shown."""

_LONGEST_KEY = 50
"""Most parts of a dotted key."""


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: The YAML file.
        settings: ``key.path=value`` overrides; values are YAML.

    Raises:
        RecipeError: The file is missing or not YAML, or a key or value is wrong.
    """
    path = Path(path)
    return parse_recipe(read_tree(path, settings), path.parent, file=path)


def read_tree(path: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe file as plain data, without a look at its keys.

    Args:
        path: The YAML file.
        settings: ``key.path=value`` overrides; values are YAML.

    Raises:
        RecipeError: The file is missing or not YAML, or an override names no item.
    """
    try:
        with open_file(path) as opened:
            content = opened.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise RecipeError("no such file", file=path, expected=_RECIPE) from None
    except IsADirectoryError:
        raise RecipeError("is a directory", file=path, expected=_RECIPE) from None
    except StorageError as error:
        raise RecipeError(
            file=path, expected=_RECIPE, got=error.got, fix="write it to a file"
        ) from None
    except UnicodeDecodeError as error:
        byte, line = content[error.start], 1 + content.count(b"\n", 0, error.start)
        raise RecipeError(
            file=f"{path}:{line}",
            expected="a recipe in UTF-8",
            got=f"the byte 0x{byte:02x}",
            fix=f"save it as UTF-8; from Latin-1: iconv -f latin1 -t utf-8 {path.name}",
        ) from None
    except OSError as error:
        raise RecipeError(f"not readable: {error}", file=path) from None
    if len(content) > MOST_BYTES:
        raise RecipeError(
            file=path,
            expected=f"{_RECIPE} of at most {MOST_BYTES:,} bytes",
            got="more",
            fix="name many files by a pattern, such as pool/*.jsonl",
        )
    tree = read_yaml(text, path)
    if not isinstance(tree, dict):
        got = "an empty file" if tree is None else type(tree).__name__
        raise RecipeError(file=path, expected="a mapping of recipe keys", got=got)
    for setting in settings:
        names, value = _setting(setting)
        is_threshold = names[:2] == ["clean", "rules"] and len(names) == 4
        tree = _set(tree, names, value, keeps_null=is_threshold)
    return tree


def command_words(path: str | Path, settings: Sequence[str] = ()) -> str:
    """Return a recipe's file and its ``--set`` options as a command line of a shell has them."""
    return shlex.join([str(path), *(part for one in settings for part in ("--set", one))])


@contextmanager
def naming(path: str | Path | None, settings: Sequence[str] = ()) -> Iterator[None]:
    """Put a recipe into the commands that an error's fix names (:meth:`PenstockError.on_recipe`).

    The outermost counts: a command knows the file of a recipe that it gives to a function.

    Args:
        path: Its file; None of a recipe without one.
        settings: ``key.path=value`` overrides that it was read with.
    """
    token = None if _naming.get() else _naming.set(True)
    try:
        yield
    except PenstockError as error:
        if token is not None:
            error.on_recipe(None if path is None else command_words(path, settings))
        raise
    finally:
        if token is not None:
            _naming.reset(token)


_naming: ContextVar[bool] = ContextVar("_naming", default=False)
"""True within :func:`naming`."""


def parse_recipe(
    tree: Mapping[str, Any], directory: Path, file: Path | str | None = None
) -> Recipe:
    """Validate a recipe given as plain data, and its arms.

    Args:
        tree: The recipe.
        directory: Directory where relative paths start.
        file: The file that errors name.

    Raises:
        RecipeError: A key or value is wrong; a line for each where there are several.
    """
    recipe = validate(tree, directory, file)
    plain = recipe.model_dump(mode="json", exclude={"compare"})
    for arm, changes in recipe.compare.arms.items():
        validate(override(plain, changes), directory, file, under=f"compare.arms.{arm}")
    return recipe


def validate(
    tree: Mapping[str, Any], directory: Path, file: Path | str | None = None, under: str = ""
) -> Recipe:
    """Validate a recipe without its arms; ``under`` is put in front of the keys of errors.

    Raises:
        RecipeError: As :func:`parse_recipe`.
    """
    found = find_problems(tree, directory, file, under)
    if isinstance(found, Recipe):
        return found
    raise joined_problems(found)


def find_problems(
    tree: Mapping[str, Any], directory: Path, file: Path | str | None = None, under: str = ""
) -> Recipe | list[RecipeError]:
    """Return a recipe without its arms, or all that is wrong with it; as :func:`validate`."""
    if "directory" in tree:
        problems = [RecipeError("not a key of a recipe", key="directory", fix="remove it")]
    else:
        try:
            return Recipe.model_validate({**tree, "directory": directory.absolute()})
        except ValidationError as error:
            found = error.errors()
            problems = [_explain(problem) for problem in _without_echoes(found[:_READ_PROBLEMS])]
    for problem in problems:
        problem.file = None if file is None else str(file)
        if under:
            problem.under(under)
    return problems


def joined_problems(problems: Sequence[RecipeError]) -> RecipeError:
    """Return one error for several: itself if it is alone, else a line for each, at most 20."""
    if len(lines := list(dict.fromkeys(map(str, problems)))) == 1:
        return problems[0]
    if len(lines) > _MOST_PROBLEMS:
        lines[_MOST_PROBLEMS:] = [f"and {len(lines) - _MOST_PROBLEMS} more"]
    return RecipeError("\n".join(lines))


_WHOLE = frozenset({"rank", "shares", "draw", "model", "tokenizer", "mixture", "schedule"})
"""Keys whose mapping is one value, replaced and not merged."""


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tree`` with ``changes`` merged in, mapping by mapping; no argument is changed.

    A change to ``None`` removes the key, so its default applies. Keys that are one choice
    (:data:`_WHOLE`) are replaced, not merged: weights that an arm gives are all its weights.
    """
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        if key == "rules" and isinstance(value, Mapping) and below:
            merged[key] = _override_rules(below, value)
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and key not in _WHOLE:
            merged[key] = override(below, value)
        else:
            merged[key] = value
    return merged


def _override_rules(
    before: Sequence[str] | Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge ``clean.rules``: a set's ``None`` removes it, a threshold's switches the rule off."""
    merged: dict[str, Any] = dict(before) if isinstance(before, Mapping) else dict.fromkeys(before)
    for name, own in changes.items():
        if own is None:
            merged.pop(name, None)
        elif isinstance(own, Mapping):
            merged[name] = {**(merged.get(name) or {}), **own}
        else:
            merged[name] = own
    return merged


def _set(node: Any, names: Sequence[str], value: Any, keeps_null: bool = False) -> Any:
    """Return ``node`` with the whole value at ``names`` replaced; null removes it."""
    name, *below = names
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        items = list(node)
        own = items[int(name)]
        items[int(name)] = _set(own, below, value, keeps_null) if below else value
        return items
    if isinstance(node, list) and name.isdecimal():
        raise RecipeError(
            f"no item {name}",
            key="--set",
            expected=f"an item from 0 to {len(node) - 1}" if node else "a list with items",
            fix="give the whole list, as in 'corpus=[{path: a.jsonl}, {path: b.jsonl}]'",
        )
    mapping = dict(node) if isinstance(node, Mapping) else {}
    if isinstance(node, list) and all(isinstance(item, str) for item in node):
        mapping = dict.fromkeys(node)  # names of sets of rules, as a mapping of their thresholds
    if value is None and not below and not keeps_null:
        mapping.pop(name, None)
    else:
        mapping[name] = _set(mapping.get(name), below, value, keeps_null) if below else value
    return mapping


def _setting(text: str) -> tuple[list[str], Any]:
    key, sign, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not sign or not all(names):
        raise RecipeError(
            key=f"--set {text}", expected="key.path=value, as in budget.tokens=1_000_000"
        )
    if len(names) > _LONGEST_KEY:
        raise RecipeError(
            key="--set", expected=f"a key of at most {_LONGEST_KEY} parts", got=len(names)
        )
    try:
        return names, read_yaml(value)
    except RecipeError as error:
        raise RecipeError(
            f"the value is not YAML: {error.problem}",
            key=f"--set {text}",
            expected="a value in YAML",
            got=value,
            fix="put a text with quotation marks, colons or # in quotation marks of YAML, inside "
            'those of the shell: --set \'clean.where="source == \\"wiki\\""\'',
        ) from None


_BRANCH = re.compile(r"<\w+>|\[key\]")
"""An entry of a pydantic location that names a shape or a mapping's key, not a key of ours."""


def _names(problem: Any) -> list[Any]:
    """Return the keys that lead to a pydantic problem."""
    return [part for part in problem["loc"] if not _BRANCH.fullmatch(str(part))]


def _without_echoes(problems: Sequence[Any]) -> list[Any]:
    """Leave out each missing key that a misspelt key explains."""
    misspelt = [_names(problem) for problem in problems if problem["type"] == "extra_forbidden"]
    meant = [
        [*above, near]
        for *above, name in misspelt
        for near in difflib.get_close_matches(str(name), _keys_at(above), n=1)
    ]
    return [
        problem
        for problem in problems
        if problem["type"] != "missing" or _names(problem) not in meant
    ]


def _explain(problem: Any) -> RecipeError:
    """Turn a pydantic problem into an error in the words of a recipe."""
    names = _names(problem)
    key = ".".join(map(str, names))[:_SHOWN] or None
    if problem["type"] == "extra_forbidden":
        known = _keys_at(names[:-1])
        if names[-1] in known:
            return RecipeError(
                "cannot stand beside the other keys here", key=key, fix="remove it or them"
            )
        return RecipeError(
            "unknown key", key=key, fix=did_you_mean(str(names[-1]), known).removeprefix("; ")
        )
    if problem["type"] == "missing":
        return RecipeError("missing", key=key, fix="it is required")
    if problem["type"] == "value_error":
        error = problem["ctx"]["error"]  # what our validator raised
        if isinstance(error, RecipeError):
            return error.under(key) if key else error
        return RecipeError(str(error), key=key)
    expected = problem["msg"].removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        expected = re.sub(theirs, ours, expected)
    got = f"{problem['input']!r}"
    if len(got) > _SHOWN:
        got = f"{got[:_SHOWN]}…"
    dated = isinstance(problem["input"], date) and expected == "a string"
    return RecipeError(
        key=key,
        expected=expected,
        got=f"the date {problem['input'].isoformat()}" if dated else got,
        fix="quote it" if dated else None,
    )


_WORDS = {
    "a valid tuple": "a list",
    "a valid dictionary": "a mapping",
    "a valid ": "a ",
    "a integer": "an integer",
    "^greater": "a number greater",
    "^less": "a number less",
    "^Keys should be strings": "a string as key",
    ", (got|unable|unexpected) .*": "",
    " or instance of .*": "",
}
"""Patterns in pydantic's messages, and the recipe's words for them."""


def _keys_at(names: Sequence[Any]) -> list[str]:
    """Return the valid keys of the mapping under ``names``, over all branches of a union."""
    models: list[type[BaseModel]] = [Recipe]
    for name in names:
        below: list[type[BaseModel]] = []
        for model in models:
            if isinstance(name, int):
                below.append(model)
            elif name in model.model_fields:
                below.extend(_models_in(model.model_fields[name].annotation))
            elif model is SelectorSpec:
                below.append(model)
        models = below or models
    return sorted({key for model in models for key in model.model_fields} - {"directory"})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
