"""`penstock init`: the recipe that it writes runs as it is, and nothing is overwritten.

Where it cannot run, the exit status says so.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from click.testing import CliRunner

import penstock
from penstock import extras
from penstock.errors import BadInput, InputError
from penstock.jobs.checking.guessing import guess
from penstock.jobs.checking.init import init_recipe
from penstock.jobs.cli import main
from penstock.recipe_file import load_recipe
from tests.pools import documents, write_jsonl


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Markdown, JSON lines, zstd and Parquet with other fields each."""
    folder = tmp_path / "my files"
    (folder / "notes").mkdir(parents=True)
    rows = documents(160)
    for number, row in enumerate(rows[:20]):
        (folder / "notes" / f"{number}.md").write_text(f"# Note {number}\n\n{row['text']}\n")
    write_jsonl(folder / "a.jsonl", rows[20:70])
    lines = [
        json.dumps({"content": row["text"], "uid": row["id"], "license": "cc-by-4.0"})
        for row in rows[70:120]
    ]
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    table = [
        {"body": row["text"], "url": f"http://x/{row['id']}", "domain": row["source"]}
        for row in rows[120:]
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / "c.parquet")
    (folder / "LICENSE").write_text("MIT License\n")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_items_have_the_fields_of_their_files(mixed: Path) -> None:
    done = CliRunner().invoke(main, ["init", "my files", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["findings"] == []
    recipe = load_recipe(Path("recipe.yaml"))
    items = {spec.path: spec for spec in recipe.corpus}
    assert set(items) == {
        "my files/**/*.md", "my files/**/*.jsonl", "my files/**/*.jsonl.zst",
        "my files/**/*.parquet",
    }  # fmt: skip
    packed, table = items["my files/**/*.jsonl.zst"], items["my files/**/*.parquet"]
    assert (packed.text, packed.id) == ("content", "uid")
    assert (table.text, table.id, table.source) == ("body", "url", "domain")
    written = Path("recipe.yaml").read_text()
    assert "cc-by-4.0" in written
    assert "MIT License" in written


def test_files_that_are_not_read_are_counted_by_ending(mixed: Path) -> None:
    for name in ("notes/a.rst", "b.rst", "c.pdf"):
        (mixed / name).write_text("not read\n")
    done = CliRunner().invoke(main, ["init", "my files", "--json"])
    assert done.exit_code == 0, done.output
    line = "left out, files of other kinds: 4 (2 .rst, 1 .pdf, 1 without ending)"
    assert line in json.loads(done.stdout.splitlines()[-1])["notes"]


@pytest.mark.slow
def test_curate_runs_what_init_wrote(mixed: Path) -> None:
    assert CliRunner().invoke(main, ["init", "my files"]).exit_code == 0
    made = penstock.curate("recipe.yaml", runner="local", workers=1)
    assert made.pool.documents["read"] == 160
    assert made.pool.documents["quarantined"] == 0
    assert made.cut.facts["delivered"] > 0


@pytest.mark.slow
def test_only_the_rules_that_drop_most_of_the_sample_are_off(tmp_path: Path) -> None:
    """Texts without the words that `gopher` asks for: the whole set was a comment."""
    write_jsonl(tmp_path / "a.jsonl", documents(60))
    made = init_recipe([str(tmp_path / "a.jsonl")], tmp_path / "r.yaml")
    assert made.checked.recipe.clean.rules == {"gopher": {"min_stop_words": None}}
    judged = made.checked.judged
    assert judged is not None and judged.kept_share >= 0.3
    (line,) = [line for line in made.text.splitlines() if "min_stop_words" in line]
    assert re.search(r"\d+%", line)
    rows = [{"text": f"stone river bridge number {n} " * 20} for n in range(60)]
    write_jsonl(tmp_path / "b.jsonl", rows)
    others = init_recipe([str(tmp_path / "b.jsonl")], tmp_path / "b.yaml").checked
    assert not others.errors and others.judged is not None and others.judged.kept_share == 1
    assert isinstance(others.recipe.clean.rules, dict)
    off = others.recipe.clean.rules["gopher"]
    assert off is not None and "max_duplicate_10_grams" in off and "min_words" not in off


@pytest.mark.slow
def test_a_target_ranks_what_init_wrote(mixed: Path) -> None:
    write_jsonl(Path("target.jsonl"), [{"text": f"stone bridge {n}"} for n in range(30)])
    arguments = ["init", "my files", "--target", "target.jsonl", "--tokens", "2_000"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    made = penstock.curate("recipe.yaml", runner="local", workers=1)
    assert set(made.columns) == {"target"}
    assert made.cut.facts["requested"] == 2_000
    assert made.recipe.select["target"].parameters == {"per_ngram": True}  # sums follow length


@pytest.mark.parametrize(
    ("questions", "texts", "documents_in", "use"),
    [
        (91, 0, 200, "dclm"),
        (91, 90, 200, "dclm"),
        (90, 91, 200, "dsir"),
        (90, 0, 200, "dsir"),
        (91, 0, 150, "dsir"),
    ],
)
def test_questions_are_selected_for_by_dclm_where_there_are_enough(
    questions: int, texts: int, documents_in: int, use: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", documents(documents_in))
    examples = [{"question": f"What turns {n}?", "answer": f"Wheel {n}."} for n in range(questions)]
    examples += [{"text": f"stone bridge {n}"} for n in range(texts)]
    write_jsonl(tmp_path / "target.jsonl", examples)
    made = init_recipe(
        [str(tmp_path / "a.jsonl")], tmp_path / "r.yaml", target=[str(tmp_path / "target.jsonl")]
    )
    assert made.checked.recipe.select["target"].use == use
    assert not made.checked.errors
    reasons = [line for line in made.text.splitlines() if line.startswith("  # dclm")]
    assert len(reasons) == (use == "dsir" and questions > texts)
    for reason in reasons:
        assert str(documents_in if questions >= 91 else questions) in reason


@pytest.mark.slow
def test_what_init_writes_for_questions_runs(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", documents(400))
    examples = [
        {"question": f"Which photon has the spectrum {n}?", "answer": f"The quantum {n * 7}."}
        for n in range(120)
    ]
    write_jsonl(tmp_path / "target.jsonl", examples)
    init_recipe(
        [str(tmp_path / "a.jsonl")], tmp_path / "r.yaml", target=[str(tmp_path / "target.jsonl")]
    )
    made = penstock.curate(tmp_path / "r.yaml", runner="local", workers=1)
    assert made.recipe.select["target"].use == "dclm"
    assert set(made.columns) == {"target"} and made.cut.facts["documents"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_is_overwritten(mixed: Path, kind: str) -> None:
    out = Path("recipe.yaml")
    if kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to("elsewhere.yaml")
    done = CliRunner().invoke(main, ["init", "my files"])
    assert done.exit_code == 2
    assert out.is_symlink() or out.read_text() == "mine"
    assert not Path("elsewhere.yaml").exists()


def test_one_kind_of_file_is_one_item(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(3):
        write_jsonl(tmp_path / "pool" / f"{number}.jsonl", documents(40, seed=number))
    made = init_recipe([str(tmp_path / "pool")], tmp_path / "r.yaml")
    (spec,) = made.checked.recipe.corpus
    assert (spec.path, spec.source) == ("pool", "source")
    assert "penstock curate r.yaml " in made.text and "RECIPE" not in made.text


def test_a_file_with_other_fields_is_an_item_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(3):
        write_jsonl(tmp_path / "pool" / f"{number}.jsonl", documents(40, seed=number))
    odd = [{"content": row["text"], "id": row["id"]} for row in documents(40, seed=9)]
    write_jsonl(tmp_path / "pool" / "odd.jsonl", odd)
    made = init_recipe([str(tmp_path / "pool")], tmp_path / "r.yaml")
    assert {spec.path: spec.text for spec in made.checked.recipe.corpus} == {
        "pool": "text",
        "pool/odd.jsonl": "content",
    }
    assert made.checked.errors == []


def test_a_field_is_given_or_asked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"t": f"short {n}", "u": n} for n in range(40)])
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(InputError) as raised:
        init_recipe([path], tmp_path / "r.yaml")
    assert raised.value.fix == "give --text FIELD"
    with pytest.raises(InputError):
        init_recipe([path], tmp_path / "r.yaml", text="tt")
    made = init_recipe([path], tmp_path / "r.yaml", text="t")
    assert made.checked.recipe.corpus[0].text == "t"
    asked = []

    def ask(question: str, default: str) -> str:
        asked.append(question)
        return "t" if "field of the text" in question else default

    other = init_recipe([path], tmp_path / "other.yaml", ask=ask)
    assert other.checked.recipe.corpus[0].text == "t"
    assert len(asked) == 2


def test_names_of_strangers_stay_data(tmp_path: Path) -> None:
    hostile = "x: [\n#\x1b[2J'\""
    rows = [{"text": row["text"], hostile: "a\nwork: /etc", "license": "b\nseed: 9"}
            for row in documents(40)]  # fmt: skip
    write_jsonl(tmp_path / "a'b: c.jsonl", rows)
    (tmp_path / "LICENSE").write_text("\x1b[2J\nseed: 5\n")
    made = init_recipe([str(tmp_path / "a'b: c.jsonl")], tmp_path / "r.yaml", source=hostile)
    assert "\x1b" not in made.text
    tree = yaml.safe_load(made.text)
    assert tree["corpus"][0]["path"] == "a'b: c.jsonl"
    assert tree["corpus"][0]["source"] == hostile
    assert (tree["seed"], tree["work"]) == (17, "work")


@pytest.mark.parametrize(
    ("records", "roles"),
    [
        (
            [{"content": "a b", "url": "u1"}, {"content": "c", "url": "u2"}],
            ("content", "url", None),
        ),
        ([{"x": "long " * 20, "n": 1}], ("x", None, None)),
        ([{"Text": "a", "id": 1, "dataset": "d"}] * 2, ("Text", None, "dataset")),
    ],
)
def test_guesses(records: list[dict[str, object]], roles: tuple[str | None, ...]) -> None:
    assert guess(records).roles == roles


@pytest.mark.parametrize("option", ["--target", "--evaluate"])
@pytest.mark.parametrize("name", ["gone.jsonl", "gone-*.jsonl", "my files"])
def test_a_missing_file_of_examples_is_an_error_before_anything_is_written(
    mixed: Path, option: str, name: str
) -> None:
    done = CliRunner().invoke(main, ["init", "my files", option, name])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"penstock: {option}: ")
    assert not Path("recipe.yaml").exists()


def test_a_recipe_with_errors_is_written_and_not_recommended(mixed: Path) -> None:
    (mixed / "damaged.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 900)[:-20])
    done = CliRunner().invoke(main, ["init", "my files", "--json"])
    assert done.exit_code == 2, done.output
    found = json.loads(done.stdout.splitlines()[-1])["findings"]
    (finding,) = [one for one in found if one["level"] == "error"]
    last = done.stderr.splitlines()[-1]
    assert finding["kind"] == "unreadable"
    assert Path("recipe.yaml").exists()
    assert "curate" not in last and last.startswith("1 error ")


def test_files_whose_extra_is_not_installed_are_an_item_in_comments(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "web", ("no_such_module",))
    (mixed / "page.html").write_text("<p>A page.</p>")
    made = init_recipe(["my files"], Path("r.yaml"))
    paths = [item.path for item in made.checked.recipe.corpus]
    assert "my files/**/*.md" in paths and "my files/**/*.html" not in paths
    commented = [line for line in made.text.splitlines() if "*.html" in line]
    assert commented[0].lstrip().startswith("# - path: my files/**/*.html")
    assert "pip install 'penstock[web]'" in made.text
    assert any("penstock[web]" in note for note in made.notes)
    # The commented lines are an item, with the marks taken away.
    lines = [line.replace("  # ", "  ", 1).replace("#   not", "# not") for line in
             made.text.splitlines() if "*.html" in line or "#   source" in line]  # fmt: skip
    assert yaml.safe_load("\n".join(lines)) == [
        {"path": "my files/**/*.html", "source": {"name": "my files-html"}}
    ]
    with pytest.raises(BadInput) as caught:
        init_recipe([str(mixed / "page.html")], Path("other.yaml"))
    assert caught.value.fix == "pip install 'penstock[web]'"
    assert not Path("other.yaml").exists()


def test_a_number_of_tokens_is_no_text(mixed: Path) -> None:
    for tokens, written in (("200000", 200_000), ("2_000", 2_000), ("5%", "5%"), ("20M", "20M")):
        made = init_recipe(["my files"], Path(f"{tokens}.yaml"), tokens=tokens)
        assert yaml.safe_load(made.text)["budget"]["tokens"] == written
        assert f"tokens: {tokens}\n" in made.text


def test_the_fields_that_were_found_look_like_no_key(mixed: Path) -> None:
    text = init_recipe(["my files"], Path("r.yaml")).text
    keys = [line for line in text.splitlines() if line.strip().startswith("# fields:")]
    assert keys and all("# fields: {" in line for line in keys)


@pytest.mark.slow
def test_an_interrupt_at_a_question_has_the_status_of_an_interrupt(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock", "init"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"[.]" not in shown:  # the question with its default
        shown += os.read(ours, 1024)
    for _ in range(9):  # one that comes before the question is read is noticed with the next
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)  # one that comes while Python ends kills it
            break
    assert process.returncode == 130
    os.close(ours)
