"""Hashes of documents: golden, uniform, independent, equal for every memory layout."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.hashing import hash_documents, hash_ids, mix, uniform
from penstock.text_hashes import hash_texts, hash_words

MASK = 2**64 - 1


def finalised(state: int) -> int:
    """The finaliser of splitmix64 in plain integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def reference(text: str, seed: int) -> int:
    """FNV-1a from ``mix(seed)``, then the finaliser of splitmix64, in plain integers."""
    state = mix(seed)
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return finalised(state)


def reference_document(name: str, digest: bytes, seed: int) -> int:
    """The hash of the id, then both halves of the text's hash, each finalised."""
    state = reference(name, seed)
    for half in (digest[:8], digest[8:]):
        state = finalised(state ^ int.from_bytes(half, "little"))
    return state


def test_golden_values() -> None:
    """A change here changes every draw of every recipe: it needs a new major version."""
    assert mix(17, "sample") == GOLDEN_MIX
    assert hash_ids(pa.array(["", "a", "doc-1", "é"]), 17).tolist() == GOLDEN_HASHES


GOLDEN_MIX = 3222838354368938349
GOLDEN_HASHES = [13167463339092916514, 305895560876889855, 8719725103901266576, 7022998760096297656]


@settings(max_examples=50)
@given(texts=st.lists(st.text(max_size=20), max_size=20), seed=st.integers(-(2**63), 2**63))
def test_matches_plain_integers(texts: list[str], seed: int) -> None:
    found = hash_ids(pa.array(texts, pa.string()), seed)
    assert found.dtype == np.uint64
    assert found.tolist() == [reference(text, seed) for text in texts]


def layouts(texts: list[str]) -> dict[str, pa.Array | pa.ChunkedArray]:
    padded = ["before", *texts, "after", "end"]
    half = len(texts) // 2
    return {
        "string": pa.array(texts, pa.string()),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "dictionary": pa.array(texts, pa.string()).dictionary_encode(),
        "sliced": pa.array(padded, pa.string()).slice(1, len(texts)),
        "sliced large": pa.array(padded, pa.large_string()).slice(1, len(texts)),
        "one chunk": pa.chunked_array([pa.array(texts)]),
        "chunks": pa.chunked_array([texts[:half], [], texts[half:]], pa.string()),
        "sliced chunks": pa.chunked_array([padded[:2], padded[2:]]).slice(1, len(texts)),
    }


TEXTS = ["", "a", "doc-1", "é", "日本語", "x" * 300, "a"]


@pytest.mark.parametrize("name", layouts(TEXTS))
def test_the_layout_in_memory_does_not_matter(name: str) -> None:
    assert hash_ids(layouts(TEXTS)[name], 3).tolist() == [reference(text, 3) for text in TEXTS]


@pytest.mark.parametrize("name", ["string", "large", "sliced", "one chunk"])
def test_no_ids_give_no_hashes(name: str) -> None:
    assert hash_ids(layouts([])[name], 3).shape == (0,)
    assert hash_ids(pa.chunked_array([], pa.string()), 3).shape == (0,)


def test_uniform_is_strictly_between_0_and_1() -> None:
    edges = uniform(np.array([0, 1, 2**64 - 1, 2**63], dtype=np.uint64))
    assert edges[0] > 0 and edges[2] < 1
    assert edges[0] == edges[1] == 2.0**-53
    assert edges[2] == 1 - 2.0**-53
    assert edges[3] == pytest.approx(0.5)
    assert np.isfinite(np.log(-np.log(edges))).all()  # what Gumbel noise takes of it


def ids(count: int) -> pa.Array:
    return pa.array([f"doc-{number}" for number in range(count)])


def chi_square(values: np.ndarray, bins: int) -> float:
    """Distance from uniform in standard deviations of a chi-square of ``bins - 1``."""
    counts = np.bincount((values * bins).astype(int), minlength=bins)
    expected = len(values) / bins
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float((statistic - (bins - 1)) / np.sqrt(2 * (bins - 1)))


@pytest.mark.parametrize("seed", range(5))
def test_serial_ids_are_spread_evenly(seed: int) -> None:
    """Serial numbers differ in a byte or two: the case in which bare FNV-1a fails."""
    values = uniform(hash_ids(ids(200_000), seed))
    assert abs(chi_square(values, 256)) < 5
    low = (hash_ids(ids(200_000), seed) & np.uint64(255)).astype(float) / 256
    assert abs(chi_square(low, 256)) < 5


