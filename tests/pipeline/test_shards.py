"""Shards taken apart again: every token of every document, where the rows say it is."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from penstock.artefact import Artefact
from penstock.errors import ArtefactError
from penstock.pipeline import checking
from penstock.pipeline import shards as shards_module
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.storage import as_path
from penstock.trainers.data.shards import ShardSet
from tests import pools
from tests.pools import Made, all_documents, documents, make, recipe_of, write_jsonl
from tests.s3 import BUCKET, environment

LENGTH = 16
BATCH_TOKENS = shards_module._BATCH_TOKENS
SHARES = {"wiki": 0.25, "code": 0.15}
TREE: dict[str, Any] = {
    "budget": {"shares": SHARES},
    "shards": {"tokens_per_shard": 40 * LENGTH},
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    rows = documents(200, seed=4)
    # A document longer than three shards, and texts of a single token or two.
    rows[20]["text"] = " ".join(f"{number} turbine" for number in range(900))
    rows[20]["source"] = "web"
    for number in range(30, 60):
        rows[number]["text"] = chr(0x41 + number)
    write_jsonl(directory / "pool" / "a.jsonl", rows[:90])
    write_jsonl(directory / "pool" / "b.jsonl", rows[90:])
    return directory


SCORES = {f"d{number:04d}": float(number % 17) for number in range(200)} | {"d0020": 99.0}


@pytest.fixture(scope="module")
def made(pool: Path) -> Made:
    return make(recipe_of(pool, 20_005, "s", LENGTH, **TREE), {"s": SCORES})


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several record batches a shard: 7 sequences do not divide 40."""
    monkeypatch.setattr(shards_module, "_BATCH_TOKENS", 7 * LENGTH)


def rows_of(shards: Artefact) -> list[dict[str, Any]]:
    return [
        row
        for record in shards.named("shard-")
        for row in pa.ipc.open_file(str(shards.verified(record))).read_all().to_pylist()
    ]


def spans_of(row: dict[str, Any]) -> list[tuple[str, int, list[int]]]:
    """(document, offset in it, tokens) of each span of a sequence."""
    ends = [*row["doc_start"][1:], LENGTH]
    return [
        (name, offset, row["tokens"][start:end])
        for name, offset, start, end in zip(
            row["doc_id"], row["doc_offset"], row["doc_start"], ends
        )
    ]


def test_every_document_is_rebuilt_from_the_shards(made: Made) -> None:
    shards = made.shards()
    pieces: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for row in rows_of(shards):
        for name, offset, tokens in spans_of(row):
            assert offset not in pieces[name], "a span was written twice"
            pieces[name][offset] = tokens
    known = {document.id: document for document in all_documents(made.pool, made.tokenizer)}
    taken = {row["id"]: row for row in made.taken()}
    assert set(pieces) == set(taken)
    shortened = 0
    for name, spans in pieces.items():
        tokens: list[int] = []
        for offset, part in sorted(spans.items()):
            assert offset == len(tokens), "a span is missing"
            tokens += part
        assert tokens == known[name].tokens[: taken[name]["tokens"]]
        shortened += len(tokens) < len(known[name].tokens)
    assert shortened <= 3, "at most the last document of each group is shortened"
    assert shortened >= 1, "the pool does not test what it should"


def test_spans_partition_each_sequence_and_say_whose_they_are(made: Made) -> None:
    taken = {row["id"]: row for row in made.taken()}
    interior = 0
    for row in rows_of(made.shards()):
        assert len(row["tokens"]) == LENGTH
        starts = row["doc_start"]
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert starts[-1] < LENGTH
        assert all(offset == 0 for offset in row["doc_offset"][1:])
        for name in ("doc_id", "doc_offset", "source", "score"):
            assert len(row[name]) == len(starts)
        for name, source, score in zip(row["doc_id"], row["source"], row["score"]):
            assert (source, score) == (taken[name]["source"], taken[name]["score"])
        interior += len(starts) - 1
    assert interior > 50, "no boundary fell inside a sequence, so this tested nothing"


