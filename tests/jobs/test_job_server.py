"""The token of a cluster: where it is looked for, as Ray does, and that nothing shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.jobs.job_server import _refusal
from penstock.ray_token import find_token

VALUE = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text(f"home{VALUE}\n")
    (tmp_path / "other").write_text(f"other{VALUE}")
    return tmp_path


def test_the_first_place_that_is_set_counts(home: Path) -> None:
    named = {"RAY_AUTH_TOKEN_PATH": str(home / "other")}
    assert find_token({}).value == f"home{VALUE}"
    assert find_token(named).value == f"other{VALUE}"
    assert find_token({**named, "RAY_AUTH_TOKEN": VALUE}).value == VALUE
    assert find_token({"RAY_AUTH_TOKEN": VALUE, "RAY_AUTH_MODE": "token"}).value == VALUE
    assert find_token({"RAY_AUTH_TOKEN": VALUE, "RAY_AUTH_MODE": "disabled"}).value == ""


def test_ray_finds_the_same_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._raylet import AuthenticationTokenLoader

    loader = AuthenticationTokenLoader.instance()
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    try:
        for name, value in (
            ("UNUSED", ""),
            ("RAY_AUTH_TOKEN_PATH", str(home / "other")),
            ("RAY_AUTH_TOKEN", VALUE),
        ):
            monkeypatch.setenv(name, value)
            loader.reset_cache()
            assert loader.get_raw_token(ignore_auth_mode=True) == find_token().value
    finally:
        monkeypatch.undo()
        loader.reset_cache()


@pytest.mark.parametrize("content", ["", " \n", "two words", "caf\u00e9", "x" * 65_537])
def test_a_file_that_holds_no_token_is_named(home: Path, content: str) -> None:
    (home / "other").write_text(content)
    token = find_token({"RAY_AUTH_TOKEN_PATH": str(home / "other")})
    assert token.value == ""
    assert f"RAY_AUTH_TOKEN_PATH={home}/other: " in token.place


def test_nothing_shows_the_token(home: Path) -> None:
    token = find_token({"RAY_AUTH_TOKEN": VALUE})
    assert VALUE not in repr(token)
    assert VALUE not in str(_refusal("http://h:1", token, f"Forbidden: Bearer {VALUE}"))
