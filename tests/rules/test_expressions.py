"""Expressions: equal to Python's own answers; what is refused, and where; fields of ``meta``."""

from __future__ import annotations

import json
import math
import operator
import pickle
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from penstock.errors import InputError, RecipeError
from penstock.rules.expressions import Expression, MetaField, meta_columns
from penstock.rules.expressions.meta import decimal_of
from penstock.rules.expressions.parsing import DEEPEST, LONGEST

COLUMNS = pa.schema(
    [
        ("n", pa.int64()),
        ("small", pa.uint8()),
        ("p", pa.float64()),
        ("text", pa.large_string()),
        ("language", pa.dictionary(pa.int32(), pa.string())),
        ("good", pa.bool_()),
        ("day", pa.date32()),
        ("meta", pa.large_string()),
    ]
)
SMALL = st.integers(-3, 3) | st.sampled_from([2**53, -(2**53), 2**62, 2**63 - 1, -(2**63) + 1])
REAL = st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, 2.0, -2.5, 3e200, float("nan"), float("inf")])
WORD = st.sampled_from(["", "en", "EN", "de", "e", "é", "Éa", "🙂e", "\x00", "漢字"])
DAY = st.dates(date(1960, 1, 1), date(2030, 1, 1)) | st.sampled_from([date(1, 1, 1), date.max])
ROW = st.fixed_dictionaries(
    {
        "n": st.none() | SMALL,
        "small": st.none() | st.integers(0, 255),
        "p": st.none() | REAL,
        "text": st.none() | WORD,
        "language": st.none() | WORD,
        "good": st.none() | st.booleans(),
        "day": st.none() | DAY,
        "meta": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "stars": SMALL | st.sampled_from([0.5, None, "3", True, [1], {}]),
                "title": WORD | st.sampled_from([None, 3, False]),
                "ok": st.sampled_from([True, False, None, 0, "true"]),
                "in": st.fixed_dictionaries({}, optional={"ner": WORD}) | st.just("x"),
                "when": DAY.map(str)
                | DAY.map(lambda day: f"{day}T23:59:59Z")
                | st.sampled_from(["2020", "2020-02-30", "x2020-01-01", 2020, None]),
            },
        ),
    }
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    stored = [
        {**row, "meta": None if row["meta"] is None else json.dumps(row["meta"])} for row in rows
    ]
    return pa.Table.from_pylist(stored, COLUMNS)


class Unknown(Exception):
    """An operand of an atom is null, or its result is."""


def checked(value: Any) -> Any:
    """Return a value, or raise where an expression has null: the slow definition."""
    if value is None:
        raise Unknown
    if isinstance(value, float) and not math.isfinite(value):
        raise Unknown
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Unknown
    return value


