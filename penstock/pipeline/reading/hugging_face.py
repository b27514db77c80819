"""Read Hugging Face datasets as records: directories, and datasets of the hub, which are streamed.

A dataset of the hub is read at one commit: the branch or tag of ``revision`` is resolved before
anything is read, and the commit is part of the corpus's fingerprint and in its manifest. A
directory is named by the bytes of its files. One that ``save_to_disk`` made is divided at rows;
others are one span.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock import extras
from penstock.columnar import InputParquet, open_arrow, validate
from penstock.display import encodable
from penstock.errors import InputError
from penstock.opening import walk_checked
from penstock.pipeline.reading.batches import Batches
from penstock.pipeline.reading.dataset_paths import (
    check_matched,
    check_named,
    check_saved,
    saved_files,
)
from penstock.pipeline.reading.dataset_texts import FORMATS, check_text
from penstock.pipeline.reading.dataset_types import check_metadata, guard_types
from penstock.pipeline.reading.records import Extent, Span
from penstock.pipeline.reading.saved_datasets import saved_splits
from penstock.pipeline.reading.streams import readable
from penstock.pipeline.reading.tables import from_batches, require_text
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath, FileVersion, version_of_status

__all__ = [
    "dataset_files",
    "hugging_face",
    "hugging_face_spans",
    "open_dataset",
    "pinned",
    "splits_of",
    "unread_splits",
]

_ROWS = 1024
"""Most rows that are taken of a dataset at a time."""

_NOT_FOUND = "give a directory made by save_to_disk, or a dataset name that can be reached"

_COMMIT = re.compile("[0-9a-f]{40}")


def pinned(spec: CorpusSource) -> CorpusSource:
    """Return an item with the commit of its dataset on the hub as ``revision``.

    A commit is taken as it is, so that a recipe with one needs no network for what is made.

    Args:
        spec: An item of ``corpus`` that names a dataset of the hub.

    Raises:
        InputError: There is no such dataset or revision, or the hub cannot be reached.
    """
    if spec.revision and _COMMIT.fullmatch(spec.revision):
        return spec
    with extras.named("hf", spec.path):
        from huggingface_hub import HfApi
    try:
        name = spec.path.removeprefix("hf:")
        commit = HfApi().dataset_info(name, revision=spec.revision).sha
    except Exception as error:  # any transport error
        raise InputError(f"not found ({error})", file=spec.path, fix=_NOT_FOUND) from None
    return spec.model_copy(update={"revision": commit})


def dataset_files(directory: Path) -> list[tuple[str, Path]]:
    """List the files of a dataset's directory, by name within it; `datasets` skips hidden ones.

    Raises:
        InputError: There is a link that another user made.
    """
    found = []
    for here, *both in walk_checked(directory):
        for names in both:
            names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(here, name) for name in both[1]]
    files = [(encodable(str(file.relative_to(directory))), file) for file in found]
    return sorted((name, file) for name, file in files if file.is_file())


def open_dataset(spec: CorpusSource, path: Path) -> Any:
    """Open ``hf:`` data: a ``datasets.Dataset``, or an ``IterableDataset`` when streamed.

    Args:
        spec: An item of ``corpus`` whose ``path`` begins with ``hf:``.
        path: The dataset's directory, resolved; where there is none, the name is looked up.

    Raises:
        InputError: There is no such dataset or split.
    """
    datasets = _library(spec)
    try:
        if not path.is_dir() or not saved_to_disk(path):
            return _builder(spec, path).as_streaming_dataset(split=spec.split)
        check_saved(path)
        found = datasets.load_from_disk(str(path))
    except InputError:
        raise
    except Exception as error:  # `datasets` raises whatever its transports raise
        raise InputError(
            f"not a dataset that can be opened ({error})", file=spec.path, fix=_NOT_FOUND
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


def _library(spec: CorpusSource) -> Any:
    """Import `datasets`, which then resolves names of plain types only."""
    with extras.named("hf", spec.path):
        import datasets
    guard_types()
    return datasets


def _builder(spec: CorpusSource, path: Path) -> Any:
    """Return `datasets`' builder of a dataset that is not saved to disk.

    Raises:
        InputError: It names files that are not its own.
        Exception: There is no such dataset.
    """
    datasets = _library(spec)
    if path.is_dir():
        check_named(path)
        builder = datasets.load_dataset_builder(str(path), spec.subset)
        check_matched(path, _files_of(builder))
        if (found := _format_of(builder)) not in FORMATS:
            raise InputError(
                "a directory that `datasets` reads in a format that is not checked",
                file=path,
                expected=f"files of {', '.join(FORMATS)}",
                got=found,
                fix="give its files by a path without hf:, or write them in one of these formats",
            )
        return builder
    name = spec.path.removeprefix("hf:")
    builder = datasets.load_dataset_builder(name, spec.subset, revision=spec.revision)
    own = f"hf://datasets/{name}@"
    for file in _files_of(builder):
        if not file.rpartition("::")[2].startswith(own):
            raise InputError(
                "the dataset names a file that is not its own",
                file=spec.path,
                expected=f"{own}…",
                got=repr(file),
            )
    return builder


def _files_of(builder: Any) -> list[str]:
    """Return the files that a builder will read, by absolute path or address."""
    found = builder.config.data_files or {}
    return [str(file) for files in found.values() for file in files]


def splits_of(spec: CorpusSource, path: Path) -> list[str]:
    """Return the names of the splits of a dataset; none where it cannot be opened.

    Args:
        spec: An item of ``corpus`` whose ``path`` begins with ``hf:``.
        path: The dataset's directory, resolved; where there is none, the name is looked up.
    """
    if (path / "dataset_dict.json").exists():
        return saved_splits(path) or []
    if saved_to_disk(path):
        return []
    _library(spec)
    try:
        builder = _builder(spec, path)
        return [*(builder.config.data_files or builder.info.splits or ())]
    except Exception:  # opening the dataset will raise it, with its fix
        return []


def unread_splits(items: Iterable[tuple[CorpusSource, AnyPath]]) -> set[str]:
    """Return the splits of datasets of the hub that no item reads: ``hf:NAME@COMMIT: SPLIT``.

    Args:
        items: Pinned items of ``corpus`` and their paths; those of no such dataset are passed over.
    """
    found: set[str] = set()
    read: set[str] = set()
    for spec, path in items:
        here = Path(str(path))
        if spec.path.startswith("hf:") and not here.is_dir():
            subset = f", {spec.subset}" if spec.subset else ""
            name = f"{spec.path}@{spec.revision}{subset}"
            read.add(f"{name}: {spec.split}")
            found.update(f"{name}: {split}" for split in splits_of(spec, here))
    return found - read


def saved_to_disk(path: Path) -> bool:
    """Return whether ``save_to_disk`` made a directory, which then has a known number of rows."""
    return (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()


def hugging_face_spans(where: AnyPath, spec: CorpusSource, size: int) -> list[Span]:
    """Divide a dataset saved to disk into spans of about ``size`` bytes; others are one span.

    Raises:
        InputError: A file of the directory is damaged, or decodes to far more than its bytes.
    """
    path = Path(str(where))
    _check_files(path, spec)
    if not saved_to_disk(path):
        return [Span(size=size)]
    dataset = open_dataset(spec, path)
    total = dataset.num_rows
    if not total:
        return []
    require_text(spec.path, spec, dataset.column_names)
    row = max(1, dataset.data.nbytes // dataset.data.num_rows)
    step = max(1, size // row)
    return [
        Span(start=start, end=end, size=row * (end - start), rows=start)
        for start in range(0, total, step)
        for end in [min(start + step, total)]
    ]


def hugging_face(
    where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent
) -> Batches:
    """Read the rows of a dataset."""
    if span.end is None:  # not of hugging_face_spans, which checks the files
        _check_files(Path(str(where)), spec)
    dataset = open_dataset(spec, Path(str(where)))
    names = dataset.column_names
    if names:
        require_text(spec.path, spec, names)
    if span.end is not None:
        dataset = dataset.select(range(span.start, span.end))
    with readable(spec.path, "dataset"):
        yield from from_batches(_batches(dataset, spec), spec, span, cap)


def _check_files(directory: Path, spec: CorpusSource) -> None:
    """Check the files of a directory before `datasets` opens one.

    It does not validate what it maps, and it decodes row groups, lines and arrays whole.

    Raises:
        InputError: A file is damaged, or decodes to far more than its bytes.
    """
    if not directory.is_dir():
        return
    _library(spec)  # before a schema is read, whose extension types it resolves
    files = [file for _, file in dataset_files(directory)]
    arrow = {file for file in files if file.name.endswith(".arrow")}
    parquet = {file for file in files if file.name.endswith(".parquet")}
    if saved_to_disk(directory):
        check_saved(directory)
        arrow.update(file for file in saved_files(directory) if file.is_file())
    else:
        named, format_name = _data_files(spec, directory)
        if format_name in ("arrow", "parquet"):
            (arrow if format_name == "arrow" else parquet).update(named)
        else:
            for file in named:
                _check_text(file, version_of_status(file.stat()))
    for file in sorted(arrow | parquet):
        _check_file(file, file in arrow, version_of_status(file.stat()))


@functools.lru_cache(maxsize=1 << 16)
def _check_file(path: Path, is_arrow: bool, version: FileVersion) -> None:
    """Check a file, once in a process for each of its versions."""
    if is_arrow:
        with readable(path, "Arrow file"), open_arrow(path) as opened:
            check_metadata(opened.schema.metadata, path)
            for _ in opened.batches(utf8=False):
                pass
        return
    with (
        readable(path, "Parquet file"),
        pa.OSFile(os.fsencode(path)) as source,
        InputParquet(source) as file,
    ):
        check_metadata(file.schema_arrow.metadata, path)
        file.check_groups()


@functools.lru_cache(maxsize=1 << 16)
def _check_text(path: Path, version: FileVersion) -> None:
    """Check a text, once in a process for each of its versions."""
    with readable(path, "file"):
        check_text(path)


def _data_files(spec: CorpusSource, directory: Path) -> tuple[list[Path], str]:
    """Return the files that `datasets` reads, whatever their names, and their format."""
    _library(spec)
    try:
        builder = _builder(spec, directory)
    except InputError:
        raise
    except Exception:  # opening the dataset raises it, with its fix
        return [], ""
    files = sorted({Path(file.rpartition("::")[2]) for file in _files_of(builder)})
    return files, _format_of(builder)


def _format_of(builder: Any) -> str:
    return type(builder).__module__.rpartition(".")[2]


def _batches(dataset: Any, spec: CorpusSource) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a dataset.

    Raises:
        InputError: Its files differ in their columns, which `datasets` takes from the first file.
    """
    from datasets.table import CastError

    features = dataset.features or {}
    kinds = dataset.features.arrow_schema if features else pa.schema([])
    try:
        for table in dataset.with_format("arrow").iter(batch_size=_ROWS):
            yield from validate(table, utf8=False).to_batches()
    except CastError as error:
        columns = {*error.table_column_names} ^ {*error.requested_column_names}
        raise _differing(spec, sorted(columns), "") from error
    except (TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        text = " ".join(str(error).split())
        columns = {
            name
            for name, feature in features.items()
            if text.endswith((f" {feature}", f" {kinds.field(name).type}"))
        }
        raise _differing(spec, sorted(columns), f" ({text})") from error


def _differing(spec: CorpusSource, columns: list[str], why: str) -> InputError:
    named = f" {', '.join(map(repr, columns))}" if columns else ""
    return InputError(
        f"the files of the dataset differ in columns{named}{why}",
        file=spec.path,
        fix="give its files by a path without hf:, which reads each with its own columns, or give "
        "all of them the same ones",
    )
