"""Rules at their thresholds, worked by hand, and what a recipe may say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import RecipeError
from penstock.rules import (
    FIELDS,
    RuleSet,
    Verdicts,
    built_in,
    count_statistics,
    counting_for,
    rule_sets,
)

PASSES = {
    "gopher": {name: 0 for name in FIELDS}
    | {"characters": 1000, "letters": 800, "words": 200, "cores": 100, "core_characters": 500}
    | {"lettered_words": 200, "stop_words": 2, "lines": 10, "gopher_lines": 10, "paragraphs": 10},
    "c4": {name: 0 for name in FIELDS} | {"c4_sentences": 5},
    "fineweb": {name: 0 for name in FIELDS}
    | {"characters": 1100, "words": 1000, "filled_lines": 100, "terminal_lines": 12}
    | {"newlines": 100},
}
"""Counts that pass each rule of a set."""

AT_AND_BEYOND: list[tuple[str, str, dict[str, int], dict[str, int]]] = [
    (
        "gopher",
        "min_words",
        {"cores": 50, "core_characters": 200},
        {"cores": 49, "core_characters": 200},
    ),
    (
        "gopher",
        "max_words",
        {"cores": 100_000, "core_characters": 500_000},
        {"cores": 100_001, "core_characters": 500_000},
    ),
    ("gopher", "min_word_length", {"core_characters": 300}, {"core_characters": 299}),
    ("gopher", "max_word_length", {"core_characters": 1000}, {"core_characters": 1001}),
    ("gopher", "max_hashes_per_word", {"hashes": 20}, {"hashes": 21}),
    ("gopher", "max_ellipses_per_word", {"ellipses": 20}, {"ellipses": 21}),
    ("gopher", "max_bullet_lines", {"bullet_lines": 9}, {"bullet_lines": 10}),
    ("gopher", "max_ellipsis_lines", {"ellipsis_lines": 3}, {"ellipsis_lines": 4}),
    ("gopher", "min_lettered_words", {"lettered_words": 160}, {"lettered_words": 159}),
    ("gopher", "min_stop_words", {"stop_words": 2}, {"stop_words": 1}),
    (
        "gopher",
        "max_duplicate_paragraphs",
        {"duplicate_paragraphs": 3},
        {"duplicate_paragraphs": 4},
    ),
    (
        "gopher",
        "max_duplicate_paragraph_characters",
        {"duplicate_paragraph_characters": 200},
        {"duplicate_paragraph_characters": 201},
    ),
    (
        "gopher",
        "max_duplicate_lines",
        {"duplicate_gopher_lines": 3},
        {"duplicate_gopher_lines": 4},
    ),
    (
        "gopher",
        "max_duplicate_line_characters",
        {"duplicate_gopher_line_characters": 200},
        {"duplicate_gopher_line_characters": 201},
    ),
    *(
        (
            "gopher",
            f"max_top_{n}_gram",
            {f"top_{n}_gram_characters": most},
            {f"top_{n}_gram_characters": most + 1},
        )
        for n, most in ((2, 200), (3, 180), (4, 160))
    ),
    *(
        (
            "gopher",
            f"max_duplicate_{n}_grams",
            {f"duplicate_{n}_gram_characters": most},
            {f"duplicate_{n}_gram_characters": most + 1},
        )
        for n, most in ((5, 150), (6, 140), (7, 130), (8, 120), (9, 110), (10, 100))
    ),
    ("c4", "max_lorem_ipsum_lines", {"c4_lorem_ipsum_lines": 0}, {"c4_lorem_ipsum_lines": 1}),
    ("c4", "max_curly_bracket_lines", {"c4_curly_bracket_lines": 0}, {"c4_curly_bracket_lines": 1}),
    ("c4", "min_sentences", {"c4_sentences": 5}, {"c4_sentences": 4}),
    ("fineweb", "min_terminal_lines", {"terminal_lines": 12}, {"terminal_lines": 11}),
    ("fineweb", "max_short_lines", {"short_lines": 67}, {"short_lines": 68}),
    (
        "fineweb",
        "max_duplicate_line_characters",
        {"duplicate_filled_line_characters": 10},
        {"duplicate_filled_line_characters": 11},
    ),
    ("fineweb", "max_newlines_per_word", {"newlines": 300}, {"newlines": 301}),
]


def judged(name: str, *changes: dict[str, int], **parameters: Any) -> Verdicts:
    rows = [{**PASSES[name], **change} for change in changes]
    (rules,) = rule_sets({name: parameters})
    return rules.judge(pa.Table.from_pylist(rows, pa.schema([(n, pa.uint32()) for n in FIELDS])))


def failed(verdicts: Verdicts) -> list[list[str]]:
    return [
        [rule for k, rule in enumerate(verdicts.rules) if int(bits) >> k & 1]
        for bits in verdicts.bits
    ]


def test_every_rule_of_every_set_is_below() -> None:
    tried = {(name, rule) for name, rule, _, _ in AT_AND_BEYOND}
    for name in ("gopher", "c4", "fineweb"):
        assert {(name, rule.name) for rule in built_in()[name].rules} == {
            pair for pair in tried if pair[0] == name
        }
    assert len(AT_AND_BEYOND) == 23 + 3 + 4


@pytest.mark.parametrize(
    ("name", "rule", "at", "beyond"), AT_AND_BEYOND, ids=lambda value: str(value)[:40]
)
def test_a_document_at_the_threshold_passes_and_beyond_it_fails(
    name: str, rule: str, at: dict[str, int], beyond: dict[str, int]
) -> None:
    verdicts = judged(name, {}, at, beyond)
    assert failed(verdicts) == [[], [], [rule]]
    assert verdicts.bits.dtype == np.uint64
    assert int(verdicts.bits[2]) == 1 << verdicts.rules.index(rule)
    assert failed(judged(name, beyond, **{rule: None})) == [[]]
    if rule.startswith("max"):
        assert failed(judged(name, beyond, **{rule: 10**6})) == [[]]
    else:
        assert failed(judged(name, beyond, **{rule: 0})) == [[]]


def test_every_rule_that_a_document_fails_is_known() -> None:
    verdicts = judged("c4", {"c4_sentences": 0, "c4_lorem_ipsum_lines": 1}, {"c4_sentences": 1}, {})
    assert verdicts.bits.tolist() == [0b101, 0b100, 0]
    assert verdicts.tally() == {
        "max_lorem_ipsum_lines": {"alone": 1, "first": 1, "only": 0},
        "max_curly_bracket_lines": {"alone": 0, "first": 0, "only": 0},
        "min_sentences": {"alone": 2, "first": 1, "only": 1},
    }


def test_values_are_those_that_thresholds_are_compared_with() -> None:
    counts = count_statistics(pa.array(["One two.\n- three...\n", ""]))
    found = built_in()["gopher"](min_stop_words=None).values(counts)
    assert "min_stop_words" not in found
    assert found["min_words"].tolist() == [3, 0]
    assert found["min_word_length"].tolist() == [11 / 3, 0]  # a share of nothing is 0
    assert found["min_lettered_words"].tolist() == [3 / 8, 0]
    assert found["max_ellipses_per_word"].tolist() == [1 / 8, 0]
    assert found["max_bullet_lines"].tolist() == found["max_ellipsis_lines"].tolist() == [0.5, 0]
    fineweb = built_in()["fineweb"]().values(counts)
    assert fineweb["max_newlines_per_word"].tolist() == [2 / 8, 0]
    assert {values.dtype for values in [*found.values(), *fineweb.values()]} == {np.dtype(float)}


def test_gopher_is_both_of_its_parts() -> None:
    parts = [built_in()["gopher_quality"](), built_in()["gopher_repetition"]()]
    (whole,) = rule_sets(["gopher"])
    texts = pa.array(["One two. " * 40, "a b c", "The day of the end.\n\n" * 9])
    counts = count_statistics(texts, counting_for((whole,)))
    both = [part.judge(counts).bits for part in parts]
    shift = np.uint64(len(parts[0].rules))
    assert whole.judge(counts).bits.tolist() == (both[0] | both[1] << shift).tolist()
    assert counting_for((parts[0], parts[1])) == counting_for((whole,))


# Whole texts: 60 words of prose pass; each text below is that prose with one fault.

PROSE = (
    "The river is wide here, and people have lived beside it since the first boats came.\n"
    "Every spring its water rises to the gardens, which are better for that in summer.\n"
    "Children learn to swim before they can read, with older brothers holding on to them.\n"
    "A ferry crosses twice each hour; nobody is known to be in much of a hurry.\n"
    "At night lamps on both sides show pilots where sand has moved since yesterday.\n"
)

FAULTY = {
    ("gopher", "min_words"): PROSE[:200],
    ("gopher", "min_word_length"): PROSE + "x y " * 200,
    ("gopher", "max_word_length"): PROSE + "incomprehensibilities " * 70,
    ("gopher", "max_hashes_per_word"): PROSE + "# a1 " * 20,
    ("gopher", "max_ellipses_per_word"): PROSE + "so... " * 20,
    ("gopher", "max_bullet_lines"): "- " + PROSE.replace("\n", "\n  • ")[:-5],
    ("gopher", "max_ellipsis_lines"): PROSE.replace(".\n", "…\n"),
    ("gopher", "min_lettered_words"): PROSE + "1 22 333 4444 55 6 7777 " * 5,
    ("gopher", "min_stop_words"): " ".join(
        w for w in PROSE.split() if w not in ("and", "have", "to", "that", "with", "be", "of")
    ),
    ("gopher", "max_duplicate_paragraphs"): PROSE.replace("\n", "\n\n") + "I.\n\n" * 9,
    ("gopher", "max_duplicate_lines"): PROSE + "I.\n" * 9,
    ("gopher", "max_duplicate_line_characters"): PROSE + PROSE[:250],
    ("gopher", "max_top_2_gram"): PROSE + "big boat " * 15,
    ("gopher", "max_duplicate_10_grams"): PROSE + PROSE[:165].replace("\n", " "),
    ("c4", "max_lorem_ipsum_lines"): PROSE + "Here is Lorem Ipsum for you.\n",
    ("c4", "max_curly_bracket_lines"): PROSE + "A set {x} is small.\n",
    ("c4", "min_sentences"): PROSE.replace("\n", " (use of cookies).\n", 1),
    ("fineweb", "min_terminal_lines"): PROSE.replace(".\n", "\n"),
    ("fineweb", "max_short_lines"): PROSE.replace(" ", "\n", 40),
    ("fineweb", "max_duplicate_line_characters"): PROSE + PROSE[: PROSE.index("\n")],
    ("fineweb", "max_newlines_per_word"): PROSE.replace(" ", "\n", 40),
}


@pytest.mark.parametrize(("name", "rule"), FAULTY, ids=str)
def test_a_faulty_text_fails_the_rule(name: str, rule: str) -> None:
    sets = rule_sets([name])
    texts = pa.array([PROSE, FAULTY[name, rule]])
    verdicts = sets[0].judge(count_statistics(texts, counting_for(sets)))
    good, bad = failed(verdicts)
    assert good == []
    assert rule in bad
    assert not verdicts.abstained.any()


CHINESE = "".join(chr(0x4E00 + number) for number in range(500)) + "。\n"


@pytest.mark.parametrize("name", ["gopher", "c4", "fineweb"])
def test_rules_for_words_abstain_for_scripts_without_spaces(name: str) -> None:
    sets = rule_sets([name])
    half = "漢字漢字 abcd."  # not more than half of the letters
    texts = pa.array([CHINESE, half, CHINESE * 30])
    verdicts = sets[0].judge(count_statistics(texts, counting_for(sets)))
    assert verdicts.abstained.tolist() == [True, False, True]
    whole, mixed, repeated = failed(verdicts)
    assert whole == []
    by_words = {rule.name for rule in sets[0].rules if rule.by_words}
    assert by_words.isdisjoint(repeated)
    if name != "fineweb":  # whose one rule for words is one of line feeds
        assert by_words & set(mixed)
    if name == "gopher":  # lines need no spaces
        assert "max_duplicate_lines" in repeated


def test_nothing_abstains_where_no_rule_counts_words() -> None:
    rules = built_in()["c4"](min_sentences=None)
    assert not rules.judge(count_statistics(pa.array([CHINESE]))).abstained.any()


def test_parameters_of_counting_are_apart_from_thresholds() -> None:
    def counted(**rules: Any) -> Any:
        return counting_for(rule_sets(rules))

    assert counted(gopher={}) == counted(gopher={"min_words": 5}, c4={"min_sentences": 1})
    assert counted(gopher={}).ngrams and not counted(c4={}, fineweb={}).ngrams
    assert not counted(gopher_quality={}).ngrams
    assert counted(c4={}, gopher={}).ngrams and counted(gopher={}, c4={}).ngrams
    changed = counted(
        gopher={"stop_words": ["und"]},
        c4={"min_words_in_line": 2, "longest_word": 9},
        fineweb={"short_line": 5},
    )
    assert (changed.stop_words, changed.c4_min_words) == (("und",), 2)
    assert (changed.c4_longest_word, changed.short_line) == (9, 5)


def test_the_identity_has_each_parameter() -> None:
    for name, kind in built_in().items():
        plain = kind().identity()
        assert plain["rules"] == name and "version" in plain
        for key in kind.model_fields:
            value = ("und",) if key == "stop_words" else 7
            assert kind(**{key: value}).identity() != plain, key


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["gofer"], "gofer: unknown set of rules; did you mean 'gopher'?"),
        (
            {"gopher": {"min_word": 5}},
            "gopher.min_word: unknown key; did you mean 'min_words'?",
        ),
        (
            {"gopher": {"min_words": "many"}},
            "gopher.min_words: expected an integer, got 'many'",
        ),
        (
            {"gopher": {"min_words": -1}},
            "gopher.min_words: expected a number of at least 0, got -1",
        ),
        (
            {"fineweb": {"max_short_lines": float("nan")}},
            "fineweb.max_short_lines: expected a finite number, got nan",
        ),
        ({"c4": 5}, "c4: expected a mapping of parameters, got 5"),
        (
            {"gopher": {"stop_words": ["a b"]}},
            "gopher.stop_words: expected words without spaces, or symbols at either end, got 'a b'",
        ),
        (["c4", "c4"], "expected each name once, got c4, c4"),
        (
            ["gopher", "gopher_quality"],
            "gopher_quality: has rules of `gopher`, which is named too; remove one of them",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(rules: Any, message: str) -> None:
    with pytest.raises(RecipeError) as info:
        rule_sets(rules)
    assert str(info.value) == message


def test_sets_are_documented() -> None:
    assert list(built_in()) == ["c4", "fineweb", "gopher", "gopher_quality", "gopher_repetition"]
    for kind in built_in().values():
        assert kind.summary and issubclass(kind, RuleSet)
        assert len({rule.name for rule in kind.rules}) == len(kind.rules) <= 64
        for rule in kind.rules:
            assert rule.source and kind.model_fields[rule.name].description
        for field in kind.model_fields.values():
            assert not field.is_required()
