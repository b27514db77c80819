"""Words for token multipliers: figures stay, and no sign of a bound is left."""

from __future__ import annotations

import pytest

from penstock.jobs.comparison.multipliers import bound_note, describe_need, multiplier_words


@pytest.mark.parametrize(
    ("multiplier", "interval", "words"),
    [
        (2.375, [2.1, ">4"], "2.38 (2.10 to more than 4)"),
        (">1", ["<1", ">1"], "more than 1 (less than 1 to more than 1)"),
        (">4", [">4", ">4"], "more than 4 (more than 4 at both ends)"),
        ("<0.5", None, "less than 0.5"),
    ],
)
def test_a_multiplier_has_words_for_bounds(
    multiplier: float | str, interval: list[float | str] | None, words: str
) -> None:
    assert multiplier_words(multiplier, interval) == words
    assert not set("<>") & set(describe_need("random", multiplier, interval))


def test_a_bound_names_the_most_that_the_baseline_was_trained_on() -> None:
    needs = [describe_need("random", own, None) for own in (2.0, ">4", ">1", "<1", "<0.5")]
    assert ["needs" in own for own in needs] == [True, False, False, False, False]
    assert ["does not equal" in own for own in needs] == [False, True, True, False, False]
    assert "2.00 times" in needs[0] and "4 times" in needs[1] and "0.5 times" in needs[4]
    assert "times" not in needs[2] + needs[3], "1 times as many"


def test_bounds_are_explained_where_one_is_shown() -> None:
    assert bound_note("random", ["", "2.00 (1.90 to 2.10)"]) == []
    (note,) = bound_note("plain", ["", "2.00 (1.90 to more than 4)"])
    assert "plain" in note
