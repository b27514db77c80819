"""The table of all keys in docs/recipe.md, made of the models of recipes."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from penstock.recipe import ModelShape, Recipe

__all__ = ["BEGIN", "END", "key_table", "keys"]

BEGIN, END = "<!-- keys: written by tests/test_recipe_table.py -->", "<!-- end of keys -->"

_HIDDEN = {"directory"}
"""Fields of models that are no keys of a recipe."""

_MEANINGS = {
    "seed": "The seed of every draw: the same seed gives the same bytes.",
    "work": "Directory of the artefacts, or a URI of a store.",
    "corpus": "The pool: items with a `path`, or one item.",
    "corpus.N.text": "The column of the text.",
    "corpus.N.source.name": "The source of all documents of these files.",
    "select": "Selectors by a name of yours, each a column of scores.",
    "select.NAME.target": "Files of examples of what the model should become good at; beside it "
    "stand the selector's own parameters (`penstock selectors NAME`).",
    "tokenizer": "A file, a directory or a hub name; or `{train: {...}}`.",
    "tokenizer.train.vocab_size": "Tokens of the vocabulary, at least 320.",
    "evaluate": "Files of held-out examples, or patterns.",
    "train.model.layers": "Transformer layers.",
    "train.model.width": "Width of the hidden states, divisible by twice the heads.",
    "train.model.heads": "Attention heads.",
    "train.model.mlp_ratio": "Width of the MLP over `width`.",
    "train.mixture.N.weights": "Shares by source, of any sum above 0.",
    "train.lr": "The highest learning rate.",
    "train.min_lr": "The learning rate at the end.",
    "train.betas": "Of AdamW.",
    "train.weight_decay": "Of AdamW and of Muon.",
    "train.clip": "The largest norm of a gradient.",
    "train.workers": "Processes that train together.",
    "train.checkpoint": "When a run is saved; `false`: never.",
    "train.checkpoint.minutes": "Minutes between two checkpoints.",
    "train.checkpoint.tokens": "Tokens between two checkpoints.",
    "clean.dedup.minhash.keep.highest": "The column whose highest value stays.",
    "clean.dedup.minhash.keep.lowest": "The column whose lowest value stays.",
    "train.model": "A Llama-shaped model trained from scratch, or `{hf: NAME}`.",
    "train.model.hf": "A causal language model to continue from: a directory or a hub name. It "
    "stands alone.",
    "train.schedule.uba": "A schedule between cosine and constant.",
    "compare.rungs.N.model": "The model of this size.",
    **{
        f"compare.rungs.N.model.{name}": f"As `train.model.{name}`."
        for name in ModelShape.model_fields
    },
}
"""Meanings of keys whose models have no text."""


def key_table() -> str:
    """Return the table in Markdown: key, values, default, meaning."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(Recipe, "")]
    return "\n".join(lines)


def keys() -> list[str]:
    """Return all dotted keys; ``N`` is an item of a list, ``NAME`` an entry of a mapping."""
    return [row[0].strip("`") for row in _rows(Recipe, "")]


def _rows(model: type[BaseModel], above: str) -> Iterator[tuple[str, ...]]:
    texts = _texts(model)
    for name, own in model.model_fields.items():
        if not above and name in _HIDDEN:
            continue
        key = f"{above}{name}"
        below = _models(own.annotation)
        meaning = _MEANINGS.get(key) or texts.get(name) or _summary(below)
        default = "required" if own.is_required() else _default(own.get_default())
        values = _words(own.annotation).replace("|", "\\|")
        yield f"`{key}`", values, default, meaning.replace("|", "\\|")
        for one, inside in below:
            yield from _rows(one, f"{key}{inside}.")


def _summary(below: list[tuple[type[BaseModel], str]]) -> str:
    return inspect.getdoc(below[0][0]).split("\n\n")[0].replace("``", "`") if below else ""


def _texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the texts below the fields of a model and of those that it extends."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                plain = re.sub(r" \(:func:[^)]*\)", "", " ".join(str(text.value.value).split()))
                found[field.target.id] = plain.replace("``", "`")
    return found


def _models(annotation: Any, inside: str = "") -> list[tuple[type[BaseModel], str]]:
    """Return the models that a key holds, each with what stands between the key and its keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, inside)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0], inside)
    more = ".NAME" if origin is dict else ".N" if origin is tuple else ""
    return [one for part in get_args(annotation) for one in _models(part, inside + more)]


_PLAIN = {
    bool: "`true`, `false`",
    int: "integer",
    float: "number",
    str: "text",
    NoneType: "",
    Any: "any",
}


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return ", ".join(f"`{str(one).lower() if one is False else one}`" for one in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(_words, parts))))
    if origin is tuple:
        return f"list of {_words(parts[0])}"
    return "mapping"


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    if isinstance(value, int):
        return f"`{value:_}`"
    if isinstance(value, (tuple, dict)):
        plain = list(value) if isinstance(value, tuple) else value
        flow = yaml.safe_dump(plain, default_flow_style=True, width=1000).strip()
        return f"`{flow}`" if value else "none"
    return f"`{value}`"
