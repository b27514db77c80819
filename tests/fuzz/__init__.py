"""Hostile inputs by the thousand, each in a process with limits.

::

    __main__.py    python -m tests.fuzz --seconds 120: targets in turn, a summary, exit status 1
    child.py       one target's cases in a process with limits; what it found is saved for replay
    mutation.py    flipped bytes, truncation, splices, false lengths, tokens of formats
    seeds.py       small sound files of each format, which are generated
    readers.py     targets: files of each input format, target files
    values.py      targets: texts, expressions, recipes, answers of a server, manifests, journals
    models.py      targets: tokenizers, models, weights, saved classifiers

A target is a function of bytes. It may raise PenstockError and nothing else, takes at most
``LIMIT_SECONDS`` and ``LIMIT_BYTES`` (child.py), and asserts what it can count. Case ``n`` of a
target is a function of (seed, target, n).
"""

__all__: list[str] = []
