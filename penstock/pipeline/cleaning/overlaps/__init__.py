"""Overlaps: documents that hold a copy of an evaluation example, in whole or in part.

::

    overlaps.py     Overlaps: a text column for one evaluation file
    grams.py        Grams: the word n-grams of examples, indexed by hash
    comparison.py   Letters: the letters as which each character is compared
    words.py        compiled loops: words of a text, their letters and hashes
    kernels.py      compiled loops: n-grams, look-up, comparison with the text itself

Neither Ray nor storage.
"""
