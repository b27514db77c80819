"""Languages by classifiers of fastText: labels of its own `predict`; damaged files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.rules.languages import Languages
from penstock.rules.languages.fasttext_model import _tree
from tests.fasttext_reference import zeroed_malloc

LINES = {
    "en": "the cat sat on the mat and the dog was in the house of an old man",
    "de": "die Katze saß auf der Matte und der Hund war im Haus eines alten Mannes",
    "fr": "le chat était sur le tapis et le chien dans la maison du vieil homme",
    "ru": "кошка сидела на коврике а собака была в доме старого человека",
    "zh": "猫 坐在 垫子 上 狗 在 老人 的 房子 里",
}
KINDS: dict[str, dict[str, Any]] = {
    "softmax of words": {"loss": "softmax"},
    "tree of words": {"loss": "hs"},
    "characters": {"loss": "softmax", "minn": 2, "maxn": 4},
    "tree, characters, bigrams": {"loss": "hs", "minn": 1, "maxn": 3, "wordNgrams": 2},
    "trigrams": {"loss": "softmax", "wordNgrams": 3},
    "usual buckets": {"loss": "hs", "minn": 3, "maxn": 5, "bucket": 2_000_000, "dim": 2},
    "quantised": {"loss": "hs", "minn": 2, "maxn": 4, "quantised": {"qnorm": True}},
    "pruned": {"loss": "hs", "minn": 2, "maxn": 4, "quantised": {"cutoff": 300, "qnorm": True}},
    "pruned, odd": {
        "loss": "softmax",
        "dim": 5,
        "minn": 2,
        "maxn": 3,
        "quantised": {"cutoff": 800, "dsub": 2},
    },
}


def trained_on(path: str, **given: Any) -> Any:
    with zeroed_malloc():
        return fasttext.train_supervised(path, thread=1, verbose=0, **given)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    chance = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("examples") / "lines.txt"
    lines = []
    for label, line in LINES.items():
        words = line.split()
        for _ in range(80 + 30 * len(label) + ord(label[0]) % 7):
            lines.append(f"__label__{label} {' '.join(chance.choice(words, 8))}")
    lines += [f"__label__en {word}{number}" for word in ("a", "the") for number in range(200)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def model(request: pytest.FixtureRequest, examples: str, tmp_path_factory: Any) -> str:
    given = {"dim": 8, "bucket": 5000, "epoch": 20, "lr": 0.5}
    given |= request.param
    quantised = given.pop("quantised", None)
    trained = trained_on(examples, **given)
    path = tmp_path_factory.mktemp("model") / ("model.ftz" if quantised else "model.bin")
    if quantised is not None:
        trained.quantize(input=examples, verbose=0, **quantised)
    trained.save_model(str(path))
    return str(path)


WORDS = st.sampled_from(
    [word for line in LINES.values() for word in line.split()]
    + ["</s>", "__label__en", "__label__x", "a7", "x", "漢", "ß", "<", "</s>x", "é" * 9, "the\0cat"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
TEXTS = st.lists(WORDS | st.sampled_from(["\n", "\t", "  "]), max_size=12).map(" ".join)


def compare(path: str, texts: list[str]) -> None:
    reference = fasttext.load_model(path)
    found = Languages.of(path).compute(pa.array(texts, pa.large_string()))
    softmax = reference.f.getArgs().loss.name == "softmax"
    labels, probabilities = (column.to_pylist() for column in found.columns)
    for text, label, probability in zip(texts, labels, probabilities):
        line = text.replace("\n", " ")
        theirs = reference.f.predict(line + "\n", len(LINES), 0.0, "strict")
        if not theirs or not any(map(str.isalpha, text)):
            assert label is None, text
            continue
        by_label = {one.removeprefix("__label__"): score for score, one in theirs}
        assert by_label[label] == pytest.approx(theirs[0][0], abs=1e-5), text  # of equal ones
        assert probability == pytest.approx(theirs[0][0] - 1e-5 * softmax, abs=2e-5), text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_labels_are_those_of_predict(model: str, texts: list[str]) -> None:
    compare(model, [*texts, *LINES.values()])


def test_long_texts(model: str) -> None:
    compare(model, ["x" * 50_000, "the " * 20_000, "é" * 30_000, " \n" * 9000 + "the", "Д" * 7])
    (label,) = Languages.of(model).compute(pa.array([LINES["ru"]])).column(0).to_pylist()
    assert label == "ru"


def test_a_quantised_output(tmp_path: Path) -> None:
    chance = np.random.default_rng(8)
    texts = [" ".join(f"w{n}" for n in chance.integers(0, 900, 6)) for _ in range(900)]
    lines = "".join(f"__label__{n % 300} {text}\n" for n, text in enumerate(texts))
    (tmp_path / "lines.txt").write_text(lines)
    trained = trained_on(str(tmp_path / "lines.txt"), dim=6, bucket=9, epoch=30, lr=1.0)
    trained.quantize(input=str(tmp_path / "lines.txt"), qout=True, qnorm=True, verbose=0)
    trained.save_model(str(tmp_path / "model.ftz"))
    compare(str(tmp_path / "model.ftz"), texts[:200])


def test_the_tree_is_that_of_huffman() -> None:
    # 1 and 2 are joined to node 4 of 3, it and 3 to node 5 of 6, 5 and node 5 to the root.
    assert _tree([5, 3, 2, 1]).tolist() == [[-1, -1]] * 4 + [[3, 2], [4, 1], [0, 5]]
    assert _tree([7]).tolist() == [[-1, -1]]


@pytest.fixture(scope="module")
def content(examples: str, tmp_path_factory: Any) -> bytes:
    trained = trained_on(examples, dim=4, bucket=900, minn=2, maxn=3, epoch=1)
    trained.quantize(input=examples, cutoff=290, qnorm=True, verbose=0)
    path = tmp_path_factory.mktemp("damaged") / "model.ftz"
    trained.save_model(str(path))
    return path.read_bytes()


def used(path: Path, content: bytes) -> pa.RecordBatch:
    path.write_bytes(content)
    return Languages.of(str(path)).compute(pa.array([LINES["en"]]))


def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    assert used(tmp_path / "whole", content).num_rows == 1
    for size in [4, 8, 40, *range(60, len(content) - 1, 97)]:
        with pytest.raises(InputError) as error:
            used(tmp_path / "cut", content[:size])
        assert error.value.file == str(tmp_path / "cut")
    numbers = struct.unpack_from("<14i", content)
    for place in range(1, 14):
        for value in (-1, 0, 2**31 - 1, numbers[place] + 1):
            changed = bytearray(content)
            struct.pack_into("<i", changed, 4 * place, value)
            try:
                used(tmp_path / "changed", bytes(changed))
            except InputError:
                continue
            # Numbers of training, of n-grams' lengths and of buckets above those that are left.
            assert place in (3, 4, 5, 6, 7, 10, 11, 12, 13), (place, value)


def test_random_damage_never_crashes(tmp_path: Path, content: bytes) -> None:
    chance = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        for at in chance.integers(8, len(content), 3):
            changed[at] = chance.integers(256)
        try:
            used(tmp_path / "changed", bytes(changed))
        except InputError:
            refused += 1
    assert 20 < refused < 300


@pytest.mark.parametrize("loss", ["ns", "ova"])
def test_other_losses_are_refused(tmp_path: Path, examples: str, loss: str) -> None:
    trained = trained_on(examples, loss=loss, dim=2, bucket=10, epoch=1)
    trained.save_model(str(tmp_path / "model.bin"))
    with pytest.raises(InputError) as error:
        Languages.of(str(tmp_path / "model.bin")).compute(pa.array(["a"]))
    assert "softmax or hs" in error.value.problem
