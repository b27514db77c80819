"""What scores mean, compared with the selectors that gave them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from markupsafe import escape

from penstock.jobs.curate import Curated, PartiallyCurated, curate, inspect
from penstock.jobs.reasons import add_reasons, changed_code, describe_reasons
from penstock.jobs.report.page import render
from penstock.jobs.unscored import ask_own_code
from penstock.jobs.why import fates_of
from penstock.pipeline.runner import LocalRunner
from penstock.recipe_file import parse_recipe
from penstock.selectors.adapter import as_selector
from penstock.selectors.influence import can_be_asked, influential_words
from penstock.selectors.registry import built_in
from tests.pools import all_documents, recipe_of, write_jsonl
from tests.selectors.test_properties import texts, write_encoder


def word_count(found: list[str]) -> list[float]:
    """Count the words of a text, and each place of ``turbine`` ten times."""
    return [len(text.split()) + 9 * text.count("turbine") for text in found]


class Words:
    """A scorer that is only what is needed."""

    kind = "scorer"

    def score(self, batch: pa.RecordBatch) -> np.ndarray:
        return np.array(word_count(batch.column("text").to_pylist()), np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    directory = tmp_path_factory.mktemp("reasons")
    rows = texts(200)
    rows[7]["text"] += " turbine"
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    examples = [{"id": f"t{n}", "text": rows[n]["text"] + " turbine"} for n in range(0, 80, 2)]
    write_jsonl(directory / "aim.jsonl", examples)
    write_encoder(directory / "encoder")
    encoder = str(directory / "encoder")
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {
            "dsir": {"use": "dsir", "target": "aim.jsonl", "min_tokens": 1},
            "kmq": {"use": "kmq", "quality": "dsir", "clusters": 3, "encoder": encoder},
            "mean": {"use": "mean_of", "column": "dsir", "by": "source"},
            "length": {"use": "mean_of", "column": "dsir", "by": "length"},
        },
        "budget": {"tokens": 1_600, "rank": {"dsir": 0.5, "kmq": 0.3, "mean": 0.1, "length": 0.1}},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    return curate(parse_recipe(tree, directory), LocalRunner(1))


def test_each_column_says_what_its_scores_mean(made: Curated) -> None:
    fates = fates_of(made, "d7")
    add_reasons(made, fates)
    reasons = fates[0]["reasons"]
    assert {name: one["selector"] for name, one in reasons.items()} == {
        "dsir": "dsir",
        "kmq": "kmq",
        "mean": "mean_of",
        "length": "mean_of",
    }
    assert all(one["meaning"] for one in reasons.values())
    assert reasons["mean"]["mean"] == {
        "column": "dsir",
        "by": "source",
        "source": fates[0]["source"],
    }
    assert "cluster" not in reasons["dsir"] and "words" not in reasons["kmq"]
    best = reasons["dsir"]["words"][0]
    assert best["word"] == "turbine" and best["change"] > 0
    for one in reasons.values():
        assert all(type(line) is str for line in describe_reasons(one))
    assert "turbine +" in " ".join(describe_reasons(reasons["dsir"]))
    json.dumps(fates, allow_nan=False)


def test_a_selector_says_why_a_document_has_no_score(tmp_path: Path) -> None:
    rows = texts(80)
    rows[5]["text"] = "a mill, short"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    write_jsonl(tmp_path / "aim.jsonl", [{"text": rows[n]["text"]} for n in range(40)])
    (tmp_path / "scorer_of_none.py").write_text(
        "def score(texts):\n    return [None if 'mill' in t else 1.0 * len(t) for t in texts]\n\n"
        "def endless(texts):\n    return [float('inf') if 'mill' in t else 1.0 for t in texts]\n"
    )
    write_encoder(tmp_path / "encoder")
    copies = {"encoder": str(tmp_path / "encoder"), "clusters": 2}
    rows[7]["text"] = "\u2603 \u2604 \u2605 \u2606 \u2607 \u2608"  # the encoder knows none of these
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {
            "near": {"use": "dsir", "target": "aim.jsonl", "min_tokens": 5},
            "mean": {"use": "mean_of", "column": "near", "by": "source"},
            "own": {"use": "scorer_of_none:score"},
            "endless": {"use": "scorer_of_none:endless"},
            "kmq": {"use": "kmq", "quality": "near", **copies},
            "semdedup": {"use": "semdedup", **copies},
        },
        "budget": {
            "tokens": 160,
            "rank": dict.fromkeys(["near", "mean", "own", "endless", "kmq", "semdedup"], 1.0),
        },
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    of = curate(parse_recipe(tree, tmp_path), LocalRunner(1))
    fates = fates_of(of, rows[5]["id"])
    add_reasons(of, fates)
    found = {name: own.get("unscored") for name, own in fates[0]["reasons"].items()}
    assert "4 tokens" in found["near"] and "min_tokens: 5" in found["near"]
    assert "near" in found["mean"]
    assert "None or NaN" in found["own"]
    assert "infinite" in found["endless"]
    assert found["kmq"] == "it has no score in near", "and not a list of what it may be"
    fates = fates_of(of, rows[7]["id"])
    add_reasons(of, fates)
    found = {name: own.get("unscored") for name, own in fates[0]["reasons"].items()}
    for name in ("kmq", "semdedup"):
        assert "no token" in found[name] and " or " not in found[name], name
    fates = fates_of(of, rows[6]["id"])
    add_reasons(of, fates)
    found = {name: own.get("unscored") for name, own in fates[0]["reasons"].items()}
    assert [found.pop(name) for name in ("near", "mean", "own", "endless", "kmq")] == [None] * 5
    assert found["semdedup"] == "it is a near copy of another document"


def test_own_code_is_asked_again_about_one_document() -> None:
    fate = {"id": "d", "source": "s", "text": " "}

    class Own:
        def __init__(self, given: Callable[[list[str]], Any]) -> None:
            self.given = given

        def score(self, batch: pa.RecordBatch) -> Any:
            return self.given(batch.column("text").to_pylist())

    def ask(score: Callable[[list[str]], Any], text: str = "a mill") -> str:
        return ask_own_code(Own(score), {**fate, "text": text})

    assert "2.5" in ask(lambda texts: [2.5]), "it depends on the other documents of a call"
    assert "ZeroDivisionError" in ask(lambda texts: [1 / 0])
    assert "infinite" in ask(lambda texts: [float("-inf")])
    assert "blank" in ask(lambda texts: [None], " \n") and "blank" not in ask(lambda texts: [None])
    assert "None, NaN or an infinite" in ask_own_code(None, fate)


def test_a_mean_by_length_names_the_lengths_of_its_group(made: Curated) -> None:
    """All documents of one score in the column have these lengths, and no others have."""
    known = all_documents(made.pool, made.tokenizer)
    scores: dict[str, float] = {}
    groups: dict[str, dict[str, Any]] = {}
    for document in known[::4]:
        fates = fates_of(made, document.id)
        add_reasons(made, fates)
        scores[document.id] = fates[0]["scores"]["length"]["score"]
        groups[document.id] = fates[0]["reasons"]["length"]["mean"]
    lengths = {document.id: len(document.text.encode()) for document in known}
    for name, own in groups.items():
        assert (own["column"], own["by"]) == ("dsir", "length")
        inside = [one for one, length in lengths.items() if own["least"] <= length <= own["most"]]
        assert name in inside and own["documents"] == len(inside)
        assert {min(map(lengths.get, inside)), max(map(lengths.get, inside))} == {
            own["least"],
            own["most"],
        }
        assert {scores[one] for one in inside if one in scores} == {scores[name]}
    assert len({own["number"] for own in groups.values()}) > 10
    said = list(describe_reasons({"selector": "mean_of", "mean": groups["d0"]}))
    bounds = f"{groups['d0']['least']:,} to {groups['d0']['most']:,} bytes"
    assert any(bounds in line for line in said)


def test_the_report_tells_it_too(made: Curated) -> None:
    page = render(made)
    fates = fates_of(made, "d7")
    add_reasons(made, fates)
    assert all(escape(own["meaning"]) in page for own in fates[0]["reasons"].values())
    assert page.count("<summary>Why this score</summary>") >= 16
    assert "what its words add to the score: " in page, "of dsir"
    assert re.search(r"cluster [012] of 3</bdi>", page), "of kmq"


def test_code_of_the_users_own_runs_only_if_it_may(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(30))
    (tmp_path / "mine.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    recipe = recipe_of(tmp_path, 160, "own", select={"own": {"use": "mine:score"}})
    curated = curate(recipe, LocalRunner(1))
    for may in (True, False):
        fates = fates_of(curated, "d7")
        add_reasons(curated, fates, own_code=may)
        assert ("words" in fates[0]["reasons"]["own"]) == may


def test_the_cluster_is_that_of_the_selector(made: Curated) -> None:
    """All documents: those of one number are those that the loaded selector puts together."""
    known = all_documents(made.pool, made.tokenizer)
    seen: dict[int, int] = {}
    for document in known[:40]:
        fates = fates_of(made, document.id)
        add_reasons(made, fates)
        own = fates[0]["reasons"]["kmq"]
        assert own["clusters"] == 3
        seen[own["cluster"]] = seen.get(own["cluster"], 0) + 1
    assert sum(seen.values()) == 40 and len(seen) > 1 and set(seen) <= {0, 1, 2}


def test_a_model_that_is_gone_is_named(made: Curated, tmp_path: Path) -> None:
    model = made.columns["dsir"].manifest["inputs"]["model"]
    place = made.recipe.work_directory / "model" / model[:16]
    place.rename(tmp_path / "moved")
    try:
        fates = fates_of(made, "d7")
        add_reasons(made, fates)
    finally:
        (tmp_path / "moved").rename(place)
    assert set(fates[0]["reasons"]) == {"dsir", "kmq", "mean", "length"}
    own = fates[0]["reasons"]["dsir"]
    assert model[:16] in own["problem"] and own["meaning"] and "words" not in own
    assert any(model[:16] in line for line in describe_reasons(own))
    assert fates[0]["scores"]["dsir"]["score"] is not None


def test_influence_is_the_score_less_the_score_without_the_word() -> None:
    scorer = as_selector(Words())
    text = "Turbine turbine (turbine) and and water."
    document = pa.record_batch(
        {"id": ["a"], "text": pa.array([text], pa.large_string()), "source": ["s"]}
    )
    assert can_be_asked(scorer)
    found = influential_words(scorer, document)
    changes = {one.word: one.change for one in found}
    assert changes == {"Turbine": 1.0, "turbine": 20.0, "and": 2.0, "water": 1.0}
    assert found[0].word == "turbine"
    assert len(influential_words(scorer, document, most=2)) == 2


class Listed:
    """A scorer that returns a list, with None for no score, as the examples do."""

    kind = "scorer"

    def score(self, batch: pa.RecordBatch) -> list[float | None]:
        texts = batch.column("text").to_pylist()
        return [text.count("turbine") if "water" in text else None for text in texts]


def test_influence_of_a_scorer_that_returns_a_list() -> None:
    text = pa.array(["turbine and water"], pa.large_string())
    document = pa.record_batch({"id": ["a"], "text": text, "source": ["s"]})
    found = influential_words(as_selector(Listed()), document)
    assert [(one.word, one.change) for one in found] == [("turbine", 1.0)]


OWN = """
class Own:
    broken = False
    def score(self, documents):
        if Own.broken:
            raise KeyError("words")
        return [float(text.count("turbine")) for text in documents["text"].to_pylist()]
