"""Documents by their file and line, quarantined and rewritten ones too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import InputError
from penstock.jobs.curate import curate
from penstock.jobs.rewritings import describe_rewriting
from penstock.jobs.why import fates_of, fates_with
from penstock.pipeline.cleaning import verdicts
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from tests.jobs.explained import curated
from tests.pools import documents, write_jsonl


def test_quarantined_records_are_found_by_their_ids_alone(tmp_path: Path) -> None:
    """Whatever the type and the escapes of the id; a word elsewhere in a record finds nothing."""
    lines = [
        b'{"id":4711,"text":null,"ref":"other"}',
        b'{"id":"caf\\u00e9","text":5}',
        b'{"id": 1.50, "text": []}',
        b'{"id": true, "text": {"id": "inner"}}',
        b'{"id": ["x"], "text": 1}',
        b'{"text": "half \\ud800", "id": "surrogate"}',
        b'{"id": "nan", "text": "t", "score": NaN}',
        b'{"\\u0069d": "named by escapes", "text": NaN}',
        b'{"id": "latin", "text": "caf\xe9"}',
        b'{"id": "cut \\"short\\"", "text": "and no end',
        b'{"a": "\\x", "b": {"id": "inner"}, "id": "late", "text": "d0001"}',
        b'{"text": "no id", "n": NaN}',
        b'{"id": "half \\udfff", "text": 1}',
        b"not json",
    ]
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", documents(40, seed=6))
    with path.open("ab") as sink:
        sink.write(b"\n".join(lines) + b"\n")
    table = pa.table(
        {"id": [b"bytes", b"\xff", b"ok"], "text": [b"\xff", b"\xff", b"good"], "n": ["late"] * 3}
    )
    pq.write_table(table, tmp_path / "pool" / "b.parquet")
    of = curated(tmp_path, tokens=160)
    names = ["4711", "café", "1.5", "True", "['x']", "surrogate", "nan", "named by escapes"]
    names += ["latin", 'cut "short"', "late", "bytes", "ff"]
    for name in names:
        (entry,) = fates_of(of, name)
        assert (entry["id"], entry["fate"]) == (name, "quarantined")
        assert entry["source"] is None
    (latin,) = fates_with(of, r"caf\xe9")
    assert latin["id"] == "latin" and latin["line"] == 49
    (nameless,) = fates_with(of, '"text": "no id"')
    assert (nameless["id"], nameless["line"]) == (None, 52)
    (sound,) = fates_of(of, "d0001")
    assert sound["fate"] != "quarantined"
    for name in ("text", "other", "inner", "471", "half ", "null", "n"):
        with pytest.raises(InputError):
            fates_of(of, name)


def test_every_record_knows_the_file_that_it_was_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five files in packed and divided splits, with records that are not kept between.

    Verdicts are of groups of a unit or two, so a document and its copy are in different ones.
    """
    monkeypatch.setattr(verdicts, "_GROUP_DOCUMENTS", 60)
    monkeypatch.setattr(verdicts, "_RANGE_DOCUMENTS", 100)
    home = {}
    for number in range(5):
        rows = documents(8 + 30 * number, seed=number, longest=30)
        for row in rows:
            row["id"] = f"{number}-{row['id']}"
        rows[1::3] = [{**row, "text": "the same"} for row in rows[1::3]]
        rows[2] = {**rows[2], "text": " "}
        if number == 3:
            rows[30] = {"id": "long", "text": "turbine water " * 700, "source": "web"}
        path = write_jsonl(tmp_path / "pool" / f"{number}.jsonl", rows)
        with path.open("a", encoding="utf-8") as sink:
            sink.write(bad := f'{{"id": "bad {number}", "text": 7}}\n')
        home |= {row["id"]: (str(path), line, row["text"]) for line, row in enumerate(rows, 1)}
        home[f"bad {number}"] = (str(path), len(rows) + 1, bad.strip())
    of = curated(tmp_path, tokens=160)
    assert len(of.pool.verdicts.named("reasons-")) > 3 and len(of.corpus.named("unit-")) > 3
    fates = set()
    whys: dict[str, set[str]] = {"the same": set(), " ": set()}
    for name, (file, line, text) in home.items():
        (entry,) = fates_of(of, name)
        assert entry["file"] == file
        assert (entry.get("line"), entry.get("text")) == (line, text)
        fates.add(entry["fate"])
        if text in whys:
            whys[text].add(entry["why"] if entry["fate"] == "dropped" else name)
    assert fates == {"taken", "left", "dropped", "quarantined"}
    assert whys[" "] == {"rule empty"}
    first, repeats = sorted(whys["the same"])
    assert repeats == f"rule duplicate: repeats {first}", "all repeat the one that stays"


