"""Means by group against sums of fractions, and through the engine."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.artefact import Workspace
from penstock.errors import SelectorError
from penstock.jobs.build import build_columns
from penstock.pipeline.columns import make_columns
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.scoring.means import (
    ExactSums,
    GroupSums,
    group_of_length,
    length_classes,
    twentieths,
)
from penstock.pipeline.scoring.models import Models
from tests.pools import documents, pool_of, recipe_of, write_jsonl

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 3)), max_size=60), st.integers(0, 60))
def test_sums_are_exact_however_they_are_divided(values: list[tuple[float, int]], cut: int) -> None:
    """Also of subnormal and of the largest numbers, which cancel each other."""
    sums = ExactSums(4)
    for part in (values[:cut], values[cut:]):
        scores = np.array([value for value, _ in part], np.float32)
        sums.add(GroupSums.of(scores, np.array([group for _, group in part], np.int64)))
    for group in range(4):
        own = [Fraction(value) for value, owner in values if owner == group]
        assert sums.counts[group] == len(own)
        assert sums.total(group) == sum(own, Fraction(0))


def test_many_equal_values_do_not_overflow() -> None:
    """Limbs of 2**31 documents of one part, and of many parts, are far above 2**63."""
    sums = ExactSums(1)
    part = GroupSums.of(np.full(3, np.finfo(np.float32).max, np.float32), np.zeros(3, np.int64))
    huge = GroupSums(part.groups, part.counts, part.bins, part.sums * (1 << 29))
    for _ in range(64):
        sums.add(huge)
    assert sums.total(0) == Fraction(float(np.finfo(np.float32).max)) * 3 * 2**29 * 64


@given(st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=50))
def test_classes_rise_with_lengths_and_keep_eleven_bits(lengths: list[int]) -> None:
    ordered = sorted(lengths)
    classes = length_classes(np.array(ordered, np.int64))
    counts = np.bincount(classes, minlength=31_744)
    for length in ordered:
        group = group_of_length(counts, length)
        assert group.least <= length <= group.most
        inside = sum(group.least <= one <= group.most for one in ordered)
        assert group.documents == inside
    assert (np.diff(classes) >= 0).all() and classes[0] >= 0 and classes[-1] < 31_744
    heads = [length >> max(0, length.bit_length() - 11) for length in ordered]
    alike = [
        (a == b and one.bit_length() == two.bit_length()) or one == two
        for (a, one), (b, two) in zip(zip(heads, ordered), zip(heads[1:], ordered[1:]))
    ]
    assert (np.diff(classes) == 0).tolist() == alike


@given(st.lists(st.integers(0, 9), min_size=1, max_size=80))
def test_a_class_is_in_the_twentieth_of_its_middle(counts: list[int]) -> None:
    found = twentieths(np.array(counts, np.int64))
    places = [number for number, count in enumerate(counts) for _ in range(count)]
    for number in set(places):
        before = places.index(number)
        middle = Fraction(2 * before + counts[number], 2 * len(places))
        assert found[number] == int(20 * middle)


def test_twenty_equal_classes_are_twentieths() -> None:
    assert twentieths(np.full(20, 7)).tolist() == list(range(20))
    assert twentieths(np.array([0, 1000, 0, 1000])).tolist()[1::2] == [5, 15]


SCORER = """
def score(texts):
    return [float("nan") if len(t) % 7 == 0 else (len(t) * 37 % 101) / 3 for t in texts]
"""


def engine(directory: Path, by: str, workers: int = 1, unit_bytes: int = 3000) -> dict[str, Any]:
    """Return the scores of both columns by id, and the pool's rows."""
    recipe = recipe_of(
        directory,
        rank={"control": 1.0, "own": 1.0},
        select={
            # The control before its column: the engine finds the order.
            "control": {"use": "mean_of", "column": "own", "by": by},
            "own": {"use": "scorer:score"},
        },
        work=f"work-{by}-{workers}-{unit_bytes}",
    )
    workspace = Workspace(recipe.work_directory)
    with closing(LocalRunner(workers)) as runner:
        pool = pool_of(recipe, workspace, runner, unit_bytes=unit_bytes)
        models = Models(pool=pool, workspace=workspace, runner=runner, seed=0)
        columns = make_columns(build_columns(recipe), models)
    found: dict[str, Any] = {}
    for unit in pool.units:
        ids = unit.read_rows(["id"])["id"].to_pylist()
        pairs = [
            read_scores(columns[name].path, columns[name].files[unit.number]).tolist()
            for name in ("own", "control")
        ]
        found.update({name: pair for name, *pair in zip(ids, *pairs)})
    return found


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pool" / "a.jsonl", documents(200, seed=3))
    (tmp_path / "scorer.py").write_text(SCORER)
    return tmp_path


@pytest.mark.parametrize("by", ["source", "length"])
def test_each_document_gets_the_mean_of_its_group(pool: Path, by: str) -> None:
    found = engine(pool, by)
    rows = {row["id"]: row for row in documents(200, seed=3)}
    scored = [name for name, (own, _) in found.items() if not np.isnan(own)]
    assert 100 < len(scored) < 200
    if by == "source":
        group = {name: row["source"] for name, row in rows.items()}
    else:
        sizes = sorted(len(rows[name]["text"].encode()) for name in scored)
        assert sizes[-1] < 2048  # so that each length is a class
        group = {}
        for name, row in rows.items():
            size = len(row["text"].encode())
            middle = Fraction(2 * sum(s < size for s in sizes) + sizes.count(size), 2 * len(sizes))
            group[name] = str(int(20 * middle))
        assert len({group[name] for name in scored}) == 20
    for name, (own, control) in found.items():
        if np.isnan(own):
            assert np.isnan(control)
            continue
        others = [Fraction(found[other][0]) for other in scored if group[other] == group[name]]
        assert control == np.float32(float(sum(others) / len(others)))


@pytest.mark.parametrize("by", ["source", "length"])
def test_units_and_workers_change_nothing(pool: Path, by: str) -> None:
    one, other = engine(pool, by), engine(pool, by, workers=2, unit_bytes=1000)
    assert one.keys() == other.keys()
    np.testing.assert_array_equal([one[name] for name in one], [other[name] for name in one])


def test_a_column_that_is_not_there_is_told_by_its_key(pool: Path) -> None:
    for select, key, got in (
        ({"control": {"use": "mean_of", "column": "betr", "by": "source"}}, "column", "'betr'"),
        ({"control": {"use": "mean_of", "column": "control", "by": "source"}}, "column", None),
        ({"control": {"use": "mean_of", "column": "x", "by": "size"}}, "by", "'size'"),
        ({"control": {"use": "mean_of", "by": "length"}}, "column", None),
    ):
        with pytest.raises(SelectorError) as info:
            build_columns(recipe_of(pool, rank="control", select=select))
        assert info.value.key == f"select.control.{key}"
        assert got is None or info.value.got == got
