"""What the pages say is run: the tutorial whole, other commands and recipes are parsed."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from penstock.errors import RecipeError
from penstock.jobs.cli import main
from penstock.recipe_file import parse_recipe
from penstock.selectors.registry import available
from tests.documented import ROOT, Reader, blocks, commands, pages
from tests.pools import write_jsonl


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    reader = Reader()
    reader.read("docs/tutorial.md")
    ran = {line.split()[1] for line in reader.ran if line.startswith("penstock ")}
    assert ran >= {"init", "check", "clean", "curate", "why", "export", "report"}
    assert len(reader.known["frame"]) == 355
    for path in ("dataset/data", "lines/data", "dataset/README.md", "work/report"):
        assert (tmp_path / path).exists()


INLINE = re.compile(r"(?<!`)`(penstock [^`\n]+)`(?!`)")
COMMENT = re.compile(r"^\s*#?\s*(penstock .+)$")


def parsed(line: str, whole: bool) -> None:
    """Parse a command line by the real CLI, without running it.

    Args:
        line: The line, of which a comment and what follows two spaces are no part.
        whole: Whether a missing argument is an error.
    """
    line = line.replace("FORMAT", "parquet")
    line = re.split(r"\s{2,}", line.split(" #")[0])[0].replace("[", "").replace("]", "")
    _, *arguments = shlex.split(line)
    if arguments in (["COMMAND", "--help"], []):
        return
    name, command, rest = main.resolve_command(click.Context(main), arguments)
    assert command is not None
    try:
        command.make_context(name, rest)
    except click.MissingParameter:
        if whole:
            raise


def written_commands() -> Iterator[tuple[str, str, bool]]:
    """Yield (place, line, whether it is whole) of each command in pages and examples."""
    for page in pages():
        for block in blocks(page):
            if block.language in ("", "console", "sh"):
                for line in commands(block):
                    if line.startswith("penstock "):
                        yield str(block), line, True
        for line in [] if page == "CHANGELOG.md" else INLINE.findall((ROOT / page).read_text()):
            yield page, line, False
    for path in [*ROOT.glob("examples/*.*"), ROOT / "Makefile", ROOT / "ray_cluster.yaml"]:
        for line in path.read_text().splitlines():
            if found := COMMENT.match(line):
                yield path.name, found[1], True


def test_every_command_is_one_that_the_command_line_takes() -> None:
    found = list(written_commands())
    assert len(found) > 80 and len({line.split()[1] for _, line, _ in found}) > 12
    wrong = []
    for place, line, whole in found:
        try:
            parsed(line, whole)
        except (click.ClickException, ValueError) as error:
            wrong.append(f"{place}: {line}: {error}")
    assert wrong == []
    with pytest.raises(click.NoSuchOption):
        parsed("penstock curate recipe.yaml --rescor mine", True)
    with pytest.raises(click.UsageError):
        parsed("penstock curat recipe.yaml", True)


def merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merged(below.get(key), value) for key, value in above.items()}
    return above


def test_every_yaml_block_is_a_recipe_or_a_part_of_one() -> None:
    count = 0
    for page in pages():
        for block in blocks(page):
            if block.language != "yaml":
                continue
            tree = yaml.safe_load(block.text)
            if {"apiVersion", "cluster_name"} & tree.keys():
                continue
            whole = merged(
                {"corpus": [{"path": "x"}], "budget": {"tokens": 10, "rank": "random"}}, tree
            )
            rank = whole["budget"]["rank"]
            for name in {rank} if isinstance(rank, str) else rank:
                if name != "random":
                    whole.setdefault("select", {}).setdefault(name, {"use": "mine:score"})
            try:
                parse_recipe(whole, ROOT)
            except RecipeError as error:
                raise AssertionError(f"{block}: {error}") from error
            count += 1
    assert count > 5


WORDS = [
    "the", "river", "and", "gate", "that", "have", "to", "be", "with", "a", "wheel", "of",
    "water", "because", "it", "turns", "slowly", "on", "every", "morning", "when", "people",
    "open", "doors", "in", "small", "houses", "near", "an", "old", "mill", "by", "green",
    "fields",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    """Make texts of sentences that the rules of prose keep."""
    chosen = random.Random(1).choice
    return [
        " ".join(" ".join(chosen(WORDS) for _ in range(15)) + "." for _ in range(6 + n % 9))
        for n in range(count)
    ]


SMALL = [
    *("--set", "train.model={layers: 1, width: 32, heads: 2}", "--set", "train.batch_tokens=1024"),
    *("--set", "compare.seeds=[1, 2]", "--set", "compare.baseline_multiples=[1]"),
    *("--set", "train.tokens=2048", "--set", "shards.sequence_length=64"),
    *("--set", "train.backend=torch"),
]
"""Settings of a training of seconds, for a command whose own takes minutes."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_files").mkdir()
    (tmp_path / "targets").mkdir()
    texts = random_texts(150)
    (tmp_path / "my_files" / "a.md").write_text(f"# Water mills\n\nA water mill. {texts[0]}")
    rows = [{"id": f"d{n}", "source": "web", "text": text} for n, text in enumerate(texts)]
    write_jsonl(tmp_path / "my_files" / "b.jsonl", rows)
    for name, count in (("questions", 300), ("held_out", 5)):
        lines = [
            {"question": f"{name} {n}?", "answer": "a mill by the water"} for n in range(count)
        ]
        write_jsonl(tmp_path / "targets" / f"{name}.jsonl", lines)
    reader = Reader(smaller={"penstock compare": SMALL})
    reader.read("README.md")
    ran = {line.split()[1] for line in reader.ran}
    assert ran >= {"init", "check", "curate", "export", "why", "report", "clean", "diff", "compare"}
    for path in ("recipe.yaml", "dataset/data", "work/shards", "work/report"):
        assert (tmp_path / path).exists()
    # Two arms of two seeds, each with its own run.
    assert len(list((tmp_path / "work" / "run").glob("*/model/model.safetensors"))) == 4


