"""Read exports by the libraries that they are for; this file runs without Penstock.

    python readers.py DIRECTORY plain|mds

It prints a line for each library, and ends with status 1 if one reads anything else than expected,
or is missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def megatron(place: Path, expected: dict[str, Any]) -> int:
    """Read ``.bin`` and ``.idx`` by Megatron-LM, whose reader NeMo uses, too."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    found = []
    for index in sorted((place / "megatron" / "data").glob("*.idx")):
        data = IndexedDataset(str(index.with_suffix("")))
        assert data.document_indices.tolist() == list(range(len(data) + 1))
        found += [data[number].tolist() for number in range(len(data))]
    assert found == expected["documents"]
    return len(found)


def streaming(place: Path, expected: dict[str, Any]) -> int:
    """Read MDS by mosaicml-streaming, as LLM Foundry does."""
    _load_torchvision()
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(place / "mds" / "data"), shuffle=False, batch_size=1)
    found = [data[number] for number in range(data.num_samples)]
    assert [row["tokens"].tolist() for row in found] == expected["sequences"]
    assert [row["doc_start"].tolist() for row in found] == expected["starts"]
    return len(found)


def _load_torchvision() -> None:
    """Import torchvision, which streaming imports for images, also beside PyTorch for CPUs.

    The wheel of the package index is built for CUDA. Without that its operators do not load, and it
    cannot be imported unless the two that it always describes are declared.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")


def olmo_core(place: Path, expected: dict[str, Any]) -> int:
    """Read plain arrays and the places of their documents by OLMo-core."""
    from olmo_core.data.utils import iter_document_indices, load_array_slice

    found = []
    for path in sorted((place / "numpy" / "data").glob("*.npy")):
        for start, end in iter_document_indices(path):
            found.append(load_array_slice(path, start, end, np.uint16).tolist())
    assert found == expected["documents"]
    return len(found)


def datatrove(place: Path, expected: dict[str, Any]) -> int:
    """Read plain arrays that are named ``*.ds`` as nanotron does."""
    from datatrove.utils.dataset import DatatroveFileDataset

    length, found = 15, []
    for path in sorted((place / "numpy" / "data").glob("*.npy")):
        link = path.with_suffix(".ds")
        link.symlink_to(path)
        data = DatatroveFileDataset(str(link), length, token_size=2)
        read = [data[number]["input_ids"].tolist() for number in range(len(data))]
        ids = np.fromfile(path, np.uint16).tolist()
        size = length + 1
        assert read == [ids[n * size : (n + 1) * size] for n in range(len(ids) // size)]
        found += ids
    assert found == [token for document in expected["documents"] for token in document]
    return len(found)


def datasets(place: Path, expected: dict[str, Any]) -> int:
    """Read the three exports of texts by Hugging Face's library."""
    from datasets import load_dataset, load_from_disk

    with tempfile.TemporaryDirectory() as cache:
        for data in (
            load_from_disk(str(place / "datasets" / "data")),
            load_dataset(str(place / "parquet"), cache_dir=cache)["train"],
            load_dataset(str(place / "jsonl"), cache_dir=cache)["train"],
        ):
            assert [[row["id"], row["text"]] for row in data] == expected["texts"]
    return 3 * len(expected["texts"])


READERS: dict[str, tuple[str, str, Callable[[Path, dict[str, Any]], int]]] = {
    "megatron-core": ("megatron", "documents", megatron),
    "mosaicml-streaming": ("mds", "sequences", streaming),
    "ai2-olmo-core": ("numpy", "documents", olmo_core),
    "datatrove": ("numpy", "ids", datatrove),
    "datasets": ("datasets, parquet, jsonl", "documents", datasets),
}
"""By package: the formats, the noun of what is compared, and the reader."""

GROUPS = {
    "plain": ("megatron-core", "ai2-olmo-core", "datatrove", "datasets"),
    "mds": ("mosaicml-streaming",),
}
"""The packages that have one environment."""


def main() -> int:
    place = Path(sys.argv[1])
    expected = json.loads((place / "expected.json").read_text())
    failed = 0
    for package in GROUPS[sys.argv[2]]:
        forms, noun, read = READERS[package]
        try:
            count = read(place, expected)
        except Exception as error:
            failed += 1
            print(f"{package}: {forms}: FAILED: {type(error).__name__}: {str(error)[:500]}")
            continue
        version = importlib.metadata.version(package)
        print(f"{package} {version}: {forms}: {count:,} {noun} are those expected", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
