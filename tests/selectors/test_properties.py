"""Properties of every selector, built in or plugged in, through the real engine.

The same column from one worker, from two, after a stop, and however the inputs are ordered; no
document crashes it, and odd ones gain no rank; what a budget then takes is exact.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.artefact import Artefact, Draft, Workspace
from penstock.jobs.build import build_columns
from penstock.pipeline.columns import make_columns
from penstock.pipeline.cut import CutSettings, make_cut
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.pipeline.scoring.models import Models
from penstock.pipeline.tokenizer import TokenizerSettings, make_tokenizer
from penstock.pipeline.tokens import TokenStore
from penstock.pipeline.units import iter_documents
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.registry import built_in
from tests.chat import Handler, chat_server
from tests.fasttext_reference import train
from tests.pools import pool_of, write_jsonl
from tests.selectors.llamas import byte_tokenizer, write_model
from tests.selectors.test_document_loss import write_run

TOPICS = {
    "nature": "plants leaf sunlight water soil roots energy animals rocks planet heat oxygen "
    "seeds forest river cells minerals food moon gravity",
    "sport": "match striker goal league coach season penalty stadium referee trophy defender "
    "tournament fans score team club injury cup transfer keeper",
    "money": "bank loan interest market shares investor bond tax credit rate price fund profit "
    "budget dividend asset broker mortgage currency debt",
}

ODD = {
    "one": "leaf",
    "repeated": "water " * 3000,
    "huge": "ox " * 400_000,
    "foreign": "これは日本語の文章です。選択とは関係がありません。" * 8,
    "bidi": "\u202eשלום עולם مرحبا بالعالم\u202c " * 9,
    "combining": "z\u0361\u0489\u035c " * 60,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \ufe0f" * 30,
    "nul": "a\x00b\x1fc\x7f " * 40,
    "private": "\ue000\U0010fffd\ufffe " * 40,
    "punctuation": "!?.,;:-_()[]{} " * 50,
    "digits": "1234567890 " * 90,
    "blank": "\u00a0\u2003\u3000 x",
}


def texts(count: int, seed: int = 11) -> list[dict[str, str]]:
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        topic = list(TOPICS)[number % 3]
        words = chance.choices(TOPICS[topic].split(), k=chance.randint(12, 40))
        rows.append(
            {"id": f"d{number}", "text": f"The {' and the '.join(words)}.", "source": topic}
        )
    return rows


@dataclass(frozen=True)
class Case:
    """A selector with small parameters, and the other settings of its recipe."""

    parameters: Callable[[Path], Mapping[str, Any]]
    others: Mapping[str, Any] = field(default_factory=dict)
    aims: bool = False
    """True if it selects documents about nature, so that odd ones must not be taken first."""
    takes: frozenset[str] = frozenset()
    """Odd documents that its definition takes first."""


TARGET = {"target": "targets.jsonl"}

CASES: dict[str, Case] = {
    "betr": Case(
        lambda at: {**TARGET, "mode": "direct", "encoder": str(at / "encoder"), "rungs": 32},
        aims=True,
    ),
    # One common word on a line is easy by definition.
    "ccnet": Case(
        lambda at: {"reference": str(at / "targets.jsonl")}, aims=True, takes=frozenset({"one"})
    ),
    "crisp": Case(lambda at: {**TARGET, "encoder": str(at / "encoder"), "clusters": 4}, aims=True),
    "d4": Case(lambda at: {"encoder": str(at / "encoder"), "clusters": 4}),
    # It learns that these examples are questions, which nothing in the pool is.
    "dclm": Case(lambda at: {"target": "many.jsonl", "dim": 4, "bucket": 5000, "lr": 0.5}),
    "deita": Case(
        lambda at: {"by": {"url": (at / "server").read_text(), "model": "m"}, "max_characters": 99}
    ),
    "document-loss": Case(
        lambda at: {"run": (at / "run").read_text(), "take": "middle", "missing": "last"}
    ),
    "dsir": Case(lambda at: {**TARGET, "min_tokens": 20, "per_ngram": True}, aims=True),
    "fasttext": Case(
        lambda at: {"model": str(at / "model.bin")},
        aims=True,
        takes=frozenset({"one", "repeated"}),  # a mean over words, of a model that is not ours
    ),
    "fineweb-edu": Case(
        lambda at: {"labels": str(at / "labels.jsonl"), "encoder": str(at / "encoder")}, aims=True
    ),
    "gist": Case(
        lambda at: {"encoder": str(at / "encoder"), "clusters": 4, "quality": "length"},
        others={"length": {"use": "plugin:score"}},
    ),
    "got-d": Case(lambda at: {**TARGET, "encoder": str(at / "encoder")}, aims=True),
    "ingenious": Case(
        lambda at: {
            "encoder": str(at / "encoder"),
            "draw": "greedy",
            "partition_size": 60,
            "union": 40,
        }
    ),
    "kmq": Case(
        lambda at: {"encoder": str(at / "encoder"), "clusters": 4, "quality": "length"},
        others={"length": {"use": "plugin:score"}},
    ),
    "mean_of": Case(
        lambda at: {"column": "length", "by": "length"},
        others={"length": {"use": "plugin:score"}},
    ),
    "perplexity": Case(lambda at: {"model": str(at / "good"), "max_characters": 150}),
    "preselect": Case(
        lambda at: {
            "models": [str(at / "bad"), str(at / "good")],
            "max_characters": 150,
            "dim": 4,
            "bucket": 5000,
            "prior_words": 20,
        },
        aims=True,
    ),
    "semdedup": Case(lambda at: {"encoder": str(at / "encoder"), "clusters": 4, "eps": 0.01}),
    "plugin:score": Case(lambda at: {}),
}
for _name, _algorithm in built_in("selector").items():
    # A new selector is tested with its defaults; one that needs parameters gets a case above.
    _required = [key for key, own in _algorithm.model_fields.items() if own.is_required()]
    if _name not in CASES and not _required:
        CASES[_name] = Case(lambda at: {**TARGET})


def test_there_is_a_case_for_each() -> None:
    missing = set(built_in("selector")) - set(CASES)
    assert not missing, f"add a Case to CASES in {Path(__file__).name} for {missing}"


def grade(handler: Handler, prompt: str) -> None:
    """Grade a text by its share of words about nature, between two grades or without them."""
    words = prompt.partition("=\n")[2].split()
    share = sum(word in TOPICS["nature"].split() for word in words) / max(len(words), 30)
    low = min(1 + int(10 * share), 5)
    if len(words) % 7:
        handler.grade(
            str(low), {str(low): math.log(0.9 - share), str(low + 1): math.log(share + 0.1)}
        )
    else:
        handler.answer(str(low))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pool twice, once in another order; targets, an encoder, models, a plug-in, a server."""
    at = tmp_path_factory.mktemp("properties")
    # Each site has documents about everything.
    rows = [{**row, "source": f"site-{number % 2}"} for number, row in enumerate(texts(360))]
    rows += [{"id": name, "text": text, "source": "odd"} for name, text in ODD.items()]
    write_jsonl(at / "pool" / "a.jsonl", rows)
    random.Random(3).shuffle(rows)
    write_jsonl(at / "shuffled" / "a.jsonl", rows[:200])
    write_jsonl(at / "shuffled" / "b.jsonl", rows[200:])
    chance = random.Random(12)
    questions = [
        {
            "question": f"What is {' and '.join(chance.choices(TOPICS['nature'].split(), k=5))}?",
            "answer": chance.choice(TOPICS["nature"].split()),
            "benchmark": "easy" if number % 2 else "hard",
        }
        for number in range(120)
    ]
    write_jsonl(at / "many.jsonl", questions)
    write_jsonl(at / "targets.jsonl", questions[:40])
    grades = [
        {"text": row["text"], "label": 4 if row["source"] == "nature" else number % 3}
        for number, row in enumerate(texts(150, seed=13))
    ]
    write_jsonl(at / "labels.jsonl", grades)
    write_encoder(at / "encoder")
    _write_model(at / "model.bin")
    _write_models(at)
    losses = [(row["id"], float(len(row["text"])), 9) for row in rows[::2]]
    (at / "run").write_text(str(write_run(at / "runs", losses).path))
    (at / "plugin.py").write_text("def score(texts):\n    return [len(text) for text in texts]\n")
    with chat_server() as server:
        server.reply = grade
        (at / "server").write_text(server.url)
        yield at