def divided(left: float, right: float) -> float:
    return float(left) / float(right)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divided,
    "%": operator.mod,
}
COMPARISON: dict[str, Callable[..., bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def mixed(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function to numbers, integers next to a float as floats."""
    if any(isinstance(value, float) for value in values):
        values = tuple(map(float, values))
    try:
        return function(*values)
    except (ZeroDivisionError, OverflowError):
        raise Unknown from None


# A generated expression is a text and a function of a row: the function is plain Python, which
# raises Unknown for null. Conditions return None instead.


def leaf(text: str, get: Callable[[dict[str, Any]], Any]) -> st.SearchStrategy[Any]:
    return st.just((text, lambda row: checked(get(row))))


def field(name: str, kind: type | tuple[type, ...]) -> Callable[[dict[str, Any]], Any]:
    def get(row: dict[str, Any]) -> Any:
        value = (row["meta"] or {}).get(name)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        return (float(value) if kind == (int, float) else value) if right else None

    return get


def day_of(row: dict[str, Any]) -> date | None:
    value = (row["meta"] or {}).get("when")
    try:
        return date.fromisoformat(value[:10])
    except (TypeError, ValueError):
        return None


def literal(value: Any) -> tuple[str, Callable[..., Any]]:
    text = f"date('{value}')" if isinstance(value, date) else repr(value)
    return text, lambda row: value


def inner(row: dict[str, Any]) -> Any:
    outer = (row["meta"] or {}).get("in")
    return outer.get("ner") if isinstance(outer, dict) else None


NUMBER_LEAF = st.one_of(
    leaf("n", lambda row: row["n"]),
    leaf("small", lambda row: row["small"]),
    leaf("p", lambda row: row["p"]),
    leaf("meta.stars", field("stars", (int, float))),
    SMALL.map(literal),
    st.sampled_from([0.0, 0.1, 0.5, -2.5, 1e308]).map(literal),
)
TEXT_LEAF = st.one_of(
    leaf("text", lambda row: row["text"]),
    leaf("language", lambda row: row["language"]),
    leaf("meta['title']", field("title", str)),
    leaf("meta['in'].ner", inner),
    WORD.map(literal),
)
DAY_LEAF = st.one_of(
    leaf("day", lambda row: row["day"]), leaf("meta.when", day_of), DAY.map(literal)
)


def lowered(one: Any) -> Any:
    text, get = one
    return f"lower({text})", lambda row: get(row).lower()


def arithmetic(sign: str, one: Any, other: Any) -> Any:
    def get(row: dict[str, Any]) -> Any:
        return checked(mixed(ARITHMETIC[sign], one[1](row), other[1](row)))

    return f"({one[0]} {sign} {other[0]})", get


def extreme(name: str, parts: list[Any]) -> Any:
    function = {"min": min, "max": max}[name]
    text = f"{name}({', '.join(part for part, _ in parts)})"
    return text, lambda row: mixed(function, *(get(row) for _, get in parts))


def single(name: str, one: Any) -> Any:
    function = {"abs": abs, "-": operator.neg}[name]
    return f"{name}({one[0]})", lambda row: checked(function(one[1](row)))


TEXTS = TEXT_LEAF | TEXT_LEAF.map(lowered)
NUMBERS = st.recursive(
    NUMBER_LEAF | TEXTS.map(lambda one: (f"len({one[0]})", lambda row: len(one[1](row)))),
    lambda inside: st.one_of(
        st.builds(arithmetic, st.sampled_from(list(ARITHMETIC)), inside, inside),
        st.builds(extreme, st.sampled_from(["min", "max"]), st.lists(inside, min_size=2)),
        st.builds(single, st.sampled_from(["abs", "-"]), inside),
    ),
    max_leaves=6,
)


def condition(text: str, get: Callable[[dict[str, Any]], bool]) -> Any:
    def kleene(row: dict[str, Any]) -> bool | None:
        try:
            return get(row)
        except Unknown:
            return None

    return text, kleene


def compared(signs: list[str], parts: list[Any]) -> Any:
    text = "".join(f"{part} {sign} " for sign, (part, _) in zip(signs, parts))

    def get(row: dict[str, Any]) -> bool | None:
        answers = []
        for sign, (_, left), (_, right) in zip(signs, parts, parts[1:]):
            try:
                answers.append(mixed_compare(sign, left(row), right(row)))
            except Unknown:
                answers.append(None)
        return False if False in answers else None if None in answers else True

    return text + parts[-1][0], get


def mixed_compare(sign: str, left: Any, right: Any) -> bool:
    if isinstance(left, str | date):
        return COMPARISON[sign](left, right)
    return mixed(COMPARISON[sign], left, right)


def comparisons(parts: Any) -> Any:
    return st.integers(1, 2).flatmap(
        lambda many: st.builds(
            compared,
            st.lists(st.sampled_from(list(COMPARISON)), min_size=many, max_size=many),
            st.lists(parts, min_size=many + 1, max_size=many + 1),
        )
    )


def member(one: Any, values: list[Any], negated: bool) -> Any:
    text = f"{one[0]} {'not ' * negated}in ({', '.join(literal(v)[0] for v in values)},)"

    def get(row: dict[str, Any]) -> bool:
        value = one[1](row)
        if any(isinstance(v, float) for v in [value, *values]):
            return (float(value) in map(float, values)) != negated
        return (value in values) != negated

    return condition(text, get)


def searched(one: Any, name: str, pattern: str) -> Any:
    texts = {
        "startswith": f"{one[0]}.startswith({pattern!r})",
        "endswith": f"endswith({one[0]}, {pattern!r})",
        "in": f"{pattern!r} in {one[0]}",
        "not in": f"{pattern!r} not in {one[0]}",
    }
    functions: dict[str, Callable[[str], bool]] = {
        "startswith": lambda text: text.startswith(pattern),
        "endswith": lambda text: text.endswith(pattern),
        "in": lambda text: pattern in text,
        "not in": lambda text: pattern not in text,
    }
    return condition(texts[name], lambda row: functions[name](one[1](row)))


PRESENT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "meta.stars": lambda meta: meta.get("stars"),
    "meta['title']": lambda meta: meta.get("title"),
    "meta['in'].ner": lambda meta: meta["in"].get("ner") if meta.get("in", "x") != "x" else None,
    "meta.when": lambda meta: meta.get("when"),
}
"""A field that is tested for None may be of any kind."""


def is_none(one: Any, negated: bool) -> Any:
    def get(row: dict[str, Any]) -> bool:
        if one[0] in PRESENT:
            return (PRESENT[one[0]](row["meta"] or {}) is None) != negated
        try:
            one[1](row)
        except Unknown:
            return not negated
        return negated

    return f"{one[0]} is {'not ' * negated}None", get


TRUTHS = st.one_of(
    st.just(condition("good", lambda row: checked(row["good"]))),
    st.just(condition("meta.ok", lambda row: checked(field("ok", bool)(row)))),
    st.booleans().map(lambda value: condition(repr(value), lambda row: value)),
)
ATOMS = st.one_of(
    TRUTHS,
    st.builds(
        lambda one, sign, other: condition(
            f"({one[0]}) {sign} ({other[0]})",
            lambda row: COMPARISON[sign](checked(one[1](row)), checked(other[1](row))),
        ),
        st.just(condition("good", lambda row: checked(row["good"]))),
        st.sampled_from(["==", "!="]),
        TRUTHS,
    ),
    comparisons(NUMBERS),
    comparisons(TEXTS),
    comparisons(DAY_LEAF),
    st.builds(member, NUMBERS, st.lists(SMALL, min_size=1), st.booleans()),
    st.builds(member, NUMBERS, st.lists(st.sampled_from([0.5, -0.0, 1.0]), min_size=1), st.just(0)),
    st.builds(member, TEXTS, st.lists(WORD, min_size=1), st.booleans()),
    st.builds(searched, TEXTS, st.sampled_from(["startswith", "endswith", "in", "not in"]), WORD),
    st.builds(is_none, NUMBERS | TEXTS | DAY_LEAF, st.booleans()),
)


def joined(name: str, parts: list[Any]) -> Any:
    stop = name == "or"

    def get(row: dict[str, Any]) -> bool | None:
        answers = [get(row) for _, get in parts]
        return stop if stop in answers else None if None in answers else not stop

    return f"({f' {name} '.join(text for text, _ in parts)})", get


def negated(one: Any) -> Any:
    text, get = one
    return f"not ({text})", lambda row: None if get(row) is None else not get(row)


CONDITIONS = st.recursive(
    ATOMS,
    lambda inside: st.one_of(
        st.builds(joined, st.sampled_from(["and", "or"]), st.lists(inside, min_size=2)),
        inside.map(negated),
    ),
    max_leaves=5,
)


@settings(max_examples=250)
@given(CONDITIONS, st.lists(ROW, max_size=5))
def test_answers_are_those_of_python(one: Any, rows: list[dict[str, Any]]) -> None:
    text, get = one
    try:
        expression = Expression.of(text)
        found = expression.evaluate(table(rows))
    except RecipeError as error:  # two fields of `meta` next to each other, `in` of a literal
        assume("is not known" not in str(error) and "column after `in`" not in str(error))
        raise
    assert found.type == pa.bool_()
    assert found.to_pylist() == [get(row) for row in rows], text
    again = Expression.of(expression.identity()["where"])
    assert again.identity() == expression.identity()
    assert again.evaluate(table(rows)).equals(found)


KNOWN = {
    "n": 7,
    "small": 3,
    "p": 0.25,
    "text": "A Text",
    "language": "en",
    "good": True,
    "day": date(2020, 2, 29),
}


@pytest.mark.parametrize(
    "text",
    [
        "n % -4 == -1 and -n % 4 == 1 and n / 2 == 3.5",
        "1 < small <= 3 < n and not 1 < n < 2",
        "'Te' in text and text.lower().startswith('a t') and len(text) == 6",
        "language in ['en', 'de'] and language not in {'fr'} and 'x' not in language",
        "min(n, small, p) + max(p, n) - abs(-small) == 4.25",
        "day is not None and good == True and p is not None",
        "n * 2 + 1 == 15 or good != good",
        "-(-n) == 7 and - -7 == n and n in (-7, 7)",
        '"""en""" == language and "e" "n" == language and 0x7 == n and 2_5e-2 == p',
    ],
)
def test_examples_mean_what_they_mean_in_python(text: str) -> None:
    assert eval(text, {}, dict(KNOWN)) is True
    rows = table([{**KNOWN, "meta": None}])
    assert Expression.of(text).evaluate(rows).to_pylist() == [True]


def test_null_keeps_nothing_and_is_told_apart() -> None:
    rows = pa.table({"language": pa.array(["en", "de", None]), "n": pa.array([1, 2, 3])})
    found = Expression.of("language == 'en'").evaluate(rows)
    assert (found.true_count, found.false_count, found.null_count) == (1, 1, 1)
    # What needs no null to be known is known.
    assert Expression.of("language == 'en' or n == 3").evaluate(rows).to_pylist() == [1, 0, 1]
    assert Expression.of("language == 'en' and n < 3").evaluate(rows).to_pylist() == [1, 0, 0]
    assert Expression.of("not language == 'en'").evaluate(rows).to_pylist() == [0, 1, None]


@pytest.mark.parametrize(
    "text, rows",
    [
        ("n / zero > 0", [None, None]),
        ("n % zero == 0", [None, None]),
        ("p / zero > 0", [None, None]),
        ("p % 0.0 == 0", [None, None]),
        ("n + 1 > 0", [True, None]),
        ("n - -1 > 0", [True, None]),
        ("n * 3 > 0", [True, None]),
        ("-n - 1 < 0", [True, True]),
        ("-n - 2 < 0", [True, None]),
        ("(-n - 1) % -1 == 0", [True, True]),
        ("9223372036854775807 + 1 > 0", [None, None]),
        ("9223372036854775807 + zero > 0", [True, True]),
        ("1e308 * 10 > 0", [None, None]),
        ("p > 0", [None, None]),
        ("p != 0 or True", [True, True]),
        ("huge > 0", [True, None]),
        ("7 % 0 == 0", [None, None]),
        ("0.0 in (-0.0, 1)", [True, True]),
    ],
)
def test_what_is_not_a_number_is_null(text: str, rows: list[bool | None]) -> None:
    columns = pa.table(
        {
            "n": pa.array([1, 2**63 - 1]),
            "zero": pa.array([0, 0], pa.int8()),
            "p": pa.array([math.nan, math.inf], pa.float32()),
            "huge": pa.array([2**63 - 1, 2**63], pa.uint64()),
        }
    )
    assert Expression.of(text).evaluate(columns).to_pylist() == rows


def test_columns_of_any_width() -> None:
    values: dict[str, pa.Array] = {
        f"c_{kind}": pa.array([None, 1, 3], kind)
        for kind in (
            *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
            *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
            *(pa.float32(), pa.float64()),
        )
    } | {"c_half": pa.array(np.array([0, 1, 3], np.float16), mask=np.array([True, False, False]))}
    for name in values:
        found = Expression.of(f"{name} + 1 > 2 and {name} in (3, 4)").evaluate(pa.table(values))
        assert found.to_pylist() == [None, False, True], name
    texts = [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ]
    for kind in texts:
        column = pa.array([None, "de", "en"], pa.string()).cast(kind)
        found = Expression.of("t > 'dz' and len(t) == 2").evaluate(pa.table({"t": column}))
        assert found.to_pylist() == [None, False, True], kind
    morning = pa.array([None, -1, 0], pa.int64())
    for kind in (pa.timestamp("s"), pa.timestamp("us", "UTC")):
        column = morning.cast(kind)
        found = Expression.of("t == date('1970-01-01')").evaluate(pa.table({"t": column}))
        assert found.to_pylist() == [None, False, True], kind
    # A float32 is compared as the number it is.
    p = pa.table({"p": pa.array([0.1, 0.65, 0.5], pa.float32())})
    assert Expression.of("p == 0.1 or p > 0.65 or p >= 0.5").evaluate(p).to_pylist() == [0, 1, 1]
    assert Expression.of("p > 0.1").evaluate(p).to_pylist() == [1, 1, 1]


def test_batches_and_slices_change_nothing() -> None:
    rows = [{**KNOWN, "n": n, "meta": {"stars": n}} for n in range(20)]
    expression = Expression.of("meta.stars % 3 == 1 or n > 17")
    whole = expression.evaluate(table(rows))
    assert whole.to_pylist() == [n % 3 == 1 or n > 17 for n in range(20)]
    chunked = pa.concat_tables([table(rows[:7]), table(rows[7:7]), table(rows[7:])])
    assert expression.evaluate(chunked).equals(whole)
    assert expression.evaluate(chunked[3:]).equals(whole[3:])
    assert len(expression.evaluate(table([]))) == 0
    planned = expression.planned({one.name: one.type for one in COLUMNS})
    batch = chunked.combine_chunks().to_batches()[0]
    assert pickle.loads(pickle.dumps(planned)).evaluate(batch).equals(whole)
    assert Expression.of("True").evaluate(table(rows)).to_pylist() == [True] * 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("number(meta.n) != 3 or meta.n is None", [1.0, 3.0, None, 4.0]),
        ("meta.n is None or meta.n == 4", [1.0, None, None, 4.0]),
        ("meta.n == 4 or number(meta.n) == 3", [1.0, 3.0, None, 4.0]),
        ("meta.n is None", ["1", "3", None, "4"]),
        ("meta.n is None or meta.n == 4 or meta.n == 'a'", ["1", "3", None, "4"]),
    ],
)
def test_a_test_for_none_leaves_the_values_of_a_field_as_they_are(text: str, expected: Any) -> None:
    rows = [{**KNOWN, "meta": {"n": n}} for n in (1, "3", None, 4)]
    planned = Expression.of(text).planned({one.name: one.type for one in COLUMNS})
    (batch,) = table(rows).combine_chunks().to_batches()
    assert planned.values(batch)["meta.n"].to_pylist() == expected


def test_names_and_identity() -> None:
    expression = Expression.of(
        "language=='en' and\n  meta.a.b>1 and p in (1,) # why", "clean.where"
    )
    assert expression.names == ("language", "meta", "p")
    spaced = "( (language == \"en\") and meta['a']['b'] >  1  and  p in [ 1 ])"
    assert Expression.of(spaced).identity() == expression.identity()
    assert expression.identity() == {
        "version": 1,
        "where": "((language == 'en') and (meta['a']['b'] > 1) and (p in [1]))",
    }
    for other in (
        "language == 'en'",
        "meta.a.b > 1",
        "language=='en' and meta.a.b>1 and p in (2,)",
    ):
        assert Expression.of(other).identity() != expression.identity()
    assert Expression.of("n == 1").identity() != Expression.of("n == 1.0").identity()
    assert Expression.of("n == 1").identity() != Expression.of("n == True").identity()
    planned = expression.planned({one.name: one.type for one in COLUMNS})
    assert planned.fields == (MetaField(("a", "b"), "number"),)


SYNTAX = {
    "a +": 4,
    "'": 1,
    " \n ": 1,
    "": 1,
    "p > 1) or (n > 2": 1,
    "(p > 1, n)": 1,
    "\x00": 1,
    "language == 'é' and\r\n n >> 2": 23,
    "n = 1": 1,
    "n := 1": 1,
    "9" * 5000 + " > n": 1,
    "~" * 3000 + "n": 1,
    "-" * 9000 + "n": 1,
    "(" * 5000: 200,
    "a" + ".b" * 3000 + " > 1": 1,
    "n > 1 and " * 900 + "n > " + "9" * 5000: LONGEST + 1,
    "not " * (DEEPEST + 5) + "good": 4 * DEEPEST + 1,
    "__import__('os').system('x') == 1": 1,
    "().__class__ == 1": 1,
    "text.__class__ == 'x'": 1,
    "eval('1')": 1,
    "good and f'{n}' == '1'": 10,
    "b'a' == text": 1,
    "n == 1j": 6,
    "n == ...": 6,
    "(lambda: n)() > 1": 1,
    "[n for n in text]": 1,
    "n if good else p": 1,
    "n // 2 == 1": 1,
    "n ** 9 == 1": 1,
    "n @ p": 1,
    "+n > 1": 1,
    "n is 3": 6,
    "n == None": 6,
    "None == n": 1,
    "n in ()": 6,
    "n in (1, p)": 6,
    "n in (1, None)": 10,
    "'a' in 'abc'": 8,
    "n == 9223372036854775808": 6,
    "p > 1e999": 5,
    "text == '\\ud800'": 9,
    "meta": 1,
    "meta > 1": 1,
    "meta[0] > 1": 1,
    "meta['a\"'] > 1": 1,
    "meta[n] > 1": 1,
    "n[0] > 1": 1,
    "n.x > 1": 1,
    "date(day) == day": 6,
    "day > date('2020-02-30')": 12,
    "day > date('20200101')": 12,
    "len(text, text) > 1": 1,
    "min(n) > 1": 1,
    "min(*n) > 1": 1,
    "min(*n, p) > 1": 5,
    "abs(x=n) > 1": 1,
    "text.upper() == 'A'": 1,
    "text.len() == 1": 1,
    f"n > {'1' * 400}": 5,
}


@pytest.mark.parametrize("text, at", SYNTAX.items(), ids=[text[:30] for text in SYNTAX])
def test_what_is_no_expression_is_refused_with_its_place(text: str, at: int) -> None:
    with pytest.raises(RecipeError) as error:
        Expression.of(text, "clean.where")
    assert error.value.key == "clean.where"
    assert error.value.problem.split(":")[0] == f"at character {at}"
    assert len(str(error.value)) < 500


KINDS = {
    "language > 3": (12, "quotation marks"),
    "n == '3'": (6, "without quotation marks"),
    "3 == 'a'": (6, "without quotation marks"),
    "n": (1, "compare it"),
    "n and good": (1, "compare it"),
    "not text": (5, "compare it"),
    "good < True": (1, None),
    "good > 1": (1, None),
    "good + 1 == 2": (1, None),
    "n == True": (6, None),
    "day > '2020-01-01'": (7, "date('2020-01-31')"),
    "meta.when > '2020-01-01' or day == meta.when": (None, None),
    "n < day": (5, None),
    "len(n) > 2": (5, "len(text)"),
    "lower(n) == 'a'": (7, "len(text)"),
    "text + 'a' == 'ba'": (1, "len(text)"),
    "n in (1, 'a')": (10, "without quotation marks"),
    "text in ('a', 1)": (15, "quotation marks"),
    "text in language": (1, None),
    "n in language": (1, "len(text)"),
    "meta.a == meta.b": (1, "compare it with"),
    "lang == 'en'": (1, "did you mean 'language'"),
    "n > 1 and\n txet == 'a'": (12, "did you mean 'text'"),
    "startswith(text, language)": (18, None),
    "listed == 1": (1, None),
}


@pytest.mark.parametrize("text, expected", KINDS.items(), ids=[text[:30] for text in KINDS])
def test_wrong_kinds_are_refused_when_planned(text: str, expected: tuple[Any, Any]) -> None:
    at, fix = expected
    columns = {one.name: one.type for one in COLUMNS} | {"listed": pa.list_(pa.int8())}
    expression = Expression.of(text, "clean.where")
    if at is None:  # a field may be a text here and a date there
        assert len(expression.planned(columns).fields) == 2
        return
    with pytest.raises(RecipeError) as error:
        expression.planned(columns)
    assert error.value.key == "clean.where"
    assert error.value.problem.split(":")[0] == f"at character {at}"
    assert (error.value.fix is None) == (fix is None)
    assert fix is None or fix in str(error.value.fix)


PIECES = [
    *"()[]{}'\"\\#.,:=<>!+-*/%@~&|\r\n\t\f 0x1eé\x00\ud800",
    *("meta", " in ", " is ", "None", "not ", " and ", "len", "if ", "lambda "),
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@example("\r'é'\r#é")
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = Expression.of(text)
    except RecipeError as error:
        assert str(error).startswith("clean.where: at character ")
    else:
        assert Expression.of(expression.identity()["where"]).identity() == expression.identity()


def test_long_expressions_are_computed() -> None:
    text = " and ".join(f"n != {k}" for k in range(700))
    rows = pa.table({"n": pa.array([699, 700])})
    assert Expression.of(text).evaluate(rows).to_pylist() == [False, True]
    deep = "not " * (DEEPEST - 3) + "n == 1"
    assert Expression.of(deep).evaluate(rows).to_pylist() == [True, True]
    many = f"n in ({', '.join(map(str, range(1500)))})"
    assert Expression.of(many).evaluate(rows).to_pylist() == [True, True]


def test_fields_of_meta_are_typed() -> None:
    rows = [
        {"a": 1, "s": "x", "t": True, "d": "2020-02-29", "in": {"ner": 2}},
        {"a": 1.5, "s": "", "t": False, "d": "2020-02-29 10:00", "in": 3},
        {"a": True, "s": 3, "t": 1, "d": "2020-02-29T10:00:00+09:00", "in": {}},
        {"a": "1", "s": None, "t": "true", "d": "2020-02-29x", "in": []},
        {"a": 10**30, "d": "2021-02-29"},
        None,
        {},
    ]
    texts = pa.array([None if row is None else json.dumps(row) for row in rows])
    fields = [
        MetaField(("a",), "number"),
        MetaField(("s",), "text"),
        MetaField(("t",), "truth"),
        MetaField(("d",), "date"),
        MetaField(("in", "ner"), "number"),
        MetaField(("in",), "any"),
        MetaField(("a",), "text"),
        MetaField(("in",), "json"),
    ]
    found = meta_columns(texts, fields)
    leap = date(2020, 2, 29)
    kinds = [pa.float64(), pa.large_string(), pa.bool_(), pa.date32(), pa.float64(), pa.bool_()]
    assert found.schema.types == [*kinds, pa.large_string(), pa.large_string()]
    assert [column.to_pylist() for column in found.columns] == [
        [1, 1.5, None, None, 1e30, None, None],
        ["x", "", None, None, None, None, None],
        [True, False, None, None, None, None, None],
        [leap, leap, leap, None, None, None, None],
        [2, None, None, None, None, None, None],
        [True, True, True, True, None, None, None],
        [None, None, None, "1", None, None, None],
        ['{"ner": 2}', "3", "{}", "[]", None, None, None],
    ]
    assert meta_columns(texts, []).num_rows == len(rows)
    assert meta_columns(texts[1:3], fields[:1]).column(0).to_pylist() == [1.5, None]


@pytest.mark.parametrize("text", ["[1]", "{", "3", "", '{"a": NaN}', "\x00"])
def test_meta_that_is_no_object_is_an_error(text: str) -> None:
    with pytest.raises(InputError) as error:
        meta_columns(pa.array(["{}", text]), [MetaField(("a",), "number")])
    assert "row 1" in error.value.problem


def _python_number(value: object) -> float | None:
    """The reference: Python's ``float``, but for what is no decimal number."""
    if type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    if not isinstance(value, str) or set(value) - set("0123456789+-.eE \t\n"):
        return None
    try:
        return float(value) if math.isfinite(float(value)) else None
    except ValueError:
        return None


DECIMALS = (
    st.from_regex(r"[+-]?[0-9]{0,25}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True)
    | st.floats(allow_nan=False).map(repr)
    | st.sampled_from(
        ["", ".", "1_0", "nan", "inf", "0x1", "١", " 8\n", "1e999", "8 9", "1e", "8\x00"]
    )
)


@given(st.lists(DECIMALS | st.integers(-(2**60), 2**60) | st.floats(-9, 9) | st.none()))
def test_numbers_in_texts_are_those_of_python(values: list[Any]) -> None:
    texts = [value if isinstance(value, str) else None for value in values]
    table = pa.table(
        {
            "meta": pa.array([json.dumps({"x": value}) for value in values], pa.large_string()),
            "text": pa.array(texts, pa.large_string()),
        }
    )
    for bound in (-1.5, 8.0):
        for name, own in (("meta.x", values), ("text", texts)):
            numbers = map(_python_number, own)
            expected = [None if one is None else one >= bound for one in numbers]
            assert (
                Expression.of(f"number({name}) >= {bound}").evaluate(table).to_pylist() == expected
            )
    for text in {value for value in texts if value}:
        assert decimal_of(text) == _python_number(text)


def test_number_takes_texts_and_numbers_alone() -> None:
    table = pa.table({"n": [1, None], "text": ["2.5e-1", "two"], "good": [True, False]})
    found = Expression.of("n + number(text) == 1.25 and number('1') == number(n)").evaluate(table)
    assert found.to_pylist() == [True, None]
    for wrong, at in (("number(good) > 0", 8), ("number(n > 1) > 0", 8), ("number() > 0", 1)):
        with pytest.raises(RecipeError, match=f"at character {at}[:,]"):
            Expression.of(wrong).evaluate(table)


def test_fields_of_another_kind_are_named_with_their_values() -> None:
    planned = Expression.of("meta.a > 1 and meta.b.c == 'x' and number(meta.d) > 1").planned({})
    meta = '{"a": "8", "b": {"c": 3}, "d": "8"}'
    assert planned.other_kinds(meta) == {
        "meta.a": {"expected": "a number", "got": "8"},
        "meta.b.c": {"expected": "a text", "got": 3},
    }
    assert planned.other_kinds('{"a": 1, "d": []}') == {
        "meta.d": {"expected": "a text or a number", "got": []}
    }
    assert planned.other_kinds('{"a": null}') == planned.other_kinds(None) == {}


def test_a_long_expression_is_not_repeated_in_its_error() -> None:
    """Found by fuzzing: a message of 6,027 characters."""
    for text in ("x" * 9_000 + "(1)", f"words > date('{'9' * 9_000}')", "a.b.c" * 3_000 + "()"):
        with pytest.raises(RecipeError) as caught:
            Expression.of(text).planned({"words": pa.int64()})
        assert len(str(caught.value)) < 2_000