GOALS = sorted((ROOT / "examples" / "goals").glob("*.yaml"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with the pool and the targets that the recipes of goals name."""
    here = tmp_path_factory.mktemp("goals")
    (here / "pool").mkdir()
    (here / "targets").mkdir()
    texts = random_texts(120)
    rows = [{"id": f"d{n}", "source": "web", "text": text} for n, text in enumerate(texts)]
    write_jsonl(here / "pool" / "a.jsonl", rows)
    for name, count in (("questions", 5), ("held_out", 3)):
        lines = [{"question": f"{name} {n}?", "answer": f"because of {n}"} for n in range(count)]
        write_jsonl(here / "targets" / f"{name}.jsonl", lines)
    for name in ("domain", "good"):
        write_jsonl(here / "targets" / f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(5)])
    grades = [{"text": rows[n]["text"], "label": n % 6} for n in range(60)]
    write_jsonl(here / "targets" / "grades.jsonl", grades)
    for path in GOALS:
        shutil.copy(path, here)
    return here


@pytest.mark.parametrize("name", [path.name for path in GOALS])
def test_the_recipe_of_each_goal_passes_a_check(name: str, tiny: Path) -> None:
    done = CliRunner().invoke(main, ["check", str(tiny / name), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])["findings"]
    assert {one["kind"] for one in found} <= {"few_steps", "large_document"}, found
    page = (ROOT / "docs" / "which-selector.md").read_text()
    assert f"(../examples/goals/{name})" in page


def test_each_selector_has_its_line_in_the_table_of_goals() -> None:
    page = (ROOT / "docs" / "which-selector.md").read_text()
    table = page[page.index("## Cost and gain") :]
    for one in available():
        if one.kind == "selector" and one.name not in ("mean_of", "document-loss", "fasttext"):
            assert f"| `{one.name}`" in table, one.name


def test_the_gains_of_the_table_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    page = (ROOT / "docs" / "which-selector.md").read_text()
    count = 0
    for line in page[page.index("## Cost and gain") :].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith("| `") and (gain := re.search(r"[+-]0\.\d{3} ± 0\.\d{3}", cells[-2])):
            named = re.findall("`([a-z0-9-]+)`", cells[1].split(" on ")[0])
            arm = f"| {' + '.join(named)} |"
            row = next(one for one in results.splitlines() if one.startswith(arm))
            assert row.split("|")[4].replace("*", "").strip().startswith(gain[0]), line
            assert ("n. d." in cells[-2]) == ("**" not in row.split("|")[4]), line
            count += 1
    assert count > 12


def test_the_messages_of_the_troubleshooting_page_are_real() -> None:
    golden = (ROOT / "tests" / "golden" / "messages.txt").read_text()
    messages = [line.split(": ", 2)[2].replace('\\"', '"') for line in golden.splitlines()]
    messages = [message.replace("\\\\", "\\") for message in messages]
    count = 0
    for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines():
        first = line.split(" | ")[0]
        if not (quoted := re.fullmatch(r"\| `(.+)`", first)):
            continue
        parts = quoted[1].split("…")
        pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
        assert any(map(pattern.search, messages)), first
        count += 1
    assert count > 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_numbers_of_the_page_on_budgets_are_those_of_real_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader()
    reader.read("docs/budgets.md")
    assert set(reader.known) >= {"top", "half", "pool", "mixed", "chances", "drawn"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_on_code_of_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader()
    reader.read("docs/plugins.md", until="## When your code changes")
    ran = {line.split()[1] for line in reader.ran}
    assert ran >= {"selectors", "score", "curate", "clean"}
    assert reader.known["scores"].shape == (64,)


def test_the_arithmetic_of_100_million_documents(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {}
    for block in blocks("docs/cluster-100m.md"):
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), known)
    assert known["core_seconds"] > 0 and sum(known["disk"].values()) > 0
