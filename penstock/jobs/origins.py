"""The file and the position in it from which a document was read.

A corpus stores the hashes of its inputs' bytes and not their names, so that it does not depend on
their directory. The recipe names the inputs, and the work directory stores the hashes of the files
that it has read. Where no input of the recipe has a hash, another file that was read is named.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from penstock.artefact import Artefact, FileRecord, Workspace, canonical
from penstock.display import numbered
from penstock.errors import InputError, PenstockError
from penstock.pipeline.reading.finding import files_of_other_keys, find_inputs
from penstock.pipeline.reading.inputs import Input, hash_inputs, stored_hashes, with_hub_hash
from penstock.pipeline.reading.left_out import listed
from penstock.pipeline.reading.readers import AS_TEXT, KINDS, place_in, reader_of
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import Unit
from penstock.recipe import Recipe
from penstock.storage import is_uri, real_path

__all__ = ["PLACE", "Origins", "RecordPlaces", "part_of"]

PLACE = re.compile(r"(?P<noun>\w+) (?P<line>[0-9]+)")
"""The place of a bad record: ``line 17``, or ``line 17 after byte 4,096``."""

_QUOTING = ("csv", "tsv")
"""Endings of files in which a record may have several lines."""


class RecordPlaces(NamedTuple):
    """Where the records of one input in one part of a corpus are from."""

    file: str
    """The input's path from the recipe's directory on, or its dataset."""
    add: int | None
    """To be added to a line of a unit, for its line, row or record in the input; None where the
    file is one document."""


class Origins:
    """Finds the file and the line of a record.

    Args:
        corpus: The corpus before any rewriter.
        recipe: Names the inputs.
    """

    def __init__(self, corpus: Artefact, recipe: Recipe) -> None:
        self._corpus = corpus
        self._recipe = recipe

    def of(self, unit: Unit, number: int | None, line: int | None) -> dict[str, Any]:
        """Return ``file``, ``line`` and ``place`` of a document.

        Arguments as :meth:`line`. ``place`` is the line in words, as ``row 3``; None where a file
        is one document, or is not known.
        """
        at = self.line(unit, number, line)
        item = None if number is None else self._inputs.get(number)
        place = None if at is None or item is None else place_in(item.path, item.spec, at)
        return {"file": self.file(number), "line": at, "place": place}

    def of_bad(self, part: str, number: int, place: str) -> dict[str, Any]:
        """Return ``file``, ``line`` and ``place`` of a quarantined record; see :meth:`of`.

        Args:
            part: The part of the corpus that has the record's file of the quarantine.
            number: Number of the input.
            place: As the quarantine has it, ``line 17`` of the part or in other words.
        """
        found = PLACE.match(place)
        at = self.line_of(part, number, int(found["line"])) if found else None
        named = place if found is None else f"{found['noun']} {at:,}"
        return {"file": self.file(number), "line": at, "place": named}

    def file(self, number: int | None) -> str | None:
        """Return the path of an input, or its dataset as the recipe names it.

        None where it is not known or there is none.
        """
        if number is None:
            return None
        item = self._inputs.get(number)
        if item is None:
            return self._others.get(self._files[number][0])
        return item.name if item.is_dataset else str(item.path)

    def name(self, number: int) -> str | None:
        """Return an input's path from the recipe's directory on; None where it is not known."""
        item = self._inputs.get(number)
        return None if item is None else item.label

    def places(self) -> dict[str, dict[int, RecordPlaces]]:
        """Return where records of each part are from, by the number of their input.

        Inputs that the recipe does not name any more are left out.
        """
        before: Counter[int] = Counter()
        found: dict[str, dict[int, RecordPlaces]] = {}
        for record in self._corpus.named("part-"):
            own = found.setdefault(part_of(record), {})
            for span in record.facts["inputs"]:
                number = span["input"]
                item = self._inputs.get(number)
                if item is None or number in own:
                    continue
                whole = place_in(item.path, item.spec, 1) is None
                add = 0 if span["counted"] else before[number]
                own[number] = RecordPlaces(file=item.label, add=None if whole else add)
            for span in record.facts["inputs"]:
                before[span["input"]] += span["lines"]
        return found

    def documents_in(self, path: str) -> list[int]:
        """Return the numbers of the inputs with this path, each of which is one document.

        Args:
            path: From the recipe's directory or the current one, absolute, or of a store.

        Raises:
            InputError: An input with this path has more than one document.
        """
        found = self.inputs_at(path)
        for number in found:
            item = self._inputs[number]
            if place := place_in(item.path, item.spec, 1):
                raise InputError(
                    file=path,
                    expected="the id of a document, or the path of a file that is one",
                    got=f"a file that begins with {place}",
                    fix="give the id of one of its documents, or its line or row as PATH:17",
                )
        return found

    def inputs_at(self, path: str) -> list[int]:
        """Return the numbers of the inputs with this path, ascending; see :meth:`documents_in`."""
        here = os.path.abspath(path)
        return sorted(
            number
            for number, item in self._inputs.items()
            if not item.is_dataset
            and (path in (item.name, str(item.path)) or here == os.path.abspath(str(item.path)))
        )

    def inputs_named(self, name: str) -> list[int]:
        """Return the numbers of the one input file with this name, in whatever directory.

        Nothing where two files have it.
        """
        paths = {str(item.path) for item in self._files_named(name)}
        return self.inputs_at(paths.pop()) if len(paths) == 1 else []

    def no_line(self, numbers: Sequence[int], line: int, before: int | None = None) -> InputError:
        """Explain why no document is of a line of inputs.

        Args:
            numbers: The inputs, all of one file.
            line: The line, row or record, from 1.
            before: The line of the last record that begins before it; None if there is none.
        """
        number = numbers[0]
        lines = sum(
            max(span["lines"], span["records"])  # rows of a table are counted as records alone
            for record in self._corpus.named("part-")
            for span in record.facts["inputs"]
            if span["input"] == number
        )
        item = self._inputs[number]
        place = place_in(item.path, item.spec, line) or f"line {line}"
        noun = place.partition(" ")[0]
        if line > lines:
            return InputError(
                f"this file has {numbered(lines, noun)}",
                file=self.file(number),
                got=f"{noun} {line:,}",
                fix="give a position from 1 to the last, or the id of a document",
            )
        if item.path.name.partition(".")[2].startswith(_QUOTING) and before is not None:
            return InputError(
                f"no record begins at {noun} {line:,}: it lies in a quoted field of the record at "
                f"{noun} {before:,}, or is empty",
                file=self.file(number),
                fix=f"give :{before} for that record, or the id of a document",
            )
        return InputError(
            f"no document was read from {noun} {line:,}, such as an empty line",
            file=self.file(number),
            fix="give another position, or the id of a document",
        )

    def unread(self, name: str) -> InputError | None:
        """Explain why no document is of a file, if this is the path or name of one.

        Args:
            name: As ``penstock why`` was given it, with or without a line.
        """
        path, _, line = name.rpartition(":")
        with_line = bool(path) and line.isdecimal()
        path = path if with_line else name
        if with_line and not int(line) and (self.inputs_at(path) or self._files_named(path)):
            return InputError(
                "positions in a file count from 1", file=path, got=name, fix=f"give {path}:1"
            )
        if same := sorted({item.name for item in self._files_named(path)}):
            return InputError(
                f"{numbered(len(same), 'input file')} {'has' if len(same) == 1 else 'have'} this "
                f"name: {listed(same)}",
                file=path,
                fix="give it with its directory, and a line or row as PATH:17, or the id of one of "
                "its documents",
            )
        missing = with_line and not is_uri(path) and reader_of(Path(path)) is not None
        return self._unread_file(path, missing and not self.inputs_at(path))

    def _unread_file(self, path: str, missing: bool) -> InputError | None:
        """Explain why a file is not read; if ``missing``, that there is none."""
        for own in (Path(path), self._recipe.resolve(path)):
            if is_uri(path) or not isinstance(own, Path) or not os.path.isfile(own):
                continue
            if reader_of(own) is None and not any(one.format for one in self._recipe.corpus):
                return InputError(
                    "this file is not read, because of its ending",
                    file=own,
                    expected=KINDS,
                    fix=AS_TEXT,
                )
            if self._is_found(own):
                return None
            return self._not_taken(own)
        if missing:
            return InputError(
                "no such file, and no document of the corpus has this id",
                file=path,
                fix="paths are relative to the recipe or to the current directory",
            )
        return None

    def _not_taken(self, file: Path) -> InputError:
        """Explain why no item of ``corpus`` takes a file that can be read."""
        key = files_of_other_keys(self._recipe).get(real_path(file))
        if key is not None:
            return InputError(
                f"this file is not of the corpus: `{key}` names it",
                file=file,
                fix="`why` finds documents of the corpus",
            )
        root = os.path.abspath(self._recipe.directory)
        names = Path(os.path.relpath(os.path.abspath(file), root)).parts
        if any(name[0] in "._" and name != ".." for name in names):
            return InputError(
                "this file is not read: it has a hidden name, or is in a directory with one",
                file=file,
                expected="no name that begins with . or _",
                fix="write it out in `corpus`, or name it differently",
            )
        return InputError(
            "this file is not read",
            file=file,
            got="a file that no item of `corpus` takes, by its path or pattern",
            fix="add it to `corpus`",
        )

    def _files_named(self, name: str) -> list[Input]:
        found = self._inputs.values()
        return [one for one in found if not one.is_dataset and one.path.name == name]

    def _is_found(self, path: Path) -> bool:
        """Return whether the recipe takes a file, which the corpus may not have read yet."""
        try:
            inputs = find_inputs(self._recipe).inputs
        except PenstockError:
            return True
        own = os.path.realpath(path)
        return any(os.path.realpath(str(item.path)) == own for item in inputs)

    def line(self, unit: Unit, number: int | None, line: int | None) -> int | None:
        """Return the line or row of a document in its input, from 1.

        Args:
            unit: Unit of the document.
            number: Number of the input.
            line: What the unit says: lines are counted from the beginning of a part's span.
        """
        if number is None or line is None:
            return None
        return self.line_of(part_of(unit.record), number, line)

    def line_of(self, part: str, number: int, line: int) -> int:
        """Return the line or row of a record of a part of the corpus; see :meth:`line`."""
        return line + self.lines_before(part, number)

    def lines_before(self, part: str, number: int) -> int:
        """Return what is to be added to a line of a part of the corpus, for its line in an input.

        Args:
            part: The part.
            number: Number of the input.
        """
        before = 0
        for record in self._corpus.named("part-"):
            spans = [one for one in record.facts["inputs"] if one["input"] == number]
            if part_of(record) == part:
                return 0 if spans[0]["counted"] else before
            before += sum(span["lines"] for span in spans)
        raise LookupError(part)

    def has_any(self, unit: Unit, numbers: Collection[int]) -> bool:
        """Return whether the unit's part of the corpus has records of any of these inputs."""
        return not self._inputs_of.get(part_of(unit.record), frozenset()).isdisjoint(numbers)

    @cached_property
    def _inputs_of(self) -> dict[str, frozenset[int]]:
        """The numbers of the inputs of each part."""
        return {
            part_of(record): frozenset(span["input"] for span in record.facts["inputs"])
            for record in self._corpus.named("part-")
        }

    @property
    def _files(self) -> Sequence[tuple[str, Any]]:
        """The hash of each input, and the keys for reading it."""
        files: Sequence[tuple[str, Any]] = self._corpus.manifest["inputs"]["files"]
        return files

    @cached_property
    def _inputs(self) -> dict[int, Input]:
        """The inputs of the recipe, by their numbers in the corpus."""
        found: dict[bytes, list[Input]] = {}
        for item in self._named():
            found.setdefault(canonical([item.digest, item.reading]), []).append(item)
        for items in found.values():
            items.sort(key=lambda item: item.key, reverse=True)  # the last is the first of equals
        inputs = {}
        for number, file in enumerate(self._files):
            if same := found.get(canonical(file)):
                inputs[number] = same.pop()
        return inputs

    def _named(self) -> Iterator[Input]:
        """Yield the inputs of the recipe with their hashes, as the corpus numbers them."""
        try:
            inputs = find_inputs(self._recipe).inputs
        except PenstockError:
            return
        commits = {reading["revision"] for _, reading in self._files}
        directories = []
        for item in inputs:
            if not item.is_dataset:
                if digest := self._hashes.get(str(item.path)):
                    yield Input(path=item.path, spec=item.spec, digest=digest, name=item.name)
                continue
            named = replace(item, name=self._written(item))
            if item.path.is_dir():
                directories.append(named)
            else:
                yield from (with_hub_hash(named, commit) for commit in commits)
        if directories:
            workspace = Workspace(self._root, read_only=True)
            with closing(LocalRunner(1)) as runner:
                yield from hash_inputs(directories, workspace, runner)

    def _written(self, item: Input) -> str:
        """Return the path of a dataset as the recipe has it."""
        path, revision = item.spec.path, item.spec.revision
        with_revision = f"{path}@{revision}"
        written = {own.path for own in self._recipe.corpus if own.revision in (None, revision)}
        return with_revision if with_revision in written else path

    @property
    def _root(self) -> Any:
        return self._corpus.path.parent.parent

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return stored_hashes(self._root)

    @cached_property
    def _others(self) -> dict[str, str]:
        """The files that this work directory has read, by hash; of equal ones the first by name."""
        return {digest: path for path, digest in sorted(self._hashes.items(), reverse=True)}


def part_of(record: FileRecord) -> str:
    """Return the part of a file of a corpus."""
    return record.path.partition(".")[0].split("-")[1]