def test_a_document_is_found_by_its_file_and_line(tmp_path: Path) -> None:
    """Of a file that is read in several parts: each line is the record that stands there."""
    rows = documents(400, seed=8, longest=200)
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    lines = path.read_text().splitlines(keepends=True)
    lines.insert(123, '{"id": "broken", "text": 7}\n')
    path.write_text("".join(lines))
    table = pa.table({"id": ["p0", "p1", "p2"], "text": ["one two", "three four", "five six"]})
    pq.write_table(table, tmp_path / "pool" / "b.parquet")
    of = curated(tmp_path, tokens=160)
    for line in (1, 2, 123, 124, 125, 250, 401):
        (entry,) = fates_of(of, f"{path}:{line}")
        assert entry["id"] == json.loads(lines[line - 1])["id"]
        assert entry["fate"] == "quarantined" if line == 124 else entry["line"] == line
    (entry,) = fates_of(of, f"{tmp_path}/pool/b.parquet:2")
    assert (entry["id"], entry["line"]) == ("p1", 2)
    for name in (f"{path}:0", f"{tmp_path}/pool/c.jsonl:1"):
        with pytest.raises(InputError):
            fates_of(of, name)
    for name, lines_of in (
        (f"{path}:402", "401 lines"),
        (f"{tmp_path}/pool/b.parquet:4", "3 rows"),
    ):
        with pytest.raises(InputError) as caught:
            fates_of(of, name)
        assert caught.value.file == name.rpartition(":")[0]
        assert lines_of in caught.value.problem


MASK = """
import pyarrow as pa

class Mask:
    version = 1
    replaces = True
    def identity(self):
        return {}
    def edit(self, texts):
        masked = [one.replace("secret", "[mask]").replace("only", "") for one in texts.to_pylist()]
        return pa.array(masked, pa.large_string())
"""


def test_a_rewritten_document_names_the_rewriters_that_changed_it(tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": f"water {n} turns wheels"} for n in range(30)]
    rows[3]["text"] += " of secret mills"
    rows[4]["text"] = "only"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    (tmp_path / "masking_own.py").write_text(MASK)
    write_jsonl(tmp_path / "pool" / "b.jsonl", [{"id": "e", "text": "another secret of water"}])
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "rewrite": {
            "mask": {"use": "masking_own:Mask", "by": "none"},
            "again": {"use": "masking_own:Mask", "by": "none"},
        },
        "budget": {"tokens": 64, "rank": "random"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    of = curate(parse_recipe(tree, tmp_path), LocalRunner(1))
    for name, changed in (("d3", ["mask"]), ("e", ["mask"]), ("d5", None)):
        (entry,) = fates_of(of, name)
        assert entry.get("rewritten") == changed
        before = entry.get("before")
        text = {"d3": rows[3]["text"], "e": "another secret of water"}.get(name)
        assert before == (text and {"text": text, "bytes": len(text)})
        assert ("[mask]" in entry["text"]) == bool(changed)
    (entry,) = fates_of(of, "d4")
    assert (entry["fate"], entry["fails"]) == ("dropped", ("mask: blank",))
    assert entry["why"] == "emptied by the rewriter mask"
    (entry,) = fates_with(of, "of secret mills")
    assert (entry["id"], entry["found"]) == ("d3", "before rewriting")
    (entry,) = fates_with(of, "of [mask] mills")
    assert entry["id"] == "d3" and "found" not in entry
    said = list(describe_rewriting(entry))
    assert any(
        "of secret mills" in line and f"{len(rows[3]['text'])} bytes" in line for line in said
    )
    assert any("of [mask] mills" in line for line in said)
    assert not any("passed the rules" in line for line in said)
    dropped = {**entry, "fate": "dropped"}
    assert any("passed the rules" in line for line in describe_rewriting(dropped))