"""


def test_a_plug_in_that_raises_does_not_end_why(tmp_path: Path) -> None:
    rows = texts(30)
    rows[7]["text"] += " turbine"
    write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    (tmp_path / "raising_own.py").write_text(OWN)
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {"own": {"use": "raising_own:Own"}},
        "budget": {"tokens": 160, "rank": "own"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    made = curate(parse_recipe(tree, tmp_path), LocalRunner(1))
    found = fates_of(made, "d7")
    add_reasons(made, found)
    words = found[0]["reasons"]["own"]["words"]
    assert words == [{"word": "turbine", "change": 1.0}]
    sys.modules["raising_own"].Own.broken = True
    add_reasons(made, found)
    own = found[0]["reasons"]["own"]
    assert "KeyError" in own["problem"] and "raising_own.py:6" in own["problem"]
    assert "words" not in own and found[0]["scores"]["own"]["score"] == 1.0
    assert any("KeyError" in line for line in describe_reasons(own))


def test_an_edit_of_the_code_is_said_by_why_and_by_curate(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(30))
    file = tmp_path / "edited_own.py"
    file.write_text("def score(texts):\n    return [len(text) for text in texts]\n")
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {"own": {"use": "edited_own:score"}},
        "budget": {"tokens": 160, "rank": "own"},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    lines: list[str] = []
    recipe = parse_recipe(tree, tmp_path)
    curate(recipe, LocalRunner(1), lines.append)
    assert not [line for line in lines if "changed" in line]
    file.write_text("def score(texts):\n    return [-len(text) for text in texts]  # shorter\n")
    found = inspect(recipe, LocalRunner(1))
    assert isinstance(found, PartiallyCurated)
    (said,) = changed_code(found)
    assert said.startswith("select.own: ") and "edited_own" in said
    curate(recipe, LocalRunner(1), lines.append)
    (said,) = [line for line in lines if "changed" in line]
    assert said.startswith("select.own: ") and "edited_own" in said


def test_an_edited_file_is_said_and_not_a_module_of_a_column_that_is_kept(tmp_path: Path) -> None:
    """Of `own` an older column is there, which is newer than none: its code did not change."""
    write_jsonl(tmp_path / "pool" / "a.jsonl", texts(30))
    (tmp_path / "weighing_own.py").write_text(
        "import json\nfrom pathlib import Path\n\nclass Weighing:\n    paths = ('model',)\n\n"
        "    def __init__(self, model):\n"
        "        self.weight = json.loads(Path(model).read_text())['w']\n\n"
        "    def score(self, documents):\n"
        "        return [self.weight * len(text) for text in documents['text'].to_pylist()]\n"
    )
    (tmp_path / "weights.json").write_text('{"w": 1}')
    tree: dict[str, Any] = {
        "corpus": [{"path": "pool"}],
        "select": {
            "own": {"use": "older_own:score"},
            "lin": {"use": "weighing_own:Weighing", "model": "weights.json"},
        },
        "budget": {"tokens": 160, "rank": {"own": 1, "lin": 1}},
        "tokenizer": {"train": {"vocab_size": 384}},
        "shards": {"sequence_length": 16},
    }
    recipe = parse_recipe(tree, tmp_path)
    for sign in ("", "-", ""):  # the column of the first is kept, the last one made is another
        (tmp_path / "older_own.py").write_text(
            f"def score(texts):\n    return [{sign}len(text) for text in texts]\n"
        )
        curate(recipe, LocalRunner(1))
    (tmp_path / "weights.json").write_text('{"w": 2}')
    found = inspect(recipe, LocalRunner(1))
    assert isinstance(found, PartiallyCurated)
    assert found.lacks.problem.startswith("the column lin ")
    (said,) = changed_code(found)
    assert said.startswith("select.lin.model: weights.json ")
    lines: list[str] = []
    curate(recipe, LocalRunner(1), lines.append)
    (said,) = [line for line in lines if "changed" in line]
    assert said.startswith("select.lin.model: weights.json ")


def test_every_selector_says_what_its_scores_mean() -> None:
    found = built_in("selector")
    assert len(found) >= 17
    assert [name for name, one in found.items() if not one.meaning] == []
