"""Files that are sent to a cluster, and files that are not."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from penstock.errors import RecipeError, SelectorError
from penstock.jobs import staging as module
from penstock.jobs.staging import stage
from penstock.recipe_file import load_recipe


def _staged(project: Path, tmp_path: Path, *settings: str) -> tuple[module.Staged, dict[str, Any]]:
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    staged = stage(project / "recipe.yaml", directory, settings)
    return staged, dict(yaml.safe_load((directory / "recipe.yaml").read_text()))


def test_every_path_becomes_absolute_and_names_stay(project: Path, tmp_path: Path) -> None:
    _, tree = _staged(project, tmp_path)
    assert tree["work"] == f"{project}/out"
    assert [source["path"] for source in tree["corpus"]] == [
        f"{project}/pool/web-*.jsonl",
        f"hf:{project}/saved",
        "hf:allenai/c4",
        "/data/elsewhere.parquet",
        "s3://bucket/pool.parquet",
    ]
    assert tree["select"]["betr"]["target"] == [f"{project}/targets/arc.jsonl", "/data/piqa.jsonl"]
    assert tree["evaluate"] == [f"{project}/targets/arc.eval.jsonl"]
    assert tree["tokenizer"] == f"{project}/tokenizer.json"
    assert tree["train"]["model"] == {"hf": f"{project}/model"}


def test_the_arms_of_a_comparison_become_absolute_too(project: Path, tmp_path: Path) -> None:
    _, tree = _staged(project, tmp_path)
    assert tree["compare"]["arms"]["random"] == {"budget": {"rank": "random"}}
    assert tree["compare"]["arms"]["other"] == {
        "work": f"{project}/other",
        "corpus": {"path": f"{project}/pool/books.jsonl"},
        "select": {
            "theirs": {
                "use": "helpers.deep.scorers:score",
                "target": [f"{project}/targets/arc.jsonl"],
            }
        },
        "train": {"model": {"hf": f"{project}/model"}},
        "evaluate": [f"{project}/targets/more.eval.jsonl"],
    }


def test_the_staged_recipe_means_the_same_anywhere(project: Path, tmp_path: Path) -> None:
    staged, _ = _staged(project, tmp_path, "budget.tokens=77")
    there = load_recipe(staged.directory / "recipe.yaml")
    here = load_recipe(project / "recipe.yaml", ["budget.tokens=77"])
    assert there.budget.tokens == 77
    moved = {"work", "corpus", "select", "tokenizer", "train", "evaluate", "compare", "directory"}
    for name in set(type(here).model_fields) - moved:
        assert getattr(there, name) == getattr(here, name), name
    assert there.work_directory == here.work_directory
    assert there.select["mine"].parameters == {"power": 2}
    for ours, theirs in zip(here.corpus, there.corpus, strict=True):
        if "://" not in ours.path and not ours.path.startswith("hf:"):
            assert there.resolve(theirs.path) == here.resolve(ours.path)
        assert ours.model_copy(update={"path": theirs.path}) == theirs


@pytest.mark.parametrize("name", ["gpt2", "org/name"])
def test_a_name_on_the_hub_is_no_path(project: Path, tmp_path: Path, name: str) -> None:
    _, tree = _staged(project, tmp_path, f"tokenizer={name}", f"train.model.hf={name}")
    assert (tree["tokenizer"], tree["train"]["model"]["hf"]) == (name, name)


def test_only_the_recipe_and_the_scorers_travel(project: Path, tmp_path: Path) -> None:
    for left_behind in (".gitignore", ".secrets/key", "__pycache__/x.pyc", "old.pyc"):
        path = project / "helpers" / left_behind
        path.parent.mkdir(exist_ok=True)
        path.write_text("*\n")
    staged, _ = _staged(project, tmp_path)
    assert staged.files == (
        "helpers/__init__.py",
        "helpers/deep/__init__.py",
        "helpers/deep/scorers.py",
        "helpers/words.txt",
        "my_scorer.py",
        "recipe.yaml",
    )
    assert staged.notes == (
        "helpers/.gitignore: left behind (hidden)",
        "helpers/.secrets/key: left behind (hidden)",
    )
    assert staged.sizes == tuple((staged.directory / name).stat().st_size for name in staged.files)


def test_secrets_and_links_that_lead_outside_stay_here(project: Path, tmp_path: Path) -> None:
    """A scorer's package with keys beside its code, and with links to the user's own files."""
    package = project / "helpers"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("hunter2")
    (outside / "data.csv").write_text("hunter2")
    names = [
        *("credentials.json", "aws-credentials", "secrets.yaml", "prod.env", "server.key"),
        *("cert.PEM", "id_rsa", "id_ed25519.old", "service-account-7.json", "api_key.txt"),
        *("client_secret_12.apps.json", "my_token", "deep/passwords.csv"),
        *("secrets/db.txt", "deep/credentials/a/b.bin", "prod.key/x"),
    ]
    for name in names:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("hunter2")
    (package / "project-12.json").write_text('{"type": "x", "private_key": "hunter2"}')
    (package / "notes.txt").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2")
    (package / "linked.txt").symlink_to(outside / "data.csv")
    (package / "up.py").symlink_to(outside / "secret.txt")
    os.mkfifo(package / "pipe")
    (package / "keys.py").write_text("KEY = 1")
    (package / "tokenizer.json").write_text("{}")
    (package / "alias.txt").symlink_to("words.txt")
    staged, _ = _staged(project, tmp_path)
    left = {line.partition(":")[0] for line in staged.notes if "left behind" in line}
    others = ("project-12.json", "notes.txt", "linked.txt", "up.py", "pipe")
    assert left == {f"helpers/{name}" for name in (*names, *others)}
    assert not left & {*staged.files}
    assert {"helpers/keys.py", "helpers/tokenizer.json", "helpers/alias.txt"} <= {*staged.files}
    sent = [(staged.directory / name).read_bytes() for name in staged.files]
    assert not any(b"hunter2" in content for content in sent)


def test_modules_that_a_scorer_imports_travel_with_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beside it, in a package beside it, on PYTHONPATH; also of a function of clean.rules."""
    (project / "my_scorer.py").write_text(
        "import numpy as np\nfrom staged_helper import one\n"
        "def score(texts):\n    import staged_package.deep\n    return np.ones(len(texts))\n"
    )
    (project / "staged_helper.py").write_text("import staged_library\none = 1\n")
    (project / "staged_package").mkdir()
    (project / "staged_package/__init__.py").touch()
    (project / "staged_package/deep.py").write_text("from . import words\n")
    (project / "staged_package/words.py").touch()
    (project / "staged_package/words.txt").write_text("beside the code\n")
    (project / "staged_unrelated.py").touch()
    (project / "my_rules.py").write_text("import staged_rule_helper\ndef drop(texts): ...\n")
    (project / "staged_rule_helper.py").touch()
    (tmp_path / "src").mkdir()
    (tmp_path / "src/staged_library.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "src")
    staged, _ = _staged(project, tmp_path, 'clean.rules={"mine": {"use": "my_rules:drop"}}')
    assert {name for name in staged.files if not name.startswith("helpers/")} == {
        "my_rules.py", "my_scorer.py", "recipe.yaml", "staged_helper.py", "staged_library.py",
        "staged_package/__init__.py", "staged_package/deep.py", "staged_package/words.py",
        "staged_package/words.txt", "staged_rule_helper.py",
    }  # fmt: skip
    assert [note for note in staged.notes if f"numpy {np.__version__}" in note]


def test_an_imported_module_that_all_users_may_write_to_is_not_copied(
    project: Path, tmp_path: Path
) -> None:
    (project / "my_scorer.py").write_text("import staged_helper\ndef score(texts): ...\n")
    (project / "staged_helper.py").touch()
    (project / "staged_helper.py").chmod(0o666)
    with pytest.raises(SelectorError) as info:
        _staged(project, tmp_path)
    assert (info.value.key, info.value.file) == ("use", str(project / "staged_helper.py"))


def test_a_scorer_that_is_a_link_to_another_file_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2")
    (project / "my_scorer.py").unlink()
    (project / "my_scorer.py").symlink_to(tmp_path / "key")
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path)
    assert (info.value.file, info.value.got) == (str(project / "my_scorer.py"), f"{tmp_path}/key")


