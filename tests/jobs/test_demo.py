"""The demo's text: what is taken, what is left, and that the held-out half is not in the pool."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from click.testing import CliRunner

import penstock
from penstock.errors import InputError
from penstock.jobs.cli import main
from penstock.jobs.console import Console
from penstock.jobs.demo import gather as gathering
from penstock.jobs.demo.gather import DURATION, Gathered, Limits, gather
from penstock.jobs.demo.pieces import TELLING

SENTENCE = "It opens the {0} and reads what is in the {0}, then closes the {0} again."
SMALL = Limits(min_chars=20)


def write(root: Path, name: str, text: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def module(word: str) -> str:
    return (
        f'"""About the {word}: {SENTENCE.format(word)}"""\n\n'
        f"def read_{word}(path, *, size=1):\n"
        f'    """Read a {word}.\n\n    {SENTENCE.format(word + " file")}\n    """\n'
    )


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Sixteen modules of equal size."""
    root = tmp_path / "lib"
    for letter in "abcdefghijklmnop":
        write(root, f"mod{letter}.py", module(f"thing{letter}"))
    return root


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A package of every kind of text, with things that are not to be taken."""
    root = tmp_path / "packages"
    write(root, "pump/__init__.py", module("pump"))
    write(
        root,
        "pump/valve.py",
        "# Copyright 2020 of somebody, who has\n# all the rights that there are\n# in the world.\n"
        'class Valve:\n    """Lets water through, or does not."""\n\n'
        "    if True:\n"
        "        def open(\n            self,\n            turns: int,  # of the wheel\n"
        "        ) -> None:\n"
        '            """Turn the wheel."""\n'
        "            def inner():\n"
        '                """Nobody calls this from outside."""\n\n'
        "    # The wheel has left-hand thread, because of\n    # the way in which it is mounted,\n"
        "    # and it must be turned slowly.\n"
        "    def half(self): '''Half of it, \\ud800.'''\n",
    )
    write(
        root,
        "pump/_core.h",
        "/**\n * The height of the water\n * in millimetres " + "x" * 80 + "\n */",
    )
    write(root, "pump/notes.md", "The pump has been painted in a darker colour since last year.\n")
    write(root, "pump/words.txt", "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    write(root, "pump/broken.py", '"""A module that does not parse, for sure."""\ndef (:\n')
    write(
        root, "pump/latin.py", '"""Caf\xe9, which is longer than the least."""\n'.encode("latin-1")
    )
    write(root, "pump/tests/test_pump.py", module("test"))
    write(
        root, "pump-1.0.dist-info/METADATA", "Name: pump\nVersion: 1\n\nPumps water upwards, fast."
    )
    write(root, "pump-1.0.dist-info/RECORD", "pump/__init__.py,,\n" * 9)
    write(root, "pump-1.0.dist-info/licenses/LICENSE", "You may pump water, at your own risk.")
    return root


def pool(found: Gathered) -> dict[str, dict[str, str]]:
    records = {}
    for path in found.pool:
        with open(path, "rb") as file:
            lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
        for line in lines:
            record = json.loads(line)
            assert record["source"] == path.name.removesuffix(".jsonl.zst")
            assert record["id"] not in records
            records[record["id"]] = record
    return records


def examples(path: Path) -> dict[str, str]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {record["benchmark"] for record in records} == {"stdlib"}
    return {record["id"]: record["text"] for record in records}


def telling(texts: list[str]) -> set[str]:
    lines = {line.strip() for text in texts for line in text.split("\n")}
    return {line for line in lines if len(line) >= TELLING}


def test_every_kind_of_text_is_taken_and_nothing_else(
    tmp_path: Path, library: Path, packages: Path
) -> None:
    found = gather(tmp_path / "out", packages=[packages], library=library, limits=SMALL)

    records = pool(found)
    assert {name: record["source"] for name, record in records.items()} == {
        "pump/__init__.py": "docstrings",
        "pump/valve.py": "docstrings",
        "pump/valve.py#comments": "comments",
        "pump/_core.h": "native",
        "pump/notes.md": "documents",
        "pump-1.0.dist-info/METADATA": "readmes",
        "pump-1.0.dist-info/licenses/LICENSE": "licences",
    }
    assert records["pump/valve.py"]["text"] == (
        "class Valve:\n    Lets water through, or does not.\n\n"
        "def open(self, turns: int) -> None:\n    Turn the wheel.\n\n"
        "def half(self):\n    Half of it, ?."
    )
    assert records["pump/valve.py#comments"]["text"] == (
        "The wheel has left-hand thread, because of\nthe way in which it is mounted,\n"
        "and it must be turned slowly."
    )
    assert records["pump/_core.h"]["text"].startswith("The height of the water\nin millimetres")
    assert records["pump-1.0.dist-info/METADATA"]["text"] == "Pumps water upwards, fast."
    assert found.unread == 2  # broken.py and latin.py
    assert found.packages == 1
    assert found.pool_count.documents == len(records)
    assert found.pool_count.bytes == sum(len(r["text"].encode()) for r in records.values())


def test_halves_share_no_module_and_are_of_equal_size(
    tmp_path: Path, library: Path, packages: Path
) -> None:
    found = gather(tmp_path / "out", packages=[packages], library=library, limits=SMALL)
    other = gather(tmp_path / "two", seed=1, packages=[packages], library=library, limits=SMALL)

    aim, held_out = examples(found.aim), examples(found.held_out)
    assert len(aim) == len(held_out) == 8
    assert set(aim) | set(held_out) == {f"mod{letter}.py" for letter in "abcdefghijklmnop"}
    assert set(examples(other.held_out)) != set(held_out)
    assert (found.aim_count.documents, found.held_out_count.documents) == (8, 8)
    assert found.held_out_count.bytes == sum(len(text.encode()) for text in held_out.values())


def test_what_repeats_the_held_out_half_is_left_out_everywhere(
    tmp_path: Path, library: Path, packages: Path
) -> None:
    before = gather(tmp_path / "before", packages=[packages], library=library, limits=SMALL)
    aim, held_out = examples(before.aim), examples(before.held_out)
    unseen, seen = sorted(held_out)[0], sorted(aim)[0]
    sentence = SENTENCE.format("thing" + unseen[3])
    # A docstring of the held-out half, word for word, in a module to aim at and in the pool;
    # and a line of it in a README. What stands beside it is kept.
    copy = (
        f'def borrowed():\n    """Other.\n\n    About the thing{unseen[3]}: {sentence}\n    """\n'
    )
    write(library, seen, (library / seen).read_text() + copy)
    write(packages, "vendored/copy.py", copy + module("own"))
    write(
        packages,
        "vendored/README.md",
        f"About the thing{unseen[3]}: {sentence}\n\nOur own words.\n",
    )
    write(packages, "vendored/aimed.py", (library / seen).read_text())
    after = gather(tmp_path / "after", packages=[packages], library=library, limits=SMALL)

    assert set(examples(after.held_out)) == set(held_out)
    lines = telling(list(examples(after.held_out).values()))
    assert lines
    texts = {name: record["text"] for name, record in pool(after).items()}
    assert not lines & telling(list(examples(after.aim).values()))
    assert not lines & telling(list(texts.values()))
    assert "borrowed" not in examples(after.aim)[seen]
    assert examples(after.aim)[seen] == aim[seen]
    assert "read_own" in texts["vendored/copy.py"]
    assert "read_thing" in texts["vendored/aimed.py"]  # copies of the half to aim at may be chosen
    assert "vendored/README.md" not in texts  # too short without the copied paragraph
    assert after.copies == {"aim": 1, "pool": 3}


def test_twins_are_in_one_half(tmp_path: Path, packages: Path) -> None:
    library = tmp_path / "lib"
    for name in ("io", "_pyio", "decimal", "_pydecimal", "ntpath", "posixpath", "one", "two"):
        write(library, f"{name}.py", module(name))
    for seed in range(8):
        out = tmp_path / str(seed)
        found = gather(out, seed=seed, packages=[packages], library=library, limits=SMALL)
        for half in (examples(found.aim), examples(found.held_out)):
            for pair in (("io", "_pyio"), ("decimal", "_pydecimal"), ("ntpath", "posixpath")):
                assert len({f"{name}.py" for name in pair} & set(half)) in (0, 2)


def test_same_installation_gives_the_same_bytes_and_old_files_go(
    tmp_path: Path, library: Path, packages: Path
) -> None:
    one = gather(tmp_path / "one", packages=[packages], library=library, limits=SMALL)
    two = gather(tmp_path / "two", packages=[packages], library=library, limits=SMALL)
    names = [path.relative_to(tmp_path / "one") for path in (*one.pool, one.aim, one.held_out)]
    assert len(names) == 8
    for name in names:
        data = (tmp_path / "one" / name).read_bytes()
        assert data == (tmp_path / "two" / name).read_bytes()
        assert str(tmp_path).encode() not in data

    (packages / "pump/notes.md").unlink()
    again = gather(tmp_path / "two", packages=[packages], library=library, limits=SMALL)
    assert sorted((tmp_path / "two/pool").iterdir()) == sorted(again.pool)
    assert len(again.pool) == len(two.pool) - 1


def test_packages_share_what_is_read(tmp_path: Path, library: Path) -> None:
    root = tmp_path / "packages"
    for number in range(50):
        write(root, f"large/part{number:02}.py", module(f"part{number:02}"))
    write(root, "small/one.py", module("one"))
    size = (root / "large/part00.py").stat().st_size
    limits = Limits(min_chars=20, read_bytes=10 * size)
    records = pool(gather(tmp_path / "out", packages=[root], library=library, limits=limits))

    assert "small/one.py" in records
    taken = sorted(name for name in records if name.startswith("large/"))
    assert len(taken) == 9
    assert taken != [f"large/part{number:02}.py" for number in range(9)]  # drawn, not the first


def test_long_files_are_divided_at_docstrings_and_between_lines(
    tmp_path: Path, library: Path
) -> None:
    root = tmp_path / "packages"
    write(root, "long.py", "".join(module(f"w{number}") for number in range(1, 9)))
    lines = [f"line {number} of a docstring that goes on and on" for number in range(40)]
    body = "\n".join(lines)
    write(root, "essay.py", f'"""{body}"""\n')
    write(root, "readme.txt", "\n\n".join(lines))
    limits = Limits(min_chars=20, document_chars=400)
    records = pool(gather(tmp_path / "out", packages=[root], library=library, limits=limits))

    assert all(len(record["text"]) <= 400 for record in records.values())
    titles = [name.partition(":")[2] for name in records if name.startswith("long.py:")]
    assert "long.py" in records and len(titles) > 2
    for title in titles:  # a document is called after the docstring that it begins with
        assert records[f"long.py:{title}"]["text"].startswith(f"def {title}(path, *, size=1):")
    for name in ("essay.py", "readme.txt"):
        parts = [record["text"] for key, record in records.items() if key.split("#")[0] == name]
        assert len(parts) > 1
        assert "\n".join(parts).replace("\n\n", "\n") == body


def test_nothing_to_read_is_bad_input(tmp_path: Path, library: Path, packages: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="expected installed packages with documentation"):
        gather(tmp_path / "out", packages=[empty], library=library)
    with pytest.raises(InputError, match="expected the standard library's modules"):
        gather(tmp_path / "out", packages=[packages], library=empty)
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.slow
def test_this_python(tmp_path: Path) -> None:
    limits = Limits(read_bytes=3_000_000, aim_bytes=200_000, held_out_bytes=100_000)
    found = gather(tmp_path, limits=limits)

    aim, held_out = examples(found.aim), examples(found.held_out)
    assert 150_000 < found.aim_count.bytes <= 200_000
    assert 80_000 < found.held_out_count.bytes <= 100_000
    assert found.pool_count.bytes > 300_000
    assert found.packages > 20

    def modules(half: dict[str, str]) -> set[str]:
        return {name.split(":")[0].split("/")[0] for name in half}

    assert not modules(aim) & modules(held_out)
    assert len(modules(aim)) > 20 and len(modules(held_out)) > 20
    lines = telling(list(held_out.values()))
    assert not lines & telling(list(aim.values()))
    records = pool(found)
    assert not lines & telling([record["text"] for record in records.values()])
    library = Path(sysconfig.get_paths()["stdlib"])
    for half in (aim, held_out):
        for name in half:
            assert (library / name.split(":")[0].split("#")[0]).is_file()
    assert not any(Path(name).is_absolute() for name in [*records, *aim, *held_out])


def test_the_command_begins_with_its_time_and_ends_with_the_verdict_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "report.html"
    compared = SimpleNamespace(
        judged=["a", "b"],
        conclusion="verdict on {}".format,
        files=[tmp_path / "plot.png", page],
        selected_arm="arm selected, seed 1",
        selected=SimpleNamespace(shards=SimpleNamespace(path=tmp_path / "shards")),
        summary=dict,
    )
    monkeypatch.setattr(gathering, "prepare", lambda directory, progress: tmp_path / "r.yaml")
    monkeypatch.setattr(penstock, "compare", lambda *_, **__: compared)
    for name in ("curated", "compared", "excerpts"):
        monkeypatch.setattr(Console, name, lambda *_: None)
    done = CliRunner().invoke(main, ["demo", "--directory", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert DURATION in done.stderr.splitlines()[0]
    *_, first, second, _, last = done.stdout.splitlines()
    assert (first, second) == ("verdict on a", "verdict on b")
    assert last.strip() == str(page)
