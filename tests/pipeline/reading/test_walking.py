"""Generated directories and patterns, against walks of other code."""

from __future__ import annotations

import glob
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.reading.found import find, names, refusal, write


@pytest.fixture(autouse=True)
def same_directory() -> Iterator[None]:
    """Some tests change the current directory; those of other files do not expect it."""
    before = os.getcwd()
    yield
    os.chdir(before)


_DIRECTORIES = ["a", "b", "sub", "k=v", "_k=v", ".h", "_h", "x.jsonl", "é", "[z]", "lost+found"]
_FILES = ["a.jsonl", "b.txt", "c.parquet", "d.xz", "e", ".f.jsonl", "_g.txt", "h.json.gz", "i.JSON"]


def build(root: Path, chance: random.Random) -> None:
    """Write a tree with links of every kind: to files and directories, up, down, and hard."""
    directories, files = [root], []
    for _ in range(chance.randrange(4, 14)):
        new = chance.choice(directories) / chance.choice(_DIRECTORIES)
        if not os.path.lexists(new):
            new.mkdir(parents=True)
            directories.append(new)
    for number in range(chance.randrange(5, 30)):
        name = chance.choice([*_FILES, os.fsdecode(b"\xe9%d.txt" % number)])
        path = chance.choice(directories) / name
        if os.path.lexists(path):
            continue
        kind = chance.random()
        if kind < 0.6 or not files:
            path.write_bytes(b"%d" % number)
            files.append(path)
        elif kind < 0.85:
            target = chance.choice(files)
            link = path.with_name(f"{chance.choice(['', '.', '_'])}{number}{target.name}")
            if number % 2:
                link.symlink_to(target)
            else:
                os.link(target, link)
        else:
            link = path.with_name(f"link{number}")
            target = chance.choice(directories)
            link.symlink_to(os.path.relpath(target, link.parent) if number % 2 else target)


def hidden(name: str) -> bool:
    return name[0] == "." or (name[0] == "_" and "=" not in name) or name == "lost+found"


def reference(directory: str, seen: set[str]) -> Iterator[str]:
    """Yield the files below a directory, whatever they are called, through each directory once."""
    if os.path.realpath(directory) in seen:
        return
    seen.add(os.path.realpath(directory))
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if hidden(name):
            continue
        if os.path.isdir(path):
            yield from reference(path, seen)
        else:
            yield path


def readable(path: str) -> bool:
    name = path.lower().removesuffix(".gz")
    return name.endswith((".jsonl", ".txt", ".parquet", ".json"))


@pytest.mark.parametrize("seed", range(40))
def test_generated_trees_against_another_walk(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "t"
    root.mkdir()
    build(root, random.Random(seed))
    below = list(reference(str(root), set()))
    wanted = {os.stat(path).st_ino for path in below if readable(path)}
    if not wanted:
        refusal(tmp_path, "t")
        return
    found = find(tmp_path, "t")
    inodes = [os.stat(str(item.path)).st_ino for item in found.inputs]
    assert sorted(inodes) == sorted(wanted)
    others = found.left_out.get("other_kinds", {})
    assert sum(others.values()) == sum(not readable(path) for path in below)
    assert len({item.name for item in found.inputs}) == len(inodes)
    assert names(tmp_path, "t/**", "t") == sorted(item.name for item in found.inputs)


_PATTERNS = ["*.jsonl", "**/*.txt", "*/*.jsonl", "[ab]/**/*.txt", "*/**/?.jsonl", "**/[é]/**/*.txt"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pattern", _PATTERNS)
def test_generated_patterns_against_those_of_python(
    tmp_path: Path, seed: int, pattern: str
) -> None:
    chance = random.Random(seed)
    write(tmp_path / "t", "z.bin")
    for number in range(25):
        parts = [chance.choice(["a", "b", "cc", "é", "k=v"]) for _ in range(chance.randrange(4))]
        write(
            tmp_path / "t", "/".join([*parts, chance.choice(["a.jsonl", "x.txt", f"{number}.txt"])])
        )
    wanted = {f"t/{name}" for name in glob.glob(pattern, root_dir=tmp_path / "t", recursive=True)}
    if wanted:
        assert set(names(tmp_path, f"t/{pattern}")) == wanted
    else:
        assert "matches no file" in refusal(tmp_path, f"t/{pattern}").problem


def test_a_directory_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = tmp_path / "d"
    deep.mkdir()
    before = os.open(tmp_path, os.O_RDONLY)
    os.chdir(deep)
    for _ in range(1100):
        os.mkdir("n")
        os.chdir("n")
    Path("x.jsonl").write_bytes(b"")
    os.fchdir(before)
    os.close(before)
    try:
        assert len(names(tmp_path, "d")) == 1
        assert len(names(tmp_path, "d/**/x.jsonl")) == 1
    finally:
        subprocess.run(["rm", "-rf", deep], check=True)  # `shutil.rmtree` recurses
