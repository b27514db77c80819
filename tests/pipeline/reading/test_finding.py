"""Which files a corpus is: found once each, and nothing is left out without a word."""

from __future__ import annotations

import glob
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.display import encodable, printable
from penstock.errors import InputError, RecipeError
from penstock.recipe import LiteralSource
from penstock.storage import as_path
from tests.pipeline.reading.found import find, names, only, refusal, write


@pytest.fixture(autouse=True)
def same_directory() -> Iterator[None]:
    """Some tests change the current directory; those of other files do not expect it."""
    before = os.getcwd()
    yield
    os.chdir(before)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write(
        tmp_path / "pool",
        *("a.jsonl", "b.jsonl.zst", "sub/c.parquet", "sub/deep/d.txt", "read.me"),
    )
    return tmp_path


# -- paths, directories, patterns -------------------------------------------------------------


def test_files_directories_and_patterns(pool: Path) -> None:
    assert names(pool, "pool/a.jsonl") == ["pool/a.jsonl"]
    assert names(pool, "pool") == [
        "pool/a.jsonl",
        "pool/b.jsonl.zst",
        "pool/sub/c.parquet",
        "pool/sub/deep/d.txt",
    ]
    assert names(pool, "pool/**") == names(pool, "pool")
    assert names(pool, "pool/*.jsonl*") == ["pool/a.jsonl", "pool/b.jsonl.zst"]
    assert names(pool, "pool/**/*.parquet") == ["pool/sub/c.parquet"]
    assert names(pool, "p*/s?b/d[ef]ep/*") == ["pool/sub/deep/d.txt"]
    assert names(pool, str(pool / "pool" / "*.jsonl")) == ["pool/a.jsonl"]
    assert names(pool, f"file://{pool}/p*/*.jsonl") == ["pool/a.jsonl"]
    assert names(pool, f"file://{pool}/pool", "pool/sub") == names(pool, "pool")


@pytest.mark.parametrize(
    ("path", "file", "named"),
    [
        ("pool/none.jsonl", "pool/none.jsonl", "no such file"),
        ("pool/*.arrow", "pool/*.arrow", "no file"),
        ("none/*.arrow", "none/*.arrow", "no file"),
        ("pool/read.me", "pool/read.me", "unknown kind"),
        ("pool/*", "pool/read.me", "unknown kind"),
        ("empty", "empty", "no file"),
        ("x.jsonl", "x.jsonl", "no file"),
        ("*.jsonl", "*.jsonl", "no file"),
    ],
)
def test_a_path_without_input_files_is_refused_with_its_key(
    pool: Path, path: str, file: str, named: str
) -> None:
    (pool / "empty").mkdir()
    (pool / "x.jsonl").mkdir()
    error = refusal(pool, path)
    assert (error.key, error.file) == ("corpus.0.path", str(pool / file))
    assert named in error.problem


def test_a_directory_that_a_pattern_matches_is_read_as_one(tmp_path: Path) -> None:
    write(tmp_path, "d/y1.parquet/part-0.parquet", "d/y1.parquet/_SUCCESS", "d/y2.parquet/a/b.txt")
    found = find(tmp_path, "d/*.parquet")
    assert sorted(item.name for item in found.inputs) == [
        "d/y1.parquet/part-0.parquet",
        "d/y2.parquet/a/b.txt",
    ]
    assert found.left_out == {"hidden": 1}


