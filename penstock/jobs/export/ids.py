"""What a trainer has to know of exported token ids: ``tokens.json``, and lines of the card."""

from __future__ import annotations

from typing import Any

from penstock.jobs.curate import Curated
from penstock.tokenization.definition import Definition

__all__ = ["token_facts"]


def token_facts(curated: Curated, large: str) -> dict[str, Any]:
    """Return the content of ``tokens.json``.

    Args:
        curated: What is exported.
        large: The type of ids where the vocabulary has more than 65,536 entries.

    Returns:
        ``dtype`` of the ids, little-endian; ``vocab_size``; ``eos_token_id`` and ``eos_token``, the
        end of text, which stands before and after each document; ``sequence_length`` of the shards.

    Raises:
        ArtefactError: The tokenizer of the shards was changed.
    """
    facts = curated.shards.facts
    (record,) = curated.shards.named("tokenizer/tokenizer.json")
    definition = Definition.parse(curated.shards.verified(record).read_text(encoding="utf-8"))
    names = [name for name, index in definition.vocabulary.items() if index == facts["eos"]]
    return {
        "dtype": "uint16" if facts["vocab_size"] <= 2**16 else large,
        "byteorder": "little",
        "vocab_size": facts["vocab_size"],
        "eos_token_id": facts["eos"],
        "eos_token": names[0] if names else None,
        "sequence_length": facts["sequence_length"],
    }