def test_a_reweighter_of_the_users_is_copied(project: Path, tmp_path: Path) -> None:
    (project / "weigh.py").write_text("def reweight(losses):\n    return losses\n")
    staged, _ = _staged(project, tmp_path, "train.reweight={use: weigh:reweight}")
    assert "weigh.py" in staged.files
    built_in, _ = _staged(project, tmp_path, "train.reweight={use: loss}")
    assert "weigh.py" not in built_in.files


def test_the_run_of_a_selector_is_a_path_where_it_is_one(project: Path, tmp_path: Path) -> None:
    (project / "out" / "run" / "abc").mkdir(parents=True)
    settings = ["select.hard.use=document-loss", "select.hard.run=out/run/abc"]
    _, tree = _staged(project, tmp_path, *settings)
    assert tree["select"]["hard"]["run"] == f"{project}/out/run/abc"


@pytest.mark.parametrize("given", ["base.yaml@last", "0123456789abcdef@4"])
def test_a_recipe_to_continue_from_is_a_path_and_a_name_is_none(
    project: Path, tmp_path: Path, given: str
) -> None:
    (project / "base.yaml").write_text("seed: 1\n")
    run, _, step = given.partition("@")
    meant = f"{project}/{run}" if run == "base.yaml" else run
    staged, tree = _staged(project, tmp_path, f"train.continue_from={given}")
    assert tree["train"]["continue_from"] == f"{meant}@{step}"
    assert (("train.continue_from", meant) in staged.opened) == meant.startswith("/")


