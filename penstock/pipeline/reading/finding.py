"""Find the input files that a recipe's ``corpus`` names, each once, before any work starts.

A file is one input, also where links lead to it, where it has several names on its disk, or where
items of ``corpus`` overlap. Of items that name one file the most exact one says how it is read: a
file's own name before patterns and directories, then the one with more names before its first
wildcard. So neither the order of the items nor that of a listing changes a corpus. Two items that
read other texts of a file (``text``, or ``per`` of plain text) are two inputs.

Directories named ``key=value``, as Hive and Spark write them, give all records below them a field
``key``; a record's own field of that name has priority, and the fields of text and id are never
made so. Values are integers where all of an item's values of that key are.

Files that are whole documents, and plain text, have no field of a source: without a literal one the
source is one name for the item, so that a directory of many files is one source.

Files that other keys of the recipe name (targets, evaluation, the tokenizer) are input only where
an item names one itself, not where it is met in a directory or by a pattern.

Nothing is left out silently: :attr:`FoundInputs.notes` says it in a few lines, and the manifest of
the corpus has the counts.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from penstock import node_cache
from penstock.artefact import canonical
from penstock.display import encodable, printable
from penstock.errors import InputError, StorageError
from penstock.pipeline.reading.hugging_face import dataset_files, splits_of
from penstock.pipeline.reading.inputs import Input, keys_for_reading
from penstock.pipeline.reading.left_out import LEFT_OUT, LeftOut, describe, listed
from penstock.pipeline.reading.readers import AS_TEXT, KINDS, is_plain_text, reader_of
from penstock.pipeline.reading.walking import Walk
from penstock.recipe import CorpusSource, LiteralSource, Recipe
from penstock.storage import (
    DIRECTORY,
    AnyPath,
    as_path,
    child_at,
    find_files,
    is_uri,
    real_path,
    translate_os_errors,
)

__all__ = ["FoundInputs", "find_inputs", "item_name", "partitions_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInputs:
    """The inputs of a recipe, and what was left out of them."""

    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()
    """A line for each kind of names that were left out."""
    left_out: dict[str, Any] = field(default_factory=dict)
    """Their counts by kind, for the manifest; those of ``other_kinds`` by ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A file as one item of ``corpus`` names it."""

    item: int
    """Position of the item."""
    path: AnyPath
    name: str
    spec: CorpusSource
    file: object
    """Equal for all names of one file."""
    text: tuple[str, str]
    """Names the texts that are read of it."""
    exactness: tuple[int, int, int]
    """Less is more exact."""
    linked: bool

    @property
    def reading(self) -> bytes:
        """The keys for reading it."""
        return canonical(keys_for_reading(self.spec))

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: the first candidate of a file says how it is read."""
        return *self.exactness, self.linked, self.reading, str(self.path)


def find_inputs(recipe: Recipe) -> FoundInputs:
    """Find the files that ``corpus`` names, each once.

    Raises:
        InputError: A file is missing, a link leads to nothing, a pattern or directory holds
            nothing to read, or a kind is unknown.
    """
    own = (recipe.work_directory, node_cache.directory())
    walk = Walk(own, lambda name: reader_of(Path(name)) is not None)
    candidates: list[_Candidate] = []
    for number, spec in enumerate(recipe.corpus):
        key = f"corpus.{number}.path"
        with _reachable(recipe.resolve(spec.path.removeprefix("hf:")), key):
            if spec.path.startswith("hf:"):
                candidates.append(own_set := _dataset(recipe, number, spec))
                if isinstance(own_set.path, Path) and own_set.path.is_dir():
                    splits = splits_of(own_set.spec, own_set.path)
                    walk.left_out.splits |= {f"{own_set.path}: {split}" for split in splits}
            else:
                candidates += _item(recipe, walk, number, spec)
    groups: dict[object, list[_Candidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.file, candidate.text), []).append(candidate)
    repeats = [
        sorted(group, key=lambda one: one.order) if len(group) > 1 else group
        for group in groups.values()
    ]
    repeats.sort(key=lambda group: (group[0].name, group[0].text))
    read = {
        f"{one.path}: {one.spec.split}" for one in candidates if one.spec.path.startswith("hf:")
    }
    left_out = walk.left_out.without({str(one.path) for one in candidates} | read)
    counts, notes = describe(left_out, recipe.directory)
    return FoundInputs(
        inputs=tuple(Input(path=one.path, spec=one.spec, name=one.name) for one, *_ in repeats),
        notes=(*notes, *_repeated(repeats)),
        left_out=counts,
    )