def test_documents_carry_their_score_of_another_column(
    pool: Path, made: Made, tmp_path: Path
) -> None:
    """Also where copies leave gaps in the units, and where a document has no score."""
    values = {f"d{number:04d}": number / 8 for number in range(200) if number % 9}
    tree = {
        **TREE,
        "select": {name: {"use": "test"} for name in ("s", "v")},
        "shards": {**TREE["shards"], "carry": "v"},
    }
    recipe = recipe_of(pool, 20_005, "s", LENGTH, **tree)
    shards = make(recipe, {"s": SCORES, "v": values}, work=tmp_path / "work").shards()
    seen = 0
    for row, plain in zip(rows_of(shards), rows_of(made.shards()), strict=True):
        expected = [values.get(name, np.nan) for name in row["doc_id"]]
        np.testing.assert_array_equal(row.pop("carried"), expected)
        assert row == plain
        seen += len(expected)
    assert seen > 200
    # Without it the configuration, and so the name of the shards, is as it was before there was it.
    assert made.shards().manifest["config"] == {
        "sequence_length": LENGTH,
        "tokens_per_shard": 40 * LENGTH,
    }
    assert "carried" not in made.shards().manifest["inputs"]
    opened = ShardSet.open(shards.path)
    for index in range(0, len(opened), 5):
        names = opened.documents(index, index + 1).ids.to_pylist()
        expected = np.array([values.get(name, np.nan) for name in names], np.float32)
        np.testing.assert_array_equal(opened.carried(index), expected)
    with pytest.raises(ArtefactError) as info:
        ShardSet.open(made.shards().path).carried(0)
    assert info.value.fix == "curate with shards.carry"