def test_a_scorer_in_the_current_directory_is_copied(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(project / "my_scorer.py", project / "elsewhere")
    staged, _ = _staged(project, tmp_path)
    assert "my_scorer.py" in staged.files


def test_a_scorer_that_this_python_finds_elsewhere_is_copied(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is installed editable, or on PYTHONPATH: the cluster cannot have it."""
    (tmp_path / "src").mkdir()
    shutil.move(project / "my_scorer.py", tmp_path / "src")
    monkeypatch.syspath_prepend(tmp_path / "src")
    staged, _ = _staged(project, tmp_path)
    assert "my_scorer.py" in staged.files


def test_a_module_of_the_current_directory_comes_after_that_of_the_path(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack: a directory of others as the current one, with a module of the same name."""
    (tmp_path / "src").mkdir()
    shutil.move(project / "my_scorer.py", tmp_path / "src")
    monkeypatch.syspath_prepend(tmp_path / "src")
    (Path.cwd() / "my_scorer.py").write_text("hostile = 1\n")
    directory = tmp_path / "staged"
    directory.mkdir()
    stage(project / "recipe.yaml", directory)
    own = (tmp_path / "src" / "my_scorer.py").read_bytes()
    assert (directory / "my_scorer.py").read_bytes() == own


@pytest.mark.parametrize("where", ["current directory", "recipe's directory"])
def test_a_module_that_all_users_may_write_to_is_not_copied(
    where: str, project: Path, tmp_path: Path
) -> None:
    """The attack: another user changes it before it is sent to the cluster."""
    if where == "current directory":
        shutil.move(project / "my_scorer.py", Path.cwd())
    file = (Path.cwd() if where == "current directory" else project) / "my_scorer.py"
    file.chmod(0o666)
    with pytest.raises(SelectorError) as info:
        _staged(project, tmp_path)
    assert (info.value.key, info.value.file) == ("use", str(file))
    file.chmod(0o600)
    assert "my_scorer.py" in _staged(project, tmp_path)[0].files


@pytest.mark.parametrize("use", ["betr", "penstock.selectors.base:score", "numpy:mean", "math:exp"])
def test_code_that_the_cluster_has_is_not_copied(project: Path, tmp_path: Path, use: str) -> None:
    settings = (f"select.mine.use={use}", f"compare.arms.other.select.theirs.use={use}")
    staged, _ = _staged(project, tmp_path, *settings)
    assert staged.files == ("recipe.yaml",)


def test_a_local_copy_of_an_installed_module_is_named_and_not_copied(
    project: Path, tmp_path: Path
) -> None:
    (project / "yaml.py").write_text("def score(texts): ...\n")
    staged, _ = _staged(project, tmp_path, "select.mine.use=yaml:score")
    assert "yaml.py" not in staged.files
    assert any(progress.startswith("yaml: installed here") for progress in staged.notes)


@pytest.mark.parametrize("name", ["selectors", "random", "types"])
def test_a_scorer_that_would_shadow_the_standard_library_is_refused(
    project: Path, tmp_path: Path, name: str
) -> None:
    (project / f"{name}.py").write_text("def score(texts): ...\n")
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path, f"select.mine.use={name}:score")
    assert (info.value.key, info.value.file) == ("use", f"{name}.py")


@pytest.mark.parametrize("use", ["nowhere:score", "helpers.shallow:score", "pool:score"])
def test_a_scorer_that_is_not_there_is_refused(project: Path, tmp_path: Path, use: str) -> None:
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path, f"select.mine.use={use}")
    assert (info.value.key, info.value.got) == ("use", use)
    assert str(project) in info.value.problem


