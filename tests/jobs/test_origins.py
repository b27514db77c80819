"""The file of a document: an input of the recipe, whatever else was read before."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from penstock.jobs.cli import main
from penstock.jobs.origins import Origins
from penstock.pipeline.reading.finding import find_inputs
from penstock.pipeline.reading.inputs import with_hub_hash
from penstock.recipe_file import parse_recipe

OLD, NEW = "a" * 40, "b" * 40


def texts(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "text": f"water and bread of town {name}"} for name in names]


def jsonl(*names: str) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in texts(*names))


def run(command: str, directory: Path, corpus: Any, *options: str) -> Any:
    recipe = directory / "recipe.yaml"
    items = [{"path": corpus}] if isinstance(corpus, str) else corpus
    tree = {"corpus": items, "budget": {"tokens": 16, "rank": "random"}}
    recipe.write_text(json.dumps(tree))
    runner = () if command == "why" else ("--workers", "1")
    arguments = [command, str(recipe), *options, *runner]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done


def fates(directory: Path, corpus: Any, name: str) -> list[dict[str, Any]]:
    done = run("why", directory, corpus, name, "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["fates"]
    return found


def test_the_file_is_an_input_of_the_recipe(tmp_path: Path) -> None:
    """The same bytes were read at other paths, before and after it in the order of names."""
    content = jsonl("1", "2")
    for name in ("a", "m", "z"):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
        run("clean", tmp_path, f"{name}.jsonl")
    for name in ("a", "z"):
        (tmp_path / f"{name}.jsonl").unlink()
    assert [one["file"] for one in fates(tmp_path, "m.jsonl", "2")] == [f"{tmp_path}/m.jsonl"]
    (tmp_path / "copy").mkdir()
    for name in ("b", "c"):
        shutil.copy(tmp_path / "m.jsonl", tmp_path / "copy" / f"{name}.jsonl")
    run("clean", tmp_path, "copy")
    found = {one["fate"]: one["file"] for one in fates(tmp_path, "copy", "2")}
    assert found == {"kept": f"{tmp_path}/copy/b.jsonl", "dropped": f"{tmp_path}/copy/c.jsonl"}


WARC = b"".join(
    b"WARC/1.0\r\nWARC-Type: %b\r\nWARC-Record-ID: <w>\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 16\r\n\r\nwater in archive\r\n\r\n" % kind
    for kind in (b"warcinfo", b"conversion")
)


@pytest.mark.parametrize(
    ("name", "content", "key", "place"),
    [
        ("a.jsonl", jsonl("1", "x"), "x", ("line", 2)),
        ("a.json", b"[" + jsonl("1", "x").strip().replace(b"\n", b",") + b"]", "x", ("element", 2)),
        ("a.csv", b"id,text\n1,water\nx,bread\n", "x", ("line", 3)),
        ("a.wet", WARC, "w", ("record", 2)),
        ("a.parquet", b"", "x", ("row", 3)),
        ("a.md", b"# Water\n\nbread\n", "", None),
        ("a.txt", b"water\nbread\n", "", None),
    ],
)
def test_the_place_has_the_word_of_its_format(
    tmp_path: Path, name: str, content: bytes, key: str, place: tuple[str, int] | None
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(texts("1", "2", "x")), path)
    run("clean", tmp_path, name)
    if not key:
        (unit,) = (tmp_path / "work").glob("corpus/*/unit-*.parquet")
        (key,) = pq.read_table(unit)["id"].to_pylist()
    (fate,) = fates(tmp_path, name, key)
    words = f"{place[0]} {place[1]}" if place else None
    assert (fate["line"], fate["place"]) == (place[1] if place else 1, words)
    lines = run("why", tmp_path, name, key).stdout.splitlines()
    assert f"  file: {path}{f', {words}' if words else ''}" in lines
    assert not [line for line in lines if line.startswith("  line")]


def test_a_file_that_is_one_document_is_found_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its text, by whose hash it is named, is another file's, and where it is bad."""
    pool = tmp_path / "pool"
    (pool / "in").mkdir(parents=True)
    (pool / "a.md").write_text("# Water\n\nbread\n")
    (pool / "in" / "a.md").write_text("# Water\n\nbread\n")
    (pool / "in" / "b.html").write_text("<p>the mill and its wheel</p>")
    (pool / "c.txt").write_bytes(b"caf\xe9")
    (pool / "d.jsonl").write_bytes(jsonl("1", "2"))
    run("clean", tmp_path, "pool")
    found = {}
    for name in ("pool/a.md", "pool/in/a.md", "pool/in/b.html", "pool/c.txt"):
        (fate,) = fates(tmp_path, "pool", name)
        assert fate["file"] == str(tmp_path / name)
        found[name] = (fate["fate"], fate.get("text"))
        assert fates(tmp_path, "pool", str(tmp_path / name)) == [fate]
    assert sorted([found.pop("pool/a.md")[0], found.pop("pool/in/a.md")[0]]) == ["dropped", "kept"]
    assert found == {
        "pool/in/b.html": ("kept", "the mill and its wheel"),
        "pool/c.txt": ("quarantined", r"caf\xe9"),
    }
    monkeypatch.chdir(pool / "in")
    assert fates(tmp_path, "pool", "b.html")[0]["file"] == str(pool / "in" / "b.html")
    (same,) = {one["id"] for one in fates(tmp_path, "pool", "a.md")}
    assert len(fates(tmp_path, "pool", same)) == 2
    for name, error in (("pool/d.jsonl", "begins with line 1"), ("pool/e.md", "has this id")):
        done = CliRunner().invoke(main, ["why", str(tmp_path / "recipe.yaml"), name])
        assert done.exit_code == 2
        assert error in done.stderr


