"""Write a commented recipe for some files, which runs as it is where `check` finds no error.

Files are grouped by their endings and by the fields that a sample of them has. A group is an item
of ``corpus``: a whole directory where all its files are read alike, else a pattern for each ending,
and the file's own name for files that differ from others of their ending. Files of a format whose
extra is not installed are an item in comments.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.display import printable
from penstock.errors import BadInput, InputError, PenstockError, RecipeError, did_you_mean
from penstock.jobs.build import find_target_files
from penstock.jobs.checking.check import RecipeCheck, check_recipe
from penstock.jobs.checking.guessing import Guess, ending_of, guess, head_records
from penstock.jobs.checking.writing import (
    CorpusItem,
    TargetExamples,
    keys_of,
    notes_on,
    recipe_text,
)
from penstock.node_cache import local_file
from penstock.opening import open_plain
from penstock.pipeline.reading.finding import find_inputs, item_name
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.reading.readers import reader_of
from penstock.recipe import Recipe
from penstock.recipe_file import command_words, parse_recipe
from penstock.selectors.targets import examples_in
from penstock.storage import AnyPath, as_path, is_uri, kind_of

__all__ = ["Initial", "init_recipe"]

_OPENED = 24
"""Files of a path that are opened to find their fields."""

_COUNTED = 10_000
"""Examples of a file of the target that are counted."""

_LICENCE_FILES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Initial:
    """A recipe that was written."""

    path: Path
    text: str
    checked: RecipeCheck
    """The check of what was written."""
    notes: tuple[str, ...]
    """What was guessed and found, a line each."""

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock init --json`` prints."""
        return {
            "recipe": str(self.path),
            "notes": list(self.notes),
            "findings": [one.summary() for one in self.checked.findings],
            "estimate": self.checked.estimate.summary() if self.checked.estimate else None,
        }


Ask = Callable[[str, str], str]
"""``ask(question, default)``: an answer of the user, or the default."""


def init_recipe(
    paths: Sequence[str],
    out: Path,
    *,
    text: str | None = None,
    id: str | None = None,
    source: str | None = None,
    target: Sequence[str] = (),
    evaluate: Sequence[str] = (),
    tokens: str | None = None,
    ask: Ask = lambda question, default: default,
) -> Initial:
    """Look at files and write a commented recipe for them.

    Args:
        paths: Files, directories, patterns or URIs, from the current directory on.
        out: The recipe to write; it must not exist.
        text, id, source: Fields of the records, instead of those that are guessed.
        target: Files of examples of what the model should become good at.
        evaluate: Files of held-out examples.
        tokens: The budget; by default 30 % of the pool.
        ask: Asks the user where a guess is uncertain.

    Raises:
        BadInput: No file can be read without a module that is not installed.
        InputError: A path or a file of examples is missing, no file can be read, no field holds
            texts, or ``out`` exists.
    """
    if os.path.lexists(out):
        raise InputError("exists already, and is never overwritten", file=out, fix="give --out")
    if not paths:
        raise InputError("no files to look at", expected="files or directories", fix="name some")
    directory = Path(os.path.abspath(out)).parent
    _check_examples("--target", target, directory)
    _check_examples("--evaluate", evaluate, directory)
    items: list[CorpusItem] = []
    left_out: list[str] = []
    for path in paths:
        items += _items_of(path, directory, text, id, source, ask, left_out)
    if not (read := [item for item in items if not item.missing]):
        raise next(item.missing for item in items if item.missing)
    for label, wanted in (("text", text), ("id", id), ("source", source)):
        _check_found(read, label, wanted)
    if not target and (answer := ask("File of target examples, empty for none", "")):
        target = [answer]
        _check_examples("--target", target, directory)
    keys = {
        "target": [_relative(own, directory) for own in target],
        "evaluate": [_relative(own, directory) for own in evaluate],
    }
    first = check_recipe(_draft(items, directory, {"rules": ["gopher"], "dedup": {"minhash": {}}}))
    if first.sample is None or not first.sample.documents.num_rows:
        raise _unread(first, paths)
    examples = _count_examples(_check_examples("--target", target, directory))
    shown = printable(command_words(out.name))
    written = recipe_text(items, first, keys, tokens, shown, examples)
    try:
        recipe = parse_recipe(yaml.safe_load(written), directory, file=out)
    except RecipeError as error:
        raise InputError(
            error.problem, key=error.key, expected=error.expected, got=error.got, fix=error.fix
        ) from None
    checked = check_recipe(recipe)
    with open(out, "x", encoding="utf-8") as file:  # never replaces, never follows a link
        file.write(written)
    notes = (*notes_on(items), *dict.fromkeys(left_out))
    return Initial(path=out, text=written, checked=checked, notes=notes)


