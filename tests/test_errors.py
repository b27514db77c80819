"""Errors: their fields, the sentence of them, and their pickles."""

from __future__ import annotations

import pickle

import pytest

from penstock.errors import BadInput, Failure, InputError, PenstockError, RecipeError


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"problem": "not JSON"}, "not JSON"),
        (
            {"key": "budget.tokens", "expected": "a positive integer", "got": -5},
            "budget.tokens: expected a positive integer, got -5",
        ),
        (
            {"key": "corpus.0.path", "file": "a.jsonl:17", "problem": "not JSON", "fix": "mend it"},
            "corpus.0.path: a.jsonl:17: not JSON; mend it",
        ),
        ({"file": "m", "problem": "no model", "expected": "x.bin"}, "m: no model, expected x.bin"),
        ({"got": "nothing", "fix": "give one"}, "got nothing; give one"),
    ],
)
def test_the_sentence(fields: dict[str, object], sentence: str) -> None:
    assert str(PenstockError(**fields)) == sentence  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["problem", "key", "file", "expected", "got"])
def test_a_long_text_keeps_its_beginning_and_its_fix(field: str) -> None:
    """Names and values of strangers' files are as long as the files."""
    error = PenstockError(**{"key": "k", field: "\x00" * 300_000, "fix": "mend it"})  # type: ignore[arg-type]
    assert 3000 < len(str(error)) < 4000 and str(error).endswith("mend it")
    assert getattr(pickle.loads(pickle.dumps(error)), field) == "\x00" * 300_000
    assert str(PenstockError("x" * 4000)) == "x" * 4000


def test_a_key_goes_in_front() -> None:
    assert RecipeError("x", key="use").under("select.a").key == "select.a.use"
    assert str(RecipeError("x").under("select.a")) == "select.a: x"


@pytest.mark.parametrize("kind", [RecipeError, InputError, Failure])
def test_fields_survive_a_pickle(kind: type[PenstockError]) -> None:
    error = kind("p", key="k", file="f:1", expected="e", got=3, fix="x")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind and vars(back) == vars(error) and str(back) == str(error)


def test_exit_statuses() -> None:
    assert (BadInput.exit_status, Failure.exit_status) == (2, 1)
