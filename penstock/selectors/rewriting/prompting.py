"""The base of the built-in rewriters: a token counter, sampling, and prompts as identity."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from penstock.selectors.parameters import Algorithm
from penstock.selectors.rewriting.base import Sampling
from penstock.selectors.rewriting.counting import TokenCounter, TokenizerPath

__all__ = ["PromptRewriter"]


class PromptRewriter(Algorithm):
    """A rewriter whose texts depend on its parameters, its tokenizer and its prompts."""

    replaces: ClassVar[bool] = False

    tokenizer: TokenizerPath | None = Field(
        default=None,
        description="The model's own ``tokenizer.json``, for exact limits; tokens are guessed "
        "without.",
    )

    _counter: TokenCounter = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._counter = TokenCounter(self.tokenizer)

    @property
    @abstractmethod
    def sampling(self) -> Sampling:
        """Sampling of answers."""

    @property
    @abstractmethod
    def prompts(self) -> Sequence[str]:
        """All text of requests besides the documents."""

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, the tokenizer's sha256 and the prompts'."""
        prompts = hashlib.sha256(json.dumps(list(self.prompts)).encode()).hexdigest()
        return {**super().identity(), "prompts": prompts}
