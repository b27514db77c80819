"""The examples of ``evaluate`` files, which nothing that is fitted may see.

Two examples are equal if their texts (:func:`penstock.selectors.targets.render`) have the same
letters, digits and symbols, in any case and form of Unicode, with any space and punctuation between
words and invisible characters anywhere. So a copy of an evaluation file is found under any name,
compressed or in another order, and so is one example among others. A question with another answer
is another example: benchmarks repeat short questions.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

from penstock.display import encodable
from penstock.errors import InputError, RecipeError
from penstock.node_cache import local_file
from penstock.rules.characters import invisible
from penstock.selectors.targets import rendered_in
from penstock.storage import AnyPath, real_path

__all__ = ["EvaluationExamples", "distinct_evaluations", "evaluation_name"]


def evaluation_name(file: AnyPath) -> str:
    """Return the name of an evaluation file in results: that of the file, up to ``.jsonl``."""
    return encodable(file.name).partition(".jsonl")[0]


def distinct_evaluations(files: Iterable[AnyPath]) -> list[AnyPath]:
    """Return evaluation files without repeats.

    Raises:
        RecipeError: Two files have one name, by which results are named.
    """
    found: dict[str, AnyPath] = {}
    for file in files:
        first = found.setdefault(evaluation_name(file), file)
        if real_path(first) != real_path(file):
            raise RecipeError(
                f"{first} has the same name, and results are by name",
                key="evaluate",
                file=file,
                expected="files of different names",
                got=f"{evaluation_name(file)} twice",
                fix="rename one, or name one only",
            )
    return list(found.values())


class EvaluationExamples:
    """Find examples of evaluation files in other files.

    Args:
        files: The evaluation files.

    Raises:
        InputError: A line of one is not an example.
    """

    def __init__(self, files: Iterable[AnyPath]) -> None:
        self._places: dict[bytes, str] = {}
        for file in files:
            local = local_file(file)
            try:
                for place, text in rendered_in(local):
                    self._places.setdefault(_key(text), place.replace(str(local), str(file), 1))
            except InputError as error:
                raise error.under("evaluate") from None

    def __bool__(self) -> bool:
        return bool(self._places)

    def refuse(self, texts: Sequence[str], key: str, file: AnyPath) -> None:
        """Refuse a file that is read for a fit if one of its examples is in an evaluation file.

        Args:
            texts: Its examples, in file order.
            key: The recipe key that names it.
            file: The file.

        Raises:
            RecipeError: One is; the message names the first.
        """
        found = [(at, place) for at, text in enumerate(texts, 1) if (place := self._place(text))]
        if found:
            at, place = found[0]
            raise RecipeError(
                f"example {at:,} is also under evaluate, {place}, as are {len(found):,} of its "
                f"{len(texts):,}; a selector must not see the evaluation",
                key=key,
                file=file,
                fix="remove them from one of the two files",
            )

    def _place(self, text: str) -> str | None:
        return self._places.get(_key(text))


def _key(text: str) -> bytes:
    """Return a hash of a text as it is compared."""
    seen = text.translate(invisible())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    marked = "".join(c if unicodedata.category(c)[0] in "LMNS" else " " for c in folded)
    compared = " ".join(marked.split()) or seen.strip()
    return hashlib.blake2b(compared.encode(), digest_size=16).digest()
