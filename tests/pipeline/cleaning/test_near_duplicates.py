"""Components of documents through the engine: equal to a search, however the work is divided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Draft, FileRecord
from penstock.pipeline.cleaning import near_duplicates
from penstock.pipeline.cleaning.minhash.signatures import Signatures
from penstock.pipeline.cleaning.near_duplicates import (
    ALONE,
    KeyFiles,
    fill_components,
    read_components,
)
from penstock.pipeline.runner import LocalRunner, Runner
from penstock.text_hashes import hash_normalised
from tests.pipeline.cleaning.test_components import stars_of

BANDS = 5


def corpus(directory: Path, units: int = 7, seed: int = 0) -> list[KeyFiles]:
    """Write units of texts that are alike in groups, some in chains; one unit is empty."""
    rng = np.random.default_rng(seed)
    files = []
    for unit in range(units):
        documents = 0 if unit == 3 else int(rng.integers(40, 60))
        texts = []
        for _ in range(documents):
            start = int(rng.zipf(1.3)) % 150
            words = [f"w{start + number * int(rng.integers(1, 3))}" for number in range(8)]
            texts.append(rng.choice(["", "  "]) if start == 3 else " ".join(words))
        column = pa.array(texts, pa.large_string())
        bands = rng.integers(1, 40, (documents, BANDS)).astype(np.uint64) << np.uint64(58)
        bands |= rng.integers(1, 1 << 18, (documents, BANDS)).astype(np.uint64) // np.uint64(1500)
        bands[[not text.strip() for text in texts]] = 0
        files.append(write_unit(directory, unit, hash_normalised(column), bands))
    return files


def write_unit(directory: Path, unit: int, normal: pa.Array, bands: np.ndarray) -> KeyFiles:
    name = f"unit-{unit:05d}-000"
    kind = Signatures().schema.field("bands").type
    items = pa.array(bands.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(
        items, type=pa.list_(kind.value_field, bands.shape[1])
    )
    pq.write_table(pa.table({"normal": normal}), directory / f"rows-{unit}.parquet")
    pq.write_table(pa.table({"bands": column}), directory / f"bands-{unit}.parquet")
    return KeyFiles(
        unit=unit,
        name=name,
        documents=len(normal),
        normal=(directory, FileRecord.found(directory, f"rows-{unit}.parquet")),
        bands=(directory, FileRecord.found(directory, f"bands-{unit}.parquet")),
    )


def expected(files: Sequence[KeyFiles], exact: bool = True, near: bool = True) -> list[list[int]]:
    """Return each unit's components by a search through all pairs of a key."""
    groups: dict[Any, list[int]] = defaultdict(list)
    empty = hash_normalised(pa.array([""]))[0].as_py()
    for item in files:
        assert item.normal is not None
        assert item.bands is not None
        normal = pq.read_table(item.normal[0] / item.normal[1].path)["normal"].to_pylist()
        bands = pq.read_table(item.bands[0] / item.bands[1].path)["bands"].to_pylist()
        for row, (text, keys) in enumerate(zip(normal, bands)):
            document = item.unit * 2**32 + row
            if exact and text != empty:
                groups[text].append(document)
            for key in keys if near and keys[0] else ():
                groups[key].append(document)
    pairs = [(own[0], other) for own in groups.values() for other in own[1:]]
    stars = dict(stars_of(pairs))
    stars |= {first: first for first in stars.values()}
    return [
        [stars.get(item.unit * 2**32 + row, ALONE) for row in range(item.documents)]
        for item in files
    ]


def made(directory: Path, files: Sequence[KeyFiles], runner: Runner) -> list[list[int]]:
    draft = Draft(directory, {"fingerprint": "0" * 64})
    records = fill_components(draft, files, BANDS, runner)
    found = [read_components(directory, record).tolist() for record in records]
    for record, item, components in zip(records, files, found):
        numbers = [item.unit * 2**32 + row for row in range(item.documents)]
        assert record.facts == {
            "documents": item.documents,
            "alone": components.count(ALONE),
            "components": sum(map(int.__eq__, components, numbers)),
        }
    return found