def _check_found(items: Sequence[CorpusItem], label: str, wanted: str | None) -> None:
    """Refuse a field that the user gives and no file has.

    Raises:
        InputError: No sampled record of any path has it.
    """
    known = sorted({name for item in items if item.guess for name in item.guess.fields})
    if wanted is not None and wanted not in known:
        raise InputError(
            key=f"--{label}",
            expected="a field of the records",
            got=repr(wanted),
            fix=did_you_mean(wanted, known[:30]).removeprefix("; "),
        )


def _check_examples(option: str, names: Sequence[str], directory: Path) -> list[AnyPath]:
    """Check that files of examples exist, and return them.

    Raises:
        InputError: One is missing, or a directory.
    """
    draft = _draft([CorpusItem(path=".", guess=None)], directory, {})
    return [
        file
        for name in names
        for file in find_target_files(draft, _relative(name, directory), option)
    ]


def _count_examples(files: Sequence[AnyPath]) -> TargetExamples:
    """Count examples, and those of questions; a bad line, which `check` names, ends a file."""
    count = questions = 0
    for file in files:
        with contextlib.suppress(InputError):
            for _, example in itertools.islice(examples_in(local_file(file)), _COUNTED):
                count += 1
                questions += {"question", "answer"} <= example.keys()
    return TargetExamples(count=count, questions=questions)


def _unread(first: RecipeCheck, paths: Sequence[str]) -> InputError:
    """Make the error of files without a record that can be read."""
    found = first.errors
    why = found[0].text if found else "no record can be read"  # a finding ends with its own fix
    field_alone = bool(found) and (found[0].key or "").endswith(".text")
    fix = "give --text FIELD" if field_alone else None if found else "give other files"
    return InputError(why, file=", ".join(paths), fix=fix)


def _relative(path: str, directory: Path) -> str:
    """Return a path as the recipe in this directory has it."""
    if is_uri(path) or path.startswith("hf:"):
        return path
    whole = os.path.abspath(os.path.expanduser(path))
    below = os.path.relpath(whole, directory)
    return whole if below.startswith("..") else below


# -- looking ----------------------------------------------------------------------------------


def _draft(items: Sequence[CorpusItem], directory: Path, clean: dict[str, Any]) -> Recipe:
    """Return a recipe of these items to look at its inputs with."""
    tree = {
        "corpus": [keys_of(item) for item in items if not item.missing],
        "clean": clean,
        "budget": {"tokens": 1024, "rank": "random"},
    }
    return parse_recipe(tree, directory)