@pytest.mark.parametrize(
    ("one", "other"), [((1, "a"), (1, "b")), ((1, "a"), (2, "a")), ((1,), (2,)), ((0,), (-1,))]
)
def test_purposes_and_seeds_are_independent(
    one: tuple[int | str, ...], other: tuple[int | str, ...]
) -> None:
    a, b = (uniform(hash_ids(ids(50_000), mix(*parts))) for parts in (one, other))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    cells = np.floor(a * 8) * 8 + np.floor(b * 8)
    assert abs(chi_square(cells / 64, 64)) < 5


def test_parts_do_not_run_together() -> None:
    assert len({mix("ab", "c"), mix("a", "bc"), mix("abc"), mix("abc", ""), mix()}) == 5
    assert 0 <= mix(-1, "x") <= MASK


# -- documents --------------------------------------------------------------------------------

DIGEST = st.binary(min_size=16, max_size=16)


def digest_of(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def hashes_of(texts: list[str]) -> list[bytes]:
    return hash_texts(pa.array(texts, pa.large_string())).to_pylist()  # type: ignore[no-any-return]


def table(names: list[str], digests: list[bytes]) -> pa.Table:
    return pa.table({"id": pa.array(names, pa.string()), "hash": pa.array(digests, pa.binary(16))})


def test_golden_values_of_documents() -> None:
    """A change here changes every draw of every recipe, as one of the hashes of ids does."""
    documents = table(["", "a", "doc-1"], [digest_of(text) for text in ("", "leaf", "é")])
    assert [row.hex() for row in documents["hash"].to_pylist()] == GOLDEN_TEXTS
    assert hash_documents(documents, 17).tolist() == GOLDEN_DOCUMENTS


GOLDEN_TEXTS = [
    "cae66941d9efbd404e4d88758ea67670",
    "1f6069b96b03f6d05dfc3ef47178893f",
    "d4b1b0202b21bb84e60a3d272ecab0db",
]
"""BLAKE2b of 128 bits, by ``hashlib``."""
GOLDEN_DOCUMENTS = [15329100937360930624, 711745610936591147, 1241427925690031311]
"""By :func:`reference_document`."""


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(st.text(max_size=20), DIGEST), max_size=20),
    seed=st.integers(-(2**63), 2**63),
)
def test_documents_match_plain_integers(rows: list[tuple[str, bytes]], seed: int) -> None:
    expected = [reference_document(name, digest, seed) for name, digest in rows]
    whole = table([name for name, _ in rows], [digest for _, digest in rows])
    found = hash_documents(whole, seed)
    assert found.dtype == np.uint64 and found.tolist() == expected
    half = len(rows) // 2
    chunks = pa.concat_tables([whole.slice(0, half), whole.slice(half, 0), whole.slice(half)])
    assert hash_documents(chunks, seed).tolist() == expected
    assert hash_documents(chunks.slice(half), seed).tolist() == expected[half:]
    batches = [hash_documents(batch, seed).tolist() for batch in chunks.to_batches()]
    assert [one for batch in batches for one in batch] == expected


def test_a_table_without_hashes_is_hashed_by_ids() -> None:
    assert hash_documents(pa.table({"id": TEXTS}), 3).tolist() == [
        reference(text, 3) for text in TEXTS
    ]


def test_no_documents_give_no_hashes() -> None:
    for documents in (table([], []), table(["a"], [b"x" * 16]).slice(1)):
        assert hash_documents(documents, 3).shape == (0,)
        assert hash_words(documents["hash"]).shape == (0, 2)
    assert hash_words(pa.chunked_array([], pa.binary(16))).shape == (0, 2)


@pytest.mark.parametrize("seed", range(3))
def test_documents_that_differ_in_text_alone_are_independent(seed: int) -> None:
    """Ids that begin anew in each file draw other rows of each."""
    names = [f"doc-{number}" for number in range(50_000)]
    files = [
        uniform(hash_documents(table(names, [digest_of(f"{file} {n}") for n in names]), seed))
        for file in ("one", "two")
    ]
    assert abs(np.corrcoef(*files)[0, 1]) < 0.02
    cells = np.floor(files[0] * 8) * 8 + np.floor(files[1] * 8)
    assert abs(chi_square(cells / 64, 64)) < 5
    one_id = uniform(hash_documents(table(["same"] * 50_000, [digest_of(n) for n in names]), seed))
    assert abs(chi_square(one_id, 256)) < 5
