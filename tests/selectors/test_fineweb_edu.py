"""FineWeb-Edu's head against scikit-learn, its grades, and what it refuses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.base import Fitting
from penstock.selectors.classifiers.classifier import area_under_curve
from penstock.selectors.encoders.embedding import beginning, embed
from penstock.selectors.encoders.static import StaticEncoder
from penstock.selectors.fineweb_edu import FineWebEdu, _f1, _moments, _ridge, grade

WORDS = {"leaf": 1.0, "soil": 1.0, "atom": 2.0, "goal": -1.0, "club": -2.0, "the": 0.0, "and": 0.0}


@pytest.fixture(scope="module")
def encoder() -> StaticEncoder:
    """A static encoder of the words above."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    table = np.random.default_rng(1).standard_normal((len(vocabulary), 12)).astype(np.float32)
    table[0] = 0
    return StaticEncoder("words", tokenizer, table, np.zeros(12, np.float32))


def texts(count: int, seed: int = 3) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(list(WORDS), int(n))) for n in random.integers(3, 20, count)]


def worth(text: str) -> float:
    words = text.split()
    return float(np.clip(2.5 + 2.5 * sum(WORDS[word] for word in words) / len(words), 0, 5))


def write(path: Path, rows: Sequence[tuple[str, Any]]) -> str:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return str(path)


def fitting(encoder: StaticEncoder, **others: Any) -> Fitting:
    def none(count: int) -> pa.Table:
        raise AssertionError("a sample was drawn")

    return Fitting(
        **{"sample": none, "pool_size": 9, "encoder": lambda name: encoder, "seed": 4, **others}
    )


def batch_of(texts: Sequence[str]) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "id": [f"doc-{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["web"] * len(texts),
        }
    )


def vectors_of(encoder: StaticEncoder, texts: Sequence[str]) -> np.ndarray:
    return embed(beginning(pa.array(texts, pa.large_string())), encoder)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labels from 0 to 5, half of them rounded, as a model gives them."""
    random = np.random.default_rng(5)
    noisy = [worth(text) + random.normal(0, 0.5) for text in texts(600)]
    labels = [float(np.clip(round(y) if row % 2 else y, 0, 5)) for row, y in enumerate(noisy)]
    path = tmp_path_factory.mktemp("labels") / "graded.jsonl"
    return write(path, list(zip(texts(600), labels)))


@pytest.fixture(scope="module")
def scorer(graded: str, encoder: StaticEncoder) -> FineWebEdu:
    scorer = FineWebEdu(labels=graded)
    scorer.fit(fitting(encoder))
    return scorer


def test_grades_are_rounded_as_published() -> None:
    scores = np.array([-3, 0.5, 1.49, 1.5, 2.4999, 2.5, 2.5000001, 3.5, 4.5, 5.4, 70])
    assert grade(scores).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 5]
    assert grade(scores).tolist() == [round(max(0.0, min(x, 5.0))) for x in scores.tolist()]
    assert ((grade(scores) >= 3) == (scores > 2.5)).all()


@pytest.mark.parametrize("penalty", [0.001, 0.3, 10.0])
def test_the_head_is_ridge_regression(encoder: StaticEncoder, penalty: float) -> None:
    from sklearn.linear_model import Ridge

    lines = texts(300)
    vectors = vectors_of(encoder, lines)
    labels = np.rint(np.array([worth(line) for line in lines]) * 1024) / 1024
    head = _ridge(_moments(vectors, labels), penalty)
    data = vectors.astype(np.float64)
    # Ours is in units of the mean variance, and per example.
    alpha = penalty * data.var(axis=0).mean() * len(data)
    ridge = Ridge(alpha=alpha, solver="svd").fit(data, labels)
    np.testing.assert_allclose(head[:-1], ridge.coef_, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(head[-1], ridge.intercept_, rtol=1e-9)


def test_moments_are_exact_and_add_up(encoder: StaticEncoder) -> None:
    vectors = vectors_of(encoder, texts(200))
    labels = np.rint(np.random.default_rng(2).uniform(0, 5, 200) * 1024) / 1024
    whole = _moments(vectors, labels)
    order = np.random.default_rng(3).permutation(200)
    parts = [_moments(vectors[rows], labels[rows]) for rows in np.split(order, [7, 7, 90])]
    assert sum(parts).tobytes() == whole.tobytes()
    exact = vectors.astype(np.int64)
    assert (whole[:-2, :-2] == exact.T @ exact).all()


def test_products_with_the_head_are_exact_in_any_order(
    scorer: FineWebEdu, encoder: StaticEncoder
) -> None:
    assert scorer._head is not None
    weights = scorer._head[1][:-1]
    vectors = vectors_of(encoder, texts(50, seed=8)).astype(np.float64)
    order = np.random.default_rng(1).permutation(len(weights))
    one = np.array([sum(row[k] * weights[k] for k in order) for row in vectors])
    assert one.tobytes() == (vectors @ weights).tobytes()


def test_scores_are_grades_from_0_to_5(scorer: FineWebEdu, encoder: StaticEncoder) -> None:
    assert scorer._head is not None
    own, head = scorer._head
    steep = FineWebEdu(labels=scorer.labels, encoder=scorer.encoder)
    steep._head = (own, head * 4 - np.eye(len(head))[-1] * 8)
    lines = texts(80, seed=9)
    vectors = vectors_of(encoder, lines).astype(np.float64)
    raw = vectors @ steep._head[1][:-1] + steep._head[1][-1]
    assert raw.min() < 0 and raw.max() > 5
    assert steep.score(batch_of(lines)).tolist() == raw.clip(0, 5).astype(np.float32).tolist()


def test_scores_are_the_raw_output(scorer: FineWebEdu, encoder: StaticEncoder) -> None:
    lines = texts(80, seed=9)
    scores = scorer.score(batch_of(lines))
    assert scorer.kind == "scorer"
    assert scores.dtype == np.float32 and scores.shape == (80,)
    assert scorer._head is not None
    head = scorer._head[1]
    expected = vectors_of(encoder, lines).astype(np.float64) @ head[:-1] + head[-1]
    assert scores.tolist() == expected.clip(0, 5).astype(np.float32).tolist()
    assert np.corrcoef(scores, [worth(line) for line in lines])[0, 1] > 0.9


def test_held_out_figures_by_hand(graded: str, encoder: StaticEncoder) -> None:
    """Of the facts, by scikit-learn on the same folds."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import f1_score

    from penstock.hashing import hash_ids, mix

    facts = FineWebEdu(labels=graded, penalty=[0.1, 100.0]).fit(fitting(encoder))
    rows = [json.loads(line) for line in Path(graded).read_text().splitlines()]
    lines = pa.array([row["text"] for row in rows], pa.large_string())
    labels = np.rint(np.array([row["label"] for row in rows]) * 1024) / 1024
    data = vectors_of(encoder, lines.to_pylist()).astype(np.float64)
    folds = hash_ids(lines, mix(4, "fineweb-edu")) % np.uint64(5)
    guess = np.empty(len(labels))
    for fold in range(5):
        rest, held = folds != fold, folds == fold
        alpha = 0.1 * data[rest].var(axis=0).mean() * rest.sum()
        ridge = Ridge(alpha=alpha, solver="svd").fit(data[rest], labels[rest])
        guess[held] = ridge.predict(data[held])
    assert facts["penalty"] == 0.1 and facts["trials"][1]["mse"] > facts["mse"]
    assert facts["mse"] == pytest.approx(((guess - labels) ** 2).mean(), abs=1e-4)
    assert facts["variance"] == pytest.approx(labels.var(), abs=1e-4)
    assert facts["mse"] < 0.7 * facts["variance"]
    true, found = grade(labels), grade(guess)
    assert facts["macro_f1"] == pytest.approx(f1_score(true, found, average="macro"), abs=1e-4)
    assert facts["kept_f1"] == pytest.approx(f1_score(true >= 3, found >= 3), abs=1e-4)
    assert facts["kept_above"] == 2.5
    assert facts["kept"] == pytest.approx((guess > 2.5).mean(), abs=1e-4)
    assert facts["labels"] == {str(one): int((true == one).sum()) for one in range(6)}
    assert "auc" not in facts