def test_an_item_with_a_format_reads_files_of_any_ending(pool: Path) -> None:
    """`.rst` and `.py` had to be renamed."""
    write(pool / "pool", "notes.rst", "sub/code.py", "_hidden.rst")
    text = {"path": "pool", "format": "text"}
    assert names(pool, text) == [
        "pool/a.jsonl", "pool/b.jsonl.zst", "pool/notes.rst", "pool/read.me", "pool/sub/c.parquet",
        "pool/sub/code.py", "pool/sub/deep/d.txt",
    ]  # fmt: skip
    found = find(pool, "pool/*.jsonl", {"path": "pool/**/*.py", "format": "text"}, "pool/sub")
    own = next(item for item in found.inputs if item.name == "pool/sub/code.py")
    assert own.spec.source == LiteralSource(name="pool")
    assert "other_kinds" not in found.left_out, "it is read"
    assert names(pool, {"path": "pool/read.me", "format": "text"}) == ["pool/read.me"]
    assert "pool/read.me" not in names(pool, "pool", {"path": "pool/*.rst", "format": "text"})
    for path in ("pool/read.me", "pool/*"):
        assert "format: text" in str(refusal(pool, path).fix)
    with pytest.raises(RecipeError):
        find(pool, {"path": "pool", "format": "rst"})
    assert refusal(pool, {"path": "hf:pool", "format": "text"}).expected


def test_a_corpus_without_a_format_has_the_fingerprint_that_it_had(pool: Path) -> None:
    plain, text = only(pool, "pool/a.jsonl"), only(pool, {"path": "pool/a.jsonl", "format": "text"})
    assert "format" not in plain.reading and text.reading["format"] == "text"


def test_a_directory_of_hidden_names_alone_says_so(tmp_path: Path) -> None:
    write(tmp_path, "d/.a.jsonl", "d/_b.csv", "d/c.xyz")
    with pytest.raises(InputError) as caught:
        find(tmp_path, "d")
    assert caught.value.got == (
        "only names that begin with . or _: 2 (d/.a.jsonl, d/_b.csv), "
        "files of other kinds: 1 (1 .xyz)"
    )


def test_brackets_of_a_name_that_exists_are_no_pattern(tmp_path: Path) -> None:
    odd = tmp_path / "run [1]"
    write(odd, "a[2].jsonl", "a2.jsonl", "b [x]/c.jsonl", "b x/d.jsonl", "*.txt", "e.txt")
    assert names(odd, "a[2].jsonl") == ["a[2].jsonl"]
    assert names(odd, "a[12].jsonl") == ["a2.jsonl"]
    assert names(odd, "b [x]/*.jsonl") == ["b [x]/c.jsonl"]
    assert names(odd, "b [xy]/*.jsonl") == ["b x/d.jsonl"]
    # A name that the pattern matches, too, does not hide the others.
    assert names(odd, "*.txt") == ["*.txt", "e.txt"]
    assert "[[]" in str(refusal(odd, "none [q]/*.jsonl").fix)


# -- hidden names, other kinds, links ---------------------------------------------------------


def test_hidden_names_are_left_out_below_the_root_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path / ".data" / "_run",
        *("a.jsonl", "_SUCCESS", "._a.jsonl", ".a.jsonl.swp", "sub/_x.jsonl", "lost+found/y.txt"),
        *(".ipynb_checkpoints/a-checkpoint.jsonl", "_temporary/0/part-0.jsonl"),
        *("_lang=de/p.jsonl",),
    )
    for path in (".data/_run", ".data/_run/**/*.jsonl", ".data/_run/**"):
        assert names(tmp_path, path) == [".data/_run/_lang=de/p.jsonl", ".data/_run/a.jsonl"]
    found = find(tmp_path, ".data/_run")
    assert found.left_out == {"hidden": 7}
    (note,) = found.notes
    assert "7 (" in note and ".data/_run/.a.jsonl.swp" in note and "4 more" in note
    # A pattern that begins so asks for them.
    assert names(tmp_path, ".data/_run/sub/_*.jsonl") == [".data/_run/sub/_x.jsonl"]
    assert names(tmp_path, ".data/_run/._*") == [".data/_run/._a.jsonl"]
    both = find(tmp_path, ".data/_run", ".data/_run/sub/_x.jsonl")
    assert both.left_out == {"hidden": 6}


