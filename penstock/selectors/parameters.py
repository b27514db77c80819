"""Declared parameters: the fields of a selector, rewriter or reweighter are its recipe keys.

A built-in algorithm is a frozen pydantic model (:class:`Algorithm`). Its fields are the one source
for validation (:class:`~penstock.errors.SelectorError` with the parameter as key), for the identity
in fingerprints (:meth:`Algorithm.identity`), and for what ``penstock selectors NAME`` prints.
Fitted state is kept in private attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from penstock.errors import PenstockError, SelectorError, did_you_mean
from penstock.language_models.model_directory import check_model, check_sentence_model
from penstock.storage import sha256_unless_known

__all__ = [
    "Algorithm",
    "ClusterCount",
    "Declared",
    "EncoderModel",
    "File",
    "Located",
    "Location",
    "ModelName",
    "ModelNeeds",
    "ModelShape",
    "Natural",
    "OneOrMore",
    "Optional",
    "Options",
    "Positive",
    "Share",
    "Text",
    "Whole",
    "at_parameter",
    "fitted",
    "located_fields",
    "number",
    "one_of",
    "recipe_default",
    "whole",
]

T = TypeVar("T")

Whole = Annotated[int, Field(ge=1)]
"""An integer of at least 1."""

Natural = Annotated[int, Field(ge=0)]
"""An integer of at least 0."""

Positive = Annotated[float, Field(gt=0)]
"""A finite number above 0."""

Share = Annotated[float, Field(gt=0, lt=1)]
"""A number between 0 and 1, both excluded."""

Text = Annotated[str, Field(min_length=1)]
"""A text that is not empty."""


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


OneOrMore = Annotated[tuple[T, ...], BeforeValidator(_several), Field(min_length=1)]
"""One value, or a list of at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """What a model needs on the machine that loads it."""

    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The modules that are imported, by the extra that installs them."""
    fetched: str | None = None
    """Its name on the hub, if it is fetched from there: no directory of this machine has it."""
    fix: str = ""
    """What helps where the hub cannot be reached."""


@dataclass(frozen=True, slots=True)
class Located:
    """Marks a parameter as a path, relative to the recipe; ``hash`` gives its part in identity."""

    hash: Callable[[str], Any]
    needs: Callable[[str], ModelNeeds] | None = None
    """What a model of this name needs on the machine; None for what is no model."""


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise SelectorError(expected="an existing file", got=repr(path))
    return path


def _hash_file(path: str) -> str:
    return sha256_unless_known(Path(path))


def _hash_contents(name: str) -> Any:
    from penstock.selectors.encoders.embedding import contents_of  # it reads parameters itself

    return contents_of(name)


File = Annotated[str, AfterValidator(_existing), Located(_hash_file)]
"""An existing file; its sha256 is part of the identity."""

Location = Annotated[str, Field(min_length=1), Located(str)]
"""A path or a URI; the algorithm itself gives its part in the identity."""


def _encoder_needs(name: str) -> ModelNeeds:
    from penstock.selectors.encoders.embedding import encoder_needs  # it reads parameters itself

    return encoder_needs(name)


def _language_model_needs(name: str) -> ModelNeeds:
    from penstock.selectors.encoders.sentence import is_on_machine  # it reads parameters itself

    return ModelNeeds(
        modules={"encoders": ("torch", "transformers")},
        fetched=None if is_on_machine(name) else name,
        fix="give a local directory",
    )


def _sound_model(name: str) -> str:
    """Refuse a local directory whose model would not be loaded, before any work starts."""
    from penstock.selectors.encoders.embedding import EncoderName  # it reads parameters itself

    parts = EncoderName.of(name)
    root = Path(parts.base)
    if root.is_dir() and not (root / "encoder.json").is_file():  # a saved encoder has no model
        if parts.layer is None:
            check_sentence_model(root, key=None)
        else:
            check_model(root, key=None)
    return name


ModelName = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(_sound_model),
    Located(_hash_contents, _language_model_needs),
]
"""A language model's directory, which is checked and whose files' sha256 are part of the identity,
or its name on the hub."""

EncoderModel = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(_sound_model),
    Located(_hash_contents, _encoder_needs),
]
"""As :data:`ModelName`, of an encoder: a name of :mod:`penstock.selectors.encoders.embedding`."""


def _clusters(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value > 0):
        return value
    raise SelectorError(expected="auto or an integer of at least 1", got=repr(value))


ClusterCount = Annotated[int | str, PlainValidator(_clusters)]
"""A number of clusters, or ``auto``."""


def _model_shape(value: Any) -> tuple[int, int, int]:
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(type(one) is not int or one < 1 for one in value):
        raise SelectorError(expected="[layers, width, heads]", got=repr(value))
    if value[1] % (2 * value[2]):
        raise SelectorError(expected="a width divisible by twice the heads", got=repr(value))
    return (value[0], value[1], value[2])


ModelShape = Annotated[tuple[int, int, int], BeforeValidator(_model_shape)]
"""Layers, width and heads of a model that is trained."""


def recipe_default(value: Any, *, description: str) -> Any:
    """Declare a field with a default in a recipe's form, which validation converts."""
    return Field(default=value, description=description)


class Options(BaseModel):
    """A group of parameters that a recipe gives as ``true`` or as a mapping."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def _switch(value: Any) -> Any:
    return {} if value is True else None if value is False else value


Optional = Annotated[T | None, BeforeValidator(_switch)]
"""A group of parameters: ``true`` is its defaults, ``false`` is none."""


class Declared(Options):
    """An object that is made from keywords of a recipe.

    Raises:
        SelectorError: A keyword is unknown, missing or wrong; the key is the keyword.
    """

    imports: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Modules that the class itself imports when it works, by the extra that installs them; those
    of its models are added by :meth:`installation_needs`."""

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise _selector_error(error, type(self)) from None

    def installation_needs(self) -> Iterator[tuple[str, ModelNeeds]]:
        """Yield what must be installed or fetched, by parameter; ``use`` for the class itself."""
        if self.imports:
            yield "use", ModelNeeds(modules=self.imports)
        for key, mark in _marked_fields(type(self)):
            value = getattr(self, key)
            if mark.needs is not None and value is not None:
                for name in (value,) if isinstance(value, str) else value:
                    yield key, mark.needs(name)