def test_labels_of_two_kinds_stand_for_0_and_5(encoder: StaticEncoder, tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(7)
    lines = texts(400)
    labels = [worth(line) + random.normal(0, 1) > 2.5 for line in lines]
    rows = [
        (line, label if row % 2 else int(label))
        for row, (line, label) in enumerate(zip(lines, labels))
    ]
    scorer = FineWebEdu(labels=write(tmp_path / "binary.jsonl", rows))
    facts = scorer.fit(fitting(encoder))
    assert facts["labels"] == {"0": labels.count(False), "5": labels.count(True)}
    assert "macro_f1" not in facts and 0.75 < facts["auc"] < 1
    scores = scorer.score(batch_of(lines))
    kept = scores > 2.5
    assert np.mean(kept == labels) > 0.7
    assert area_under_curve(scores, np.array(labels)) == pytest.approx(
        roc_auc_score(labels, scores)
    )


def test_area_and_f1_by_hand() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.9])
    assert area_under_curve(scores, np.array([False, True, False, True])) == 0.875
    found = np.array([True, True, False, False])
    assert _f1(found, np.array([True, False, True, False])) == 0.5
    assert _f1(~found & found, ~found & found) == 0


def test_the_same_bytes_from_workers_in_any_order_and_from_the_directory(
    graded: str, encoder: StaticEncoder, scorer: FineWebEdu, tmp_path: Path
) -> None:
    batch = batch_of([*texts(70, seed=6), "", "leaf"])
    expected = scorer.score(batch)

    def elsewhere(function: Any, items: Any, shared: Any = None) -> Iterator[Any]:
        return iter([function(item, pickle.loads(pickle.dumps(shared))) for item in items])

    lines = Path(graded).read_text().splitlines(keepends=True)
    np.random.default_rng(2).shuffle(lines)
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("".join(lines))
    again = FineWebEdu(labels=str(shuffled))
    again.fit(fitting(encoder, spread=elsewhere))
    assert again.score(batch).tobytes() == expected.tobytes()
    alone = np.concatenate([again.score(batch.slice(row, 1)) for row in range(len(batch))])
    assert alone.tobytes() == expected.tobytes()

    scorer.save(tmp_path)
    loaded = pickle.loads(pickle.dumps(FineWebEdu(labels=graded)))
    loaded.load(tmp_path)
    assert loaded.score(batch).tobytes() == expected.tobytes()


