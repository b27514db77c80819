"""The nearest example that ``why`` names, compared with all similarities by the encoder itself."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.jobs.build import build_columns
from penstock.jobs.curate import Curated, curate
from penstock.jobs.nearest import ExampleSearch
from penstock.jobs.reasons import add_reasons, describe_reasons
from penstock.jobs.report.page import render
from penstock.jobs.why import fates_of
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from penstock.resources import Resources
from penstock.selectors.betr import Betr
from penstock.selectors.encoders.embedding import embed_texts
from penstock.selectors.encoders.static import StaticEncoder
from tests.pools import all_documents, write_jsonl
from tests.selectors.test_properties import TOPICS, texts, write_encoder

COLUMNS = ("direct", "short", "classifier", "transport", "clusters")

SMALL = {
    "top_share": 0.3,
    "rungs": 8,
    "dim": 4,
    "min_count": 1,
    "bucket": 5000,
    "lr": [0.5],
    "epoch": [5, 20],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Selectors that compare with examples, by one encoder of the words of the pool."""
    directory = tmp_path_factory.mktemp("nearest")
    write_jsonl(directory / "pool" / "a.jsonl", texts(600))
    (directory / "targets").mkdir()
    chance = random.Random(5)
    words = TOPICS["nature"].split()
    examples = [f"The {' and the '.join(chance.choices(words, k=5))}." for _ in range(90)]
    for name, own in (("easy", examples[:60]), ("hard", examples[60:])):
        lines = [json.dumps({"text": text}) for text in own]
        lines.insert(3, "")
        (directory / "targets" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    # No token of the encoder: `got-d` leaves it out of the examples that it keeps.
    (directory / "targets" / "none.jsonl").write_text('{"text": "zzz qqq"}\n')
    write_encoder(directory / "encoder")
    shared: dict[str, Any] = {
        "target": ["targets/easy.jsonl", "targets/hard.jsonl"],
        "encoder": str(directory / "encoder"),
    }
    all_of_them = {**shared, "target": "targets/*.jsonl"}
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {
            "direct": {"use": "betr", "mode": "direct", **shared},
            "short": {"use": "betr", "mode": "direct", "max_characters": 60, **shared},
            "classifier": {
                "use": "betr",
                "mode": "classifier",
                "top_share": 0.3,
                **SMALL,
                **shared,
            },
            "transport": {"use": "got-d", "examples": 90, **all_of_them},
            "clusters": {"use": "crisp", "clusters": 4, **all_of_them},
        },
        "budget": {"tokens": 1_600, "rank": dict.fromkeys(COLUMNS, 1.0)},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    return curate(parse_recipe(tree, directory), LocalRunner(1))


def cosines(made: Curated, text: str, characters: int = 2048) -> dict[tuple[str, int], float]:
    """The similarity of a text to the example of each file and line."""
    encoder = StaticEncoder.load(made.recipe.directory / "encoder")
    (own,) = embed_texts(pa.array([text], pa.large_string()), encoder, characters=characters)
    found = {}
    for file in sorted((made.recipe.directory / "targets").iterdir()):
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if line:
                example = pa.array([json.loads(line)["text"]], pa.large_string())
                (other,) = embed_texts(example, encoder, characters=characters)
                lengths = float(
                    np.linalg.norm(own.astype(float)) * np.linalg.norm(other.astype(float))
                )
                if lengths:
                    product = float(own.astype(float) @ other.astype(float))
                    found[f"targets/{file.name}", number] = product / lengths
    return found


@pytest.mark.parametrize("column", COLUMNS)
def test_the_nearest_example_is_named_with_its_file_and_line(made: Curated, column: str) -> None:
    compared = set()
    for name in ("d0", "d100", "d200", "d301"):
        fates = fates_of(made, name)
        add_reasons(made, fates)
        near = fates[0]["reasons"][column]["nearest"]
        known = cosines(made, fates[0]["text"], 60 if column == "short" else 2048)
        place = near["file"], near["line"]
        assert near["similarity"] == pytest.approx(known[place], abs=2e-6)
        higher = sum(value > known[place] + 1e-6 for value in known.values())
        # `betr` compares 30 examples of each file, `got-d` 90 of 91.
        assert higher <= {"clusters": 0, "transport": 1}.get(column, 30)
        line = (made.recipe.directory / near["file"]).read_text().splitlines()[near["line"] - 1]
        assert json.loads(line)["text"].startswith(near["text"].removesuffix(" …"))
        assert near["benchmark"] == Path(near["file"]).stem
        said = " ".join(describe_reasons(fates[0]["reasons"][column]))
        assert f"{near['file']}:{near['line']}" in said and f"{near['similarity']:.3f}" in said
        compared.add(place)
    assert len(compared) > 1


def test_only_examples_that_were_compared_are_named(made: Curated) -> None:
    """Each document's best of those that the fit drew, by the vectors that it keeps."""
    fates = fates_of(made, "d7")
    add_reasons(made, fates)
    model = made.columns["direct"].manifest["inputs"]["model"][:16]
    state = made.recipe.work_directory / "model" / model / "state"
    examples = np.load(state / "examples.npy")
    encoder = StaticEncoder.load(made.recipe.directory / "encoder")
    (own,) = embed_texts(pa.array([fates[0]["text"]], pa.large_string()), encoder)
    lengths = np.linalg.norm(examples.astype(float), axis=1) * np.linalg.norm(own.astype(float))
    best = float((examples.astype(float) @ own.astype(float) / np.where(lengths, lengths, 1)).max())
    near = fates[0]["reasons"]["direct"]["nearest"]
    assert near["similarity"] == pytest.approx(best, abs=2e-6)
    assert len(examples) == 60


def test_the_example_that_gives_the_score_is_named_with_its_rank(made: Curated) -> None:
    """The rank at that example, and at no other a better one, by all vectors of the pool."""
    encoder = StaticEncoder.load(made.recipe.directory / "encoder")
    pool = all_documents(made.pool, made.tokenizer)
    column = pa.array([one.text for one in pool], pa.large_string())
    vectors = embed_texts(column, encoder).astype(np.int64)
    model = made.columns["direct"].manifest["inputs"]["model"][:16]
    examples = np.load(made.recipe.work_directory / "model" / model / "state" / "examples.npy")
    products = examples.astype(np.int64) @ vectors.T
    others = 0
    for row in range(0, len(pool), 20):
        fates = fates_of(made, pool[row].id)
        add_reasons(made, fates)
        own = fates[0]["reasons"]["direct"]
        ranked, near = own["ranked_by"], own["nearest"]
        ranks = 1 + (products > products[:, row, None]).sum(axis=1)
        assert ranked["rank"] == ranks.min() == -fates[0]["scores"]["direct"]["score"]
        path = made.recipe.directory / ranked["file"]
        text = json.loads(path.read_text().splitlines()[ranked["line"] - 1])["text"]
        (vector,) = embed_texts(pa.array([text], pa.large_string()), encoder).astype(np.int64)
        assert 1 + int((vectors @ vector > vectors[row] @ vector).sum()) == ranked["rank"]
        assert ranked["similarity"] <= near["similarity"]
        said = " ".join(describe_reasons(own))
        assert f"rank {ranked['rank']} by nearness to {ranked['file']}:{ranked['line']}" in said
        others += ranked["text"] != near["text"]
    assert others > 2
    assert "ranked_by" not in fates[0]["reasons"]["classifier"]


def test_the_report_names_it_too(made: Curated) -> None:
    page = render(made)
    assert "nearest example: similarity " in page and "its score: rank " in page
    direct = Betr(mode="direct").describe_score({})
    assert len(re.findall(rf"betr</bdi>: {direct}</figcaption>", page)) == 2
    assert page.count(f"betr</bdi>: {Betr.meaning}</figcaption>") == 1


def test_without_its_encoder_the_rest_is_said(made: Curated, tmp_path: Path) -> None:
    """The classifier's examples are embedded by the encoder that the fit used."""
    fates = fates_of(made, "d7")
    add_reasons(made, fates)
    whole, direct = (fates[0]["reasons"][name] for name in ("classifier", "direct"))
    work = tmp_path / "work"
    shutil.copytree(made.recipe.work_directory, work)
    for model in (work / "model").iterdir():
        if json.loads((model / "manifest.json").read_text())["config"].get("encoder"):
            shutil.rmtree(model)
    tree = made.recipe.model_dump(mode="json")
    tree["work"] = str(work)
    other = parse_recipe(tree, made.recipe.directory)
    curated = Curated(
        recipe=other,
        pool=made.pool,
        columns=made.columns,
        tokenizer=made.tokenizer,
        cut=made.cut,
        shards=made.shards,
    )
    add_reasons(curated, fates)
    own = fates[0]["reasons"]["classifier"]
    assert "nearest" not in own and "encoder" in own["problem"]
    assert {key: own[key] for key in ("selector", "meaning", "words")} == {
        key: whole[key] for key in ("selector", "meaning", "words")
    }
    # Direct mode keeps its encoder and the vectors of its examples.
    assert fates[0]["reasons"]["direct"]["nearest"] == direct["nearest"]


def test_a_slow_encoder_is_not_loaded(made: Curated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExampleSearch, "_of_pool", lambda self, embeddings: None)
    plain = StaticEncoder.load

    def slow(directory: Path) -> StaticEncoder:
        encoder = plain(directory)
        encoder.resources = Resources(slow=True)
        return encoder

    monkeypatch.setattr(StaticEncoder, "load", slow)
    fates = fates_of(made, "d7")
    add_reasons(made, fates)
    own = fates[0]["reasons"]["direct"]
    assert "nearest" not in own and "the encoder words" in own["problem"]


def test_examples_know_their_file_and_line(made: Curated) -> None:
    (column, *_) = build_columns(made.recipe)
    places = [one.place for one in column.target.examples]
    targets = made.recipe.directory / "targets"
    assert places[:4] == [f"{targets}/easy.jsonl:{line}" for line in (1, 2, 3, 5)]
    assert len(places) == 90
