"""A column is deleted with all that was made of it, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import penstock
from penstock.artefact import Artefact, Workspace
from penstock.errors import SelectorError
from penstock.jobs.cli import main
from penstock.jobs.curate import Curated
from tests.pools import documents, write_jsonl

pytestmark = pytest.mark.slow

RECIPE = """
corpus: [{path: pool.jsonl}]
work: work
select:
  x: {use: "rescored:score"}
  same: {use: "rescored:score"}
  mean: {use: mean_of, column: x, by: source}
  other: {use: "rescored:other"}
budget: {tokens: 2000, rank: {x: 1, same: 1, mean: 1, other: 1}}
tokenizer: {train: {vocab_size: 320}}
shards: {sequence_length: 32}
"""

SCORER = """
from pathlib import Path
def score(texts):
    factor = float((Path(__file__).parent / "factor").read_text())
    return [len(text) * factor for text in texts]
def other(texts):
    return [float(len(text)) for text in texts]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rescored.py").write_text(SCORER)
    (tmp_path / "factor").write_text("1")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_jsonl(tmp_path / "pool.jsonl", documents(150))
    return tmp_path


def curate(project: Path, *settings: str, rescore: tuple[str, ...] = ()) -> Curated:
    return penstock.curate(project / "recipe.yaml", settings=settings, workers=1, rescore=rescore)


def all_of(project: Path) -> dict[str, Artefact]:
    return {str(one.path): one for one in Workspace(project / "work").artefacts()}


def test_what_a_column_was_made_into_is_made_again_and_the_rest_is_kept(project: Path) -> None:
    first = curate(project)
    alone = curate(project, "budget.rank=other")
    report = project / "work" / "report" / first.cut.fingerprint[:16]
    kept_report = project / "work" / "report" / alone.cut.fingerprint[:16]
    for directory in (report, kept_report):
        directory.mkdir(parents=True)
        (directory / "comparison.json").write_text("{}")
    before = all_of(project)
    times = {name: (one.path / "manifest.json").stat().st_mtime_ns for name, one in before.items()}
    (project / "factor").write_text("-1")
    unchanged = curate(project)
    assert unchanged.shards.digest == first.shards.digest  # a file that the code opens by itself

    again = curate(project, rescore=("x",))
    assert again.cut.fingerprint == first.cut.fingerprint
    assert again.shards.digest != first.shards.digest
    made = {
        name
        for name, one in all_of(project).items()
        if (one.path / "manifest.json").stat().st_mtime_ns != times.get(name)
        and one.manifest["stage"] != "tokens"  # it grows
    }
    column = {name: str(one.path) for name, one in again.columns.items()}
    model = project / "work" / "model" / first.columns["x"].manifest["inputs"]["model"][:16]
    assert made == {
        str(model), column["x"], column["same"], column["mean"],
        str(again.cut.path), str(again.shards.path),
    }  # fmt: skip
    assert before.keys() == all_of(project).keys()
    assert not report.exists() and kept_report.exists()


def test_parts_are_deleted_before_what_they_were_made_of(project: Path) -> None:
    """So that a run that is killed between two of them leaves none of another column."""
    first = curate(project)
    workspace = Workspace(project / "work")
    model = first.columns["x"].manifest["inputs"]["model"]
    order = [one.manifest["stage"] for one in workspace.made_of({model})]
    assert order == ["shards", "cut", "columns", "columns", "columns", "model"]
    names = [one.fingerprint for one in workspace.made_of({model})]
    mean, x = (first.columns[name].fingerprint for name in ("mean", "x"))
    assert names.index(mean) < names.index(x)


def test_unfinished_columns_that_depend_on_none_of_the_deleted_ones_are_kept(
    project: Path,
) -> None:
    first = curate(project)
    for name in ("x", "same", "other"):
        (first.columns[name].path / "manifest.json").unlink()
    for stage, name in (("columns", "0" * 16), ("cut", "1" * 16), ("corpus", "2" * 16)):
        (project / "work" / stage / name).mkdir()
        shutil.copy(project / "factor", project / "work" / stage / name)
    record = next((first.columns["other"].path).glob("records/*"))
    before = record.stat().st_mtime_ns
    again = curate(project, rescore=("x",))
    assert again.columns["other"].path.exists() and record.stat().st_mtime_ns == before
    assert not (project / "work/columns" / ("0" * 16)).exists()
    assert not (project / "work/cut" / ("1" * 16)).exists()
    assert (project / "work/corpus" / ("2" * 16)).exists()


def test_a_name_that_is_not_scored_is_refused_and_nothing_is_deleted(project: Path) -> None:
    curate(project)
    before = all_of(project).keys()
    with pytest.raises(SelectorError) as caught:
        curate(project, rescore=("othr",))
    assert (caught.value.key, caught.value.fix) == ("--rescore", "did you mean 'other'?")
    assert all_of(project).keys() == before


def test_the_command_takes_several_names(project: Path) -> None:
    command = ["curate", str(project / "recipe.yaml"), "--workers", "1", "--json"]
    assert CliRunner().invoke(main, command).exit_code == 0
    done = CliRunner().invoke(main, [*command, "--rescore", "x", "--rescore", "other"])
    assert done.exit_code == 0
    assert done.output.count("deleting ") == 8


CLEANING = """
from pathlib import Path
import pyarrow as pa
def _factor(): return int((Path(__file__).parent / "factor").read_text())
def drop(texts): return [number % 10 < _factor() for number in range(len(texts))]
class Adds:
    def edit(self, texts): return pa.array([t + " end" * _factor() for t in texts.to_pylist()])
"""


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("clean.rules={own: {use: 'remade:drop'}}", "own"),
        ("clean.rules={own: {use: 'remade:drop'}}", "clean.rules.own"),
        ("rewrite={own: {use: 'remade:Adds', by: none}}", "rewrite.own"),
    ],
)
def test_rules_and_rewriters_are_made_again(project: Path, setting: str, name: str) -> None:
    (project / "remade.py").write_text(CLEANING)
    first = curate(project, setting)
    (project / "factor").write_text("2")
    assert curate(project, setting).shards.digest == first.shards.digest
    again = curate(project, setting, rescore=(name,))
    for made in again.corpus.facts.get("rewrites", {}).values():
        assert made["rewriter"] == "Adds"
    assert again.shards.digest != first.shards.digest
    assert curate(project, setting).shards.digest == again.shards.digest
    shutil.rmtree(project / "work")
    assert curate(project, setting).shards.digest == again.shards.digest
    with pytest.raises(SelectorError) as caught:
        curate(project, setting, rescore=(f"select.{name}",))
    assert caught.value.key == "--rescore"
