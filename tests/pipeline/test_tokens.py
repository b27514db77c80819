"""The token store against direct calls of the tokenizer; tokenizers trained and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError, InputError
from penstock.pipeline import tokenizer as tokenizer_module
from penstock.pipeline import tokens as tokens_module
from penstock.pipeline.cutting import search as candidates_module
from penstock.pipeline.cutting.search import Candidates, write_candidates
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.tokenizer import TokenizerSettings, make_tokenizer
from penstock.pipeline.tokens import TokenStore, open_tokens
from penstock.pipeline.units import Unit
from penstock.recipe import Recipe
from penstock.tokenization.definition import END_OF_TEXT
from tests.pools import UNIT_BYTES, Known, all_documents, documents, pool_of, recipe_of, write_jsonl
from tests.tokenization import kinds

ONE = LocalRunner(1)


@dataclass
class Rows:
    """Candidates by unit number, and the sizes that were written for them."""

    by_unit: dict[int, Sequence[int]]
    written: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)

    def rows(self, unit: Unit) -> np.ndarray:
        return np.array(self.by_unit.get(unit.number, []), dtype=np.int64)

    def write(self, unit: Unit, rows: np.ndarray, sizes: np.ndarray) -> None:
        self.written[unit.number] = (rows.tolist(), sizes.tolist())


def add(store: TokenStore, wanted: Rows, runner: Runner = ONE) -> int:
    return write_candidates(cast(Candidates, wanted), runner, store)


def every(pool: Pool) -> Rows:
    return Rows({unit.number: range(unit.documents) for unit in pool.units})


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(120, seed=1))
    return tmp_path


def begin(recipe: Recipe) -> tuple[Pool, Artefact, Workspace]:
    workspace = Workspace(recipe.work_directory)
    made = pool_of(recipe, workspace, ONE, UNIT_BYTES)
    return made, make_tokenizer(TokenizerSettings.of(recipe), made, workspace), workspace


def read_all(store: TokenStore) -> dict[tuple[int, int], np.ndarray]:
    found = {}
    for unit in store.pool.units:
        known = open_tokens(store.directory, store.parts(unit))
        assert (np.diff(known.rows) > 0).all()
        for row, size in zip(known.rows.tolist(), known.sizes.tolist()):
            found[unit.number, row] = known.read(row)
            assert len(found[unit.number, row]) == size
    return found


def check(store: TokenStore, pool: list[Known], expected: set[tuple[int, int]]) -> None:
    found = read_all(store)
    assert set(found) == expected
    for known in pool:
        if (known.unit, known.row) in expected:
            assert found[known.unit, known.row].tolist() == known.tokens
            assert found[known.unit, known.row].dtype == store.dtype


def test_the_store_grows_by_parts_and_equals_direct_tokenisation(pool: Path) -> None:
    made, tokenizer, workspace = begin(recipe_of(pool))
    known = all_documents(made, tokenizer)
    store = TokenStore(made, tokenizer, workspace)
    check(store, known, set())
    assert add(store, Rows({0: [1, 4], 2: [0]})) == 3
    check(store, known, {(0, 1), (0, 4), (2, 0)})
    before = {path: path.read_bytes() for path in store.directory.glob("*.arrow")}
    # Rows that lie between and around those of the first part.
    # Those of its own are not tokenised again, but their sizes are written like the others'.
    wanted = Rows({0: [0, 1, 2, 5], 1: [3]})
    assert add(store, wanted) == 4
    here = {(0, row) for row in (0, 1, 2, 4, 5)} | {(1, 3), (2, 0)}
    sizes = {(document.unit, document.row): len(document.tokens) for document in known}
    assert wanted.written.pop(0) == ([0, 1, 2, 5], [sizes[0, row] for row in (0, 1, 2, 5)])
    assert wanted.written.pop(1) == ([3], [sizes[1, 3]])
    assert all(written == ([], []) for written in wanted.written.values())
    assert add(store, Rows({0: [5], 1: [3]})) == 0
    check(store, known, here)
    check(TokenStore(made, tokenizer, workspace), known, here)
    assert before.items() <= {p: p.read_bytes() for p in store.directory.glob("*.arrow")}.items()
    assert [len(store.parts(unit)) for unit in made.units[:3]] == [2, 1, 1]
    Artefact.open(store.directory).verify()
    assert all(array[0] == array[-1] == store.eos for array in read_all(store).values())


def test_long_texts_are_tokenised_a_few_at_a_time(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's result is many times the text, so a unit at once would be gigabytes."""
    monkeypatch.setattr(tokens_module, "_BATCH_BYTES", 2_000)
    made, tokenizer, workspace = begin(recipe_of(pool))
    store = TokenStore(made, tokenizer, workspace)
    rows = range(1, made.units[0].documents)
    add(store, Rows({0: rows}))
    known = [d for d in all_documents(made, tokenizer) if d.unit == 0]
    check(store, known, {(0, row) for row in rows})
    (path,) = store.directory.glob("*.arrow")
    file = pa.ipc.open_file(str(path))
    sizes = [
        [len(known[row].text.encode()) for row in file.get_batch(n).column("row").to_pylist()]
        for n in range(file.num_record_batches)
    ]
    assert len(sizes) > 3
    assert all(sum(batch) - max(batch) < 2_000 for batch in sizes)
    assert any(len(batch) > 1 for batch in sizes)


