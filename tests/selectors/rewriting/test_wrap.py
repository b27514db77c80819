"""WRAP: chunks that are the text, styles, and what is stripped from answers."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SelectorError
from penstock.selectors.rewriting import Answer, Document, Wrap
from penstock.selectors.rewriting.prompting import TokenCounter, refuses, without_opener
from penstock.selectors.rewriting.wrap import STYLES, chunks, sentences

COUNT = TokenCounter().count

WEB = st.lists(
    st.one_of(
        st.sampled_from(
            [". ", "! ", "? ", ".\n", "\n\n", " ", "...", '." ', "。", "！」", "\u2028"]
        ),
        st.sampled_from(
            ["Water", "is", "a", "Dr", "e.g", "river", "水力発電", "3.14", "J", "(so)"]
        ),
        st.text(max_size=6),
    ),
    max_size=60,
).map("".join)


@given(WEB, st.integers(1, 40))
def test_chunks_joined_are_the_text_and_none_is_longer_than_the_limit(text: str, limit: int):
    parts = chunks(text, COUNT, limit)
    assert "".join(parts) == text
    for part in parts:
        assert part
        if COUNT(part) > limit:
            assert sentences(part) == [part]
    # Nothing is cut that would have fitted.
    for one, other in itertools.pairwise(parts):
        assert COUNT(one) + COUNT(sentences(other)[0]) > limit or COUNT(one) == 0


@given(WEB)
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text
    if text.strip():
        assert all(sentence.strip() for sentence in sentences(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ("Dr. Smith met J. Doe. They spoke.", ["Dr. Smith met J. Doe. ", "They spoke."]),
        ("Fruit, e.g. apples. See Fig. 3. It is 3.14 m.",
         ["Fruit, e.g. apples. ", "See Fig. 3. ", "It is 3.14 m."]),
        ('He said "Go." She went… (Alone.) Then', ['He said "Go." ', "She went… ", "(Alone.) ",
                                                    "Then"]),
        ("A title\nThe text begins\nand goes on.\n\nnext part",
         ["A title\n", "The text begins\nand goes on.\n\n", "next part"]),
        ("水は流れる。「行け！」と言った。終", ["水は流れる。", "「行け！」", "と言った。", "終"]),
        ("  \n lead. And trail. \n", ["  \n lead. ", "And trail. \n"]),
        ("", []),
        (" \n", [" \n"]),
    ],
)  # fmt: skip
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_about_three_hundred_tokens() -> None:
    text = "The gate lets the water flow to the wheel below. " * 200
    parts = chunks(text, COUNT, 300)
    assert {COUNT(part) for part in parts[:-1]} == {297}  # of 11 tokens a sentence
    long = f"Short one. {'Word ' * 1000}. Short two."
    assert [COUNT(part) > 300 for part in chunks(long, COUNT, 300)] == [False, True, False]


@pytest.mark.parametrize(
    "text", ["." * 300_000, " " * 300_000, "a " * 300_000, "。" * 300_000, ". " * 200_000,
             "\n" * 300_000, '."' * 200_000, "x" * 300_000]
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    assert "".join(chunks(text, COUNT, 300)) == text
    assert time.process_time() - began < 3


def answers(*texts: str) -> list[Answer]:
    return [Answer(text=text) for text in texts]


DOCUMENT = Document(id="d", text="First part here. Second part here. Third part here.")


def test_each_chunk_is_asked_for_once_in_each_style() -> None:
    wrap = Wrap(style=["easy", "hard"], max_chunk=5)
    assert not wrap.replaces
    asked = wrap.requests(DOCUMENT)
    assert [request.user.rsplit("\n", 1)[1] for request in asked] == [
        "First part here.", "Second part here.", "Third part here."
    ] * 2  # fmt: skip
    assert [STYLES["hard"] in request.user for request in asked] == [False] * 3 + [True] * 3
    assert len({request.digest for request in asked}) == 6
    easy = answers("a", " b\n", "Sure! Here is the rewritten text:\n\nc")
    hard = answers("d", "", "I'm sorry, but I can't help with that.")
    done = wrap.assemble(DOCUMENT, easy + hard)
    assert done.texts == ("a\n\nb\n\nc", "d")
    assert done.rejected == ("empty", "refused")


def test_answers_that_cannot_be_used_are_counted_by_reason() -> None:
    wrap = Wrap(max_chunk=5)
    done = wrap.assemble(DOCUMENT, [
        Answer(text="cut of", finish="length"), Answer(text="", error="HTTP 400"),
        Answer(text="no", finish="content_filter"),
    ])  # fmt: skip
    assert (done.texts, done.rejected) == ((), ("truncated", "unanswered", "refused"))
    assert wrap.assemble(DOCUMENT, answers("Sure!\nHere is the paraphrase:", "b", "c")) == (
        wrap.assemble(DOCUMENT, answers("", "b", "c"))
    )
    blank = Document(id="d", text=" \n")
    assert wrap.requests(blank) == ()
    assert wrap.assemble(blank, []).rejected == ("blank",)
    with pytest.raises(SelectorError, match="expected 3, one for each request, got 2"):
        wrap.assemble(DOCUMENT, answers("a", "b"))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Question: What flows?\nAnswer: Water.", True),
        ("**Question:** What flows?\n\n**Answer:** Water.", True),
        ("Here is a conversation of questions and answers:\nQuestion: Who?\nAnswer: We.", True),
        ("Question 1: What?\nAnswer 1: That.", True),
        ("Question: What flows?", False),
        ("Answer: Water.\nQuestion: What flows?", False),
        ("Question: What flows?\nAnswer:", False),
        ("Water flows. That is the answer to the question.", False),
    ],
)
def test_questions_want_answers(text: str, good: bool) -> None:
    done = Wrap(style="qa").assemble(DOCUMENT, answers(text))
    assert bool(done.texts) == good
    assert done.rejected == (() if good else ("no question and answer",))
    assert not good or done.texts[0].lstrip("*").startswith("Question")


@pytest.mark.parametrize(
    "opener",
    ["Sure! ", "Sure, here is the paraphrased text:\n", "Certainly! Here's a simpler version:\n\n",
     "Here is a rephrased version of the text in simple words: ", "Paraphrase: ",
     "**Rewritten text:**\n", "Of course.\n", "Sure thing!\n\nBelow is the reworded passage:\n",
     "I have rewritten the text below:\n", "Here’s the rewritten paragraph:\n\n", "",
     "Absolutely! Here are the questions and answers:\n", "The paraphrased text: ", "\n \n"],
)  # fmt: skip
def test_openers_go(opener: str) -> None:
    assert without_opener(f"{opener}Water turns the wheel.\n") == "Water turns the wheel."


@pytest.mark.parametrize(
    "text",
    ["Here is how bread is made: flour, water, salt.", "Sure footing matters on a slope.",
     "Sure as eggs is eggs.", "This is the rewritten constitution of 1992.", "Certainly it rained.",
     "Of course the wheel turned.", "Here are three ways to convert units:\nby hand",
     "The following text is by Kant: dare to know.", "I have a dream: that one day",
     "Great\nBritain", "Version 2 is out: see below.", "Simplified Chinese: a script.",
     "Here lies the king.", "Question: What?\nAnswer: That."],
)  # fmt: skip
def test_texts_that_merely_begin_so_stay(text: str) -> None:
    assert without_opener(text) == text
    assert not refuses(text)


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, but I can't assist with that.", "I cannot help with this request.",
     "Sorry, I can't rewrite this text.", "As an AI language model, I do not have opinions.",
     "I am sorry, but as an AI, I cannot do so.", "I apologize, but I cannot fulfill this request.",
     "Unfortunately, I'm unable to provide a paraphrase.", " I will not generate this.",
     "I’m sorry, I can’t comply."],
)  # fmt: skip
def test_refusals(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    ["I cannot help but admire the gate.", "I cannot remember such a summer.", "Sorry is a word.",
     "As an assistant professor, I taught.", "As an AI engineer, I build.", "I will not go there.",
     "I can't say how, but years on, in the end, they all did what was asked, to provide.",
     "Unfortunately, it rained.", "I am unable to sleep."],
)  # fmt: skip
def test_no_refusals(text: str) -> None:
    assert not refuses(text)
    assert without_opener(text) == text


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"style": "eazy"}, "style"),
        ({"style": []}, "style"),
        ({"style": ["easy", 1]}, "style"),
        ({"style": ["easy", "easy"]}, "style"),
        ({"max_chunk": 0}, "max_chunk"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": False}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_bad_parameters(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Wrap(**parameters)
    assert info.value.key == key
    assert Wrap(temperature=0, top_p=1).identity() != Wrap().identity()