def test_files_of_other_kinds_are_counted_by_ending(tmp_path: Path) -> None:
    write(tmp_path / "d", "a.jsonl", *(f"{n}.{e}" for n in range(3) for e in ("xz", "jsonl.xz")))
    write(tmp_path / "d", "b.PQ", "README", "c.\x1b[31m", "d." + "e" * 99, b"f.\xe9")
    assert find(tmp_path, "d").left_out["other_kinds"] == {
        **{".jsonl.xz": 3, ".xz": 3, ".PQ": 1, ".\\x1b[31m": 1, f".{'e' * 15}…": 1, ".\\xe9": 1},
        "without ending": 1,
    }
    write(tmp_path / "none", "a.xz", "_b.txt")
    got = refusal(tmp_path, "none").got
    assert got is not None and "1 .xz" in got and "none/_b.txt" in got
    write(tmp_path / "many", "a.txt", *(f"x.e{n:05d}" for n in range(3000)), *("y.z", "z.z"))
    found = find(tmp_path, "many")
    counts = found.left_out["other_kinds"]
    assert (len(counts), counts[".z"], sum(counts.values())) == (13, 2, 3002)
    assert counts["with 2,989 other endings"] == 2989
    assert max(map(len, found.notes)) < 400


def test_a_link_to_nothing_is_an_error_and_a_pipe_is_said(tmp_path: Path) -> None:
    write(tmp_path / "d", "a.jsonl")
    (tmp_path / "d" / "gone.jsonl").symlink_to("../gone/blob")
    for path in ("d/*.jsonl", "d", "d/gone.jsonl", "**/gone.jsonl"):
        error = refusal(tmp_path, path)
        assert (error.key, error.file) == ("corpus.0.path", str(tmp_path / "d" / "gone.jsonl"))
    (tmp_path / "d" / "gone.jsonl").unlink()
    (tmp_path / "d" / "self.jsonl").symlink_to("self.jsonl")
    assert refusal(tmp_path, "d").file == str(tmp_path / "d" / "self.jsonl")
    (tmp_path / "d" / "self.jsonl").unlink()
    (tmp_path / "d" / ".#a.jsonl").symlink_to("me@host.1234")  # a lock of Emacs
    (tmp_path / "d" / "latest").symlink_to("gone")
    os.mkfifo(tmp_path / "d" / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a socket's path is short
        server.bind("d/socket.jsonl")
    assert find(tmp_path, "d").left_out == {
        "hidden": 1,
        "other_kinds": {"without ending": 1},
        "special": 2,
    }
    assert refusal(tmp_path, "d/*.jsonl").got == "a special file"


def test_linked_directories_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "d/a/x.jsonl", "d/b/y.jsonl", "far/z.jsonl", "far/deep/w.jsonl")
    (tmp_path / "d" / "self").symlink_to(".")
    (tmp_path / "d" / "b" / "up").symlink_to("../..")
    (tmp_path / "d" / "0").symlink_to("b")
    (tmp_path / "d" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "d" / "farther").symlink_to(tmp_path / "far" / "deep")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "d")
    for path in ("d", "d/**", "d/**/*.jsonl", "d/far/back"):
        found = find(tmp_path, path)
        real = {os.path.realpath(tmp_path / item.name) for item in found.inputs}
        assert real == {
            str(tmp_path / name)
            for name in ("d/a/x.jsonl", "d/b/y.jsonl", "far/z.jsonl", "far/deep/w.jsonl")
        }, path
        assert len(found.inputs) == 4
        assert found.left_out["linked"] >= 3
    # Files have the name without a link where they have one.
    assert {"d/a/x.jsonl", "d/b/y.jsonl"} <= set(names(tmp_path, "d"))


# -- names ------------------------------------------------------------------------------------

ODD = [
    *(b"a b.jsonl", b"c#d.jsonl", b"e%20f.jsonl", b"g[h].jsonl", b"i?j.jsonl", b"k*.jsonl"),
    *("café.jsonl".encode(), b"caf\xe9.jsonl", b"\xff\xfe.txt", "\u202ertl.jsonl".encode()),
    *(b"x:y.jsonl", b"new\nline.jsonl", b"-dash.jsonl", b"~tilde.jsonl", b"UPPER.JSONL"),
    *(b"back\\slash.jsonl", b"tab\t.jsonl", b"a.b..jsonl", b" .jsonl", b"sub dir/q'\".jsonl"),
]