def files_of_other_keys(recipe: Recipe) -> dict[str, str]:
    """Return the files of targets, evaluation and the tokenizer: path, all links resolved, to key.

    Args:
        recipe: Names the files.
    """
    patterns = [
        (f"select.{n}.target", one) for n, own in recipe.select.items() for one in own.target
    ]
    patterns += [("clean.decontaminate.files", one) for one in recipe.clean.decontaminate.files]
    patterns += [("evaluate", one) for one in recipe.evaluate]
    files = {
        real_path(file): key
        for key, pattern in patterns
        for file in find_files(recipe.resolve(pattern))
    }
    if isinstance(recipe.tokenizer, str):
        path = recipe.resolve(recipe.tokenizer)
        own = [path, *(path / one for one in _TOKENIZER), path.parent / _TOKENIZER[1]]
        files |= {real_path(one): "tokenizer" for one in own}
    return files


_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")

# -- items ------------------------------------------------------------------------------------

_FIX = "check the name (and the bucket); paths are relative to the recipe"


def _item(recipe: Recipe, walk: Walk, number: int, spec: CorpusSource) -> list[_Candidate]:
    """Find the files of one item of ``corpus``."""
    path = recipe.resolve(spec.path)
    top, pattern = _pattern(recipe, spec.path)
    child = child_at(path)
    walk.any_kind = spec.format is not None
    if child is not None and not (pattern and all(map(_matches_itself, pattern))):
        pattern = []
        directory = child.kind == DIRECTORY
        found = list(walk.files(path, (), spec.split) if directory else walk.named(path, child))
        exactness = (int(directory), -len(path.parts), 1)
    elif pattern:
        found = list(walk.files(top, pattern, spec.split))
        exactness = (1, -len(top.parts), 0)
    else:
        raise InputError("no such file", file=path, fix=_FIX)
    if exactness[0]:
        others = files_of_other_keys(recipe)
        walk.left_out.named |= {str(one.path) for one in found if one.real in others}
        found = [one for one in found if one.real not in others]
    if not found:
        raise _nothing(recipe, path, pattern, walk.left_out)
    # A file below the recipe's directory has its name from there on; one in a store has a URI.
    here = f"{os.path.abspath(recipe.directory).rstrip('/')}/"
    below = [str(one.path).removeprefix(here) for one in found]
    root = os.path.realpath(here)
    own_name = item_name(spec.path, bool(pattern))
    candidates = []
    for one, name, fields in zip(found, below, partitions_of(below, spec)):
        plain = is_plain_text(one.path, spec)
        candidates.append(
            _Candidate(
                item=number,
                path=one.path,
                name=printable(name),
                spec=_labelled(spec, one.path, fields, own_name),
                file=one.twin or re.sub("^s3a://", "s3://", one.real),
                text=("per", spec.per) if plain else ("text", spec.text),
                exactness=exactness,
                linked=one.real != (name if is_uri(name) else os.path.join(root, name)),
            )
        )
    return candidates


def _pattern(recipe: Recipe, text: str) -> tuple[AnyPath, list[str]]:
    """Divide a path at its first wildcard: a directory, and the names and patterns below it."""
    scheme, _, rest = text.partition("://")
    if is_uri(text) and scheme.lower() != "file":
        bucket, *names = [name for name in rest.split("/") if name]
        top = as_path(f"{scheme}://{bucket}")
    else:
        path = Path(rest if is_uri(text) else text).expanduser()
        top = Path(path.anchor) if path.is_absolute() else as_path(recipe.directory)
        names = [name for name in path.parts if name != path.anchor]
    first = next((n for n, name in enumerate(names) if glob.has_magic(name)), len(names))
    return (as_path(str(top.joinpath(*names[:first]))) if first else top), names[first:]


