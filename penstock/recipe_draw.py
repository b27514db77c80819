"""The models of ``budget.draw``: how documents are drawn by their scores."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from penstock.errors import RecipeError
from penstock.recipe_training import Fraction, Model, require

__all__ = ["DrawOf", "Gumbel", "Uniform", "check_draw"]

_EXAMPLES = {
    "uniform": "{uniform: {keep: 0.3}}, at random from the best 30 % of the text",
    "gumbel": "{gumbel: {temperature: 0.5}}, at random from all documents, high scores more often, "
    "and the more so the lower the temperature",
}


class Gumbel(Model):
    """A draw at random from all documents that have a score, in which high scores come more often.

    Each next document is drawn with a probability proportional to exp(score / temperature), by
    noise of that distribution, which Gumbel's name is for. A temperature near 0 is ``top``; one far
    above the differences of the scores takes all documents alike.
    """

    temperature: float = Field(gt=0)
    """In units of the scores; of a mixture, of its quantiles, which are between 0 and 1."""


class Uniform(Model):
    """Sampling without replacement from the best documents, all with the same probability."""

    keep: Fraction | None = None
    """Share of the text to draw from, by bytes of the documents that have a score: the best of each
    source with a share in ``budget.shares``, and of all others together."""
    above: float | None = None
    """Instead, the score above which documents are drawn from; of a single column."""

    @property
    def words(self) -> str:
        """The documents to draw from, in words."""
        if self.keep is not None:
            return f"the best {100 * self.keep:g} % of the text"
        return f"a score above {self.above:g}"

    @model_validator(mode="after")
    def _one_bound(self) -> Uniform:
        one = (self.keep is None) != (self.above is None)
        require(one, "expected one of keep and above", fix="{keep: 0.3} is the best 30 % of text")
        return self


class DrawOf(Model):
    """A draw with a parameter: ``gumbel: {temperature: 0.5}`` or ``uniform: {keep: 0.3}``."""

    gumbel: Gumbel | None = None
    uniform: Uniform | None = None

    @model_validator(mode="after")
    def _one_is_named(self) -> DrawOf:
        one = (self.gumbel is None) != (self.uniform is None)
        require(one, "expected one of gumbel and uniform, with its parameter")
        return self


def check_draw(draw: Any) -> Any:
    """Return a value of ``budget.draw`` as it is.

    Raises:
        RecipeError: It is a word, and not ``top``: a draw without its parameter, or no draw.
    """
    if not isinstance(draw, str) or draw == "top":
        return draw
    known = _EXAMPLES.get(draw, "; or ".join(["top, the highest scores", *_EXAMPLES.values()]))
    raise RecipeError(
        expected="top, or a draw with its parameter", got=repr(draw), fix=f"write draw: {known}"
    )
