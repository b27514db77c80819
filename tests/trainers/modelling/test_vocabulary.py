"""A model to continue must have the tokenizer that made the shards."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from penstock.artefact import Workspace
from penstock.errors import RecipeError
from penstock.recipe import ModelFrom, Train
from penstock.trainers.modelling.vocabulary import check_tokenizer
from penstock.trainers.spec import RunSpec
from tests.trainers.conftest import train


@pytest.fixture
def ours(tmp_path: Path, tokenizer: Any) -> Path:
    tokenizer.save(str(tmp_path / "ours.json"))
    return tmp_path / "ours.json"


def model_with(directory: Path, tokenizer: Any, **added: int) -> Path:
    """A model's directory, whose tokenizer has more tokens, or other ids for known ones."""
    directory.mkdir()
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"] |= added
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


def test_the_same_tokenizer_is_accepted(ours: Path, tokenizer: Any, tmp_path: Path) -> None:
    check_tokenizer(str(model_with(tmp_path / "equal", tokenizer)), ours)


def test_a_tokenizer_with_more_tokens_is_accepted(
    ours: Path, tokenizer: Any, tmp_path: Path
) -> None:
    check_tokenizer(str(model_with(tmp_path / "more", tokenizer, zzz=5000)), ours)


def test_tokens_with_other_ids_are_refused(ours: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Equal names and sizes: only the contents differ."""
    vocabulary = tokenizer.get_vocab()
    first, second = vocabulary["a"], vocabulary["b"]
    model = model_with(tmp_path / "swapped", tokenizer, a=second, b=first)
    with pytest.raises(RecipeError) as info:
        check_tokenizer(str(model), ours)
    error = info.value
    assert (error.key, error.file) == ("train.model.hf", str(model))
    assert error.got and error.got.startswith(f"2 of {len(vocabulary)} tokens")
    assert f"{first} is 'a' in the shards and 'b' in the model" in error.got
    assert error.fix == f"set `tokenizer: {model}`"


def test_a_model_without_a_tokenizer_is_accepted_with_a_warning(
    ours: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_tokenizer(str(tmp_path), ours)
    assert str(tmp_path) in caplog.text


def test_a_name_that_cannot_be_one_is_refused(ours: Path) -> None:
    with pytest.raises(RecipeError) as info:
        check_tokenizer("/no/such/model", ours)
    assert info.value.key == "train.model.hf" and "/no/such/model" in (info.value.got or "")


def test_a_run_is_refused_before_a_worker_starts(
    shards: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.trainers.run._launch", lambda *_: pytest.fail("it was started"))
    model = model_with(tmp_path / "model", tokenizer, a=tokenizer.get_vocab()["b"])
    asked = Train(model=ModelFrom(hf=str(model)))
    with pytest.raises(RecipeError) as info:
        train(RunSpec(train=asked, shards=shards, seed=1), Workspace(tmp_path / "work"))
    assert info.value.key == "train.model.hf"
