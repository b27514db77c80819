"""Masking: placeholders in the place of personal data and secrets, without a model."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import AfterValidator, Field

from penstock.personal_data import KINDS, mask
from penstock.personal_data.kinds import check_kinds
from penstock.selectors.parameters import Algorithm, OneOrMore

__all__ = ["Mask"]


def _check(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return check_kinds(kinds, key=None)


class Mask(
    Algorithm,
    name="mask",
    summary="placeholders for e-mail addresses, telephone numbers, keys and the like; by: none",
    paper="",
    version=1,
):
    """Puts a placeholder, such as ``<EMAIL>``, in the place of each item of personal data.

    :data:`penstock.personal_data.KINDS` defines the kinds. It needs no model: ``by: none``.
    """

    replaces: ClassVar[bool] = True

    kinds: Annotated[OneOrMore[str], AfterValidator(_check)] = Field(
        default=tuple(KINDS),
        description="What is masked: some of " + ", ".join(f"``{kind}``" for kind in KINDS) + ".",
    )

    def edit(self, texts: pa.Array) -> pa.Array:
        """Mask each text."""
        return mask(texts, self.kinds)