def _items_of(
    path: str,
    directory: Path,
    text: str | None,
    id: str | None,
    source: str | None,
    ask: Ask,
    left_out: list[str],
) -> list[CorpusItem]:
    """Look at one path and divide its files into items; add lines on what is not read below it.

    Raises:
        BadInput: A module is missing that some files of a pattern need.
    """
    written = _relative(path, directory)
    found = find_inputs(_draft([CorpusItem(path=written, guess=None)], directory, {}))
    inputs = found.inputs
    left_out += found.notes
    is_directory = not path.startswith("hf:") and _is_directory(path)
    guesses: dict[str, Guess | None] = {}
    by_ending: dict[str, list[Input]] = {}
    for one in inputs:
        by_ending.setdefault(ending_of(one.path), []).append(one)
    missing = {ending: why for ending, own in by_ending.items() if (why := _missing(own[0]))}
    if 0 < len(missing) < len(by_ending) and not is_directory:
        raise next(iter(missing.values()))  # no item names the others alone
    for own in by_ending.values():
        for one in own[:: max(1, len(own) * len(by_ending) // _OPENED)]:
            guesses[str(one.path)] = _guessed(one, text, id, source)
    usual = {ending: _most_frequent(own, guesses) for ending, own in by_ending.items()}
    for own_guess in usual.values():
        _ask_text(own_guess, text, path, ask)
    label = item_name(written.removeprefix("hf:"), not is_directory and not _is_file(path))
    roles = {own and own.roles for own in usual.values()}
    hints = _licence_hints(path) if is_directory else []
    items = []
    if (len(roles) == 1 and not missing) or not is_directory:
        first = next(iter(usual.values()))
        items.append(
            CorpusItem(
                path=written,
                guess=first,
                name=label,
                files=len(inputs),
                hints=hints,
                missing=next(iter(missing.values()), None),
            )
        )
    else:
        here = glob.escape(written.rstrip("/"))
        for ending, own_guess in sorted(usual.items()):
            items.append(
                CorpusItem(
                    path=f"{here}/**/*{ending}",
                    guess=own_guess,
                    name=f"{label}-{ending.split('.')[1].lower()}" if own_guess is None else label,
                    files=len(by_ending[ending]),
                    hints=hints if not items else [],
                    missing=missing.get(ending),
                )
            )
    for ending, own in by_ending.items():
        for one in own:
            other = guesses.get(str(one.path))
            standard = usual[ending]
            if other is None or standard is None or other.roles == standard.roles:
                continue
            if other.text is not None and len(own) > 1:
                items.append(
                    CorpusItem(
                        path=_relative(str(one.path), directory), guess=other, name=label, files=1
                    )
                )
    return items


def _missing(one: Input) -> BadInput | None:
    """Return the error of a module that is not installed and reads files as this one."""
    reader = reader_of(one.path, one.spec)
    try:
        if reader is not None:
            reader.require(one.path, one.spec)
    except BadInput as error:
        return error
    return None


def _is_directory(path: str) -> bool:
    return _kind_of(path) == "directory"


def _is_file(path: str) -> bool:
    return _kind_of(path) == "file"


def _kind_of(path: str) -> str | None:
    with contextlib.suppress(PenstockError, OSError):
        return kind_of(as_path(path if is_uri(path) else Path(path).expanduser()))
    return None


def _guessed(one: Input, text: str | None, id: str | None, source: str | None) -> Guess | None:
    """Guess the fields of a file; None where its format has none."""
    records = head_records(one)
    if records is None:
        return None
    own = guess(records)
    if text is not None:
        own.text = text if text in own.fields or not own.fields else own.text
    if id is not None and id in own.fields:
        own.id = id
    if source is not None and source in own.fields:
        own.source = source
    if own.source == own.text:
        own.source = None
    return own


def _most_frequent(inputs: Sequence[Input], guesses: dict[str, Guess | None]) -> Guess | None:
    """Return the guess of most files of one ending."""
    own = [found for one in inputs if (found := guesses.get(str(one.path))) is not None]
    if not own:
        return None
    roles, _ = Counter(one.roles for one in own).most_common(1)[0]
    return next(one for one in own if one.roles == roles)


def _ask_text(own: Guess | None, text: str | None, path: str, ask: Ask) -> None:
    """Have the field of the text confirmed, or given where none is found."""
    if own is None or text is not None or not own.fields:  # no record: the check says why
        return
    names = ", ".join(printable(name) for name in list(own.fields)[:20])
    if own.text is None:
        own.text = ask(f"{path}: field of the text, one of {names}", "") or None
        if own.text is None:
            raise InputError(
                "no field holds texts",
                file=path,
                expected="a field of the text, as text or content",
                got=names or "no fields",
                fix="give --text FIELD",
            )
    elif own.text != "text":
        own.text = ask(f"{path}: field of the text, one of {names}", own.text)


def _licence_hints(path: str) -> list[str]:
    """Return comments on licences: of licence files and of a README's header, in a directory."""
    if is_uri(path):
        return []
    here = Path(path).expanduser()
    hints = []
    for name in sorted(os.listdir(here))[:10_000]:
        with contextlib.suppress(OSError, PenstockError):
            if name.partition(".")[0].upper() in _LICENCE_FILES and (here / name).is_file():
                first = _head_lines(here / name)
                hints.append(f"{printable(name)}: {next(iter(first), '')[:80]}")
            elif name.upper() == "README.MD":
                found = [line for line in _head_lines(here / name) if line.startswith("license:")]
                hints += [f"{printable(name)}: {line[:80]}" for line in found[:1]]
    return hints


def _head_lines(path: Path) -> list[str]:
    with open_plain(path) as file:
        head: bytes = file.read(4096)
    lines = head.decode("utf-8", "replace").splitlines()
    return [printable(line.strip()) for line in lines if line.strip()]