def _matches_itself(name: str) -> bool:
    """Return whether a name, as a pattern, matches itself: it is meant as one."""
    return re.match(fnmatch.translate(name), name) is not None


def item_name(path: str, pattern: bool) -> str:
    """Return the source of an item of ``corpus`` whose files have no field of one.

    It is the last name of the path, up to its first dot: ``notes`` of ``pool/notes`` and of
    ``pool/notes/**/*.txt``, ``wiki`` of ``wiki.en.txt``, and ``files`` without any name.

    Args:
        path: The item's ``path``.
        pattern: True if wildcards are meant as such: names from the first one on do not count.
    """
    names = [name for name in path.rpartition("://")[2].split("/") if name.strip(".~")]
    if pattern:
        first = next((n for n, name in enumerate(names) if glob.has_magic(name)), len(names))
        names = names[:first]
    name = printable(encodable(names[-1])).strip(".") if names else ""
    return name.partition(".")[0] or "files"


def _labelled(spec: CorpusSource, path: AnyPath, fields: _Fields, name: str) -> CorpusSource:
    """Add the fields of all records of a file, and the source of a file without a field of one."""
    changed: dict[str, Any] = {"fields": fields} if fields != spec.fields else {}
    reader, column = reader_of(path, spec), spec.source
    document = reader is not None and reader.document and column == _SOURCE
    if isinstance(column, str) and column not in fields and (document or is_plain_text(path, spec)):
        # Part of how it is read: another name changes documents, and so the fingerprint.
        changed["source"] = LiteralSource(name=name)
    return spec.model_copy(update=changed) if changed else spec


_SOURCE = CorpusSource.model_fields["source"].default


def _dataset(recipe: Recipe, number: int, spec: CorpusSource) -> _Candidate:
    """Return the Hugging Face dataset that an item names."""
    name = spec.path.removeprefix("hf:")
    if is_uri(name):
        raise InputError(
            expected="a local directory or a name on the hub after hf:",
            got=name,
            fix="give a store's Parquet or Arrow files by a path without hf:",
        )
    path = recipe.resolve(name)
    if spec.format is not None:
        raise InputError(
            expected="an item of plain files for `format`",
            got=spec.path,
            fix="give the directory of the files, without hf:",
        )
    name, at, revision = name.partition("@")
    if at and not path.is_dir():
        if not revision or spec.revision not in (None, revision):
            raise InputError(expected="one revision after @", got=spec.path)
        spec = spec.model_copy(update={"path": f"hf:{name}", "revision": revision})
        path = recipe.resolve(name)
    if spec.revision and path.is_dir():
        raise InputError(
            "a directory has no revision", file=path, fix="its files are named by their bytes"
        )
    if isinstance(path, Path) and path.is_dir():
        dataset_files(path)  # refuses links of other users before `datasets` opens any
    work = recipe.work_directory
    if path.is_dir() and f"{real_path(work)}/".startswith(f"{real_path(path)}/"):
        raise InputError(
            "the dataset's directory contains the work directory, which is never input",
            file=path,
            fix="give another `work`",
        )
    return _Candidate(
        item=number,
        path=path,
        name=printable(spec.path),
        spec=spec,
        file=(real_path(path), spec.split, spec.subset, spec.revision),
        text=("text", spec.text),
        exactness=(0, 0, 0),
        linked=False,
    )


