"""Hugging Face datasets as corpus inputs: a directory on disk, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock import extras
from penstock.errors import InputError
from penstock.recipe import CorpusSource

__all__ = ["files_of", "identity", "open_dataset", "saved_to_disk"]

_FIX = "give a directory made by save_to_disk, or a dataset name that can be reached"


def open_dataset(spec: CorpusSource, path: Path) -> Any:
    """Open ``hf:`` data: a ``datasets.Dataset``, or an ``IterableDataset`` when streamed.

    Args:
        spec: An item of ``corpus`` whose ``path`` begins with ``hf:``.
        path: The dataset's directory, resolved; where there is none, the name is looked up.

    Raises:
        InputError: There is no such dataset or split.
    """
    with extras.named("hf", spec.path):
        import datasets

    name = spec.path.removeprefix("hf:")
    try:
        if not path.is_dir():
            return datasets.load_dataset(name, spec.subset, split=spec.split, streaming=True)
        if not saved_to_disk(path):
            return datasets.load_dataset(str(path), spec.subset, split=spec.split, streaming=True)
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # `datasets` raises whatever its transports raise
        raise InputError(
            f"not a dataset that can be opened ({error})", file=spec.path, fix=_FIX
        ) from None
    if isinstance(found, datasets.DatasetDict):
        if spec.split not in found:
            raise InputError(
                file=spec.path,
                expected=f"one of the splits {', '.join(sorted(found))}",
                got=f"{spec.split!r}",
            )
        found = found[spec.split]
    return found


def files_of(path: Path) -> list[Path]:
    """List the files of a dataset's directory, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file())


def identity(spec: CorpusSource) -> str:
    """Identify a hub dataset for a fingerprint: name, subset, split and commit."""
    from huggingface_hub import HfApi

    name = spec.path.removeprefix("hf:")
    try:
        commit = HfApi().dataset_info(name).sha
    except Exception as error:  # any transport error, see above
        raise InputError(f"not found ({error})", file=spec.path, fix=_FIX) from None
    return f"hub:{name}:{spec.subset}:{spec.split}:{commit}"


def saved_to_disk(path: Path) -> bool:
    """Return whether ``save_to_disk`` made a directory, which then has a known number of rows."""
    return (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
