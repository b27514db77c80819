"""A recipe's file: YAML to a validated recipe, and what is wrong with it in the recipe's words.

A problem is one line that begins with the file and the key: what was expected, what came, and the
nearest valid name. Pydantic finds the problems; the wording is ours.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from penstock.errors import RecipeError, did_you_mean
from penstock.recipe import Recipe, SelectorSpec

__all__ = ["load_recipe", "override", "parse_recipe", "validate"]


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe file.

    Args:
        path: The YAML file.
        settings: ``key.path=value`` overrides; values are YAML.

    Raises:
        RecipeError: The file is missing or not YAML, or a key or value is wrong.
    """
    path = Path(path)
    try:
        tree = _read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; expected a recipe in YAML") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a directory; expected a recipe in YAML") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}:{_yaml_problem(error)}") from None
    if tree is None:
        raise RecipeError(f"{path}: is empty; expected a mapping of recipe keys")
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: expected a mapping of recipe keys, got {type(tree).__name__}")
    for setting in settings:
        tree = _set(tree, *_setting(setting))
    return parse_recipe(tree, path.parent, where=str(path))


def parse_recipe(tree: Mapping[str, Any], directory: Path, where: str = "recipe") -> Recipe:
    """Validate a recipe given as plain data.

    Raises:
        RecipeError: One line for each problem: the key, what was expected, the fix.
    """
    recipe = validate(tree, directory, where)
    plain = recipe.model_dump(mode="json")
    for arm, changes in recipe.compare.arms.items():
        validate(override(plain, changes), directory, f"{where}: compare.arms.{arm}")
    return recipe


def validate(tree: Mapping[str, Any], directory: Path, where: str) -> Recipe:
    """Validate a recipe without its arms; otherwise as :func:`parse_recipe`."""
    if "directory" in tree:
        raise RecipeError(f"{where}: directory: not a key of a recipe; remove it")
    try:
        return Recipe.model_validate({**tree, "directory": directory.absolute()})
    except ValidationError as error:
        lines = dict.fromkeys(_explain(problem) for problem in _telling(error.errors()))
        raise RecipeError("\n".join(f"{where}: {line}" for line in lines)) from None


_WHOLE = frozenset({"rank", "shares", "draw", "model", "tokenizer", "mixture", "schedule"})
"""Keys whose mapping is one value, replaced and not merged."""


def override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with ``changes`` merged in, mapping by mapping; neither argument is changed.

    A change to ``None`` takes the key away, so that a default comes back. What is one choice
    (:data:`_WHOLE`) is not merged: weights that an arm gives are all its weights.
    """
    merged = dict(tree)
    for key, value in changes.items():
        below = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below, Mapping) and key not in _WHOLE:
            merged[key] = override(below, value)
        else:
            merged[key] = value
    return merged


def _set(node: Any, names: Sequence[str], value: Any) -> Any:
    """``node`` with the value at ``names`` put in the place of what is there, whole."""
    name, *below = names
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        items = list(node)
        items[int(name)] = _set(items[int(name)], below, value) if below else value
        return items
    mapping = dict(node) if isinstance(node, Mapping) else {}
    if value is None and not below:
        mapping.pop(name, None)
    else:
        mapping[name] = _set(mapping.get(name), below, value) if below else value
    return mapping


def _setting(text: str) -> tuple[list[str], Any]:
    key, sign, value = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not sign or not all(names):
        raise RecipeError(f"--set {text}: expected key.path=value, as in budget.tokens=1_000_000")
    try:
        return names, _read_yaml(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: the value: {_yaml_problem(error)}") from None


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 as people write it: ``3e-3`` is a number, and no key may be given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in getattr(node, "value", ()):
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            if key.value in lines:
                problem = (
                    f"the key {key.value!r} was already given in line {lines[key.value]}; "
                    "remove one of them"
                )
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _RecipeLoader)  # a SafeLoader: builds plain data only


def _yaml_problem(error: yaml.YAMLError) -> str:
    """``line: what is wrong``, without the excerpt that YAML adds."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f" not YAML: {' '.join(str(error).split())}"
    context = getattr(error, "context", None)
    problem = ", ".join(part for part in (getattr(error, "problem", None), context) if part)
    return f"{mark.line + 1}: {problem}"


_BRANCH = re.compile(r"<\w+>|\[key\]")
"""An entry of a pydantic location that names a shape or a mapping's key, not a key of ours."""


def _names(problem: Any) -> list[Any]:
    """The keys that lead to a pydantic problem."""
    return [part for part in problem["loc"] if not _BRANCH.fullmatch(str(part))]


def _telling(problems: Sequence[Any]) -> list[Any]:
    """The problems without the missing keys that a misspelt one explains."""
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


def _explain(problem: Any) -> str:
    """One line for one pydantic problem, in the words of the recipe."""
    names = _names(problem)
    key = ".".join(str(part) for part in names)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(names[:-1])
        if names[-1] in known:
            return f"{key}: cannot stand beside the other keys here; remove it or them"
        return f"{key}: unknown key{did_you_mean(str(names[-1]), known)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it is required"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    expected = message.removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        expected = re.sub(theirs, ours, expected)
    return f"{key}: expected {expected}, got {problem['input']!r}"


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
"""Pydantic's words and ours."""


def _keys_at(names: Sequence[Any]) -> list[str]:
    """The valid keys of the mapping at a place in the recipe, over all branches of a union."""
    models: list[Any] = [Recipe]
    for name in names:
        below: list[Any] = []
        for model in models:
            if isinstance(name, int):
                below.append(model)
            elif name in getattr(model, "model_fields", {}):
                below.extend(_models_in(model.model_fields[name].annotation))
            elif isinstance(model, type) and model in (SelectorSpec,):
                below.append(model)
        models = below or models
    keys = {key for model in models for key in model.model_fields}
    return sorted(keys - {"directory"})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
