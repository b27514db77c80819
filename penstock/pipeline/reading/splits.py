"""The corpus as splits: parts of input files, each about one unit of work and of resume.

A large file is several splits and many small ones are one, so that neither a 50 GB file nor
10,000 of 5 kB is a special case to whatever works on splits. What they are depends on the bytes of
the inputs and on the size asked for, never on workers, places or the order of the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from penstock.artefact import canonical
from penstock.errors import InputError
from penstock.pipeline.reading.frames import Frame, frames_of
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.reading.pieces import cut_out
from penstock.pipeline.reading.readers import Reader, is_plain_text, read_records, reader_of
from penstock.pipeline.reading.records import Records
from penstock.pipeline.reading.spans import Extent, Span, gathered
from penstock.pipeline.reading.streams import EXPANSION, compression_of
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, atomic_file

__all__ = ["Piece", "Split", "plan_splits"]

_PACKED = 4
"""Small parts are put together up to this part of a split: enough to make hand-over cheap, little
enough that a pool of a few files still keeps several workers busy."""

_LARGE = 2
"""A stream with more compressed bytes than this many splits, and no way into its middle, is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A span of one input."""

    input: int
    """Position among the inputs."""
    item: Input
    span: Span
    place: AnyPath
    """What is read: the input's file, or one that was cut out of it."""

    @property
    def reader(self) -> Reader:
        """What reads it."""
        reader = reader_of(self.item.path, self.item.spec)
        assert reader is not None, self.item.path  # else it would be no input
        return reader

    def records(self, cap: int, extent: Extent) -> Records:
        """Its records; see :func:`~penstock.pipeline.reading.readers.read_records`."""
        try:
            yield from read_records(self.place, self.item.spec, self.span, cap, extent)
        except InputError as error:
            if not self.span.file:
                raise
            raise InputError(f"{self.item.path}: in the piece {error}") from None

    @property
    def label(self) -> str:
        """``web.jsonl.zst, bytes 0–67,108,864``."""
        name, span = self.item.path.name, self.span
        if span.file:
            return f"{name}, decompressed bytes {span.bytes:,}–{span.bytes + span.size:,}"
        if not span.start and span.end is None:
            return name
        end = "" if span.end is None else f"{span.end:,}"
        return f"{name}, {self.reader.counts} {span.start:,}–{end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a task of the corpus stage works on."""

    number: int
    pieces: tuple[Piece, ...]
    read: int | None = None
    """Records that the first pass found in it, where there was one."""

    @property
    def part(self) -> str:
        """Its name within the corpus."""
        return f"{self.number:05d}"

    @property
    def label(self) -> str:
        """What an error calls it."""
        first, more = self.pieces[0].label, len(self.pieces) - 1
        return f"part {self.part}: {first}{f' and {more:,} more' if more else ''}"


def plan_splits(inputs: Sequence[Input], draft: AnyPath, size: int, runner: Runner) -> list[Split]:
    """The splits of a corpus, in its order.

    Args:
        inputs: In the corpus's order.
        draft: Of the corpus, whose scratch takes what has to be cut out of compressed streams.
        size: Uncompressed bytes of a split, about.
        runner: Looks into files whose size alone does not say how they divide.

    Raises:
        InputError: A file is damaged, or lacks the text column.
    """
    found: dict[int, list[Span]] = {}
    looks = []
    for number, item in enumerate(inputs):
        spans = _by_size(item, size)
        if spans is None:
            looks.append(_Look(number=number, item=item, draft=draft, size=size))
        else:
            found[number] = spans
    for index, spans in runner.run(_look, looks):
        found[looks[index].number] = spans
    pieces = (
        Piece(
            input=number,
            item=item,
            span=span,
            place=draft / span.file if span.file else item.path,
        )
        for number, item in enumerate(inputs)
        for span in found[number]
    )
    packed = _packed(pieces, size // _PACKED)
    return [Split(number=number, pieces=tuple(group)) for number, group in enumerate(packed)]


def _packed(pieces: Iterable[Piece], limit: int) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    room = limit
    for piece in pieces:
        if group and piece.span.size > room:
            yield group
            group, room = [], limit
        group.append(piece)
        room -= piece.span.size
    if group:
        yield group


def _by_size(item: Input, size: int) -> list[Span] | None:
    """The spans of an input, or None where it has to be looked into."""
    reader = reader_of(item.path, item.spec)
    if reader is None or reader.spans:
        return None
    compression = compression_of(item.path)
    expected = item.size * (EXPANSION if compression else 1)
    if expected <= size or (compression == "gzip" and item.size <= _LARGE * size):
        return [Span(size=expected)]
    if is_plain_text(item.path) and item.spec.per == "file":
        return [Span(size=expected)]  # one document
    if compression:
        return None
    return [
        Span(start=start, end=end, size=end - start, counted=not start)
        for start in range(0, item.size, size)
        for end in [min(start + size, item.size)]
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """An input to look into."""

    number: int
    item: Input
    draft: AnyPath
    size: int

    @property
    def label(self) -> str:
        return f"{self.item.path} ({self.item.size:,} bytes)"


def _look(look: _Look, _: object) -> list[Span]:
    """How an input divides: remembered in scratch, so that going on asks no file again."""
    memory = look.draft / "scratch" / "spans" / f"{look.number:05d}.json"
    try:
        return [Span(**fields) for fields in json.loads(memory.read_bytes())]
    except FileNotFoundError:
        pass
    reader = reader_of(look.item.path, look.item.spec)
    if reader and reader.spans:
        spans = reader.spans(look.item.path, look.item.spec, look.size)
    else:
        spans = _divided_stream(look)
    with atomic_file(memory) as sink:
        sink.write(canonical([asdict(span) for span in spans]))
    return spans


def _divided_stream(look: _Look) -> list[Span]:
    """A compressed stream at its frames, or cut into files where one of them is too large."""
    frames: list[Frame] = []
    largest = look.item.size
    if compression_of(look.item.path) == "zstd":
        frames = list(frames_of(look.item.path))
        largest = max((frame.end - frame.start for frame in frames), default=0)
    if largest <= _LARGE * look.size:
        spans = list(gathered(map(_span_of, frames), look.size))
        return [replace(span, counted=not span.start) for span in spans]
    directory = f"scratch/pieces/{look.number:05d}"
    return cut_out(look.item.path, look.draft, directory, look.size)


def _span_of(frame: Frame) -> Span:
    length = frame.end - frame.start
    content = EXPANSION * length if frame.content is None else frame.content
    return Span(start=frame.start, end=frame.end, size=content, counted=False)
