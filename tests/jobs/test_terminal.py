"""Strings of strangers on the terminal, terminals without Unicode, and readers that have gone."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from click.testing import CliRunner

from penstock.display import json_line, logger_of, terminal_text, unescaped
from penstock.errors import InputError
from penstock.jobs.cli import main
from penstock.jobs.console import Console
from penstock.jobs.terminal import write_error, write_json
from tests.harness import ROOT
from tests.pools import documents, write_jsonl

HOSTILE = (
    "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m"  # clears the screen, writes to the clipboard, turns red
    "\r\npenstock: all is well\n"  # prints a line that looks like ours
    "\u202egnp.exe\u2066\u200b\u2028\ufeff\U000e0041\x7f"  # reorders, hides, ends the line
    "é:bug:[bold]x[/bold]"  # rich would make a picture and bold letters of it
)

SHOWN = (
    r"\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x0d\x0apenstock: all is well\x0a"
    r"\u202egnp.exe\u2066\u200b\u2028\ufeff\U000e0041\x7fé:bug:[bold]x[/bold]"
)


def acts(text: str) -> set[str]:
    """Return the characters of an output that act on a terminal, by Unicode's own categories."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {own for own in text if unicodedata.category(own) in kinds} - {"\n"}


def test_the_examples_are_shown_as_they_are() -> None:
    assert terminal_text(HOSTILE) == SHOWN
    assert terminal_text("a\tb\nc", keep="\n\t") == "a\tb\nc"


VISIBLE = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Format characters that are seen, before numbers and above words of Arabic, Syriac and Kaithi."""

HIEROGLYPHS = {*range(0x13430, 0x13440), *range(0x1BCA0, 0x1BCA4)}
"""Format characters that place hieroglyphs and strokes of shorthand beside each other."""


def test_every_character_that_acts_is_escaped_and_no_letter_is() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = set(terminal_text(every))
    for code, own in enumerate(every):
        kind, escaped = unicodedata.category(own), own not in shown
        if kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in VISIBLE | HIEROGLYPHS:
            assert escaped, f"U+{code:04X}"
        elif kind[0] in "LNPSZ" or kind in ("Mn", "Mc", "Me"):
            assert not escaped or code in UNSEEN, f"U+{code:04X}"


UNSEEN = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0xE0100, 0xE01F0),
}
"""Letters and marks that nobody sees: fillers, joiners, variation selectors."""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text(HOSTILE),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.text(HOSTILE), inner),
    max_leaves=8,
)


@hypothesis.given(VALUES, st.sampled_from(["utf-8", "ascii", "latin-1", "koi8-r"]))
def test_json_stays_json_of_the_same_value(value: Any, encoding: str) -> None:
    line = json_line(value, encoding)
    assert json.loads(line.encode(encoding).decode(encoding)) == value
    assert acts(line) == set() and terminal_text(line) == line


def test_json_keeps_letters_that_its_stream_can_hold() -> None:
    assert json_line({"é": "水\u202e"}) == '{"é": "水\\u202e"}'
    assert json_line({"é": "水😀"}, "latin-1") == '{"\\u00e9": "\\u6c34\\ud83d\\ude00"}'
    assert json.loads(json_line("caf\udce9")) == "caf\\xe9"


# -- whole commands ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose ids, sources, texts, fields and file names are hostile."""
    here = tmp_path_factory.mktemp("hostile")
    rows = [
        {
            **one,
            "id": f"{HOSTILE}{number}",
            "source": f"{one['source']}{HOSTILE}",
            "text": f"{HOSTILE} {one['text']} {HOSTILE}",
        }
        for number, one in enumerate(documents(60))
    ]
    name = HOSTILE.replace("/", "")
    (here / "pool").mkdir()
    write_jsonl(here / "pool" / f"{name}.jsonl", rows)
    with (here / "pool" / f"{name}.jsonl").open("ab") as file:
        file.write(b'{"id": "\x1b[2J", "text": \x1b]52;c;aGk=\x07\n')
    (here / "pool" / f"{name}.unknown\x1b[2J").write_text("no input")
    (here / "recipe.yaml").write_text(
        "work: out\ncorpus: [{path: pool}]\nbudget: {tokens: 1_000, rank: random}\n"
        "tokenizer: {train: {vocab_size: 512}}\nshards: {sequence_length: 32}\n"
        "clean: {where: 'characters > 700'}\n"
    )
    rules = "clean: {rules: [gopher]}"
    recipe = (here / "recipe.yaml").read_text()
    (here / "rules.yaml").write_text(re.sub("clean: .*", rules, recipe))
    (here / "bad.yaml").write_text(f"work: out\n{json.dumps(HOSTILE)}: 3\n")
    return here


def _command(project: Path, *arguments: str, **setting: str) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **setting}
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


ASCII = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "HOME": "/nonexistent",
}
"""A terminal that has no letter beyond ASCII, of a user without a home."""


def test_an_ascii_terminal_does_not_fail_a_finished_command(project: Path) -> None:
    """The table of sources and the JSON raised UnicodeEncodeError after all work was done."""
    done = _command(project, "curate", "recipe.yaml", "--workers", "1", **ASCII)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and done.stderr.isascii()
    assert acts(done.stdout.decode()) == acts(done.stderr.decode()) == set()
    assert b"1,000 tokens delivered" in done.stdout or b"992 of 1,000 tokens" in done.stdout
    assert b"web\\x1b[2J" in done.stdout


