"""Rewriting: new documents out of old ones, by a language model's hand.

:class:`Rewire`, :class:`Wrap`, :class:`ProxDocument` and :class:`ProxChunk` are pure rewriters
(:mod:`penstock.selectors.rewriting.base`); :class:`Endpoint`, :class:`VllmModel` and
:class:`LocalModel` answer what they ask.
"""

from penstock.selectors.rewriting.base import (
    Answer,
    Completions,
    Document,
    Request,
    Rewriter,
    Rewritten,
    Sampling,
    request_seed,
)
from penstock.selectors.rewriting.batched import VllmModel
from penstock.selectors.rewriting.completions import Endpoint
from penstock.selectors.rewriting.local import LocalModel
from penstock.selectors.rewriting.prox import ProxChunk, ProxDocument
from penstock.selectors.rewriting.rewire import Rewire
from penstock.selectors.rewriting.wrap import Wrap

__all__ = [
    "Answer",
    "Completions",
    "Document",
    "Endpoint",
    "LocalModel",
    "ProxChunk",
    "ProxDocument",
    "Request",
    "Rewire",
    "Rewriter",
    "Rewritten",
    "Sampling",
    "VllmModel",
    "Wrap",
    "request_seed",
]
