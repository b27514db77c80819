"""Penstock: decide which documents a language model is trained on, and prove that it paid."""

__version__ = "0.1.0"
