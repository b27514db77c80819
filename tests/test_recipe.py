"""A recipe: what it accepts, what it refuses, and in which words."""

from __future__ import annotations

import os
import random
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RecipeError
from penstock.recipe import LiteralSource, ModelFrom, ModelShape, Recipe
from penstock.recipe_file import load_recipe, override, parse_recipe

FULL = """\
seed: 17
work: out
corpus:
  - path: pool/*.jsonl.zst
    source: {name: web}
  - {path: "hf:data", split: test, per: line}
clean: {dedup: {exact: false}, max_document_bytes: 1_000}
select:
  betr: {use: betr, target: [a.jsonl, b.jsonl], ridge: 1e-2}
  spread: {use: "mine:score"}
budget:
  tokens: 20_000_000
  rank: {betr: 0.7, spread: 0.3}
  draw: {gumbel: {temperature: 0.5}}
  shares: {wiki: 0.3}
tokenizer: {train: {vocab_size: 512}}
shards: {sequence_length: 64}
train:
  model: {layers: 2, width: 64, heads: 2}
  lr: 3e-3
  deepspeed: {zero_optimization: {stage: 1}}
evaluate: t/eval.jsonl
compare:
  arms: {random: {budget: {rank: random}}, betr: {budget: {rank: betr}}}
  seeds: [1, 2]
"""


def tree(**changes: Any) -> dict[str, Any]:
    """The smallest recipe, with some keys replaced."""
    return {
        "corpus": [{"path": "pool.jsonl"}],
        "budget": {"tokens": 1000, "rank": "random"},
        **changes,
    }


