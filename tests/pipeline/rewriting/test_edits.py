"""Rewriters without a model: masks in place of the texts, accounted for; `by: none`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from penstock.artefact import Workspace
from penstock.errors import RecipeError, ScoringError, SelectorError, UnmadeError
from penstock.jobs.build import build_rewrites
from penstock.jobs.curate import curate
from penstock.jobs.why import fates_of
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import CorpusSettings, make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.rewriting import documents as rewriting
from penstock.pipeline.rewriting.documents import rewrite_corpus
from penstock.pipeline.rewriting.edits import Edit
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import Unit, iter_documents, units_of
from penstock.recipe_file import load_recipe, parse_recipe
from penstock.rules import Expression
from penstock.selectors.registry import available, build_rewriter
from penstock.selectors.rewriting import Mask, Rewire
from tests.pools import UNIT_BYTES, documents, recipe_of, write_jsonl

ONE = LocalRunner(1)
ALL = CleanSettings(exact=False)


class Editor:
    """Edits texts by a function over an array."""

    version = 1
    replaces = True

    def __init__(self, edit: Callable[[pa.Array], Any] | None = None) -> None:
        self.edit_with = edit

    def identity(self) -> Mapping[str, Any]:
        return {}

    def edit(self, texts: pa.Array) -> Any:
        assert texts.type == pa.large_string() and not texts.null_count
        return self.edit_with(texts) if self.edit_with else texts


class Adding(Editor):
    replaces = False


def edit(rewriter: Any, name: str = "mask", share: float = 1.0) -> Edit:
    return Edit(name=name, rewriter=rewriter, share=share, seed=3)


def written(directory: Path) -> list[dict[str, str]]:
    chance = random.Random(7)
    rows = documents(120, seed=4)
    for row in rows:
        if chance.random() < 0.4:
            row["text"] += f" by {row['id']}@example.org, 212-555-0{chance.randint(100, 999)}"
    write_jsonl(directory / "pool" / "a.jsonl", rows)
    return rows


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def corpus(tmp_path: Path, space: Workspace) -> Pool:
    written(tmp_path)
    made = make_corpus(CorpusSettings.of(recipe_of(tmp_path, 1000), UNIT_BYTES), space, ONE)
    return make_pool(ALL, made, space, ONE)


def rewritten(by: Edit, pool: Pool, space: Workspace) -> Pool:
    return make_pool(ALL, rewrite_corpus(by, pool, space, ONE), space, ONE)


def all_of(pool: Pool) -> list[dict[str, Any]]:
    columns = ("id", "text", "source", "meta", "parent")
    return [
        row for unit in pool.units for b in iter_documents(unit, columns) for row in b.to_pylist()
    ]


def test_masked_documents_stand_in_their_places(corpus: Pool, space: Workspace) -> None:
    made = rewritten(edit(Mask(kinds=["e_mail"])), corpus, space)
    before, after = all_of(corpus), all_of(made)
    assert len(corpus.units) > 1
    changed = 0
    for old, new in zip(before, after, strict=True):
        text = old["text"].replace(f"{old['id']}@example.org", "<EMAIL>")
        changed += text != old["text"]
        parent = old["id"] if text != old["text"] else old["parent"]
        assert new == {**old, "text": text, "parent": parent}
    assert 20 < changed < 80
    assert made.documents == corpus.documents
    assert made.corpus.facts["rewrites"] == {
        "mask": {
            "rewriter": "Mask",
            "documents": 120,
            "accepted": 120,
            "changed": changed,
            "requests": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "rejected": {},
        }
    }
    assert not (space.root / "answers").exists(), "no model, and no answers"
    again = rewritten(edit(Mask(kinds=["e_mail"])), corpus, space)
    assert again.corpus.path == made.corpus.path
    other = rewritten(edit(Mask()), corpus, space)
    assert other.corpus.path != made.corpus.path
    assert sum("<PHONE>" in row["text"] for row in all_of(other)) > 20


def test_a_text_of_which_nothing_is_left_is_dropped(corpus: Pool, space: Workspace) -> None:
    def without_wheels(texts: pa.Array) -> pa.Array:
        none = pa.scalar(None, pa.large_string())
        lone = pc.if_else(pc.match_substring(texts, "stone"), " \n", texts)
        return pc.if_else(pc.match_substring(texts, "wheel"), none, lone)

    made = rewritten(edit(Editor(without_wheels), "wheels"), corpus, space)
    gone = [row["id"] for row in all_of(corpus) if "wheel" in row["text"] or "stone" in row["text"]]
    assert 0 < len(gone) < 120
    assert made.documents == {
        **corpus.documents,
        "kept": 120 - len(gone),
        "dropped": len(gone),
        "dropped_by": {"wheels: blank": len(gone)},
    }
    names = [
        row["id"]
        for record in made.corpus.named("dropped-")
        for row in pq.read_table(made.corpus.verified(record)).to_pylist()
    ]
    assert names == gone


def test_a_share_is_drawn(corpus: Pool, space: Workspace) -> None:
    def shout(texts: pa.Array) -> pa.Array:
        return pc.utf8_upper(texts.cast(pa.string()))

    made = rewritten(edit(Editor(shout), share=0.3), corpus, space)
    drawn = [row["text"].isupper() for row in all_of(made)]
    assert 15 < sum(drawn) < 60
    assert made.corpus.facts["rewrites"]["mask"]["documents"] == sum(drawn)


@pytest.mark.parametrize(
    "wrong, got",
    [
        (lambda texts: texts[1:], "texts"),
        (lambda texts: texts.to_pylist(), "list"),
        (pc.utf8_length, "Int64Array"),
        (lambda texts: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_errors_of_a_users_editor_are_named(
    corpus: Pool, space: Workspace, wrong: Callable[[pa.Array], Any], got: str
) -> None:
    with pytest.raises(ScoringError) as error:
        rewritten(edit(Editor(wrong)), corpus, space)
    assert error.value.key == "rewrite.mask"
    named = "document d0" if got == "ZeroDivisionError" else "documents d0000 to d0"
    assert str(error.value.file).startswith(named)
    assert (f"{__name__}:Editor" in error.value.problem) == (got == "ZeroDivisionError")
    assert got in f"{error.value.problem} {error.value.got}"


RECIPE = """
work: work
corpus: [{path: pool}]
rewrite: {mask: {use: mask, by: none, kinds: [e_mail, phone]}}
tokenizer: {train: {vocab_size: 384}}
budget: {tokens: 2000, rank: random}
shards: {sequence_length: 16}
"""


def test_a_recipe_masks_without_a_model(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    curated = curate(recipe, ONE)
    facts = curated.summary()
    assert facts["rewrites"]["mask"]["changed"] > 20
    assert facts["tokens"]["delivered"] == 2000
    kept = [
        row for unit in curated.pool.units for b in iter_documents(unit) for row in b.to_pylist()
    ]
    assert not any("@example.org" in row["text"] or "212-555" in row["text"] for row in kept)
    masked = next(row["id"] for row in kept if "<EMAIL>, <PHONE>" in row["text"])
    assert fates_of(curated, masked)


def test_what_is_not_rewritten_yet_is_named(corpus: Pool, space: Workspace) -> None:
    with pytest.raises(UnmadeError) as error:
        rewrite_corpus(edit(Mask()), corpus, Workspace(space.root, read_only=True), ONE)
    assert error.value.problem == "corpus that mask rewrites: not made yet"
    assert error.value.fix == "run `penstock curate RECIPE`"


def test_masks_come_before_models(tmp_path: Path) -> None:
    by = {"url": "http://localhost:9/v1", "model": "m"}
    plain = {
        "corpus": [{"path": "a.jsonl"}],
        "budget": {"tokens": 9, "rank": "random"},
        "rewrite": {
            "first": {"use": "rewire", "by": by},
            "mask": {"use": "mask", "by": "none"},
            "last": {"use": "wrap", "by": by},
        },
    }
    built = build_rewrites(parse_recipe(plain, tmp_path))
    assert [one.name for one in built] == ["mask", "first", "last"]
    assert isinstance(built[0], Edit) and isinstance(built[1].rewriter, Rewire)


def test_what_a_rewriter_changed_or_emptied_has_its_place(tmp_path: Path) -> None:
    rows = documents(120, seed=4)
    path = write_jsonl(tmp_path / "pool" / "a.jsonl", rows)
    (tmp_path / "editor.py").write_text(EDITOR)
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace(
            "mask: {use: mask, by: none, kinds: [e_mail, phone]}",
            "e: {use: 'editor:Editor', by: none}",
        )
    )
    recipe = load_recipe(
        tmp_path / "recipe.yaml", ["clean.where=bytes > 40", "budget.allow_short=true"]
    )
    curated = curate(recipe, ONE)
    fates = Counter[str]()
    for line, row in enumerate(rows, 1):
        (fate,) = fates_of(curated, row["id"])
        assert (fate["file"], fate["line"], fate["source"]) == (str(path), line, row["source"])
        excluded, emptied = len(row["text"].encode()) <= 40, "stone" in row["text"]
        kind = "where" if excluded else "e: blank" if emptied else "kept"
        assert (fate["fate"] == "dropped") == (kind != "kept")
        if kind != "kept":
            assert fate["why"] == ("rule where" if excluded else "emptied by the rewriter e")
            assert fate["text"] == row["text"], "as it was before"
        else:
            assert fate["text"] == row["text"].replace("water", "WATER")
            kind = "changed" if "water" in row["text"] else kind
        fates[kind] += 1
    assert min(fates[kind] for kind in ("where", "e: blank", "kept", "changed")) > 2


EDITOR = """
import pyarrow.compute as pc


