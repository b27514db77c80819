"""A secret is found in every form in which a server may repeat it."""

from __future__ import annotations

import base64
import html
import json
import string
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import InputError, RecipeError
from penstock.jobs.report import page
from penstock.recipe_file import parse_recipe
from penstock.redaction import Secret, mask_addresses, mask_values
from penstock.storage import path_problem

KEY = 'sk-proj_Ab/9+=c"d\\e&f<g%h'
"""With characters that each encoder escapes."""

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": json.dumps,
    "json with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "json, all": lambda text: "".join(f"\\u{ord(one):04X}" for one in text),
    "json in json": lambda text: json.dumps(json.dumps({"k": json.dumps(text)})),
    "bytes": lambda text: "".join(f"\\x{ord(one):02x}" for one in text),
    "percent": urllib.parse.quote,
    "percent, all": lambda text: "".join(f"%{ord(one):02x}" for one in text),
    "percent twice": lambda text: urllib.parse.quote(urllib.parse.quote_plus(text), safe=""),
    "html": html.escape,
    "html twice": lambda text: html.escape(html.escape(text)),
    "html, decimal": lambda text: "".join(f"&#{ord(one)};" for one in text),
    "html, hexadecimal": lambda text: "".join(f"&#x0{ord(one):X};" for one in text),
    "html, named": lambda text: text.replace("_", "&lowbar;").replace("/", "&sol;"),
    "quoted-printable": lambda text: "".join(f"={ord(one):02X}" for one in text),
    "hexadecimal": lambda text: text.encode().hex().upper(),
    "json of html": lambda text: json.dumps(html.escape(text)),
    "mixed": lambda text: "".join(
        [str, "\\u{:04x}".format, "%{:02x}".format][n % 3](one if n % 3 == 0 else ord(one))
        for n, one in enumerate(text)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_each_form(form: str) -> None:
    found = Secret(KEY).mask(f"denied: {FORMS[form](KEY)}; ask")
    assert found.startswith("denied: ") and found.endswith("; ask") and "***" in found
    for part in (KEY[:6], FORMS[form](KEY[3:9])):
        assert part.strip('"') not in found


@pytest.mark.parametrize("before", ["", "x", "xy", "Bearer ", "Authorization: Bearer "])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_within_a_base64_is_masked(before: str, encode: Callable[[bytes], bytes]) -> None:
    for after in ("", "x", "\r\nHost: a"):
        text = encode(f"{before}{KEY}{after}".encode()).decode()
        for shown in (text, json.dumps(text).replace("/", "\\/"), urllib.parse.quote(text, "")):
            found = Secret(KEY).mask(f"a {shown} b")
            assert "***" in found
            assert encode(KEY.encode()).decode()[4:12] not in found
            assert len(found) < len(shown) - len(KEY)


@settings(max_examples=40)
@given(
    st.text(string.ascii_letters + "-_.", min_size=8, max_size=20),
    st.text("0123456789 ~é\n"),
    st.sampled_from(sorted(FORMS)),
)
def test_the_rest_of_a_text_stays(secret: str, text: str, form: str) -> None:
    masked = Secret(secret).mask(f"{text}{FORMS[form](secret)}{text}")
    assert masked.startswith(text) and masked.endswith(text) and "***" in masked
    assert secret not in masked and FORMS[form](secret).strip('"') not in masked
    assert Secret(secret).mask(text) == text == Secret("").mask(text)


def test_hostile_texts_cost_linear_time() -> None:
    """Runs of what begins an escape, of twice the length, take about twice the time."""
    secret = Secret(KEY)
    for run in ("\\", "%25", "&amp;", "&#0", "s", "sk-", "="):
        spent = []
        for length in (20_000, 80_000):
            began = time.process_time()
            secret.mask(run * (length // len(run)))
            spent.append(time.process_time() - began)
        assert spent[1] < 16 * spent[0] + 0.05, run


def test_the_secret_is_not_shown() -> None:
    assert KEY not in repr(Secret(KEY))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@proxy:3128/x failed", "http://***@proxy:3128/x failed"),
        ("https://TOKEN@host", "https://***@host"),
        (
            "s3://b/x?X-Amz-Credential=AK%2F1&X-Amz-Date=2&X-Amz-Signature=ab12#f",
            "s3://b/x?X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Signature=***#f",
        ),
        ("https://h/x?sig=a%2Bb&sv=1&api_key=k", "https://h/x?sig=***&sv=1&api_key=***"),
        ("hf://datasets/own/data@sha/x.csv", "hf://datasets/own/data@sha/x.csv"),
        ("s3://bucket/tokens=5/key=7/x", "s3://bucket/tokens=5/key=7/x"),
        ("https://h/x?page=2&monkey=1", "https://h/x?page=2&monkey=1"),
        ("me@host, a://", "me@host, a://"),
    ],
)
def test_secrets_of_addresses_are_masked(text: str, expected: str) -> None:
    assert mask_addresses(text) == expected


@pytest.mark.parametrize(
    "key",
    [
        *("api_key", "API-KEY", "openai_api_key", "password", "client.secret", "hf_token"),
        *("aws_secret_access_key", "access_token", "credentials", "apikey"),
    ],
)
def test_settings_are_stored_without_secrets(tmp_path: Path, key: str) -> None:
    """As parameters of a user's own function, in the manifests of what it made."""
    config = {"own": [{"parameters": {key: "hunter2", "more": {"deep": 1}}}]}
    draft = Workspace(tmp_path).draft("stage", 1, config, {})
    artefact = draft.publish([], {})
    (stored,) = artefact.manifest["config"]["own"]
    assert stored["parameters"] == {key: "***", "more": {"deep": 1}}
    assert b"hunter2" not in (draft.path / "manifest.json").read_bytes()
    other = {"own": [{"parameters": {key: "hunter3", "more": {"deep": 1}}}]}
    assert Workspace(tmp_path).draft("stage", 1, other, {}).fingerprint != artefact.fingerprint


def test_a_report_shows_a_recipe_without_secrets(tmp_path: Path) -> None:
    own = {"use": "mine:score", "api_key": "hunter2", "power": 2, "url": "https://a:hunter2@h/x"}
    tree = {
        "corpus": {"path": "pool"},
        "select": {"mine": own},
        "budget": {"tokens": 1, "rank": "mine"},
    }
    shown = page._shown(parse_recipe(tree, tmp_path))
    assert "hunter2" not in shown
    found = yaml.safe_load(shown)["select"]["mine"]
    expected = {**own, "api_key": "***", "url": "https://***@h/x"}
    assert {key: found[key] for key in own} == expected


@pytest.mark.parametrize(
    "key", ["key_variable", "tokens", "eos_token", "key", "secretary", "tokenizer", "token"]
)
def test_other_settings_stay(key: str) -> None:
    assert mask_values({key: "a", "api_key": 5}) == {key: "a", "api_key": 5}


def test_a_recipe_takes_no_address_with_a_password(tmp_path: Path) -> None:
    for path in ("s3://me:hunter2@bucket/x", "s3://TOKEN@bucket"):
        tree = {"corpus": {"path": path}, "budget": {"tokens": 1, "rank": "random"}}
        with pytest.raises(RecipeError) as info:
            parse_recipe(tree, tmp_path)
        assert "hunter2" not in str(info.value) and "TOKEN" not in str(info.value)
    assert path_problem("s3://bucket/x@y") is None


def test_errors_show_no_secret_of_an_address() -> None:
    error = InputError("no answer", file="https://me:hunter2@host/x", got="s3://b?token=hunter2")
    assert "hunter2" not in str(error) and "host/x" in str(error)
