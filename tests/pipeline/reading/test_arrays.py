"""JSON arrays are read as their elements, by Python's json, in any blocks and any pieces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.pipeline.reading import streams
from penstock.pipeline.reading.readers import Bad, Record
from penstock.pipeline.reading.records import Extent, Span
from penstock.recipe import CorpusSource
from tests.pipeline.reading.reference import read_records
from tests.pipeline.reading.test_splits import plan, pool, read
from tests.zstd import frame


def records(path: Path, content: bytes, cap: int = 2**40) -> list[Record | Bad]:
    path.write_bytes(content)
    return list(read_records(path, CorpusSource(path=str(path)), Span(), cap))


_ANY = st.recursive(
    st.none()
    | st.integers(-(2**70), 2**70)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(['"', "\\", "]", "[{", ",\n", '\\\\"']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
_DOCUMENT = st.fixed_dictionaries({"text": st.text(max_size=20)}, optional={"m": _ANY, "id": _ANY})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    first=_DOCUMENT,
    elements=st.lists(st.one_of(_DOCUMENT, _DOCUMENT, _ANY), max_size=6),
    indent=st.sampled_from([None, 0, 1, "\t"]),
    ascii=st.booleans(),
    around=st.sampled_from([("", ""), ("\ufeff \n", "\n\n"), ("\r\n", "\r\n"), (" ", " ")]),
    block=st.sampled_from([1, 2, 7, 64, 4 << 20]),
)
def test_elements_are_those_of_json(
    tmp_path: Path,
    first: Any,
    elements: list[Any],
    indent: Any,
    ascii: bool,
    around: tuple[str, str],
    block: int,
) -> None:
    whole = [first, *elements]
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii)
    content = f"{around[0]}{text}{around[1]}".encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", block)
        found = records(tmp_path / "x.json", content)
    assert [one.number for one in found] == list(range(1, len(whole) + 1))
    for one, value in zip(found, whole):
        sound = isinstance(value, dict) and isinstance(value.get("text"), str)
        if sound and not _has_surrogate(value):
            assert isinstance(one, Record) and one.text == value["text"]
            others = {key: own for key, own in value.items() if key not in ("text", "id")}
            assert json.loads(one.meta or "{}") == others
        else:
            assert isinstance(one, Bad) and one.place == f"element {one.number}"
            if not _has_surrogate(value):
                assert json.loads(one.raw.lstrip(b"\xef\xbb\xbf")) == value


def _has_surrogate(value: Any) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in json.dumps(value, ensure_ascii=False))


def test_arrays_and_lines_may_follow_one_another(tmp_path: Path) -> None:
    content = b'[{"text": "a"},\n {"text": "b"}]\n\xef\xbb\xbf[ ]\n[{"text": "c", "m": [1]}]\n'
    content += b'{"text": "d", "m": [1, 2]}\n[{"text": "e"}] \n'
    found = records(tmp_path / "x.json", content)
    assert [one.text for one in found if isinstance(one, Record)] == list("abcde")
    assert len(found) == 5 and records(tmp_path / "x.json", b"[]\n") == []


def test_a_bad_element_is_quarantined_alone(tmp_path: Path) -> None:
    content = b'[{"text": "a"}, {"text": "b" "c"}, {"text": "d\ne"}, {"id": "f"}, {"text": "g"}]'
    found = records(tmp_path / "x.json", content)
    assert [type(one) for one in found] == [Record, Bad, Bad, Bad, Record]
    assert [one.id for one in found] == [None, None, None, "f", None]


def test_an_element_over_the_cap_is_counted_and_not_held(tmp_path: Path) -> None:
    large = {"id": "long", "text": "x" * 300_000}
    content = json.dumps([{"text": "a"}, large, {"text": "b"}], indent=1).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_BLOCK", 50_000)
        first, bad, last = records(tmp_path / "x.json", content, cap=200_000)
    assert isinstance(bad, Bad) and bad.place.startswith("element 2, from byte ")
    assert len(bad.raw) == 65536 and bad.id == "long"
    assert isinstance(first, Record) and isinstance(last, Record)


@pytest.mark.parametrize("content", [b'[{"text": "a"}', b'[{"text": "a"}, ', b'[{"text": "a'])
def test_a_truncated_array_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        records(tmp_path / "x.json", content)
    assert caught.value.file == str(tmp_path / "x.json")


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("size", [1_000, 20_000, 10**6])
def test_a_large_array_is_cut_into_pieces_and_a_small_one_is_not(
    tmp_path: Path, kind: str, size: int
) -> None:
    rows: list[Any] = [{"id": n, "text": f"text {n * n}", "m": [n]} for n in range(999)]
    rows[3] = [rows[3]]  # a line of a piece that begins like an array
    content = json.dumps(rows, indent=1).encode()
    parts = [content[at : at + 9000] for at in range(0, len(content), 9000)]
    data = {"": content, ".gz": gzip.compress(content), ".zst": b"".join(map(frame, parts))}[kind]
    path = pool(tmp_path, f"x.json{kind}", data)
    whole = list(read_records(path, CorpusSource(path=str(path))))
    assert [one.id for one in whole if isinstance(one, Record)] == [
        str(n) for n in range(999) if n != 3
    ]
    splits = plan(tmp_path, size)
    assert (len(splits) > 1) == (size < len(data) // 2)
    assert [one for some in read(splits) for one in some] == whole
    extent = Extent()
    list(splits[-1].pieces[0].batches(10**6, extent))
    assert extent.noun == "element"