class Editor:
    version = 1
    replaces = True
    summary = "shouts"

    def identity(self):
        return {}

    def edit(self, texts):
        texts = pc.replace_substring(texts, "water", "WATER")
        return pc.if_else(pc.match_substring(texts, "stone"), "", texts)
"""


def test_a_unit_that_does_not_change_is_inherited(
    corpus: Pool, space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are links, and the same corpus is made without."""
    last = all_of(corpus)[-1]["text"]

    def shouting(texts: pa.Array) -> pa.Array:
        return pc.if_else(pc.equal(texts, last), pc.utf8_upper(texts.cast(pa.string())), texts)

    by = edit(Editor(shouting))
    made = rewrite_corpus(by, corpus, space, ONE)
    units = units_of(made)
    assert len(units) > 3
    same = [
        unit.path().stat().st_ino == before.path().stat().st_ino
        and unit.rows.sha256 == before.rows.sha256
        for unit, before in zip(units, corpus.units, strict=True)
    ]
    assert same == [True] * (len(units) - 1) + [False], "the last document alone is another"
    space.remove(made)

    def written_anew(unit: Unit, directory: Path, part: str) -> list[Any]:
        rows = ((fields, fields["text"]) for fields in rewriting._documents(unit))
        return rewriting._write(unit, directory, part.removesuffix("-000"), rows)

    monkeypatch.setattr(rewriting, "_inherit", written_anew)
    again = rewrite_corpus(by, corpus, space, ONE)
    assert again.digest == made.digest
    assert units_of(again)[0].path().stat().st_nlink == 1


