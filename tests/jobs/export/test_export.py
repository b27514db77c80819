"""Exports of documents, the card, resuming, stores and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from click.testing import CliRunner

import penstock
from penstock.artefact import Draft
from penstock.errors import ArtefactError, InputError, UnmadeError
from penstock.jobs import cli
from penstock.jobs.curate import Curated, curate
from penstock.jobs.export import FORMATS, export, formats
from penstock.jobs.export.card import hub_licence
from penstock.jobs.export.sources import OTHERS, licences_of
from penstock.pipeline.runner import LocalRunner
from penstock.storage import as_path, files_under, read_file
from tests.jobs.export.exported import HOSTILE, curated_of
from tests.jobs.test_documents import RECIPE
from tests.pools import documents, recipe_of, write_jsonl
from tests.s3 import BUCKET


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curated_of(tmp_path_factory.mktemp("export"), shares={"wiki": 0.3})


@pytest.fixture(scope="module")
def taken(curated: Curated) -> list[dict[str, Any]]:
    """The documents that the cut takes, read without the export."""
    found = []
    for unit in curated.pool.units:
        texts = pq.read_table(unit.path()).to_pylist()
        for row in pq.read_table(curated.cut.verified(curated.cut.files[unit.number])).to_pylist():
            text = texts[row["row"]]
            assert text["id"] == row["id"]
            found.append({**text, "tokens": row["tokens"], "score": row["score"]})
    return found


def contents(out: Any) -> dict[str, bytes]:
    return {name: read_file(out / name) for name in files_under(out)}


def read_parquet_files(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("data/*")) for row in pq.read_table(path).to_pylist()]


def read_lines(out: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(out.glob("data/*")):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as lines:
            found += [json.loads(line) for line in lines.read().splitlines()]
    return found


def read_saved(out: Path) -> list[dict[str, Any]]:
    import datasets

    return list(datasets.load_from_disk(str(out / "data")))


@pytest.mark.parametrize("limit", [256 * 2**20, 2_000])
@pytest.mark.parametrize(
    ("to", "read"),
    [("parquet", read_parquet_files), ("jsonl", read_lines), ("datasets", read_saved)],
)
def test_ids_and_bytes_come_back(
    to: str,
    read: Any,
    limit: int,
    curated: Curated,
    taken: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "TEXT_BYTES", limit)
    made = export(curated, to, str(tmp_path / "out"), LocalRunner(1))
    rows = read(tmp_path / "out")
    files = [record for record in made.artefact.files if "text_bytes" in record.facts]
    assert len(files) == 1 if limit > 10**6 else len(files) > 3
    for name in ("id", "source", "tokens", "parent"):
        assert [row[name] for row in rows] == [row[name] for row in taken]
    texts = [row["text"].encode() for row in rows]
    assert texts == [row["text"].encode() for row in taken]
    assert sum(record.facts["text_bytes"] for record in files) == sum(map(len, texts))
    assert any("\u2028" in row["text"] and "\r\n" in row["text"] for row in rows)
    assert [row["meta"] for row in rows] == [row["meta"] for row in taken]
    lines = {"long": 6} | {f"d{number:04d}": number + 1 for number in range(150)}
    assert [(row["file"], row["record"]) for row in rows] == [
        ("pool/a.jsonl", lines[row["id"]]) for row in taken
    ]
    assert [row["scores"]["s"] for row in rows] == [row["score"] for row in taken]
    assert {row["license"] for row in rows} == {"mit", "CC-BY-4.0", "mit, isc", None}
    assert made.summary() == {
        "out": str(tmp_path / "out"),
        "format": to,
        "documents": len(taken),
        "tokens": curated.cut.facts["delivered"],
        "bytes": sum(one.stat().st_size for one in (tmp_path / "out").rglob("*") if one.is_file()),
    }
    assert made.summary()["bytes"] > sum(record.bytes for record in made.artefact.files)


def test_a_row_names_its_file_and_record(tmp_path: Path) -> None:
    """Files that are one document, rows of a table, lines in splits of a large file."""
    pool = tmp_path / "pool"
    pool.mkdir()
    rows = documents(1_540, seed=3)
    write_jsonl(pool / "b.jsonl", rows[:1500])
    for number, row in enumerate(rows[1500:1520]):
        (pool / f"n{number}.txt").write_text(row["text"])
    table = {name: [row[name] for row in rows[1520:]] for name in ("id", "text")}
    pq.write_table(pa.table(table), pool / "c.parquet")
    texts = {path.read_text(): f"pool/{path.name}" for path in pool.glob("*.txt")}
    recipe = recipe_of(
        tmp_path, "100%", "random", corpus=[{"path": "pool"}], unit_bytes=2**16,
        tokenizer={"train": {"vocab_size": 384}}, budget={"allow_short": True},
    )  # fmt: skip
    made = curate(recipe, LocalRunner(1))
    spans = [span for part in made.corpus.named("part-") for span in part.facts["inputs"]]
    assert len(spans) > len({span["input"] for span in spans}), "the large file was not split"
    export(made, "parquet", str(tmp_path / "out"), LocalRunner(1))
    found = read_parquet_files(tmp_path / "out")
    assert len(found) > 1_500
    places = {row["id"]: ("pool/b.jsonl", at) for at, row in enumerate(rows[:1500], 1)}
    places |= {row["id"]: ("pool/c.parquet", at) for at, row in enumerate(rows[1520:], 1)}
    for row in found:
        expected = places.get(row["id"]) or (texts[row["text"]], None)
        assert (row["file"], row["record"]) == expected
    (pool / "b.jsonl").rename(tmp_path / "elsewhere.jsonl")
    export(made, "jsonl", str(tmp_path / "lines"), LocalRunner(1))
    named = read_lines(tmp_path / "lines")
    assert {row["file"] for row in named if row["id"] in {own["id"] for own in rows[:1500]}} == {
        None
    }
    assert {row["file"] for row in named} > {"pool/c.parquet", "pool/n0.txt", None}


def test_the_card_is_that_of_the_hub(
    curated: Curated,
    taken: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    export(curated, "parquet", str(tmp_path / "out"), LocalRunner(1))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    card = yaml.safe_load(front)
    features = card.pop("dataset_info")["features"]
    assert features[-1] == {"name": "scores", "struct": [{"name": "s", "dtype": "float32"}]}
    assert features[3] == {"name": "license", "dtype": "string"}
    assert card == {
        "license": "other",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/*.parquet"}],
            }
        ],
    }
    assert "<script>" not in body and "\x1b" not in body and "\u202e" not in body
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:5]} == {3}
    assert {line.count("|") for line in tables[-4:]} == {6}, "a name of a source ended a cell"
    sources = json.loads((tmp_path / "out" / "sources.json").read_text(encoding="utf-8"))
    assert sources.keys() == {row["source"] for row in taken} and HOSTILE in sources
    for name, facts in sources.items():
        own = [row for row in taken if row["source"] == name]
        assert facts["documents"] == len(own) == sum(facts["licenses"].values())
        assert facts["tokens"] == sum(row["tokens"] for row in own)
        assert facts["text_bytes"] == sum(len(row["text"].encode()) for row in own)
        assert facts["inputs"] == {"pool/a.jsonl": len(own)}
    monkeypatch.setattr(formats, "TEXT_BYTES", 2_000)  # in some files no document has a licence
    export(curated, "jsonl", str(tmp_path / "lines"), LocalRunner(1))
    for name in ("out", "lines"):
        loaded = datasets.load_dataset(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        assert loaded["train"]["text"] == [row["text"] for row in taken]
        assert set(loaded["train"]["license"]) == {"mit", "CC-BY-4.0", "mit, isc", None}


def test_licences_are_as_records_give_them() -> None:
    import pyarrow as pa

    metas = [
        '{"license": "mit"}',
        '{"licence": " cc-by "}',
        '{"licenses": ["a", 3, "b"]}',
        '{"metadata": {"license": "x"}}',
        '{"license": 3}',
        '{"text": "licence"}',
        "licence",
        None,
        json.dumps({"license": "y" * 1000}),
    ]
    found = licences_of(pa.array(metas, pa.large_string())).to_pylist()
    assert found == ["mit", "cc-by", "a, b", "x", None, None, None, None, "y" * 200]
    assert OTHERS not in found


# -- resuming -----------------------------------------------------------------------------------


class KilledError(Exception):
    pass


@pytest.mark.parametrize("to", FORMATS)
def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    to: str, curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "TEXT_BYTES", 2_000)
    monkeypatch.setattr(formats, "TOKENS", 1_000)
    runner = LocalRunner(1)
    export(curated, to, str(tmp_path / "whole"), runner)
    whole = contents(tmp_path / "whole")
    assert not any(name.startswith(("records", "scratch")) for name in whole)
    written = []
    write = Draft.record, Draft.publish

    def stop_after(limit: int) -> None:
        written.clear()

        def counted(self: Draft, *arguments: Any, **options: Any) -> Any:
            if len(written) >= limit:
                raise KilledError
            written.append(arguments[0])
            return write[0](self, *arguments, **options)

        def published(self: Draft, *arguments: Any, **options: Any) -> Any:
            made = write[1](self, *arguments, **options)
            if len(written) >= limit:
                raise KilledError
            return made

        monkeypatch.setattr(Draft, "record", counted)
        monkeypatch.setattr(Draft, "publish", published)

    out = tmp_path / "killed"
    kills = 0
    while True:
        stop_after(2)
        try:
            export(curated, to, str(out), runner)
        except KilledError:
            kills += 1
            assert kills < 100
            continue
        break
    assert kills > 2 and contents(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    export(curated, to, str(out), runner)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_a_store_gets_the_same_bytes(curated: Curated, tmp_path: Path, s3: str) -> None:
    for to in ("parquet", "megatron"):
        export(curated, to, str(tmp_path / to), LocalRunner(1))
        there = f"s3://{BUCKET}/{tmp_path.name}/{to}"
        made = export(curated, to, there, LocalRunner(1))
        assert contents(as_path(there)) == contents(tmp_path / to)
        assert made.summary()["out"] == there
        again = export(curated, to, there, LocalRunner(1))
        assert again.artefact.digest == made.artefact.digest


def test_without_a_directory_it_is_an_artefact(curated: Curated, tmp_path: Path) -> None:
    made = export(curated, "numpy", None, LocalRunner(1)).artefact
    assert made.path.parent == curated.corpus.path.parent.parent / "export"
    other = export(curated, "numpy", str(tmp_path / "out"), LocalRunner(1)).artefact
    assert made.manifest == {**other.manifest, "files": made.manifest["files"]}
    assert [(own.path, own.sha256) for own in made.files] == [
        (own.path, own.sha256) for own in other.files
    ]


# -- refusals -----------------------------------------------------------------------------------


def test_a_directory_with_something_else_is_refused(curated: Curated, tmp_path: Path) -> None:
    runner = LocalRunner(1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "manifest.json").write_text('{"name": "an app"}')
    export(curated, "numpy", str(tmp_path / "other"), runner)
    begun = Draft(tmp_path / "begun", {"fingerprint": "f" * 64})
    begun.record(f"{'f' * 16}-begun", [])
    for name in ("mine", "file", "manifest", "other", "begun"):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError) as info:
            export(curated, "parquet", str(tmp_path / name), runner)
        assert (info.value.key, info.value.file) == ("--out", str(tmp_path / name))
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    export(curated, "parquet", str(tmp_path / "empty"), runner)


def test_the_same_export_again_is_complete_and_another_one_overwrites(
    curated: Curated, tmp_path: Path
) -> None:
    runner, out = LocalRunner(1), str(tmp_path / "out")
    lines: list[str] = []
    export(curated, "numpy", out, runner, lines.append)
    assert not any("complete" in line for line in lines)
    lines.clear()
    export(curated, "numpy", out, runner, lines.append, overwrite=True)
    assert lines == [f"export: {out} is complete: nothing to write"]
    numpy_files = contents(tmp_path / "out")
    with pytest.raises(InputError) as info:
        export(curated, "parquet", out, runner)
    assert "--overwrite" in str(info.value.fix) and contents(tmp_path / "out") == numpy_files
    (tmp_path / "out" / "data" / "mine.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError) as info:
            export(curated, "parquet", out, runner, overwrite=overwrite)
        assert info.value.key == "--out" and "--overwrite" not in str(info.value.fix)
    assert "data/mine.txt" in str(info.value)
    assert contents(tmp_path / "out") == {**numpy_files, "data/mine.txt": b"years of work"}
    (tmp_path / "out" / "data" / "mine.txt").unlink()
    export(curated, "parquet", out, runner, overwrite=True)
    export(curated, "parquet", str(tmp_path / "fresh"), runner)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    with pytest.raises(InputError) as info:
        export(curated, "parquet", None, runner, overwrite=True)
    assert info.value.key == "--overwrite"


def test_overwriting_replaces_an_unfinished_export_and_no_other_artefact(
    curated: Curated, tmp_path: Path
) -> None:
    begun = Draft(tmp_path / "begun", {"fingerprint": "f" * 64})
    begun.record(f"{'f' * 16}-begun", [])
    (tmp_path / "begun" / "data").mkdir()
    (tmp_path / "begun" / "data" / "train-0.parquet").write_bytes(b"half")
    export(curated, "jsonl", str(tmp_path / "begun"), LocalRunner(1), overwrite=True)
    export(curated, "jsonl", str(tmp_path / "fresh"), LocalRunner(1))
    assert contents(tmp_path / "begun") == contents(tmp_path / "fresh")
    before = contents(curated.cut.path)
    with pytest.raises(InputError) as info:
        export(curated, "jsonl", str(curated.cut.path), LocalRunner(1), overwrite=True)
    assert "--overwrite" not in str(info.value.fix) and contents(curated.cut.path) == before


def test_a_killed_overwriting_goes_on(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.jobs.export import destination

    def killed(paths: Any) -> None:
        next(iter(paths)).unlink()
        raise KeyboardInterrupt

    export(curated, "numpy", str(tmp_path / "out"), LocalRunner(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(destination, "delete_files", killed)
        export(curated, "mds", str(tmp_path / "out"), LocalRunner(1), overwrite=True)
    export(curated, "mds", str(tmp_path / "out"), LocalRunner(1), overwrite=True)
    export(curated, "mds", str(tmp_path / "fresh"), LocalRunner(1))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_damaged_export_is_named(curated: Curated, tmp_path: Path) -> None:
    export(curated, "numpy", str(tmp_path / "out"), LocalRunner(1))
    (tmp_path / "out" / "data" / "tokens-00000.npy").write_bytes(b"short")
    with pytest.raises(ArtefactError) as info:
        export(curated, "numpy", str(tmp_path / "out"), LocalRunner(1))
    assert info.value.file == str(tmp_path / "out" / "data" / "tokens-00000.npy")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({None}, "unknown"),
        ({None, "mit"}, "other"),
        ({"house rules"}, "other"),
        ({"MIT"}, "mit"),
        ({"mit", "cc0-1.0"}, ["cc0-1.0", "mit"]),
    ],
)
def test_the_licence_of_the_card_is_as_the_page_says(given: set[str | None], named: Any) -> None:
    assert hub_licence(given) == named


def test_an_unknown_format_is_refused(curated: Curated) -> None:
    with pytest.raises(InputError) as info:
        export(curated, "parket", None, LocalRunner(1))
    assert info.value.key == "--to" and "parquet" in str(info.value)


def test_the_command_prints_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "pool.jsonl", documents(150))
    (tmp_path / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert set(cli._FORMATS) == set(FORMATS)
    with pytest.raises(UnmadeError):
        penstock.export("recipe.yaml", "jsonl", workers=1)
    unmade = CliRunner().invoke(cli.main, ["export", "recipe.yaml", "--to", "jsonl"])
    assert unmade.exit_code == 1 and "`penstock curate recipe.yaml`" in unmade.stderr
    made = penstock.curate("recipe.yaml", workers=1)
    arguments = ["export", "recipe.yaml", "--to", "jsonl", "--out", "made", "--runner", "local"]
    done = CliRunner().invoke(cli.main, [*arguments, "--workers", "1", "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed.keys() == {"out", "format", "documents", "tokens", "bytes"}
    assert printed["out"] == str(tmp_path / "made")
    assert printed["documents"] == made.cut.facts["documents"] == len(read_lines(tmp_path / "made"))
    lengths = [row["scores"]["length"] for row in read_lines(tmp_path / "made")]
    texts = [row["text"] for row in read_lines(tmp_path / "made")]
    assert np.array_equal(lengths, [len(text) for text in texts])


@pytest.mark.parametrize("to", FORMATS)
def test_the_card_names_the_reader(to: str, curated: Curated, tmp_path: Path) -> None:
    """The hub shows `load_dataset` of any dataset; of these formats it reads nothing."""
    export(curated, to, str(tmp_path / "out"), LocalRunner(1))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("Format: ")]
    reader = {
        "parquet": 'load_dataset(".")',
        "jsonl": 'load_dataset(".")',
        "datasets": 'load_from_disk("./data")',
        "megatron": "IndexedDataset",
        "numpy": "numpy.memmap",
        "mds": "StreamingDataset",
    }
    assert reader[to] in line
    assert ("does not read these files" in line) == (to not in ("parquet", "jsonl"))