class Algorithm(Declared):
    """A built-in selector, rewriter or reweighter; its parameters are its fields.

    A class gives its name, summary, paper, version and imports as keywords of its definition.
    """

    name: ClassVar[str]
    """The name in recipes."""
    summary: ClassVar[str]
    """One line for ``penstock selectors``."""
    meaning: ClassVar[str] = ""
    """What a score of a document means, for ``penstock why``; empty for what gives no scores."""
    paper: ClassVar[str]
    """The publication of the algorithm."""
    version: ClassVar[int]
    """Version, raised whenever the same inputs would give other results."""

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        summary: str | None = None,
        meaning: str | None = None,
        paper: str | None = None,
        version: int | None = None,
        imports: Mapping[str, Sequence[str]] | None = None,
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        about: dict[str, Any] = {
            "name": name,
            "summary": summary,
            "meaning": meaning,
            "paper": paper,
            "version": version,
            "imports": imports,
        }
        for key, value in about.items():
            if value is not None:
                setattr(cls, key, value)

    def describe_score(self, facts: Mapping[str, Any]) -> str:
        """Say what a score means with the present parameters; empty if the class does not say.

        Args:
            facts: Those of the fit; empty where they cannot be read any more.
        """
        return self.meaning

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Say why a document has no score.

        Args:
            text: The document's.
            known: Whether the encoder knew a token of it; None where that is not told.
        """
        return "its text has no word" if text.strip() else "its text is blank"

    def identity(self) -> Mapping[str, Any]:
        """Return name and parameters; files and models' directories as their hashes."""
        own = self.model_dump(mode="json")
        for key, hash_of in located_fields(type(self)).items():
            value = own[key]
            if value is not None:
                own[key] = (
                    [hash_of(one) for one in value] if type(value) is list else hash_of(value)
                )
        return {"algorithm": self.name, **own}


def located_fields(kind: type[BaseModel]) -> dict[str, Callable[[str], Any]]:
    """Return the parameters that are paths, with the function that hashes each."""
    return {key: mark.hash for key, mark in _marked_fields(kind)}


def _marked_fields(kind: type[BaseModel]) -> Iterator[tuple[str, Located]]:
    for key, declared in kind.model_fields.items():
        for mark in (*declared.metadata, *_marks(declared.annotation)):
            if isinstance(mark, Located):
                yield key, mark


def _marks(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield part
        yield from _marks(part)


def _selector_error(error: ValidationError, kind: type[BaseModel]) -> SelectorError:
    """Return the first problem that pydantic found, as an error with fields."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    names = [part for part in problem["loc"] if not isinstance(part, int)]
    key, context = ".".join(map(str, names)) or None, problem.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, PenstockError):
        return at_parameter(cause, key)
    if problem["type"] == "extra_forbidden":
        known = _known(kind, names[:-1])
        fix = did_you_mean(str(names[-1]), known).lstrip("; ") or "there are none"
        return SelectorError("unknown parameter", key=key, fix=fix)
    if problem["type"] == "missing":
        return SelectorError("missing; it is required", key=key)
    expected = _expected(problem["type"], context, problem["msg"])
    return SelectorError(key=key, expected=expected, got=repr(problem["input"]))


_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "too_short": "at least one value",
    "model_type": "true, false or a mapping",
    "model_attributes_type": "true, false or a mapping",
}


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    bounds = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
    for bound, words in bounds.items():
        if bound in context:
            return f"a number {words} {context[bound]:,.15g}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    return _EXPECTED.get(kind) or message.removeprefix("Input should be ")


def _known(kind: type[BaseModel], names: Sequence[Any]) -> list[str]:
    """Return the names of the parameters of a group."""
    for name in names:
        parts = [kind.model_fields[name].annotation, *_marks(kind.model_fields[name].annotation)]
        kind = next(part for part in parts if isinstance(part, type) and issubclass(part, Options))
    return list(kind.model_fields)


def at_parameter(error: PenstockError, key: str | None) -> SelectorError:
    """Return the same error as an error of a selector's parameter."""
    own = SelectorError(
        error.problem,
        key=error.key,
        file=error.file,
        expected=error.expected,
        got=error.got,
        fix=error.fix,
    )
    return own.under(key) if key else own


def fitted(state: T | None, name: str) -> T:
    """Return the state of a selector that scores.

    Raises:
        SelectorError: There is none, before its fit.
    """
    if state is None:
        raise SelectorError(
            key=name, expected="a fitted selector", got="none", fix="call fit or load first"
        )
    return state


# Checks of single values, for what is no field.


def one_of(key: str, value: Any, *known: str) -> str:
    """Check a choice among words."""
    if not isinstance(value, str) or value not in known:
        raise SelectorError(key=key, expected=" or ".join(known), got=repr(value))
    return value


def whole(key: str, value: Any, least: int = 1) -> int:
    """Check an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SelectorError(key=key, expected=f"an integer of at least {least}", got=repr(value))
    return value


def number(key: str | None, value: Any, below: float = float("inf")) -> float:
    """Check a number above 0 and below ``below``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < below:
        bounds = "a positive number" if below == float("inf") else f"a number in (0, {below})"
        raise SelectorError(key=key, expected=bounds, got=repr(value))
    return float(value)
