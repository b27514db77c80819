"""Expressions of ``clean.where``: one line of text to one truth value for each document.

::

    text ─ Expression.of ─► Node ─ Expression.planned ─► typed nodes ─ evaluate ─► BooleanArray
             expression.py   parsing.py      typing.py                  computing.py
                             nodes.py                                   meta.py   fields of `meta`

The language is a part of Python's, read by ``ast`` and never by ``eval``; the computation is
``pyarrow.compute``'s. :class:`~penstock.rules.expressions.expression.Expression` documents it.
"""

from penstock.rules.expressions.expression import Expression, Planned
from penstock.rules.expressions.meta import MetaField, meta_columns

__all__ = ["Expression", "MetaField", "Planned", "meta_columns"]
