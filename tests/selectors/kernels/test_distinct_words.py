"""Distinct words against Python's sets."""

from __future__ import annotations

import re

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.selectors.kernels.distinct_words import count_distinct_words


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.sampled_from("abé \t\n\0"), max_size=30), max_size=8))
def test_distinct_words_are_counted(texts: list[str]) -> None:
    expected = [len({word for word in re.split("[ \t\n\0]+", text) if word}) for text in texts]
    array = pa.array(texts, pa.large_string())
    assert count_distinct_words(array).tolist() == expected
    assert count_distinct_words(array[1:]).tolist() == expected[1:]
