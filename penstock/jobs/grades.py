"""The answers of a language model about one document: what was asked, and what it answered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.columnar import OwnParquet
from penstock.selectors.base import AnswerScores
from penstock.selectors.rewriting.base import Document, Request

__all__ = ["describe_grade", "read_grade"]

_FEWEST = 16
"""Characters of a document's beginning by which it is found in a request."""

_SHOWN = 160
"""Characters of a request and of an answer that are printed."""


def read_grade(
    asked: AnswerScores, answers: Artefact, fate: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield ``model`` and ``asked`` of a document that a language model was asked about.

    Args:
        asked: The requests and the model, of the selector's requirements.
        answers: The artefact of the answers.
        fate: An entry as of :func:`penstock.jobs.why.fates_of`, of a document that was kept.

    Yields:
        ``model``, the model's name, where it has one; ``asked``, a list with an entry for each
        request: ``question``, in which ``{text}`` stands for the document's text, ``answer``,
        ``finish`` and ``error`` as the server gave them, and ``probabilities`` by choice.

    Raises:
        ArtefactError: The file of the answers was changed.
    """
    model = asked.completions.identity().get("model")
    if isinstance(model, str):
        yield "model", model
    document = Document(id=fate["id"], text=fate["text"])
    requests = asked.prompter.requests(document)
    found = [
        {
            "question": _without(request.user, document.text),
            "answer": answer["text"],
            "finish": answer["finish"],
            "error": answer["error"],
            "probabilities": _by_choice(request, answer),
        }
        for request, answer in zip(requests, _answers(answers, fate["unit"], fate["row"]))
    ]
    yield "asked", found


def describe_grade(reasons: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each request of a document's ``reasons``, and one for its answer."""
    of = f" of {reasons['model']}" if "model" in reasons else ""
    for one in reasons["asked"]:
        yield f"asked{of}: {_line(one['question'])}"
        end = "" if one["finish"] == "stop" else f" (ended by {one['finish']})"
        likely = ", ".join(f"{name} {own:.3g}" for name, own in one["probabilities"].items())
        likely = likely and f"; probabilities {likely}"
        yield (
            f"no answer: {one['error']}"
            if one["error"]
            else (f"answered: {_line(one['answer'])}{end}{likely}")
        )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} …"


def _by_choice(request: Request, answer: Mapping[str, Any]) -> dict[str, float]:
    return dict(zip(request.choices, answer["probabilities"] or ()))


def _answers(answers: Artefact, unit: str, row: int) -> list[dict[str, Any]]:
    """Read the answers about the document of a row of the corpus's unit, in order."""
    (record,) = (
        one for one in answers.files if one.path.removeprefix("answers-").rpartition("-")[0] == unit
    )
    found: list[dict[str, Any]] = []
    with OwnParquet(record.verified(answers.path)) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["row"]).column("row").to_numpy()
            if len(mine := np.flatnonzero(rows == row)):
                found += file.read_row_group(group).take(pa.array(mine)).to_pylist()
    return [{"probabilities": None, **one} for one in found]


def _without(request: str, text: str) -> str:
    """Replace the document's text in a request, or its beginning, by ``{text}``."""
    head = text[:_FEWEST]
    start = request.find(head) if head.strip() else -1
    if start < 0:
        return request
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(request[start:], text))
    end = start + sum(1 for _ in same)
    return f"{request[:start]}{{text}}{request[end:]}"