def _nothing(
    recipe: Recipe, path: AnyPath, pattern: Sequence[str], left_out: LeftOut
) -> InputError:
    """Make the error of an item that names nothing to read."""
    problem = "no file in this directory can be read as documents"
    fix = AS_TEXT if left_out.other_kinds else None
    if pattern:
        problem, fix = "the pattern matches no file", _FIX
        if any("[" in name for name in pattern):
            fix += "; write [[] for a bracket that is part of a name"
    if left_out.work:
        problem += ", except in the work directory, which is never input"
    _, lines = describe(left_out, recipe.directory)
    got = f"only {', '.join(line.removeprefix(LEFT_OUT) for line in lines)}" if lines else None
    return InputError(problem, file=path, expected=KINDS, got=got, fix=fix)


@contextlib.contextmanager
def _reachable(path: AnyPath, key: str) -> Iterator[None]:
    """Turn errors of a file system or store into InputError with the key and the path."""
    try:
        with translate_os_errors(path):
            try:
                yield
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise InputError(
                        "the path is longer than this system can open",
                        file=error.filename or path,
                        fix="move the files to a path of fewer or shorter names",
                    ) from error
                if not isinstance(error, PermissionError):
                    raise
                if error.filename is None:  # a store has its own fix
                    raise
                raise InputError(
                    "permission denied", file=error.filename, fix="let this user read it"
                ) from error
    except InputError as error:
        raise error.under(key) from error.__cause__
    except FileNotFoundError:
        raise InputError("no such file or bucket", key=key, file=path, fix=_FIX) from None
    except StorageError as error:
        raise InputError(error.problem, key=key, file=error.file, fix=error.fix) from error


# -- partitions -------------------------------------------------------------------------------

_INTEGER = re.compile("-?[0-9]{1,18}")

_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a partition whose key is null."""


_Fields: TypeAlias = dict[str, str | int | float | bool]


def partitions_of(names: Sequence[str], spec: CorpusSource) -> list[_Fields]:
    """Return the fields of each file of an item: those of its path, then the item's own.

    Args:
        names: Paths of the files, with slashes.
        spec: The item.
    """
    found = [_keys(encodable(name), spec) for name in names]
    text = {key for own in found for key, value in own.items() if not _INTEGER.fullmatch(value)}
    text.add(spec.source if isinstance(spec.source, str) else "")  # a label as it is written
    return [
        {
            **{key: value if key in text else int(value) for key, value in own.items()},
            **spec.fields,
        }
        for own in found
    ]


def _keys(name: str, spec: CorpusSource) -> dict[str, str]:
    pairs = (part.partition("=") for part in name.split("/")[:-1])
    keys = {
        unquote(key, errors="backslashreplace"): unquote(value, errors="backslashreplace")
        for key, equals, value in pairs
        if equals and key and value != _NULL
    }
    return {key: value for key, value in keys.items() if key not in (spec.text, spec.id)}


# -- repeats ----------------------------------------------------------------------------------


def _other_readings(group: Sequence[_Candidate]) -> set[int]:
    """Return the other items that would read a file otherwise than its first candidate."""
    first, *others = group
    return {one.item for one in others if one.reading != first.reading} - {first.item}


def _repeated(groups: Sequence[Sequence[_Candidate]]) -> Iterator[str]:
    """Describe the files that have several names, or that several items name.

    Args:
        groups: The candidates of each file and text; the first one is read.
    """
    several = [g for g in groups if len({(one.item, str(one.path)) for one in g}) > 1]
    if several:
        yield (
            "files with several names, by links or in items of `corpus`, read once: "
            f"{len(several):,} ({listed(one.name for one, *_ in several)})"
        )
    differ = [g for g in several if _other_readings(g)]
    if differ:
        first = differ[0][0]
        items = {f"corpus.{number}" for number in _other_readings(differ[0])}
        yield (
            f"of these, named by items with other keys: {len(differ):,} ({first.name} is read as "
            f"corpus.{first.item} says, not as {', '.join(sorted(items)[:3])})"
        )
    files = Counter(group[0].file for group in groups)
    twice = {g[0].file: g[0].name for g in groups if files[g[0].file] > 1}
    if twice:
        names = listed(twice.values())
        yield f"files read more than once, for other texts: {len(twice):,} ({names})"
