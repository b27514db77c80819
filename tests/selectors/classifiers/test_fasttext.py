"""The collapsed kernel against fastText itself: same rows, same probability, for every text."""

import json
import math
import pickle
import re
from itertools import pairwise

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.classifiers import fasttext_panel
from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_panel import FastTextPanel, score_together
from tests.fasttext_reference import collapsed, train, zeroed_malloc

QUIRK = 1e-5  # fastText reports log(p + 1e-5), exponentiated
TOLERANCE = 2e-5  # its float32 sums against our float64 ones
BUCKET = 5003  # not a power of two: modulo one, sign extension would change nothing

POSITIVE = ["the river carries water", "ein Mädchen trägt Wasser", "Вода течёт вниз по реке"]
NEGATIVE = ["the market sells bonds", "der Händler verkauft Aktien", "Рынок продаёт облигации"]
LONG_WORDS = ["incomprehensible", "incomprehensibly", "counterrevolutionaries", "x" * 40]
TEXTS = [f"{a} {b} {w}" for a in POSITIVE for b in POSITIVE for w in LONG_WORDS]
TEXTS += [f"{a} {b} {w}" for a in NEGATIVE for b in NEGATIVE for w in LONG_WORDS]
TEXTS += ["seldom seen"]
LABELS = [i < len(TEXTS) // 2 for i in range(len(TEXTS))]


def tiny(word_ngrams=2, min_count=2, **changes):
    options = {"lr": 0.5, "dim": 10, "epoch": 10, "bucket": BUCKET, "seed": 3} | changes
    return train(TEXTS, LABELS, word_ngrams=word_ngrams, min_count=min_count, **options)


@pytest.fixture(scope="module", params=[1, 2, 4], ids=lambda n: f"{n}-grams")
def model(request):
    return tiny(word_ngrams=request.param)


@pytest.fixture(scope="module")
def bigrams():
    return tiny()


def predicted(model, texts):
    """Return fastText's p(positive) of texts on one line, less its 1e-5; NaN without a label."""
    lines = [text.replace("\n", " ") for text in texts]
    answers = zip(*model.predict(lines, k=2), strict=True)
    by_label = [dict(zip(labels, p, strict=True)) for labels, p in answers]
    return np.array([p.get("__label__1", math.nan) - QUIRK for p in by_label])


def assert_agrees(model, texts):
    scores = collapsed(model).score(pa.array(texts, pa.string()))
    np.testing.assert_allclose(scores, predicted(model, texts), rtol=0, atol=TOLERANCE)


# Parity with predict

known_words = st.sampled_from(sorted(set(" ".join(TEXTS).split())))
odd_words = st.sampled_from(
    [
        *("</s>", "</s", "</s>x", "__label__1", "__label__x", "__label__", "_", "x__label__1"),
        *("\x85", "\u2028", "\xa0", "\x1c", "é" * 9, "\U0001f4a7", "seldom", "incomprehensibl"),
    ]
)
any_words = st.text(max_size=20)
separators = st.sampled_from([" ", "  ", "\t", "\n", "\v", "\f", "\r", "\0", " \n\0 "])
odd_texts = st.lists(
    st.tuples(st.one_of(known_words, odd_words, any_words), separators).map("".join), max_size=12
).map("".join)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.one_of(odd_texts, odd_texts.map(str.strip), any_words), max_size=6))
def test_agrees_with_predict_on_odd_texts(model, texts):
    assert_agrees(model, texts)


def test_agrees_at_every_word_length_and_buffer_end(bigrams):
    texts = ["x" * n for n in range(45)] + ["é" * n for n in range(12)]
    for text in texts:  # each alone, so that each ends its buffer
        assert_agrees(bigrams, [text])
    assert_agrees(bigrams, texts)


def test_agrees_on_long_documents(bigrams):
    """No line limit: supervised fastText reads the line to its end, past MAX_LINE_SIZE (1024)."""
    words = " ".join(TEXTS).split()
    texts = [" ".join(words * 20), " ".join(reversed(words * 3)), "y" * 100_000, "bonds " * 30_000]
    assert len(texts[0].split()) > 10_000
    scores = collapsed(bigrams).score(pa.array(texts))
    np.testing.assert_allclose(scores, predicted(bigrams, texts), rtol=0, atol=1e-4)