def test_groups_follow_each_other_and_each_is_in_the_corpus_order(made: Made) -> None:
    rows = rows_of(made.shards())
    groups = made.cut.facts["groups"]
    assert [group["source"] for group in groups] == ["code", "wiki", None]
    order = {d.id: n for n, d in enumerate(all_documents(made.pool, made.tokenizer))}
    start = 0
    for group in groups:
        here = rows[start : start + group["tokens"] // LENGTH]
        start += len(here)
        sources = {source for row in here for source in row["source"]}
        assert sources == {group["source"] or "web"}
        places = [order[name] for row in here for name in row["doc_id"]]
        assert places == sorted(places)
    assert start == len(rows) == made.cut.facts["delivered"] // LENGTH


def test_shards_have_the_size_that_was_asked_for(made: Made) -> None:
    shards = made.shards()
    counts = [record.facts["sequences"] for record in shards.named("shard-")]
    groups = [group["tokens"] // LENGTH for group in made.cut.facts["groups"]]
    assert counts == [
        size for group in groups for size in [*[40] * (group // 40), group % 40] if size
    ]
    assert len(counts) > 8
    assert sum(counts) == shards.facts["sequences"] == 20_005 // LENGTH
    assert shards.facts["tokens"] == 20_005 // LENGTH * LENGTH


def test_a_document_may_span_several_shards_and_batches(made: Made) -> None:
    shards = made.shards()
    batches = 0
    files = set()
    for record in shards.named("shard-"):
        file = pa.ipc.open_file(str(shards.path / record.path))
        for index in range(file.num_record_batches):
            names = file.get_batch(index).column("doc_id").to_pylist()
            if any("d0020" in row for row in names):
                batches += 1
                files.add(record.path)
    assert len(files) >= 3
    assert batches >= 18


def test_one_document_longer_than_the_budget_fills_it_alone(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "pool" / "a.jsonl",
        [{"id": "long", "text": " ".join(f"{n} turbine" for n in range(400))}, *documents(5)],
    )
    recipe = recipe_of(tmp_path, 500, "s", LENGTH, shards={"tokens_per_shard": 3 * LENGTH})
    made = make(recipe, {"s": {"long": 1.0} | {f"d{n:04d}": 0.0 for n in range(5)}})
    rows = rows_of(made.shards())
    assert [row["doc_id"] for row in rows] == [["long"]] * 31
    assert [row["doc_offset"] for row in rows] == [[16 * number] for number in range(31)]
    (known, *_) = all_documents(made.pool, made.tokenizer)
    assert [token for row in rows for token in row["tokens"]] == known.tokens[:496]


def test_documents_that_end_where_a_shard_ends_stay_out_of_the_next(tmp_path: Path) -> None:
    """Every document is exactly a sequence, so every edge of a shard is one of a document."""
    import tokenizers

    write_jsonl(
        tmp_path / "pool" / "a.jsonl",
        [{"id": f"d{n}", "text": f"{n} " + "word " * 13} for n in range(300)],
    )
    model = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"?": 0, "</s>": 1, "word": 2}, unk_token="?")
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.add_special_tokens(["</s>"])
    model.save(str(tmp_path / "tokenizer.json"))
    tree: dict[str, Any] = {"shards": {"tokens_per_shard": 2 * LENGTH}}
    made = make(recipe_of(tmp_path, 300 * LENGTH, tokenizer="tokenizer.json", **tree))
    assert len({row["unit"] for row in made.taken()}) > 1
    shards = made.shards()
    assert [record.facts["spans"] for record in shards.named("shard-")] == [2] * 150
    assert [row["doc_id"] for row in rows_of(shards)] == [[f"d{n}"] for n in range(300)]


def test_a_shard_smaller_than_a_sequence_holds_one(pool: Path) -> None:
    made = make(recipe_of(pool, 160, shards={"tokens_per_shard": 1}))
    assert [r.facts["sequences"] for r in made.shards().named("shard-")] == [1] * 10


# -- the files --------------------------------------------------------------------------------


def test_files_are_mapped_without_a_copy(made: Made) -> None:
    shards = made.shards()
    for record in shards.named("shard-"):
        path = shards.path / record.path
        before = pa.total_allocated_bytes()
        with pa.memory_map(str(path)) as source:
            mapped = source.read_buffer()
            reader = pa.ipc.open_file(pa.BufferReader(mapped))
            batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
        assert len(batches) == -(-record.facts["sequences"] // 7)
        for batch in batches:
            values = batch.column("tokens").values
            assert values.type == pa.uint16()
            address = values.to_numpy(zero_copy_only=True).ctypes.data
            assert mapped.address <= address < mapped.address + mapped.size
        assert pa.total_allocated_bytes() - before < 4096


def test_the_datasets_library_opens_them(made: Made, tmp_path: Path) -> None:
    import datasets

    shards = made.shards()
    files = [str(shards.path / record.path) for record in shards.named("shard-")]
    loaded = datasets.load_dataset(
        "arrow", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    rows = rows_of(shards)
    assert len(loaded) == len(rows)
    assert loaded[0] == rows[0]
    assert loaded[len(rows) - 1]["tokens"] == rows[-1]["tokens"]


def test_the_tokenizer_travels_with_the_shards(made: Made) -> None:
    shards = made.shards()
    assert (shards.path / "tokenizer" / "tokenizer.json").read_bytes() == (
        made.tokenizer.path / "tokenizer.json"
    ).read_bytes()
    assert shards.facts["vocab_size"] == made.tokenizer.facts["vocab_size"]
    assert shards.facts["eos"] == made.tokenizer.facts["eos"]


# -- the same bytes ---------------------------------------------------------------------------


def test_the_digest_is_the_same_for_one_worker_two_workers_and_ray(
    made: Made,
    pool: Path,
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def digest(name: str, runner: Runner) -> str:
        recipe = recipe_of(pool, 20_005, "s", LENGTH, **TREE)
        shards = make(recipe, {"s": SCORES}, runner, tmp_path / name).shards()
        runner.close()
        return shards.digest

    with monkeypatch.context() as whole:
        # Other processes have batches of the size that the module says.
        whole.setattr(shards_module, "_BATCH_TOKENS", BATCH_TOKENS)
        alone = digest("one", LocalRunner(1))
        assert digest("two", LocalRunner(2)) == alone
        ray.cloudpickle.register_pickle_by_value(pools)
        try:
            assert digest("ray", RayRunner()) == alone
        finally:
            ray.cloudpickle.unregister_pickle_by_value(pools)
    assert made.shards().digest != alone, "record batches are part of the bytes"


def test_a_crash_midway_keeps_finished_units(
    made: Made, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = made.shards().digest
    recipe = recipe_of(pool, 20_005, "s", LENGTH, **TREE)
    other = make(recipe, {"s": SCORES}, work=tmp_path)
    write = shards_module._write_shard
    written: list[int] = []
    powerless = True

    def crash(job: Any, shared: Any) -> Any:
        if powerless and job.number >= 5:
            raise RuntimeError("power cut")
        written.append(job.number)
        return write(job, shared)

    monkeypatch.setattr(shards_module, "_write_shard", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        other.shards()
    assert not list(tmp_path.glob("shards/*/manifest.json"))
    assert written == [0, 1, 2, 3, 4]
    powerless = False
    shards = other.shards()
    assert written == list(range(len(shards.named("shard-"))))
    assert shards.digest == clean
    written.clear()
    assert other.shards().digest == clean
    assert not written


def test_a_cut_whose_tokens_were_deleted_is_named(pool: Path, tmp_path: Path) -> None:
    recipe = recipe_of(pool, 2_000)
    make(recipe, work=tmp_path)
    shutil.rmtree(next(tmp_path.glob("tokens/*")))
    made = make(recipe, work=tmp_path)
    with pytest.raises(ArtefactError) as caught:
        made.shards()
    assert str(made.cut.path) in str(caught.value.fix)


def test_a_changed_cut_is_refused(pool: Path, tmp_path: Path) -> None:
    made = make(recipe_of(pool, 2_000), work=tmp_path)
    path = made.cut.path / made.cut.files[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match="changed since it was written"):
        made.shards()


def test_tokens_are_as_wide_as_the_vocabulary_needs(pool: Path, tmp_path: Path) -> None:
    import tokenizers

    words = tokenizers.models.WordLevel({"?": 70_000, "</s>": 1}, unk_token="?")
    model = tokenizers.Tokenizer(words)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    model.add_special_tokens(["</s>"])
    model.save(str(path))
    made = make(recipe_of(pool, 320, tokenizer=str(path)), work=tmp_path / "work")
    shards = made.shards()
    (record,) = shards.named("shard-")
    tokens = pa.ipc.open_file(str(shards.path / record.path)).read_all().column("tokens")
    assert tokens.type.value_type == pa.uint32()
    values = np.unique(tokens.combine_chunks().values.to_numpy())
    assert values.tolist() == [1, 70_000]


def test_shards_that_lack_sequences_are_not_published(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shards_module._plan
    monkeypatch.setattr(shards_module, "_plan", lambda *args: list(plan(*args))[:-1])
    made = make(recipe_of(pool, 2_000, length=LENGTH), work=tmp_path)
    with pytest.raises(ArtefactError, match="sequences of the cut"):
        made.shards()
    assert not list(tmp_path.glob("shards/*/manifest.json"))


def deleted(path: Path) -> None:
    path.unlink()


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "unit"),
    [(deleted, None), (shortened, " bytes"), (flipped, "sha256 ")],
)
@pytest.mark.parametrize("here", [True, False], ids=["in the driver", "by workers"])
@pytest.mark.parametrize("name", ["shard-00000.arrow", "tokenizer/tokenizer.json"])
def test_shards_that_are_found_are_compared_with_their_records(
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Any,
    unit: str | None,
    here: bool,
    name: str,
) -> None:
    if not here:
        monkeypatch.setattr(checking, "_IN_DRIVER", 0)
    made = make(recipe_of(pool, 2_000), work=tmp_path)
    shards = made.shards()
    assert made.shards().digest == shards.digest
    path = Path(shards.path) / name
    damage(path)
    with pytest.raises(ArtefactError) as caught:
        made.shards()
    assert caught.value.file == str(path)
    assert caught.value.expected is None if unit is None else unit in str(caught.value.expected)
    assert str(shards.path) in str(caught.value.fix)
    shutil.rmtree(shards.path)
    assert made.shards().digest == shards.digest


@pytest.mark.slow
def test_shards_in_a_store_are_found_by_name_and_size(s3: str, pool: Path, tmp_path: Path) -> None:
    work = as_path(f"s3://{BUCKET}/{tmp_path.name}")
    with environment(PENSTOCK_CACHE=str(tmp_path / "cache")):
        made = make(recipe_of(pool, 600), work=work)
        shards = made.shards()
        assert made.shards().digest == shards.digest
        listed = [entry.path for entry in made.workspace.entries() if entry.finished]
        assert {path.parent.name for path in listed} == {
            "corpus", "verdicts", "tokenizer", "tokens", "cut", "shards",
        }  # fmt: skip
        assert [str(item.path) for item in made.workspace.artefacts()] == list(map(str, listed))
        path = shards.path / "shard-00000.arrow"
        content = path.read_bytes()
        path.write_bytes(content[:-8])
        with pytest.raises(ArtefactError) as caught:
            made.shards()
        assert (caught.value.file, caught.value.got) == (str(path), f"{len(content) - 8:,}")
        path.unlink()
        with pytest.raises(ArtefactError) as caught:
            made.shards()
        assert caught.value.file == str(path)
