"""CCNet's filter against a Kneser-Ney model of dictionaries, and what a perplexity must be."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.base import Fitting, Target
from penstock.selectors.ccnet import NgramPerplexity
from penstock.selectors.kernels import ngram
from penstock.selectors.kernels.ngram import NgramModel

# The normalisation and the model as they are published, a line for each step.

UNPARTED = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
PUNCTUATION = {
    **{mark: '"' for mark in "„”“«»「」《》"},
    **{mark: "'" for mark in "´’‘"},
    **dict(zip("，、。．–—━►∶：；？！（）【】〈〉％～", ",,..----::;?!()[]<>%~")),
    "…": "...",
}


def hash_tokens(text: str) -> np.ndarray:
    return ngram.hash_tokens(pa.array([text], pa.large_string()), len(text) + 1)


def perplexity(log10_total: float, length: int) -> float:
    return 10.0 ** (-log10_total / length)


def of_word(character: str) -> bool:
    unparted = re.match(f"[{UNPARTED}]", character)
    return unicodedata.category(character)[0] in "LNM" and not unparted


def naive_tokens(text: str) -> list[list[str]]:
    """Of each line that has any."""
    lines = []
    for raw in text.split("\n"):
        line = unicodedata.normalize("NFD", raw.strip().lower())
        line = "".join(one for one in line if unicodedata.category(one) != "Mn")
        line = "".join("0" if unicodedata.category(one) == "Nd" else one for one in line)
        line = "".join(PUNCTUATION.get(one, one) for one in line)
        line = "".join(
            one for one in line if one.isspace() or unicodedata.category(one) not in {"Cc", "Cf"}
        )
        line = "".join(one if of_word(one) else f" {one} " for one in line)
        lines.append(line.split())
    return [line for line in lines if line]


class Naive:
    """Interpolated modified Kneser-Ney, by dictionaries of tuples of words."""

    def __init__(self, lines: Sequence[Sequence[str]], order: int, prune: int = 0) -> None:
        sentences = [["<s>", *line, "</s>"] for line in lines]
        self.order = order
        self.vocabulary = {word for line in sentences for word in line} - {"<s>"} | {"<unk>"}
        self.occurs: Counter[tuple[str, ...]] = Counter(
            tuple(line[at : at + k])
            for line in sentences
            for k in range(1, order + 1)
            for at in range(len(line) - k + 1)
        )
        before: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for gram in self.occurs:
            before[gram[1:]].add(gram[0])
        self.adjusted = {
            gram: count if len(gram) == order or gram[0] == "<s>" else len(before[gram])
            for gram, count in self.occurs.items()
            if gram != ("<s>",)
        }
        self.kept = {g for g in self.adjusted if len(g) < 3 or self.occurs[g] > prune}
        self.discounts, self.fallback = {}, []
        for k in range(1, order + 1):
            t = Counter(count for gram, count in self.adjusted.items() if len(gram) == k)
            self.discounts[k] = [0, 0.5, 1, 1.5]
            if t[1] and t[2] and t[3]:
                y = t[1] / (t[1] + 2 * t[2])
                found = [0, *(j - (j + 1) * y * t[j + 1] / t[j] for j in (1, 2, 3))]
                if all(0 < found[j] <= j for j in (1, 2, 3)):
                    self.discounts[k] = found
                    continue
            self.fallback.append(k)
        self.after: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        for gram in self.adjusted:
            self.after[gram[:-1]].append(gram)

    def p(self, word: str, context: tuple[str, ...]) -> float:
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.p(word, context[1:]) if context else 1 / len(self.vocabulary)
        grams = self.after.get(context, [])
        total = sum(self.adjusted[gram] for gram in grams)
        if not total:
            return lower
        explicit, left = 0.0, 0.0
        for gram in grams:
            count = self.adjusted[gram]
            discount = self.discounts[len(gram)][min(count, 3)] if gram in self.kept else count
            left += discount
            if gram[-1] == word:
                explicit = count - discount
        return explicit / total + left / total * lower

    def log10(self, lines: Sequence[Sequence[str]]) -> tuple[float, int]:
        """The sum over a document's lines, and of how many tokens and ends."""
        total, length = 0.0, 0
        for line in lines:
            context: tuple[str, ...] = ("<s>",)
            for word in [*line, "</s>"]:
                known = word if word in self.vocabulary else "<unk>"
                total += math.log10(self.p(known, context))
                context = (*context, known)
                length += 1
        return total, length