@pytest.mark.parametrize("use", ["../pool:score", "a b:score", ":score", "helpers/deep:score"])
def test_a_use_that_is_no_module_is_refused(project: Path, tmp_path: Path, use: str) -> None:
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path, f"select.mine.use={use}")
    assert (info.value.expected, info.value.got) == ("package.module:function", use)


def test_more_than_the_server_takes_is_refused_before_it_is_copied(
    project: Path, tmp_path: Path
) -> None:
    with open(project / "helpers/weights.bin", "wb") as sink:
        sink.truncate(module._MAX_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path)
    assert info.value.file == str(project / "helpers/weights.bin")
    assert "100 MiB" in info.value.problem


def test_a_link_to_a_directory_in_a_package_is_refused(project: Path, tmp_path: Path) -> None:
    (project / "helpers/data").symlink_to(project / "pool")
    with pytest.raises(RecipeError) as info:
        _staged(project, tmp_path)
    assert info.value.file == str(project / "helpers/data")


def test_a_parameter_that_looks_like_a_file_is_pointed_out(project: Path, tmp_path: Path) -> None:
    staged, _ = _staged(project, tmp_path, "select.betr.model=pool/web-1.jsonl")
    (note,) = staged.notes
    assert note.startswith("select.betr.model: pool/web-1.jsonl is not copied")


def test_declared_paths_of_classes_become_absolute(project: Path, tmp_path: Path) -> None:
    """A class of one's own, a base in its module, and a selector of Penstock's; a name stays."""
    (project / "weighing.py").write_text(
        "class Base:\n    paths: tuple = ('model', 'tables')\n\n"
        "class Weighing(Base):\n    def score(self, documents): ...\n"
    )
    (project / "model/weights.json").touch()
    lin = '{use: "weighing:Weighing", model: model/weights.json, tables: [model, no/such.bin]}'
    staged, tree = _staged(
        project, tmp_path, f"select.lin={lin}", "select.fluent={use: perplexity, model: ./model}"
    )
    assert tree["select"]["lin"]["model"] == f"{project}/model/weights.json"
    assert tree["select"]["lin"]["tables"] == ["model", "no/such.bin"]
    assert tree["select"]["fluent"]["model"] == f"{project}/model"
    opened = dict(staged.opened)
    assert opened["select.lin.model"] == f"{project}/model/weights.json"
    assert opened["work"] == f"{project}/out"
    assert opened["corpus.4.path"] == "s3://bucket/pool.parquet"
    assert opened["compare.arms.other.corpus.path"] == f"{project}/pool/books.jsonl"
    assert "corpus.2.path" not in opened  # a name of the hub


def test_a_module_that_reads_files_beside_it_is_pointed_out(project: Path, tmp_path: Path) -> None:
    (project / "my_scorer.py").write_text(
        "from pathlib import Path\n\nTABLE = Path(__file__).with_name('table.json')\n\n"
        "def score(texts):\n    return [1.0] * len(texts)\n"
    )
    (note,) = _staged(project, tmp_path)[0].notes
    assert note.startswith("my_scorer.py ") and "__file__" in note


def test_the_digest_names_what_is_copied(project: Path, tmp_path: Path) -> None:
    first = _staged(project, tmp_path)[0].digest
    os.utime(project / "my_scorer.py", (1, 1))
    assert _staged(project, tmp_path)[0].digest == first
    assert _staged(project, tmp_path, "seed=4")[0].digest != first
    (project / "my_scorer.py").write_text("def score(texts):\n    return []\n")
    assert _staged(project, tmp_path)[0].digest != first


def test_a_work_directory_in_an_object_store_stays_what_it_is(
    project: Path, tmp_path: Path
) -> None:
    _, tree = _staged(project, tmp_path, "work=s3://bucket/work")
    assert tree["work"] == "s3://bucket/work"