def write_encoder(directory: Path) -> None:
    """A static encoder of the words of the topics."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = sorted({word for topic in TOPICS.values() for word in topic.split()})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "the", "and", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    chance = np.random.default_rng(0)
    table = 0.3 * chance.standard_normal((len(vocabulary), 16)).astype(np.float32)
    for number, topic in enumerate(TOPICS.values()):
        table[[vocabulary[word] for word in topic.split()], number] += 1
    table[:3] = 0
    directory.mkdir()
    StaticEncoder("words", tokenizer, table, np.zeros(16, np.float32)).save(directory)


def _write_model(path: Path) -> None:
    rows = texts(300)
    labels = [row["source"] == "nature" for row in rows]
    settings = {"dim": 4, "word_ngrams": 2, "min_count": 1, "bucket": 1000, "seed": 1}
    model = train([row["text"] for row in rows], labels, lr=0.5, epoch=20, **settings)
    model.save_model(str(path))


def _write_models(directory: Path) -> None:
    """A language model without texts about nature, and one with no others."""
    rows = texts(240)
    training_texts = {
        "bad": [row["text"] for row in rows if row["source"] != "nature"],
        "good": [row["text"] for row in rows if row["source"] == "nature"],
    }
    tokenizer = byte_tokenizer([row["text"] for row in rows[:60]])
    for name, own in training_texts.items():
        write_model(directory / name, tokenizer, training_texts=own)


def recipe_of(ground: Path, use: str, work: Path, pool: str = "pool", **budget: Any) -> Recipe:
    case = CASES[use]
    plain = {
        "seed": 5,
        "work": str(work),
        "corpus": [{"path": pool}],
        "select": {"s": {"use": use, **case.parameters(ground)}, **case.others},
        "budget": {"tokens": 1500, "rank": "s", **budget},
        "tokenizer": {"train": {"vocab_size": 320}},
        "shards": {"sequence_length": 32},
    }
    return parse_recipe(json.loads(json.dumps(plain)), ground)


def columns_of(recipe: Recipe, runner: Runner) -> tuple[Pool, dict[str, Artefact]]:
    workspace = Workspace(recipe.work_directory)
    pool = pool_of(recipe, workspace, runner, unit_bytes=8000)
    wanted = build_columns(recipe)
    return pool, make_columns(
        wanted, Models(pool=pool, workspace=workspace, runner=runner, seed=recipe.seed)
    )


def column_of(recipe: Recipe, runner: Runner) -> dict[str, float]:
    """Every document's score by its id."""
    pool, columns = columns_of(recipe, runner)
    return _by_id(pool, columns["s"])