WORDS = ["the", "water", "flows", "down", "penstock", "turbine", "dam", "old", "grey", ",", "."]


def documents(count: int, seed: int = 3, words: Sequence[str] = WORDS) -> list[str]:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(len(words), 0.8))
    return [
        "\n".join(
            " ".join(random.choice(words, size=int(random.integers(1, 9)), p=weights))
            for _ in range(int(random.integers(1, 5)))
        )
        for _ in range(count)
    ]


def table_of(texts: Sequence[str], sources: Sequence[str] | None = None) -> pa.Table:
    return pa.table(
        {
            "id": [f"doc-{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": sources or ["web"] * len(texts),
        }
    )


def batch_of(texts: Sequence[str]) -> pa.RecordBatch:
    return table_of(texts).to_batches()[0] if texts else table_of(["x"]).to_batches()[0].slice(1)


def fitting(pool: pa.Table, target: Sequence[str] = ()) -> Fitting:
    return Fitting(
        sample=lambda count: pool.slice(0, count),
        pool_size=len(pool),
        target=[Target(benchmark="b", text=text) for text in target],
    )


def model_of(texts: Sequence[str], order: int = 3, prune: int = 0) -> NgramModel:
    hashes = np.concatenate([hash_tokens(text) for text in texts])
    return NgramModel.of(hashes, order, prune)[0]


def large(texts: Sequence[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


POOL = table_of([*documents(60, seed=8), "", " \n\u00a0"])
REFERENCE = documents(120)


def write_texts(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_texts(tmp_path_factory.mktemp("reference") / "own.jsonl", REFERENCE)


@pytest.fixture(scope="module")
def scorer(reference: str) -> NgramPerplexity:
    scorer = NgramPerplexity(reference=reference)
    scorer.fit(fitting(POOL))
    return scorer


# Tokens.


def test_golden_tokens() -> None:
    """One hash a token: of what, by comparing with texts that are one token."""
    text = "\u00a0Élan vital: 3,14 \u2026 don\u2019t\n\n \t\n\u4f60\u597d\u3002 STRASSE\u00ad\n"
    own = ["elan", "vital", ":", "0", ",", "00", ".", ".", ".", "don", "'", "t"]
    expected = [*(hash_tokens(one)[0] for one in own), 2]
    expected += [*(hash_tokens(one)[0] for one in ["\u4f60", "\u597d", ".", "strasse"]), 2]
    assert hash_tokens(text).tolist() == expected
    assert hash_tokens(" \n\t\x00\n").tolist() == hash_tokens("").tolist() == []


AWKWARD = [
    "",
    "a",
    "\u0130stanbul \u212aelvin \u212b \u01c5 \u1e9e",
    "e\u0301\u0301 n\u0303 o\u0308 \u0344",
    "\u0661\u0662 \uff11\uff12 \u00bd \u00b2 \u2163",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001d504 \U0001f9ff\U0001f9ff\U00010428 \U00020000x\U00020001",
    "snake_case isn't 3.14, e.g. (x)...",
    "a\u200db\u00adc\u200ed \x01e",
    "\r\n a \x0b b \x1c c \x85 d \u2028 e",
    "\u201cq\u201d \u00abq\u00bb \u2013\u2014\u2501\u25ba\u2026\u2026",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_tokens_of_awkward_texts(text: str) -> None:
    same_tokens(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_tokens_of_any_text(text: str) -> None:
    same_tokens(text)


def same_tokens(text: str) -> None:
    # Characters that part into several, Hangul's among them, stay themselves: see _normalised.
    text = "".join(one for one in text if len(stripped(one)) <= 1 or one == "\u0130")
    expected = []
    for line in naive_tokens(text):
        expected += [*(naive_hash(token) for token in line), 2]
    assert hash_tokens(text).tolist() == expected


def stripped(character: str) -> str:
    apart = unicodedata.normalize("NFD", character.lower())
    return "".join(one for one in apart if unicodedata.category(one) != "Mn")


def naive_hash(token: str) -> int:
    ones = 2**64 - 1
    state = 0xCBF29CE484222325
    for one in token:
        state = (state ^ ord(one)) * 0x100000001B3 & ones
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & ones
    state = (state ^ state >> 27) * 0x94D049BB133111EB & ones
    return max((state ^ state >> 31) >> 1, 3)


# The model.


def test_golden_bigrams() -> None:
    """Of "a b" and "a c": by hand, with the fallback's discounts, 0.5 of 1 and 1 of 2.

    Before words stand: <s> before a; a before b and c; b and c before </s>. So a, b and c are
    counted 1 and </s> 2, of 5 in all; 0.5 + 0.5 + 0.5 + 1 = 2.5 are left to 1 / 5: a, b, c, </s>
    and the unknown word.
    """
    model = model_of(["a b", "a c"], order=2)
    one = {"a": 0.5 / 5 + 0.5 / 5, "</s>": 1 / 5 + 0.5 / 5, "?": 0.5 / 5}
    one["b"] = one["a"]
    after_start = 1 / 2 + 1 / 2 * one["a"]  # <s> a, twice
    after_a = 0.5 / 2 + 1 / 2 * one["b"]  # a b once, a c once
    after_b = 0.5 + 0.5 * one["</s>"]
    sums, lengths = model.log10_sums(large(["a b", "x", "a\nb", ""]))
    assert lengths.tolist() == [3, 2, 4, 0]
    expected = [
        math.log10(after_start * after_a * after_b),
        math.log10(1 / 2 * one["?"] * one["</s>"]),
        math.log10(after_start * 1 / 2 * one["</s>"] * 1 / 2 * one["b"] * after_b),
        0,
    ]
    np.testing.assert_allclose(sums, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("order", "prune", "count"),
    [(1, 0, 60), (2, 0, 120), (3, 0, 120), (5, 0, 120), (5, 0, 3), (4, 1, 120), (5, 2, 120)],
)
def test_parity_with_a_naive_model(order: int, prune: int, count: int) -> None:
    reference = documents(count)
    naive = Naive([line for text in reference for line in naive_tokens(text)], order, prune)
    hashes = np.concatenate([hash_tokens(text) for text in reference])
    model, facts = NgramModel.of(hashes, order, prune)
    for k in range(1, order + 1):
        np.testing.assert_allclose(facts["discounts"][k - 1], naive.discounts[k][1:], atol=1e-4)
        some = [gram for gram in naive.kept if len(gram) == k]
        assert facts["ngrams"][k - 1] == len(some) + (k == 1)  # and <s>
    assert facts["fallback"] == naive.fallback
    if count == 120 and order == 5:
        assert len(facts["fallback"]) < 5  # discounts of counts are tested, too
    texts = [*documents(20, seed=9), *documents(9, seed=4, words=[*WORDS, "new", "words"])]
    sums, lengths = model.log10_sums(large(texts))
    expected = [naive.log10(naive_tokens(text)) for text in texts]
    assert lengths.tolist() == [length for _, length in expected]
    np.testing.assert_allclose(sums, [total for total, _ in expected], atol=1e-4)


@pytest.mark.parametrize("prune", [0, 1])
def test_probabilities_sum_to_one(prune: int) -> None:
    """After every context: over all words, the end of the sentence, and one unknown word."""
    model = model_of(REFERENCE, order=3, prune=prune)
    contexts = ["", "the", "water flows", "zzz", "the zzz", "the water flows down", ". . ."]
    words = sorted({word for text in REFERENCE for word in text.split()} | {"zzz"})
    for context in contexts:
        # A text's sum, less the end's share: what is before the end, by a difference of two.
        texts = [f"{context} {word}" for word in words]
        ends = np.array([end_of(model, text) for text in texts])
        start, _ = model.log10_sums(large([context]))
        without_end = start[0] - end_of(model, context) if context else 0.0
        sums, _ = model.log10_sums(large(texts))
        of_words = 10 ** (sums - ends - without_end)
        assert of_words.sum() + 10 ** end_of(model, context) == pytest.approx(1, abs=1e-4)


def end_of(model: NgramModel, text: str) -> float:
    """log10 p of the end of the sentence after a text, looked up in the tables by hand."""
    cells = {}
    tables = [model.cells[a:b] for a, b in zip(model.starts, model.starts[1:])]
    for k, table in enumerate(tables):
        begin = int(model.starts[k])
        cells[k] = {int(key): begin + at for at, (key, _) in enumerate(table.tolist()) if key}
    hashes = [1, *hash_tokens(text).tolist()[:-1], 2]
    total = 0.0
    end = cells[0][2]
    for size in range(min(len(hashes), len(tables)), 0, -1):  # the longest n-gram with the end
        place = cells[0].get(hashes[-size])
        for k, word in enumerate(hashes[len(hashes) - size + 1 : -1], 1):
            known = cells[0].get(word)
            place = (
                None if place is None or known is None else cells[k].get(place << 32 | known + 1)
            )
        if size == 1:
            return total + (int(model.cells[end, 1]) >> 32) / 2**20
        if place is None:
            continue
        found = cells[size - 1].get(place << 32 | end + 1)
        if found is not None:
            return total + (int(model.cells[found, 1]) >> 32) / 2**20
        low = int(model.cells[place, 1]) & 0xFFFFFFFF
        total += (low - (low >> 31 << 32)) / 2**20
    raise AssertionError


def test_facts_tell_the_reference(reference: str) -> None:
    facts = NgramPerplexity(order=3, reference=reference).fit(fitting(POOL))
    lines = [line for text in REFERENCE for line in naive_tokens(text)]
    assert facts["reference"] == "own.jsonl" and facts["lines"] == len(lines)
    assert facts["tokens"] == sum(len(line) + 1 for line in lines)
    assert facts["band"] == "low" and facts["sample"] == 60
    assert list(facts["perplexity"].values()) == sorted(facts["perplexity"].values())
    naive = Naive(lines, 3, prune=1)
    each = [naive.log10(naive_tokens(text)) for text in POOL["text"].to_pylist()[:60]]
    values = [perplexity(total, length) for total, length in each]
    assert facts["perplexity"]["50 %"] == pytest.approx(np.median(values), rel=2e-3)


# The selector.


def test_scores_by_hand(scorer: NgramPerplexity) -> None:
    texts = documents(30, seed=5)
    naive = Naive([line for text in REFERENCE for line in naive_tokens(text)], 5, prune=1)
    each = [naive.log10(naive_tokens(text)) for text in texts]
    logs = [math.log(perplexity(total, length)) for total, length in each]
    scores = scorer.score(batch_of(texts))
    assert scorer.kind == "scorer"
    assert scores.dtype == np.float32 and scores.shape == (30,)
    np.testing.assert_allclose(scores, np.negative(logs), rtol=1e-4)


def test_bands(reference: str) -> None:
    texts = POOL["text"].to_pylist()
    scores = {}
    for band in ("low", "middle", "high"):
        scorer = NgramPerplexity(band=band, reference=reference)
        facts = scorer.fit(fitting(POOL))
        assert facts["band"] == band
        scores[band] = scorer.score(batch_of(texts))[:60]
    assert (scores["low"] == -scores["high"]).all()
    order = np.argsort(scores["high"], kind="stable")
    middle = scores["middle"][order]
    assert np.argmax(middle) in range(27, 33)
    np.testing.assert_allclose(middle, -np.abs(np.arange(60) / 59 - 0.5), atol=0.02)


def test_documents_like_the_reference_come_first(scorer: NgramPerplexity) -> None:
    alike, strange = documents(20, seed=6), documents(20, seed=6, words=["\u03b1", "\u03b2", "zz"])
    scores = scorer.score(batch_of([*alike, *strange]))
    assert scores[:20].min() > scores[20:].max()


def test_odd_documents(scorer: NgramPerplexity) -> None:
    odd = [
        "",
        " \n\u00a0",
        "\x00\x01",
        "\u0301",
        "the dam",
        "THE\u00a0D\u00e1m\n\n",
        "\u4f60\u597d" * 50,
        "zzz",
        "the " * 50_000,
        "!?.,;:-_()[]{} " * 50,
        "\ue000\U0010fffd\ufffe",
        "the dam",
    ]
    scores = scorer.score(batch_of(odd))
    assert np.isnan(scores[:4]).all() and np.isfinite(scores[4:]).all()
    assert scores[4] == scores[5] == scores[11]
    assert scores[[6, 7, 9, 10]].max() < scores[4]
    assert scorer.score(batch_of([])).shape == (0,)


def test_the_same_bytes_in_any_order_and_company_and_from_the_directory(
    tmp_path: Path, reference: str
) -> None:
    texts = POOL["text"].to_pylist()
    scorer = NgramPerplexity(band="middle", reference=reference)
    scorer.fit(fitting(POOL))
    expected = scorer.score(batch_of(texts))
    order = np.random.default_rng(5).permutation(len(texts))
    backwards = write_texts(tmp_path / "backwards.jsonl", REFERENCE[::-1])
    again = NgramPerplexity(band="middle", reference=backwards)
    again.fit(fitting(POOL.take(pa.array(order))))
    shuffled = again.score(batch_of([texts[row] for row in order]))
    assert shuffled.tobytes() == expected[order].tobytes()
    alone = [scorer.score(batch_of(texts).slice(row, 1)) for row in range(len(texts))]
    assert np.concatenate(alone).tobytes() == expected.tobytes()

    scorer.save(tmp_path)
    fresh = NgramPerplexity(band="middle", reference=reference)
    loaded = pickle.loads(pickle.dumps(fresh))
    loaded.load(tmp_path)
    assert loaded.score(batch_of(texts)).tobytes() == expected.tobytes()
    travelled = pickle.loads(pickle.dumps(loaded))
    assert travelled.score(batch_of(texts)).tobytes() == expected.tobytes()


def test_references_of_all_kinds_are_read_alike(tmp_path: Path, scorer: NgramPerplexity) -> None:
    expected = scorer.score(batch_of(POOL["text"].to_pylist()))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in REFERENCE)
    (tmp_path / "r.jsonl").write_text(lines)
    (tmp_path / "r.txt").write_text("\ufeff" + "\n".join(REFERENCE), encoding="utf-8")
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("r.jsonl", "r.txt", "r.jsonl.gz"):
        other = NgramPerplexity(reference=str(tmp_path / name))
        facts = other.fit(fitting(POOL, ["this is not looked at"]))
        assert facts["reference"] == name
        assert other.score(batch_of(POOL["text"].to_pylist())).tobytes() == expected.tobytes()
    mixed = table_of([*REFERENCE, *documents(50, seed=1)], ["wiki"] * len(REFERENCE) + ["web"] * 50)
    other = NgramPerplexity(source="wiki")
    assert other.fit(fitting(mixed))["reference"] == "wiki"
    assert other.score(batch_of(POOL["text"].to_pylist())).tobytes() == expected.tobytes()


def test_the_reference_ends_with_the_document_that_reaches_the_most(reference: str) -> None:
    first = NgramPerplexity(max_tokens=100, reference=reference).fit(fitting(POOL))
    lengths = np.cumsum([len(hash_tokens(text)) for text in REFERENCE])
    assert first["tokens"] == lengths[np.searchsorted(lengths, 100)] < lengths[-1]


def test_bad_references(tmp_path: Path, reference: str) -> None:
    def fitted(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        NgramPerplexity(reference=str(tmp_path / name)).fit(fitting(POOL))

    with pytest.raises(SelectorError) as info:
        fitted("a.jsonl", b"{")
    assert info.value.key == "reference"
    with pytest.raises(SelectorError) as info:
        fitted("a.jsonl", b'{"text": "a"}\n{"txt": "b"}\n')
    assert info.value.key == "reference"
    with pytest.raises(SelectorError) as info:
        fitted("a.txt", b"one\n\xff\n")
    assert info.value.key == "reference"
    with pytest.raises(SelectorError) as info:
        fitted("a.txt.gz", gzip.compress(b"one " * 9999)[:40])
    assert info.value.key == "reference"
    with pytest.raises(SelectorError) as info:
        fitted("b.txt", b" \n\n")
    assert info.value.key == "reference"
    with pytest.raises(SelectorError) as info:
        NgramPerplexity(source="wiki").fit(fitting(POOL))
    assert info.value.key == "source"
    assert "62" in str(info.value)
    with pytest.raises(SelectorError) as info:
        NgramPerplexity(reference=reference).fit(fitting(table_of(["", " "])))
    assert info.value.key == "sample"


def test_examples_of_the_target_are_no_reference() -> None:
    """They were, silently, where none was given: a text like a question was easy."""
    with pytest.raises(SelectorError) as info:
        NgramPerplexity(band="high").fit(fitting(POOL, REFERENCE))
    assert (info.value.key, info.value.got) == ("reference", "neither")
    assert "`source`" in info.value.expected and info.value.fix
    assert not NgramPerplexity(source="wiki").requirements.target


def test_identity_holds_contents_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    first = NgramPerplexity(reference=str(tmp_path / "a.txt")).identity()
    assert str(tmp_path) not in repr(first)
    assert NgramPerplexity(reference=str(tmp_path / "b.txt")).identity() == first
    plain = NgramPerplexity(source="web").identity()
    assert json.dumps(plain) and plain != first
    for change in (
        {"source": "wiki"},
        {"band": "high"},
        {"order": 4},
        {"prune": 0},
        {"max_tokens": 9},
        {"sample": 9},
    ):
        changed = NgramPerplexity(**{"source": "web", **change})  # type: ignore[arg-type]
        assert changed.identity() != plain


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"reference": "/no/such"}, "reference"),
        ({"reference": 3}, "reference"),
        ({"source": ""}, "source"),
        ({"source": 3}, "source"),
        ({"reference": __file__, "source": "wiki"}, "source"),
        ({}, "reference"),
        ({"band": "head"}, "band"),
        ({"order": 0}, "order"),
        ({"order": 10}, "order"),
        ({"prune": -1}, "prune"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"sample": 0}, "sample"),
    ],
)
def test_bad_parameters(parameters: dict[str, Any], key: str) -> None:
    given = {"source", "reference"} & parameters.keys()
    with pytest.raises(SelectorError) as info:
        NgramPerplexity(**({} if given or not parameters else {"source": "wiki"}) | parameters)
    assert info.value.key == key


def test_states_that_cannot_score(tmp_path: Path, scorer: NgramPerplexity) -> None:
    fresh = NgramPerplexity(source="wiki")
    with pytest.raises(SelectorError) as info:
        fresh.score(batch_of(["leaf"]))
    assert info.value.expected == "a fitted selector"
    with pytest.raises(ArtefactError) as info:
        fresh.load(tmp_path)
    assert info.value.file
    scorer.save(tmp_path)
    with pytest.raises(ArtefactError, match="expected tables of 4 orders"):
        NgramPerplexity(order=4, source="wiki").load(tmp_path)
    with pytest.raises(ArtefactError) as info:
        NgramPerplexity(band="middle", source="wiki").load(tmp_path)
    assert info.value.file