def test_files_of_any_name_are_found_and_named_apart(tmp_path: Path) -> None:
    write(tmp_path / "d", *ODD)
    found = find(tmp_path, "d").inputs
    assert {os.fsencode(str(item.path.relative_to(tmp_path / "d"))) for item in found} == {*ODD}
    shown = [item.name.encode() for item in found]  # all of them can be encoded
    assert len({*shown}) == len(ODD)
    assert b"d/caf\\xe9.jsonl" in shown
    (latin,) = find(tmp_path, "d/*\udcff*").inputs
    assert latin.spec.source == LiteralSource(name="d")
    assert (
        len(find(tmp_path, *(f"d/{glob.escape(os.fsdecode(name))}" for name in ODD)).inputs) == 20
    )
    literal = [name for name in ODD if b"*" not in name]
    for name in literal:
        assert only(tmp_path, f"d/{os.fsdecode(name)}").path == tmp_path / "d" / os.fsdecode(name)


def test_text_that_utf8_and_a_terminal_can_take() -> None:
    name = os.fsdecode(b"\xe9\x80z")
    assert encodable(f"a{name}\ud800\U0001f600é\n") == "a\\xe9\\x80z\\ud800\U0001f600é\n"
    encoded = encodable(json.dumps({"a": name}, ensure_ascii=False), backslash=r"\\")
    assert json.loads(encoded) == {"a": encodable(name)}
    assert printable(f"{name}\x1b[2J\n\x9b\u202e\t", keep="\t") == (
        "\\xe9\\x80z\\x1b[2J\\x0a\\x9b\\u202e\t"
    )


def test_a_directory_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "d/a.jsonl", "d/closed/b.jsonl")
    scandir = os.scandir

    def closed(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    error = refusal(tmp_path, "d")
    assert (error.key, error.file) == ("corpus.0.path", str(tmp_path / "d" / "closed"))


def test_a_work_directory_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    with pytest.raises(RecipeError) as caught:
        find(tmp_path, "a.jsonl", work=os.fsdecode(b"w\xe9"))
    assert caught.value.key == "work"
    assert "w\\xe9" in str(caught.value)


def test_a_plain_text_file_s_name_is_its_source_and_part_of_its_reading(tmp_path: Path) -> None:
    """Else renaming it would change documents and not the fingerprint."""
    write(tmp_path, "wiki.en.txt", "a.jsonl")
    lines, text = find(tmp_path, "wiki.en.txt", "a.jsonl").inputs
    assert text.spec.source == LiteralSource(name="wiki")
    assert text.reading["source"] == {"name": "wiki"}
    assert lines.spec.source == "source"
    named = only(tmp_path, {"path": "wiki.en.txt", "source": {"name": "w"}})
    assert named.spec.source == LiteralSource(name="w")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my notes", "my notes"), ("./my notes/", "my notes"), ("my notes/**/*.txt", "my notes"),
        ("my notes/[ab].txt", "my notes"), ("my notes/*", "my notes"), ("*", "files"),
        (".", "files"), ("*/a.txt", "files"), ("my notes/a.txt", "a"),
    ],
)  # fmt: skip
def test_files_without_fields_are_of_one_source_for_each_item(
    tmp_path: Path, path: str, name: str
) -> None:
    write(tmp_path, "my notes/a.txt", "my notes/b.txt")
    found = find(tmp_path, path if path != "*" else "**/*.txt").inputs
    assert {item.spec.source for item in found} == {LiteralSource(name=name)}


def test_markdown_and_html_have_the_source_of_their_item(tmp_path: Path) -> None:
    write(tmp_path, "v1.2/a.md", "v1.2/b.html", "v1.2/c.jsonl", "v1.2/source=web/d.md")
    found = {item.path.name: item.spec.source for item in find(tmp_path, "v1.2").inputs}
    own = LiteralSource(name="v1")
    assert found == {"a.md": own, "b.html": own, "c.jsonl": "source", "d.md": "source"}
    page = only(tmp_path, {"path": "v1.2/b.html", "source": "charset"})
    assert page.spec.source == "charset"