def test_a_file_that_is_not_read_is_named_with_the_reason(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    for name, content in (
        ("notes/a.jsonl", jsonl("1", "2")),
        ("notes/c.jsonl", jsonl("3")),
        ("more/c.jsonl", jsonl("4")),
        ("notes/extra.rst", b"not read"),
        ("notes/other.md", b"not of the pattern"),
    ):
        (pool / name).parent.mkdir(parents=True, exist_ok=True)
        (pool / name).write_bytes(content)
    corpus = "pool/**/*.jsonl"
    run("clean", tmp_path, corpus)
    (fate,) = fates(tmp_path, corpus, "a.jsonl:2")
    assert (fate["id"], fate["line"]) == ("2", 2)
    for name, parts in (
        ("pool/notes/extra.rst", ["extra.rst: this file is not read", "ending", ".jsonl"]),
        ("pool/notes/extra.rst:3", ["extra.rst: this file is not read", "ending"]),
        ("pool/notes/other.md", ["other.md: this file is not read", "`corpus`"]),
        ("a.jsonl", ["1 input file has this name: pool/notes/a.jsonl"]),
        ("c.jsonl:1", ["2 input files have this name: pool/more/c.jsonl, pool/notes/c.jsonl"]),
        ("nobody", ["no document of the corpus has this id"]),
    ):
        done = CliRunner().invoke(main, ["why", str(tmp_path / "recipe.yaml"), name])
        assert done.exit_code == 2
        for part in parts:
            assert part in done.stderr


def test_a_line_that_is_of_no_record_is_explained(tmp_path: Path) -> None:
    """Files of other keys, hidden names, missing files, and lines within a quoted field."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "table.csv").write_text(
        'id,text\na,water\nb,"wine\nand\n\nbread"\nc,mill\n'
    )
    for name in ("held.jsonl", "goal.jsonl", ".own.jsonl", "other.jsonl"):
        (tmp_path / name).write_bytes(jsonl(name))
    tree = {
        "corpus": [{"path": "pool"}],
        "evaluate": ["held.jsonl"],
        "select": {"near": {"use": "dsir", "target": ["goal.jsonl"]}},
        "budget": {"tokens": 16, "rank": "near"},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(tree))
    done = CliRunner().invoke(main, ["clean", str(recipe), "--workers", "1"])
    assert done.exit_code == 0, done.stderr

    def why(name: str) -> str:
        done = CliRunner().invoke(main, ["why", str(recipe), name])
        assert done.exit_code == 2, done.stdout
        return done.stderr

    for name, key in (("held.jsonl:1", "evaluate"), ("goal.jsonl", "select.near.target")):
        said = why(str(tmp_path / name))
        assert f"`{key}` names it" in said and "add it to" not in said
    assert "hidden name" in why(".own.jsonl:1")
    assert "add it to `corpus`" in why("other.jsonl:1") and "hidden" not in why("other.jsonl")
    for line in (4, 5, 6):
        said = why(f"table.csv:{line}")
        assert f"line {line}:" in said and "the record at line 3" in said
    assert "count from 1" in why(f"{tmp_path}/pool/table.csv:0")
    assert "count from 1" in why("table.csv:0")
    assert "no such file" in why("pool/nothere.jsonl:3")


def test_an_id_that_is_a_path_hides_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.md").write_text("water in a note")
    (tmp_path / "pool" / "b.jsonl").write_bytes(
        jsonl("pool/a.md", "pool/b.jsonl:2", "pool/b.jsonl:1", "pool/b.jsonl")
    )
    run("clean", tmp_path, "pool")
    for name, expected in (
        (f"{tmp_path}/pool/a.md", [("a.md", None)]),
        ("pool/a.md", [("b.jsonl", 1), ("a.md", None)]),
        ("pool/b.jsonl:2", [("b.jsonl", 2)]),
        ("pool/b.jsonl:1", [("b.jsonl", 3), ("b.jsonl", 1)]),
        ("pool/b.jsonl", [("b.jsonl", 4)]),
    ):
        found = fates(tmp_path, "pool", name)
        got = [(Path(one["file"]).name, one["place"] and one["line"]) for one in found]
        assert got == expected, name


def test_a_dataset_has_the_name_that_the_recipe_gives_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(texts(name)), tmp_path / name / "train.parquet")
    corpus = [{"path": f"hf:{name}"} for name in ("one", "two")]
    run("clean", tmp_path, corpus)
    for name in ("one", "two"):
        (fate,) = fates(tmp_path, corpus, name)
        assert (fate["file"], fate["line"], fate["place"]) == (f"hf:{name}", 1, "row 1")


def test_a_dataset_of_the_hub_is_named_without_the_network(tmp_path: Path) -> None:
    corpus = [{"path": f"hf:own/data@{OLD}"}, {"path": "hf:own/more", "revision": "v1"}]
    tree = {"corpus": corpus, "budget": {"tokens": 16, "rank": "random"}}
    recipe = parse_recipe(tree, tmp_path)
    pinned = [
        with_hub_hash(item, commit)
        for item, commit in zip(find_inputs(recipe).inputs, (OLD, NEW), strict=True)
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", item.digest) for item in pinned)
    files = [[item.digest, item.reading] for item in reversed(pinned)]
    stub: Any = SimpleNamespace(
        manifest={"inputs": {"files": files}}, path=tmp_path / "work" / "corpus" / "x"
    )
    origins = Origins(stub, recipe)
    assert [origins.file(number) for number in (0, 1, None)] == [
        "hf:own/more",
        f"hf:own/data@{OLD}",
        None,
    ]


def record(name: str, *fields: str, length: int | None = 5, body: str = "water") -> bytes:
    own = [f"WARC-Record-ID: <{name}>", "Content-Type: text/plain", *fields]
    own += [] if length is None else [f"Content-Length: {length}"]
    head = "\r\n".join(["WARC/1.0", "WARC-Type: conversion", *own])
    return f"{head}\r\n\r\n{body}\r\n\r\n".encode()


def test_quarantined_records_of_archives_and_tables_have_their_ids(tmp_path: Path) -> None:
    archive = [
        record("sound"),
        record("digest", "WARC-Block-Digest: sha1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        record("no length", length=None),
        record("huge", length=10**15),
        record("wrong length", length=3),
        record("cut", length=500),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(archive))
    body = random.Random(1).randbytes(100_000).hex()
    whole = gzip.compress(record("in gzip", length=len(body), body=body))
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(record("first")) + whole[:-9_000])
    rows = [
        b"n,id,text",
        b"1,good,water",
        b"2,few",
        b"3,many,water,bread",
        b"4,latin,caf\xe9",
        b"5,b\xe9d,water",
        b'6,quote,"water',
        b"7,last,bread",
    ]
    (tmp_path / "c.csv").write_bytes(b"\n".join(rows) + b"\n")
    (tmp_path / "d.csv").write_bytes(b'n,id,text\n8,"in an id,bread\n')
    done = run("clean", tmp_path, ".")
    (corpus,) = (tmp_path / "work" / "corpus").iterdir()
    assert f"quarantined records, with their errors: {corpus}/quarantine-*\n" in done.stdout
    assert "by file: a.warc 5, c.csv 5, b.warc.gz 1, and 1 in 1 other file\n" in done.stdout
    found: dict[str, list[str | None]] = {}
    for path in sorted(corpus.glob("quarantine-*")):
        for bad in map(json.loads, path.read_text().splitlines()):
            found.setdefault(bad["file"], []).append(bad.get("id"))
    assert found == {
        "a.warc": ["digest", "no length", "huge", "wrong length", "cut"],
        "b.warc.gz": ["in gzip"],
        "c.csv": ["few", "many", "latin", None, "quote"],
        "d.csv": [None],
    }
    for name in ("digest", "cut", "many", "quote"):
        assert [one["fate"] for one in fates(tmp_path, ".", name)] == ["quarantined"]