def _by_id(pool: Pool, column: Artefact) -> dict[str, float]:
    found: dict[str, float] = {}
    for unit in pool.units:
        ids = unit.read_rows(["id"])["id"].to_pylist()
        found.update(zip(ids, read_scores(column.path, column.files[unit.number]).tolist()))
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of all selectors: they share the corpus, and encoders."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def columns(ground: Path, work: Path) -> Any:
    """``columns(use)``: the column from one worker, made once."""

    def column(use: str) -> dict[str, float]:
        with closing(LocalRunner(1)) as runner:
            return column_of(recipe_of(ground, use, work), runner)

    return cache(column)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def same(one: Mapping[str, float], other: Mapping[str, float]) -> None:
    assert one.keys() == other.keys()
    names = sorted(one)
    np.testing.assert_array_equal([one[n] for n in names], [other[n] for n in names])


@pytest.mark.parametrize("use", CASES)
def test_two_workers_and_another_order_of_the_inputs_give_the_same(
    ground: Path, columns: Any, use: str, two_workers: LocalRunner, elsewhere: Path
) -> None:
    got = column_of(recipe_of(ground, use, elsewhere, pool="shuffled"), two_workers)
    same(got, columns(use))


@pytest.mark.parametrize("use", CASES)
def test_a_stop_at_any_commit_changes_nothing(
    ground: Path,
    columns: Any,
    work: Path,
    use: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every attempt gets a few records further than the one before."""
    expected = columns(use)
    shutil.copytree(work / "corpus", tmp_path / "corpus")
    record = Draft.record
    left = [0]

    def stopping(self: Draft, *arguments: Any) -> None:
        if not left[0]:
            raise InterruptedError
        left[0] -= 1
        record(self, *arguments)

    monkeypatch.setattr(Draft, "record", stopping)
    recipe = recipe_of(ground, use, tmp_path)
    with closing(LocalRunner(1)) as runner:
        for _ in range(100):
            left[0] = 5
            try:
                got = column_of(recipe, runner)
                break
            except InterruptedError:
                continue
    same(got, expected)


@pytest.mark.parametrize("use", CASES)
def test_odd_documents_neither_crash_nor_gain_rank(columns: Any, use: str) -> None:
    scores = columns(use)
    assert set(ODD) <= set(scores)
    assert sum(np.isfinite(list(scores.values()))) > 100
    if CASES[use].aims:
        ranked = sorted(scores, key=lambda name: -np.nan_to_num(scores[name], nan=-np.inf))
        assert set(ranked[:36]) & set(ODD) <= CASES[use].takes
        about = [int(name[1:]) % 3 == 0 for name in ranked[:36] if name not in ODD]
        assert np.mean(about) > 0.8


@pytest.mark.parametrize("use", CASES)
def test_the_budget_is_met(ground: Path, work: Path, use: str) -> None:
    recipe = recipe_of(ground, use, work)
    workspace = Workspace(recipe.work_directory)
    with closing(LocalRunner(1)) as runner:
        pool, found = columns_of(recipe, runner)
        tokenizer = make_tokenizer(TokenizerSettings.of(recipe), pool, workspace)
        store = TokenStore(pool, tokenizer, workspace)
        cut = make_cut(CutSettings.of(recipe), pool, found, store, tokenizer, workspace, runner)
    assert cut.facts["delivered"] == 1500 // 32 * 32


@pytest.mark.parametrize("use", ["betr", "fineweb-edu"])
def test_vectors_are_made_once_and_score_as_texts_do(
    ground: Path, columns: Any, work: Path, use: str
) -> None:
    columns(use)
    recipe = recipe_of(ground, use, work)
    with closing(LocalRunner(1)) as runner:
        pool, found = columns_of(recipe, runner)
    (column,) = build_columns(recipe)
    model = found["s"].manifest["inputs"]["model"]
    column.selector.load(Artefact.open(work / "model" / model[:16]).local() / "state")
    assert column.selector.requirements.embeddings is not None
    for unit in pool.units:
        for batch in iter_documents(unit):
            got = dict(zip(batch["id"].to_pylist(), column.selector.score(batch).tolist()))
            same(got, {name: columns(use)[name] for name in got})
    assert len(list((work / "embeddings").iterdir())) == 1
