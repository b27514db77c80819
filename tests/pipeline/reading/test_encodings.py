"""``corpus.encoding``: the records of a file are those of the same file in UTF-8."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InputError, RecipeError
from penstock.jobs.cli import main
from penstock.pipeline.reading.records import Bad, Extent, Record, Span
from penstock.recipe import CorpusSource
from penstock.recipe_file import parse_recipe
from tests.pipeline.reading.reference import read_records

WORDS = {
    "windows-1252": "Grüße “aus” Köln – 5 €",
    "iso-8859-15": "Grüße 5 €",
    "koi8-r": "Привет мир",
    "shift_jis": "表示ソ能 テスト",  # their second bytes are those of \ and |
    "gb18030": "简体中文① 😀",
    "big5": "繁體中文 許功蓋",
    "euc_kr": "한국어",
}
FORMATS = {
    "x.csv": ('id,text\n1,"{0}, ""a""\n{0}"\n2,{0}\n', {}),
    "x.csv.gz": ("text\n{0}\n", {}),
    "x.tsv": ("text\tn\n{0}\t{0}\n", {}),
    "x.md": ("---\ntitle: {0}\n---\n# {0}\n", {}),
    "x.txt": ("{0}\r\n{0}\n", {}),
    "x.txt.gz": ("{0}\r\n{0}\n", {"per": "line"}),
}


def read(where: Path, content: bytes, **spec: Any) -> list[Record | Bad]:
    where.write_bytes(gzip.compress(content) if where.suffix == ".gz" else content)
    return read_records(where, CorpusSource(path="x", **spec), Span(), 1 << 30, Extent())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", WORDS)
def test_records_are_those_of_utf8(encoding: str, name: str, tmp_path: Path) -> None:
    form, spec = FORMATS[name]
    text = form.format(WORDS[encoding])
    expected = read(tmp_path / name, text.encode(), **spec)
    assert expected and all(isinstance(one, Record) for one in expected)
    assert read(tmp_path / name, text.encode(encoding), encoding=encoding, **spec) == expected


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(WORDS)), st.lists(st.binary(min_size=1, max_size=8), max_size=6))
def test_a_row_is_read_where_its_bytes_are_of_the_encoding(
    encoding: str, rows: list[bytes]
) -> None:
    """Whatever a row ends with is not taken into the next."""
    rows = [b"x" + row.translate(None, b'\r\n,"\0') for row in rows]
    where = Path("/dev/shm" if Path("/dev/shm").exists() else ".") / "penstock-encoding.csv"
    try:
        found = read(where, b"text,n\n" + b"".join(b"%b,1\n" % row for row in rows),
                     encoding=encoding)  # fmt: skip
    finally:
        where.unlink(missing_ok=True)
    assert len(found) == len(rows)
    for one, row in zip(found, rows):
        try:
            text = (row + b",").decode(encoding)[:-1]
        except UnicodeDecodeError:
            assert isinstance(one, Bad) and one.error.startswith("not ")
        else:
            assert isinstance(one, Record) and one.text == text


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_another_encoding_name_the_key(name: str, tmp_path: Path) -> None:
    form, spec = FORMATS[name]
    content = form.format("caf\xe9").encode("cp1252")
    found = read(tmp_path / name, content, **spec)
    assert found and all(isinstance(one, Bad) and "`encoding`" in one.error for one in found)
    (tmp_path / name).unlink()
    content = form.format("caf\xe9 \x81").encode("latin-1")  # cp1252 has no 0x81
    found = read(tmp_path / name, content, encoding="windows-1252", **spec)
    assert found and all(isinstance(one, Bad) and "not CP1252" in one.error for one in found)


@pytest.mark.parametrize(
    "name",
    ["utf-16", "utf-32-le", "utf-7", "hz", "iso2022_jp", "cp037", "rot13", "hex", "idna", "nothing",
     "punycode", "unicode_escape", "raw_unicode_escape", "shift_jis_2004", "a\0b", ""],
)  # fmt: skip
def test_encodings_without_ascii_are_refused(name: str, tmp_path: Path) -> None:
    tree = {"corpus": [{"path": "x", "encoding": name}], "budget": {"tokens": 1, "rank": "random"}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(tree, tmp_path)
    assert caught.value.key == "corpus.0.encoding" or "encoding" in str(caught.value.key)
    assert "windows-1252" in str(caught.value)


def test_spellings_of_an_encoding_are_one() -> None:
    names = ("latin-1", "ISO-8859-1", "iso8859_1", "L1")
    assert len({CorpusSource(path="x", encoding=name).encoding for name in names}) == 1
    assert CorpusSource(path="x", encoding="UTF8").encoding == "utf-8"


def test_a_format_with_its_own_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    item = {"path": "a.jsonl", "encoding": "latin-1"}
    tree = {"corpus": [item], "budget": {"tokens": 8, "rank": "random"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    done = CliRunner().invoke(main, ["clean", str(tmp_path / "recipe.yaml"), "--workers", "1"])
    assert done.exit_code == 2
    assert "corpus.encoding" in done.stderr and "a.jsonl" in done.stderr


@pytest.mark.parametrize("name", ["a.md", "a.txt"])
@pytest.mark.parametrize("code", ["utf-16", "utf-32"])
def test_the_marks_of_utf_16_and_32_are_known(name: str, code: str, tmp_path: Path) -> None:
    (found,) = read(tmp_path / name, "caf\xe9".encode(code))
    assert isinstance(found, Bad)
    assert f"iconv -f {code.upper()} -t UTF-8" in found.error and "`encoding`" not in found.error


def test_binary_files_are_not_advised_to_name_an_encoding(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "a.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    assert isinstance(found, Bad)
    assert "binary" in found.error and "`encoding`" not in found.error


def test_a_header_in_utf_16_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.csv", "text,n\ncaf\xe9,1\n".encode("utf-16"))
    assert "UTF-16" in str(caught.value)