def test_components_are_those_of_a_search(tmp_path: Path) -> None:
    files = corpus(tmp_path)
    whole = expected(files)
    sizes = np.unique(np.concatenate(whole), return_counts=True)[1][1:]
    assert len(sizes) > 20  # several components, of which some are large
    assert max(sizes) > 10
    assert sum(row == ALONE for rows in whole for row in rows) > 20
    with closing(LocalRunner(1)) as runner:
        assert made(tmp_path / "both", files, runner) == whole
        exact = [with_keys(item, bands=None) for item in files]
        assert made(tmp_path / "exact", exact, runner) == expected(files, near=False)
        near = [with_keys(item, normal=None) for item in files]
        assert made(tmp_path / "near", near, runner) == expected(files, exact=False)
        assert expected(files, near=False) != whole != expected(files, exact=False)


def with_keys(item: KeyFiles, **changed: None) -> KeyFiles:
    fields = {name: getattr(item, name) for name in item.__slots__}
    return KeyFiles(**(fields | changed))


@pytest.mark.parametrize("edges", [near_duplicates.EDGES, 10])
def test_the_same_from_workers_and_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: LocalRunner, edges: int
) -> None:
    files = corpus(tmp_path, seed=1)
    whole = expected(files)
    monkeypatch.setattr(near_duplicates, "EDGES", edges)
    monkeypatch.setattr(near_duplicates, "RUN", 100)
    monkeypatch.setattr(near_duplicates, "RANGE_BYTES", 6000)
    one = LocalRunner(1)
    assert made(tmp_path / "one", files, one) == whole
    assert made(tmp_path / "two", files, two_workers if edges == 10 else one) == whole
    rounds = list((tmp_path / "one/scratch").glob("nodes-*"))
    assert len(rounds) >= 3 if edges == 10 else not rounds
    left, right = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in tree if path.is_file()}
        for name in ("one", "two")
        for tree in [(tmp_path / name).rglob("*")]
    )
    assert left == right


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = corpus(tmp_path, seed=3)
    monkeypatch.setattr(near_duplicates, "EDGES", 10)
    monkeypatch.setattr(near_duplicates, "RANGE_BYTES", 6000)
    passes = (
        "_link_run",
        "_link_range",
        "_send_edges",
        "_apply_star",
        "_send_stars",
        "gather_components",
    )
    with closing(LocalRunner(1)) as runner:
        for name in passes:
            with monkeypatch.context() as patch:
                patch.setattr(near_duplicates, name, _refuse_to_run)
                with pytest.raises(RuntimeError, match="stopped"):
                    made(tmp_path / "broken", files, runner)
        # Each stop left what was before it, which is not done again.
        for name in passes[:-1]:
            monkeypatch.setattr(near_duplicates, name, _refuse_to_run)
        assert made(tmp_path / "broken", files, runner) == expected(files)


def _refuse_to_run(*_: Any) -> None:
    raise RuntimeError("stopped")


def test_components_of_texts(tmp_path: Path) -> None:
    """From texts: copies that differ in case and space, near copies, and others."""
    words = [f"word{number}" for number in range(400)]
    near = [*words[:396], *"abcd"]
    texts = [" ".join(words), "other", " ".join(near), "  OTHER\n", "", " ".join(words[::-1]), " "]
    column = pa.array(texts, pa.large_string())
    bands = Signatures().compute(column).column("bands").flatten().to_numpy().reshape(7, -1)
    item = write_unit(tmp_path, 0, hash_normalised(column), bands)
    with closing(LocalRunner(1)) as runner:
        records = fill_components(Draft(tmp_path, {"fingerprint": "0" * 64}), [item], 9, runner)
    assert read_components(tmp_path, records[0]).tolist() == [0, 1, 0, 1, ALONE, ALONE, ALONE]
