"""Divide the inputs of a corpus into splits: parts of files, each about one unit of work.

A large file is several splits and many small files are one, so that neither a 50 GB file nor 10,000
files of 5 kB are a special case for the stages. Splits depend on the bytes of the inputs and on the
requested size, never on workers, paths or the order of the recipe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from penstock.artefact import canonical
from penstock.errors import InputError
from penstock.pipeline.grouped import packed
from penstock.pipeline.reading.arrays import Content, content_of
from penstock.pipeline.reading.batches import Batches
from penstock.pipeline.reading.frames import Frame, frames_of
from penstock.pipeline.reading.inputs import Input, unchanged
from penstock.pipeline.reading.readers import (
    Reader,
    is_plain_text,
    may_be_left_out,
    read_batches,
    reader_of,
)
from penstock.pipeline.reading.records import Extent, Span, gathered
from penstock.pipeline.reading.streams import EXPANSION, blocks, compression_of, cut_out
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, atomic_file, read_file

__all__ = ["InputPiece", "Split", "plan_splits"]

_PACKED = 4
"""Small parts are merged up to this fraction of a split: enough to make tasks worth their overhead,
little enough that a pool of a few files still keeps several workers busy."""

_LARGE = 2
"""A stream without random access is cut into files above this many splits of compressed bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPiece:
    """A span of one input."""

    input: int
    """Position of the input among the inputs."""
    item: Input
    span: Span
    place: AnyPath
    """The file to read: the input's, or one that was cut from it."""

    @property
    def reader(self) -> Reader:
        reader = reader_of(self.item.path, self.item.spec)
        assert reader is not None, self.item.path  # find_inputs refuses others
        return reader

    def batches(self, cap: int, extent: Extent) -> Batches:
        """Read the records; see :func:`~penstock.pipeline.reading.readers.read_batches`."""
        try:
            yield from read_batches(self.place, self.item.spec, self.span, cap, extent)
        except InputError as error:
            if self.span.file:
                error.file = f"{self.item.path}, in the piece {error.file}"
            raise

    @property
    def label(self) -> str:
        """Name in messages: ``web.jsonl.zst, bytes 0–67,108,864``."""
        name, span = self.item.label, self.span
        if span.file:
            return f"{name}, decompressed bytes {span.bytes:,}–{span.bytes + span.size:,}"
        if not span.start and span.end is None:
            return name
        end = "" if span.end is None else f"{span.end:,}"
        return f"{name}, {self.reader.counts} {span.start:,}–{end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The work of one task of the corpus stage."""

    number: int
    pieces: tuple[InputPiece, ...]
    read: int | None = None
    """Records that the first pass counted in it; None where there was no such pass."""

    @property
    def part(self) -> str:
        """Name within the corpus, as in ``unit-<part>-000``."""
        return f"{self.number:05d}"

    @property
    def label(self) -> str:
        first, more = self.pieces[0].label, len(self.pieces) - 1
        return f"part {self.part}: {first}{f' and {more:,} more' if more else ''}"


def plan_splits(inputs: Sequence[Input], draft: AnyPath, size: int, runner: Runner) -> list[Split]:
    """Divide inputs into splits, in the order of the corpus.

    Args:
        inputs: Inputs in the corpus's order.
        draft: Directory of the corpus; pieces of compressed streams are written to its scratch.
        size: Uncompressed bytes of a split, about.
        runner: Runs a task for each file that must be opened to be divided.

    Raises:
        InputError: A file is damaged, or lacks the text column.
    """
    found: dict[int, list[Span]] = {}
    inspections = []
    for number, item in enumerate(inputs):
        spans = _by_size(item, size)
        if spans is None:
            inspections.append(_Inspection(number=number, item=item, draft=draft, size=size))
        else:
            found[number] = spans
    for index, spans in runner.run(_inspect, inspections):
        found[inspections[index].number] = spans
    groups = packed(
        (
            InputPiece(
                input=number,
                item=item,
                span=span,
                place=draft / span.file if span.file else item.path,
            )
            for number, item in enumerate(inputs)
            for span in found[number]
        ),
        lambda piece: piece.span.size,
        size // _PACKED,
    )
    return [Split(number=number, pieces=tuple(group)) for number, group in enumerate(groups)]