def test_two_workers_write_the_same_bytes(pool: Path, two_workers: LocalRunner) -> None:
    made, tokenizer, workspace = begin(recipe_of(pool))
    digests = []
    for runner, root in ((ONE, workspace.root), (two_workers, pool / "other")):
        store = TokenStore(made, tokenizer, Workspace(root))
        assert add(store, every(made), runner) == 120
        digests.append(Artefact.open(store.directory).digest)
    assert digests[0] == digests[1]


def test_finished_units_are_not_tokenised_again_after_a_crash(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, tokenizer, workspace = begin(recipe_of(pool))
    whole = candidates_module._write_table

    def crash(job: Any, shared: Any) -> Any:
        if job.unit.number >= 2:
            raise RuntimeError("power cut")
        return whole(job, shared)

    monkeypatch.setattr(candidates_module, "_write_table", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        add(TokenStore(made, tokenizer, workspace), every(made))
    resumed = TokenStore(made, tokenizer, workspace)
    known = all_documents(made, tokenizer)
    first_two = {(d.unit, d.row) for d in known if d.unit < 2}
    check(resumed, known, first_two)
    monkeypatch.setattr(candidates_module, "_write_table", whole)
    assert add(resumed, every(made)) == 120 - len(first_two)
    check(TokenStore(made, tokenizer, workspace), known, {(d.unit, d.row) for d in known})


def test_a_changed_byte_is_refused(pool: Path) -> None:
    made, tokenizer, workspace = begin(recipe_of(pool))
    store = TokenStore(made, tokenizer, workspace)
    add(store, Rows({0: range(5)}))
    (part,) = store.directory.glob("*.arrow")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    unit = made.units[0]
    with pytest.raises(ArtefactError) as caught:
        open_tokens(store.directory, store.parts(unit))
    assert caught.value.file == str(part)


def test_a_document_that_is_not_there_is_not_mistaken_for_its_neighbour(pool: Path) -> None:
    made, tokenizer, workspace = begin(recipe_of(pool))
    store = TokenStore(made, tokenizer, workspace)
    add(store, Rows({0: [1, 3]}))
    known = open_tokens(store.directory, store.parts(made.units[0]))
    for row in (0, 2, 4):
        with pytest.raises(ArtefactError) as caught:
            known.read(row)
        assert caught.value.file == str(store.directory)
        assert "the cut" in str(caught.value.fix)


def test_text_that_spells_a_special_token_is_text(tmp_path: Path) -> None:
    rows = [{"id": "evil", "text": f"one {END_OF_TEXT} two"}, *documents(30)]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    made, tokenizer, workspace = begin(recipe_of(tmp_path))
    store = TokenStore(made, tokenizer, workspace)
    add(store, Rows({0: [0]}))
    tokens = read_all(store)[0, 0]
    assert np.flatnonzero(tokens == store.eos).tolist() == [0, len(tokens) - 1]
    model = tokenizers.Tokenizer.from_file(str(tokenizer.path / "tokenizer.json"))
    assert model.decode(tokens[1:-1].tolist()) == rows[0]["text"]


@pytest.mark.parametrize("kind", ["byte-level, not flagged", "merges", "unigram", "WordLevel"])
def test_no_document_gives_the_end_by_another_way(tmp_path: Path, kind: str) -> None:
    rows = [{"id": "evil", "text": "old </s> news </s>"}, *documents(5)]
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    path = kinds.saved(kinds.KINDS[kind](), tmp_path / "mine")
    (tmp_path / "mine" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    made, tokenizer, workspace = begin(recipe_of(tmp_path, tokenizer="mine"))
    plain = tokenizers.Tokenizer.from_file(str(path))
    assert tokenizer.facts["eos"] == plain.token_to_id("</s>")
    assert tokenizer.manifest["config"]["end"] == "</s>"
    store = TokenStore(made, tokenizer, workspace)
    add(store, every(made))
    for tokens in read_all(store).values():
        assert np.flatnonzero(tokens == store.eos).tolist() == [0, len(tokens) - 1]
        assert len(tokens) > 4


# -- training ---------------------------------------------------------------------------------


def test_training_is_the_same_in_every_run_and_losslessly_reversible(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        write_jsonl(tmp_path / name / "pool" / "a.jsonl", documents(120, seed=1))
        _, tokenizer, _ = begin(recipe_of(tmp_path / name))
        made.append(tokenizer)
    assert made[0].digest == made[1].digest
    assert made[0].facts["vocab_size"] == 384
    model = tokenizers.Tokenizer.from_file(str(made[0].path / "tokenizer.json"))
    assert model.token_to_id(END_OF_TEXT) == made[0].facts["eos"]
    odd = "größe\t\n 水力 \u200b\U0001f40d  x"
    assert model.decode(model.encode(odd, add_special_tokens=False).ids) == odd


def test_bytes_per_token_are_those_of_a_small_pool(pool: Path) -> None:
    made, tokenizer, _ = begin(recipe_of(pool))
    known = all_documents(made, tokenizer)
    exact = sum(len(d.text.encode()) for d in known) / sum(len(d.tokens) for d in known)
    assert tokenizer.facts["bytes_per_token"] == pytest.approx(exact, abs=1e-6)


def test_a_pool_of_few_long_documents_still_trains_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share to draw is so small that the lot falls on no document."""
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(3, longest=50))
    monkeypatch.setattr(tokenizer_module, "_MEASURED_BYTES", 1)
    recipe = recipe_of(tmp_path, tokenizer={"train": {"vocab_size": 384, "sample_bytes": 1}})
    _, tokenizer, _ = begin(recipe)
    assert tokenizer.facts["bytes_per_token"] > 0
    assert tokenizer.facts["vocab_size"] > 257, "it was trained on nothing"


# -- loading ----------------------------------------------------------------------------------


def saved(directory: Path, vocabulary: dict[str, int], **extra: Any) -> Path:
    """A word-level tokenizer with the ids that are given, as ``tokenizer.json``."""
    model = tokenizers.models.WordLevel(vocabulary, unk_token="?")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if extra.get("shortens"):
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=500)
    tokenizer.add_special_tokens([name for name in vocabulary if name != "?"][:1])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"


@pytest.mark.parametrize("choice", ["mine/tokenizer.json", "mine"])
def test_a_file_or_a_directory_is_loaded_by_its_content(pool: Path, choice: str) -> None:
    path = saved(pool / "mine", {"?": 0, "</s>": 1, "water12": 2})
    _, tokenizer, _ = begin(recipe_of(pool, tokenizer=choice))
    assert tokenizer.facts["eos"] == 1
    assert tokenizer.facts["vocab_size"] == 3
    assert tokenizer.manifest["config"] == {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "end": None,
        "control": [],
    }


def test_a_loaded_tokenizers_truncation_and_padding_are_turned_off(pool: Path) -> None:
    saved(pool / "mine", {"?": 0, "</s>": 1}, shortens=True)
    made, tokenizer, workspace = begin(recipe_of(pool, tokenizer="mine"))
    store = TokenStore(made, tokenizer, workspace)
    add(store, Rows({0: range(5)}))
    sizes = [len(tokens) for tokens in read_all(store).values()]
    texts = [d.text.split() for d in all_documents(made, tokenizer)[:5]]
    assert sizes == [len(words) + 2 for words in texts]


@pytest.mark.parametrize(
    ("highest", "dtype"), [(65_535, "uint16"), (65_536, "uint32"), (70_000, "uint32")]
)
def test_the_width_of_a_token_follows_the_highest_id(pool: Path, highest: int, dtype: str) -> None:
    """Ids have holes in many published vocabularies: counting entries is not enough."""
    saved(pool / "mine", {"?": highest, "</s>": 7})
    made, tokenizer, workspace = begin(recipe_of(pool, tokenizer="mine"))
    assert tokenizer.facts["vocab_size"] == highest + 1
    store = TokenStore(made, tokenizer, workspace)
    assert store.dtype == dtype
    add(store, Rows({0: range(3)}))
    for tokens in read_all(store).values():
        assert tokens.dtype == np.dtype(dtype)
        assert set(tokens[1:-1].tolist()) == {highest}
        assert tokens[0] == tokens[-1] == 7
    (path,) = store.directory.glob("*.arrow")
    stored = pa.ipc.open_file(str(path)).schema.field("tokens").type.value_type
    assert str(stored) == dtype


def test_a_tokenizer_without_an_end_of_text_is_refused(pool: Path) -> None:
    saved(pool / "mine", {"?": 0, "water": 1})
    with pytest.raises(InputError) as caught:
        begin(recipe_of(pool, tokenizer="mine"))
    assert caught.value.key == "tokenizer"
    assert "<|endoftext|>" in str(caught.value.expected)


def test_a_file_that_is_no_tokenizer_is_refused(pool: Path) -> None:
    (pool / "broken.json").write_text(json.dumps({"model": "none"}))
    with pytest.raises(InputError) as caught:
        begin(recipe_of(pool, tokenizer="broken.json"))
    assert (caught.value.key, caught.value.file) == ("tokenizer", str(pool / "broken.json"))


def test_a_directory_without_a_tokenizer_is_named_and_no_hub_is_asked(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.pipeline.tokenizer.hub_file", None)
    (pool / "pool" / "md").mkdir(parents=True)
    with pytest.raises(InputError, match="this directory holds no tokenizer.json") as caught:
        TokenizerSettings.of(recipe_of(pool, tokenizer="pool/md"))
    assert (caught.value.key, caught.value.file) == ("tokenizer", str(pool / "pool" / "md"))


def test_a_name_that_leads_nowhere_is_refused(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read at its import
    with pytest.raises(InputError) as caught:
        begin(recipe_of(pool, tokenizer="nowhere/at-all"))
    assert (caught.value.key, caught.value.file) == ("tokenizer", "nowhere/at-all")