def test_odd_documents(scorer: FineWebEdu) -> None:
    odd = ["", " \n\u00a0", "漢字漢字", "zzz", "leaf", "leaf " * 5000, "\x00\ufffd leaf", "leaf"]
    scores = scorer.score(batch_of(odd))
    assert np.isnan(scores[:4]).all() and np.isfinite(scores[4:]).all()
    assert scores[4] == scores[7] == scores[5]
    assert scorer.score(batch_of([])).shape == (0,)


def test_identity_holds_contents_and_no_path(graded: str, tmp_path: Path) -> None:
    first = FineWebEdu(labels=graded).identity()
    assert str(Path(graded).parent) not in repr(first)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(graded).read_bytes())
    assert FineWebEdu(labels=str(copy)).identity() == first
    copy.write_text(copy.read_text() + "\n")
    assert FineWebEdu(labels=str(copy)).identity() != first
    for change in ({"encoder": "sentence"}, {"max_characters": 9}, {"penalty": 0.5}):
        assert FineWebEdu(**{"labels": graded, **change}).identity() != first


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"labels": None}, "labels"),
        ({"labels": "/no/such"}, "labels"),
        ({"labels": 3}, "labels"),
        ({"encoder": ""}, "encoder"),
        ({"max_characters": 0}, "max_characters"),
        ({"penalty": 0}, "penalty"),
        ({"penalty": []}, "penalty"),
    ],
)
def test_bad_parameters(graded: str, parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        FineWebEdu(**{"labels": graded, **parameters})
    assert info.value.key == key


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ('{"text": "a"}', None),
        ('{"text": "a", "label": 6}', "6"),
        ('{"text": "a", "label": -1}', "-1"),
        ('{"text": "a", "label": NaN}', "nan"),
        ('{"text": "a", "label": "3"}', "'3'"),
        ('{"label": 3}', None),
        ('{"text": "a"', None),
    ],
)
def test_bad_labels(
    graded: str, encoder: StaticEncoder, tmp_path: Path, line: str, got: str | None
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(Path(graded).read_text() + line + "\n")
    with pytest.raises(SelectorError) as info:
        FineWebEdu(labels=str(path)).fit(fitting(encoder))
    assert info.value.key == "labels"
    assert got is None or str(info.value).endswith(f"got {got}")


def test_labels_that_cannot_be_learned(encoder: StaticEncoder, tmp_path: Path) -> None:
    def fitted(rows: list[tuple[str, Any]], **parameters: Any) -> None:
        FineWebEdu(labels=write(tmp_path / "l.jsonl", rows), **parameters).fit(fitting(encoder))

    lines = texts(300)
    chance = np.random.default_rng(1).uniform(0, 5, 300).tolist()
    with pytest.raises(SelectorError) as info:
        fitted(list(zip(lines, chance)))
    assert info.value.key == "labels"
    with pytest.raises(SelectorError) as info:
        fitted([(line, worth(line)) for line in lines[:20]])
    assert info.value.key == "labels"
    assert "50" in str(info.value)
    assert "20" in str(info.value)
    with pytest.raises(SelectorError, match=r"got 300 with 1; label more"):
        fitted([(line, 3) for line in dict.fromkeys(texts(310))][:300])
    with pytest.raises(SelectorError) as info:
        fitted([("leaf", row % 6) for row in range(100)])
    assert info.value.key == "labels"
    with pytest.raises(SelectorError) as info:
        fitted([("zzz", row % 6) for row in range(100)])
    assert info.value.key == "labels"
    with pytest.raises(SelectorError) as info:
        table = encoder.table.copy()
        table[:, 11] = table[:, 10]  # two directions that are one
        twice = StaticEncoder("twice", encoder.tokenizer, table, encoder.centre)
        path = write(tmp_path / "l.jsonl", [(line, worth(line)) for line in lines])
        FineWebEdu(labels=path, penalty=1e-300).fit(fitting(twice))
    assert info.value.key == "penalty"


def test_states_that_cannot_score(graded: str, tmp_path: Path) -> None:
    scorer = FineWebEdu(labels=graded)
    with pytest.raises(SelectorError) as info:
        scorer.score(batch_of(["leaf"]))
    assert info.value.expected == "a fitted selector"
    with pytest.raises(ArtefactError) as info:
        scorer.load(tmp_path)
    assert info.value.file
    np.save(tmp_path / "head.npy", np.array([np.nan]))
    with pytest.raises(ArtefactError, match="finite"):
        scorer.load(tmp_path)