def test_a_directory_of_more_texts_than_there_may_be_sources(tmp_path: Path) -> None:
    write(tmp_path, *(f"many/{number}.txt" for number in range(1_100)))
    found = find(tmp_path, "many").inputs
    assert len(found) == 1_100
    assert {item.spec.source for item in found} == {LiteralSource(name="many")}


# -- once -------------------------------------------------------------------------------------


def labelled(path: str, name: str, **keys: Any) -> dict[str, Any]:
    return {"path": path, "source": {"name": name}, **keys}


def test_a_file_that_is_named_twice_is_one_input(pool: Path) -> None:
    (pool / "link").symlink_to("pool")
    (pool / "pool" / "z.jsonl").symlink_to("a.jsonl")
    os.link(pool / "pool" / "a.jsonl", pool / "pool" / "0.jsonl")
    again = ["pool/*.jsonl", "./pool/a.jsonl", "pool/../pool/a.jsonl", "link/a.jsonl", "link"]
    for listed in (again, again[::-1]):
        found = find(pool, "pool/a.jsonl", *listed)
        same = [item for item in found.inputs if os.path.samefile(item.path, pool / "pool/a.jsonl")]
        assert [item.name for item in same] == ["pool/a.jsonl"]
        assert sum("read once: " in note for note in found.notes) == 1
    # Equal files are two.
    (pool / "pool" / "copy.jsonl").write_bytes((pool / "pool" / "a.jsonl").read_bytes())
    assert len(find(pool, "pool/*.jsonl").inputs) == 2


@pytest.mark.parametrize("turn", range(3))
def test_the_most_exact_item_says_how_a_file_is_read(pool: Path, turn: int) -> None:
    items = [
        *(labelled("pool", "all"), labelled("pool/*.jsonl", "lines"), labelled("pool/sub", "sub")),
        labelled("pool/sub/c.parquet", "one"),
    ]
    items = items[turn:] + items[:turn]
    found = find(pool, *items)
    assert {item.name: item.spec.source.name for item in found.inputs} == {  # type: ignore[union-attr]
        "pool/a.jsonl": "lines",
        "pool/b.jsonl.zst": "all",
        "pool/sub/c.parquet": "one",
        "pool/sub/deep/d.txt": "sub",
    }
    assert any("other keys: 3 (" in note for note in found.notes)
    # Two items that are equally exact: by their keys, in whatever order.
    for pair in ([labelled("pool/a.jsonl", "x"), labelled("link/a.jsonl", "w")],) * (turn == 0):
        (pool / "link").symlink_to("pool")
        for two in (pair, pair[::-1]):
            assert only(pool, *two).spec.source == LiteralSource(name="x")


def test_a_file_read_for_two_texts_is_two_inputs(pool: Path) -> None:
    found = find(pool, "pool/a.jsonl", {"path": "pool", "text": "title"}, "pool/sub/deep/d.txt")
    same = [item for item in found.inputs if item.name == "pool/a.jsonl"]
    assert sorted(item.spec.text for item in same) == ["text", "title"]
    # Plain text has no fields: `text` says nothing of it.
    assert sum(item.name.endswith("d.txt") for item in found.inputs) == 1
    assert any("for other texts: 1 (pool/a.jsonl)" in note for note in found.notes)


# -- the work directory -----------------------------------------------------------------------


def make_work(directory: Path) -> None:
    write(directory, "inputs.json", "lease/1.json", "corpus/0123456789abcdef/unit-0.parquet")
    write(directory, "shards/0123456789abcdef/shard-0.arrow")