def test_labels_in_the_text_are_skipped_and_eos_ends_it(bigrams):
    """As in predict, so that no document can contain a label or an end of line."""
    scores = collapsed(bigrams).score(
        pa.array(["the river", "the __label__0 river", "the river </s> bonds", "bonds"])
    )
    assert scores[0] == scores[1] == scores[2] != scores[3]


def test_agrees_with_the_default_two_million_buckets():
    model = tiny(bucket=2_000_000, dim=4)
    assert_agrees(model, [*TEXTS, "an unknown text", ""])


def test_no_row_at_all_is_nan():
    """With the end of line pruned from the vocabulary, predict returns no label for these."""
    texts = ["flood flood", "flood flood drought"]
    model = train(texts, [True, False], dim=4, word_ngrams=1, min_count=3)
    assert model.get_words() == ["flood"]
    assert_agrees(model, ["", "unheard of", "flood", "drought"])
    scores = collapsed(model).score(pa.array(["drought", "flood"]))
    assert np.isnan(scores).tolist() == [True, False]


# The hashing, spelled out


def reference(model, text, *, signed=True, sign_extended=True, eos=True):
    """p(positive) from the exported matrices, in plain Python; each switch drops one rule."""

    def word_hash(word):
        state = 2166136261
        for byte in word.encode():
            char = (byte - 256) % 2**32 if signed and byte > 127 else byte
            state = (state ^ char) * 16777619 % 2**32
        return state - 2**32 if sign_extended and state >= 2**31 else state

    words = [word for word in re.split("[ \t\n\v\f\r\0]+", text) if word] + ["</s>"] * eos
    vocabulary = {word: row for row, word in enumerate(model.get_words())}
    rows = [vocabulary[word] for word in words if word in vocabulary]
    hashes = [word_hash(word) for word in words]
    for first, second in pairwise(hashes):
        rows.append(len(vocabulary) + (first * 116049371 + second) % 2**64 % BUCKET)
    hidden = model.get_input_matrix()[rows].astype(np.float64).mean(axis=0)
    logits = dict(zip(model.get_labels(), model.get_output_matrix() @ hidden, strict=True))
    return 1 / (1 + math.exp(logits["__label__0"] - logits["__label__1"]))


HASHED = ["ein Mädchen trägt Wasser", "Рынок продаёт облигации", "the market sells bonds"]


def test_plain_python_agrees_with_predict(bigrams):
    expected = [reference(bigrams, text) for text in HASHED]
    np.testing.assert_allclose(predicted(bigrams, HASHED), expected, rtol=0, atol=TOLERANCE)
    scores = collapsed(bigrams).score(pa.array(HASHED))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["signed", "sign_extended", "eos"])
def test_every_rule_of_the_hashing_matters(bigrams, rule):
    wrong = [reference(bigrams, text, **{rule: False}) for text in HASHED]
    assert np.abs(wrong - predicted(bigrams, HASHED)).max() > 100 * TOLERANCE


def by_hand(words, weights, **changes):
    encoded = [word.encode() for word in words]
    return CollapsedFastText(
        weights=np.array(weights, np.float32),
        words=np.frombuffer(b"".join(encoded), np.int8),
        starts=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        **{"bucket": 0, "word_ngrams": 1} | changes,
    )


def test_golden_mean():
    table = by_hand(["</s>", "a", "b"], [0.5, 2.0, -1.0])
    scores = table.score(pa.array(["", "a", "a b unknown", "b\nb"]))
    logits = np.array([0.5, 1.25, 0.5, -0.5])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-6)


STEMS = [f"stem{i:04d}" for i in range(100)]


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        ("known-by-its-start", STEMS),
        ("incomprehensible", ["incompre" + stem for stem in STEMS]),
        ("incomprehensible-to-strangers", [f"incompre{s}{s[:5]}trangers" for s in STEMS]),
    ],
)
def test_words_are_compared_to_the_last_byte(known, unknown):
    """An unknown word may share a known word's first bytes, last bytes, length and slot."""
    table = by_hand(["</s>", known], [0.0, 8.0])
    assert len(table.slots) < len(unknown) / 10  # so many of them share the slot
    assert set(table.score(pa.array(unknown))) == {np.float32(0.5)}
    assert table.score(pa.array([known]))[0] > 0.9


