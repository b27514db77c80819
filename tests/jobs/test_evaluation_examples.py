"""No example of an ``evaluate`` file is read for a fit, and no evaluation is lost by its name."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from penstock.errors import InputError, RecipeError
from penstock.jobs.build import build_columns, build_overlaps, find_evaluation_files
from penstock.jobs.evaluation_examples import EvaluationExamples, evaluation_names
from penstock.jobs.train import read_evaluations
from penstock.recipe import Recipe
from penstock.recipe_file import parse_recipe
from penstock.selectors import targets as targets_module
from penstock.selectors.targets import read_targets, rendered_in, targets_in
from penstock.storage import sha256_file
from tests.pools import write_jsonl
from tests.zstd import frame

EXAMPLES: list[dict[str, Any]] = [
    {"question": "What turns the wheel?", "answer": "Flowing water", "choices": ["Flowing water"]},
    {"text": "Über the weir, the caf\u00e9 opens at 5 o'clock."},
    {"question": "The turbine is", "answer": "B", "choices": ["still", "turning"]},
]


def recipe_of(directory: Path, select: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    select = select or {"near": {"use": "dsir", "target": ["target*"]}}
    tree = {
        "corpus": [{"path": "pool"}],
        "select": select,
        "budget": {"tokens": 2_000, "rank": next(iter(select))},
        "tokenizer": {"train": {"vocab_size": 384}},
        "evaluate": ["eval.jsonl"],
        **changes,
    }
    return parse_recipe(tree, directory)


def copied(source: Path, target: Path) -> None:
    shutil.copy(source, target)


def linked(source: Path, target: Path) -> None:
    target.symlink_to(source)


def hard_linked(source: Path, target: Path) -> None:
    os.link(source, target)


def gzipped(source: Path, target: Path) -> None:
    target.with_suffix(".jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))


def zstandard(source: Path, target: Path) -> None:
    target.with_suffix(".jsonl.zst").write_bytes(frame(source.read_bytes()))


def reordered(source: Path, target: Path) -> None:
    write_jsonl(target, EXAMPLES[::-1])


def one_among_others(source: Path, target: Path) -> None:
    write_jsonl(target, [*({"text": f"number {n}"} for n in range(50)), EXAMPLES[2]])


def rendered(source: Path, target: Path) -> None:
    write_jsonl(target, [{"text": "the  TURBINE is: turning!"}])


def decomposed(source: Path, target: Path) -> None:
    text = unicodedata.normalize("NFD", EXAMPLES[1]["text"].upper())
    target.write_text(json.dumps({"text": text}) + "\n")


ATTACKS = [
    *(copied, linked, hard_linked, gzipped, zstandard, reordered),
    *(one_among_others, rendered, decomposed),
]


@pytest.mark.parametrize("code", [0xAD, 0x34F, 0x200B, 0x200E, 0x2060, 0x3164, 0xFE0F, 0xE0061])
def test_invisible_characters_make_no_other_example(tmp_path: Path, code: int) -> None:
    """Attack: a soft hyphen, a joiner, a variation selector, ... in and behind words of a copy."""
    file = tmp_path / "eval.jsonl"
    write_jsonl(file, EXAMPLES)
    [text, *_] = (text for _, text in rendered_in(file))
    for changed in (text.replace("turns", f"tu{chr(code)}rns"), text.replace("?", f"{chr(code)}?")):
        assert changed != text
        with pytest.raises(RecipeError) as info:
            EvaluationExamples([file]).refuse([changed], "k", tmp_path / "target.jsonl")
        assert f"{file}:1)" in info.value.problem


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_example_of_an_evaluation_is_no_target(
    tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    """Attack: an evaluation file, or a part of it, under another name, is the target."""
    write_jsonl(tmp_path / "eval.jsonl", EXAMPLES)
    attack(tmp_path / "eval.jsonl", tmp_path / "target.jsonl")
    with pytest.raises(RecipeError) as info:
        build_columns(recipe_of(tmp_path))
    [file] = tmp_path.glob("target*")
    assert (info.value.key, info.value.file) == ("select.near.target", str(file))
    first = {one_among_others: (51, 3), rendered: (1, 3), decomposed: (1, 2), reordered: (1, 3)}
    at, line = first.get(attack, (1, 1))
    assert re.search(rf"also under evaluate: {at}\b", info.value.problem)
    assert f"{tmp_path / 'eval.jsonl'}:{line})" in info.value.problem


def test_other_examples_are_targets(tmp_path: Path) -> None:
    """Benchmarks repeat short questions with other answers; words may differ by a sign alone."""
    write_jsonl(tmp_path / "eval.jsonl", [*EXAMPLES, {"text": "C"}, {"text": "\u0939\u093f"}])
    sound = [
        {"question": "What turns the wheel?", "answer": "A donkey"},
        {"text": "the cafe opens at 5 o'clock"},
        {"text": "C++"},
        {"text": "\u0939\u0940"},
    ]
    write_jsonl(tmp_path / "target.jsonl", sound)
    [column] = build_columns(recipe_of(tmp_path))
    assert len(column.target.examples) == 4
    assert column.target.hashes == [sha256_file(tmp_path / "target.jsonl")]


@pytest.mark.parametrize(
    "use, parameter", [("dclm", "positives"), ("fineweb-edu", "labels"), ("ccnet", "reference")]
)
def test_nor_is_it_in_a_file_of_a_parameter(tmp_path: Path, use: str, parameter: str) -> None:
    """Attack: as above, by another key of the selector."""
    write_jsonl(tmp_path / "eval.jsonl", EXAMPLES)
    rows = [{"text": f"number {n}", "label": n % 2} for n in range(60)]
    write_jsonl(tmp_path / "own.jsonl", [*rows, {**EXAMPLES[1], "label": 1}])
    with pytest.raises(RecipeError) as info:
        build_columns(recipe_of(tmp_path, {"near": {"use": use, parameter: "own.jsonl"}}))
    assert info.value.key == f"select.near.{parameter}"
    assert info.value.file == str(tmp_path / "own.jsonl")
    assert "1 of its 61 examples is" in info.value.problem and ": 61 (" in info.value.problem


@pytest.mark.parametrize(("shared", "shown"), [(3, ": 1, 2, 3 ("), (14, ", 9, 10 and 4 more (")])
def test_all_examples_that_are_also_an_evaluations_are_counted(
    tmp_path: Path, shared: int, shown: str
) -> None:
    rows = [{"text": f"the number {n}"} for n in range(20)]
    write_jsonl(tmp_path / "eval.jsonl", rows[:shared])
    write_jsonl(tmp_path / "target.jsonl", rows)
    with pytest.raises(RecipeError) as info:
        build_columns(recipe_of(tmp_path))
    assert f"{shared} of its 20 examples are" in info.value.problem
    assert shown in info.value.problem and f"{tmp_path / 'eval.jsonl'}" in info.value.problem


def test_evaluations_of_one_name_are_named_by_their_directories(tmp_path: Path) -> None:
    """The usual layout of benchmarks; results are by name, so one of two must not be lost."""
    names = ["arc/test", "piqa/test", "b/arc/test", "b/arc/easy", "a/x/dev", "b/x/dev"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(tmp_path / f"{name}.jsonl", EXAMPLES)
    top = tmp_path.name
    expected = {
        "arc/test": f"{top}/arc/test",
        "piqa/test": f"{top}/piqa/test",
        "b/arc/test": "b/arc/test",
        "b/arc/easy": "easy",
        "a/x/dev": "a/x/dev",
        "b/x/dev": "b/x/dev",
    }
    for order in (names, names[::-1]):
        files = find_evaluation_files(
            recipe_of(tmp_path, evaluate=[f"{name}.jsonl" for name in order])
        )
        assert [one.name for one in read_evaluations(files)] == [expected[name] for name in order]
    assert evaluation_names([tmp_path / "arc/test.jsonl", tmp_path / "piqa/test.jsonl"]) == [
        "arc/test",
        "piqa/test",
    ]
    remote = [UPath(f"memory://{bucket}/test.jsonl") for bucket in "ab"]
    assert evaluation_names([*remote, Path("/test.jsonl")]) == ["a/test", "b/test", "test"]


def test_two_evaluations_of_one_name_are_refused(tmp_path: Path) -> None:
    """Attack: results are by the name of the file, so one of two was lost."""
    for name in ("a/test.jsonl", "a/test.jsonl.gz", "b/other.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in EXAMPLES).encode()
        (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    with pytest.raises(RecipeError) as info:
        find_evaluation_files(recipe_of(tmp_path, evaluate=["a/*", "b/*"]))
    assert info.value.key == "evaluate"
    assert info.value.file == str(tmp_path / "a/test.jsonl.gz")
    assert str(tmp_path / "a/test.jsonl") in info.value.problem
    (tmp_path / "a/test.jsonl.gz").rename(tmp_path / "test.jsonl.gz")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    once = find_evaluation_files(recipe_of(tmp_path, evaluate=["a/test.jsonl", "link/*", "b/o*"]))
    assert [path.name for path in once] == ["test.jsonl", "other.jsonl"]


def test_an_evaluation_that_changes_after_it_was_hashed_is_not_compared(tmp_path: Path) -> None:
    """Attack: the overlaps of another file are kept under the hash of the first for good."""
    write_jsonl(tmp_path / "eval.jsonl", EXAMPLES)
    [overlaps] = build_overlaps(recipe_of(tmp_path))
    write_jsonl(tmp_path / "eval.jsonl", [{"text": "nothing of the pool " * 5}])
    with pytest.raises(InputError) as info:
        overlaps.grams  # noqa: B018
    assert info.value.file == str(tmp_path / "eval.jsonl")


def test_a_target_has_the_hash_of_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the file is replaced between the reading of its examples and of its hash."""
    path = tmp_path / "target.jsonl"
    write_jsonl(path, [{"text": "the first"}])
    first = sha256_file(path)

    def replaced(*args: Any) -> Any:
        found = read_targets(*args)
        write_jsonl(path, [{"text": "the second"}])
        return found

    monkeypatch.setattr(targets_module, "read_targets", replaced)
    made = targets_in([path])
    assert [example.text for example in made.examples] == ["the first"]
    assert made.hashes == [first]