def _by_size(item: Input, size: int) -> list[Span] | None:
    """Divide an input by its size alone, or return None where it must be opened."""
    reader = reader_of(item.path, item.spec)
    if reader is None or reader.spans:
        return None
    compression = compression_of(item.path)
    expected = item.size * (EXPANSION if compression else 1)
    if reader.whole:
        return [Span(size=expected)]
    if expected <= size or (compression == "gzip" and item.size <= _LARGE * size):
        return [Span(size=expected)]
    if is_plain_text(item.path, item.spec) and item.spec.per == "file":
        return [Span(size=expected)]  # one document
    if compression or reader.arrays:
        return None
    return _at_bytes(item.size, size)


def _at_bytes(total: int, size: int) -> list[Span]:
    """Divide a file of lines at any byte."""
    return [
        Span(start=start, end=end, size=end - start, counted=not start)
        for start in range(0, total, size)
        for end in [min(start + size, total)]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inspection:
    """An input that must be opened to be divided."""

    number: int
    item: Input
    draft: AnyPath
    size: int

    @property
    def label(self) -> str:
        return f"{self.item.path} ({self.item.size:,} bytes)"


def _inspect(wanted: _Inspection, _: object) -> list[Span]:
    """Divide an input; the spans are kept in scratch, so that a resumed run opens no file again."""
    cache = wanted.draft / "scratch" / "spans" / f"{wanted.number:05d}.json"
    try:
        return [Span(**fields) for fields in json.loads(read_file(cache))]
    except FileNotFoundError:
        pass
    reader = reader_of(wanted.item.path, wanted.item.spec)
    with unchanged(wanted.item), may_be_left_out():
        if reader and reader.spans:
            spans = reader.spans(wanted.item.path, wanted.item.spec, wanted.size)
        else:
            spans = _divide_lines(wanted, reader is not None and reader.arrays)
    with atomic_file(cache) as sink:
        sink.write(canonical([asdict(span) for span in spans]))
    return spans


def _divide_lines(wanted: _Inspection, arrays: bool) -> list[Span]:
    """Divide a file of lines at bytes or frames, or cut a large one without them into files.

    Args:
        wanted: The file.
        arrays: True if it may be of JSON arrays, which are not divided.
    """
    item, size = wanted.item, wanted.size
    compression = compression_of(item.path)
    content = content_of(item.path) if arrays else Content(False, blocks(item.path))
    if not (compression or content.elements):
        return _at_bytes(item.size, size)
    if compression == "zstd" and not content.elements:
        frames = list(frames_of(item.path))
        if max((frame.end - frame.start for frame in frames), default=0) <= _LARGE * size:
            spans = list(gathered(map(_span_of, frames), size))
            # The first begins the file, also where frames without content are in front of it.
            return [replace(span, start=0, counted=True) for span in spans[:1]] + spans[1:]
    elif item.size <= _LARGE * size:
        return [Span(size=item.size * (EXPANSION if compression else 1))]
    # A piece of an earlier attempt is used again; it must not be of a file that was changed since.
    version = hashlib.sha256(canonical([file.version for file in item.files])).hexdigest()[:12]
    name = f"scratch/pieces/{wanted.number:05d}-{version}"
    spans = cut_out(item.path, content.blocks, wanted.draft, name, size)
    return [replace(span, elements=content.elements) for span in spans]


def _span_of(frame: Frame) -> Span:
    content = EXPANSION * (frame.end - frame.start) if frame.content is None else frame.content
    return Span(start=frame.start, end=frame.end, size=content, counted=False)
