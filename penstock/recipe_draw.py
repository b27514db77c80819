"""The models of ``budget.draw``: how documents are drawn by their scores."""

from __future__ import annotations

from pydantic import Field, model_validator

from penstock.recipe_training import Fraction, Model, require

__all__ = ["DrawOf", "Gumbel", "Uniform"]


class Gumbel(Model):
    """Sampling without replacement with probabilities proportional to exp(score/temperature)."""

    temperature: float = Field(gt=0)


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
