"""Rewriting: new documents out of old ones, by a language model or without one.

::

    base           the protocols: Rewriter (document to prompts, answers to documents), Completions,
                   and Editor (texts to texts, without a model)
    prompting      the base of the built-in rewriters; tokens, openers and refusals of a text
    rewire, wrap   whole documents rewritten; pieces rephrased in styles (REWIRE, WRAP)
    prox, program  documents kept or dropped, lines removed and normalised by programs (ProX)
    mask           placeholders for personal data and secrets, without a model
    c4_lines       the lines of prose that C4 keeps, without a model
    completions    answers from a server with OpenAI's API: Endpoint
    local          answers from a model in this process, by transformers: LocalModel
    batched        answers from a model on this machine's GPUs, by vLLM: VllmModel
"""

from penstock.selectors.rewriting.base import (
    Answer,
    Completions,
    Document,
    Editor,
    Request,
    Rewriter,
    Rewritten,
    Sampling,
    request_seed,
)
from penstock.selectors.rewriting.batched import VllmModel
from penstock.selectors.rewriting.completions import Endpoint
from penstock.selectors.rewriting.local import LocalModel
from penstock.selectors.rewriting.mask import Mask
from penstock.selectors.rewriting.prox import ProxChunk, ProxDocument
from penstock.selectors.rewriting.rewire import Rewire
from penstock.selectors.rewriting.wrap import Wrap

__all__ = [
    "Answer",
    "Completions",
    "Document",
    "Editor",
    "Endpoint",
    "LocalModel",
    "Mask",
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
