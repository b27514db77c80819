"""`penstock rm --unused`, and the journal by which `penstock ls` names recipes and dates."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

import penstock
from penstock.artefact import Artefact, Workspace
from penstock.artefact.journal import DIRECTORY, read_journal
from penstock.errors import InputError, LeaseError
from penstock.jobs.cli import main
from penstock.jobs.listing import list_artefacts
from penstock.jobs.unused import find_unused, remove_unused
from penstock.lease import Lease
from penstock.storage import AnyPath
from tests.harness import ROOT
from tests.pools import documents, write_jsonl

RECIPE = """\
work: WORK
corpus: [{path: pool.jsonl}]
select: {length: {use: "scorer:score"}, other: {use: "scorer:other"}}
budget: {tokens: 1_000, rank: RANK}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
"""

pytestmark = pytest.mark.slow


def project(here: Path, work: object = "work") -> tuple[Path, Path]:
    """Two recipes of one pool that rank by other columns, both curated; `b` is the later one."""
    write_jsonl(here / "pool.jsonl", documents(150))
    (here / "scorer.py").write_text(
        "def score(texts):\n    return [len(t) for t in texts]\n\n\n"
        "def other(texts):\n    return [-len(t) for t in texts]\n"
    )
    for name, rank in (("a", "length"), ("b", "other")):
        text = RECIPE.replace("WORK", str(work)).replace("RANK", rank)
        (here / f"{name}.yaml").write_text(text)
        penstock.curate(here / f"{name}.yaml", runner="local", workers=1)
    return here / "a.yaml", here / "b.yaml"


def stages(found: object) -> list[str]:
    return sorted(one.name.partition("/")[0] for one in found.unused)  # type: ignore[attr-defined]


def test_what_the_recipes_reach_stays(root: AnyPath, tmp_path: Path) -> None:
    place = root / "work"
    a, b = project(tmp_path, place)
    before = {row["path"] for row in list_artefacts(str(place))}
    kept = penstock.open(a)
    found = find_unused([a])
    assert stages(found) == ["columns", "cut", "model", "shards"]
    assert found.kept == len(before) - 4
    assert {one.recipes for one in found.unused} == {(str(b),)}
    assert {row["path"] for row in list_artefacts(str(place))} == before  # only listed
    assert find_unused([a, b]).unused == []

    removed = remove_unused([a])
    assert [one.name for one in removed.unused] == [one.name for one in found.unused]
    after = {row["path"] for row in list_artefacts(str(place))}
    assert before - after == {str(one.path) for one in found.unused}
    assert all(row["state"] == "finished" for row in list_artefacts(str(place)))
    assert penstock.open(a).shards.digest == kept.shards.digest
    again = penstock.curate(b, runner="local", workers=1)
    assert again.cut.facts["delivered"] == 992


OTHER = "budget.rank=other"


def test_what_runs_with_set_used_stays(tmp_path: Path) -> None:
    """`rm` deleted it: the file of the recipe does not reach it."""
    a, b = project(tmp_path)
    b.unlink()
    made = penstock.curate(a, settings=[OTHER], runner="local", workers=1)
    found = find_unused([a])
    assert found.unused == []
    (run,) = found.kept_by_settings
    assert (run.recipe, run.settings, run.artefacts) == (str(a), (OTHER,), 4)
    assert run.bytes > made.shards.files[0].bytes
    assert found.summary(deleted=False)["kept_by_settings"][0]["settings"] == (OTHER,)
    assert any(OTHER in note for note in found.notes)

    named = find_unused([a], [OTHER])
    assert (named.unused, named.kept_by_settings) == ([], [])
    for others in ((), ["budget.tokens=900"]):
        assert stages(find_unused([a], others)) == ["columns", "cut", "model", "shards"]
    assert any("budget.tokens=900" in note for note in find_unused([a], others).notes)

    command = ["rm", "--unused", str(a), "--json"]
    assert CliRunner().invoke(main, [*command, "--set", OTHER, "--no-sets"]).exit_code == 2
    kept = CliRunner().invoke(main, [*command, "--yes"])
    assert json.loads(kept.stdout.splitlines()[-1])["unused"] == [] and "--no-sets" in kept.stderr
    done = CliRunner().invoke(main, [*command, "--no-sets", "--yes"])
    assert len(json.loads(done.stdout.splitlines()[-1])["unused"]) == 4
    assert not Path(str(made.shards.path)).exists()
    assert find_unused([a]).kept_by_settings == []


def test_the_command_lists_first_and_deletes_with_yes(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    listed = CliRunner().invoke(main, ["rm", "--unused", str(a), "--json"])
    assert listed.exit_code == 0, listed.output
    found = json.loads(listed.stdout.splitlines()[-1])
    assert not found["deleted"]
    assert found["bytes"] == sum(one["bytes"] for one in found["unused"]) > 0
    assert all(Path(one["path"]).is_dir() for one in found["unused"])
    done = CliRunner().invoke(main, ["rm", "--unused", str(a), "--yes", "--json"])
    assert done.exit_code == 0, done.output
    assert not any(Path(one["path"]).exists() for one in found["unused"])
    assert CliRunner().invoke(main, ["rm", str(a)]).exit_code == 2


def test_a_driver_at_work_is_respected(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    lease = Lease(tmp_path / "work")
    lease.hold()
    try:
        assert any("at work" in note for note in find_unused([a]).notes)
        with pytest.raises(LeaseError):
            remove_unused([a])
        assert len(find_unused([a]).unused) == 4
    finally:
        lease.release()


def test_links_are_neither_followed_nor_deleted(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    one = next(one for one in find_unused([a]).unused if one.name.startswith("shards/"))
    elsewhere = tmp_path / "elsewhere"
    Path(str(one.path)).rename(elsewhere)
    Path(str(one.path)).symlink_to(elsewhere)
    found = remove_unused([a])
    assert stages(found) == ["columns", "cut", "model"]
    assert any(str(one.path) in note for note in found.notes)
    assert (elsewhere / "manifest.json").is_file()
    assert Path(str(one.path)).is_symlink()


def test_a_recipe_of_which_nothing_is_made_is_an_error(tmp_path: Path) -> None:
    a, b = project(tmp_path)
    write_jsonl(tmp_path / "pool.jsonl", documents(151))
    for remove in (find_unused, remove_unused):
        with pytest.raises(InputError) as raised:
            remove([a])
        assert raised.value.file == str(a)
    assert len(list_artefacts(str(tmp_path / "work"))) > 8
    assert b.exists()


def test_unfinished_and_unreadable_artefacts(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    work = tmp_path / "work"
    (work / "cut" / ("0" * 16) / "records").mkdir(parents=True)
    broken = next(one for one in find_unused([a]).unused if one.name.startswith("cut/")
                  and one.state == "finished")  # fmt: skip
    (Path(str(broken.path)) / "manifest.json").write_text("{")
    found = remove_unused([a])
    assert "cut/" + "0" * 16 in [one.name for one in found.unused]
    assert Path(str(broken.path)).is_dir()
    assert any(str(broken.path) in note for note in found.notes)


def test_the_journal_names_recipes_and_dates_outside_fingerprints(tmp_path: Path) -> None:
    a, b = project(tmp_path)
    work = tmp_path / "work"
    names = {own.fingerprint for own in Workspace(work).artefacts()}
    rows = {f"{row['stage']}/{row['fingerprint'][:16]}": row for row in list_artefacts(str(work))}
    corpus = next(row for row in rows.values() if row["stage"] == "corpus")
    for row in rows.values():
        files = [own for own in Path(row["path"]).rglob("*") if own.is_file()]
        assert row["bytes"] == sum(own.stat().st_size for own in files)
    assert corpus["recipes"] == [str(b), str(a)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", corpus["last_used"])
    columns = {row["name"]: row["recipes"] for row in rows.values() if row["stage"] == "columns"}
    assert columns == {"select.length": [str(a)], "select.other": [str(b)]}
    for file in (work / DIRECTORY).iterdir():
        file.unlink()
    assert all(row["recipes"] == [] for row in list_artefacts(str(work)))
    penstock.curate(a, runner="local", workers=1)
    assert {own.fingerprint for own in Workspace(work).artefacts()} == names
    assert {use.recipe for use in read_journal(work)} == {str(a)}


def test_ls_of_a_recipe_lists_what_it_used(tmp_path: Path) -> None:
    a, b = project(tmp_path)
    found = {row["name"] for row in list_artefacts(str(a))}
    assert "select.length" in found and "select.other" not in found
    assert {row["path"] for row in list_artefacts(str(a))} == {
        row["path"] for row in list_artefacts(str(tmp_path / "work")) if str(a) in row["recipes"]
    }
    other = tmp_path / "c.yaml"
    other.write_text(b.read_text())
    with pytest.raises(InputError) as raised:
        list_artefacts(str(other))
    assert raised.value.file == str(other)
    assert raised.value.fix and str(tmp_path / "work") in raised.value.fix
    other.write_text(b.read_text().replace("work: work", "work: nowhere"))
    with pytest.raises(InputError) as raised:
        list_artefacts(str(other))
    assert raised.value.fix and "nowhere" not in raised.value.fix


@pytest.mark.parametrize("width", [40, 80, 200])
def test_ls_fits_the_terminal(tmp_path: Path, width: int) -> None:
    """At 80 columns the last ones were cut off."""
    project(tmp_path)
    rows = list_artefacts(str(tmp_path / "work"))
    code = "from penstock.jobs.cli import main; main()"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"}
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    command = [sys.executable, "-c", code, "ls", str(tmp_path / "work")]
    with subprocess.Popen(command, env=env, stdin=slave, stdout=slave, stderr=slave):
        os.close(slave)
        sent = b""
        while True:
            try:
                sent += os.read(master, 65536)
            except OSError:  # ended
                break
    os.close(master)
    text = re.sub(r"\x1b\[\d*m", "", sent.decode())
    assert max(map(len, text.splitlines())) <= width
    words = re.sub(r"\s+", " ", text)
    for row in rows:
        assert row["fingerprint"][:16] in words and row["last_used"][:19] in words
    assert len(rows) == words.count("finished")


def test_a_journal_of_strangers_is_data(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    work = tmp_path / "work"
    name = f"corpus/{next((work / 'corpus').iterdir()).name}"
    (work / DIRECTORY / "x.json").write_text(
        json.dumps({"recipe": "\x1b[2Jrecipe", "artefacts": {name: ["2999", "2999"]}})
    )
    for number, content in enumerate(("{", "[]", '{"recipe": 3, "artefacts": {}}', '"' * 9)):
        (work / DIRECTORY / f"y{number}.json").write_text(content)
    done = CliRunner().invoke(main, ["ls", str(work)])
    assert done.exit_code == 0, done.output
    assert "\x1b[2J" not in done.output
    assert find_unused([a]).kept > 0


def test_a_damaged_journal_ends_no_work(tmp_path: Path) -> None:
    a, _ = project(tmp_path)
    work = tmp_path / "work"
    for file in (work / DIRECTORY).iterdir():
        file.unlink()
    (work / DIRECTORY).rmdir()
    (work / DIRECTORY).write_text("a file")
    made = penstock.curate(a, runner="local", workers=1)
    assert isinstance(made.shards, Artefact)
    assert read_journal(work) == []