def test_the_work_directory_is_never_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    write(tmp_path, "cache/0123.jsonl")
    write(tmp_path, "in.jsonl", "recipe.yaml")
    make_work(tmp_path / "work")
    make_work(tmp_path / "runs" / "other")  # that of another recipe
    (tmp_path / "out").symlink_to("work")
    for path in (".", "**", "**/*.jsonl", f"../{tmp_path.name}/**/*.jsonl", "*.jsonl"):
        assert only(tmp_path, path).path.samefile(tmp_path / "in.jsonl"), path
    assert find(tmp_path, ".").left_out["work"] == 3
    for path in ("work", "out", "work/corpus/*/unit-*.parquet", "out/**/*.parquet", "*/corpus/*/*"):
        assert "work directory" in refusal(tmp_path, path).problem, path
    for path in ("work/inputs.json", "out/corpus/0123456789abcdef/unit-0.parquet"):
        assert "work directory" in refusal(tmp_path, path).problem, path
    elsewhere = find(tmp_path, "*.jsonl", work="../elsewhere")
    assert elsewhere.left_out == {}
    assert "work directory" in refusal(tmp_path, "hf:.").problem
    (tmp_path / "wo").mkdir()
    assert names(tmp_path, "hf:wo") == ["hf:wo"]
    # Another one's units can be read where they are named.
    unit = "runs/other/corpus/0123456789abcdef/unit-0.parquet"
    assert names(tmp_path, "runs/other/corpus/*/*") == [unit]
    assert names(tmp_path, ".", "runs/other/corpus/*/*") == ["in.jsonl", unit]


@pytest.mark.parametrize("work", [".", "..", "w"])
def test_a_pool_in_the_work_directory(tmp_path: Path, work: str) -> None:
    """`work: .` makes the recipe's own directory the work directory."""
    here = tmp_path / "w" / "here" if work == ".." else tmp_path
    root = (here / work).resolve()
    make_work(root)
    write(root, "report/0123456789abcdef/report.jsonl", "pool/a.jsonl", "pool/b.txt", "c.jsonl")
    pool = os.path.relpath(root, here)
    for path in (f"{pool}/pool", f"{pool}/pool/*", f"{pool}/p*/**/*.*"):
        found = find(here, path, work=work)
        assert {item.path.name for item in found.inputs} == {"a.jsonl", "b.txt"}, path
    assert only(here, f"{pool}/c.jsonl").path == root / "c.jsonl"
    for path in (pool, f"{pool}/**"):
        found = find(here, path, work=work)
        assert {item.path.name for item in found.inputs} == {"a.jsonl", "b.txt", "c.jsonl"}, path
        assert found.left_out == {"work": 1}
    for path in (
        "corpus",
        "corpus/**/*.parquet",
        "lease/1.json",
        "*/0123456789abcdef/*",
        "inputs.json",
    ):
        assert "work directory" in refusal(here, f"{pool}/{path}", work=work).problem, path
    # Another recipe's work directory, where the item begins in it.
    assert {item.path.name for item in find(here, pool, work="/elsewhere").inputs} == {
        *("a.jsonl", "b.txt", "c.jsonl"),
    }


# -- stores -----------------------------------------------------------------------------------