def test_a_word_is_not_its_first_eight_bytes():
    scores = [
        by_hand(["</s>", stem + "-and-more"], [0.0, 8.0]).score(pa.array([stem]))[0]
        for stem in STEMS  # one in eight of them shares the longer word's slot
    ]
    assert set(scores) == {np.float32(0.5)}


def test_zero_eos():
    model = tiny()
    plain = collapsed(model)
    zeroed = collapsed(model, zero_eos=True)
    assert plain.score(pa.array([""]))[0] != 0.5
    assert zeroed.score(pa.array([""]))[0] == 0.5
    changed = np.flatnonzero(plain.weights != zeroed.weights)
    assert changed.tolist() == [model.get_words().index("</s>")]
    with pytest.warns(UserWarning, match="no effect"):
        collapsed(tiny(min_count=1000, word_ngrams=2), zero_eos=True)


def test_positive_label_can_be_the_other_one(bigrams):
    texts = pa.array(HASHED)
    one = collapsed(bigrams).score(texts)
    other = collapsed(bigrams, "__label__0").score(texts)
    np.testing.assert_allclose(one + other, 1, atol=1e-6)


# Several at once


def of_kind(word_ngrams=2, bucket=BUCKET, vocabulary=TEXTS, seed=0, **changes):
    """Any weights, and every third word of a vocabulary."""
    words = ["</s>", *sorted(set(" ".join(vocabulary).split()))[seed % 3 :: 3]]
    weights = np.random.default_rng(seed).normal(size=len(words) + bucket)
    return by_hand(words, weights, word_ngrams=word_ngrams, bucket=bucket, **changes)


@pytest.fixture(scope="module")
def classifiers(bigrams):
    """Make classifiers of every kind that shares less, the commonest more than a block."""
    return [
        collapsed(bigrams),
        of_kind(word_ngrams=1, bucket=0),
        collapsed(bigrams, zero_eos=True),
        of_kind(bucket=2_000_000),
        of_kind(seed=1),
        collapsed(tiny(word_ngrams=4)),
        of_kind(seed=2, label_prefix="_"),
        of_kind(seed=3),
        of_kind(seed=4, label_prefix="_", word_ngrams=3),
        of_kind(seed=5, vocabulary=["entirely other words"]),
        by_hand(["flood"], [1.0]),
        collapsed(tiny(min_count=1), "__label__0"),
        of_kind(seed=6, label_prefix="the"),
    ]


def assert_same_as_alone(classifiers, texts, panel=None):
    scores = (panel or FastTextPanel(classifiers)).score(texts)
    assert scores.dtype == np.float32
    assert scores.shape == (len(classifiers), len(texts))
    np.testing.assert_array_equal(scores, [one.score(texts) for one in classifiers])


@pytest.fixture(scope="module")
def panel(classifiers):
    return FastTextPanel(classifiers)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.one_of(odd_texts, odd_texts.map(str.strip), any_words), max_size=6))
def test_together_scores_as_alone_on_odd_texts(classifiers, panel, texts):
    assert_same_as_alone(classifiers, pa.array(texts, pa.large_string()), panel)


@pytest.mark.parametrize("count", range(1, 10))
def test_together_scores_as_alone_for_any_number(count):
    kin = [of_kind(seed=seed) for seed in range(count)]
    texts = pa.array([*TEXTS, "", "unknown words here", " ".join(TEXTS * 20)])
    assert_same_as_alone(kin, texts)
    assert len({one.tobytes() for one in FastTextPanel(kin).score(texts)}) == count


