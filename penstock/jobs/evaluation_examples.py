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

from penstock.display import encodable, numbered
from penstock.errors import InputError, RecipeError
from penstock.node_cache import local_file
from penstock.rules.characters import invisible
from penstock.selectors.targets import rendered_in
from penstock.storage import AnyPath, real_path

__all__ = ["EvaluationExamples", "distinct_evaluations", "evaluation_names"]


def evaluation_names(files: Sequence[AnyPath]) -> list[str]:
    """Return the names of evaluation files in results: that of each file, up to ``.jsonl``.

    Files of one name get as many of their directories as make all of these differ: ``arc/test`` and
    ``piqa/test``. So names do not depend on where a folder of benchmarks is, nor on the order.
    Where all directories are not enough (``test.jsonl`` and ``test.jsonl.gz``), names are equal.
    """
    parts = [[part for part in encodable(str(file)).split("/") if part] for file in files]
    names = [own[-1].partition(".jsonl")[0] for own in parts]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [at for at, one in enumerate(names) if one == name]
        for depth in range(1, 1 + max(len(parts[at]) for at in alike)):
            longer = ["/".join([*parts[at][-1 - depth : -1], name]) for at in alike]
            if len(set(longer)) == len(longer):
                for at, one in zip(alike, longer):
                    names[at] = one
                break
    return names


def distinct_evaluations(files: Iterable[AnyPath]) -> list[AnyPath]:
    """Return evaluation files without repeats.

    Raises:
        RecipeError: Two files have one name, by which results are named.
    """
    found: dict[str, AnyPath] = {}
    for file in files:
        found.setdefault(real_path(file), file)
    distinct = list(found.values())
    first: dict[str, AnyPath] = {}
    for name, file in zip(evaluation_names(distinct), distinct):
        if first.setdefault(name, file) != file:
            raise RecipeError(
                f"{first[name]} has the same name, and results are by name",
                key="evaluate",
                file=file,
                expected="files of different names",
                got=f"{name} twice",
                fix="name one only, or rename one or make a link of another name to it",
            )
    return distinct


_SHOWN = 10
"""Numbers of examples in an error."""


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
            RecipeError: One is; the message gives the numbers of the first ten.
        """
        found = [(at, place) for at, text in enumerate(texts, 1) if (place := self._place(text))]
        if found:
            shown = ", ".join(f"{at:,}" for at, _ in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
            first = "the first is " if len(found) > 1 else ""
            raise RecipeError(
                f"{len(found):,} of its {numbered(len(texts), 'example')} "
                f"{'is' if len(found) == 1 else 'are'} also under evaluate: {shown}{more} "
                f"({first}{found[0][1]}); a selector must not see the evaluation",
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
