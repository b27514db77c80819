"""Attack: a named pipe where a file is expected. Nothing waits for its writer.

Another user who may write to a directory can put one there; without these checks the command
hangs, and with it whatever it has locked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.array_files import load_array
from penstock.errors import PenstockError, RecipeError, StorageError
from penstock.pipeline.reading.dataset_texts import check_text
from penstock.recipe_file import load_recipe
from penstock.rules.languages.model_file import ModelFile
from penstock.selectors.targets import read_targets, targets_in
from penstock.tokenization.definition import DeclaredTokens
from penstock.tokenization.examining import examined

READERS: dict[str, Callable[[Path], Any]] = {
    "recipe.yaml": load_recipe,
    "target.jsonl": lambda path: targets_in([path]),
    "evaluation.jsonl": read_targets,
    "tokenizer.json": examined,
    "tokenizer_config.json": DeclaredTokens.read,
    "language.bin": lambda path: ModelFile.find(str(path), "language"),
    "array.npy": load_array,
    "text.jsonl": check_text,
}


@pytest.mark.parametrize("name", READERS)
def test_a_named_pipe_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    found: list[BaseException] = []

    def read() -> None:
        try:
            READERS[name](path)
        except BaseException as error:
            found.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    if reader.is_alive():  # the old code: let it end
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        pytest.fail("it waits for a writer")
    (error,) = found
    assert isinstance(error, PenstockError)
    assert error.file == str(path) and error.got == "a special file"
    assert isinstance(error, RecipeError if name == "recipe.yaml" else StorageError)