def test_golden_means_of_words_that_some_models_lack():
    table = by_hand(["</s>", "a", "b"], [0.5, 2.0, -1.0])
    other = by_hand(["b", "c"], [3.0, 1.0])
    scores = score_together([table, other], pa.array(["", "a", "a b unknown", "b c"]))
    logits = np.array([[0.5, 1.25, 0.5, -0.25], [np.nan, np.nan, 3.0, 2.0]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_the_text_is_read_once(monkeypatch):
    """With a loop over classifiers every other test would pass too."""
    passes = []
    kernel = fasttext_panel.score_documents_together
    monkeypatch.setattr(
        fasttext_panel, "score_documents_together", lambda *a: passes.append(kernel(*a))
    )
    monkeypatch.delattr(CollapsedFastText, "score")
    various = [of_kind(seed=0), of_kind(seed=1, bucket=7), of_kind(seed=2, word_ngrams=1)]
    assert FastTextPanel(various).score(pa.array(TEXTS)).shape == (3, len(TEXTS))
    assert len(passes) == 1


def test_together_follows_a_change_of_classifiers():
    first, second, third = (of_kind(seed=seed) for seed in range(3))
    texts = pa.array(TEXTS)
    for some in ([first, second], [first, second], [second, first], [third], [first, third], []):
        scores = score_together(some, texts)
        assert scores.shape == (len(some), len(texts))
        np.testing.assert_array_equal(scores, [one.score(texts) for one in some] or scores)


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_together_on_slices_nulls_and_chunks(classifiers, panel, type_):
    texts = [*TEXTS[:5], None, "", *TEXTS[-5:], None]
    array = pa.array(texts, type_)
    for part in (array, array[3:9], array[5:6], array[:0]):
        assert_same_as_alone(classifiers, part, panel)
    chunks = pa.chunked_array([texts[:3], [], texts[3:]], type_)
    assert_same_as_alone(classifiers, chunks, panel)
    assert_same_as_alone(classifiers, chunks[4:9], panel)
    assert_same_as_alone(classifiers, pa.chunked_array([], type_), panel)
    with pytest.raises(SelectorError) as info:
        panel.score(pa.array([1]))
    assert info.value.got == "int64"


# Arrow


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_slices_nulls_and_chunks(bigrams, type_):
    table = collapsed(bigrams)
    texts = [*TEXTS[:5], None, "", *TEXTS[-5:], None]
    whole = table.score(pa.array(texts, type_))
    assert whole.dtype == np.float32
    assert np.isnan(whole).tolist() == [text is None for text in texts]
    for begin in range(len(texts)):
        part = table.score(pa.array(texts, type_)[begin : begin + 4])
        np.testing.assert_array_equal(part, whole[begin : begin + 4])
    chunks = pa.chunked_array([texts[:3], [], texts[3:]], type_)
    np.testing.assert_array_equal(table.score(chunks), whole)
    np.testing.assert_array_equal(table.score(chunks[4:9]), whole[4:9])


def test_empty_arrays(bigrams):
    table = collapsed(bigrams)
    assert table.score(pa.array([], pa.string())).shape == (0,)
    assert table.score(pa.chunked_array([], pa.string())).shape == (0,)
    assert np.isnan(table.score(pa.array([None], pa.string()))).all()


def test_other_types_are_refused(bigrams):
    with pytest.raises(SelectorError) as info:
        collapsed(bigrams).score(pa.array([1]))
    assert info.value.got == "int64"


# Fitted state is data


def test_save_and_load(bigrams, tmp_path):
    table = collapsed(bigrams)
    table.save(tmp_path / "a")
    table.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    texts = pa.array([*TEXTS, "unknown words here"])
    expected = table.score(texts)
    np.testing.assert_array_equal(CollapsedFastText.load(tmp_path / "a").score(texts), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).score(texts), expected)


def test_from_a_model_file(bigrams, tmp_path):
    path = tmp_path / "model.bin"
    bigrams.save_model(str(path))
    texts = pa.array(HASHED)
    table = CollapsedFastText.from_file(path)
    matrix, outputs = bigrams.get_input_matrix(), bigrams.get_output_matrix().astype(float)
    row = bigrams.get_labels().index("__label__1")
    expected = matrix.astype(float) @ (outputs[row] - outputs[1 - row])
    np.testing.assert_allclose(table.weights, expected, rtol=1e-6, atol=1e-7)
    words = [table.words[a:b].tobytes().decode() for a, b in pairwise(table.starts)]
    assert words == bigrams.get_words() and table.bucket == BUCKET
    assert len(table.score(texts)) == len(HASHED)
    with pytest.raises(SelectorError) as info:
        CollapsedFastText.from_file(tmp_path / "absent.bin")
    assert info.value.key == "model" and "absent.bin" in str(info.value.got)


def test_load_refuses_what_would_read_out_of_bounds(bigrams, tmp_path):
    table = collapsed(bigrams)
    table.save(tmp_path)
    np.save(tmp_path / "weights.npy", table.weights[:-1])
    with pytest.raises(ArtefactError) as info:
        CollapsedFastText.load(tmp_path)
    assert info.value.file == str(tmp_path)
    (tmp_path / "fasttext.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ArtefactError) as info:
        CollapsedFastText.load(tmp_path)
    assert (info.value.expected, info.value.got) == ("format 1", "2")
    with pytest.raises(ArtefactError) as info:
        CollapsedFastText.load(tmp_path / "nowhere")
    assert info.value.file == str(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "changes",
    [{"word_ngrams": 2**31 - 1}, {"bucket": -1}, {"label_prefix": 7}, {"positive": None},
     {"extra": 1}, {"label_prefix": "\ud800"}, {"word_ngrams": True}],
)  # fmt: skip
def test_load_refuses_settings_of_other_kinds(bigrams, tmp_path, changes):
    """Found by fuzzing: a number of n-grams that takes for ever, missing and unknown keys."""
    collapsed(bigrams).save(tmp_path)
    saved = json.loads((tmp_path / "fasttext.json").read_text())
    (tmp_path / "fasttext.json").write_text(json.dumps(saved | changes))
    with pytest.raises(ArtefactError) as info:
        CollapsedFastText.load(tmp_path)
    assert info.value.file == str(tmp_path)
    for missing in ("positive", "bucket"):
        (tmp_path / "fasttext.json").write_text(json.dumps({**saved, missing: None}))
        with pytest.raises(ArtefactError):
            CollapsedFastText.load(tmp_path)


# Models that cannot be collapsed


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"loss": "ova"}, "ova"),
        ({"loss": "hs"}, "hs"),
        ({"minn": 2, "maxn": 3}, "maxn=3"),
    ],
)
def test_refuses_other_models(tmp_path, options, got):
    path = tmp_path / "train.txt"
    path.write_text("__label__1 a b c\n__label__0 d e f\n" * 5)
    with zeroed_malloc():
        model = fasttext.train_supervised(
            str(path), dim=4, bucket=100, wordNgrams=2, thread=1, verbose=0, **options
        )
    with pytest.raises(SelectorError) as info:
        collapsed(model)
    assert info.value.got == got