def test_a_store_is_walked_by_the_same_rules(s3: str, tmp_path: Path) -> None:
    top = as_path("s3://pool/finding")
    keys = [
        *("data/a.jsonl", "data/_SUCCESS", "data/.x/b.jsonl", "data/_temporary/0/c.jsonl"),
        *("data/lang=de/d.jsonl", "data/e.xz", "data/y.parquet/f.txt", "data/g [h]/i#?%20é.jsonl"),
        *(
            "work/inputs.json",
            "work/lease/1.json",
            "work/corpus/0123456789abcdef/unit-0.parquet",
            "in.jsonl",
        ),
    ]
    for key in keys:
        with (top / key).open("wb") as file:
            file.write(b"x")

    def found(path: str, **keys: Any) -> tuple[list[str], dict[str, Any]]:
        got = find(tmp_path, f"s3://pool/finding/{path}", work="s3://pool/finding/work", **keys)
        start = len("s3://pool/finding/")
        return sorted(item.name[start:] for item in got.inputs), got.left_out

    data = [
        *("data/a.jsonl", "data/g [h]/i#?%20é.jsonl", "data/lang=de/d.jsonl"),
        "data/y.parquet/f.txt",
    ]
    assert found("data") == (data, {"hidden": 3, "other_kinds": {".xz": 1}})
    assert found("data/**/*.jsonl") == (data[:3], {"hidden": 2})
    assert found("data/*.jsonl") == (["data/a.jsonl"], {})
    assert found("data/*.parquet") == (["data/y.parquet/f.txt"], {})
    assert found("data/g [h]/*.jsonl") == (["data/g [h]/i#?%20é.jsonl"], {})
    assert found("data/*=de/*") == (["data/lang=de/d.jsonl"], {})
    assert found("") == (
        [*data, "in.jsonl"],
        {"hidden": 3, "other_kinds": {".xz": 1}, "work": 1},
    )
    whole = find(tmp_path, "s3://pool", work="s3://pool/finding/work")
    assert {"s3://pool/finding/in.jsonl"} <= {item.name for item in whole.inputs}
    assert not any(item.name.startswith("s3://pool/finding/work") for item in whole.inputs)
    bucket = find(tmp_path, "s3://pool/finding", work="s3://pool/finding")
    assert [len(bucket.inputs), bucket.left_out["work"]] == [5, 1]
    item = only(tmp_path, "s3a://pool/finding/data/lang=de", "s3://pool/finding/data/*/d.jsonl")
    assert item.spec.fields == {"lang": "de"}
    for path in ("none", "data/none.jsonl", "data/*.arrow", "work/corpus/*/*"):
        error = refusal(tmp_path, f"s3://pool/finding/{path}", work="s3://pool/finding/work")
        assert error.key == "corpus.0.path"


# -- files that other keys name ---------------------------------------------------------------


def test_files_of_other_keys_are_input_only_where_an_item_names_one(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "t/one.jsonl", "t/two.jsonl", "e.jsonl", "tokenizer.json")
    write(tmp_path, "tokenizer_config.json")
    keys: dict[str, Any] = {
        "evaluate": ["e.jsonl"],
        "select": {"b": {"use": "betr", "target": ["t/*.jsonl"]}},
        "tokenizer": "tokenizer.json",
    }
    found = find(tmp_path, ".", **keys)
    assert [item.name for item in found.inputs] == ["a.jsonl"]
    assert found.left_out == {"named": 5}
    assert len(found.notes) == 1

    found = find(tmp_path, "*.jsonl", "t/one.jsonl", **keys)
    assert [item.name for item in found.inputs] == ["a.jsonl", "t/one.jsonl"]
    assert found.left_out == {"named": 1}

    (tmp_path / "link.jsonl").symlink_to("e.jsonl")
    assert names_with(tmp_path, ".", keys) == ["a.jsonl"]
    with pytest.raises(InputError):
        find(tmp_path / "t", ".", select={"b": {"use": "betr", "target": ["*.jsonl"]}})


def names_with(directory: Path, path: str, keys: dict[str, Any]) -> list[str]:
    return [item.name for item in find(directory, path, **keys).inputs]


# -- paths that are too long, and one item with two readings ----------------------------------


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory whose path is longer than the system opens."""
    top = tmp_path / "deep"
    top.mkdir()
    before = os.getcwd()
    try:
        os.chdir(top)
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        yield top
    finally:
        os.chdir(before)
        subprocess.run(["rm", "-rf", str(top)], check=True)


def test_a_path_that_is_too_long_is_an_input_error(deep: Path, tmp_path: Path) -> None:
    for corpus in ("deep", "deep/**", "n" * 300 + ".jsonl"):
        error = refusal(tmp_path, {"path": corpus})
        assert error.key == "corpus.0.path" and error.fix is not None
        assert error.file is not None and error.file.startswith(str(tmp_path))


def test_a_file_with_two_readings_of_one_item_is_not_said_to_differ_from_itself(
    tmp_path: Path,
) -> None:
    write(tmp_path, "pool/k=1/a.jsonl")
    (tmp_path / "pool" / "k=2").mkdir()
    os.link(tmp_path / "pool/k=1/a.jsonl", tmp_path / "pool/k=2/a.jsonl")
    found = find(tmp_path, {"path": "pool"})
    assert len(found.inputs) == 1 and len(found.notes) == 1
