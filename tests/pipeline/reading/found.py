"""The input files of small recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import InputError
from penstock.pipeline.reading.finding import FoundInputs, find_inputs
from penstock.pipeline.reading.inputs import Input
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe


def recipe(directory: Path, *corpus: Any, **keys: Any) -> Recipe:
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in corpus]
    tree = {"corpus": entries, "budget": {"tokens": 1, "rank": "random"}, **keys}
    return parse_recipe(tree, directory)


def find(directory: Path, *corpus: Any, **keys: Any) -> FoundInputs:
    return find_inputs(recipe(directory, *corpus, **keys))


def names(directory: Path, *corpus: Any) -> list[str]:
    return sorted(item.name for item in find(directory, *corpus).inputs)


def only(directory: Path, *corpus: Any) -> Input:
    (found,) = find(directory, *corpus).inputs
    return found


def write(directory: Path, *files: str | bytes) -> None:
    for name in files:
        path = directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def refusal(directory: Path, *corpus: Any, **keys: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        find(directory, *corpus, **keys)
    return caught.value