def test_refuses_other_labels_and_kinds(tmp_path, bigrams):
    with pytest.raises(SelectorError) as info:
        collapsed(bigrams, "spam")
    assert (info.value.key, info.value.got) == ("positive", "spam")
    assert info.value.expected == "one of __label__0, __label__1"
    path = tmp_path / "train.txt"
    path.write_text("__label__1 a\n__label__2 b\n__label__3 c\n" * 5)
    with zeroed_malloc():
        three = fasttext.train_supervised(str(path), dim=4, thread=1, verbose=0)
        words = fasttext.train_unsupervised(
            str(path), dim=4, minCount=1, bucket=100, thread=1, verbose=0
        )
    with pytest.raises(SelectorError) as info:
        collapsed(three)
    assert info.value.got == "3"
    with pytest.raises(SelectorError) as info:
        collapsed(words)
    assert info.value.got == "skipgram"


def test_refuses_a_model_without_words():
    with pytest.raises(SelectorError) as info:
        collapsed(tiny(word_ngrams=1, min_count=1000))
    assert (info.value.expected, info.value.got) == ("a model of at least one word", "none")


def test_refuses_a_quantised_model():
    model = tiny()
    model.quantize()
    with pytest.raises(SelectorError) as info:
        collapsed(model)
    assert info.value.got == "a quantised one (.ftz)"