READERS: dict[str, tuple[str, ...]] = {
    "clean": ("clean", "rules.yaml", "--workers", "1"),
    "report": ("report", "recipe.yaml", "--workers", "1"),
    "ls": ("ls", "out"),
    "curate": ("curate", "recipe.yaml", "--workers", "1"),
    "why": ("why", "recipe.yaml", f"{HOSTILE}3", "--workers", "1", "--rules"),
    "no id": ("why", "recipe.yaml", f"{HOSTILE}!", "--workers", "1"),
    "no file": ("curate", "recipe.yaml", "--set", f"corpus=[{{path: {json.dumps(HOSTILE)}}}]"),
    "bad key": ("curate", "bad.yaml"),
    "bad value": ("curate", "recipe.yaml", "--set", f"work={HOSTILE}", "--set", "budget.tokens=x"),
    "bad directory": ("ls", HOSTILE),
    "usage": ("ls", "out", HOSTILE),
    "bad choice": ("curate", "recipe.yaml", "--runner", HOSTILE),
    "bad command": (HOSTILE,),
    "bad selector": ("selectors", HOSTILE),
    "bad rule": ("rules", HOSTILE),
}


@pytest.mark.parametrize("name", READERS)
def test_no_command_prints_what_acts_on_the_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(project)
    arguments = READERS[name]
    plain = CliRunner().invoke(main, arguments)
    assert acts(plain.output) == set(), plain.output
    assert not re.search(r"^penstock: all is well", plain.output, re.M), "a forged line"
    if plain.exit_code == 0:
        asked = CliRunner().invoke(main, [*arguments, "--json"])
        assert acts(asked.stdout) == set()
        json.loads(asked.stdout.splitlines()[-1])
    else:
        assert plain.exit_code == 2 or "!" in arguments[-1] + arguments[-3]


def test_what_is_printed_is_the_id_itself(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither markup nor emoji of rich: ids are looked up by what is seen."""
    monkeypatch.chdir(project)
    told = CliRunner().invoke(main, READERS["why"]).stdout
    assert told.startswith(f"{SHOWN}3 (")
    (fate,) = json.loads(CliRunner().invoke(main, [*READERS["why"], "--json"]).stdout)["fates"]
    assert fate["id"] == f"{HOSTILE}3"


def test_the_report_keeps_directions_apart(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An override of direction in a source would reverse the numbers beside it."""
    monkeypatch.chdir(project)
    told = CliRunner().invoke(main, [*READERS["report"], "--json"])
    page = Path(json.loads(told.stdout.splitlines()[-1])["report"]).read_text(encoding="utf-8")
    assert r"\u202egnp.exe\u2066" in page and not set("\u202e\u2066\x1b\x9b") & set(page)
    isolated = re.compile(r'<(bdi|pre|text class="t[^>]*|div class="text"[^>]*)>.*?</', re.S)
    assert not acts(isolated.sub("", page))


def test_errors_logs_and_faults_of_ours_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_error(f"penstock: {InputError(HOSTILE, file=HOSTILE, got=HOSTILE)}")
    handler = logging.StreamHandler(sys.stderr)
    log = logger_of("penstock.test")
    log.addHandler(handler)
    log.warning("%s: %s", HOSTILE, 3)
    log.removeHandler(handler)
    Console().progress(HOSTILE)

    def fail(*_: Any) -> None:
        raise LookupError(HOSTILE)

    monkeypatch.setattr("penstock.jobs.listing.list_artefacts", fail)
    assert CliRunner().invoke(main, ["ls", "x"]).exit_code == 1
    told = capsys.readouterr().err
    assert acts(told) == set() and not re.search(r"^penstock: all is well", told, re.M)
    assert told.count(SHOWN) == 3  # the file of the error, the log, the progress


# -- readers that have gone -------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [READERS["ls"], ("ls", "out", "--json")])
def test_a_reader_that_has_gone_does_not_fail_a_finished_command(
    project: Path, arguments: tuple[str, ...]
) -> None:
    """As in ``penstock ls out | head -n 0``: "Broken pipe", and status 1."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0 and b"roken pipe" not in done.stderr


def test_json_reaches_a_stream_without_an_encoding() -> None:
    stream = io.StringIO()
    write_json({"a": "é\x9b"}, stream)
    assert stream.getvalue() == '{"a": "é\\u009b"}\n'


@hypothesis.given(st.text())
def test_a_text_as_it_is_shown_is_read_back(text: str) -> None:
    """All but those that have a backslash of their own before what could be an escape."""
    own = text.replace("\\", "/")
    assert unescaped(terminal_text(own)) == own
    assert terminal_text(unescaped(text)) == terminal_text(text)


@pytest.mark.parametrize("text", [r"\x41", r"C:\users\u0041", r"\Uffffffff", r"\x1", "\\"])
def test_what_is_no_escape_of_ours_stays(text: str) -> None:
    assert unescaped(text) == text
