"""Input files of odd names and in odd places, from the recipe to what commands print."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from penstock.jobs.cli import main

RECIPE = """\
corpus: [{items}]
clean: {{dedup: {{exact: false}}}}
budget: {{tokens: 100_000, rank: random, allow_short: true}}
tokenizer: {{train: {{vocab_size: 320}}}}
shards: {{sequence_length: 16}}
"""


def lines(*names: str, **fields: Any) -> bytes:
    text = "Plain words about rivers, bread and the weather in town"
    rows = [{"id": name, "text": f"{text} {name}.", **fields} for name in names]
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def project(directory: Path, *items: str, **files: bytes) -> Path:
    """Write a recipe; names of files are those of the keywords, ``/`` written as ``__``."""
    for name, data in files.items():
        path = directory / f"{name.replace('__', '/')}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    written = ", ".join(item if "{" in item else f"{{path: '{item}'}}" for item in items)
    (directory / "recipe.yaml").write_text(RECIPE.format(items=written))
    return directory / "recipe.yaml"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--runner", "local", "--workers", "1"])


def curate(recipe: Path) -> dict[str, Any]:
    done = run("curate", recipe, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def quarantine(made: dict[str, Any]) -> list[dict[str, Any]]:
    files = Path(made["cut"]).parents[1].glob("corpus/*/quarantine-*")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_name_that_is_not_utf8_survives_wherever_it_is_written(tmp_path: Path) -> None:
    recipe = project(tmp_path, "data", data__b=lines("b1", "b2"))
    odd = tmp_path / "data" / os.fsdecode(b"caf\xe9.jsonl")
    odd.write_bytes(b"not json\n" + lines("odd"))
    made = curate(recipe)
    assert made["documents"]["kept"] == 3
    assert [bad["file"] for bad in quarantine(made)] == ["data/caf\\xe9.jsonl"]
    assert curate(recipe)["digest"] == made["digest"]
    why = run("why", recipe, "odd", "--json")
    (fate,) = json.loads(why.stdout.splitlines()[-1])["fates"]
    assert fate["file"] == f"{tmp_path}/data/caf\\xe9.jsonl"
    assert "caf\\xe9.jsonl" in run("why", recipe, "odd").stdout
    odd.write_bytes(b"")
    odd.with_suffix(".parquet").write_bytes(b"PAR1")
    failed = run("curate", recipe)
    assert failed.exit_code == 2
    assert "caf\\xe9.parquet" in failed.stderr


def test_the_second_run_reads_what_the_first_read(tmp_path: Path) -> None:
    recipe = project(tmp_path, ".", a=lines("1", "2"), sub__b=lines("3"))
    first, second = curate(recipe), curate(recipe)
    assert first["documents"]["read"] == second["documents"]["read"] == 3
    assert first["digest"] == second["digest"]
    assert "work directories of Penstock: 1 (work)" in run("curate", recipe).stderr


def test_a_file_in_several_items_is_read_once(tmp_path: Path) -> None:
    literal = "{path: 'link/a.jsonl', source: {name: linked}}"
    recipe = project(tmp_path, "data", "./data/../data/a.jsonl", literal, data__a=lines("1", "2"))
    (tmp_path / "link").symlink_to("data")
    made = curate(recipe)
    assert made["documents"]["read"] == 2
    said = run("curate", recipe).stderr
    assert "read once: 1 (data/a.jsonl)" in said
    assert "with other keys: 1 (data/a.jsonl is read as corpus.1 says, not as corpus.2)" in said


def test_files_of_one_name_are_apart_in_the_quarantine(tmp_path: Path) -> None:
    bad = lines("1") + b"broken\n"
    made = curate(project(tmp_path, "a/p.jsonl", "b/p.jsonl", a__p=bad, b__p=bad))
    assert sorted(one["file"] for one in quarantine(made)) == ["a/p.jsonl", "b/p.jsonl"]


def test_partitions_are_sources_and_what_is_left_out_is_in_the_manifest(tmp_path: Path) -> None:
    recipe = project(
        tmp_path, "d", d__source_wiki__a=lines("1"), d___tmp__b=lines("2"), d__c=lines("3")
    )
    (tmp_path / "d" / "source_wiki").rename(tmp_path / "d" / "source=wiki")
    (tmp_path / "d" / "x.xz").write_bytes(b"")
    made = curate(recipe)
    assert {name: own["documents"] for name, own in made["by_source"].items()} == {
        "wiki": 1,
        "unknown": 1,
    }
    (manifest,) = Path(made["cut"]).parents[1].glob("corpus/*/manifest.json")
    facts = json.loads(manifest.read_text())["facts"]
    assert facts["left_out"] == {"hidden": 1, "other_kinds": {".xz": 1}}


def test_many_sources_are_listed_in_part_and_too_many_are_refused(tmp_path: Path) -> None:
    own = b"".join(lines(str(n), site=f"http://h/{n}") for n in range(250))
    recipe = project(tmp_path, "{path: 'x.jsonl', source: site}", x=own)
    made = curate(recipe)
    assert len(made["by_source"]) == 101
    assert made["by_source"]["150 other sources"]["documents"] == 150
    assert sum(one["tokens"] for one in made["by_source"].values()) == made["tokens"]["delivered"]
    table = [line for line in run("curate", recipe).stdout.splitlines() if "http://h/" in line]
    assert len(table) == 20
    assert "230 other sources" in run("curate", recipe).stdout
    more = b"".join(lines(str(n), site=f"http://h/{n}") for n in range(1001))
    (tmp_path / "x.jsonl").write_bytes(more)
    refused = run("curate", recipe)
    assert refused.exit_code == 2
    for part in ("corpus.source: ", "x.jsonl", "at most 1,000 sources", "'site'", "meta"):
        assert part in refused.stderr


def test_evaluation_files_may_have_any_name_and_must_be_there(tmp_path: Path) -> None:
    other = b"".join(lines(f"o{n}").replace(b"rivers", b"r%d rivers" % n) for n in range(4))
    recipe = project(tmp_path, "a.jsonl", a=lines("1") + other)
    recipe.write_text(f"{recipe.read_text()}evaluate: ['t/*.jsonl']\n")
    odd = tmp_path / "t" / os.fsdecode(b"caf\xe9.jsonl")
    odd.parent.mkdir()
    example = {"text": "Plain words about rivers, bread and the weather in town 1."}
    odd.write_text(f"{json.dumps(example)}\n")
    made = curate(recipe)
    assert made["documents"]["dropped_by"] == {"overlap": 1}
    (fate,) = json.loads(run("why", recipe, "1", "--json").stdout.splitlines()[-1])["fates"]
    assert [own["file"] for own in fate["overlaps"]] == ["caf\\xe9.jsonl"]
    (tmp_path / "t" / "gone.jsonl").symlink_to("nothing")
    failed = run("curate", recipe)
    assert failed.exit_code == 2
    assert "evaluate: " in failed.stderr and "gone.jsonl" in failed.stderr