def test_a_unit_of_which_the_pool_drops_a_document_is_not_inherited(
    corpus: Pool, space: Workspace
) -> None:
    where = CleanSettings(where=Expression.of("bytes > 200"), exact=False)
    pool = make_pool(where, corpus.corpus, space, ONE)
    made = rewrite_corpus(edit(Editor()), pool, space, ONE)
    kept = {unit.name: unit.documents == unit.of for unit in pool.units}
    assert not all(kept.values())
    assert sum(unit.of for unit in units_of(made)) == pool.kept < corpus.kept
    assert all_of(make_pool(where, made, space, ONE)) == all_of(pool)


MISTAKES = {
    "mask with a model": (
        {"use": "mask", "by": {"url": "http://a/v1", "model": "m"}},
        ("rewrite.r.by", "write `by: none`"),
    ),
    "rewire without one": ({"use": "rewire", "by": "none"}, ("rewrite.r.by", None)),
    "an unknown kind": (
        {"use": "mask", "by": "none", "kinds": ["e-mail"]},
        ("rewrite.r.kinds", "did you mean 'e_mail'?"),
    ),
    "no kind": ({"use": "mask", "by": "none", "kinds": []}, ("rewrite.r.kinds", None)),
    "an editor that adds": (
        {"use": "tests.pipeline.rewriting.test_edits:Adding", "by": "none"},
        ("rewrite.r.use", None),
    ),
}


@pytest.mark.parametrize("spec, expected", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_of_a_recipe(spec: dict[str, Any], expected: tuple[str, str | None]) -> None:
    pool = {"corpus": [{"path": "a.jsonl"}], "budget": {"tokens": 9, "rank": "random"}}
    recipe = parse_recipe({**pool, "rewrite": {"r": spec}}, Path())
    with pytest.raises(SelectorError) as error:
        build_rewriter("r", recipe.rewrite["r"])
    assert (error.value.key, error.value.fix) == expected


@pytest.mark.parametrize("by", ["nobody", None, 3])
def test_by_is_a_model_or_none(by: Any) -> None:
    pool = {"corpus": [{"path": "a.jsonl"}], "budget": {"tokens": 9, "rank": "random"}}
    with pytest.raises(RecipeError) as error:
        parse_recipe({**pool, "rewrite": {"r": {"use": "mask", "by": by}}}, Path())
    assert error.value.key == "rewrite.r.by"


def test_mask_is_listed() -> None:
    (own,) = [one for one in available() if one.name == "mask"]
    assert own.kind == "rewriter" and "kinds" in own.parameters
