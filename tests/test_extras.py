"""Without the optional libraries: the engine works, and an error names the extra to install."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import extras
from penstock.errors import BadInput
from tests.pools import documents, write_jsonl

ROOT = Path(__file__).resolve().parents[1]

MODULES = {
    "datasets": "datasets",
    "deepspeed": "deepspeed",
    "duckdb": "duckdb",
    "faiss-cpu": "faiss",
    "gigatoken": "gigatoken",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "py3langid": "py3langid",
    "ray": "ray",
    "s3fs": "s3fs",
    "botocore": "botocore",
    "brotli": "brotli",
    "resiliparse": "resiliparse",
    "trafilatura": "trafilatura",
    "sentence-transformers": "sentence_transformers",
    "starlette": "starlette",
    "tensorboard": "tensorboard",
    "torch": "torch",
    "transformers": "transformers",
    "uvicorn": "uvicorn",
}
"""The module that each package of an extra installs."""

WITHOUT = f"""\
import sys
refused = {sorted(MODULES.values())!r}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""
"""Goes into ``sitecustomize.py``, so that worker processes have it, too."""

RECIPE = """\
work: out
corpus: [{path: pool.jsonl}]
select:
  length: {use: "lengths:score"}
  near: {use: dsir, target: [target.jsonl], sample: 100}
budget: {tokens: 2_000, rank: {length: 0.5, near: 0.5}}
tokenizer: {train: {vocab_size: 384}}
shards: {sequence_length: 32}
evaluate: [held_out.jsonl]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("engine")
    write_jsonl(here / "pool.jsonl", documents(150))
    for name in ("target", "held_out"):
        write_jsonl(here / f"{name}.jsonl", [{"text": f"the {name} of the turbine"}])
    (here / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (here / "recipe.yaml").write_text(RECIPE)
    (here / "page.html").write_text("<p>text")
    (here / "saved").mkdir()
    (here / "saved" / "dataset_info.json").write_text("{}")
    (here / "without").mkdir()
    (here / "without" / "sitecustomize.py").write_text(WITHOUT)
    return here


def penstock(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that cannot import any module of an extra."""
    path = os.pathsep.join([str(project / "without"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
def test_the_engine_curates_without_any_extra(project: Path) -> None:
    done = penstock(
        project, "curate", "recipe.yaml", "--runner", "local", "--workers", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert '"delivered": 1984' in done.stdout
    done = penstock(project, "report", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    done = penstock(project, "selectors")
    assert done.returncode == 0, done.stderr
    assert "cannot be imported" not in done.stdout and "fineweb-edu" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["browse"], "browse"),
        (["train"], "train"),
        (["compare"], "train"),
        (["curate", "--runner", "ray"], "ray"),
        (["curate", "--set", "corpus=[{path: 'hf:saved'}]"], "hf"),
        (["curate", "--set", "work=s3://bucket/work"], "s3"),
        (["curate", "--set", "corpus=[{path: page.html}]"], "web"),
        (["curate", "--set", "corpus=[{path: page.html, extract: trafilatura}]"], "web"),
        (["curate", "--set", "select.near.use=betr", "--set", "select.near.sample=null"],
         "encoders"),
        (["curate", "--set", "select.near={use: perplexity, model: some/model}"], "encoders"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line_that_names_it(
    project: Path, arguments: list[str], extra: str
) -> None:
    command, *options = arguments
    done = penstock(project, command, "recipe.yaml", *options)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'penstock[{extra}]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    if extra == "encoders":
        assert done.stderr.splitlines()[-1].startswith(
            "penstock: select.near.use: needs the module"
        )


@pytest.mark.parametrize(
    ("setting", "key", "extra"),
    [
        ("select.near={use: betr, target: target.jsonl}", "select.near.use", "encoders"),
        ("select.near={use: got-d, target: target.jsonl}", "select.near.use", "encoders"),
        ("select.near={use: kmq}", "select.near.use", "encoders"),
        ("select.near={use: semdedup}", "select.near.use", "encoders"),
        ("select.near={use: perplexity, model: some/model}", "select.near.use", "encoders"),
        ("corpus=[{path: 'hf:saved'}]", "corpus.0.path", "hf"),
        ("corpus=[{path: page.html}]", "corpus.path", "web"),
        ("work=s3://bucket/work", "work", "s3"),
        ("clean={where: \"language == 'en'\"}", "clean.where", "language"),
        ("train={model: {layers: 1, width: 32, heads: 2}}", "train", "train"),
    ],
)  # fmt: skip
def test_check_names_the_extra_that_a_part_needs(
    project: Path, setting: str, key: str, extra: str
) -> None:
    """With the words by which `curate` would end; without the extra `train`, `curate` works."""
    done = penstock(project, "check", "recipe.yaml", "--set", setting, "--json")
    found = json.loads(done.stdout.splitlines()[-1])["findings"]
    named = [one for one in found if f"pip install 'penstock[{extra}]'" in one["text"]]
    assert named, (done.stdout, done.stderr)
    assert extra == "s3" or all("needs the module" in one["text"] for one in named)
    assert {one["level"] for one in named} == {"warning" if extra == "train" else "error"}
    assert done.returncode == (0 if extra == "train" else 2)
    if extra in ("encoders", "train"):
        assert {(one["kind"], one["key"]) for one in named} == {("missing_library", key)}


def test_check_finds_nothing_missing_where_nothing_is_needed(project: Path) -> None:
    done = penstock(project, "check", "recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    kinds = {one["kind"] for one in json.loads(done.stdout.splitlines()[-1])["findings"]}
    assert not kinds & {"missing_library", "missing_model"}


def test_a_missing_extra_is_found_before_work_starts(project: Path) -> None:
    work = project / "untouched"
    done = penstock(project, "train", "recipe.yaml", "--set", f"work={work}")
    assert done.returncode == 2 and not work.exists()


def test_extras_are_those_of_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = listed["optional-dependencies"]
    for extra, modules in extras.EXTRAS.items():
        named = {re.split(r"[\[<>=]", package)[0] for package in packages[extra]}
        assert {MODULES[name] for name in named} == set(modules)
    base = {re.split(r"[\[<>=]", package)[0] for package in listed["dependencies"]}
    assert not base & set(MODULES)


def test_other_failed_imports_are_left_as_they_are() -> None:
    with pytest.raises(ModuleNotFoundError), extras.named():
        import penstock_has_no_such_module  # noqa: F401
    with pytest.raises(BadInput) as info:
        extras.require("train", "train", ("penstock_has_no_such_module",))
    assert (info.value.key, info.value.fix) == ("train", "pip install 'penstock[train]'")