def refusal(**changes: Any) -> list[str]:
    """The lines in which a recipe is refused, without the file that each of them names."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(tree(**changes), Path("."), file="R")
    lines = str(caught.value).split("\n")
    assert all(": R: " in line for line in lines)
    return [line.replace(": R: ", ": ", 1) for line in lines]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(FULL)
    return path


# -- what is accepted -------------------------------------------------------------------------


def test_a_full_recipe_means_what_it_says(full: Path) -> None:
    recipe = load_recipe(full)
    assert recipe.corpus[0].source == LiteralSource(name="web")
    assert (recipe.corpus[1].source, recipe.corpus[1].split) == ("source", "test")
    assert recipe.select["betr"].target == ("a.jsonl", "b.jsonl")
    assert recipe.select["betr"].parameters == {"ridge": 0.01}
    assert recipe.budget.tokens == 20_000_000
    assert recipe.budget.ranks == {"betr": 0.7, "spread": 0.3}
    assert recipe.budget.temperature is not None and recipe.budget.uniform is None
    assert recipe.train.model == ModelShape(layers=2, width=64, heads=2)
    assert recipe.train.lr == 0.003
    assert recipe.evaluate == ("t/eval.jsonl",)
    assert recipe.directory == full.parent
    assert (recipe.draw_seed, recipe.train_seed) == (17, 17)


def test_to_yaml_loads_back_to_an_equal_recipe(full: Path) -> None:
    recipe = load_recipe(full)
    again = full.with_name("again.yaml")
    again.write_text(recipe.to_yaml())
    assert load_recipe(again) == recipe
    assert "directory" not in yaml.safe_load(recipe.to_yaml())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3e-3", 0.003),
        ("3.0e-3", 0.003),
        ("3E-3", 0.003),
        ("2e+1", 20.0),
        (".003", 0.003),
        ("0.003", 0.003),
        ("1", 1.0),
    ],
)
def test_numbers_as_people_write_them(full: Path, written: str, meant: float) -> None:
    assert load_recipe(full, [f"train.lr={written}"]).train.lr == meant
    assert load_recipe(full, [f"select.betr.x={written}"]).select["betr"].parameters["x"] == meant


@pytest.mark.parametrize(
    ("written", "meant"), [("20_000_000", 20_000_000), ("1e9", 10**9), ("1.5e6", 1_500_000)]
)
def test_token_counts_as_people_write_them(full: Path, written: str, meant: int) -> None:
    tokens = load_recipe(full, [f"budget.tokens={written}"]).budget.tokens
    assert tokens == meant and isinstance(tokens, int)


def test_quoted_text_that_looks_like_a_number_stays_text(full: Path) -> None:
    recipe = load_recipe(full, ["work='1e5'", "select.betr.name='3e-3'"])
    assert recipe.work == "1e5"
    assert recipe.select["betr"].parameters["name"] == "3e-3"


@given(number=st.floats(min_value=1e-12, max_value=1e12))
def test_every_float_survives_yaml(number: float) -> None:
    recipe = parse_recipe(tree(train={"lr": number}), Path("."))
    assert yaml.safe_load(recipe.to_yaml())["train"]["lr"] == number


def test_paths_start_at_the_recipe(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/someone")
    recipe = load_recipe(full)
    assert recipe.resolve("a/b") == full.parent / "a/b"
    assert recipe.resolve("/a/b") == Path("/a/b")
    assert recipe.resolve("~/b") == Path("/home/someone/b")
    assert recipe.work_directory == full.parent / "out"


def test_a_relative_recipe_path_gives_absolute_paths(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(full.parent)
    recipe = load_recipe("recipe.yaml")
    monkeypatch.chdir("/")
    assert recipe.work_directory == full.parent / "out"


def test_seeds_fall_back_to_the_recipe_s_and_zero_is_a_seed() -> None:
    recipe = parse_recipe(tree(seed=5, train={"seed": 0}), Path("."))
    assert (recipe.draw_seed, recipe.train_seed) == (5, 0)
    recipe = parse_recipe(
        tree(seed=5, budget={"tokens": 1, "rank": "random", "seed": 0}), Path(".")
    )
    assert (recipe.draw_seed, recipe.train_seed) == (0, 5)


def test_one_mapping_or_path_may_stand_without_a_list() -> None:
    recipe = parse_recipe(
        tree(corpus={"path": "a"}, evaluate="e", select={"s": {"use": "u", "target": "t"}}),
        Path("."),
    )
    assert [source.path for source in recipe.corpus] == ["a"]
    assert (recipe.evaluate, recipe.select["s"].target) == (("e",), ("t",))


def test_models_are_accepted_where_mappings_are() -> None:
    recipe = Recipe.model_validate(tree(train={"model": ModelFrom(hf="x")}))
    assert recipe.train.model == ModelFrom(hf="x")
    assert parse_recipe(tree(train={"model": {"hf": "x"}}), Path(".")).train.model == ModelFrom(
        hf="x"
    )


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse_recipe(tree(), Path("."))
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


# -- what is refused --------------------------------------------------------------------------

UNKNOWN_KEYS = [
    ({"sede": 1}, "sede", "seed"),
    ({"corpus": [{"path": "a", "txt": "b"}]}, "corpus.0.txt", "text"),
    ({"corpus": [{"path": "a"}, {"pth": "b"}]}, "corpus.1.pth", "path"),
    ({"corpus": [{"path": "a", "source": {"nme": "w"}}]}, "corpus.0.source.nme", "name"),
    ({"clean": {"dedup": {"exct": True}}}, "clean.dedup.exct", "exact"),
    ({"tokenizer": {"train": {"vocab_sze": 3}}}, "tokenizer.train.vocab_sze", "vocab_size"),
    ({"tokenizer": {"trian": {}}}, "tokenizer.trian", "train"),
    ({"shards": {"sequence_lenght": 8}}, "shards.sequence_lenght", "sequence_length"),
    ({"train": {"model": {"layer": 2}}}, "train.model.layer", "layers"),
    ({"train": {"model": {"hff": "x"}}}, "train.model.hff", "hf"),
    ({"train": {"wokers": 2}}, "train.wokers", "workers"),
    ({"train": {"evaluate_evry": 2}}, "train.evaluate_evry", "evaluate_every"),
    ({"train": {"schedule": {"wds": {}}}}, "train.schedule.wds", "wsd"),
    ({"train": {"schedule": {"uba": {"pih": 1}}}}, "train.schedule.uba.pih", "phi"),
    ({"train": {"checkpoint": {"minuts": 2}}}, "train.checkpoint.minuts", "minutes"),
    ({"compare": {"arm": {}}}, "compare.arm", "arms"),
    ({"compare": {"arms": {"random": {"budgt": {}}}}}, "compare.arms.random.budgt", "budget"),
    (
        {"compare": {"arms": {"random": {"budget": {"draw": {"gumbl": 1}}}}}},
        "compare.arms.random.budget.draw.gumbl",
        "gumbel",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {"gumbl": 3}}},
        "budget.draw.gumbl",
        "gumbel",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {"gumbel": {"temprature": 3}}}},
        "budget.draw.gumbel.temprature",
        "temperature",
    ),
]


@pytest.mark.parametrize(("changes", "key", "nearest"), UNKNOWN_KEYS)
def test_an_unknown_key_is_one_line_that_names_the_nearest(
    changes: dict[str, Any], key: str, nearest: str
) -> None:
    assert refusal(**changes) == [f"{key}: unknown key; did you mean {nearest!r}?"]


def test_an_unknown_key_near_nothing_lists_what_there_is() -> None:
    (line,) = refusal(clean={"zzz": 1})
    known = "decontaminate, dedup, language, max_document_bytes, rules, where"
    assert line == f"clean.zzz: unknown key; expected one of {known}"


def test_a_key_of_the_other_shape_is_told_apart_from_an_unknown_one() -> None:
    (line,) = refusal(train={"model": {"hf": "x", "layers": 3}})
    assert line.startswith("train.model.layers: cannot stand beside")


WRONG_VALUES = [
    ({"budget": {"tokens": -5, "rank": "random"}}, "budget.tokens: expected a number greater"),
    ({"budget": {"tokens": "many", "rank": "random"}}, "budget.tokens: expected a number of"),
    ({"budget": {"tokens": 1.5, "rank": "random"}}, "budget.tokens: expected an integer"),
    ({"budget": {"rank": "random"}}, "budget.tokens: missing"),
    ({"budget": None}, "budget: expected a mapping, got None"),
    ({"budget": {"tokens": 1, "rank": ["a"]}}, "budget.rank: expected a string, got ['a']"),
    ({"budget": {"tokens": 1, "rank": {}}}, "budget.rank: expected a name or at least one"),
    (
        {"budget": {"tokens": 1, "rank": {"random": 0}}},
        "budget.rank: expected a positive weight for 'random'",
    ),
    (
        {"budget": {"tokens": 1, "rank": {"random": float("inf")}}},
        "budget.rank.random: expected a finite number",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": "best"}},
        "budget.draw: expected top, or a draw with its parameter, got 'best'",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {"uniform": {"keep": 1.5}}}},
        "budget.draw.uniform.keep: expected a number",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {"uniform": {}}}},
        "budget.draw.uniform: expected one of keep and above",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {}}},
        "budget.draw: expected one of gumbel and uniform",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "draw": {"gumbel": {"temperature": 0}}}},
        "budget.draw.gumbel.temperature: expected a number greater than 0, got 0",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "shares": {"a": 0.7, "b": 0.4}}},
        "budget.shares: expected shares of at most 1 in sum, got 1.1",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "shares": {"a": 1.5}}},
        "budget.shares.a: expected a number less than or equal to 1, got 1.5",
    ),
    (
        {"budget": {"tokens": 1, "rank": "random", "shares": "pol"}},
        "budget.shares: expected 'pool', got 'pol'",
    ),
    ({"seed": "x"}, "seed: expected an integer, got 'x'"),
    ({"corpus": []}, "corpus: expected at least one entry"),
    ({"corpus": ["a"]}, "corpus.0: expected a mapping, got 'a'"),
    ({"corpus": [{"path": "a", "per": "page"}]}, "corpus.0.per: expected 'file' or 'line'"),
    ({"corpus": [{"path": "a", "source": 3}]}, "corpus.0.source: expected a string, got 3"),
    ({"tokenizer": 5}, "tokenizer: expected a string, got 5"),
    (
        {"tokenizer": {"train": {"vocab_size": 3}}},
        "tokenizer.train.vocab_size: expected a number greater than or equal to 320, got 3",
    ),
    ({"train": {"model": 5}}, "train.model: expected a mapping, got 5"),
    ({"train": {"model": {"heads": 3}}}, "train.model: expected a width divisible"),
    (
        {"train": {"schedule": "rx"}},
        "train.schedule: expected 'rex', 'uba', 'cosine', 'linear' or 'wsd', got 'rx'",
    ),
    (
        {"train": {"evaluate_every": 0}, "evaluate": ["a"]},
        "train.evaluate_every: expected a number greater than 0, got 0",
    ),
    (
        {"train": {"evaluate_every": 1000}},
        "train.evaluate_every: expected files under `evaluate`, got none",
    ),
    (
        {"train": {"document_losses": "all"}},
        "train.document_losses: expected a boolean, got 'all'",
    ),
    (
        {"train": {"schedule": {"uba": {"phi": 0}}}},
        "train.schedule.uba.phi: expected a number greater than 0, got 0",
    ),
    (
        {"train": {"schedule": {"uba": {}, "wsd": {}}}},
        "train.schedule: expected one of uba and wsd, with its parameter",
    ),
    ({"train": {"schedule": {}}}, "train.schedule: expected one of uba and wsd"),
    (
        {"train": {"schedule": {"wsd": {"decay": 1.5}}}},
        "train.schedule.wsd.decay: expected a number less than or equal to 1, got 1.5",
    ),
    (
        {"train": {"warmup": 0.9, "schedule": "wsd"}},
        "train.schedule: expected warmup and wsd.decay of at most 1 in sum, got 0.9 and 0.2",
    ),
    (
        {"train": {"lr": 1e-3, "min_lr": 2e-3}},
        "train.min_lr: expected at most lr, 0.001, got 0.002",
    ),
    (
        {"train": {"compile": True, "deepspeed": {"zero_optimization": {"stage": 3}}}},
        "train.deepspeed: zero_optimization.stage: expected 0, 1 or 2 beside train.compile, got 3",
    ),
    ({"train": {"compile": "fast"}}, "train.compile: expected"),
    ({"train": {"activation_checkpointing": 3}}, "train.activation_checkpointing: expected"),
    (
        {"train": {"checkpoint": True}},
        "train.checkpoint: expected minutes, tokens, keep and",
    ),
    (
        {"train": {"checkpoint": "maybe"}},
        "train.checkpoint: expected minutes, tokens, keep and",
    ),
    ({"train": {"batch_tokens": 100}}, "train.batch_tokens: expected at least one sequence of"),
    ({"train": {"checkpoint": {"keep": 0}}}, "train.checkpoint.keep: expected a number greater"),
    ({"train": {"checkpoint": {"minutes": 0}}}, "train.checkpoint.minutes: expected a number"),
    (
        {"train": {"checkpoint": {"minutes": None}}},
        "train.checkpoint: expected minutes, tokens or at; to save none, write `checkpoint: false`",
    ),
    ({"select": {"a": 5}}, "select.a: expected a mapping, got 5"),
    ({"select": {"a": {}}}, "select.a.use: missing"),
    ({"select": {"random": {"use": "x"}}}, "select.random: the name is taken"),
    ({"compare": {"seeds": []}}, "compare.seeds: expected at least one seed"),
    ({"compare": {"seeds": [1, 1]}}, "compare.seeds: expected at least one seed, each once"),
    ({"compare": {"baseline": "x"}}, "compare: expected a baseline of ['random'], got 'x'"),
    ({"compare": {"baseline_multiples": []}}, "compare.baseline_multiples: expected rising"),
    ({"compare": {"baseline_multiples": [1, 1]}}, "compare.baseline_multiples: expected rising"),
    ({"compare": {"arms": {"random": 3}}}, "compare.arms.random: expected a mapping, got 3"),
    (
        {"compare": {"arms": {"random": {"budget": {"rank": "betr"}}}}},
        "compare.arms.random.budget.rank: no column",
    ),
    ({"directory": "/tmp"}, "directory: not a key"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG_VALUES)
def test_a_wrong_value_is_one_line_with_key_expectation_and_value(
    changes: dict[str, Any], line: str
) -> None:
    (found,) = refusal(**changes)
    assert found.startswith(line), found


def test_every_problem_gets_its_line() -> None:
    lines = refusal(sede=1, seed="x", tokenizer={"train": {"vocab_sze": 3}})
    assert sorted(line.partition(":")[0] for line in lines) == [
        "sede",
        "seed",
        "tokenizer.train.vocab_sze",
    ]


def test_a_rank_that_no_selector_has_is_refused_with_the_nearest() -> None:
    (line,) = refusal(select={"betr": {"use": "betr"}}, budget={"tokens": 1, "rank": "beter"})
    assert line == "budget.rank: no column 'beter'; did you mean 'betr'?"
    (line,) = refusal(budget={"tokens": 1, "rank": {"random": 1, "spread": 1}})
    assert line == "budget.rank: no column 'spread'; expected one of random"


def test_keys_that_are_not_text_are_refused() -> None:
    with pytest.raises(RecipeError) as info:
        parse_recipe({**tree(), 1: 2}, Path("."))  # type: ignore[dict-item]
    assert (info.value.key, info.value.expected) == ("1", "a string as key")


@pytest.mark.parametrize(
    ("work", "meant"),
    [
        ("s3://bucket/x", "s3://bucket/x"),
        ("S3://bucket/x", "s3://bucket/x"),
        ("file:///tmp/x", "/tmp/x"),
        ("x/../y", "/recipes/y"),
        ("/x", "/x"),
    ],
)
def test_work_is_a_directory_or_a_uri(work: str, meant: str) -> None:
    recipe = parse_recipe(tree(work=work), Path("/recipes"))
    assert str(recipe.work_directory) == meant


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"work": "s3:/bucket/x"}, "work"),
        ({"corpus": [{"path": "s3:/bucket/x"}]}, "corpus.0.path"),
        ({"select": {"a": {"use": "betr", "target": ["s3:/bucket/x"]}}}, "select.a.target.0"),
        ({"evaluate": "s3:/bucket/x"}, "evaluate.0"),
        ({"tokenizer": "s3:/bucket/x"}, "tokenizer"),
    ],
)
def test_a_uri_that_is_half_written_is_refused(changes: dict[str, Any], key: str) -> None:
    (line,) = refusal(**changes)
    assert line == (
        f"{key}: expected a path or a URI, got 's3:/bucket/x'; did you mean 's3://bucket/x'?"
    )


def test_a_uri_without_a_bucket_is_refused() -> None:
    assert refusal(work="s3://") == ["work: expected a bucket, as in s3://bucket/work, got 's3://'"]


def test_a_store_that_needs_a_package_is_refused_with_its_name() -> None:
    recipe = parse_recipe(tree(work="gs://bucket/x"), Path("."))
    with pytest.raises(RecipeError) as info:
        _ = recipe.work_directory
    assert (info.value.key, info.value.file) == ("work", "gs://bucket/x")
    assert "gcsfs" in str(info.value.fix)


# -- files that are not recipes ---------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(tmp_path / "none.yaml")
    assert info.value.file == str(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("seed: 1\nbudget:\n  tokens: 1\n  tokens: 2\n", 4, "'tokens' was already given in line 3"),
        ("seed: 1\nwork: a\nseed: 2\n", 3, "'seed' was already given in line 1"),
        ("select:\n  a: {use: x, use: y}\n", 2, "'use' was already given"),
        ("seed: 1\nwork: [\n", 3, "expected the node content"),
        ("seed: 1\n\twork: x\n", 2, "cannot start any token"),
        ("seed: !!python/object/apply:os.getcwd []\n", 1, "could not determine a constructor"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(
    tmp_path: Path, content: str, line: int, problem: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.file == f"{path}:{line}"
    assert problem in caught.value.problem
    assert "\n" not in str(caught.value)


def test_merge_keys_may_repeat_what_they_merge(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "select:\n  a: &a {use: x, p: 1}\n  b: {<<: *a, p: 2}\n"
        "corpus: {path: z}\nbudget: {tokens: 1, rank: b}\n"
    )
    recipe = load_recipe(path)
    assert recipe.select["b"].use == "x"
    assert recipe.select["b"].parameters == {"p": 2}


@pytest.mark.parametrize("content", [b"", b"- a\n", b"text", b"\xff\xfe\x00"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as info:
        load_recipe(path)
    assert (info.value.file or "").removesuffix(":1") == str(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(tmp_path)
    assert (info.value.problem, info.value.file) == ("is a directory", str(tmp_path))


@pytest.mark.parametrize("content", ["", "# to be written\n"])
def test_an_empty_recipe_is_said_to_be_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(RecipeError) as info:
        load_recipe(tmp_path / "r.yaml")
    assert info.value.got == "an empty file"


# -- overrides --------------------------------------------------------------------------------


def test_settings_reach_any_depth_and_are_yaml(full: Path) -> None:
    recipe = load_recipe(
        full,
        [
            "budget.tokens=5_000",
            "train.deepspeed.zero_optimization.stage=2",
            "train.betas=[0.8, 0.9]",
            "budget.draw=top",
            "select.third={use: dsir}",
            "work=a=b",
        ],
    )
    assert recipe.budget.tokens == 5000
    assert recipe.train.deepspeed == {"zero_optimization": {"stage": 2}}
    assert recipe.train.betas == (0.8, 0.9)
    assert recipe.budget.draw == "top"
    assert set(recipe.select) == {"betr", "spread", "third"}
    assert recipe.work == "a=b"


def test_the_last_setting_wins(full: Path) -> None:
    assert load_recipe(full, ["seed=1", "seed=2"]).seed == 2


def test_null_takes_a_key_away(full: Path) -> None:
    recipe = load_recipe(full, ["budget.rank.spread=null", "work="])
    assert recipe.budget.ranks == {"betr": 0.7}
    assert recipe.work == "work"
    with pytest.raises(RecipeError) as info:
        load_recipe(full, ["budget.tokens=null"])
    assert (info.value.key, info.value.problem) == ("budget.tokens", "missing")
    assert info.value.file == str(full)


@pytest.mark.parametrize("setting", ["budget.tokens", "=3", ".seed=3", "budget..tokens=3", ""])
def test_a_setting_without_key_or_value_is_refused(full: Path, setting: str) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(full, [setting])
    assert info.value.key == f"--set {setting}"


@pytest.mark.parametrize("setting", ["seed=[", "select={a: 1, a: 2}", "seed=@"])
def test_a_setting_that_is_not_yaml_is_refused_in_one_line(full: Path, setting: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(full, [setting])
    assert str(caught.value).startswith(f"--set {setting}: the value is not YAML")
    assert (caught.value.expected, caught.value.got) == ("a value in YAML", setting.split("=")[1])
    assert "\n" not in str(caught.value)


def test_the_form_that_the_error_shows_for_quotation_marks_is_read(full: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(full, ['clean.where="en" in language'])
    shown = re.search("--set '(.*)'$", caught.value.fix or "")
    assert shown is not None
    assert load_recipe(full, [shown[1]]).clean.where == 'source == "wiki"'


def test_a_setting_with_an_unknown_key_is_refused(full: Path) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(full, ["budget.token=3"])
    assert (info.value.key, info.value.fix) == ("budget.token", "did you mean 'tokens'?")


@pytest.mark.parametrize("number", [2, 5])
def test_a_setting_of_an_item_that_is_not_there_is_refused(full: Path, number: int) -> None:
    count = len(load_recipe(full).corpus)
    assert count <= 2
    with pytest.raises(RecipeError) as info:
        load_recipe(full, [f"corpus.{number}.path=x"])
    assert (info.value.key, info.value.problem) == ("--set", f"no item {number}")
    assert info.value.expected == f"an item from 0 to {count - 1}"


def test_a_recipe_of_another_encoding_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes("seed: 1\n# caf\u00e9\n".encode("latin-1"))
    with pytest.raises(RecipeError) as info:
        load_recipe(path)
    assert (info.value.file, info.value.got) == (f"{path}:2", "the byte 0xe9")
    assert "iconv" in (info.value.fix or "")


def test_a_date_that_is_meant_as_a_text_is_to_be_quoted(full: Path) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(full, ["work=2020-01-01"])
    assert (info.value.key, info.value.got) == ("work", "the date 2020-01-01")
    assert info.value.fix == "quote it"
    assert load_recipe(full, ["work='2020-01-01'"]).work == "2020-01-01"


@pytest.mark.parametrize("name", ["utf-16", "utf-32-le", "utf-7"])
def test_an_encoding_without_ascii_is_refused_with_the_reason(full: Path, name: str) -> None:
    with pytest.raises(RecipeError) as info:
        load_recipe(full, [f"corpus=[{{path: a.csv, encoding: {name}}}]"])
    assert info.value.key == "corpus.0.encoding"
    assert "ASCII" in info.value.problem and f"iconv -f {name} " in (info.value.fix or "")


_trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner), max_leaves=8
).filter(lambda value: isinstance(value, dict))


@given(base=_trees, changes=_trees)
def test_override_changes_what_is_named_and_nothing_else(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    before = repr((base, changes))
    merged = override(base, changes)
    assert repr((base, changes)) == before

    def check(old: Any, new: Any, result: Any) -> None:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            assert result == new
            return
        assert set(result) == set(old) | set(new)
        for key, value in result.items():
            if key not in new:
                assert value == old[key]
            elif key in old:
                check(old[key], new[key], value)
            else:
                assert value == new[key]

    check(base, changes, merged)


def test_problems_come_in_the_same_order_whatever_the_order_of_keys() -> None:
    changes = {"tokenizer": 5, "seed": "x", "shards": {"sequence_length": 1}}
    keys = list(changes)
    random.Random(1).shuffle(keys)
    assert refusal(**{key: changes[key] for key in keys}) == refusal(**changes)


def test_a_setting_replaces_what_is_there_and_reaches_into_lists(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "corpus: [{path: a}, {path: b}]\nselect: {x: {use: betr}, y: {use: betr}}\n"
        "budget: {tokens: 9, rank: {x: 0.7, y: 0.3}, shares: {wiki: 0.5}}\n"
    )
    recipe = load_recipe(file, ["budget.rank={y: 1}", "budget.shares={}", "corpus.1.path=c"])
    assert recipe.budget.ranks == {"y": 1}
    assert recipe.budget.shares == {}
    assert [source.path for source in recipe.corpus] == ["a", "c"]


def test_an_arm_may_have_the_pools_shares(tmp_path: Path) -> None:
    tree = {"budget": {"tokens": 9, "rank": "random", "shares": {"wiki": 0.5}}}
    own = override(tree, {"budget": {"shares": "pool"}})
    recipe = parse_recipe({"corpus": [{"path": "a"}], **own}, tmp_path)
    assert (recipe.budget.shares, recipe.budget.named_shares) == ("pool", {})
    # The sources of a mixture are known after cleaning.
    mixed = {"corpus": [{"path": "a"}], **own, "train": {"mixture": {"any": 1}}}
    assert parse_recipe(mixed, tmp_path).train.mixture[0].weights == {"any": 1}


def test_an_arms_weights_are_all_its_weights() -> None:
    merged = override(
        {"budget": {"tokens": 9, "rank": {"x": 0.7}, "draw": "top"}}, {"budget": {"rank": {"y": 1}}}
    )
    assert merged == {"budget": {"tokens": 9, "rank": {"y": 1}, "draw": "top"}}


def test_a_mixture_is_of_sources_that_are_packed_apart() -> None:
    budget = {"tokens": 1000, "rank": "random", "shares": {"wiki": 0.5}}
    mixture = [{"weights": {"rest": 1}, "until": 0.5}, {"weights": {"wiki": 1, "rest": 1}}]
    tree = {"corpus": [{"path": "x.txt"}], "budget": budget, "train": {"mixture": mixture}}
    assert len(parse_recipe(tree, Path()).train.mixture) == 2
    tree["train"] = {"mixture": {"wkii": 1}}
    with pytest.raises(RecipeError) as info:
        parse_recipe(tree, Path())
    assert (info.value.key, info.value.got) == ("train.mixture", "'wkii'")
    assert info.value.fix == "did you mean 'wiki'?"
    falling = [{"weights": {"wiki": 1}, "until": share} for share in (0.8, 0.5)]
    for phases, message in (
        (
            [*falling, {"weights": {"wiki": 1}}],
            r"mixture\.1\.until: expected more than 800.*got 0.5",
        ),
        ([{"weights": {"wiki": 1}}, {"weights": {"rest": 1}}], "`until` in every phase but the"),
        ({"wiki": 0}, "weights: expected at least one above 0"),
        ([{"weights": {"wiki": 1}, "until": 10.5}], "whole tokens or a share below 1, got 10.5"),
    ):
        tree["train"] = {"mixture": phases}
        with pytest.raises(RecipeError, match=message):
            parse_recipe(tree, Path())


def _bomb(line: str, end: str) -> str:
    """Return a recipe in which each of 30 values holds three times the one before it."""
    lines = [line.format(n=n, before=n - 1) for n in range(1, 30)]
    return "\n".join(["a0: &a0 {x: [x, x, x]}", *lines, end])


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (_bomb("a{n}: &a{n} [*a{before}, *a{before}, *a{before}]", "corpus: *a29"), 8,
         "aliases stand for more than"),
        (_bomb("a{n}: &a{n} {{<<: [*a{before}, *a{before}, *a{before}]}}", "corpus: *a29"), 8,
         "aliases stand for more than"),
        ("seed: 1\ncorpus: &a [*a]", 2, "inside its own value"),
        ("corpus: &a\n  <<: *a", 2, "inside its own value"),
        ("seed: 1\na: " + 100_000 * "[", 2, "values inside each other"),
        (5_000 * "{a: ", 1, "values inside each other"),
        ("seed: 1\nbudget: {tokens: " + 5_000 * "9" + "}", 2, "an integer of more than 100"),
        ("seed: 0x" + 100_000 * "f", 1, "an integer of more than 100"),
        ("seed: " + ":".join(50_000 * ["59"]), 1, "an integer of more than 100"),
        ("seed: 1\nwork: 2001-99-99", 2, "timestamp"),
        ('seed: 1\nwork: "\\U00110000"', 2, "not YAML"),
        ("seed: !!int abc", 1, "int"),
        ("seed: !!bool abc", 1, "bool"),
        ("seed: !!timestamp abc", 1, "timestamp"),
        ("seed: !!python/object/apply:os.system [ls]", 1, "could not determine a constructor"),
        ("seed: 1\n? [a]\n: 1", 2, "unhashable"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: [*a]}\nb: 2", 3, "already given in line 2"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused_at_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    """Alias bombs, recursion, nesting, huge integers and tags that build objects."""
    (path := tmp_path / "r.yaml").write_text(text)
    before = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert time.process_time() - before < 5
    assert caught.value.file == f"{path}:{line}"
    assert problem in caught.value.problem and "\n" not in str(caught.value)


def test_aliases_and_merge_keys_of_a_sound_recipe(tmp_path: Path) -> None:
    (path := tmp_path / "r.yaml").write_text(
        "corpus:\n- &one {path: a.jsonl, text: body}\n- {<<: *one, path: b.jsonl}\n"
        "budget: {tokens: 1_000, rank: random}\ntokenizer: {train: {vocab_size: 320}}\n"
    )
    assert [one.text for one in load_recipe(path).corpus] == ["body", "body"]


def test_a_recipe_of_100_mb_is_not_read(tmp_path: Path) -> None:
    (path := tmp_path / "r.yaml").write_text("seed: 1\n")
    os.truncate(path, 100 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match=r"at most 1,048,576 bytes, got more"):
            load_recipe(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_many_problems_of_a_recipe_are_not_all_listed(tmp_path: Path) -> None:
    text = "".join(f"k{number}: 1\n" for number in range(5_000))
    (path := tmp_path / "r.yaml").write_text(f"{text}seed: [{'1, ' * 5_000}]\n? {'x' * 9_000}\n: 1")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert 10 < len(str(caught.value).splitlines()) <= 21
    assert len(str(caught.value)) <= 4_000
